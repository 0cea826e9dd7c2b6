//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// dialLimit bounds connecting and subscribing.
const dialLimit = 30 * time.Second

// readBuffer is the size of a client's buffer. It is small, since there are
// thousands.
const readBuffer = 4 << 10

// A client reads what a server sends, with as little work as shows that
// nothing was lost. It belongs to its reading goroutine.
type client struct {
	conn net.Conn
	r    *bufio.Reader
	buf  []byte // a message that is longer than r's buffer, or lies across its end
	sse  bool
	// foreign says that the events are an upstream's and have no numbers.
	foreign bool

	cursor uint64 // the last seq
	ended  bool   // the terminal event has come
	// onEvent is called for each event, nil or not.
	onEvent func(raw []byte) error
	crowd   *crowd // that it belongs to, if any
}

// A target is what a client connects to.
type target struct {
	addr, stream string
	after        uint64
	sse          bool
	// ask says that a WebSocket is told what to subscribe to; the floor takes
	// it from the URL.
	ask bool
	// receive, if not 0, is the size of the socket's receive buffer.
	receive int
	// post, if not empty, is the body of a POST to /v1/analyses, whose answer is
	// read as SSE.
	post string
	// foreign says that the events are an upstream's and have no numbers.
	foreign bool
}

// connect opens a connection and returns it as soon as it is subscribed.
func connect(ctx context.Context, t target) (*client, error) {
	c, err := prepare(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := c.join(t); err != nil {
		return nil, errors.Join(err, c.conn.Close())
	}
	return c, c.conn.SetDeadline(time.Time{})
}

// prepare opens a connection, and a WebSocket on it, but doesn't say yet what
// the client wants. The connection has a deadline.
func prepare(ctx context.Context, t target) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := dial(ctx, t)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, sse: t.sse || t.post != "", foreign: t.foreign, cursor: t.after, r: bufio.NewReaderSize(conn, readBuffer)}
	err = conn.SetDeadline(time.Now().Add(dialLimit))
	if err == nil && !c.sse {
		err = c.request(t)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// join asks for the stream, and returns as soon as the server has agreed.
func (c *client) join(t target) error {
	if c.sse {
		if err := c.request(t); err != nil {
			return err
		}
	} else if t.ask {
		if err := c.subscribe(t.stream, t.after); err != nil {
			return err
		}
	}
	return c.readUntilSubscribed()
}

// request sends the HTTP request and reads the answer up to its body.
func (c *client) request(t target) error {
	request := "GET /v1/ws?stream=" + t.stream + " HTTP/1.1\r\nHost: " + t.addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " + protocol.Version + "\r\n\r\n"
	status := "101"
	if t.sse {
		request = "GET /v1/streams/" + t.stream + "/events HTTP/1.1\r\nHost: " + t.addr + "\r\nAccept: text/event-stream\r\n"
		if t.after > 0 {
			request += "Last-Event-ID: " + strconv.FormatUint(t.after, 10) + "\r\n"
		}
		request, status = request+"\r\n", "200"
	}
	if t.post != "" {
		request = "POST /v1/analyses HTTP/1.1\r\nHost: " + t.addr + "\r\nAccept: text/event-stream\r\n" +
			"Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(t.post)) + "\r\n\r\n" + t.post
		status = "20"
	}
	if _, err := io.WriteString(c.conn, request); err != nil {
		return err
	}
	return c.readHeader(status)
}

// readHeader reads an HTTP response up to its body. The status must begin as
// status says, and a body must be chunked.
func (c *client) readHeader(status string) error {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return err
	}
	if fields := strings.Fields(line); len(fields) < 2 || !strings.HasPrefix(fields[1], status) {
		return fmt.Errorf("the server answered %q", line)
	}
	chunked := false
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return err
		}
		chunked = chunked || strings.EqualFold(strings.TrimSpace(line), "Transfer-Encoding: chunked")
		if strings.TrimSpace(line) == "" {
			break
		}
	}
	if c.sse {
		if !chunked {
			return errors.New("the answer is not chunked")
		}
		c.r = bufio.NewReaderSize(httputil.NewChunkedReader(c.r), readBuffer)
	}
	return nil
}

// subscribe asks for a stream.
func (c *client) subscribe(stream string, after uint64) error {
	text, err := json.Marshal(protocol.Command{Type: protocol.CommandSubscribe, ID: "s", Stream: stream, After: after})
	if err != nil {
		return err
	}
	return c.writeFrame(0x81, text)
}

func (c *client) readUntilSubscribed() error {
	for {
		msg, control, err := c.read()
		if err != nil {
			return err
		}
		if control && c.sse || bytes.Contains(msg, []byte(`"type":"subscribed"`)) {
			return nil
		}
		if !control {
			return fmt.Errorf("an event before the subscription: %.200q", msg)
		}
	}
}

// writeFrame writes a short frame as clients do, masked, with a mask of zeros.
func (c *client) writeFrame(head byte, payload []byte) error {
	frame := append([]byte{head, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	if len(payload) > 125 {
		frame = append(binary.BigEndian.AppendUint16([]byte{head, 0x80 | 126}, uint16(len(payload))), 0, 0, 0, 0)
		frame = append(frame, payload...)
	}
	_, err := c.conn.Write(frame)
	return err
}

// read returns the next message: one or more events, or with control set what
// is no event. It is valid until the next call.
func (c *client) read() (msg []byte, control bool, err error) {
	if c.sse {
		return c.readSSE()
	}
	for {
		op, payload, err := c.readFrame()
		if err != nil {
			return nil, false, err
		}
		switch op {
		case 0x81: // a whole text message
			return payload, bytes.HasPrefix(payload, []byte(`{"type"`)), nil
		case 0x89: // ping
			if err := c.writeFrame(0x8a, bytes.Clone(payload)); err != nil {
				return nil, false, err
			}
		case 0x88:
			return nil, false, fmt.Errorf("the server closed the connection: %q", payload)
		default:
			return nil, false, fmt.Errorf("a frame that begins with %#x", op)
		}
	}
}

func (c *client) readFrame() (op byte, payload []byte, err error) {
	head, err := c.r.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	op = head[0]
	n, skip := int(head[1]), 2
	switch n {
	case 126:
		if head, err = c.r.Peek(4); err != nil {
			return 0, nil, err
		}
		n, skip = int(binary.BigEndian.Uint16(head[2:])), 4
	case 127:
		if head, err = c.r.Peek(10); err != nil {
			return 0, nil, err
		}
		n, skip = int(binary.BigEndian.Uint64(head[2:])), 10
	}
	if n > protocol.MaxEventBytes {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	if _, err := c.r.Discard(skip); err != nil {
		return 0, nil, err
	}
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	c.buf = c.buf[:n]
	_, err = io.ReadFull(c.r, c.buf)
	return op, c.buf, err
}

// readSSE returns the data of the next frame that has any. A frame with a name
// is control.
func (c *client) readSSE() (data []byte, control bool, err error) {
	for {
		line, err := c.readLine()
		if err != nil {
			return nil, false, err
		}
		if bytes.HasPrefix(line, []byte("event: ")) {
			control = true
		}
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			return data, control, nil
		}
	}
}

// readLine returns the next line without its end.
func (c *client) readLine() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], nil
	}
	c.buf = append(c.buf[:0], line...)
	for errors.Is(err, bufio.ErrBufferFull) && len(c.buf) <= protocol.MaxEventBytes {
		line, err = c.r.ReadSlice('\n')
		c.buf = append(c.buf, line...)
	}
	if err != nil {
		return nil, err
	}
	return c.buf[:len(c.buf)-1], nil
}

// run reads until the connection ends.
func (c *client) run() error {
	for {
		if err := c.step(); err != nil {
			return err
		}
	}
}

// step reads one message.
func (c *client) step() error {
	msg, control, err := c.read()
	if err != nil {
		return err
	}
	if control {
		if bytes.HasPrefix(msg, []byte(`{"type":"error"`)) {
			return fmt.Errorf("the server says: %s", msg)
		}
		return nil
	}
	before := c.cursor
	events := []json.RawMessage{msg}
	if msg[0] == '[' && !c.foreign {
		if err := json.Unmarshal(msg, &events); err != nil {
			return err
		}
	}
	for _, raw := range events {
		if err := c.apply(raw); err != nil {
			return err
		}
	}
	if c.crowd != nil {
		c.crowd.got(int64(c.cursor-before), events)
	}
	return nil
}

// apply moves the cursor over an event, which must follow it.
func (c *client) apply(raw []byte) error {
	if c.foreign {
		c.ended = string(raw) == "[DONE]"
		if c.onEvent != nil {
			return c.onEvent(raw)
		}
		return nil
	}
	first, seq, err := place(raw)
	if err != nil {
		return err
	}
	if first != c.cursor+1 || seq < first {
		return fmt.Errorf("after seq %d came %d..%d", c.cursor, first, seq)
	}
	c.cursor = seq
	c.ended = bytes.Contains(raw[:min(len(raw), 120)], []byte(`"type":"completed"`))
	if c.onEvent != nil {
		return c.onEvent(raw)
	}
	return nil
}

// place finds which numbers an event covers, without parsing the rest.
func place(raw []byte) (first, seq uint64, err error) {
	_, rest, ok := bytes.Cut(raw[:min(len(raw), 120)], []byte(`","seq":`))
	if !ok {
		return 0, 0, fmt.Errorf("no event: %.200q", raw)
	}
	seq, rest = digits(rest)
	if rest, ok := bytes.CutPrefix(rest, []byte(`,"first":`)); ok {
		first, _ = digits(rest)
		return first, seq, nil
	}
	return seq, seq, nil
}

// chunkText returns the text of a chunk as Athena's encoder writes it, still
// escaped, and nil for every other event.
func chunkText(raw []byte) []byte {
	if !bytes.Contains(raw[:min(len(raw), 160)], []byte(`"type":"chunk"`)) {
		return nil
	}
	_, text, ok := bytes.Cut(raw, []byte(`"text":"`))
	if !ok {
		return nil
	}
	return bytes.TrimSuffix(text, []byte(`"}}`))
}

func digits(b []byte) (n uint64, rest []byte) {
	for len(b) > 0 && b[0] >= '0' && b[0] <= '9' {
		n, b = n*10+uint64(b[0]-'0'), b[1:]
	}
	return n, b
}

// A crowd is many clients of one server.
type crowd struct {
	// Set before the clients read, then read-only.
	clients []*client
	// size, if not nil, says how much an event counts; otherwise it is the
	// numbers that it covers.
	size func(raw []byte) int

	wg sync.WaitGroup

	covered  atomic.Int64 // of all clients together
	messages atomic.Int64 // events as they came
	want     atomic.Int64
	enough   chan struct{} // has something once covered has reached want
	failed   chan error
	closing  atomic.Bool
}

// connectAll connects a client to each of targets, and lets them read until the
// test ends or close is called.
func connectAll(tb testing.TB, targets []target) *crowd {
	tb.Helper()
	return gather(tb, targets, nil)
}

// gather is connectAll for a crowd that counts by size, where that is not nil.
func gather(tb testing.TB, targets []target, size func(raw []byte) int) *crowd {
	tb.Helper()
	c := &crowd{clients: make([]*client, len(targets)), size: size, enough: make(chan struct{}, 1), failed: make(chan error, 1)}
	const dialers = 8
	var next atomic.Int64
	var wg sync.WaitGroup
	for range dialers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(targets) {
					return
				}
				cl, err := connect(tb.Context(), targets[i])
				if err != nil {
					c.fail(fmt.Errorf("connect client %d: %w", i, err))
					return
				}
				cl.crowd = c
				c.clients[i] = cl
				c.wg.Go(func() {
					err := cl.run()
					if !c.closing.Load() && !(cl.ended && errors.Is(err, io.EOF)) {
						c.fail(err)
					}
				})
			}
		})
	}
	wg.Wait()
	tb.Cleanup(c.close)
	select {
	case err := <-c.failed:
		tb.Fatal(err)
	default:
	}
	return c
}

func (c *crowd) fail(err error) {
	select {
	case c.failed <- err:
	default: // one is enough
	}
}

func (c *crowd) got(covered int64, events []json.RawMessage) {
	c.messages.Add(int64(len(events)))
	if c.size != nil {
		covered = 0
		for _, raw := range events {
			covered += int64(c.size(raw))
		}
	}
	if c.covered.Add(covered) >= c.want.Load() {
		select {
		case c.enough <- struct{}{}:
		default:
		}
	}
}

// expect says that n more deliveries will come.
func (c *crowd) expect(n int) { c.want.Add(int64(n)) }

// wait returns when all that is expected has come, and fails the test when more
// did.
func (c *crowd) wait(tb testing.TB) {
	tb.Helper()
	c.reach(tb)
	if got, want := c.covered.Load(), c.want.Load(); got != want {
		tb.Fatalf("%d deliveries came, not %d", got, want)
	}
}

// reach returns when what is expected has come.
func (c *crowd) reach(tb testing.TB) {
	tb.Helper()
	limit := time.NewTimer(callLimit)
	defer limit.Stop()
	for c.covered.Load() < c.want.Load() {
		select {
		case <-c.enough:
		case err := <-c.failed:
			tb.Fatalf("a client: %v", err)
		case <-limit.C:
			tb.Fatalf("%d of %d deliveries came", c.covered.Load(), c.want.Load())
		}
	}
}

// close ends the connections and waits for their readers.
func (c *crowd) close() {
	c.closing.Store(true)
	for _, cl := range c.clients {
		if cl != nil {
			_ = cl.conn.Close() // only read from
		}
	}
	c.wg.Wait()
}
