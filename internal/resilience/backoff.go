package resilience

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/eapache/go-resiliency/retrier"
)

// Growth is how a backoff's delays grow.
type Growth string

// The growths, with what they make of a base of 1 s.
const (
	Linear      Growth = "linear"      // 1 s, 2 s, 3 s, 4 s, 5 s
	Exponential Growth = "exponential" // 1 s, 2 s, 4 s, 8 s, 16 s
	Fibonacci   Growth = "fibonacci"   // 1 s, 1 s, 2 s, 3 s, 5 s
)

// What a Backoff's zero fields mean.
const (
	DefaultBase   = time.Second
	DefaultMax    = 10 * time.Second
	DefaultJitter = 0.2
)

// longest keeps sums and doubles of delays within a Duration.
const longest = time.Duration(math.MaxInt64 / 4)

// A Backoff is a growing wait. Its zero value is exponential from 1 s to 10 s,
// a fifth more or less; each field that is zero has that default.
type Backoff struct {
	// Growth is Exponential by default, and where it is unknown.
	Growth Growth
	// Base is the first delay, before jitter. 1 s by default.
	Base time.Duration
	// Max is never exceeded, by jitter neither. 10 s by default.
	Max time.Duration
	// Jitter is the share of a delay by which it may be shorter or longer, from
	// 0 to 1, so that those who failed together don't come back together.
	// 0.2 by default; negative: none.
	Jitter float64
}

// Delay returns how long to wait after the nth failure in a row, counted from
// 1. The delays of equal n spread evenly over the range of the jitter; where
// that reaches above Max, over the part below, rather than pile up at Max.
func (b Backoff) Delay(n int) time.Duration {
	b = b.withDefaults()
	d := b.delay(max(n, 1))
	low := d - time.Duration(b.Jitter*float64(d))
	high := min(d+time.Duration(b.Jitter*float64(d)), b.Max)
	if high <= low {
		return min(low, b.Max)
	}
	return low + rand.N(high-low+1)
}

// delay is Delay without jitter.
func (b Backoff) delay(n int) time.Duration {
	switch b.Growth {
	case Linear:
		if int64(n) > int64(b.Max/b.Base) {
			return b.Max
		}
		return min(time.Duration(n)*b.Base, b.Max)
	case Fibonacci:
		last, next := time.Duration(0), b.Base
		for ; n > 1 && next < b.Max; n-- {
			last, next = next, last+next
		}
		return min(next, b.Max)
	default:
		// 62 doublings exceed every Max.
		n = min(n, 62)
		return retrier.LimitedExponentialBackoff(n, b.Base, b.Max)[n-1]
	}
}

func (b Backoff) withDefaults() Backoff {
	if b.Base <= 0 {
		b.Base = DefaultBase
	}
	if b.Max <= 0 {
		b.Max = DefaultMax
	}
	b.Max = min(b.Max, longest)
	b.Base = min(b.Base, b.Max)
	switch {
	case b.Jitter == 0:
		b.Jitter = DefaultJitter
	case !(b.Jitter > 0): // NaN too
		b.Jitter = 0
	}
	b.Jitter = min(b.Jitter, 1)
	return b
}
