package analysis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// A drive is a job's way from provider to provider until the answer is whole
// or nobody is left to ask. It belongs to the job's goroutine.
type drive struct {
	j        *job
	list     []*target // in the order of asking
	used     map[*target]bool
	calls    map[*target]int // made so far
	fallback *target         // nil where the request doesn't let it answer
	answer   *answer
	attempts int // calls made, the fallback's included
	degraded bool
	recalled bool // a cached answer was given

	last     *result // of the newest call; nil before the first
	failures []failure
	// whole says that a call that was to continue the answer was refused for
	// it: from now on answers begin anew.
	whole bool
	// refused says that a failure which ends the analysis came from a call beside
	// another: nobody is asked once that one has failed, too.
	refused bool
}

// A failure is why a target has not answered.
type failure struct {
	t *target
	e *protocol.Error
}

// next returns the target that comes next, nil if all have had their turn.
func (d *drive) next() *target {
	i := slices.IndexFunc(d.list, func(t *target) bool { return !d.used[t] })
	if i < 0 {
		return nil
	}
	return d.list[i]
}

// busy reports whether a call of t would have to wait for a place.
func (t *target) busy() bool {
	s := t.bulkhead.State()
	return s.Busy >= s.Workers || s.Queued > 0
}

// pass notes that t has its turn.
func (d *drive) pass(t *target) { d.used[t] = true }

// run asks until the answer is whole, the job ends or nobody is left.
func (d *drive) run(ctx context.Context) result {
	t := d.next()
	d.pass(t)
	if err := d.replay(); err != nil {
		return result{t: t, err: err}
	}
	for {
		if ctx.Err() != nil {
			return result{t: t, err: context.Cause(ctx)}
		}
		p, err := d.j.admit(ctx, t)
		if err != nil {
			refused, ok := errors.AsType[*protocol.Error](err)
			if !ok || ctx.Err() != nil || isWriteError(err) {
				return result{t: t, err: err}
			}
			d.failures = append(d.failures, failure{t, refused})
			if t = d.elsewhere(); t == nil {
				return d.over(refused)
			}
			continue
		}
		partial, err := d.begin(t)
		if err != nil {
			p.leave()
			return result{t: t, err: err}
		}
		res := d.j.race(ctx, d, t, p, attempt{n: d.attempts, partial: partial})
		d.last = &res
		if res.completed != nil || d.final(ctx, res.err) {
			return res
		}
		d.failed(res, partial != "")
		if t, err = d.decide(ctx, res, partial != ""); err != nil {
			return result{t: res.t, err: err}
		}
		if t == nil {
			return d.over(protocol.AsError(d.last.err))
		}
	}
}

func isWriteError(err error) bool {
	_, is := errors.AsType[writeError](err)
	return is
}

// final reports whether err ends the job and not only an attempt.
func (d *drive) final(ctx context.Context, err error) bool {
	_, isCancelled := errors.AsType[cancelled](err)
	return isCancelled || ctx.Err() != nil || isWriteError(err)
}

// elsewhere returns who is asked next; nil if there is nobody.
func (d *drive) elsewhere() *target {
	if d.attempts < d.j.s.opts.MaxAttempts {
		if t := d.next(); t != nil {
			d.pass(t)
			return t
		}
	}
	if len(d.failures) > 0 && !d.any(mayDegrade) {
		return nil
	}
	if t := d.recall(); t != nil {
		return t
	}
	return d.degrade()
}

// any reports whether one of the failures is such a one: another provider's
// refusal is no reason not to help where one could not be reached.
func (d *drive) any(such func(*protocol.Error) bool) bool {
	return slices.ContainsFunc(d.failures, func(f failure) bool { return such(f.e) })
}

// degrade returns the offline analyser, if it may answer and has not yet.
func (d *drive) degrade() *target {
	t := d.fallback
	d.fallback, d.degraded = nil, d.degraded || t != nil
	return t
}

// mark says in a completed answer what kind of one it is.
func (d *drive) mark(res *result) {
	c := res.completed
	if r, ok := res.t.Provider.(*recalled); ok {
		c.Cached, c.Stale = true, true
		c.Provider, c.Usage = r.answer.Provider, r.answer.Usage
		return
	}
	c.Degraded = d.degraded && res.t.local()
}

// count counts a call of t.
func (d *drive) count(t *target) {
	d.attempts++
	if d.calls[t]++; d.calls[t] == 1 {
		t.budget.Called()
	}
}

// begin prepares a call of t: it counts it, tells the clients of the turn from
// the one before, and returns what t is to continue.
func (d *drive) begin(t *target) (partial string, err error) {
	d.count(t)
	from, reason := d.before()
	if from == nil {
		d.answer = d.j.newAnswer(t)
		return "", nil
	}
	said := d.answer != nil && d.answer.content
	if d.answer != nil {
		d.answer.breakOff()
	}
	if said && d.j.s.opts.AfterContent == AfterContentContinue && !d.whole && !t.local() {
		partial = d.answer.partial()
	}
	told := d.last == nil && from == t // by the failover with which the job was resumed
	if !told && (said || from != t) {
		if err := d.j.failedOver(from.Name(), t, d.attempts, reason, said && partial == ""); err != nil {
			return "", err
		}
	}
	if partial == "" {
		d.answer = d.j.newAnswer(t)
	}
	return partial, nil
}

// before returns whom clients take for the one that is asked, nil for nobody, and
// the code of the error that ended that.
func (d *drive) before() (from *target, reason string) {
	switch {
	case d.last != nil:
		return d.last.t, string(protocol.AsError(d.last.err).Code)
	case d.j.past == nil:
		return nil, ""
	case len(d.failures) > 0: // it could not be called
		reason = string(d.failures[len(d.failures)-1].e.Code)
	}
	return d.j.past.announced, reason
}

// failedOver tells the clients and the observer that t takes over.
func (j *job) failedOver(from string, t *target, n int, reason string, discard bool) error {
	j.s.opts.Observer.FailedOver(from, t.Name(), reason)
	return wrote(j.w.Append(protocol.TypeFailover, &protocol.Failover{From: from, To: t.Name(), Attempt: n, Reason: reason, Discard: discard}))
}

// failed takes a failure to the records. continued says that the call was to
// continue an answer, so that more than the code may have been too long.
func (d *drive) failed(res result, continued bool) {
	e := protocol.AsError(res.err)
	d.failures = append(d.failures, failure{res.t, e})
	if blameFor(e, res.silent).longer && !continued {
		d.list = d.j.s.larger(res.t, d.j.req)
	}
	for _, t := range d.list { // which may be new, with further models of who was to blame before
		if d.blamed(t.candidate) {
			d.pass(t)
		}
	}
}

// blamed reports whether one of the failures was the provider's as a whole.
func (d *drive) blamed(c *candidate) bool {
	return slices.ContainsFunc(d.failures, func(f failure) bool { return f.t.candidate == c && blameFor(f.e, false).provider })
}

// decide returns who is asked after a failure, once it is time to; nil if
// nobody is. The error is ctx's cause, or the stream's.
func (d *drive) decide(ctx context.Context, res result, continued bool) (*target, error) {
	e := protocol.AsError(res.err)
	b := blameFor(e, res.silent)
	if continued && (e.Code == protocol.CodeInvalidRequest || e.Code == protocol.CodeContextTooLong) {
		// It can't take the beginning of an answer, or not so much beside the
		// code. The client asked for no such thing, and never sees this.
		d.whole = true
		d.failures = d.failures[:len(d.failures)-1] // before it is why there was a beginning
		if d.attempts < d.j.s.opts.MaxAttempts {
			return res.t, nil
		}
		*d.last = result{t: res.t, err: d.failures[len(d.failures)-1].e, stuck: res.stuck}
		return d.elsewhere(), nil
	}
	if d.refused {
		return nil, nil
	}
	named := time.Duration(e.RetryAfterMS) * time.Millisecond
	retry := false
	switch d.j.s.opts.recovery(res.err) {
	case StrategyFail:
		return nil, nil
	case StrategyDegrade:
		return d.degrade(), nil
	case StrategyRetry, StrategyQueue:
		retry = true
	case StrategyFailover:
		retry = e.Retryable && d.next() == nil // there is nobody else: once more, then
	}
	if retry && !b.target && named <= d.j.s.opts.RateLimitWait && d.mayRetry(res.t) {
		return res.t, d.again(ctx, res, e, named)
	}
	return d.elsewhere(), nil
}

// mayRetry reports whether t may be asked again, and takes that from its
// budget.
func (d *drive) mayRetry(t *target) bool {
	limit := d.j.s.opts.MaxRetries
	if d.next() != nil {
		limit = min(limit, 1)
	}
	return d.attempts < d.j.s.opts.MaxAttempts && d.calls[t] <= limit && t.breaker.Ready() && t.budget.Take()
}

// again tells the clients that the same provider will be asked again, and
// waits until it is time.
func (d *drive) again(ctx context.Context, res result, e *protocol.Error, named time.Duration) error {
	j := d.j
	wait := named
	if wait == 0 {
		wait = j.s.opts.RetryBackoff.Delay(d.calls[res.t])
	}
	j.s.opts.Observer.Retried(res.t.Name(), e.Code)
	err := wrote(j.w.Append(protocol.TypeRetrying, &protocol.Retrying{Provider: res.t.Name(), Attempt: d.attempts + 1, AfterMS: wait.Milliseconds(), Error: e}))
	if err != nil {
		return err
	}
	if e.Code == protocol.CodeRateLimited {
		if err := j.queued(0, protocol.ReasonRateLimit, wait); err != nil {
			return err
		}
		began := time.Now()
		defer func() { j.s.opts.Observer.Waited(res.t.Name(), protocol.ReasonRateLimit, time.Since(began)) }()
	}
	return j.sleep(ctx, wait)
}

// over returns the end of a job whom nobody answered: the last error if that is
// a content filter's, which decides, and otherwise the first, which is that of
// the provider that was preferred, with what the others said.
func (d *drive) over(last *protocol.Error) result {
	res := result{err: last}
	if d.last != nil {
		res.t, res.stuck = d.last.t, d.last.stuck
		if protocol.AsError(d.last.err) == last {
			res.err = d.last.err // with what only the log should tell
		}
	}
	if len(d.failures) == 0 || last.Code == protocol.CodeContentFiltered {
		return res
	}
	first := d.failures[0]
	var also []string
	told := map[string]bool{first.t.Name(): true}
	retryable, after := first.e.Retryable, first.e.RetryAfterMS
	for _, f := range d.failures[1:] {
		retryable = retryable || f.e.Retryable
		if n := f.e.RetryAfterMS; n > 0 && (after == 0 || n < after) {
			after = n
		}
		if !told[f.t.Name()] {
			told[f.t.Name()] = true
			also = append(also, fmt.Sprintf("%s: %s", f.t.Name(), f.e.Code))
		}
	}
	if len(also) == 0 {
		return res
	}
	e := *first.e
	e.Detail += "; nor did others answer (" + strings.Join(also, ", ") + ")"
	e.Retryable, e.RetryAfterMS = retryable, after
	res.err = &e
	return res
}

// request returns what t is asked.
func (j *job) request(t *target, partial string) *providers.Request {
	n := j.req.Options.MaxTokens
	if most := t.info.MaxOutputTokens; n > most && most > 0 {
		n = most
	}
	return &providers.Request{Analysis: j.req, Model: t.model, System: j.system, Prompt: j.prompt,
		MaxTokens: n, Partial: partial, RequestID: j.info.RequestID}
}
