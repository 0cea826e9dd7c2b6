package resilience_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/resilience"
)

// seconds are durations of whole seconds.
func seconds(n ...int) []time.Duration {
	ds := make([]time.Duration, len(n))
	for i := range n {
		ds[i] = time.Duration(n[i]) * time.Second
	}
	return ds
}

func TestDelaysGrowAsTheirGrowthSaysUpToTheCap(t *testing.T) {
	for name, c := range map[string]struct {
		b    resilience.Backoff
		want []time.Duration
	}{
		"linear":      {resilience.Backoff{Growth: resilience.Linear, Max: time.Minute}, seconds(1, 2, 3, 4, 5, 6, 7)},
		"exponential": {resilience.Backoff{Growth: resilience.Exponential, Max: time.Minute}, seconds(1, 2, 4, 8, 16, 32, 60)},
		"Fibonacci":   {resilience.Backoff{Growth: resilience.Fibonacci, Max: time.Minute}, seconds(1, 1, 2, 3, 5, 8, 13)},

		"linear, capped at 10 s by default":      {resilience.Backoff{Growth: resilience.Linear, Base: 3 * time.Second}, seconds(3, 6, 9, 10, 10)},
		"exponential, capped at 10 s by default": {resilience.Backoff{Growth: resilience.Exponential}, seconds(1, 2, 4, 8, 10, 10)},
		"Fibonacci, capped at 10 s by default":   {resilience.Backoff{Growth: resilience.Fibonacci}, seconds(1, 1, 2, 3, 5, 8, 10, 10)},

		"no growth is exponential":         {resilience.Backoff{}, seconds(1, 2, 4, 8, 10)},
		"an unknown growth is exponential": {resilience.Backoff{Growth: "cubic"}, seconds(1, 2, 4, 8, 10)},
		"a base above the cap":             {resilience.Backoff{Growth: resilience.Fibonacci, Base: time.Minute}, seconds(10, 10, 10)},
	} {
		t.Run(name, func(t *testing.T) {
			c.b.Jitter = -1
			var got []time.Duration
			for n := range c.want {
				got = append(got, c.b.Delay(n+1))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("delays %v, want %v", got, c.want)
			}
			if first := c.b.Delay(0); first != c.want[0] {
				t.Errorf("Delay(0) = %v, want that of 1, %v", first, c.want[0])
			}
		})
	}
}

func TestJitterSpreadsDelaysEvenlyAndNeverAboveTheCap(t *testing.T) {
	const draws = 4000
	for name, c := range map[string]struct {
		b         resilience.Backoff
		n         int
		low, high time.Duration
	}{
		"a fifth by default":          {resilience.Backoff{}, 2, 1600 * time.Millisecond, 2400 * time.Millisecond},
		"half":                        {resilience.Backoff{Growth: resilience.Linear, Jitter: 0.5}, 2, time.Second, 3 * time.Second},
		"all":                         {resilience.Backoff{Growth: resilience.Fibonacci, Jitter: 1}, 4, 0, 6 * time.Second},
		"more than all is all":        {resilience.Backoff{Growth: resilience.Fibonacci, Jitter: 7}, 4, 0, 6 * time.Second},
		"the cap cuts it":             {resilience.Backoff{Jitter: 0.5}, 4, 4 * time.Second, 10 * time.Second},
		"at the cap it is below":      {resilience.Backoff{}, 40, 8 * time.Second, 10 * time.Second},
		"a cap below the first delay": {resilience.Backoff{Base: time.Minute, Max: time.Second}, 1, 800 * time.Millisecond, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			quarters := [4]int{}
			for range draws {
				d := c.b.Delay(c.n)
				if d < c.low || d > c.high {
					t.Fatalf("Delay(%d) = %v, want %v to %v", c.n, d, c.low, c.high)
				}
				quarters[min(3, int(4*(d-c.low)/(c.high-c.low)))]++
			}
			// Each quarter gets 1,000; 150 is 5.5 standard deviations.
			for i, got := range quarters {
				if got < draws/4-150 || got > draws/4+150 {
					t.Errorf("of %d delays %v fell into the quarters of the range; that is uneven in the %dth", draws, quarters, i+1)
				}
			}
		})
	}
}

func TestDelaysAreWithinBoundsWhateverIsAsked(t *testing.T) {
	for _, growth := range []resilience.Growth{resilience.Linear, resilience.Exponential, resilience.Fibonacci} {
		for _, base := range []time.Duration{-1, 0, 1, time.Second, math.MaxInt64} {
			for _, limit := range []time.Duration{-1, 0, 1, time.Second, math.MaxInt64} {
				for _, jitter := range []float64{math.NaN(), math.Inf(-1), math.Inf(1), 0, 0.5, 1} {
					b := resilience.Backoff{Growth: growth, Base: base, Max: limit, Jitter: jitter}
					most := limit
					if limit <= 0 {
						most = resilience.DefaultMax
					}
					for _, n := range []int{math.MinInt, 0, 1, 2, 61, 62, 63, 64, 1000, math.MaxInt} {
						if d := b.Delay(n); d < 0 || d > most {
							t.Errorf("%+v.Delay(%d) = %v", b, n, d)
						}
					}
				}
			}
		}
	}
}
