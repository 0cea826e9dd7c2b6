package cache_test

import (
	"context"
	"errors"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/cache"
)

// A mark is what several nodes store. Announcements reach those who are listed.
type mark struct {
	mu    sync.Mutex
	value []byte
	err   error
	nodes []*cache.Generation
}

func (m *mark) Read(context.Context) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value, m.err
}

func (m *mark) Set(_ context.Context, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.value = value
	}
	return m.err
}

func (m *mark) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *mark) Announce() error {
	for _, g := range m.nodes {
		g.Announced()
	}
	return nil
}

func TestAGenerationIsAnotherOneOnAllNodesAfterItWasRaised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m := new(mark)
		var changes atomic.Int32
		node := func() *cache.Generation {
			return cache.NewGeneration(ctx, cache.GenerationOptions{Mark: m, Made: "v1", Changed: func() { changes.Add(1) }})
		}
		a, b, deaf := node(), node(), node()
		m.nodes = []*cache.Generation{a, b}
		for _, g := range []*cache.Generation{a, b, deaf} {
			go g.Run(ctx)
		}
		synctest.Wait()
		first := a.Name()
		if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(first) || b.Name() != first || changes.Swap(0) != 3 {
			t.Errorf("the first are %q and %q", first, b.Name())
		}
		second, err := a.Raise(ctx)
		if err != nil || second == first || a.Name() != second {
			t.Errorf("raised from %q to %q, %v; it is %q", first, second, err, a.Name())
		}
		synctest.Wait()
		if b.Name() != second || deaf.Name() != first || changes.Load() != 2 {
			t.Errorf("the others have %q and %q after %d changes, want %q and as yet %q", b.Name(), deaf.Name(), changes.Load(), second, first)
		}
		time.Sleep(16 * time.Second)
		if deaf.Name() != second || changes.Load() != 3 {
			t.Errorf("who missed the announcement has %q, want %q; %d changes", deaf.Name(), second, changes.Load())
		}
		again := node()
		if again.Name() != second {
			t.Errorf("a node that starts later has %q, want %q", again.Name(), second)
		}
		third, err := a.Raise(ctx) // while it doesn't hear announcements yet
		if err != nil || third == second || third == first {
			t.Errorf("the third is %q, %v", third, err)
		}
		go again.Run(ctx)
		synctest.Wait()
		if again.Name() != third {
			t.Errorf("a node that begins to follow has %q, want %q", again.Name(), third)
		}
		other := cache.NewGeneration(ctx, cache.GenerationOptions{Mark: m, Made: "v2"})
		if other.Name() == third {
			t.Error("answers that are made of something else have the same generation")
		}
	})
}

func TestAGenerationIsKnownOnceTheStoreCanBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		down := errors.New("down")
		m := &mark{err: down}
		var changes atomic.Int32
		g := cache.NewGeneration(ctx, cache.GenerationOptions{Mark: m, Changed: func() { changes.Add(1) }})
		go g.Run(ctx)
		if _, err := g.Raise(ctx); !errors.Is(err, down) || g.Name() != "" {
			t.Errorf("raised without a store: %v, %q", err, g.Name())
		}
		m.fail(nil)
		time.Sleep(16 * time.Second)
		name := g.Name()
		if name == "" || changes.Load() != 1 {
			t.Errorf("it is %q after %d changes", name, changes.Load())
		}
		m.fail(down)
		time.Sleep(16 * time.Second)
		if g.Name() != name {
			t.Errorf("without the store it has become %q", g.Name())
		}
	})
}

func TestNothingThatWasAskedForBeforeACacheWasClearedIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := cache.NewMemory(cache.Options{})
		running := answer("asked for before")
		running.Began = time.Now()
		m.Put(key(1), running)
		time.Sleep(time.Second)
		m.Clear()
		if _, ok := m.Get(key(1)); ok || m.Bytes() != 0 {
			t.Errorf("it is still there, %d bytes", m.Bytes())
		}
		m.Put(key(1), running)
		if _, ok := m.Get(key(1)); ok || m.Bytes() != 0 {
			t.Error("it is there again")
		}
		later := answer("asked for after")
		later.Began = time.Now()
		m.Put(key(1), later)
		if got, _ := m.Get(key(1)); got != later {
			t.Errorf("got %v", got)
		}
	})
}
