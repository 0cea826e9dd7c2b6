package analysis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A race is the calls for one answer that run at the same time: one, and a
// second one when the first is slow (hedging). The first that has content gets
// the floor: from then on it alone writes to the stream, and the other is
// cancelled. Which one it is to be is not known before, so until then nothing
// of an answer is written.
type race struct {
	// Set by newRace, then read-only.
	j      *job
	answer *answer
	news   chan news // of calls, at most two each; never blocks

	mu     sync.Mutex
	calls  []*call // guarded by mu: those that run
	winner *call   // guarded by mu: who has the floor
	shown  *call   // guarded by mu: whom clients take for the one that is asked
}

// A news is that a call has returned, or that it has not although its context
// ended a while ago.
type news struct {
	call  *call
	stuck bool
}

// maxCalls is how many calls a race may make at once.
const maxCalls = 2

func newRace(j *job, a *answer) *race {
	return &race{j: j, answer: a, news: make(chan news, 2*(maxCalls+j.s.opts.MaxAttempts))}
}

// launch asks t. Nothing happens, and ok is false, if another call has the
// floor already.
func (r *race) launch(ctx context.Context, t *target, p *pass, a attempt) (ok bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.winner != nil {
		return false, nil
	}
	j := r.j
	if len(r.calls) == 0 {
		err = j.started(t, a.n)
	} else {
		err = wrote(j.w.Append(protocol.TypeProgress, &protocol.Progress{Stage: "asking " + t.Name() + ", too"}))
	}
	if err != nil {
		return false, err
	}
	c := j.newCall(ctx, r, t, p, a)
	if c.hedge = len(r.calls) > 0; !c.hedge {
		r.shown = c
	}
	r.calls = append(r.calls, c)
	if a.alone {
		r.winner = c
		r.answer.begin(a.n, t.prefills())
	}
	j.s.opts.Observer.CallStarted(t.Name(), t.model)

	// The race waits for the goroutine; if it has to leave it behind, the
	// service does (see call.abandon).
	grace := time.AfterFunc(time.Hour, func() { r.news <- news{c, true} })
	grace.Stop()
	overdue := context.AfterFunc(c.ctx, func() { grace.Reset(j.s.opts.AbortGrace) })
	go func() {
		defer func() { r.news <- news{c, false} }()
		defer func() {
			overdue()
			grace.Stop()
		}()
		defer c.leave()
		c.run()
	}()
	return true, nil
}

// started tells the clients that t is the one that is asked.
func (j *job) started(t *target, n int) error {
	return wrote(j.w.Append(protocol.TypeStarted, &protocol.Started{Provider: t.Name(), Model: t.model,
		Analysis: string(j.req.Analysis), Language: j.info.Language, Attempt: n}))
}

// handOver tells them that c is, in the place of the one before. Called with mu
// held.
func (r *race) handOver(c *call, reason string) error {
	from := r.shown.t
	r.shown = c
	if err := r.j.failedOver(from.Name(), c.t, c.attempt, reason, false); err != nil {
		return err
	}
	return r.j.started(c.t, c.attempt)
}

// win gives c the floor. It fails if another call has it.
func (r *race) win(c *call) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.winner == c {
		return nil
	}
	if r.winner != nil {
		return errOutrun
	}
	if c.ctx.Err() != nil { // its deadline has passed, or the job has ended
		return context.Cause(c.ctx)
	}
	r.winner = c
	r.answer.begin(c.attempt, c.t.prefills())
	for _, other := range r.calls {
		if other != c {
			other.cancel(errOutrun)
		}
	}
	if c == r.shown {
		return nil
	}
	return r.handOver(c, protocol.ReasonHedged)
}

// leave takes c, which has failed with a code, or has lost, out of the race. If
// another call was waiting beside it, that one takes over.
func (r *race) leave(c *call, failed protocol.Code) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = slices.DeleteFunc(r.calls, func(other *call) bool { return other == c })
	if failed == "" || r.winner != nil || c != r.shown || len(r.calls) == 0 {
		return nil
	}
	return r.handOver(r.calls[0], string(failed))
}

// won returns who has the floor.
func (r *race) won() *call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.winner
}

// running returns the calls that have not come to an end.
func (r *race) running() []*call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// An attempt is one try at an answer.
type attempt struct {
	n       int    // counts from 1
	partial string // what is to be continued
	alone   bool   // it has the floor from the beginning
}

// A result says how a call, and with it the answer, came to its end.
type result struct {
	t         *target
	completed *protocol.Completed
	err       error
	silent    bool // a deadline of ours ended it
	stuck     bool // the provider had not returned
}

// race asks t, and others beside it while it is slow, and returns how the
// answer came to its end: the result of the call that had the floor, or of the
// last one that failed. Those that failed before it have been told to d. It
// returns soon after ctx ends, even if the providers don't.
func (j *job) race(ctx context.Context, d *drive, t *target, p *pass, a attempt) result {
	r := newRace(j, d.answer)
	// Those that still run when it is over have lost, also where it ends by a
	// panic: what they hold is given back.
	defer func() {
		for _, c := range r.running() {
			c.cancel(errOutrun)
			j.conclude(r, c, c.abandon())
		}
	}()
	hedges := j.mayHedge(a) && t.entry.HedgeAfter > 0 && !t.local() && d.next() != nil
	// Where nobody is going to be asked beside it, what is no content need not
	// wait.
	a.alone = !hedges
	if _, err := r.launch(ctx, t, p, a); err != nil {
		p.leave()
		return result{t: t, err: err}
	}
	hedge := time.NewTimer(time.Hour)
	hedge.Stop()
	defer hedge.Stop()
	if hedges {
		hedge.Reset(t.entry.HedgeAfter)
	}
	for {
		select {
		case n := <-r.news:
			res, over := j.heard(r, n, d)
			if over {
				return res
			}
			switch {
			case !hedges || res.err == nil || r.won() != nil: // who is outrun has not failed
			case j.s.opts.recovery(res.err) == StrategyFail: // who runs may answer, and nobody else
				hedges, d.refused = false, true
				hedge.Stop()
			default:
				hedge.Reset(0) // there is one less to wait for
			}
		case <-hedge.C:
			if next := j.hedge(ctx, d, r); next != nil {
				t = next
			}
			if t.entry.HedgeAfter > 0 {
				hedge.Reset(t.entry.HedgeAfter)
			}
		case <-j.orphan.C:
			j.checkOrphan()
		}
	}
}

// heard takes the news of a call, and says whether the race is over.
func (j *job) heard(r *race, n news, d *drive) (res result, over bool) {
	c := n.call
	stuck := n.stuck && c.abandon()
	if n.stuck && !stuck {
		return result{}, false // it has returned in the meantime; that news follows
	}
	if !r.runs(c) {
		return result{}, false // it was concluded when it was overdue
	}
	res = j.conclude(r, c, stuck)
	winner := r.won()
	if winner == c || (len(r.running()) == 0 && winner == nil) {
		return res, true
	}
	if winner == nil && !errors.Is(res.err, errOutrun) {
		d.failed(res, false) // a call that continues an answer runs alone
	}
	return res, false
}

// runs reports whether c has not been concluded yet.
func (r *race) runs(c *call) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.calls, c)
}

// conclude ends c's part in the race, and tells everybody who keeps count.
func (j *job) conclude(r *race, c *call, stuck bool) result {
	res := result{t: c.t, stuck: stuck}
	res.completed, res.err = c.conclude()
	took := time.Since(c.began)
	end := CallEnd{Provider: c.t.Name(), Model: c.model, Took: took, Stuck: stuck}
	outrun := errors.Is(res.err, errOutrun)
	by, isCancelled := errors.AsType[cancelled](res.err)
	code := protocol.Code("")
	switch {
	case res.err == nil:
		c.t.health.ended(false, true)
	case isCancelled:
		end.Cancelled = by.by
		c.pass.permit.Ignore()
	case outrun:
		end.Outrun = true
		j.judgeOutrun(c, took)
	default:
		_, res.silent = errors.AsType[silenceError](res.err)
		end.Error = protocol.AsError(res.err)
		code = end.Error.Code
		if _, own := errors.AsType[writeError](res.err); own || j.ended(c) {
			c.pass.permit.Ignore()
			break
		}
		j.judge(c, end.Error, res.silent)
	}
	end.Usage = c.settle()
	j.spent.add(end.Usage)
	if res.completed != nil {
		res.completed.Usage = end.Usage
	}
	if winner := r.won(); c.hedge && (outrun || winner == c) {
		j.s.opts.Observer.Hedged(c.t.Name(), winner == c)
	}
	if err := r.leave(c, code); err != nil && res.err != nil {
		res.err = err
	}
	c.cancel(nil)
	j.s.opts.Observer.CallEnded(end)
	return res
}

// ended reports whether it was the job's end that ended c.
func (j *job) ended(c *call) bool {
	return j.ctx.Err() != nil && context.Cause(c.ctx) == context.Cause(j.ctx) //nolint:errorlint // the very same
}

// judge tells the breaker and the health of c's target of its failure.
func (j *job) judge(c *call, e *protocol.Error, silent bool) {
	if !blameFor(e, silent).counts {
		c.pass.permit.Ignore()
		return
	}
	c.pass.permit.Failure(e)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.health.ended(true, c.heard)
}

// judgeOutrun tells the breaker of c's target that another one was faster.
func (j *job) judgeOutrun(c *call, took time.Duration) {
	switch soft, slow := c.t.entry.HedgeAfter, j.s.opts.Breaker.SlowAfter; {
	case slow > 0 && took > slow:
		c.pass.permit.Success(took) // which it counts as slow
	case !c.hedge && soft > 0 && took >= soft:
		// Else one that never says a word would be waited for again and again,
		// since no deadline comes to pass before the other's answer.
		c.pass.permit.Failure(fmt.Errorf("nothing of an answer came within %v, and another provider's did", took.Round(time.Millisecond)))
	default:
		c.pass.permit.Ignore() // that another was faster is no sign of life
	}
}

// mayHedge reports whether another provider may be asked beside a slow one.
func (j *job) mayHedge(a attempt) bool {
	if h := j.req.Options.Hedge; h != nil && !*h {
		return false
	}
	return a.partial == ""
}

// hedge asks the next provider beside those that run, and returns it; nil if
// there is none that can be asked right now.
func (j *job) hedge(ctx context.Context, d *drive, r *race) *target {
	if ctx.Err() != nil || d.attempts >= j.s.opts.MaxAttempts || r.won() != nil || len(r.running()) >= maxCalls {
		return nil
	}
	for _, t := range d.list {
		if d.used[t] {
			continue
		}
		p := j.admitNow(t)
		if p == nil {
			continue // its turn may come later
		}
		if ok, err := r.launch(ctx, t, p, attempt{n: d.attempts + 1}); !ok || err != nil {
			p.leave() // the stream's writer tells the call that runs, too
			return nil
		}
		d.pass(t)
		d.count(t)
		return t
	}
	return nil
}
