package analysis_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

var _ analysis.KeyStore = (*backbone.Backbone)(nil)

// A keyTable is a KeyStore that several services share, as nodes do.
type keyTable struct {
	// before is called ahead of each operation, where it is set; its error is
	// the operation's.
	before func(op string) error

	mu       sync.Mutex
	records  map[string]keyRow
	revision uint64
	ops      int
}

type keyRow struct {
	value    []byte
	revision uint64
}

func (k *keyTable) enter(ctx context.Context, op string) error {
	k.mu.Lock()
	k.ops++
	before := k.before
	k.mu.Unlock()
	if before != nil {
		if err := before(op); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (k *keyTable) change(ctx context.Context, op, key string, value []byte, revision uint64) (uint64, bool, error) {
	if err := k.enter(ctx, op); err != nil {
		return 0, false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.records[key].revision != revision {
		return 0, false, nil
	}
	if k.records == nil {
		k.records = make(map[string]keyRow)
	}
	k.revision++
	k.records[key] = keyRow{value, k.revision}
	if value == nil {
		delete(k.records, key)
	}
	return k.revision, true, nil
}

func (k *keyTable) CreateKey(ctx context.Context, key string, record []byte) (uint64, bool, error) {
	return k.change(ctx, "create", key, record, 0)
}

func (k *keyTable) UpdateKey(ctx context.Context, key string, record []byte, revision uint64) (uint64, bool, error) {
	return k.change(ctx, "update", key, record, revision)
}

func (k *keyTable) DeleteKey(ctx context.Context, key string, revision uint64) error {
	_, _, err := k.change(ctx, "delete", key, nil, revision)
	return err
}

func (k *keyTable) ReadKey(ctx context.Context, key string) ([]byte, uint64, error) {
	if err := k.enter(ctx, "read"); err != nil {
		return nil, 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.records[key].value, k.records[key].revision, nil
}

// overwrite replaces the value of every record.
func (k *keyTable) overwrite(value string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key := range k.records {
		k.revision++
		k.records[key] = keyRow{[]byte(value), k.revision}
	}
}

// A keyNode is a service with its own memory and streams.
type keyNode struct {
	*analysis.Service
	provider *fake
	streams  *streams
	log      lines
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newKeyNode(t *testing.T, store analysis.KeyStore) *keyNode {
	n := &keyNode{provider: model("p", "m1"), streams: &streams{}}
	n.Service = analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: n.provider}}, Streams: n.streams,
		Keys: store, Logger: zerolog.New(&n.log).Level(zerolog.InfoLevel)})
	t.Cleanup(func() {
		if err := n.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		for _, w := range n.streams.all {
			w.check(t)
		}
	})
	return n
}

func (n *keyNode) calls() int {
	n.provider.mu.Lock()
	defer n.provider.mu.Unlock()
	return len(n.provider.requests)
}

// use starts a job with a key, and fails the test if that fails.
func (n *keyNode) use(t *testing.T, owner, key string) (id string, created bool, took time.Duration) {
	t.Helper()
	began := time.Now()
	id, created, err := n.Start(t.Context(), &request, analysis.StartOptions{Owner: owner, IdempotencyKey: key})
	if err != nil {
		t.Fatal(err)
	}
	return id, created, time.Since(began)
}

func TestAnotherNodeKnowsTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &keyTable{}
		a, b := newKeyNode(t, store), newKeyNode(t, store)
		first, created, _ := a.use(t, "o", "k")
		if !created {
			t.Error("the first was not created")
		}
		if id, created, took := b.use(t, "o", "k"); id != first || created || took != 0 {
			t.Errorf("on the other node: %s, %v, after %v; want %s", id, created, took, first)
		}
		// Owner and key are told apart, wherever one ends.
		for _, other := range [][2]string{{"p", "k"}, {"o", "k2"}, {"ok", ""}, {"", "ok"}} {
			if id, created, _ := b.use(t, other[0], other[1]); id == first || !created {
				t.Errorf("%q: %s, %v", other, id, created)
			}
		}
		changed := request
		changed.Code += "// more"
		if _, _, err := b.Start(t.Context(), &changed, analysis.StartOptions{Owner: "o", IdempotencyKey: "k"}); !isCode(err, protocol.CodeInvalidRequest) {
			t.Errorf("another request on this node: %v", err)
		}
		c := newKeyNode(t, store)
		if _, _, err := c.Start(t.Context(), &changed, analysis.StartOptions{Owner: "o", IdempotencyKey: "k"}); !isCode(err, protocol.CodeInvalidRequest) {
			t.Errorf("another request on a node that hasn't seen the key: %v", err)
		}
		ops := store.ops
		if id, _, _ := b.use(t, "o", "k"); id != first || store.ops != ops {
			t.Errorf("again: %s, with %d operations of the store; want %s from memory", id, store.ops-ops, first)
		}
		for key := range store.records {
			if len(key) != 64 || strings.Trim(key, "0123456789abcdef") != "" {
				t.Errorf("the store has the key %q", key)
			}
		}

		// The day ends, counted from the first use, for every node alike.
		time.Sleep(24*time.Hour - time.Second)
		if id, _, _ := newKeyNode(t, store).use(t, "o", "k"); id != first {
			t.Errorf("within a day: %s, want %s", id, first)
		}
		time.Sleep(time.Second)
		second, created, _ := b.use(t, "o", "k")
		if second == first || !created {
			t.Errorf("after a day: %s, %v", second, created)
		}
		if id, created, _ := a.use(t, "o", "k"); id != second || created {
			t.Errorf("after a day, on the other: %s, %v; want %s", id, created, second)
		}
	})
}

func TestAJobThatDoesNotStartLeavesItsKeyFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, boom := &keyTable{}, errors.New("no disk")
		a, b := newKeyNode(t, store), newKeyNode(t, store)
		a.streams.fail = func(string) error { return boom }
		if _, _, err := a.Start(t.Context(), &request, analysis.StartOptions{Owner: "o", IdempotencyKey: "k"}); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if _, created, took := b.use(t, "o", "k"); !created || took != 0 {
			t.Errorf("on the other node: %v, after %v", created, took)
		}
	})
}

func TestAKeyWhoseJobDiedAtItsStartIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &keyTable{}
		crashed := func() { // leaves a claim and no job
			a := newKeyNode(t, store)
			a.streams.fail = func(string) error { panic("crash") }
			store.before = func(op string) error {
				if op == "delete" {
					return errors.New("the process is gone")
				}
				return nil
			}
			defer func() { store.before = nil; _ = recover() }()
			a.use(t, "o", "k")
		}
		crashed()
		time.Sleep(2 * time.Second)
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := newKeyNode(t, store).Start(impatient, &request, analysis.StartOptions{Owner: "o", IdempotencyKey: "k"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a client that doesn't wait for it: %v", err)
		}
		b := newKeyNode(t, store)
		id, created, took := b.use(t, "o", "k")
		if !created || took < 2*time.Second || took > 2*time.Second+250*time.Millisecond {
			t.Errorf("%v, after %v more; want 5 s after the claim", created, took)
		}
		if again, created, took := newKeyNode(t, store).use(t, "o", "k"); again != id || created || took != 0 {
			t.Errorf("then: %s, %v, after %v; want %s", again, created, took, id)
		}

		store.records = nil
		crashed()
		time.Sleep(time.Minute)
		if _, created, took := newKeyNode(t, store).use(t, "o", "k"); !created || took != 0 {
			t.Errorf("long after: %v, after %v", created, took)
		}
		store.overwrite(`{"stream":"no such id"`)
		if _, created, took := newKeyNode(t, store).use(t, "o", "k"); !created || took != 0 {
			t.Errorf("a record that can't be read: %v, after %v", created, took)
		}
		store.records = nil
		crashed()
		for _, row := range store.records { // its writer's clock is far ahead
			store.overwrite(strings.Replace(string(row.value), `"at":`, `"at":9`, 1))
		}
		if _, created, took := newKeyNode(t, store).use(t, "o", "k"); !created || took < 5*time.Second || took > 6*time.Second {
			t.Errorf("a claim from the future: %v, after %v", created, took)
		}
	})
}

func TestAJobThatWasBelievedDeadDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, goOn := &keyTable{}, make(chan struct{})
		a, b := newKeyNode(t, store), newKeyNode(t, store)
		a.streams.fail = func(string) error { <-goOn; return nil }
		type result struct {
			id      string
			created bool
		}
		slow := make(chan result, 1)
		go func() {
			id, created, _ := a.use(t, "o", "k")
			slow <- result{id, created}
		}()
		synctest.Wait()
		id, created, took := b.use(t, "o", "k")
		if !created || took < 5*time.Second {
			t.Errorf("on the other node: %v, after %v", created, took)
		}
		close(goOn)
		if got := <-slow; got.id != id || got.created {
			t.Errorf("the slow one got %+v, want %s", got, id)
		}
		synctest.Wait()
		if a.calls() != 0 || b.calls() != 1 {
			t.Errorf("%d and %d calls, want none and one", a.calls(), b.calls())
		}
		if len(a.streams.all) != 1 {
			t.Fatalf("the slow one has %d streams", len(a.streams.all))
		}
		for _, w := range a.streams.all {
			if l := w.lines(); len(l) != 1 || l[0] != `cancelled {"by":"orphaned"}` {
				t.Errorf("its stream has %v", l)
			}
		}
	})
}

func TestWithoutAWorkingStoreTheMemoryIsAskedAndTheLogToldOnce(t *testing.T) {
	for _, op := range []string{"create", "read", "update"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &keyTable{}
				a, b := newKeyNode(t, store), newKeyNode(t, store)
				if op == "read" { // only asked where there is a record
					b.use(t, "o", "k")
				}
				store.before = func(now string) error {
					if now == op {
						return errors.New("no quorum")
					}
					return nil
				}
				first, created, _ := a.use(t, "o", "k")
				if !created {
					t.Error("it was not created")
				}
				if id, created, _ := a.use(t, "o", "k"); id != first || created {
					t.Errorf("again: %s, %v; want %s", id, created, first)
				}
				if op == "create" {
					ops := store.ops
					a.use(t, "o", "k2")
					if store.ops != ops {
						t.Error("the store that failed just now was asked again")
					}
					time.Sleep(5 * time.Second)
					a.use(t, "o", "k3")
					if store.ops == ops {
						t.Error("the store was not asked again")
					}
				}
				if n := strings.Count(a.log.String(), "can't be stored"); n != 1 {
					t.Errorf("the log says it %d times", n)
				}
				store.before = nil
				time.Sleep(5 * time.Second)
				id, _, _ := a.use(t, "o", "later")
				if n := strings.Count(a.log.String(), "are stored again"); n != 1 {
					t.Errorf("the log says %d times that it works", n)
				}
				if got, created, _ := newKeyNode(t, store).use(t, "o", "later"); got != id || created {
					t.Errorf("another node, then: %s, %v; want %s", got, created, id)
				}
			})
		})
	}
}

// TestNodesThatUseAKeyAtOnceStartOneJob has many requests on several nodes,
// some of them slower than the grace at any point, and checks that whatever
// happens one job runs and everybody gets its stream.
func TestNodesThatUseAKeyAtOnceStartOneJob(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			var mu sync.Mutex
			pause := func(longest time.Duration) {
				mu.Lock()
				d := time.Duration(r.Int64N(int64(longest)))
				if r.IntN(4) > 0 {
					d /= 1000
				}
				mu.Unlock()
				time.Sleep(d)
			}
			store := &keyTable{before: func(string) error { pause(1900 * time.Millisecond); return nil }}
			var nodes []*keyNode
			for range 4 {
				n := newKeyNode(t, store)
				n.streams.fail = func(string) error {
					pause(20 * time.Second)
					mu.Lock()
					defer mu.Unlock()
					if r.IntN(8) == 0 {
						return errors.New("this one fails")
					}
					return nil
				}
				nodes = append(nodes, n)
			}
			ids, created := map[string]int{}, 0
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() {
					pause(10 * time.Second)
					id, first, err := nodes[i%len(nodes)].Start(t.Context(), &request, analysis.StartOptions{IdempotencyKey: "k"})
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						ids[id]++
					}
					if first {
						created++
					}
				})
			}
			wg.Wait()
			time.Sleep(time.Minute)
			calls := 0
			for _, n := range nodes {
				calls += n.calls()
			}
			if len(ids) > 1 || calls != len(ids) || created != len(ids) {
				t.Errorf("seed %d: streams %v, %d created, %d calls", seed, ids, created, calls)
			}
			if len(ids) == 0 {
				t.Errorf("seed %d: nobody got a stream", seed)
			}
		})
	}
}
