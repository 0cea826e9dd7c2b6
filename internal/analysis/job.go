package analysis

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/protocol"
)

// A job is one analysis. Its goroutine drives it from provider to provider (see
// drive) and ends the stream; each call of a provider has a goroutine of its
// own (see call), so that one that doesn't return can't hold up the end.
type job struct {
	// Set by Start or Resume, then read-only.
	s        *Service
	w        Writer
	req      *protocol.Request
	list     []*target // whom to ask, in this order
	fallback *target   // who answers if none of them does; nil for nobody
	info     Info
	key      shareKey      // zero if equal requests may not join it
	cacheKey shareKey      // zero if its answer is not to be kept
	limit    time.Duration // how long it may take; 0 for as long as it takes
	past     *past         // what it did on other nodes; nil for nothing
	custody  *custody      // keeps its request; nil where nobody does
	unoffer  func()        // withdraws it from requests of other nodes; may be called twice
	ctx      context.Context
	// cancel ends ctx; the first cause counts. It is a cancelled or an
	// *protocol.Error.
	cancel context.CancelCauseFunc
	leave  func() // of StartOptions.Admit; nil for nothing

	ready chan struct{} // closed when it has started, or could not
	spent spending

	// Guarded by the service's mu: how many clients have started or joined it,
	// and not cancelled.
	interest int
	// Guarded by the service's mu: until when those who have joined it are
	// waited for, however long nobody watches.
	expected time.Time

	// Set by drive, then read-only.
	src            *source
	system, prompt string

	// Owned by the job's goroutine.
	answer        *answer       // the newest; nil where nobody was asked
	orphanTimeout time.Duration // 0 where a job may run without viewers
	orphan        *time.Timer
}

// cancelled is the cause with which a job's context ends when it is to end as
// cancelled rather than failed.
type cancelled struct{ by protocol.CancelReason }

func (c cancelled) Error() string { return "cancelled by " + string(c.by) }

// A panicError is a panic that was caught.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// An outcome says how a job ended. Exactly one of completed, cancelled and err
// is set.
type outcome struct {
	completed *protocol.Completed
	cancelled protocol.CancelReason
	err       error
	// t is whose answer it is, or who was asked last; nil where nobody was.
	t *target
	// attempts is how many calls were made.
	attempts int
	// stuck says that the provider had not returned.
	stuck bool
}

// outcomeOf returns the outcome that an error, or a context's cause, means.
func outcomeOf(err error) outcome {
	if c, ok := errors.AsType[cancelled](err); ok {
		return outcome{cancelled: c.by}
	}
	return outcome{err: err}
}

// run does the job. Whatever happens, it ends the stream, or another node does.
func (j *job) run() {
	defer j.cancel(nil)
	if j.limit > 0 {
		total := time.AfterFunc(j.limit, func() {
			j.cancel(protocol.Errorf(protocol.CodeTimeout, "the analysis did not end within %v", j.s.opts.TotalTimeout))
		})
		defer total.Stop()
	}
	j.watchForOrphan()
	defer j.orphan.Stop()
	out := j.drive(j.ctx)
	j.s.shut(j) // who asks now wants an answer, and not how this one ended
	if out.cancelled == leftHandedOver {
		j.unoffer() // the next node offers it
		out = j.handOver(out)
	}
	ended := j.end(out)
	j.s.remove(j)
	j.custody.over(ended)
	j.unoffer()
}

// drive makes the calls and returns how the last one ended.
func (j *job) drive(ctx context.Context) (out outcome) {
	defer func() {
		if v := recover(); v != nil {
			out = outcome{err: &panicError{v, debug.Stack()}}
		}
	}()
	j.src = newSource(j.req.Code)
	j.system, j.prompt = prompts(j.req, j.info.Language, j.src)
	j.countLost()
	d := &drive{j: j, list: j.list, fallback: j.fallback, used: make(map[*target]bool), calls: make(map[*target]int)}
	if j.past != nil {
		d.attempts = j.past.attempts
	}
	res := d.run(ctx)
	err := res.err
	j.answer = d.answer
	if by, ok := errors.AsType[cancelled](err); d.answer != nil && !(ok && left(by.by)) {
		// What was held back as a possible finding was said, however the answer ended.
		if ferr := d.answer.finish(err == nil); ferr != nil && err == nil {
			err = ferr
		}
	}
	if err == nil {
		d.mark(&res)
		j.keep(d, res.completed)
		return outcome{completed: res.completed, t: res.t, attempts: d.attempts}
	}
	if e, ok := err.(*protocol.Error); ok && e.Code == protocol.CodeTimeout && e.Provider == "" && res.t != nil { //nolint:errorlint // the total timeout's itself
		err = e.WithProvider(res.t.Name())
	}
	out = outcomeOf(err)
	out.t, out.attempts, out.stuck = res.t, d.attempts, res.stuck
	return out
}

// orphanTimeout is how long a job for r goes on without viewers; 0 for as long
// as it takes.
func (s *Service) orphanTimeout(r *protocol.Request) time.Duration {
	server, asked := s.opts.OrphanTimeout, time.Duration(r.OrphanTimeout)
	if asked > 0 && (server < 0 || asked < server) {
		server = asked
	}
	return max(server, 0)
}

// watchForOrphan starts the timer that tells when to look for viewers.
func (j *job) watchForOrphan() {
	j.orphanTimeout = j.s.orphanTimeout(j.req)
	j.orphan = time.NewTimer(j.orphanTimeout)
	if j.orphanTimeout == 0 {
		j.orphan.Stop()
	}
}

// checkOrphan cancels the job if nobody has watched it for the orphan timeout,
// and otherwise looks again at the first moment at which that can be so: a
// viewer who leaves right now makes the job an orphan a whole timeout later.
func (j *job) checkOrphan() {
	n, since := j.w.Watchers()
	wait := j.orphanTimeout
	if n == 0 {
		// The job has run for the timeout by now, so a time before its start,
		// and the zero time, mean an orphan too.
		wait -= time.Since(since)
	}
	// Who has joined it is on the way.
	if wait = max(wait, j.s.expected(j)); wait <= 0 {
		j.cancel(cancelled{protocol.CancelOrphaned})
		return
	}
	j.orphan.Reset(wait)
}

// The terminal event is tried so often, with so much between.
const (
	endTries      = 4
	endRetryAfter = 100 * time.Millisecond
)

// end writes the terminal event, unless another node has the stream, and tells
// the log and the observer. It returns false if another node has it.
func (j *job) end(out outcome) (ended bool) {
	end := JobEnd{Info: j.info, Attempts: out.attempts, Usage: j.spent.sum()}
	if out.t != nil {
		end.Provider, end.Model = out.t.Name(), out.t.model
	}
	var data any
	if left(out.cancelled) {
		j.leaves(end, out)
		return false
	}
	switch {
	case out.completed != nil:
		end.Type, data = protocol.TypeCompleted, out.completed
		end.Model, end.Degraded = out.completed.Model, out.completed.Degraded
	case out.cancelled != "":
		end.Type, data = protocol.TypeCancelled, &protocol.Cancelled{By: out.cancelled}
		end.Cancelled = out.cancelled
	default:
		end.Type, end.Error = protocol.TypeFailed, protocol.AsError(out.err)
		data = &protocol.Failed{Error: end.Error}
	}
	var err error
	for try := range endTries {
		// It may be the data that can't be written. And completed says that all
		// text was, of which a write that failed leaves doubt.
		if try == endTries/2 || (try > 0 && end.Type == protocol.TypeCompleted) {
			out.err = fmt.Errorf("write %s: %w", end.Type, err)
			end.Type, end.Error, end.Cancelled = protocol.TypeFailed, protocol.AsError(out.err), ""
			data = &protocol.Failed{Error: end.Error}
		}
		if err = j.w.Append(end.Type, data); err == nil {
			break
		}
		if isTakenOver(err) {
			end.Type, end.Error, end.Cancelled, out.err, out.cancelled = "", nil, "", nil, leftTakenOver
			j.leaves(end, out)
			return false
		}
		if try < endTries-1 {
			<-time.After(endRetryAfter)
		}
	}
	end.Took = time.Since(j.info.Started)
	j.log(end, out, err)
	j.s.opts.Observer.JobEnded(end)
	return true
}

// leaves tells the log and the observer that the job has ended here, and its
// stream has not.
func (j *job) leaves(end JobEnd, out outcome) {
	end.HandedOver, end.TakenOver = out.cancelled == leftHandedOver, out.cancelled == leftTakenOver
	end.Took = time.Since(j.info.Started)
	log := &j.s.opts.Logger
	if end.TakenOver { // this node was taken for dead, which an operator should know
		log.Warn().Str("stream", end.ID).Str("request_id", end.RequestID).Dur("took", end.Took).
			Msg("another node has taken an analysis over that ran here")
	} else {
		log.Info().Str("stream", end.ID).Str("request_id", end.RequestID).Dur("took", end.Took).Msg("analysis handed over")
	}
	j.s.opts.Observer.JobEnded(end)
}

func (j *job) log(end JobEnd, out outcome, lost error) {
	log := &j.s.opts.Logger
	var e *zerolog.Event
	switch {
	case lost != nil:
		e = log.Error().AnErr("terminal_event_lost", lost)
	case end.Error != nil && end.Error.Code == protocol.CodeInternal:
		e = log.Error()
	case end.Error != nil:
		e = log.Warn()
	default:
		e = log.Info()
	}
	if cause := out.err; cause != nil {
		e = e.Err(cause)
		if p, ok := errors.AsType[*protocol.Error](cause); ok && p.Unwrap() != nil {
			e = e.AnErr("cause", p.Unwrap())
		}
		if p, ok := errors.AsType[*panicError](cause); ok {
			e = e.Bytes("stack", p.stack)
		}
	}
	if out.stuck {
		e = e.Bool("provider_stuck", true)
	}
	if end.Cancelled != "" {
		e = e.Str("by", string(end.Cancelled))
	}
	if end.Attempts > 1 {
		e = e.Int("attempts", end.Attempts)
	}
	if end.Degraded {
		e = e.Bool("degraded", true)
	}
	e.Str("stream", end.ID).Str("request_id", end.RequestID).Str("provider", end.Provider).Str("model", end.Model).
		Str("analysis", string(end.Analysis)).Str("end", string(end.Type)).Dur("took", end.Took).Msg("analysis ended")
}
