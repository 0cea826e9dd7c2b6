package analysis

import (
	"context"
	"errors"
	"time"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
)

// A pass is what a call needs before it is made: tokens of the minute's limits,
// a place in the provider's bulkhead, and the breaker's permit.
type pass struct {
	reservation *accounting.Reservation
	place       *resilience.Place
	permit      *resilience.Permit
}

// leave gives back the pass of a call that was not made.
func (p *pass) leave() {
	if p.reservation != nil {
		p.reservation.Release()
	}
	if p.place != nil {
		p.place.Leave()
	}
	if p.permit != nil {
		p.permit.Ignore()
	}
}

// settle tells the accounts what the call has used, and returns it; nil for a
// provider without models, which uses nothing.
func (c *call) settle() *protocol.Usage {
	c.mu.Lock()
	defer c.mu.Unlock()
	if refused := !c.taken && c.usage == nil && c.ctx.Err() == nil; refused || c.t.local() {
		// Nothing is charged for what a provider refuses, other than for what it
		// was at when the call was ended.
		c.pass.reservation.Settle(&protocol.Usage{}, 0, 0)
		return c.usage
	}
	return c.pass.reservation.Settle(c.usage, requestBytes(c.request.System, c.request.Prompt, c.request.Partial), c.size)
}

func requestBytes(parts ...string) (n int64) {
	for _, p := range parts {
		n += int64(len(p))
	}
	return n
}

// expectedAnswer is how many tokens are reserved for an answer whose length the
// request doesn't bound.
const expectedAnswer = 1000

// promptBytes is about how long the words around a request's code are.
const promptBytes = 3000

// tokensOf estimates what r takes, with its answer.
func tokensOf(r *protocol.Request) int64 {
	n := accounting.EstimateTokens(int64(len(r.Code)+len(r.Prompt)) + promptBytes)
	if m := r.Options.MaxTokens; m > 0 {
		return n + int64(m)
	}
	return n + expectedAnswer
}

// reserve takes the tokens for a call of t, or says when they may be there.
func (j *job) reserve(t *target) (*accounting.Reservation, time.Duration) {
	var tokens int64
	if !t.local() {
		tokens = tokensOf(j.req)
	}
	return j.s.ledger.ReserveFor(accounting.Key{Provider: t.Name(), Model: t.model, Tenant: j.info.Owner}, j.info.Credential, tokens)
}

// admit waits until t may be called, and returns the pass, or a
// *protocol.Error that says why it can't be called soon, or the cause with
// which ctx ended.
func (j *job) admit(ctx context.Context, t *target) (*pass, error) {
	if !t.breaker.Ready() {
		return nil, shut(t)
	}
	p := new(pass)
	ok := false
	defer func() {
		if !ok {
			p.leave()
		}
	}()
	var waited time.Duration // for limits
	for {
		if err := j.admitLimits(ctx, t, p, &waited); err != nil {
			return nil, err
		}
		if err := j.admitPlace(ctx, t, p); err != nil {
			return nil, err
		}
		if t.pausedFor(time.Now()) == 0 {
			break
		}
		// Meanwhile the provider has told another job when to come back, which is
		// for all that wait for it.
		p.leave()
		*p = pass{}
	}
	// Last, since a permit that is held while waiting keeps others from
	// finding out whether the provider is back.
	permit, err := t.breaker.Allow()
	if err != nil {
		return nil, shut(t)
	}
	p.permit = permit
	ok = true
	return p, nil
}

// admitNow is admit without waiting: nil if t can't be called right now.
func (j *job) admitNow(t *target) *pass {
	if t.pausedFor(time.Now()) > 0 {
		return nil
	}
	p := new(pass)
	if p.reservation, _ = j.reserve(t); p.reservation == nil {
		return nil
	}
	var ok bool
	if p.place, ok = t.bulkhead.TryEnter(); !ok {
		p.leave()
		return nil
	}
	var err error
	if p.permit, err = t.breaker.Allow(); err != nil {
		p.permit = nil
		p.leave()
		return nil
	}
	return p
}

// shut says that t's breaker is open.
func shut(t *target) *protocol.Error {
	s := t.breaker.State()
	e := protocol.Errorf(protocol.CodeServiceUnavailable, "the provider is not asked for the moment, since it failed: %s", s.Why).WithProvider(t.Name())
	if wait := time.Until(s.NextProbe); !s.NextProbe.IsZero() && wait > 0 {
		e = e.WithRetryAfter(wait)
	}
	return e
}

// admitLimits waits until the provider's own limits, and ours, allow a call. It
// adds the time to waited, which it bounds.
func (j *job) admitLimits(ctx context.Context, t *target, p *pass, waited *time.Duration) error {
	var began, said time.Time
	for {
		wait := t.pausedFor(time.Now())
		if wait == 0 {
			p.reservation, wait = j.reserve(t)
		}
		if p.reservation != nil {
			if !began.IsZero() {
				j.s.opts.Observer.Waited(t.Name(), protocol.ReasonRateLimit, time.Since(began))
			}
			return nil
		}
		if wait > j.s.opts.RateLimitWait || *waited+wait > 2*j.s.opts.RateLimitWait {
			return protocol.Errorf(protocol.CodeRateLimited, "a rate limit keeps calls away for %v, and the longest wait is %v",
				wait.Round(time.Millisecond), j.s.opts.RateLimitWait).WithProvider(t.Name()).WithRetryAfter(wait)
		}
		now := time.Now()
		if began.IsZero() {
			began = now
		}
		if said.IsZero() || now.Sub(said) >= queuedEvery {
			said = now
			if err := j.queued(0, protocol.ReasonRateLimit, wait); err != nil {
				return err
			}
		}
		err := j.sleep(ctx, wait)
		if *waited += time.Since(now); err != nil {
			return err
		}
	}
}

// queuedEvery bounds how often a job that waits says so.
const queuedEvery = time.Second

// admitPlace waits for a place in t's bulkhead.
func (j *job) admitPlace(ctx context.Context, t *target, p *pass) error {
	place, err := t.bulkhead.Enter(j.info.Owner)
	if err != nil {
		e := protocol.Errorf(protocol.CodeOverloaded, "the provider's queue is full")
		if full, ok := errors.AsType[*resilience.FullError](err); ok {
			e = protocol.Errorf(protocol.CodeOverloaded, "%d analyses wait for the provider, which is the limit", full.Queue)
		}
		return e.WithProvider(t.Name()).WithRetryAfter(j.s.opts.OverloadRetryAfter)
	}
	p.place = place
	began, said := time.Now(), 0
	every := time.NewTimer(0) // the first time at once
	defer every.Stop()
	due, moved := false, true
	for {
		select {
		case <-place.Ready():
			if said > 0 {
				j.s.opts.Observer.Waited(t.Name(), protocol.ReasonConcurrency, time.Since(began))
			}
			return j.stops(ctx)
		default:
		}
		if n := place.Position(); due && moved && n > 0 {
			due, moved = false, false
			every.Reset(queuedEvery)
			if n != said {
				said = n
				if err := j.queued(n, protocol.ReasonConcurrency, 0); err != nil {
					return err
				}
			}
		}
		select {
		case <-place.Ready():
		case <-place.Moved():
			moved = true
		case <-every.C:
			due = true
		case <-j.orphan.C:
			j.checkOrphan()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stops returns why the job ends, where a drain ends all of them: the first that
// leave make places for those that are about to, who are not to begin.
func (j *job) stops(ctx context.Context) error {
	j.s.mu.Lock() // all are told under it
	stopped := j.s.stopped
	j.s.mu.Unlock()
	if stopped {
		return context.Cause(ctx)
	}
	return nil
}

// queued tells the clients that the job waits.
func (j *job) queued(position int, reason string, wait time.Duration) error {
	return wrote(j.w.Append(protocol.TypeQueued, &protocol.Queued{Position: position, Reason: reason, RetryAfterMS: wait.Milliseconds()}))
}

// sleep waits, no longer than ctx lasts.
func (j *job) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-j.orphan.C:
			j.checkOrphan()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
