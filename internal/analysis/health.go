package analysis

import (
	"math"
	"sync"
	"time"
)

// A health is how a target has done lately.
type health struct {
	mu      sync.Mutex
	calls   uint64        // guarded by mu: that ended
	errors  rate          // guarded by mu: of them, those that failed
	breaks  rate          // guarded by mu: those that failed after their first content
	latency time.Duration // guarded by mu: smoothed first-content latency, 0 before the first
}

const (
	// healthWeight is how much the newest call counts against all earlier ones.
	healthWeight = 0.2
	// errorsHalfLife and breaksHalfLife are how fast failures are forgotten where
	// nothing new comes, so that a provider that nobody asks any more gets its
	// turn again. Breakers know nothing of answers that break off, so those
	// alone keep a provider from its turn, and not for long.
	errorsHalfLife = 30 * time.Second
	breaksHalfLife = 10 * time.Second
)

// A rate is a smoothed part of calls, from 0 to 1.
type rate struct {
	value float64
	at    time.Time
}

func (r *rate) note(now time.Time, hit bool, halfLife time.Duration) {
	r.value = r.now(now, halfLife) * (1 - healthWeight)
	r.at = now
	if hit {
		r.value += healthWeight
	}
}

func (r *rate) now(now time.Time, halfLife time.Duration) float64 {
	if r.value == 0 {
		return 0
	}
	return r.value * math.Exp2(-now.Sub(r.at).Seconds()/halfLife.Seconds())
}

// first takes in how long a call's first content took.
func (h *health) first(latency time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latency == 0 {
		h.latency = latency
		return
	}
	h.latency += time.Duration(healthWeight * float64(latency-h.latency))
}

// ended takes in how a call ended, and whether it had content.
func (h *health) ended(failed, content bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.calls++
	h.errors.note(now, failed, errorsHalfLife)
	h.breaks.note(now, failed && content, breaksHalfLife)
}

func (h *health) read(now time.Time) (latency time.Duration, errors float64, calls uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latency, h.errors.now(now, errorsHalfLife), h.calls
}

// breaking reports whether most of the newest answers broke off.
func (h *health) breaking(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.breaks.now(now, breaksHalfLife) > 0.5
}
