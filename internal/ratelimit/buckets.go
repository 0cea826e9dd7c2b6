package ratelimit

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Buckets are token buckets in this node's memory. Their methods may be called
// concurrently.
type Buckets struct {
	// One lock for all: what it guards takes less than a microsecond
	// (BenchmarkTakeInMemory), once a request, and a demand on several buckets is
	// to be met by all of them or by none.
	mu      sync.Mutex
	buckets recent[Key, *bucket] // guarded by mu
}

type bucket struct {
	*rate.Limiter
	limit int64
}

// NewBuckets returns Buckets that remember so many; 10,000 where max is 0. The one
// that was not asked for longest gives way. Unless it is in debt it was full again
// a minute after that, and nothing is lost with it.
func NewBuckets(max int) *Buckets {
	if max <= 0 {
		max = 10_000
	}
	return &Buckets{buckets: newRecent[Key, *bucket](max)}
}

// Take meets all of the demands, or, if one of the buckets can't give what it
// should, none. levels, as long as demands, is filled in. Nothing is given back
// here: a demand for less than 0 is one for 0.
func (b *Buckets) Take(demands []Demand, levels []Level) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	ok := true
	for i := range demands {
		d := &demands[i]
		missing := float64(min(max(d.N, 0), d.PerMinute)) - b.bucket(d, now).TokensAt(now)
		levels[i] = Level{}
		if missing > slack && !d.Spent {
			levels[i].Wait, ok = refill(missing, d.PerMinute), false
		}
	}
	for i := range demands {
		d := &demands[i]
		k := b.bucket(d, now)
		if ok {
			k.take(now, d.N)
		}
		tokens := k.TokensAt(now)
		levels[i].Left = max(int64(tokens+slack), 0)
		levels[i].Full = refill(float64(d.PerMinute)-tokens, d.PerMinute)
	}
	return ok
}

// slack is for the rounding of floats: a bucket counts in them.
const slack = 1e-6

// bucket is called with mu held.
func (b *Buckets) bucket(d *Demand, now time.Time) *bucket {
	k, ok := b.buckets.get(d.Key)
	switch {
	case !ok:
		k = &bucket{rate.NewLimiter(perMinute(d.PerMinute), int(d.PerMinute)), d.PerMinute}
		b.buckets.put(d.Key, k)
	case k.limit != d.PerMinute:
		k.limit = d.PerMinute
		k.SetLimitAt(now, perMinute(d.PerMinute))
		k.SetBurstAt(now, int(d.PerMinute))
	}
	return k
}

func perMinute(n int64) rate.Limit { return rate.Limit(float64(n) / 60) }

// take takes n, also where that leaves a debt, of no more than maxDebt. A
// rate.Limiter gives no more than its burst at once, so it is taken in parts.
func (k *bucket) take(now time.Time, n int64) {
	n = min(n, int64(k.TokensAt(now))+maxDebt*k.limit)
	for range maxDebt + 1 {
		part := min(n, k.limit)
		if part <= 0 {
			return
		}
		k.ReserveN(now, int(part))
		n -= part
	}
}

// refill is how long it takes until so many tokens have come.
func refill(tokens float64, perMinute int64) time.Duration {
	if tokens <= slack {
		return 0
	}
	return time.Duration(math.Ceil(tokens * float64(time.Minute) / float64(perMinute)))
}

// Len is how many buckets are remembered.
func (b *Buckets) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buckets.len()
}
