package upstream

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/coder/websocket"
	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// SocketWaits bound the beginning of an answer over a WebSocket, behind which
// the caller asks in another way.
type SocketWaits struct {
	// Open is for the connection with its handshake.
	Open time.Duration
	// First is from then to the first message. 0 leaves that to the caller's
	// context.
	First time.Duration
}

// Socket opens a WebSocket at call's path, sends call's body as a message, and
// returns the answer once the first of its messages has come. An answer is a
// connection; its messages are what the data of events is elsewhere.
//
// other reports whether an error says no more than that there is no WebSocket to
// be had: the handshake was refused without a provider's reason, the connection
// failed, no message came in time, or the first one says so. Ending ctx closes
// the connection.
//
// A key that is refused, in the handshake or by the first message, is followed
// by the next one.
func (c *Client) Socket(ctx context.Context, call Call, waits SocketWaits) (s providers.Stream, other bool, err error) {
	_, err = c.try(call.Held, func(h Held) error {
		s, other, err = c.socket(ctx, call, waits, h)
		return err
	})
	if err != nil {
		return nil, other, err
	}
	return s, false, nil
}

// socket is Socket with one key.
func (c *Client) socket(ctx context.Context, call Call, waits SocketWaits, h Held) (s providers.Stream, other bool, err error) {
	req, err := c.request(ctx, http.MethodGet, call.Path, h.text, nil)
	if err != nil {
		return nil, false, err
	}
	maps.Copy(req.Header, call.Header)
	opening, stop := context.WithTimeout(ctx, waits.Open)
	defer stop()
	conn, resp, err := websocket.Dial(opening, req.URL.String(), &websocket.DialOptions{
		HTTPClient: &c.http, HTTPHeader: req.Header, CompressionMode: websocket.CompressionDisabled,
	})
	if resp != nil {
		c.noteLimits(resp.Header, h.use)
	}
	switch {
	case err != nil && ctx.Err() == nil && resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		err, failure := c.answerError(ctx, stop, resp, call.Model, h.text)
		h.wait(failure)
		return nil, !failure.ofProvider(), err
	case err != nil:
		return nil, ctx.Err() == nil, c.callError(ctx, err, h.text)
	}
	conn.SetReadLimit(int64(call.limit()))
	ctx2, cancel := context.WithCancel(ctx)
	sock := &socket{conn: conn}
	sock.stop = context.AfterFunc(ctx2, func() { _ = conn.CloseNow() }) // what is lost with it nobody reads
	fail := func(err error) (providers.Stream, bool, error) {
		cancel()
		_ = sock.Close() // it has failed already
		return nil, ctx.Err() == nil, c.callError(ctx, err, h.text)
	}
	inTime := func() bool { return true }
	if waits.First > 0 {
		inTime = time.AfterFunc(waits.First, cancel).Stop
	}
	if err := conn.Write(ctx2, websocket.MessageText, call.Body); err != nil {
		return fail(err)
	}
	if sock.first, err = sock.read(); err == nil && !inTime() {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return fail(err)
	}
	if protocol.ValidJSON(sock.first.Data) {
		failure := ParseFailure(0, sock.first.Data)
		said := failure.Error(call.Model)
		keys := gjson.GetBytes(sock.first.Data, "type").Str == "error" && secrets.KeyFault(said.Code) && h.more
		if failure.RefusesWay() || keys {
			cancel()
			_ = sock.Close() // nothing else comes
			return nil, !keys, c.scrub(said, h.text)
		}
	}
	stream := c.Answer(ctx, cancel, resp.Header.Get(c.dialect.RequestID), sock, call.Decoder, h)
	stream.abrupt = true
	return stream, false, nil
}

// ofProvider reports whether f is a provider's own refusal, which it would
// repeat however it were asked, and not a proxy's or a router's of the
// handshake.
func (f Failure) ofProvider() bool {
	if f.Type == "" && f.Code == "" {
		return false
	}
	return f.Status >= http.StatusInternalServerError && f.Status != http.StatusNotImplemented ||
		slices.Contains([]int{http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusTooManyRequests}, f.Status)
}

// socket is the Source of an answer over a WebSocket.
type socket struct {
	conn  *websocket.Conn
	stop  func() bool
	first Event // read before there was a stream; its Data is nil once it is told
	buf   []byte
}

func (s *socket) Next() (Event, error) {
	if ev := s.first; ev.Data != nil {
		s.first = Event{}
		return ev, nil
	}
	return s.read()
}

// read takes a message. It has no context of its own, since watching one costs
// more than the read: the stream's end closes the connection.
func (s *socket) read() (Event, error) {
	_, r, err := s.conn.Reader(context.Background())
	if err != nil {
		return Event{}, socketError(err)
	}
	s.buf = s.buf[:0]
	for {
		if len(s.buf) == cap(s.buf) {
			s.buf = slices.Grow(s.buf, max(512, len(s.buf)))
		}
		n, err := r.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
		switch {
		case err == io.EOF: // the message's end; a broken connection wraps one
			return Event{Data: s.buf}, nil
		case err != nil:
			return Event{}, socketError(err)
		}
	}
}

// socketError says in a Source's words why there are no more messages.
func socketError(err error) error {
	switch {
	case errors.Is(err, websocket.ErrMessageTooBig):
		return ErrEventTooLong
	case slices.Contains([]websocket.StatusCode{websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd}, websocket.CloseStatus(err)):
		return io.EOF
	}
	return err
}

// Close ends the connection without its closing handshake, which would wait for
// the other side.
func (s *socket) Close() error {
	s.stop()
	return s.conn.CloseNow()
}
