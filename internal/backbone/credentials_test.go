package backbone_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
)

func TestCredentialsAreReadByWhatHasChanged(t *testing.T) {
	b, ctx := open(t, backbone.Options{}), t.Context()
	c := b.Credentials(nobody)
	type change struct {
		id, record string
		revision   uint64
	}
	changes := func(after uint64) (all []change) {
		t.Helper()
		err := c.Changes(ctx, after, func(id string, record []byte, revision uint64) {
			all = append(all, change{id, string(record), revision})
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if all := changes(0); len(all) != 0 {
		t.Errorf("before: %v", all)
	}
	// More than are read at once.
	const many = 1100
	var newest uint64
	for i := range many {
		revision, created, err := c.Create(ctx, fmt.Sprintf("k%d", i), []byte("one"), 0)
		if err != nil || !created || revision <= newest {
			t.Fatalf("create: %d, %v, %v", revision, created, err)
		}
		newest = revision
	}
	all := changes(0)
	if len(all) != many || all[0] != (change{"k0", "one", all[0].revision}) || all[many-1].revision != newest {
		t.Fatalf("%d changes", len(all))
	}
	if _, created, err := c.Create(ctx, "k0", []byte("two"), 0); created || err != nil {
		t.Errorf("create again: %v, %v", created, err)
	}
	next, replaced, err := c.Replace(ctx, "k0", []byte("two"), all[0].revision)
	if !replaced || next <= newest || err != nil {
		t.Fatalf("replace: %d, %v, %v", next, replaced, err)
	}
	if _, replaced, err := c.Replace(ctx, "k0", []byte("three"), all[0].revision); replaced || err != nil {
		t.Errorf("replace what was replaced: %v, %v", replaced, err)
	}
	if record, revision, err := c.Read(ctx, "k0"); string(record) != "two" || revision != next || err != nil {
		t.Errorf("read: %q, %d, %v", record, revision, err)
	}
	if got := changes(newest); len(got) != 1 || got[0] != (change{"k0", "two", next}) {
		t.Errorf("what has changed since: %v", got)
	}
	if got := changes(next); len(got) != 0 {
		t.Errorf("after all: %v", got)
	}
	if err := c.Remove(ctx, "k1", all[1].revision); err != nil {
		t.Fatal(err)
	}
	if record, revision, err := c.Read(ctx, "k1"); record != nil || revision != 0 || err != nil {
		t.Errorf("after its removal: %q, %d, %v", record, revision, err)
	}
	if got := changes(0); len(got) != many-1 {
		t.Errorf("%d changes after a removal, want %d", len(got), many-1)
	}
	if _, _, err := c.Create(ctx, "k", make([]byte, backbone.MaxCredentialBytes+1), 0); !errors.Is(err, backbone.ErrTooLarge) {
		t.Errorf("a record too large: %v", err)
	}
	if _, created, err := c.Create(ctx, "large", bytes.Repeat([]byte("x"), backbone.MaxCredentialBytes), 0); !created || err != nil {
		t.Errorf("the largest record: %v, %v", created, err)
	}
	if _, _, err := c.Read(ctx, "k.>"); !errors.Is(err, backbone.ErrInvalid) {
		t.Errorf("an id that is no token: %v", err)
	}
}

func TestACredentialIsForgottenWhenItsTimeIsOver(t *testing.T) {
	b := open(t, backbone.Options{})
	c := b.Credentials(nobody)
	if _, created, err := c.Create(t.Context(), "k", []byte("one"), time.Second); !created || err != nil {
		t.Fatal(created, err)
	}
	if _, created, err := c.Create(t.Context(), "k", []byte("two"), time.Second); created || err != nil {
		t.Errorf("create again: %v, %v", created, err)
	}
	eventually(t, "the end of the record", func() bool {
		_, revision, err := c.Read(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		return revision == 0
	})
}

func TestWhatIsSaidOfCredentialsIsHeard(t *testing.T) {
	c := open(t, backbone.Options{}).Credentials(nobody)
	heard := make(chan string, 1)
	stop, err := c.Follow(func(data []byte) { heard <- string(data) })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := c.Announce([]byte("news")); err != nil {
		t.Fatal(err)
	}
	select { // without waiting: it returns when all have heard
	case got := <-heard:
		if got != "news" {
			t.Errorf("heard %q", got)
		}
	default:
		t.Error("nobody has heard it")
	}
}

// nobody is how many other nodes there are.
func nobody() int { return 0 }
