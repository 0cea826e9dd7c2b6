package analysis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// Drain ends the service: no job starts any more, and those that run are
// waited for until ctx ends. Then they are handed over, with Options.HandOver and
// where their writers can, or else cancelled. It returns once every stream has
// its terminal event or belongs to another node, and every goroutine has ended.
// Its error is ctx's if jobs had to be cancelled, and it also says if providers
// did not return within AbortGrace and were left behind. Calling it again waits
// again.
func (s *Service) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.checkIdle()
	s.mu.Unlock()
	select {
	case <-s.idle:
		return s.settle()
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.stopped = true
	leaving, n := 0, -s.cut
	for _, j := range s.jobs {
		by := s.stopsBy(j)
		j.cancel(cancelled{by})
		if by == protocol.CancelDrain {
			n++
		} else {
			leaving++
		}
	}
	s.mu.Unlock()
	// A job's end takes at most the grace for its provider, the handing over, and
	// the tries to write its terminal event.
	limit := time.NewTimer(s.opts.AbortGrace + handOverTimeout + endTries*endRetryAfter + time.Second)
	defer limit.Stop()
	var late error
	select {
	case <-s.idle:
	case <-limit.C:
		s.mu.Lock()
		late = fmt.Errorf("%d goroutines did not end; calls that did not return, by provider: %v", s.busy, s.stuck)
		s.mu.Unlock()
	}
	s.mu.Lock()
	n += s.cut
	s.mu.Unlock()
	if late != nil {
		return errors.Join(s.cutShort(ctx, n), late)
	}
	if leaving > 0 && n == 0 { // all of them go on
		return s.settle()
	}
	return errors.Join(s.cutShort(ctx, n), s.settle())
}

// cutShort is the error of a drain that cancelled n jobs.
func (s *Service) cutShort(ctx context.Context, n int) error {
	return fmt.Errorf("drain cancelled %d jobs: %w", n, context.Cause(ctx))
}

// settle waits until the requests of the jobs that have ended are dropped, or
// given up.
func (s *Service) settle() error {
	limit := time.NewTimer(dropTries*dropTimeout + keepTimeout + time.Second)
	defer limit.Stop()
	select {
	case <-s.settled:
		return nil
	case <-limit.C:
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Errorf("the store of requests did not return, with %d of them", s.custodies)
	}
}
