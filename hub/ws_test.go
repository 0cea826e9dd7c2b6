package hub_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

func TestAWebSocketClientThatKeepsUpGetsEachEventAsOneMessage(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.dial()
	c.subscribe(p.id, 0)
	if m := c.next(); m.Type != protocol.MessageSubscribed || m.ID != "s" || *m.Head != 1 {
		t.Fatalf("answer is %+v, want subscribed with head 1", m)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range 20 {
		if i > 0 {
			p.chunk(fmt.Sprint(i))
		}
		_, events, err := c.read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) != 1 || events[0].Seq != uint64(i+1) || events[0].First != 0 {
			t.Fatalf("message %d has %+v, want event %d alone", i, events, i+1)
		}
	}
	p.complete()
	p.check(c.until(p.id))
}

func TestALateWebSocketClientGetsTheTextSoFarAsOneChunk(t *testing.T) {
	w := newWorld(t, hub.Options{MessageBytes: 1 << 20}, hub.FeedLimits{})
	p := w.publish().start()
	p.chunks(1000)
	c := w.dial()
	c.conn.SetReadLimit(2 << 20)
	c.subscribe(p.id, 0)
	c.next()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, events, err := c.read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 2 || events[1].First != 2 || events[1].Seq != 1001 {
		t.Fatalf("the first message has %d events, want started and one chunk for 2..1001", len(events))
	}
	p.complete()
	p.check(c.until(p.id))
}

func TestMessagesStayWithinTheByteBudget(t *testing.T) {
	w := newWorld(t, hub.Options{MessageBytes: 4 << 10}, hub.FeedLimits{})
	p := w.publish().start()
	p.chunks(2000)
	p.complete()
	c := w.dial()
	c.conn.SetReadLimit(4 << 10)
	c.subscribe(p.id, 0)
	p.check(c.until(p.id))
	if c.messages < 8 {
		t.Fatalf("%d bytes came in %d messages, want more with a budget of 4 KiB", p.text.Len(), c.messages)
	}
}

func TestAWebSocketResumesAtEveryCursor(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{FeedBytes: 4 << 10})
	p := w.publish().start()
	p.chunks(50)
	p.complete()
	for after := range uint64(52) {
		c := w.dial()
		tr := new(protocol.Transcript)
		w.apply(tr, p.id, after)
		c.transcripts[p.id] = tr
		c.subscribe(p.id, after)
		p.check(c.until(p.id))
		_ = c.conn.CloseNow()
	}
}

// apply gives tr the events up to a seq, as an earlier connection did.
func (w *world) apply(tr *protocol.Transcript, id string, upTo uint64) {
	w.source.mu.Lock()
	defer w.source.mu.Unlock()
	for _, e := range w.source.events[id][:upTo] {
		ev, err := e.Event()
		if err != nil {
			w.t.Fatal(err)
		}
		if err := tr.Apply(&ev); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestSubscribingAtTheEndOfAnEndedStreamIsAnsweredAndOver(t *testing.T) {
	w := newWorld(t, hub.Options{MaxStreams: 1}, hub.FeedLimits{})
	p := w.publish().start()
	p.complete()
	c := w.dial()
	for range 3 { // it takes no place of the one stream that the connection may watch
		c.subscribe(p.id, 2)
		if m := c.next(); m.Type != protocol.MessageSubscribed || *m.Head != 2 {
			t.Fatalf("answer is %+v, want subscribed with head 2", m)
		}
	}
}

func TestOneWebSocketWatchesManyStreams(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	c := w.dial()
	var ps []*publisher
	for range 20 {
		p := w.publish().start()
		ps = append(ps, p)
		c.subscribe(p.id, 0)
	}
	for i := range 50 {
		for _, p := range ps {
			p.chunk(fmt.Sprintf("%d of %s ", i, p.id))
		}
	}
	for _, p := range ps {
		p.complete()
	}
	for _, p := range ps {
		p.check(c.until(p.id))
	}
}

func TestNothingComesAfterUnsubscribed(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.dial()
	c.subscribe(p.id, 0)
	c.next()
	c.send(fmt.Sprintf(`{"type":"unsubscribe","id":"u","stream":%q}`, p.id))
	if m := c.next(); m.Type != protocol.MessageUnsubscribed || m.ID != "u" || m.Stream != p.id {
		t.Fatalf("answer is %+v, want unsubscribed", m)
	}
	before := c.events
	p.chunks(10)
	c.send(`{"type":"ping","id":"x"}`)
	if m := c.next(); m.Type != protocol.MessagePong {
		t.Fatalf("answer is %+v, want pong", m)
	}
	if c.events != before {
		t.Fatalf("%d events came after unsubscribed", c.events-before)
	}
	if n, _ := p.feed.Watchers(); n != 0 {
		t.Fatalf("the feed still has %d watchers", n)
	}
	c.subscribe(p.id, c.transcripts[p.id].Cursor()) // and again from there
	p.complete()
	p.check(c.until(p.id))
}

func TestWebSocketCommandsThatFailSayWhyAndLeaveTheConnection(t *testing.T) {
	w := newWorld(t, hub.Options{MaxStreams: 2}, hub.FeedLimits{})
	a, b, extra := w.publish().start(), w.publish().start(), w.publish().start()
	c := w.dial()
	c.subscribe(a.id, 0)
	c.next()
	c.subscribe(b.id, 0)
	c.next()
	for _, tc := range []struct {
		name, msg string
		code      protocol.Code
		detail    string
	}{
		{"unknown stream", `{"type":"subscribe","id":"1","stream":"` + protocol.NewStreamID() + `"}`, protocol.CodeOverloaded, "limit of 2 streams"},
		{"too many", `{"type":"subscribe","id":"1","stream":"` + extra.id + `"}`, protocol.CodeOverloaded, "limit of 2 streams"},
		{"twice", `{"type":"subscribe","id":"1","stream":"` + a.id + `"}`, protocol.CodeInvalidRequest, "already watches"},
		{"unknown type", `{"type":"sing","id":"1"}`, protocol.CodeInvalidRequest, "analyze"},
		{"no stream", `{"type":"subscribe","id":"1"}`, protocol.CodeInvalidRequest, "stream"},
		{"analyze without a service", `{"type":"analyze","id":"1","request":{"code":"x"}}`, protocol.CodeOverloaded, "limit"},
		{"cancel without a service", `{"type":"cancel","id":"1","stream":"` + a.id + `"}`, protocol.CodeForbidden, "no commands"},
	} {
		c.send(tc.msg)
		m := c.next()
		if m.Type != protocol.MessageError || m.ID != "1" || m.Error == nil || m.Error.Code != tc.code || !strings.Contains(m.Error.Detail, tc.detail) {
			t.Errorf("%s: answer is %+v %v, want error %s with %q", tc.name, m, m.Error, tc.code, tc.detail)
		}
	}
	c.send(`{"type":"unsubscribe","id":"u","stream":"` + a.id + `"}`)
	c.next()
	for _, tc := range []struct {
		after uint64
		id    string
		code  protocol.Code
	}{
		{99, extra.id, protocol.CodeInvalidCursor},
		{0, protocol.NewStreamID(), protocol.CodeStreamNotFound},
		{0, "nonsense", protocol.CodeStreamNotFound},
	} {
		c.subscribe(tc.id, tc.after)
		if m := c.next(); m.Type != protocol.MessageError || m.Error.Code != tc.code {
			t.Errorf("subscribe %s after %d: answer is %+v, want %s", tc.id, tc.after, m, tc.code)
		}
	}
	b.complete()
	b.check(c.until(b.id))
}

func TestInputThatIsNoCommandClosesTheWebSocket(t *testing.T) {
	w := newWorld(t, hub.Options{MaxCommandBytes: 1 << 10}, hub.FeedLimits{})
	for name, tc := range map[string]struct {
		typ  websocket.MessageType
		msg  string
		code int
	}{
		"binary":    {websocket.MessageBinary, `{"type":"ping"}`, protocol.CloseProtocolError},
		"not JSON":  {websocket.MessageText, `hello`, protocol.CloseProtocolError},
		"an array":  {websocket.MessageText, `[1]`, protocol.CloseProtocolError},
		"not UTF-8": {websocket.MessageText, "{\"type\":\"\xff\"}", protocol.CloseProtocolError},
		"too big":   {websocket.MessageText, `{"type":"ping","id":"` + strings.Repeat("x", 2<<10) + `"}`, protocol.CloseTooBig},
	} {
		c := w.dial()
		if err := c.conn.Write(t.Context(), tc.typ, []byte(tc.msg)); err != nil {
			t.Fatal(err)
		}
		if code := c.closeCode(); code != tc.code {
			t.Errorf("%s: close code is %d, want %d", name, code, tc.code)
		}
	}
	eventually(t, "all sessions gone", func() bool { return w.hub.Connections() == 0 })
}

type commands struct{ w *world }

func (c commands) Analyze(_ context.Context, request []byte) (string, error) {
	r, err := protocol.ParseRequest(request)
	if err != nil {
		return "", err
	}
	p := c.w.publish().start()
	p.chunk(r.Code)
	p.complete()
	return p.id, nil
}
func (commands) Subscribe(context.Context, string) error { return nil }
func (c commands) Cancel(_ context.Context, stream string) error {
	return protocol.Errorf(protocol.CodeStreamNotFound, "no %s", stream)
}
func (c commands) Authenticate(_ context.Context, token string) error {
	if token != "good" {
		return errors.New("secret internal reason")
	}
	return nil
}

func TestAnalyzeOverWebSocketIsAcceptedAndThenStreams(t *testing.T) {
	var w *world
	late := new(lateCommands)
	w = newWorld(t, hub.Options{Commands: late}, hub.FeedLimits{})
	late.commands = commands{w}
	c := w.dial()
	c.send(`{"type":"analyze","id":"a","request":{"code":"package main"}}`)
	m := c.next()
	if m.Type != protocol.MessageAccepted || m.ID != "a" || m.Stream == "" {
		t.Fatalf("answer is %+v, want accepted with a stream", m)
	}
	if tr := c.until(m.Stream); tr.Text() != "package main" {
		t.Fatalf("text is %q", tr.Text())
	}
	c.send(`{"type":"analyze","id":"b","request":{"code":""}}`)
	if m := c.next(); m.Type != protocol.MessageError || m.Error.Code != protocol.CodeInvalidRequest {
		t.Fatalf("answer is %+v, want invalid_request", m)
	}
	c.send(`{"type":"authenticate","id":"c","token":"good"}`)
	if m := c.next(); m.Type != protocol.MessageAccepted || m.ID != "c" {
		t.Fatalf("answer is %+v, want accepted", m)
	}
	c.send(`{"type":"authenticate","id":"d","token":"bad"}`)
	if m := c.next(); m.Type != protocol.MessageError || m.Error.Code != protocol.CodeInternal || strings.Contains(m.Error.Detail, "secret") {
		t.Fatalf("answer is %+v, want an internal error that tells nothing", m)
	}
}

type lateCommands struct{ commands }

func TestAClientThatReadsNothingIsClosedAndOthersDontNotice(t *testing.T) {
	t.Parallel()
	const writeTimeout = 6 * time.Second // which the one that reads must not need
	w := newWorld(t, hub.Options{WriteTimeout: writeTimeout}, hub.FeedLimits{})
	p := w.publish().start()
	raw := w.rawWebSocket(fmt.Sprintf(`{"type":"subscribe","id":"s","stream":%q}`, p.id))
	defer raw.Close()
	fast := w.dial()
	fast.subscribe(p.id, 0)
	eventually(t, "both watch", func() bool { n, _ := p.feed.Watchers(); return n == 2 })

	piece := strings.Repeat("x", 16<<10)
	done := make(chan *protocol.Transcript)
	go func() { done <- fast.until(p.id) }()
	for range 600 { // 9.6 MB: more than the sockets' buffers take
		began := time.Now()
		p.chunk(piece)
		if d := time.Since(began); d > writeTimeout/2 { // it would be all of it if it waited
			t.Errorf("an append took %v while one client doesn't read", d)
		}
	}
	eventually(t, "the slow one is closed", func() bool { return w.metrics.closedFor("too_slow") == 1 })
	p.complete()
	p.check(<-done)
	// It comes back with the cursor that it got to, and loses nothing.
	tr := new(protocol.Transcript)
	readRawEvents(t, raw, tr)
	if tr.Terminal() != nil {
		t.Fatal("the slow client got everything; the test wants it cut off")
	}
	c := w.dial()
	c.conn.SetReadLimit(1 << 20)
	c.transcripts[p.id] = tr
	c.subscribe(p.id, tr.Cursor())
	p.check(c.until(p.id))
}

// rawWebSocket makes a connection whose frames the test reads itself, or not.
func (w *world) rawWebSocket(firstCommand string) net.Conn {
	w.t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	_ = nc.(*net.TCPConn).SetReadBuffer(32 << 10)
	// The command goes out with the handshake: what comes early must not be lost.
	handshake := "GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	frame := []byte{0x81, 0x80 | 126, byte(len(firstCommand) >> 8), byte(len(firstCommand)), 0, 0, 0, 0} // masked with zeros
	if firstCommand == "" {
		frame = nil
	}
	if _, err := nc.Write(append([]byte(handshake), append(frame, firstCommand...)...)); err != nil {
		w.t.Fatal(err)
	}
	return nc
}

// readFrame reads a server's frame, and returns its first byte and its payload.
func readFrame(r io.Reader) (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	if ext := map[uint64]int{126: 2, 127: 8}[n]; ext > 0 {
		var b [8]byte
		if _, err := io.ReadFull(r, b[8-ext:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}

// readRawEvents applies whole messages until the connection breaks.
func readRawEvents(t *testing.T, nc net.Conn, tr *protocol.Transcript) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	br := bufio.NewReader(nc)
	if _, err := http.ReadResponse(br, nil); err != nil {
		t.Fatal(err)
	}
	for {
		first, payload, err := readFrame(br)
		if err != nil {
			return
		}
		if first != 0x81 {
			continue
		}
		var events []protocol.Event
		if payload[0] == '[' {
			if err := json.Unmarshal(payload, &events); err != nil {
				t.Fatal(err)
			}
		} else {
			var m protocol.Message
			if err := json.Unmarshal(payload, &m); err != nil {
				t.Fatal(err)
			}
			if protocol.DataFor(protocol.Type(m.Type)) == nil {
				continue
			}
			events = make([]protocol.Event, 1)
			if err := json.Unmarshal(payload, &events[0]); err != nil {
				t.Fatal(err)
			}
		}
		for i := range events {
			if err := tr.Apply(&events[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// aBeat is a heartbeat of which a client may miss one while the machine is
// busy with something else.
const aBeat = time.Second

func TestAnIdleWebSocketGetsHeartbeatsAndASilentOneIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hub.Options{Heartbeat: aBeat}, hub.FeedLimits{})
	silent := w.rawWebSocket("") // reads, but never says anything
	defer silent.Close()
	go func() { _, _ = io.Copy(io.Discard, silent) }()
	c := w.dial() // answers pings as long as it reads
	for range 5 { // well past the time in which a silent one is closed
		if m := c.next(); m.Type != protocol.MessageHeartbeat {
			t.Fatalf("message is %+v, want heartbeat", m)
		}
	}
	reading, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for {
			if _, _, err := c.read(reading); err != nil {
				done <- err
				return
			}
		}
	}()
	eventually(t, "the silent one is closed", func() bool { return w.metrics.closedFor("heartbeat_missed") >= 1 })
	select {
	case err := <-done:
		t.Fatalf("the one that answers was closed: %v", err)
	default:
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("reading ended with %v", err)
	}
}

func TestAClientThatOnlyReadsABusyStreamIsNotTakenForDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hub.Options{Heartbeat: aBeat}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.dial()
	c.subscribe(p.id, 0)
	c.next()
	got := make(chan error, 1)
	go func() {
		for {
			if tr := c.transcripts[p.id]; tr != nil && tr.Terminal() != nil {
				got <- nil
				return
			}
			if _, _, err := c.read(t.Context()); err != nil {
				got <- err
				return
			}
		}
	}()
	tick := time.NewTicker(aBeat / 10)
	defer tick.Stop()
	for range 50 { // five heartbeats without a pause in which one would be due
		<-tick.C
		p.chunk("x")
	}
	p.complete()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	p.check(c.transcripts[p.id])
	if n := w.metrics.closedFor("heartbeat_missed"); n != 0 {
		t.Fatalf("%d clients were taken for dead", n)
	}
}

func TestDrainAsksClientsToMove(t *testing.T) {
	w := newWorld(t, hub.Options{ReconnectDelay: 100 * time.Millisecond}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.dial()
	c.subscribe(p.id, 0)
	c.next()
	s := w.sse("single=1&stream="+p.id, "")
	pollDone := make(chan protocol.Poll)
	go func() {
		got, _ := w.poll("single=1&after=1&wait=30s&stream=" + p.id)
		pollDone <- got
	}()
	eventually(t, "all three watch", func() bool { n, _ := p.feed.Watchers(); return n == 3 })

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	drained := make(chan struct{})
	go func() { defer close(drained); w.hub.Drain(ctx, 20*time.Millisecond) }()
	m := c.next()
	if m.Type != protocol.MessageReconnect || m.Reason != "drain" || *m.AfterMS < 50 || *m.AfterMS > 150 {
		t.Fatalf("message is %+v, want reconnect after 50 to 150 ms", m)
	}
	if code := c.closeCode(); code != protocol.CloseDrain {
		t.Fatalf("close code is %d, want %d", code, protocol.CloseDrain)
	}
	var last frame
	for {
		f, err := s.frame()
		if err != nil {
			break
		}
		last = f
	}
	if last.retry == "" || last.data != "" {
		t.Fatalf("the last frame is %+v, want a retry", last)
	}
	if got := <-pollDone; got.Cursor != "1" || got.Done || len(got.Events) != 0 {
		t.Fatalf("the poll was answered with %+v, want its cursor at once", got)
	}
	<-drained
	if _, e := w.poll("single=1&stream=" + p.id); e == nil || e.Code != protocol.CodeDraining {
		t.Fatalf("a new poll is answered with %v, want draining", e)
	}
}

// TestDrainWritesWhatThereIsFirst has clients that lag behind the end of their
// stream when the drain begins: they get all of it before they are sent away.
func TestDrainWritesWhatThereIsFirst(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.dial()
	c.subscribe(p.id, 0)
	c.next()
	s := w.sse("single=1&stream="+p.id, "")
	for range 600 { // more than the sockets' buffers hold
		p.chunk(strings.Repeat("x", 16<<10))
	}
	p.complete()
	drained := make(chan struct{})
	go func() { defer close(drained); w.hub.Drain(t.Context(), 0) }()
	eventually(t, "the drain begins", func() bool {
		_, e := w.poll("single=1&stream=" + p.id)
		return e != nil && e.Code == protocol.CodeDraining
	})
	p.check(c.until(p.id))
	transcripts := make(map[string]*protocol.Transcript)
	s.events(transcripts, func() bool { tr := transcripts[p.id]; return tr != nil && tr.Terminal() != nil })
	p.check(transcripts[p.id])
	if code := c.closeCode(); code != protocol.CloseDrain {
		t.Fatalf("close code is %d, want %d", code, protocol.CloseDrain)
	}
	<-drained
}

func TestPagesOfOtherOriginsCantOpenAWebSocket(t *testing.T) {
	for name, allow := range map[string]func(*http.Request) bool{
		"same host only": nil,
		"by a rule":      func(r *http.Request) bool { return r.Header.Get("Origin") == "https://good.example" },
	} {
		w := newWorld(t, hub.Options{AllowOrigin: allow}, hub.FeedLimits{})
		_, resp, err := websocket.Dial(t.Context(), w.url+"/v1/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://evil.example"}}})
		if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: a foreign page was answered with %v, %v; want 403", name, resp, err)
		}
		if allow != nil {
			c, _, err := websocket.Dial(t.Context(), w.url+"/v1/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://good.example"}}})
			if err != nil {
				t.Fatal(err)
			}
			_ = c.CloseNow()
		}
	}
}

func TestConnectionsBeyondTheLimitAreRefused(t *testing.T) {
	w := newWorld(t, hub.Options{MaxConnections: 1}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.dial()
	_, resp, err := websocket.Dial(t.Context(), w.url+"/v1/ws", nil)
	if err == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("a second connection was answered with %v, %v; want 503 with Retry-After", resp, err)
	}
	if _, e := w.poll("single=1&stream=" + p.id); e == nil || e.Code != protocol.CodeOverloaded {
		t.Fatalf("a poll was answered with %v, want overloaded", e)
	}
	_ = c.conn.Close(websocket.StatusNormalClosure, "")
	eventually(t, "room again", func() bool { _, e := w.poll("single=1&stream=" + p.id); return e == nil })
}
