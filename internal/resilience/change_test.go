package resilience_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/resilience"
)

// A change is what OnChange was told, in short.
type change struct {
	state resilience.State
	after time.Duration
}

func TestOnChangeIsToldOfEachChangeInOrderAndWithoutLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []change
		var b *resilience.Breaker
		began := time.Now()
		b = resilience.NewBreaker(resilience.BreakerOptions{Backoff: noJitter, Successes: 2, OnChange: func(s resilience.BreakerState) {
			if now := b.State(); now != s { // with the lock held it would wait for ever
				t.Errorf("told of %+v while it is %+v", s, now)
			}
			told = append(told, change{s.State, time.Since(began)})
		}})
		play(t, b, "ok 3; ignore; fail 5; refused; wait 500ms; refused; wait 4500ms; begin a; refused; a ignore; fail; wait 2s; ok; ok; fail 2; ok")
		want := []change{
			{resilience.Open, 0},
			{resilience.HalfOpen, 5 * time.Second}, // when the first probe came, not when it could
			{resilience.Open, 5 * time.Second},
			{resilience.HalfOpen, 7 * time.Second},
			{resilience.Closed, 7 * time.Second},
		}
		if !slices.Equal(told, want) {
			t.Errorf("told of %v, want %v", told, want)
		}
	})
}

func TestASlowOnChangeIsCalledOneAtATimeAndForTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		var told []uint64
		b := resilience.NewBreaker(resilience.BreakerOptions{Failures: 1, Backoff: noJitter, OnChange: func(s resilience.BreakerState) {
			<-free
			told = append(told, s.Opened) // would race if two were under way
		}})
		var wg sync.WaitGroup
		wg.Go(func() { play(t, b, "fail") }) // stays in OnChange
		synctest.Wait()
		for range 20 { // two changes each, and none waits
			play(t, b, "wait 10s; fail")
		}
		close(free)
		wg.Wait()
		// The first, and the last 16 of the 40 after it.
		if len(told) != 17 || told[0] != 1 || told[16] != 21 || !slices.IsSorted(told) {
			t.Errorf("told of openings %v, want the first and the last sixteen changes up to the 21st opening", told)
		}
	})
}

func TestAPanicInOnChangeLeavesTheBreakerWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		b := resilience.NewBreaker(resilience.BreakerOptions{Failures: 1, Backoff: noJitter, OnChange: func(resilience.BreakerState) {
			calls++
			if calls == 1 {
				panic("first")
			}
		}})
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			play(t, b, "fail")
		}()
		play(t, b, "refused; wait 1s; ok; closed")
		if calls != 3 {
			t.Errorf("OnChange was called %d times, want 3", calls)
		}
	})
}

// TestAFlappingProviderIsProbedSparinglyAndUsedAgainSoon drives the whole:
// twenty clients, one of them every quarter of a second, through outages of a
// provider.
func TestAFlappingProviderIsProbedSparinglyAndUsedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const client = 250 * time.Millisecond
		b := resilience.NewBreaker(resilience.BreakerOptions{})
		down := func(after time.Duration) bool {
			return after >= 20*time.Second && after < 50*time.Second || after >= 52*time.Second && after < 60*time.Second
		}
		began := time.Now()
		reached := map[uint64]int{} // calls that reached it, per wait
		var back time.Duration      // the first success after the last outage
		var wg sync.WaitGroup
		var mu sync.Mutex
		for at := time.Duration(0); at < 2*time.Minute; at += client {
			wg.Go(func() {
				permit, err := b.Allow()
				if err != nil {
					return
				}
				defer permit.Ignore()
				s := b.State()
				time.Sleep(100 * time.Millisecond) // the call
				mu.Lock()
				defer mu.Unlock()
				if s.State != resilience.Closed {
					reached[s.Opened]++
				}
				if now := time.Since(began); down(now) {
					permit.Failure(errDown)
				} else {
					permit.Success(100 * time.Millisecond)
					if now >= time.Minute && back == 0 {
						back = now
					}
				}
			})
			time.Sleep(client)
		}
		wg.Wait()
		if len(reached) < 4 {
			t.Errorf("%d waits were probed, want one for each of 1, 2, 4 and 8 s at least", len(reached))
		}
		for opened, n := range reached {
			if n > 2 {
				t.Errorf("%d calls reached it in wait %d, want 2 at most", n, opened)
			}
		}
		if late := back - time.Minute; back == 0 || late > resilience.DefaultMax+2*client {
			t.Errorf("it was used again %v after it was back, want one wait at most", late)
		}
		if s := b.State(); s.State != resilience.Closed || s.Failures != 0 {
			t.Errorf("a minute after the outage it is %+v", s)
		}
	})
}

// TestConcurrentCallsNeverExceedTheProbes has many goroutines call, report
// every way there is, late and not at all.
func TestConcurrentCallsNeverExceedTheProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const probes, timeout = 3, 2 * time.Second
		b := resilience.NewBreaker(resilience.BreakerOptions{Probes: probes, Successes: 2, ProbeTimeout: timeout, SlowAfter: time.Second,
			Backoff: resilience.Backoff{Base: 100 * time.Millisecond, Max: time.Second}})
		var mu sync.Mutex
		under := map[uint64]int{} // probes under way, per opening
		lost, most := 0, 0
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				// Each has a step of its own, so that the order changes all the time.
				for i := range 2000 {
					time.Sleep(time.Duration(7+2*g) * time.Millisecond)
					mu.Lock()
					s := b.State()
					permit, err := b.Allow()
					if err != nil && s.State == resilience.Closed {
						t.Errorf("a closed breaker refused: %v", err)
					}
					probe := err == nil && s.State != resilience.Closed
					if probe {
						under[s.Opened]++
						most = max(most, under[s.Opened])
						if s.State != resilience.HalfOpen || under[s.Opened] > probes+lost {
							t.Errorf("%d probes are under way while it is %s", under[s.Opened], s.State)
						}
					}
					mu.Unlock()
					if err != nil {
						continue
					}
					time.Sleep(time.Duration(1+(i*7+g)%50) * time.Millisecond)
					mu.Lock()
					if probe {
						under[s.Opened]--
					}
					switch k := (i*13 + g*5) % 20; {
					case k < 9:
						permit.Success(time.Duration(k%3) * time.Second)
					case k < 16:
						permit.Failure(errDown)
					case k < 19 || lost == 5:
						permit.Ignore()
					default: // never reports
						if probe {
							lost++
							under[s.Opened]++
						}
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		s := b.State()
		if most < probes || s.Opened < 10 {
			t.Errorf("%d probes at once at most, and it opened %d times: too tame a test", most, s.Opened)
		}
		// Whatever happened, it can be closed.
		time.Sleep(time.Minute)
		play(t, b, "ok 2; closed")
	})
}

func TestACallThroughAClosedBreakerAllocatesItsPermitOnly(t *testing.T) {
	b := resilience.NewBreaker(resilience.BreakerOptions{OnChange: func(resilience.BreakerState) {}})
	calls := 0
	if allocs := testing.AllocsPerRun(1000, func() {
		p, err := b.Allow()
		if err != nil {
			t.Fatal(err)
		}
		p.Success(time.Millisecond)
		calls++
	}); allocs != 1 {
		t.Errorf("%v allocations, want 1", allocs)
	}
	if s := b.State(); s.Calls != calls {
		t.Errorf("%d calls counted, want %d", s.Calls, calls)
	}
}
