package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const (
	// settled is how long a connection must have stood to count as a success
	// though it brought no event.
	settled = 5 * time.Second
	// maxStreamBytes bounds what is read of one stream in all.
	maxStreamBytes = 1 << 30
	// maxBlockBytes bounds one event on the wire, with what stands around it.
	maxBlockBytes = protocol.MaxEventBytes + 64<<10
	// firstSilence is how long a connection may say nothing before it has told
	// how often it will say something; then three heartbeats are allowed.
	firstSilence = 45 * time.Second
	minSilence   = 5 * time.Second
	maxSilence   = 5 * time.Minute
)

var (
	errSilent  = errors.New("the connection was silent for too long")
	errTooLong = fmt.Errorf("the stream is longer than %d bytes", maxStreamBytes)
	// errMoved ends a connection that another one replaces at once.
	errMoved = errors.New("the stream moves to another connection")
	// errEnough ends the following of a stream whose reader has enough.
	errEnough = errors.New("enough")
)

// silenceFor is how long a connection that promises a heartbeat may be silent.
func silenceFor(heartbeatMS int64) time.Duration {
	if heartbeatMS <= 0 || heartbeatMS >= maxSilence.Milliseconds() {
		return firstSilence
	}
	return min(max(3*time.Duration(heartbeatMS)*time.Millisecond, minSilence), maxSilence)
}

// An Event is one of a stream's, with its JSON as it came.
type Event struct {
	protocol.Event
	JSON []byte
}

// A Run is one stream as a client follows it. It is for one goroutine, except
// for ID and Cancel.
type Run struct {
	// Lost, where set, is told when a connection was lost and is about to be
	// replaced. Nothing is missing then.
	Lost func(err error)

	client *Client
	id     string
	seen   *protocol.Transcript

	retry *retry
	bytes int64
	take  func(*Event) error
}

// ID is the stream's id.
func (r *Run) ID() string { return r.id }

// Transcript is what was received so far.
func (r *Run) Transcript() *protocol.Transcript { return r.seen }

// Cancel asks the server to end the analysis; the terminal event tells when it
// has.
func (r *Run) Cancel(ctx context.Context) error { return r.client.Cancel(ctx, r.id) }

// Events yields each event once and in order, over as many connections as that
// takes, until the terminal one. An error is the last that it yields: ctx
// ended, the server broke a promise (a *protocol.PromiseError), it refuses the
// stream (a *protocol.Error), or could not be reached for the client's
// patience. Who leaves the loop may call Events again, and gets what follows.
// Leaving doesn't cancel the analysis.
func (r *Run) Events(ctx context.Context) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		r.take = func(e *Event) error {
			if !yield(e, nil) {
				return errEnough
			}
			return nil
		}
		if err := r.follow(ctx); err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// follow returns when the stream has ended, which r.seen tells, or can't be
// followed any more.
func (r *Run) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	closed := context.AfterFunc(r.client.ctx, func() { cancel(errors.New("the client was closed")) })
	defer closed()
	r.retry = newRetry(r.client.config.Patience)
	for r.seen.Terminal() == nil {
		began, from := time.Now(), r.seen.Cursor()
		connected, err := r.connect(ctx)
		lost, again := errors.AsType[*lostError](err)
		switch {
		case errors.Is(err, errEnough):
			return errEnough
		case r.seen.Terminal() != nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errMoved):
			continue
		case !again:
			return err
		}
		if r.seen.Cursor() > from || connected && time.Since(began) >= settled {
			r.retry.reset()
		}
		if r.Lost != nil {
			r.Lost(lost.err)
		}
		if !r.retry.wait(ctx, lost.after) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("the connection was lost after event %d and could not be resumed: %w", r.seen.Cursor(), lost.err)
		}
	}
	return nil
}

// accept takes an event that came. A nil ev is decoded here.
func (r *Run) accept(ev *protocol.Event, json []byte) error {
	if r.bytes += int64(len(json)); r.bytes > maxStreamBytes {
		return errTooLong
	}
	if ev == nil {
		ev = new(protocol.Event)
		if err := ev.UnmarshalJSON(json); err != nil {
			return fmt.Errorf("the server sent what is no event: %w", err)
		}
	}
	if ev.Stream != r.id {
		return fmt.Errorf("the server sent an event of another stream, %.60q", ev.Stream)
	}
	if err := r.seen.Apply(ev); err != nil {
		return err
	}
	return r.take(&Event{*ev, json})
}

// because returns the reason for which a connection was given up, where there
// is one, and err otherwise.
func because(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSilent):
		return &lostError{err: errSilent}
	case errors.Is(cause, errUnproven):
		return &unprovenError{err: &lostError{err: errUnproven}}
	case errors.Is(cause, errMoved):
		return errMoved
	default:
		return err
	}
}

// gone says of a refusal what it means to one who follows the stream.
func gone(err error) error {
	if e, ok := errors.AsType[*protocol.Error](err); ok && e.Code == protocol.CodeStreamNotFound {
		return fmt.Errorf("the server doesn't know this analysis any more: it was started anew, or has deleted it: %w", err)
	}
	return err
}
