package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/protocol"
)

// The clients of this file are as plain as clients can be: one connection over
// one transport, which says what it got. They reconnect never, and check only
// that what they got has the form of the protocol.

// transports are the names that open takes.
var transports = []string{protocol.TransportWebSocket, protocol.TransportSSE, protocol.TransportLongPoll}

// A delivery is what one message of a connection carried.
type delivery struct {
	events []received
	// message is a WebSocket's message that is no event.
	message *protocol.Message
	// cursor is what the server says the cursor is now; "" on a WebSocket.
	cursor string
	// done says that nothing will follow.
	done bool
}

// A received is an event as it came and as it was decoded.
type received struct {
	protocol.Encoded
	event protocol.Event
}

// A link is one connection that delivers events. It ends with the context that
// it was opened with.
type link interface {
	// next waits for the next delivery. io.EOF says that the server ended the
	// connection as it should.
	next() (delivery, error)
	// close ends the connection: as the transport is ended where abrupt is
	// false, else by a TCP reset.
	close(abrupt bool)
}

// A refusedError is an HTTP answer that is no success.
type refusedError struct {
	status int
	header http.Header
	body   string
	error  protocol.Error
}

func (r *refusedError) Error() string { return fmt.Sprintf("HTTP status %d: %s", r.status, r.body) }

// A target says where and how to connect.
type target struct {
	url string
	// header is sent with each request.
	header http.Header
	// receive is the size of the socket's receive buffer; the system's where
	// it is 0. A small one makes a slow client felt.
	receive int
}

// A tap is an HTTP client that remembers its connections, to reset them.
type tap struct {
	client    *http.Client
	transport *http.Transport

	mu    sync.Mutex
	conns []*net.TCPConn // guarded by mu
}

func newTap(receive int) *tap {
	t := new(tap)
	t.transport = &http.Transport{DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			tcp, ok := c.(*net.TCPConn)
			if !ok {
				return c, nil
			}
			if receive > 0 {
				_ = tcp.SetReadBuffer(receive) // a wish, not a need
			}
			t.mu.Lock()
			t.conns = append(t.conns, tcp)
			t.mu.Unlock()
			return c, nil
		}}
	t.client = &http.Client{Transport: t.transport}
	return t
}

// reset breaks all connections, so that the other side's system reports a
// reset.
func (t *tap) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.conns {
		_ = c.SetLinger(0) // fails only on a closed connection
		_ = c.Close()
	}
}

// get sends a GET and returns the answer, if it is a success.
func (t *tap) get(ctx context.Context, to target, path string, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.url+path, nil)
	if err != nil {
		return nil, err
	}
	if to.header != nil {
		req.Header = to.header.Clone()
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNoContent {
		return nil, refused(res)
	}
	return res, nil
}

// maxRefusal bounds the body of an answer that is no success.
const maxRefusal = 64 << 10

func refused(res *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
	_ = res.Body.Close() // it was read
	if err != nil {
		return err
	}
	r := &refusedError{status: res.StatusCode, header: res.Header, body: string(b)}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json") {
		if err := json.Unmarshal(b, &r.error); err != nil {
			return fmt.Errorf("the problem %q can't be read: %w", b, err)
		}
	}
	return r
}

// open connects over the named transport and watches the streams from their
// cursors on.
func open(ctx context.Context, transport string, to target, cursors []protocol.Cursor) (link, error) {
	switch transport {
	case protocol.TransportWebSocket:
		l, err := openWebSocket(ctx, to)
		if err != nil {
			return nil, err
		}
		for i, c := range cursors {
			if err := l.send(&protocol.Command{Type: protocol.CommandSubscribe, ID: "s" + strconv.Itoa(i), Stream: c.Stream, After: c.After}); err != nil {
				l.close(true)
				return nil, err
			}
		}
		return l, nil
	case protocol.TransportSSE:
		l, err := openSSE(ctx, to, eventsPath(cursors, 0))
		if err != nil {
			return nil, err
		}
		return l, nil
	case protocol.TransportLongPoll:
		return &pollConn{ctx: ctx, to: to, tap: newTap(to.receive), cursors: slices.Clone(cursors), wait: 5 * time.Second}, nil
	}
	return nil, fmt.Errorf("there is no transport %q", transport)
}

// eventsPath is where the events after the cursors are: the resource of the
// stream where it is one, else that for several.
func eventsPath(cursors []protocol.Cursor, wait time.Duration) string {
	q := make(url.Values)
	if wait > 0 {
		q.Set("wait", wait.String())
	}
	if len(cursors) == 1 {
		q.Set("after", strconv.FormatUint(cursors[0].After, 10))
		return "/v1/streams/" + cursors[0].Stream + "/events?" + q.Encode()
	}
	for _, c := range cursors {
		q.Add("stream", c.Stream)
	}
	q.Set("after", string(protocol.AppendCursors(nil, cursors)))
	return "/v1/events?" + q.Encode()
}

// A wsConn is a WebSocket.
type wsConn struct {
	ctx  context.Context
	tap  *tap
	conn *websocket.Conn
}

func openWebSocket(ctx context.Context, to target) (*wsConn, error) {
	t := newTap(to.receive)
	path := "/v1/ws"
	if strings.Contains(to.url, "?") {
		path = "" // a whole address, with a ticket
	}
	conn, res, err := websocket.Dial(ctx, to.url+path, &websocket.DialOptions{HTTPClient: t.client, HTTPHeader: to.header, Subprotocols: []string{protocol.Version}})
	if err != nil {
		t.transport.CloseIdleConnections()
		if res != nil && res.StatusCode != http.StatusSwitchingProtocols && res.Body != nil {
			if r, ok := errors.AsType[*refusedError](refused(res)); ok {
				return nil, r
			}
		}
		return nil, err
	}
	conn.SetReadLimit(4 << 20)
	l := &wsConn{ctx, t, conn}
	d, err := l.next()
	if err == nil && (d.message == nil || d.message.Type != protocol.MessageWelcome) {
		err = fmt.Errorf("the first message is %+v, want welcome", d.message)
	}
	if err != nil {
		l.close(true)
		return nil, err
	}
	return l, nil
}

func (l *wsConn) send(c *protocol.Command) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return l.conn.Write(l.ctx, websocket.MessageText, b)
}

func (l *wsConn) next() (delivery, error) {
	_, b, err := l.conn.Read(l.ctx)
	if err != nil {
		return delivery{}, err
	}
	if b[0] == '[' {
		var list []json.RawMessage
		if err := json.Unmarshal(b, &list); err != nil {
			return delivery{}, malformed(b, err)
		}
		events, err := parseEvents(list)
		return delivery{events: events}, err
	}
	m := new(protocol.Message)
	if err := json.Unmarshal(b, m); err != nil {
		return delivery{}, malformed(b, err)
	}
	switch m.Type {
	case protocol.MessageWelcome, protocol.MessageAccepted, protocol.MessageSubscribed, protocol.MessageUnsubscribed,
		protocol.MessageError, protocol.MessageReconnect, protocol.MessageHeartbeat, protocol.MessagePong, protocol.MessageCache:
		return delivery{message: m}, nil
	}
	events, err := parseEvents([]json.RawMessage{b})
	return delivery{events: events}, err
}

func (l *wsConn) close(abrupt bool) {
	if abrupt {
		l.tap.reset()
	} else {
		_ = l.conn.Close(websocket.StatusNormalClosure, "") // over, whatever the server says
	}
	_ = l.conn.CloseNow()
	l.tap.transport.CloseIdleConnections()
}

// A malformedError says that the server sent what is not of the protocol.
type malformedError struct{ detail string }

func (e *malformedError) Error() string { return "the server sent " + e.detail }

func malformed(b []byte, err error) error {
	return &malformedError{fmt.Sprintf("%.200q, which can't be read: %v", b, err)}
}

func parseEvents(list []json.RawMessage) ([]received, error) {
	events := make([]received, 0, len(list))
	for _, raw := range list {
		e, err := protocol.Parse(raw)
		var ev protocol.Event
		if err == nil {
			ev, err = e.Event()
		}
		if err != nil {
			return nil, malformed(raw, err)
		}
		events = append(events, received{e, ev})
	}
	return events, nil
}

// An sseConn is an event stream.
type sseConn struct {
	tap  *tap
	res  *http.Response
	r    *bufio.Reader
	gone bool // 204: nothing will follow
	// retry is how long the server tells the client to wait before it comes
	// again.
	retry time.Duration
}

// openSSE gets an event stream and reads its welcome.
func openSSE(ctx context.Context, to target, path string) (*sseConn, error) {
	t := newTap(to.receive)
	res, err := t.get(ctx, to, path, "Accept", "text/event-stream")
	if err != nil {
		t.transport.CloseIdleConnections()
		return nil, err
	}
	return readSSE(t, res)
}

// errSentAway says that a node that drains has told the client only when to
// come back.
var errSentAway = errors.New("the server drains, and asks to come back later")

func readSSE(t *tap, res *http.Response) (*sseConn, error) {
	l := &sseConn{tap: t, res: res, r: bufio.NewReader(res.Body), gone: res.StatusCode == http.StatusNoContent}
	if l.gone {
		return l, nil
	}
	f, err := l.frame()
	if err == nil && f.retry != "" && f.event == "" && f.data == "" && !f.identified {
		err = errSentAway
	}
	if err == nil && (f.event != "welcome" || !f.identified || f.retry == "") {
		err = &malformedError{fmt.Sprintf("%+v first, want a welcome with an id and a time to retry", f)}
	}
	if err != nil {
		l.close(true)
		return nil, err
	}
	ms, err := strconv.Atoi(f.retry)
	if err != nil {
		l.close(true)
		return nil, &malformedError{fmt.Sprintf("a time to retry of %q", f.retry)}
	}
	l.retry = time.Duration(ms) * time.Millisecond
	return l, nil
}

// A frame is one of an event stream.
type frame struct {
	id, event, data, retry string
	identified             bool
}

func (l *sseConn) frame() (frame, error) {
	var f frame
	for {
		line, err := l.r.ReadString('\n')
		if err != nil {
			return f, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			return f, nil
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "": // a comment
		case "id":
			f.id, f.identified = value, true
		case "event":
			f.event = value
		case "data":
			f.data += value
		case "retry":
			f.retry = value
		default:
			return f, &malformedError{fmt.Sprintf("the line %.200q in an event stream", line)}
		}
	}
}

func (l *sseConn) next() (delivery, error) {
	if l.gone {
		return delivery{done: true}, nil
	}
	for {
		f, err := l.frame()
		if err != nil {
			return delivery{}, err
		}
		if f.data == "" {
			continue // a goodbye's retry
		}
		if f.event != "" {
			return delivery{}, &malformedError{fmt.Sprintf("an event named %q", f.event)}
		}
		events, err := parseEvents([]json.RawMessage{json.RawMessage(f.data)})
		return delivery{events: events, cursor: f.id}, err
	}
}

func (l *sseConn) close(abrupt bool) {
	if abrupt {
		l.tap.reset()
	}
	_ = l.res.Body.Close() // over, whatever the server says
	l.tap.transport.CloseIdleConnections()
}

// A pollConn asks again and again.
type pollConn struct {
	ctx     context.Context
	to      target
	tap     *tap
	cursors []protocol.Cursor
	wait    time.Duration
	// dropNext makes next lose the answer, and return nothing.
	dropNext bool
}

// maxPoll bounds the answer to a poll, which is configured to be smaller.
const maxPoll = 8 << 20

func (l *pollConn) next() (delivery, error) {
	res, err := l.tap.get(l.ctx, l.to, eventsPath(l.cursors, l.wait))
	if err != nil {
		return delivery{}, err
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxPoll))
	_ = res.Body.Close() // it was read
	if err != nil {
		return delivery{}, err
	}
	var p protocol.Poll
	if err := json.Unmarshal(bytes.TrimSpace(b), &p); err != nil || p.Events == nil {
		return delivery{}, malformed(b, err)
	}
	if l.dropNext {
		l.dropNext = false
		return delivery{}, nil
	}
	events, err := parseEvents(p.Events)
	if err != nil {
		return delivery{}, err
	}
	if len(l.cursors) == 1 {
		l.cursors[0].After, err = protocol.ParseSeq(p.Cursor)
	} else {
		l.cursors, err = protocol.ParseCursors(p.Cursor)
	}
	if err != nil {
		return delivery{}, malformed([]byte(p.Cursor), err)
	}
	return delivery{events: events, cursor: p.Cursor, done: p.Done}, nil
}

func (l *pollConn) close(abrupt bool) {
	if abrupt {
		l.tap.reset()
	}
	l.tap.transport.CloseIdleConnections()
}
