package resilience

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/eapache/go-resiliency/breaker"
)

// State is what a Breaker does with calls.
type State string

// The states.
const (
	Closed   State = "closed"    // lets calls through
	Open     State = "open"      // lets none through, until its wait is over
	HalfOpen State = "half_open" // lets probes through, a few at a time
)

// What a BreakerOptions' zero fields mean.
const (
	DefaultFailures      = 5
	DefaultBreakerWindow = 30 * time.Second
	DefaultProbes        = 1
	DefaultSuccesses     = 1
	DefaultProbeTimeout  = 30 * time.Second
)

// maxWhy bounds the text of an error that a breaker keeps, in bytes.
const maxWhy = 200

// maxChanges bounds the changes that wait for a slow OnChange.
const maxChanges = 16

// errFailed is what the state machine is told of a failure; it counts, and
// keeps nothing.
var errFailed = errors.New("failed")

// BreakerOptions configure a Breaker.
type BreakerOptions struct {
	// Failures trip it: so many within Window, slow calls among them, if they
	// are at least half of the calls in it. 5 by default.
	Failures int
	// Window is how far back calls count, to a tenth of it; also how long it
	// must have stayed closed for its next wait to be the first again. 30 s by
	// default.
	Window time.Duration
	// SlowAfter makes a success with a longer latency count as a failure, in
	// the window as of a probe. Never by default.
	SlowAfter time.Duration
	// Backoff is how long it stays open: Delay(1) the first time, Delay(2) when
	// the probe failed too, or when it had just closed, and so on.
	Backoff Backoff
	// Probes is how many calls are let through at once while it is half-open.
	// 1 by default.
	Probes int
	// Successes is how many probes must succeed, without one that fails, to
	// close it. 1 by default.
	Successes int
	// ProbeTimeout is how long a probe that says nothing keeps another one
	// from being let through. 30 s by default.
	ProbeTimeout time.Duration
	// OnChange is told of each change of state, in order, without locks held,
	// in the goroutine of the call that made it or of one that came shortly
	// before. A call waits for it, so it must be quick. It is told of HalfOpen
	// when the first probe is let through. Of changes that come faster than it
	// returns only the last 16 are kept.
	OnChange func(BreakerState)
}

// A BreakerState is what is to be seen of a Breaker.
type BreakerState struct {
	State State
	// Why it opened last; "" once it has closed.
	Why string
	// Since is when the state began.
	Since time.Time
	// NextProbe is from when on probes are let through; zero while closed.
	NextProbe time.Time
	// Failures, Slow and Calls are those in the window; Calls has both others,
	// but no calls that were ignored.
	Failures, Slow, Calls int
	// Opened is how often it has opened.
	Opened uint64
}

// An OpenError says that a Breaker lets no call through. It is in the family of
// go-resiliency's breaker.ErrBreakerOpen.
type OpenError struct {
	// Until is when probes will be let through. It has passed where probes are
	// under way: then how they end decides, and nobody knows when.
	Until time.Time
	// Why is why the breaker opened.
	Why string
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("%v until %s: %s", breaker.ErrBreakerOpen, e.Until.Format(time.RFC3339), e.Why)
}

// Unwrap returns breaker.ErrBreakerOpen.
func (e *OpenError) Unwrap() error { return breaker.ErrBreakerOpen }

// A Breaker stops calls to what fails, and finds out when it is back.
//
//   - Only what calls report moves it; time alone never closes it.
//   - While it isn't closed at most Probes calls are under way, not counting
//     those that began before it opened.
//   - What such late calls report changes nothing, whenever it comes.
//   - A probe that fails or is slow opens it for the next, longer wait.
//   - A probe that never reports keeps its place for ProbeTimeout. What it
//     reports after that still counts.
type Breaker struct {
	// Set by NewBreaker, then read-only.
	o BreakerOptions
	// machine says closed or not, and counts the probes that succeeded. It is
	// told of things only with mu held, and its goroutine, see the package's
	// comment, only ever moves it from open to half-open.
	machine *breaker.Breaker

	mu     sync.Mutex
	window window    // guarded by mu
	since  time.Time // guarded by mu; when it closed or opened
	opened uint64    // guarded by mu; how often
	streak int       // guarded by mu; the Backoff's n
	until  time.Time // guarded by mu; the end of the wait, unless closed
	probed time.Time // guarded by mu; when the first probe of this wait began, or zero
	why    string    // guarded by mu
	probes []probe   // guarded by mu; those that hold a place
	told   changes   // guarded by mu
}

// A probe holds a place while the breaker is half-open.
type probe struct {
	permit *Permit
	until  time.Time
}

// changes are those that OnChange has to be told of.
type changes struct {
	waiting []BreakerState
	telling bool // a goroutine is at it
}

// NewBreaker returns a Breaker that is closed.
func NewBreaker(o BreakerOptions) *Breaker {
	if o.Failures <= 0 {
		o.Failures = DefaultFailures
	}
	if o.Window <= 0 {
		o.Window = DefaultBreakerWindow
	}
	if o.Probes <= 0 {
		o.Probes = DefaultProbes
	}
	if o.Successes <= 0 {
		o.Successes = DefaultSuccesses
	}
	if o.ProbeTimeout <= 0 {
		o.ProbeTimeout = DefaultProbeTimeout
	}
	now := time.Now()
	b := &Breaker{o: o, machine: breaker.New(1, o.Successes, 0), since: now}
	b.window.init(now, o.Window)
	return b
}

// A Permit is a call that a Breaker let through. One of its methods must be
// called when the call is known to have worked or not; of several the first
// counts. `defer permit.Ignore()` covers every way out.
type Permit struct {
	b      *Breaker
	opened uint64 // the breaker's when it was given
	done   bool   // guarded by b.mu
}

// Allow lets a call through, or returns an *OpenError.
func (b *Breaker) Allow() (*Permit, error) {
	b.mu.Lock()
	if b.machine.GetState() == breaker.Closed {
		p := &Permit{b: b, opened: b.opened}
		b.mu.Unlock()
		return p, nil
	}
	now := time.Now()
	if !b.mayProbe(now) {
		err := &OpenError{Until: b.until, Why: b.why}
		b.mu.Unlock()
		return nil, err
	}
	p := &Permit{b: b, opened: b.opened}
	b.probes = append(b.probes, probe{permit: p, until: now.Add(b.o.ProbeTimeout)})
	if b.probed.IsZero() {
		b.probed = now
		b.changed(now)
	}
	news := len(b.told.waiting) > 0
	b.mu.Unlock()
	if news {
		b.tell()
	}
	return p, nil
}

// Ready reports whether Allow would let a call through now. It takes nothing.
func (b *Breaker) Ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.machine.GetState() == breaker.Closed || b.mayProbe(time.Now())
}

// State returns what is to be seen of the breaker.
func (b *Breaker) State() BreakerState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state(time.Now())
}

// Success says that the call worked, and how long that took to be known.
func (p *Permit) Success(latency time.Duration) {
	if slow := p.b.o.SlowAfter; slow > 0 && latency > slow {
		p.report(slowCall, func() string { return fmt.Sprintf("%v is slower than %v", latency.Round(time.Millisecond), slow) })
		return
	}
	p.report(fine, nil)
}

// Failure says that the call failed, and why.
func (p *Permit) Failure(why error) {
	p.report(failed, func() string {
		if why == nil {
			return "no reason was given"
		}
		return why.Error()
	})
}

// Ignore says that the call is no evidence, since the client cancelled it or
// asked for something impossible. A probe's place is given back.
func (p *Permit) Ignore() { p.report(ignored, nil) }

// report counts how a call ended. why is called for those that failed or were
// slow, without locks held.
func (p *Permit) report(how outcome, why func() string) {
	text := ""
	if why != nil {
		text = shorten(why())
	}
	b := p.b
	b.mu.Lock()
	if p.done {
		b.mu.Unlock()
		return
	}
	p.done = true
	switch {
	case p.opened != b.opened:
		// It began before the breaker opened, or its fellow probe has opened
		// it again: it says nothing of the time since.
	case b.machine.GetState() == breaker.Closed:
		b.count(how, text)
	default:
		b.judge(p, how, text)
	}
	news := len(b.told.waiting) > 0
	b.mu.Unlock()
	if news {
		b.tell()
	}
}

// count adds a call to the window of the closed breaker, and opens it if that
// is one too many. b.mu is held.
func (b *Breaker) count(how outcome, why string) {
	if how == ignored {
		return
	}
	now := time.Now()
	b.window.add(now, how)
	if how == fine {
		return
	}
	sum := b.window.sum
	if bad := sum.failures + sum.slow; bad >= b.o.Failures && 2*bad >= sum.calls {
		if now.Sub(b.since) >= b.o.Window {
			b.streak = 0 // it has been closed for a while
		}
		b.open(now, fmt.Sprintf("%d of %d calls within %v failed or were slow, the last: %s", bad, sum.calls, b.o.Window, why))
	}
}

// judge ends a probe: it frees its place, and closes the breaker or opens it
// again. b.mu is held.
func (b *Breaker) judge(p *Permit, how outcome, why string) {
	for i := range b.probes {
		if b.probes[i].permit == p {
			b.probes = append(b.probes[:i], b.probes[i+1:]...)
			break
		}
	}
	now := time.Now()
	switch how {
	case ignored:
	case fine:
		_ = b.machine.Run(func() error { return nil }) // counts it; nothing to fail
		if b.machine.GetState() == breaker.Closed {
			b.since, b.why = now, ""
			b.probes = nil
			b.window.init(now, b.o.Window)
			b.changed(now)
		}
	case failed, slowCall:
		b.open(now, "a probe failed or was slow: "+why)
	}
}

// open begins the next wait. b.mu is held.
func (b *Breaker) open(now time.Time, why string) {
	_ = b.machine.Run(func() error { return errFailed }) // opens it; the error is our own
	b.opened++
	b.streak++
	b.since, b.why = now, why
	b.until = now.Add(b.o.Backoff.Delay(b.streak))
	b.probed = time.Time{}
	b.probes = nil
	b.changed(now)
}

// mayProbe reports whether a probe may begin. Places of probes that said
// nothing for too long are taken from them. b.mu is held, and the breaker isn't
// closed.
func (b *Breaker) mayProbe(now time.Time) bool {
	if b.machine.GetState() != breaker.HalfOpen || now.Before(b.until) {
		return false
	}
	held := b.probes[:0]
	for _, p := range b.probes {
		if now.Before(p.until) {
			held = append(held, p)
		}
	}
	clear(b.probes[len(held):])
	b.probes = held
	return len(b.probes) < b.o.Probes
}

// state is State. b.mu is held.
func (b *Breaker) state(now time.Time) BreakerState {
	b.window.advance(now)
	sum := b.window.sum
	s := BreakerState{State: Closed, Why: b.why, Since: b.since, Failures: sum.failures, Slow: sum.slow, Calls: sum.calls, Opened: b.opened}
	switch {
	case b.machine.GetState() == breaker.Closed:
	case now.Before(b.until):
		s.State, s.NextProbe = Open, b.until
	default:
		s.State, s.Since, s.NextProbe = HalfOpen, b.until, b.until
	}
	return s
}

// changed notes the state for OnChange. b.mu is held.
func (b *Breaker) changed(now time.Time) {
	if b.o.OnChange == nil {
		return
	}
	if len(b.told.waiting) == maxChanges {
		b.told.waiting = b.told.waiting[1:]
	}
	b.told.waiting = append(b.told.waiting, b.state(now))
}

// tell calls OnChange with what is noted, unless another goroutine is at it: it
// will go on with ours.
func (b *Breaker) tell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.told.telling {
		return
	}
	b.told.telling = true
	defer func() { b.told.telling = false }()
	for len(b.told.waiting) > 0 {
		s := b.told.waiting[0]
		b.told.waiting = b.told.waiting[1:]
		b.callOnChange(s)
	}
}

// callOnChange gives b.mu free for the call, even if it panics.
func (b *Breaker) callOnChange(s BreakerState) {
	b.mu.Unlock()
	defer b.mu.Lock()
	b.o.OnChange(s)
}

// shorten bounds the text of an error, which may quote what a server sent.
func shorten(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), 2*maxWhy)], "\uFFFD")
	if len(s) <= maxWhy {
		return s
	}
	cut := maxWhy
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strings.TrimSpace(s[:cut]) + "…"
}
