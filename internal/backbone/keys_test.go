package backbone_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/athena-hub/athena/internal/backbone"
)

func TestAKeyIsCreatedOnceAndChangedByWhoeverKnowsItsRevision(t *testing.T) {
	b, ctx := open(t, backbone.Options{}), t.Context()
	if value, revision, err := b.ReadKey(ctx, "k"); value != nil || revision != 0 || err != nil {
		t.Errorf("before: %q, %d, %v", value, revision, err)
	}
	first, created, err := b.CreateKey(ctx, "k", []byte("one"))
	if !created || first == 0 || err != nil {
		t.Fatalf("create: %d, %v, %v", first, created, err)
	}
	if _, created, err := b.CreateKey(ctx, "k", []byte("two")); created || err != nil {
		t.Errorf("create again: %v, %v", created, err)
	}
	next, updated, err := b.UpdateKey(ctx, "k", []byte("three"), first)
	if !updated || next <= first || err != nil {
		t.Fatalf("update: %d, %v, %v", next, updated, err)
	}
	if _, updated, err := b.UpdateKey(ctx, "k", []byte("four"), first); updated || err != nil {
		t.Errorf("update of what was replaced: %v, %v", updated, err)
	}
	if err := b.DeleteKey(ctx, "k", first); err != nil {
		t.Errorf("delete of what was replaced: %v", err)
	}
	if value, revision, err := b.ReadKey(ctx, "k"); string(value) != "three" || revision != next || err != nil {
		t.Errorf("read: %q, %d, %v", value, revision, err)
	}
	if err := b.DeleteKey(ctx, "k", next); err != nil {
		t.Fatal(err)
	}
	if value, revision, err := b.ReadKey(ctx, "k"); value != nil || revision != 0 || err != nil {
		t.Errorf("after its end: %q, %d, %v", value, revision, err)
	}
	if _, updated, err := b.UpdateKey(ctx, "k", []byte("five"), next); updated || err != nil {
		t.Errorf("update of what was deleted: %v, %v", updated, err)
	}
	if _, created, err := b.CreateKey(ctx, "k", []byte("six")); !created || err != nil {
		t.Errorf("create after its end: %v, %v", created, err)
	}

	if _, _, err := b.CreateKey(ctx, "k2", make([]byte, backbone.MaxKeyBytes+1)); !errors.Is(err, backbone.ErrTooLarge) {
		t.Errorf("a record too large: %v", err)
	}
	if _, created, err := b.CreateKey(ctx, "k3", make([]byte, backbone.MaxKeyBytes)); !created || err != nil {
		t.Errorf("the largest record: %v, %v", created, err)
	}
	if _, _, err := b.ReadKey(ctx, "k.>"); !errors.Is(err, backbone.ErrInvalid) {
		t.Errorf("a key that is no token: %v", err)
	}
}

func TestOfManyWhoCreateOrUpdateAKeyAtOnceOneDoes(t *testing.T) {
	b, ctx := open(t, backbone.Options{}), t.Context()
	var revision atomic.Uint64
	race := func(try func(value []byte) (uint64, bool, error)) {
		t.Helper()
		var wins atomic.Int32
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				got, won, err := try(fmt.Append(nil, i))
				if err != nil {
					t.Error(err)
				}
				if won {
					wins.Add(1)
					revision.Store(got)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Errorf("%d of 20 have won", wins.Load())
		}
	}
	race(func(value []byte) (uint64, bool, error) { return b.CreateKey(ctx, "k", value) })
	old := revision.Load()
	race(func(value []byte) (uint64, bool, error) { return b.UpdateKey(ctx, "k", value, old) })
}

func TestKeysOutliveTheProcess(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	b := open(t, backbone.Options{DataDir: dir})
	revision, _, err := b.CreateKey(ctx, "k", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, backbone.Options{DataDir: dir})
	if value, got, err := b.ReadKey(ctx, "k"); string(value) != "one" || got != revision || err != nil {
		t.Errorf("after a restart: %q, %d, %v; want revision %d", value, got, err, revision)
	}
	if _, created, err := b.CreateKey(ctx, "k", []byte("two")); created || err != nil {
		t.Errorf("created again: %v, %v", created, err)
	}
}

// BenchmarkCreateAndUpdateKey is what an Idempotency-Key costs a request.
func BenchmarkCreateAndUpdateKey(b *testing.B) {
	bb := open(b, backbone.Options{})
	n := 0
	for b.Loop() {
		key := fmt.Sprint(n)
		n++
		revision, created, err := bb.CreateKey(b.Context(), key, make([]byte, 120))
		if !created || err != nil {
			b.Fatal(created, err)
		}
		if _, updated, err := bb.UpdateKey(b.Context(), key, make([]byte, 140), revision); !updated || err != nil {
			b.Fatal(updated, err)
		}
	}
}
