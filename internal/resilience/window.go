package resilience

import "time"

// An outcome is how a call ended.
type outcome int

const (
	fine outcome = iota
	slowCall
	failed
	ignored
)

// windowBuckets is how finely a window forgets.
const windowBuckets = 10

// A tally counts calls.
type tally struct{ calls, failures, slow int }

// A window counts the calls of the last while, in buckets that expire one by
// one: at most its length counts, and at least nine tenths of it. It has a
// fixed size, however many calls there are.
type window struct {
	epoch   time.Time
	step    time.Duration // the length of a bucket
	bucket  int64         // the number of the current one since epoch
	buckets [windowBuckets]tally
	sum     tally
}

// init empties the window.
func (w *window) init(now time.Time, length time.Duration) {
	*w = window{epoch: now, step: max(length/windowBuckets, 1)}
}

// add counts a call.
func (w *window) add(now time.Time, how outcome) {
	w.advance(now)
	b := &w.buckets[w.bucket%windowBuckets]
	b.calls++
	w.sum.calls++
	switch how {
	case failed:
		b.failures++
		w.sum.failures++
	case slowCall:
		b.slow++
		w.sum.slow++
	case fine, ignored:
	}
}

// advance forgets what has expired.
func (w *window) advance(now time.Time) {
	bucket := int64(now.Sub(w.epoch) / w.step)
	for i := max(w.bucket+1, bucket-windowBuckets+1); i <= bucket; i++ {
		old := &w.buckets[i%windowBuckets]
		w.sum.calls -= old.calls
		w.sum.failures -= old.failures
		w.sum.slow -= old.slow
		*old = tally{}
	}
	w.bucket = max(w.bucket, bucket)
}
