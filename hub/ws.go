package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/protocol"
)

// ServeWebSocket accepts a WebSocket and returns; the connection goes on with
// one goroutine that reads, and a writer while there is something to write.
func (h *Hub) ServeWebSocket(w http.ResponseWriter, r *http.Request) {
	leave, err := h.admit(r.Context(), protocol.TransportWebSocket)
	limited, _ := errors.AsType[*callerLimitError](err)
	if limited != nil && h.admitRefusal() == nil { // is told so on the WebSocket
		leave, err = h.leaveRefusal, nil
	}
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	opts := &websocket.AcceptOptions{
		Subprotocols: []string{protocol.Version},
		// A compressor is over a megabyte per connection.
		CompressionMode: websocket.CompressionDisabled,
	}
	if h.opts.AllowOrigin != nil {
		if !h.opts.AllowOrigin(r) {
			leave()
			h.refuse(w, r, protocol.Errorf(protocol.CodeForbidden, "pages from %.100q may not connect; the server's allowed origins decide that", r.Header.Get("Origin")))
			return
		}
		opts.InsecureSkipVerify = true // it was verified
	}
	s := h.newSession(context.WithoutCancel(r.Context()), protocol.TransportWebSocket)
	s.leave = leave
	opts.OnPongReceived = func(context.Context, []byte) { s.lastRead.Store(int64(sinceStart())) }
	opts.OnPingReceived = func(_ context.Context, payload []byte) bool {
		s.lastRead.Store(int64(sinceStart()))
		s.answer(payload)
		return false // the session's writer sends the pong
	}
	take := &takeover{ResponseWriter: w, timeout: h.opts.WriteTimeout}
	conn, err := websocket.Accept(take, r, opts)
	if err != nil { // Accept has answered
		s.cancel()
		leave()
		return
	}
	conn.SetReadLimit(h.opts.MaxCommandBytes)
	s.lastRead.Store(int64(sinceStart()))
	read := func() { h.readCommands(s, conn, take.wire) }
	if !s.start(take.wire, &wsLink{conn}, h.welcome(protocol.MessageWelcome), nil, read) {
		s.cancel()
		leave()
		_ = conn.CloseNow() // nobody is left to be told
		return
	}
	if limited != nil {
		s.tooMany(limited)
	}
}

// readCommands reads until the connection ends.
func (h *Hub) readCommands(s *session, conn *websocket.Conn, nc net.Conn) {
	defer func() {
		s.end(ending{reason: "client_gone", abort: true})
		<-s.done
		_ = conn.CloseNow() // the connection is closed; this frees what conn holds
	}()
	for {
		// Not s.ctx: it would cost a timer per message. An ended session
		// closes the connection.
		typ, r, err := conn.Reader(context.Background())
		if err != nil {
			h.readFailed(s, err)
			return
		}
		s.busy.Store(true) // no pong is read until the command is done
		if err := nc.SetReadDeadline(time.Now().Add(h.opts.CommandTimeout)); err != nil {
			return
		}
		msg, err := io.ReadAll(r)
		if err != nil {
			h.readFailed(s, err)
			return
		}
		if err := nc.SetReadDeadline(time.Time{}); err != nil {
			return
		}
		if typ != websocket.MessageText {
			s.end(ending{reason: "protocol_error", code: protocol.CloseProtocolError, detail: "messages must be text"})
			<-s.done
			return
		}
		ok := h.command(s, msg)
		s.lastRead.Store(int64(sinceStart()))
		s.busy.Store(false)
		if !ok {
			<-s.done
			return
		}
	}
}

// readFailed says why the session ends, where it was the client's fault.
func (h *Hub) readFailed(s *session, err error) {
	switch {
	case errors.Is(err, websocket.ErrMessageTooBig):
		s.end(ending{reason: "too_big", abort: true}) // Reader has sent 1009
	case isTimeout(err):
		s.end(ending{reason: "slow_message", code: protocol.CloseTooSlow, detail: "a message must arrive faster"})
		<-s.done
	}
}

// command does what one message asks. It reports false when the session ends.
func (h *Hub) command(s *session, msg []byte) bool {
	if s.ctx.Err() != nil {
		return false // it is over, of a revoked key say, and nothing more may begin
	}
	c, fatal, err := protocol.ParseCommand(msg)
	if fatal {
		s.end(ending{reason: "protocol_error", code: protocol.CloseProtocolError, detail: protocol.AsError(err).Detail})
		return false
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(s.ctx, h.opts.CommandTimeout)
		if err = h.allow(ctx, &c, len(msg)); err == nil {
			err = h.do(ctx, s, &c)
		}
		cancel()
	}
	if err != nil {
		h.log(s.ctx, err)
		s.tell(&protocol.Message{Type: protocol.MessageError, ID: c.ID, Stream: c.Stream, Error: protocol.AsError(err)})
	}
	return s.ctx.Err() == nil
}

// allow reports why a command may not be done now. What costs nothing always may.
func (h *Hub) allow(ctx context.Context, c *protocol.Command, bytes int) error {
	if h.opts.Allow == nil || c.Type == protocol.CommandPing || c.Type == protocol.CommandUnsubscribe {
		return nil
	}
	return h.opts.Allow(ctx, c.Type, bytes)
}

func (h *Hub) do(ctx context.Context, s *session, c *protocol.Command) error {
	switch c.Type {
	case protocol.CommandPing:
		s.tell(&protocol.Message{Type: protocol.MessagePong, ID: c.ID})
	case protocol.CommandAnalyze:
		if err := h.room(s, ""); err != nil {
			return err
		}
		stream, err := h.opts.Commands.Analyze(ctx, c.Request)
		if err != nil {
			return err
		}
		c.Stream = stream // an error tells it, too, since the analysis runs
		sub, err := h.subscribe(ctx, protocol.Cursor{Stream: stream}, s)
		if err != nil {
			return err
		}
		sub.own = true
		s.add(sub, &protocol.Message{Type: protocol.MessageAccepted, ID: c.ID, Stream: stream})
	case protocol.CommandSubscribe:
		if err := h.opts.Commands.Subscribe(ctx, c.Stream); err != nil {
			return err
		}
		err := h.watch(ctx, s, c)
		if w, ok := h.opts.Commands.(SubscriptionWatcher); ok {
			w.Subscribed(ctx, c.Stream, err)
		}
		return err
	case protocol.CommandUnsubscribe:
		m := &protocol.Message{Type: protocol.MessageUnsubscribed, ID: c.ID, Stream: c.Stream}
		if _, sub := s.streams(c.Stream); sub == nil || !s.remove(sub, m) {
			s.tell(m) // it ended in the meantime
		}
	case protocol.CommandCancel:
		if err := h.opts.Commands.Cancel(ctx, c.Stream); err != nil {
			return err
		}
		s.tell(&protocol.Message{Type: protocol.MessageAccepted, ID: c.ID, Stream: c.Stream})
	case protocol.CommandAuthenticate:
		if err := h.opts.Commands.Authenticate(ctx, c.Token); err != nil {
			return err
		}
		s.tell(&protocol.Message{Type: protocol.MessageAccepted, ID: c.ID})
		h.review(ctx, s)
	}
	return nil
}

// review ends the subscriptions that the client may no longer have, since its
// fresh credential may less than the one before. What it began itself on this
// connection it goes on watching, which needs no right but that to begin it.
func (h *Hub) review(ctx context.Context, s *session) {
	s.mu.Lock()
	subs := s.subs // the slice is replaced, not changed
	s.mu.Unlock()
	for _, sub := range subs {
		if sub.own {
			continue
		}
		if err := h.opts.Commands.Subscribe(ctx, sub.feed.id); err != nil {
			s.remove(sub, &protocol.Message{Type: protocol.MessageError, Stream: sub.feed.id, Error: protocol.AsError(err)})
		}
	}
}

// watch subscribes the session to a stream that its client may watch.
func (h *Hub) watch(ctx context.Context, s *session, c *protocol.Command) error {
	if err := h.room(s, c.Stream); err != nil {
		return err
	}
	sub, err := h.subscribe(ctx, protocol.Cursor{Stream: c.Stream, After: c.After}, s)
	if err != nil {
		return err
	}
	// A client that comes from another node may know more than this one yet.
	head, _ := sub.feed.Head()
	head = max(head, c.After)
	m := &protocol.Message{Type: protocol.MessageSubscribed, ID: c.ID, Stream: c.Stream, Head: &head}
	if sub.done() { // nothing follows: the subscription is over before it begins
		h.unsubscribe(sub)
		s.tell(m)
		return nil
	}
	s.add(sub, m)
	return nil
}

// room reports why the session can't watch one more stream.
func (h *Hub) room(s *session, stream string) error {
	n, watched := s.streams(stream)
	if watched != nil {
		return protocol.Errorf(protocol.CodeInvalidRequest, "this connection already watches stream %s", stream)
	}
	if n >= h.opts.MaxStreams {
		return protocol.Errorf(protocol.CodeOverloaded, "this connection has its limit of %d streams", h.opts.MaxStreams)
	}
	return nil
}

// A wsLink makes a WebSocket's messages. Control frames and the closing
// handshake are the library's. Data frames are made here: a server's frame
// without compression is two to ten bytes before the payload.
type wsLink struct{ conn *websocket.Conn }

// appendFrame appends a text message with n bytes of payload, less the payload.
func appendFrame(buf []byte, n int) []byte {
	const finText = 0x81 // RFC 6455, section 5.2
	switch {
	case n < 126:
		return append(buf, finText, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(buf, finText, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(buf, finText, 127), uint64(n))
}

func (*wsLink) appendControl(buf, msg []byte) []byte {
	return append(appendFrame(buf, len(msg)), msg...)
}

func (l *wsLink) appendCache(buf []byte, generation string) []byte {
	return l.appendControl(buf, (&protocol.Message{Type: protocol.MessageCache, Cache: generation}).JSON())
}

func (*wsLink) appendPong(buf, payload []byte) []byte {
	const finPong = 0x8a // RFC 6455, section 5.5.3
	return append(append(buf, finPong, byte(len(payload))), payload...)
}

func (*wsLink) appendEvents(buf []byte, b *batch) []byte {
	if len(b.items) == 1 {
		return append(appendFrame(buf, len(b.items[0].event.JSON)), b.items[0].event.JSON...)
	}
	n := len(b.items) + 1 // brackets and commas
	for i := range b.items {
		n += len(b.items[i].event.JSON)
	}
	buf = appendFrame(buf, n)
	for i := range b.items {
		buf = append(buf, "[,"[min(i, 1)])
		buf = append(buf, b.items[i].event.JSON...)
	}
	return append(buf, ']')
}

var heartbeatMessage = (&protocol.Message{Type: protocol.MessageHeartbeat}).JSON()

// appendBeats tells by a message, which scripts in a browser can see, and asks
// by a ping.
func (l *wsLink) appendBeats(buf []byte, b beats) []byte {
	if b&beatTell != 0 {
		buf = l.appendControl(buf, heartbeatMessage)
	}
	if b&beatAsk != 0 {
		const ping = "\x89\x00" // RFC 6455, section 5.5.2
		buf = append(buf, ping...)
	}
	return buf
}

func (l *wsLink) appendGoodbye(buf []byte, e ending) []byte {
	if e.move == 0 {
		return buf
	}
	ms := e.move.Milliseconds()
	return l.appendControl(buf, (&protocol.Message{Type: protocol.MessageReconnect, AfterMS: &ms, Reason: e.reason}).JSON())
}

// close waits at most some seconds for the client's own close frame, which the
// reading goroutine receives.
func (l *wsLink) close(e ending) {
	_ = l.conn.Close(websocket.StatusCode(e.code), truncate(e.detail, 120)) // the connection is over, whatever it says
}

// truncate cuts a close frame's reason, which has 123 bytes at most.
func truncate(s string, n int) string {
	return protocol.SplitText(s, n)[0]
}
