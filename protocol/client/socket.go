package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/protocol"
)

const (
	// maxMessageBytes bounds one message: many events may be in it.
	maxMessageBytes = 64 << 20
	// maxWaiting is how much of a stream waits for its reader; then the
	// subscription ends, and begins again once the reader has come that far.
	maxWaiting = 2 << 20
	// commandTimeout bounds a command and its answer.
	commandTimeout = 20 * time.Second
)

var errUnproven = errors.New("no welcome came in time")

// A socket is a WebSocket that streams share.
type socket struct {
	// Set by dial, then read-only.
	client     *Client
	conn       *websocket.Conn
	token      Token
	maxStreams int
	ctx        context.Context
	cancel     context.CancelCauseFunc
	done       chan struct{} // closed when nothing of it runs any more
	tasks      sync.WaitGroup

	// Owned by the reader.
	after time.Duration // the hint of a reconnect message

	mu      sync.Mutex
	subs    map[string]*subscription          // guarded by mu: by stream; nil once it is lost
	answers map[string]chan *protocol.Message // guarded by mu: by the command's id
	ids     uint64                            // guarded by mu
	err     error                             // guarded by mu: why it was lost
}

// A subscription is a stream's part of a socket.
type subscription struct {
	stream string
	wake   chan struct{} // has room for one

	// Guarded by the socket's mu.
	command string // the id of its subscribe
	live    bool   // what comes is this subscription's, and not an earlier one's
	waiting []Event
	bytes   int
	err     error         // after waiting
	left    chan struct{} // nil until its run has left; closed when the server has confirmed that
}

// dial returns the socket that there is, or a new one that has said welcome.
func (c *Client) dial(ctx context.Context, probe time.Duration) (*socket, error) {
	began := time.Now()
	select {
	case c.dialling <- struct{}{}:
		defer func() { <-c.dialling }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	s, err, errAt := c.socket, c.dialErr, c.dialErrAt
	c.mu.Unlock()
	switch {
	case c.ctx.Err() != nil:
		return nil, context.Cause(c.ctx)
	case s != nil && s.ctx.Err() == nil:
		return s, nil
	case err != nil && errAt.After(began):
		return nil, err // another one has just tried
	}
	s, err = c.dialNew(ctx, probe)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.socket = s
	} else if ctx.Err() == nil {
		c.dialErr, c.dialErrAt = err, time.Now()
	}
	return s, err
}

func (c *Client) dialNew(ctx context.Context, probe time.Duration) (*socket, error) {
	if probe == 0 {
		probe = firstSilence
	}
	limited, cancel := context.WithTimeoutCause(ctx, probe, errUnproven)
	defer cancel()
	s := &socket{client: c, done: make(chan struct{}), subs: make(map[string]*subscription), answers: make(map[string]chan *protocol.Message)}
	s.ctx, s.cancel = context.WithCancelCause(c.ctx)
	alive := make(chan struct{}, 1)
	opts := &websocket.DialOptions{HTTPClient: c.http, Subprotocols: []string{protocol.Version}, HTTPHeader: make(http.Header),
		OnPingReceived: func(context.Context, []byte) bool {
			select {
			case alive <- struct{}{}:
			default:
			}
			return true
		}}
	for first := true; ; first = false {
		var err error
		if s.token, err = c.tokens.token(ctx); err != nil {
			s.cancel(err)
			return nil, fmt.Errorf("get a token: %w", err)
		}
		c.identify(opts.HTTPHeader, s.token.Value)
		var res *http.Response
		s.conn, res, err = websocket.Dial(limited, c.url("v1", "ws").String(), opts) //nolint:bodyclose // Dial closes it
		if err == nil {
			break
		}
		err = dialFailed(limited, res, err)
		if first && unauthorized(err) && c.tokens.refuse(ctx, s.token.Value) {
			continue
		}
		s.cancel(err)
		return nil, err
	}
	s.conn.SetReadLimit(maxMessageBytes)
	_, message, err := s.conn.Read(limited)
	var w protocol.Welcome
	switch {
	case err != nil:
		if err = s.ending(err); !final(err) {
			err = &unprovenError{err: &lostError{err: fmt.Errorf("the WebSocket did not prove itself: %w", plain(err))}}
		}
	case json.Unmarshal(message, &w) != nil || w.Type != protocol.MessageWelcome:
		err = &unprovenError{err: fmt.Errorf("the WebSocket begins with %.60q, not with a welcome", message)}
	}
	if err != nil {
		_ = s.conn.CloseNow()
		s.cancel(err)
		return nil, err
	}
	s.maxStreams = w.MaxStreams
	go s.run(silenceFor(w.HeartbeatMS), alive)
	return s, nil
}

// final reports whether an error ends what it happens to.
func final(err error) bool {
	_, lost := errors.AsType[*lostError](err)
	return !lost
}

// dialFailed says what a WebSocket that didn't come to be means.
func dialFailed(ctx context.Context, res *http.Response, err error) error {
	if errors.Is(context.Cause(ctx), errUnproven) {
		err = errUnproven
	}
	if res == nil || res.StatusCode == http.StatusSwitchingProtocols {
		return &unprovenError{err: &lostError{err: err}}
	}
	if res.StatusCode < 300 {
		return &unprovenError{err: &foreignError{fmt.Sprintf("the answer is %d, not a WebSocket", res.StatusCode)}}
	}
	return refused(refusal(res))
}

// run reads until the connection ends.
func (s *socket) run(allowed time.Duration, alive <-chan struct{}) {
	defer close(s.done)
	defer s.tasks.Wait()
	silence := time.AfterFunc(allowed, func() { s.cancel(errSilent) })
	defer silence.Stop()
	s.tasks.Go(func() {
		for {
			select {
			case <-alive:
				silence.Reset(allowed)
			case <-s.ctx.Done():
				return
			}
		}
	})
	s.tasks.Go(s.renewTokens)
	for {
		_, message, err := s.conn.Read(s.ctx)
		if err == nil {
			silence.Reset(allowed)
			err = s.message(message)
		} else {
			err = s.ending(err)
		}
		if err != nil {
			s.lose(err)
			return
		}
	}
}

// ending says what the end of the connection means.
func (s *socket) ending(err error) error {
	if errors.Is(context.Cause(s.ctx), errSilent) {
		return &lostError{err: errSilent}
	}
	code := websocket.CloseStatus(err)
	if code == -1 {
		return &lostError{err: err}
	}
	if ce, ok := errors.AsType[websocket.CloseError](err); ok {
		err = fmt.Errorf("the server closed the connection with %d (%s)", ce.Code, ce.Reason)
	}
	switch protocol.CloseActionOf(int(code)) {
	case protocol.ActionAuthenticate:
		if !s.client.tokens.refuse(s.client.ctx, s.token.Value) {
			return fmt.Errorf("%w: there are no other credentials", err)
		}
	case protocol.ActionStop:
		return err
	}
	return &lostError{err, s.after}
}

// lose ends the socket, and tells its streams why.
func (s *socket) lose(err error) {
	_ = s.conn.CloseNow()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	for _, sub := range s.subs {
		sub.fail(err)
	}
	for id, answer := range s.answers {
		close(answer)
		delete(s.answers, id)
	}
	s.subs = nil
	s.cancel(err)
}

// message takes one message: an object, or an array of events.
func (s *socket) message(b []byte) error {
	b = bytes.TrimLeft(b, " \t\r\n")
	if len(b) == 0 || b[0] != '[' {
		return s.object(b)
	}
	var all []json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return fmt.Errorf("the server sent what is no message: %w", err)
	}
	for _, one := range all {
		if err := s.object(one); err != nil {
			return err
		}
	}
	return nil
}

func (s *socket) object(b []byte) error {
	var m struct {
		protocol.Message
		Seq uint64 `json:"seq"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("the server sent what is no message: %w", err)
	}
	if m.Seq > 0 {
		ev := new(protocol.Event)
		if err := ev.UnmarshalJSON(b); err != nil {
			return fmt.Errorf("the server sent what is no event: %w", err)
		}
		s.event(ev, b)
		return nil
	}
	if m.Type == protocol.MessageReconnect {
		if m.AfterMS != nil {
			s.after = time.Duration(max(0, *m.AfterMS)) * time.Millisecond
		}
		return &lostError{fmt.Errorf("the server asks to reconnect (%.40s)", m.Reason), s.after}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer, ok := s.answers[m.ID]; ok && m.ID != "" {
		delete(s.answers, m.ID)
		if sub := s.subs[m.Stream]; m.Type == protocol.MessageSubscribed && sub != nil && sub.command == m.ID {
			sub.live = true
		}
		answer <- &m.Message
		return nil
	}
	if sub := s.subs[m.Stream]; m.Type == protocol.MessageError && m.ID == "" && sub != nil && sub.live && m.Error != nil {
		sub.fail(refusedStream(m.Error))
	}
	return nil
}

// refusedStream is what an error of the server's means to a stream.
func refusedStream(e *protocol.Error) error {
	if e.Retryable {
		return &lostError{e, time.Duration(max(0, e.RetryAfterMS)) * time.Millisecond}
	}
	return gone(e)
}

// event gives an event to its stream.
func (s *socket) event(ev *protocol.Event, json []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs[ev.Stream]
	if sub == nil || !sub.live || sub.err != nil {
		return
	}
	if sub.bytes += len(json); sub.bytes > maxWaiting {
		sub.fail(errMoved)
		return
	}
	sub.waiting = append(sub.waiting, Event{*ev, bytes.Clone(json)})
	sub.notify()
}

func (sub *subscription) fail(err error) {
	if sub.err == nil {
		sub.err = err
	}
	sub.notify()
}

func (sub *subscription) notify() {
	select {
	case sub.wake <- struct{}{}:
	default:
	}
}

// command sends a command and waits for its answer.
func (s *socket) command(ctx context.Context, c *protocol.Command, prepare func()) error {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout, errSilent)
	defer cancel()
	answer := make(chan *protocol.Message, 1)
	s.mu.Lock()
	if s.subs == nil {
		defer s.mu.Unlock()
		return s.err
	}
	s.ids++
	c.ID = strconv.FormatUint(s.ids, 10)
	s.answers[c.ID] = answer
	if prepare != nil {
		prepare()
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.answers, c.ID)
		s.mu.Unlock()
	}()
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	// Not ctx: a write that is cut short would end the connection for all.
	writing, written := context.WithTimeout(s.ctx, commandTimeout)
	err = s.conn.Write(writing, websocket.MessageText, b)
	written()
	if err != nil {
		s.cancel(err)
		return &lostError{err: err}
	}
	select {
	case m, ok := <-answer:
		switch {
		case !ok:
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.err
		case m.Type == protocol.MessageError && m.Error != nil:
			return refusedStream(m.Error)
		}
		return nil
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), errSilent) {
			s.cancel(errSilent)
			return &lostError{err: errSilent}
		}
		return context.Cause(ctx)
	}
}

// socket reads the run's stream over the client's WebSocket.
func (a *attempt) socket(ctx context.Context) error {
	s, err := a.client.dial(ctx, a.probe)
	if err != nil {
		return err
	}
	a.proven()
	sub, err := s.join(ctx, a.id)
	if err != nil {
		return err
	}
	defer func() { s.leave(sub, a.seen.Terminal() != nil) }()
	c := &protocol.Command{Type: protocol.CommandSubscribe, Stream: a.id, After: a.seen.Cursor()}
	if err := s.command(ctx, c, func() { sub.command = c.ID }); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		events, err := sub.waiting, sub.err
		sub.waiting, sub.bytes = nil, 0
		s.mu.Unlock()
		for i := range events {
			if err := a.accept(&events[i].Event, events[i].JSON); err != nil || a.seen.Terminal() != nil {
				return err
			}
		}
		if len(events) > 0 && err == nil {
			continue
		}
		if err != nil {
			return err
		}
		select {
		case <-sub.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// join takes a place for the stream. It waits for that of an earlier run's to
// be given back.
func (s *socket) join(ctx context.Context, stream string) (*subscription, error) {
	for {
		s.mu.Lock()
		if s.subs == nil {
			defer s.mu.Unlock()
			return nil, s.err
		}
		other := s.subs[stream]
		if other == nil && (s.maxStreams <= 0 || len(s.subs) < s.maxStreams) {
			sub := &subscription{stream: stream, wake: make(chan struct{}, 1)}
			s.subs[stream] = sub
			s.mu.Unlock()
			return sub, nil
		}
		if other == nil || other.left == nil {
			s.mu.Unlock()
			return nil, &unprovenError{err: errors.New("the WebSocket has no place for the stream"), busy: true}
		}
		left := other.left
		s.mu.Unlock()
		select {
		case <-left:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// leave ends a subscription, also at the server, where the stream goes on.
func (s *socket) leave(sub *subscription, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs == nil || ended {
		delete(s.subs, sub.stream)
		return
	}
	// The place is given back only once the server has: an event of this
	// subscription must not be taken for one of the next.
	sub.left = make(chan struct{})
	sub.waiting = nil
	sub.fail(errMoved)
	s.tasks.Go(func() {
		_ = s.command(s.ctx, &protocol.Command{Type: protocol.CommandUnsubscribe, Stream: sub.stream}, nil)
		s.mu.Lock()
		delete(s.subs, sub.stream)
		s.mu.Unlock()
		close(sub.left)
	})
}

// renewTokens sends a fresh token before the old one ends.
func (s *socket) renewTokens() {
	for token := s.token; !token.Expires.IsZero(); {
		timer := time.NewTimer(max(time.Until(token.Expires)-renewBefore, time.Second))
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
			return
		}
		fresh, err := s.client.tokens.token(s.ctx)
		if err != nil || fresh.Value == token.Value {
			return // the server will say that it has ended
		}
		if err := s.command(s.ctx, &protocol.Command{Type: protocol.CommandAuthenticate, Token: fresh.Value}, nil); err != nil {
			return
		}
		token = fresh
	}
}

// moveToSocket waits until a WebSocket is worth another try, and ends a worse
// connection with errMoved once one has proven itself.
func (c *Client) moveToSocket(ctx context.Context, move context.CancelCauseFunc) {
	for {
		d, ok := c.untilBetter()
		c.mu.Lock()
		ok = ok && slices.Contains(c.offers[:c.current], protocol.TransportWebSocket)
		probe := c.probe
		c.mu.Unlock()
		if !ok {
			return
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if _, err := c.dial(ctx, probe); err == nil {
			c.worked(protocol.TransportWebSocket)
			move(errMoved)
			return
		}
		c.mu.Lock()
		if time.Now().After(c.better) {
			c.better = time.Now().Add(c.config.TryBetter)
		}
		c.mu.Unlock()
	}
}
