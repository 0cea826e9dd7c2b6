package resilience

import (
	"sync"
	"time"
)

// What a BudgetOptions' zero fields mean.
const (
	DefaultRatio        = 0.2
	DefaultReserve      = 10
	DefaultBudgetWindow = 10 * time.Second
)

const (
	budgetBuckets = 10
	// oneRetry is the price of a retry. Credit is counted in millionths of
	// one, so that five fifths are exactly one.
	oneRetry = 1_000_000
)

// BudgetOptions configure a Budget.
type BudgetOptions struct {
	// Ratio is how many retries each first try earns. 0.2 by default;
	// negative: none.
	Ratio float64
	// Reserve is how many retries may be made without that, so that few calls
	// can be retried too. It refills by one a second. 10 by default; negative:
	// none.
	Reserve int
	// Window is how long what a call earned may be spent: else the calls of a
	// good day would all be retried in the first minute of an outage. 10 s by
	// default, to a tenth.
	Window time.Duration
}

// A Budget bounds retries by the calls that are made anyway, so that an
// outage's calls stay within (1+Ratio) times the usual, however often each of
// them would like to be retried. The idea is Finagle's RetryBudget.
type Budget struct {
	// Set by NewBudget, then read-only.
	perCall int64 // in millionths of a retry
	most    int64 // of the reserve
	window  time.Duration
	epoch   time.Time

	mu       sync.Mutex
	earned   [budgetBuckets]int64 // guarded by mu; a ring by time
	bucket   int64                // guarded by mu; the number of the current one since epoch
	reserve  int64                // guarded by mu
	refilled time.Time            // guarded by mu
}

// NewBudget returns a Budget with a full reserve.
func NewBudget(o BudgetOptions) *Budget {
	switch {
	case o.Ratio == 0:
		o.Ratio = DefaultRatio
	case !(o.Ratio > 0): // NaN too
		o.Ratio = 0
	}
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	if o.Window <= 0 {
		o.Window = DefaultBudgetWindow
	}
	now := time.Now()
	b := &Budget{
		perCall:  int64(min(o.Ratio, 1000)*oneRetry + 0.5),
		most:     int64(min(max(o.Reserve, 0), 1_000_000)) * oneRetry,
		window:   max(o.Window, budgetBuckets),
		epoch:    now,
		refilled: now,
	}
	b.reserve = b.most
	return b
}

// Called tells the budget that a first try is made.
func (b *Budget) Called() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	b.earned[b.bucket%budgetBuckets] += b.perCall
}

// Take reports whether a retry may be made, and takes it from the budget: from
// what calls have earned first, the oldest before it expires, then from the
// reserve.
func (b *Budget) Take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	if b.left() < oneRetry {
		return false
	}
	price := int64(oneRetry)
	for i := b.bucket + 1; i <= b.bucket+budgetBuckets && price > 0; i++ {
		part := min(b.earned[i%budgetBuckets], price)
		b.earned[i%budgetBuckets] -= part
		price -= part
	}
	b.reserve -= price
	return true
}

// Left returns how many retries may be made now; a fraction is on its way.
func (b *Budget) Left() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	return float64(b.left()) / oneRetry
}

// left is what is earned and in reserve. b.mu is held.
func (b *Budget) left() int64 {
	sum := b.reserve
	for _, e := range b.earned {
		sum += e
	}
	return sum
}

// advance forgets what has expired and refills the reserve. b.mu is held.
func (b *Budget) advance() {
	now := time.Now()
	bucket := int64(now.Sub(b.epoch) / (b.window / budgetBuckets))
	for i := max(b.bucket+1, bucket-budgetBuckets+1); i <= bucket; i++ {
		b.earned[i%budgetBuckets] = 0
	}
	b.bucket = max(b.bucket, bucket)
	if micros := now.Sub(b.refilled).Microseconds(); micros > 0 {
		b.reserve = min(b.reserve+micros, b.most) // a millionth of a retry each
		b.refilled = b.refilled.Add(time.Duration(micros) * time.Microsecond)
	}
}
