package analysis

import (
	"context"
	"errors"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A job may end here though its stream goes on: because it was handed over to
// another node, or because another one has taken it over. Inside the package
// both are causes like that of a cancelled job, with these in the place of
// who cancelled it. No event says them.
const (
	leftHandedOver protocol.CancelReason = "handed_over"
	leftTakenOver  protocol.CancelReason = "taken_over"
)

// left reports whether a job that ended so leaves its stream to another node.
func left(by protocol.CancelReason) bool { return by == leftHandedOver || by == leftTakenOver }

// A handOverer is a Writer that can give its stream to another node.
type handOverer interface {
	// HandOver stores all that was written and lets any other node go on with the
	// stream. Once it has returned nil all writes fail; after an error nothing has
	// changed.
	HandOver(ctx context.Context) error
}

// handOverTimeout bounds the handing over of a job whose calls have ended: the
// wait until its request is kept, and the Writer's own part.
const handOverTimeout = 5 * time.Second

// isTakenOver reports whether a write failed since another node writes the
// stream now (see Writer).
func isTakenOver(err error) bool {
	e, ok := errors.AsType[interface {
		error
		TakenOver() bool
	}](err)
	return ok && e.TakenOver()
}

// TakenOver tells that another node writes the stream of a job that runs here:
// the job ends at once, and quietly. Without it the job finds out with its next
// event, and its provider works on until then.
func (s *Service) TakenOver(id string) {
	s.mu.Lock()
	j := s.jobs[id]
	s.mu.Unlock()
	if j != nil {
		j.cancel(cancelled{leftTakenOver})
	}
}

// stopsBy is how a drain whose time is up ends j.
func (s *Service) stopsBy(j *job) protocol.CancelReason {
	if _, ok := j.w.(handOverer); ok && s.opts.HandOver && s.keeping != nil {
		return leftHandedOver
	}
	return protocol.CancelDrain
}

// handOver gives j, whose calls have ended, to another node, and returns how it
// ended: as it was to, or, if it can't be handed over, cancelled.
//
// What the parser of findings and the seam still hold back is not written: it
// may be half a finding, or half a repetition. Whoever goes on has the model
// continue what the log says, and so say it again, or begin anew.
func (j *job) handOver(out outcome) outcome {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), handOverTimeout)
	defer cancel()
	s := j.s
	s.mu.Lock()
	interest := j.interest
	s.mu.Unlock()
	err := j.custody.ensure(ctx, max(interest, 1))
	if err == nil {
		if !s.leave(j) {
			out.cancelled = protocol.CancelClient
			return j.stay(out)
		}
		err = j.w.(handOverer).HandOver(ctx)
	}
	switch {
	case err == nil:
		return out
	case isTakenOver(err):
		out.cancelled = leftTakenOver
		return out
	}
	s.opts.Logger.Warn().Err(err).Str("stream", j.info.ID).Msg("an analysis could not be handed over, and is cancelled")
	s.mu.Lock()
	s.cut++
	s.mu.Unlock()
	out.cancelled = protocol.CancelDrain
	return j.stay(out)
}

// leave makes sure that no client's cancel is lost: who comes from now on is
// told that the job doesn't run here. It returns false if there was one that
// ends the job.
func (s *Service) leave(j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.interest <= 0 {
		return false
	}
	s.forget(j)
	return true
}

// stay has a job end here after all: then what was held back as a possible
// finding was said.
func (j *job) stay(out outcome) outcome {
	if j.answer == nil {
		return out
	}
	if by, ok := errors.AsType[cancelled](j.answer.finish(false)); ok && left(by.by) {
		out.cancelled = by.by
	}
	return out
}
