package resilience_test

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/resilience"
)

// takeAll takes retries until none is left, and returns how many there were.
func takeAll(b *resilience.Budget) int {
	n := 0
	for b.Take() {
		n++
	}
	return n
}

func TestRetriesAreAShareOfTheCallsPlusAReserve(t *testing.T) {
	for name, c := range map[string]struct {
		o     resilience.BudgetOptions
		calls int
		wait  time.Duration
		want  int
	}{
		"the reserve, before any call":       {resilience.BudgetOptions{}, 0, 0, 10},
		"a fifth of the calls":               {resilience.BudgetOptions{}, 100, 0, 30},
		"five calls earn exactly one":        {resilience.BudgetOptions{Reserve: -1}, 5, 0, 1},
		"four calls earn none":               {resilience.BudgetOptions{Reserve: -1}, 4, 0, 0},
		"no ratio":                           {resilience.BudgetOptions{Ratio: -1}, 100, 0, 10},
		"not a number":                       {resilience.BudgetOptions{Ratio: math.NaN()}, 100, 0, 10},
		"neither":                            {resilience.BudgetOptions{Ratio: -1, Reserve: -1}, 100, time.Hour, 0},
		"all of the calls":                   {resilience.BudgetOptions{Ratio: 1, Reserve: 3}, 7, 0, 10},
		"what was earned lasts for a while":  {resilience.BudgetOptions{Reserve: -1}, 100, 9 * time.Second, 20},
		"but not for ever":                   {resilience.BudgetOptions{Reserve: -1}, 100, 10 * time.Second, 0},
		"as long as is said":                 {resilience.BudgetOptions{Reserve: -1, Window: time.Minute}, 100, 54 * time.Second, 20},
		"and not longer":                     {resilience.BudgetOptions{Reserve: -1, Window: time.Minute}, 100, time.Minute, 0},
		"an idle reserve doesn't pile up":    {resilience.BudgetOptions{}, 0, time.Hour, 10},
		"nor does an idle hour add anything": {resilience.BudgetOptions{}, 5, time.Hour, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := resilience.NewBudget(c.o)
				for range c.calls {
					b.Called()
				}
				time.Sleep(c.wait)
				left := b.Left()
				if got := takeAll(b); got != c.want || int(left) != c.want {
					t.Errorf("%v left and %d taken, want %d", left, got, c.want)
				}
			})
		})
	}
}

func TestTheReserveRefillsByOneASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBudget(resilience.BudgetOptions{Reserve: 3})
		if got := takeAll(b); got != 3 {
			t.Fatalf("%d at the start, want 3", got)
		}
		for _, step := range []struct {
			wait time.Duration
			want int
		}{{999 * time.Millisecond, 0}, {time.Millisecond, 1}, {2500 * time.Millisecond, 2}, {500 * time.Millisecond, 1}, {time.Minute, 3}} {
			time.Sleep(step.wait)
			if got := takeAll(b); got != step.want {
				t.Errorf("%d after another %v, want %d", got, step.wait, step.want)
			}
		}
	})
}

func TestLookingOftenTakesNothingFromTheRefill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBudget(resilience.BudgetOptions{Reserve: 1})
		takeAll(b)
		for range 1000 {
			time.Sleep(1500 * time.Nanosecond)
			b.Left()
		}
		if left := b.Left(); left != 0.0015 {
			t.Errorf("%v left after 1.5 ms, want 0.0015", left)
		}
	})
}

func TestWhatCallsEarnIsSpentBeforeTheReserveAndTheOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBudget(resilience.BudgetOptions{Ratio: 1, Reserve: 5})
		b.Called()
		b.Called()
		time.Sleep(5 * time.Second)
		b.Called()
		for range 2 { // the old ones
			if !b.Take() {
				t.Fatal("two were earned")
			}
		}
		time.Sleep(5 * time.Second) // the old ones would have expired
		if left := b.Left(); left != 6 {
			t.Errorf("%v left, want the last call's and the reserve of 5", left)
		}
	})
}

func TestAnOutageIsNotMultiplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A minute of 50 calls a second, each of which fails and would like
		// to be retried three times.
		b := resilience.NewBudget(resilience.BudgetOptions{})
		calls, retries := 0, 0
		for range 60 * 50 {
			b.Called()
			calls++
			for range 3 {
				if b.Take() {
					retries++
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		if most := calls/5 + 10 + 60; retries > most || retries < calls/5 {
			t.Errorf("%d retries of %d calls, want %d to %d", retries, calls, calls/5, most)
		}
	})
}

func TestConcurrentRetriesTakeNoMoreThanThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBudget(resilience.BudgetOptions{Ratio: 0.5, Reserve: 7})
		for range 20 {
			b.Called()
		}
		var taken atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { taken.Add(int64(takeAll(b))) })
		}
		wg.Wait()
		if got := taken.Load(); got != 17 {
			t.Errorf("%d taken, want 10 earned and 7 in reserve", got)
		}
	})
}
