package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/protocol"
)

// A news tells those who wait for it that something has changed.
type news struct {
	mu      sync.Mutex
	changed chan struct{} // guarded by mu: closed and replaced with each change
}

func newNews() *news { return &news{changed: make(chan struct{})} }

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

// await waits until missing returns "". It is asked again with each change.
func (n *news) await(t *testing.T, missing func() string) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		m := missing()
		if m == "" {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			t.Fatalf("after %v: %s", patience, m)
		}
	}
}

// comeBack is how long a visitor waits before it connects again.
const comeBack = 100 * time.Millisecond

// A visitor is one client of one stream, of the ordinary kind: it goes on where
// it stopped, over as many connections as that takes. It notes where it has
// been, and whatever a user would see as an error.
type visitor struct {
	name      string
	transport string
	to        target
	id        string
	news      *news

	mu         sync.Mutex
	transcript *protocol.Transcript // guarded by mu
	node       string               // guarded by mu: where it is; "" where it is nowhere, or can't know
	moved      int                  // guarded by mu: how often it was asked to move
	cut        []error              // guarded by mu: how connections that stood were lost
	errs       []error              // guarded by mu: what a client should not see
}

// visit lets a visitor watch the stream until it has ended, or the test has.
func visit(t *testing.T, n *news, name, transport string, to target, id string) *visitor {
	t.Helper()
	v := &visitor{name: name + ", " + transport, transport: transport, to: to, id: id, news: n, transcript: new(protocol.Transcript)}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { v.run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return v
}

func (v *visitor) run(ctx context.Context) {
	for ctx.Err() == nil && !v.ended() {
		l, err := v.open(ctx)
		if err == nil {
			err = v.read(l)
			l.close(false)
		} else if ctx.Err() == nil && !errors.Is(err, errSentAway) {
			v.fault(fmt.Errorf("connect: %w", err))
		}
		if ctx.Err() != nil {
			return
		}
		v.mu.Lock()
		v.node = ""
		_, malformed := errors.AsType[*malformedError](err)
		_, refused := errors.AsType[*refusedError](err)
		switch {
		case l == nil || v.transcript.Terminal() != nil:
		case malformed || refused || v.transport == protocol.TransportLongPoll:
			v.errs = append(v.errs, err)
		case errors.Is(err, io.EOF), websocket.CloseStatus(err) == protocol.CloseDrain:
			v.moved++
		default:
			v.cut = append(v.cut, err)
		}
		v.mu.Unlock()
		v.news.tell()
		rest(ctx, comeBack)
	}
}

func (v *visitor) fault(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.errs = append(v.errs, err)
}

// open connects from the cursor on.
func (v *visitor) open(ctx context.Context) (link, error) {
	v.mu.Lock()
	cursor := v.transcript.Cursor()
	v.mu.Unlock()
	if v.transport == protocol.TransportLongPoll {
		return open(ctx, v.transport, v.to, []protocol.Cursor{{Stream: v.id, After: cursor}})
	}
	var l link
	var welcome protocol.Welcome
	var err error
	if v.transport == protocol.TransportWebSocket {
		l, welcome, err = v.openWebSocket(ctx, cursor)
	} else {
		l, welcome, err = v.openSSE(ctx, cursor)
	}
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.node = welcome.Node
	v.mu.Unlock()
	v.news.tell()
	return l, nil
}

// openSSE connects as an EventSource does, which knows Last-Event-ID and no
// cursor in the URL.
func (v *visitor) openSSE(ctx context.Context, cursor uint64) (_ link, welcome protocol.Welcome, err error) {
	t := newTap(0)
	header := []string{"Accept", "text/event-stream"}
	if cursor > 0 {
		header = append(header, "Last-Event-ID", strconv.FormatUint(cursor, 10))
	}
	res, err := t.get(ctx, v.to, "/v1/streams/"+v.id+"/events", header...)
	if err != nil {
		t.transport.CloseIdleConnections()
		return nil, welcome, err
	}
	l := &sseConn{tap: t, res: res, r: bufio.NewReader(res.Body), gone: res.StatusCode == http.StatusNoContent}
	if l.gone {
		return l, welcome, nil
	}
	f, err := l.frame()
	switch {
	case err != nil:
	case f.event == "" && f.retry != "":
		err = errSentAway
	case f.event != "welcome":
		err = malformed([]byte(f.data), errors.New("it is no welcome"))
	default:
		err = json.Unmarshal([]byte(f.data), &welcome)
	}
	if err != nil {
		l.close(true)
		return nil, welcome, err
	}
	return l, welcome, nil
}

func (v *visitor) openWebSocket(ctx context.Context, cursor uint64) (_ link, welcome protocol.Welcome, err error) {
	t := newTap(0)
	conn, res, err := websocket.Dial(ctx, v.to.url+"/v1/ws",
		&websocket.DialOptions{HTTPClient: t.client, HTTPHeader: v.to.header, Subprotocols: []string{protocol.Version}})
	if err != nil {
		t.transport.CloseIdleConnections()
		if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("status %d: %w", res.StatusCode, err)
		}
		return nil, welcome, err
	}
	conn.SetReadLimit(4 << 20)
	l := &wsConn{ctx, t, conn}
	_, b, err := conn.Read(ctx)
	if err == nil {
		err = json.Unmarshal(b, &welcome)
	}
	if err == nil {
		err = l.send(&protocol.Command{Type: protocol.CommandSubscribe, ID: "s", Stream: v.id, After: cursor})
	}
	if err != nil {
		l.close(true)
		return nil, welcome, err
	}
	return l, welcome, nil
}

// read takes what comes until the stream ends, or the connection does.
func (v *visitor) read(l link) error {
	for !v.ended() {
		d, err := l.next()
		if err != nil {
			return err
		}
		if d.message != nil && d.message.Type == protocol.MessageError {
			return &malformedError{fmt.Sprintf("the error %v", d.message.Error)}
		}
		v.mu.Lock()
		for i := range d.events {
			if err := v.transcript.Apply(&d.events[i].event); err != nil {
				v.mu.Unlock()
				return &malformedError{err.Error()}
			}
		}
		v.mu.Unlock()
		v.news.tell()
		if d.done && !v.ended() {
			return &malformedError{"that nothing will follow, before the stream's end"}
		}
	}
	return nil
}

func (v *visitor) ended() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.transcript.Terminal() != nil
}

func (v *visitor) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.transcript.Text()
}

func (v *visitor) at() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.node
}

// problems is what went wrong for the visitor. Connections that stood may have
// been cut only if cuts is set: where a node was killed.
func (v *visitor) problems(cuts bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	errs := slices.Clone(v.errs)
	if !cuts {
		errs = append(errs, v.cut...)
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", v.name, errors.Join(errs...))
}

// A crowd is visitors of one stream.
type crowd struct {
	t        *testing.T
	news     *news
	visitors []*visitor
}

// crowdSize bounds the visitors that gather makes to have one on each node.
const crowdSize = 12

// gather lets visitors come through the proxies over every transport, until of
// each transport that says where one is there is a visitor on each node.
func gather(t *testing.T, proxies []*proxy, header http.Header, nodes []string, id string) *crowd {
	t.Helper()
	c := &crowd{t: t, news: newNews()}
	for _, p := range proxies {
		to := target{url: p.url, header: header}
		for range nodes { // where these are is not known
			c.visitors = append(c.visitors, visit(t, c.news, p.name, protocol.TransportLongPoll, to, id))
		}
		for _, transport := range []string{protocol.TransportWebSocket, protocol.TransportSSE} {
			reached := make(map[string]bool)
			for n := 0; len(reached) < len(nodes); n++ {
				if n == crowdSize {
					t.Fatalf("%s: of %d clients over %s all are on %v, want %v", p.name, n, transport, reached, nodes)
				}
				v := visit(t, c.news, p.name, transport, to, id)
				c.visitors = append(c.visitors, v)
				c.news.await(t, func() string {
					if at := v.at(); at != "" {
						reached[at] = true
						return ""
					}
					return fmt.Sprintf("%s is nowhere: %v", v.name, v.problems(false))
				})
			}
		}
	}
	return c
}

// await waits until cond holds for all visitors.
func (c *crowd) await(what string, cond func(*visitor) bool) {
	c.t.Helper()
	c.news.await(c.t, func() string {
		var missing []string
		for _, v := range c.visitors {
			if !cond(v) {
				missing = append(missing, fmt.Sprintf("%s, on %q, with %q (%v)", v.name, v.at(), v.text(), v.problems(false)))
			}
		}
		if len(missing) == 0 {
			return ""
		}
		return fmt.Sprintf("%d of %d clients don't have it that %s:\n  %s", len(missing), len(c.visitors), what, strings.Join(missing, "\n  "))
	})
}

// check fails the test if a visitor saw an error, or anything but text and a
// good end.
func (c *crowd) check(text string, cuts bool) {
	c.t.Helper()
	for _, v := range c.visitors {
		if err := v.problems(cuts); err != nil {
			c.t.Error(err)
		}
		v.mu.Lock()
		end := v.transcript.Terminal()
		if v.transcript.Text() != text || end == nil || end.Type != protocol.TypeCompleted {
			c.t.Errorf("%s has %q and the end %+v, want %q and completed", v.name, v.transcript.Text(), end, text)
		}
		v.mu.Unlock()
	}
}

// moves is how often visitors were asked to move.
func (c *crowd) moves() (n int) {
	for _, v := range c.visitors {
		v.mu.Lock()
		n += v.moved
		v.mu.Unlock()
	}
	return n
}
