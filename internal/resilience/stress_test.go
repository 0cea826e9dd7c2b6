package resilience_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/resilience"
)

// TestManyCallersNeverBreakTheBounds has callers of all kinds use bulkheads
// that share classes, on real threads, and a checker look at the whole between.
func TestManyCallersNeverBreakTheBounds(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{CPU: 2, Memory: 3, Network: 7})
	type guarded struct {
		*resilience.Bulkhead
		workers int64
		inside  atomic.Int64
	}
	var heads []*guarded
	limits := map[resilience.Class]int64{resilience.ClassCPU: 2, resilience.ClassMemory: 3, resilience.ClassNetwork: 7}
	inClass := map[resilience.Class]*atomic.Int64{}
	for class := range limits {
		inClass[class] = new(atomic.Int64)
		for _, workers := range []int{1, 2, 5} {
			heads = append(heads, &guarded{Bulkhead: pool.Bulkhead(resilience.BulkheadOptions{Class: class, Workers: workers, Queue: 4}), workers: int64(workers)})
		}
	}
	const callers, calls = 48, 1000
	var granted, gaveUp, full atomic.Int64
	var wg sync.WaitGroup
	for g := range callers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 1))
			for range calls {
				h := heads[random.IntN(len(heads))]
				class := inClass[h.State().Class]
				var p *resilience.Place
				if random.IntN(4) == 0 {
					var ok bool
					if p, ok = h.TryEnter(); !ok {
						continue
					}
				} else {
					var err error
					if p, err = h.Enter(string(rune('a' + random.IntN(4)))); err != nil {
						full.Add(1)
						continue
					}
				}
				if random.IntN(3) > 0 { // the others give up at once, or as it is granted
					for !ready(p) {
						select {
						case <-p.Ready():
						case <-p.Moved():
							if p.Position() < 0 || p.Position() > 4 {
								t.Errorf("position %d", p.Position())
							}
						}
					}
					if n := h.inside.Add(1); n > h.workers {
						t.Errorf("%d are in a bulkhead of %d workers", n, h.workers)
					}
					if n, limit := class.Add(1), limits[h.State().Class]; n > limit {
						t.Errorf("%d are in a class of %d places", n, limit)
					}
					granted.Add(1)
					for range random.IntN(8) {
						runtime.Gosched() // so that others find it taken
					}
					class.Add(-1)
					h.inside.Add(-1)
				} else {
					gaveUp.Add(1)
				}
				p.Leave()
				if random.IntN(8) == 0 {
					p.Leave()
				}
			}
		})
	}
	done := make(chan struct{})
	checked := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-done:
				checked <- n
				return
			default:
			}
			if err := pool.Check(); err != nil {
				t.Error(err)
			}
		}
	}()
	wg.Wait()
	close(done)
	if n := <-checked; n < 10 || granted.Load() < callers*calls/10 || gaveUp.Load() == 0 || full.Load() == 0 {
		t.Errorf("%d checks, %d granted, %d gave up, %d found the queue full: too tame a test", n, granted.Load(), gaveUp.Load(), full.Load())
	}
	check(t, pool)
	for _, s := range pool.State() {
		if s.Busy != 0 || s.Waiting != 0 {
			t.Errorf("all have left, but %+v", s)
		}
	}
}

// TestAWaitingPlaceIsGivenUpAtOnceAndTheRestGoOn has most of a queue cancel
// while the rest run, in time that is exact: whoever stays runs without a gap.
func TestAWaitingPlaceIsGivenUpAtOnceAndTheRestGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := resilience.NewPool(resilience.PoolLimits{})
		b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 2, Queue: 40})
		began := time.Now()
		var mu sync.Mutex
		var started []time.Duration
		var wg sync.WaitGroup
		for i := range 42 {
			p := enter(t, b, string(rune('a'+i%5)))
			wg.Go(func() {
				defer p.Leave()
				patience := time.Hour
				if i >= 2 && i%4 != 0 {
					patience = time.Duration(i) * 7 * time.Millisecond // all before the first second ends
				}
				select {
				case <-p.Ready():
				case <-time.After(patience):
					return
				}
				mu.Lock()
				started = append(started, time.Since(began))
				mu.Unlock()
				time.Sleep(time.Second)
			})
		}
		wg.Wait()
		// Twelve run, two at a time: the first two, and each fourth of the rest.
		want := seconds(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)
		if slices.Sort(started); !slices.Equal(started, want) {
			t.Errorf("they started after %v, want %v", started, want)
		}
		check(t, pool)
	})
}

// TestATenantWithAFloodDelaysOnlyItself measures fairness: one tenant keeps its
// part of the queue full, three ask for one place at a time.
func TestATenantWithAFloodDelaysOnlyItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := resilience.NewPool(resilience.PoolLimits{})
		b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 2, Queue: 50})
		const call, end = time.Second, 200 * time.Second
		began := time.Now()
		var longest time.Duration // that one of the three waited
		served := map[string]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		caller := func(tenant string) {
			for time.Since(began) < end {
				asked := time.Now()
				p := enter(t, b, tenant)
				<-p.Ready()
				mu.Lock()
				served[tenant]++
				if tenant != "flood" && time.Since(began) > 5*call {
					longest = max(longest, time.Since(asked))
				}
				mu.Unlock()
				time.Sleep(call)
				p.Leave()
			}
		}
		for range 40 {
			wg.Go(func() { caller("flood") })
		}
		synctest.Wait()
		for _, tenant := range []string{"x", "y", "z"} {
			wg.Go(func() { caller(tenant) })
		}
		wg.Wait()
		// 2 workers and 4 tenants: a turn comes every 2 s, of which up to 1 is
		// spent running.
		if longest > 2*call {
			t.Errorf("one of the patient waited %v, want 2 s at most", longest)
		}
		for _, tenant := range []string{"x", "y", "z"} {
			if n := served[tenant]; n < 65 {
				t.Errorf("of 400 calls %s got %d, and the flood %d", tenant, n, served["flood"])
			}
		}
		check(t, pool)
	})
}

// TestPositionsAreTheOrderOfTheGrants plays random scripts, then drains the
// queue and compares with what was promised.
func TestPositionsAreTheOrderOfTheGrants(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 2))
		pool := resilience.NewPool(resilience.PoolLimits{})
		b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 1, Queue: 60})
		running := enter(t, b, "z")
		var waiting []*resilience.Place
		drain := func() *resilience.Place {
			running.Leave()
			i := slices.IndexFunc(waiting, ready)
			if i < 0 {
				t.Fatalf("seed %d: %d wait, and none was granted", seed, len(waiting))
			}
			running = waiting[i]
			waiting = slices.Delete(waiting, i, i+1)
			return running
		}
		for range 100 {
			switch k := random.IntN(10); {
			case k < 6 && len(waiting) < 60:
				waiting = append(waiting, enter(t, b, string(rune('a'+random.IntN(6)))))
			case k < 8 && len(waiting) > 0:
				i := random.IntN(len(waiting))
				waiting[i].Leave()
				waiting = slices.Delete(waiting, i, i+1)
			case len(waiting) > 0:
				drain()
			}
			check(t, pool)
		}
		promised := slices.SortedFunc(slices.Values(waiting), func(p, q *resilience.Place) int { return p.Position() - q.Position() })
		for i, p := range promised {
			if p.Position() != 1 {
				t.Fatalf("seed %d: the next of %d is at %d", seed, len(promised)-i, p.Position())
			}
			if got := drain(); got != p {
				t.Fatalf("seed %d: another than promised was the %dth of %d", seed, i+1, len(promised))
			}
		}
	}
}
