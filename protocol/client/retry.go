package client

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// defaultPause is the pause before another try where the server gave no
	// hint; minPause and maxPause bound the hint.
	defaultPause = 2 * time.Second
	minPause     = 100 * time.Millisecond
	maxPause     = 15 * time.Second
)

// A retry says when to try again. Pauses are between nothing and a ceiling
// that doubles with each failure ("full jitter"), so that clients whose server
// restarts don't all come back at once.
type retry struct {
	patience time.Duration
	hint     time.Duration // the first ceiling
	since    time.Time     // of the last success
	failures int
}

func newRetry(patience time.Duration) *retry {
	return &retry{patience: patience, hint: defaultPause, since: time.Now()}
}

// hear takes the server's hint.
func (r *retry) hear(hint time.Duration) { r.hint = min(max(hint, minPause), maxPause) }

// reset notes a success.
func (r *retry) reset() { r.since, r.failures = time.Now(), 0 }

// wait waits until the next try, at least for atLeast. It is false if that
// would be beyond the patience, or ctx ended.
func (r *retry) wait(ctx context.Context, atLeast time.Duration) bool {
	ceiling := min(r.hint<<min(r.failures, 8), maxPause)
	r.failures++
	pause := max(rand.N(ceiling), atLeast)
	if time.Since(r.since)+pause > r.patience {
		return false
	}
	return sleep(ctx, pause)
}

// sleep waits. It is false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
