package openai

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// backgroundWaits are the times of an answer in the background.
type backgroundWaits struct {
	// Retry is waited for before a broken connection is replaced, and doubled
	// with each further try that brings no event.
	Retry time.Duration
	// Tries bounds those.
	Tries int
	// Poll is the time from one question after the answer to the next; it grows
	// by half with each, up to MaxPoll.
	Poll, MaxPoll time.Duration
	// Cancel bounds the call that cancels an answer nobody wants any more.
	Cancel time.Duration
}

var defaultBackgroundWaits = backgroundWaits{
	Retry: 100 * time.Millisecond, Tries: 5, Poll: 500 * time.Millisecond, MaxPoll: 5 * time.Second, Cancel: 2 * time.Second,
}

// maxRetryAfter bounds how long a provider may put off a try: the answer is
// waited for.
const maxRetryAfter = 30 * time.Second

// background asks for an answer that the vendor makes in the background: as
// events, or call.Whole, which it is then asked for again and again.
func (r *responses) background(ctx context.Context, call upstream.Call) (s providers.Stream, other bool, err error) {
	ctx2, cancel := context.WithCancel(ctx)
	b := &background{r: r, caller: ctx, ctx: ctx2, cancel: cancel, call: call, last: -1, fresh: true}
	call.Held = &b.held
	var requestID string
	if call.Whole {
		b.told, other, err = r.client.TryJSON(ctx, call)
	} else {
		b.conn, requestID, other, err = r.client.Open(ctx2, call)
	}
	if err != nil {
		cancel()
		return nil, other, err
	}
	// Whoever has the stream can cancel the answer, for which its id must be
	// known. It stands in the first event, which comes at once.
	if b.conn == nil {
		b.note(gjson.GetBytes(b.told, "id").String(), "")
	} else {
		ev, err := b.conn.Next()
		b.peeked = &peeked{ev, err}
		if err == nil {
			b.note(gjson.GetBytes(ev.Data, "response.id").String(), "")
		}
	}
	return r.client.Answer(ctx, cancel, requestID, b, call.Decoder, b.held), false, nil
}

// background is the upstream.Source of an answer that the vendor makes in the
// background. It gives each event once and in order: one that came already is
// dropped, and where one is missing it asks for those behind the last again.
// Where it can't have the events, it gives the answer's snapshots, of which the
// decoder tells what is new.
type background struct {
	// Set when it is made, then read-only.
	r      *responses
	caller context.Context
	ctx    context.Context // of all calls but the last
	cancel context.CancelFunc
	call   upstream.Call
	held   upstream.Held // the key that the answer was asked for with

	// Owned by the goroutine that calls Next.
	told   []byte  // a snapshot to give before anything else
	peeked *peeked // the first event, before it was asked for
	last   int64   // the newest event's number, -1 before the first
	fresh  bool    // no event came over this connection yet
	blind  bool    // the events have no numbers
	ended  bool    // nothing follows
	tries  int     // since the last event
	polls  int

	mu     sync.Mutex
	conn   upstream.Source // guarded by mu; nil while there is none, and always after closed
	id     string          // guarded by mu
	over   bool            // guarded by mu: the vendor has ended the answer
	closed bool            // guarded by mu
}

// Next implements upstream.Source.
func (b *background) Next() (upstream.Event, error) {
	for !b.ended {
		if data := b.told; data != nil {
			b.told = nil
			b.note(gjson.GetBytes(data, "id").String(), gjson.GetBytes(data, "status").String())
			return upstream.Event{Data: data}, nil
		}
		conn := b.connection()
		if conn == nil {
			if err := b.poll(); err != nil {
				return upstream.Event{}, err
			}
			continue
		}
		ev, err := b.read(conn)
		if err == nil {
			ok, err := b.take(ev.Data)
			if ok || err != nil {
				return ev, err
			}
			continue
		}
		if b.ctx.Err() != nil || b.blind || errors.Is(err, upstream.ErrEventTooLong) || b.responseID() == "" {
			return upstream.Event{}, err
		}
		if err := b.resume(err); err != nil {
			return upstream.Event{}, err
		}
	}
	if conn := b.connection(); conn != nil {
		return conn.Next() // the body's end, with which its connection can be used again
	}
	return upstream.Event{}, io.EOF
}

// peeked is what a Source's Next returned.
type peeked struct {
	ev  upstream.Event
	err error
}

// read takes the next event of conn.
func (b *background) read(conn upstream.Source) (upstream.Event, error) {
	if p := b.peeked; p != nil {
		b.peeked = nil
		return p.ev, p.err
	}
	return conn.Next()
}

// take notes what an event says, and reports whether it is the next one.
func (b *background) take(data []byte) (bool, error) {
	kind, number := gjson.GetBytes(data, "type").Str, gjson.GetBytes(data, "sequence_number")
	if number.Type != gjson.Number {
		b.blind = b.blind || kind != "" && kind != "error" // what stands outside of the order
	} else {
		n := number.Int()
		if n <= b.last {
			return false, nil
		}
		// What comes first after starting_after is what the server has next; a
		// jump later means that something was lost on the way.
		if n > b.last+1 && !b.fresh {
			return false, b.resume(errGap)
		}
		b.last, b.fresh, b.tries = n, false, 0
	}
	switch kind {
	case "response.created", "response.queued", "response.in_progress":
		b.note(gjson.GetBytes(data, "response.id").String(), "")
	case "response.completed", "response.incomplete", "response.failed", "response.cancelled":
		b.ended = true
		b.note("", "ended")
	case "error":
		b.ended = true
	}
	return true, nil
}

var errGap = errors.New("events of the answer are missing")

// note keeps the answer's id, and whether its status is an end.
func (b *background) note(id, status string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.id == "" {
		b.id = id
	}
	switch status {
	case "", "queued", "in_progress":
	default:
		b.over, b.ended = true, true
	}
}

func (b *background) responseID() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.id
}

func (b *background) connection() upstream.Source {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conn
}

// drop gives the connection up.
func (b *background) drop() { b.connect(nil) }

// connect replaces the connection.
func (b *background) connect(conn upstream.Source) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		_ = b.conn.Close() // it has failed
	}
	if b.conn = conn; b.closed && conn != nil {
		_ = conn.Close() // nobody reads it
		b.conn = nil
	}
}

// resume replaces a connection that broke because of cause: by one that begins
// behind the last event, or where the server gives none, by none.
func (b *background) resume(cause error) error {
	b.drop()
	var wait time.Duration
	for {
		if err := b.again(&wait); err != nil {
			return cause
		}
		call := b.question()
		call.Path += "?stream=true&starting_after=" + strconv.FormatInt(b.last, 10)
		call.Whole = false
		conn, _, refused, err := b.r.client.Open(b.ctx, call)
		var e *protocol.Error
		switch {
		case err == nil:
			b.connect(conn)
			b.fresh = true
			return nil
		case b.ctx.Err() != nil:
			return err
		case refused, errors.As(err, &e) && !e.Retryable:
			return nil // the question after the answer as a whole shows what is wrong
		default:
			wait = retryAfter(e)
		}
	}
}

// question is a call for what there is of the answer.
func (b *background) question() upstream.Call {
	return upstream.Call{Method: http.MethodGet, Path: responsesPath + "/" + url.PathEscape(b.responseID()), Model: b.call.Model,
		Limit: upstream.MaxWholeBytes, Whole: true, Held: &b.held}
}

// retryAfter is how long the provider asks to wait; e may be nil.
func retryAfter(e *protocol.Error) time.Duration {
	if e == nil {
		return 0
	}
	return time.Duration(e.RetryAfterMS) * time.Millisecond
}

var errTries = errors.New("too many tries")

// again waits before a further try, for at least the time that is asked for. It
// fails after the last.
func (b *background) again(wait *time.Duration) error {
	if b.tries == b.r.times.Tries {
		return errTries
	}
	d := max(b.r.times.Retry<<b.tries, min(*wait, maxRetryAfter))
	b.tries++
	*wait = 0
	return b.sleep(d)
}

func (b *background) sleep(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// poll waits, and asks for the answer as it is now.
func (b *background) poll() error {
	if b.responseID() == "" {
		return io.EOF // there is nothing to ask for
	}
	d := b.r.times.Poll
	for range min(b.polls, 16) {
		d = min(d*3/2, b.r.times.MaxPoll)
	}
	b.polls++
	if err := b.sleep(d); err != nil {
		return err
	}
	data, err := b.r.client.JSON(b.ctx, b.question())
	if err == nil {
		b.told, b.tries = data, 0
		return nil
	}
	var e *protocol.Error
	if b.ctx.Err() != nil || errors.As(err, &e) && !e.Retryable {
		return err
	}
	wait := retryAfter(e)
	if b.again(&wait) != nil {
		return err
	}
	return nil
}

// Close implements upstream.Source. An answer that still runs is cancelled,
// since the vendor would go on with it, and charge for it.
func (b *background) Close() error {
	b.cancel()
	b.mu.Lock()
	b.closed = true
	if b.conn != nil {
		_ = b.conn.Close() // its end is of no interest
		b.conn = nil
	}
	id, over := b.id, b.over
	b.mu.Unlock()
	if id == "" || over {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.caller), b.r.times.Cancel)
	defer cancel()
	_, err := b.r.client.JSON(ctx, upstream.Call{Path: responsesPath + "/" + url.PathEscape(id) + "/cancel", Model: b.call.Model, Held: &b.held})
	return err
}
