package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

var errClosed = errors.New("the stream was closed")

// A stream is one analysis. Its goroutine makes the chunks and hands them over
// one by one; nothing is made ahead beyond one chunk.
type stream struct {
	// Set by Stream, then read-only.
	ctx    context.Context // of the analysis: the caller's, and Close
	cancel context.CancelCauseFunc
	chunks chan providers.Chunk
	done   chan struct{} // closed when the goroutine has ended

	// Written by the goroutine before it closes done.
	failed *protocol.Error

	// Owned by the goroutine that calls Next.
	err error

	mu      sync.Mutex
	outcome providers.Outcome // guarded by mu
}

// Stream starts an analysis of req.Analysis, and puts its text behind
// req.Partial. Findings and progress come all the same: they are no text.
// Nothing else of req is read.
func (l *Local) Stream(ctx context.Context, req *providers.Request) (providers.Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("local analysis: %w", err)
	}
	if req == nil || req.Analysis == nil {
		return nil, protocol.Errorf(protocol.CodeInvalidRequest, "there is no code to analyse").WithProvider(l.name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{ctx: ctx, cancel: cancel, chunks: make(chan providers.Chunk), done: make(chan struct{})}
	s.outcome.Model = Model
	request, partial := *req.Analysis, req.Partial
	go func() {
		defer close(s.done)
		defer func() {
			if p := recover(); p != nil {
				s.failed = protocol.Errorf(protocol.CodeInternal, "the local analyser failed").WithProvider(l.name)
			}
		}()
		newRun(ctx, &request, partial, s.send).analyse()
	}()
	return s, nil
}

// send hands a chunk over, and reports whether more are wanted.
func (s *stream) send(c providers.Chunk) bool {
	select {
	case s.chunks <- c:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// Next returns the next chunk. It returns at once when the context ends, also
// while the analysis is in a step that can't be interrupted.
func (s *stream) Next() (providers.Chunk, error) {
	if s.err != nil {
		return providers.Chunk{}, s.err
	}
	if s.ctx.Err() != nil {
		return s.end(nil)
	}
	select {
	case c := <-s.chunks:
		return c, nil
	case <-s.ctx.Done():
		return s.end(nil)
	case <-s.done:
		return s.end(s.failed)
	}
}

func (s *stream) end(failed *protocol.Error) (providers.Chunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case failed != nil:
		s.err = failed
		s.outcome.Err = failed
		s.outcome.State = providers.StateError
	case s.ctx.Err() != nil:
		s.err = fmt.Errorf("local analysis: %w", s.ctx.Err())
		if cause := context.Cause(s.ctx); cause != s.ctx.Err() { //nolint:errorlint // the very same error or another
			s.err = fmt.Errorf("local analysis: %w: %w", s.ctx.Err(), cause)
		}
	default:
		s.err = io.EOF
		s.outcome.State = providers.StateComplete
		s.outcome.FinishReason = "stop"
	}
	return providers.Chunk{}, s.err
}

// Outcome says how the analysis ended.
func (s *stream) Outcome() providers.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outcome
}

// Close ends the analysis and waits for its goroutine, which looks up from its
// work at least every 100 ms or so.
func (s *stream) Close() error {
	s.cancel(errClosed)
	<-s.done
	return nil
}
