package accounting

import (
	"math/bits"
	"time"
)

const (
	// maxLimit keeps the arithmetic of buckets within 128 bits, far above what
	// any provider allows.
	maxLimit = 1 << 40
	// maxDebt bounds a bucket's debt, in minutes of its limit: an upstream that
	// claims an absurd usage may not shut its provider for longer.
	maxDebt = 60
)

// A bucket is a token bucket: it holds a minute's limit, and refills
// continuously. It counts in integers, as floats would lose tokens between
// calls and make waits inexact. The zero value has no limit.
type bucket struct {
	limit int64     // a minute's, and what the bucket holds; 0: none
	level int64     // negative: debt
	part  uint64    // of the next token, in nanoseconds times limit; less than a minute
	at    time.Time // when level was right
}

func newBucket(limit int64, now time.Time) bucket {
	limit = min(max(limit, 0), maxLimit)
	return bucket{limit: limit, level: limit, at: now}
}

// refill brings the level up to now.
func (b *bucket) refill(now time.Time) {
	d := now.Sub(b.at)
	if b.limit == 0 || d <= 0 {
		return
	}
	b.at = now
	if d > (maxDebt+1)*time.Minute {
		b.level, b.part = b.limit, 0
		return
	}
	hi, lo := bits.Mul64(uint64(d), uint64(b.limit))
	lo, carry := bits.Add64(lo, b.part, 0)
	whole, part := bits.Div64(hi+carry, lo, uint64(time.Minute))
	b.level += int64(whole)
	b.part = part
	b.clamp()
}

// wait returns how long it takes until take(n) is allowed; 0 if it is now.
// More than a minute's limit is allowed once the bucket is full, since it
// never would be otherwise.
func (b *bucket) wait(n int64) time.Duration {
	if b.limit == 0 {
		return 0
	}
	missing := min(n, b.limit) - b.level
	if missing <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(missing), uint64(time.Minute))
	lo, borrow := bits.Sub64(lo, b.part, 0)
	d, rest := bits.Div64(hi-borrow, lo, uint64(b.limit))
	if rest > 0 {
		d++
	}
	return time.Duration(d)
}

// take takes n, or gives back -n, and returns how much it really was: neither
// passes the bucket's bounds. Nothing is lost by that when it is given back,
// since a full bucket has nothing to regain.
func (b *bucket) take(n int64) int64 {
	if b.limit == 0 {
		return 0
	}
	n = min(n, b.level+maxDebt*b.limit)
	b.level -= n
	b.clamp()
	return n
}

func (b *bucket) clamp() {
	if b.level >= b.limit {
		b.level, b.part = b.limit, 0
	}
}

// full reports whether the bucket is as a new one.
func (b *bucket) full() bool { return b.level >= b.limit }

// left is what may be taken now; -1 if there is no limit.
func (b *bucket) left() int64 {
	if b.limit == 0 {
		return -1
	}
	return max(b.level, 0)
}
