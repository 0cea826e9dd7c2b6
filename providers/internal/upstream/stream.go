package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

const (
	// TailWait is how long an answer that is whole waits for what may follow
	// its end: usage, an end marker, the end of the body. Some servers send
	// usage a moment after finish_reason, some never.
	TailWait = 2 * time.Second
	// DrainWait is how long it waits when only the end of the body is missing,
	// which comes with the end marker: the connection can be used again only
	// after it, and a new one costs a TLS handshake.
	DrainWait = 50 * time.Millisecond
)

// A Mark is what an event says of the place in the answer.
type Mark uint8

// The marks.
const (
	// More follows.
	More Mark = iota
	// Whole: the answer is whole, but news about it may follow.
	Whole
	// Last: the answer is whole, and nothing of interest follows.
	Last
)

// A Decoder turns a dialect's events into chunks. It is used by one goroutine.
type Decoder interface {
	// Decode appends the chunks of one event to out. The data is valid UTF-8,
	// and it is valid JSON or else the dialect's end marker (see Literal).
	// What Decode keeps of it must be copied; chunks may share one copy. An
	// error ends the answer; the chunks that came with it are still delivered.
	Decode(ev Event, out []providers.Chunk) ([]providers.Chunk, Mark, *protocol.Error)
	// Literal is data that is no JSON but has a meaning, such as "[DONE]".
	Literal() string
	// Outcome returns what is known of the answer: finish reason, model, usage.
	Outcome() providers.Outcome
}

// A Source gives the events of one answer, however they come.
type Source interface {
	// Next returns the next event, which is valid until the next call. The error
	// is io.EOF where the answer's bytes ended as they should, whole or not,
	// ErrEventTooLong, or what broke the connection. It is called by one
	// goroutine, and not again after an error.
	Next() (Event, error)
	// Close releases the connection, and makes a Next that waits return. It is
	// called once, from any goroutine.
	Close() error
}

// A Stream is an answer that a Decoder makes out of a Source's events. It is
// the providers.Stream of every dialect.
type Stream struct {
	// Set when it is made, then read-only.
	name      string
	requestID string
	ctx       context.Context // the caller's
	cancel    context.CancelFunc
	abrupt    bool // nothing comes behind the last event, not even an end
	closed    atomic.Bool
	closing   sync.Once

	// Owned by the goroutine that calls Next; Close of events is anyone's.
	events  Source
	decoder Decoder
	queue   []providers.Chunk
	next    int
	whole   bool
	tail    *time.Timer
	err     error
	outcome providers.Outcome
}

var _ providers.Stream = (*Stream)(nil)

// NewStream returns the answer that b holds. Calling cancel must make a
// read of b return soon; the Stream calls it when it has ended, and it
// closes b. ctx is the caller's, to tell its end from other failures.
func NewStream(ctx context.Context, cancel context.CancelFunc, name, requestID string, b io.ReadCloser, d Decoder) *Stream {
	return NewSourceStream(ctx, cancel, name, requestID, &body{NewEventReader(b), b}, d)
}

// NewSourceStream is NewStream for events from elsewhere.
func NewSourceStream(ctx context.Context, cancel context.CancelFunc, name, requestID string, events Source, d Decoder) *Stream {
	return &Stream{name: name, requestID: requestID, ctx: ctx, cancel: cancel, events: events, decoder: d}
}

// body is the Source of an HTTP answer.
type body struct {
	*EventReader
	io.Closer
}

// Next implements providers.Stream.
func (s *Stream) Next() (providers.Chunk, error) {
	for {
		if s.next < len(s.queue) {
			c := s.queue[s.next]
			s.next++
			return c, nil
		}
		if s.err != nil {
			return providers.Chunk{}, s.err
		}
		s.queue, s.next = s.queue[:0], 0
		s.read()
	}
}

// read takes one event: it fills the queue, or sets s.err, or neither.
func (s *Stream) read() {
	ev, err := s.events.Next()
	if err != nil {
		s.broken(err)
		return
	}
	var mark Mark
	var fail *protocol.Error
	if fail = s.check(ev.Data); fail == nil {
		s.queue, mark, fail = s.decoder.Decode(ev, s.queue)
	}
	switch {
	case fail != nil && s.whole: // what is wrong behind the end harms nobody
		s.end(providers.StateComplete, io.EOF, nil)
	case fail != nil:
		fail = fail.WithProvider(s.name)
		s.end(providers.StateError, fail, fail)
	case mark == Whole && !s.whole:
		s.whole = true
		s.tail = time.AfterFunc(TailWait, s.cancel)
	case mark == Last && s.abrupt:
		s.end(providers.StateComplete, io.EOF, nil)
	case mark == Last:
		s.whole = true
		if s.tail == nil {
			s.tail = time.AfterFunc(DrainWait, s.cancel)
		} else {
			s.tail.Reset(DrainWait)
		}
	}
}

// check returns an error for data that a decoder must not see. gjson takes
// what it finds in a text that is not JSON, so a malformed chunk would pass as
// a garbled one.
func (s *Stream) check(data []byte) *protocol.Error {
	if string(data) == s.decoder.Literal() {
		return nil
	}
	return wellFormed(data)
}

// wellFormed returns an error for data that is not a JSON object.
func wellFormed(data []byte) *protocol.Error {
	if !utf8.Valid(data) || !protocol.ValidJSON(data) || bytes.TrimLeft(data, " \t\r\n")[0] != '{' {
		return protocol.Errorf(protocol.CodeInvalidResponse, "a chunk of the answer is malformed")
	}
	return nil
}

// broken ends the answer after a read failed.
func (s *Stream) broken(err error) {
	switch {
	case s.whole:
		s.end(providers.StateComplete, io.EOF, nil)
	case s.ctx.Err() != nil:
		e := contextError(s.ctx).WithProvider(s.name)
		s.end(providers.StateTruncated, e, e)
	case s.closed.Load():
		e := s.interrupted("the answer was closed before its end: %w", net.ErrClosed)
		s.end(providers.StateTruncated, e, e)
	case errors.Is(err, ErrEventTooLong):
		e := protocol.Errorf(protocol.CodeInvalidResponse, "a chunk of the answer is larger than the limit").WithProvider(s.name)
		s.end(providers.StateError, e, e)
	case err == io.EOF: //nolint:errorlint // a reader that came to its end; a broken connection may wrap one
		s.end(providers.StateTruncated, io.EOF, s.interrupted("the answer ended without its end marker"))
	default:
		e := s.interrupted("the connection broke during the answer: %w", bare(err))
		s.end(providers.StateTruncated, e, e)
	}
}

func (s *Stream) interrupted(format string, args ...any) *protocol.Error {
	return protocol.Errorf(protocol.CodeStreamInterrupted, format, args...).WithProvider(s.name)
}

func (s *Stream) end(state providers.State, err error, cause *protocol.Error) {
	s.err = err
	s.outcome = s.decoder.Outcome()
	s.outcome.State = state
	s.outcome.Err = cause
	s.outcome.RequestID = s.requestID
	if s.tail != nil {
		s.tail.Stop()
	}
	s.release()
}

// release gives the connection back if it was read to its end, and else
// closes it.
func (s *Stream) release() {
	s.cancel()
	s.closing.Do(func() { _ = s.events.Close() }) // nothing of the answer hangs on it any more
}

// Outcome implements providers.Stream.
func (s *Stream) Outcome() providers.Outcome { return s.outcome }

// Close implements providers.Stream.
func (s *Stream) Close() error {
	if s.closed.CompareAndSwap(false, true) {
		s.release()
	}
	return nil
}
