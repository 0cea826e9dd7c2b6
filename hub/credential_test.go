package hub_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

// credentials is one credential, which all clients have.
type credentials struct {
	mu       sync.Mutex
	ended    int // the code, once it has
	watching map[int]func(code int, detail string)
	next     int
	changed  chan struct{} // closed and replaced with each change of watching
}

func newCredentials() *credentials {
	return &credentials{watching: make(map[int]func(int, string)), changed: make(chan struct{})}
}

func (c *credentials) Watch(end func(code int, detail string)) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != 0 {
		end(c.ended, "it is over")
		return func() {}
	}
	n := c.next
	c.next++
	c.watching[n] = end
	c.tell()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watching, n)
		c.tell()
	}
}

// tell is called with mu held.
func (c *credentials) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// await waits until so many connections watch.
func (c *credentials) await(t *testing.T, n int) {
	t.Helper()
	late := time.After(patience)
	for {
		c.mu.Lock()
		have, changed := len(c.watching), c.changed
		c.mu.Unlock()
		if have == n {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%d connections watch their credential, want %d", have, n)
		}
	}
}

func (c *credentials) end(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = code
	for n, end := range c.watching {
		end(code, "it is over")
		delete(c.watching, n)
	}
	c.tell()
}

func TestConnectionsOfAllTransportsEndWithTheirCredential(t *testing.T) {
	c := newCredentials()
	w := newWorld(t, hub.Options{Credential: func(context.Context) hub.Credential { return c }}, hub.FeedLimits{})
	p := w.publish().start()
	ws := w.dial()
	ws.subscribe(p.id, 0)
	sse := w.sse("single=1&stream="+p.id, "")
	polled := make(chan *protocol.Error, 1)
	go func() {
		_, refused := w.poll("single=1&wait=60s&stream=" + p.id + "&after=1")
		polled <- refused
	}()
	collected := make(chan error, 1)
	go func() {
		_, _, err := w.hub.Collect(t.Context(), p.id)
		collected <- err
	}()
	c.await(t, 4)
	c.end(protocol.CloseRevoked)
	if code := ws.closeCode(); code != protocol.CloseRevoked {
		t.Errorf("the WebSocket was closed with %d", code)
	}
	for {
		if _, err := sse.frame(); err != nil {
			break // the response has ended
		}
	}
	if e := <-polled; e == nil || e.Status != http.StatusUnauthorized {
		t.Errorf("the poll was answered with %v", e)
	}
	if err := <-collected; !errors.Is(err, protocol.ErrAuthentication) {
		t.Errorf("who waited for the result got %v", err)
	}
	c.await(t, 0)
	// One that ended while the request was on its way.
	if code := w.dial().closeCode(); code != protocol.CloseRevoked {
		t.Errorf("a late WebSocket was closed with %d", code)
	}
	p.complete()
}

func TestAClientThatDoesNotReadIsCutWhenItsCredentialEnds(t *testing.T) {
	c := newCredentials()
	o := oneMessage
	o.Credential = func(context.Context) hub.Credential { return c }
	w := newWorld(t, o, roomyFeeds)
	w.hang(w.huge())
	c.await(t, 1)
	c.end(protocol.CloseRevoked)
	late := time.After(20 * time.Second) // below the minute that a write may take
	for w.hub.Connections() > 0 {
		select {
		case <-late:
			t.Fatal("the connection goes on")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// strangers are clients who may watch nothing.
type strangers struct{ signals }

func (*strangers) Subscribe(_ context.Context, stream string) error {
	return protocol.Errorf(protocol.CodeStreamNotFound, "stream %s is unknown", stream)
}

func TestAStreamThatAClientMayNotWatchIsNotSubscribedTo(t *testing.T) {
	w := newWorld(t, hub.Options{Commands: new(strangers)}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.dial()
	c.send(`{"type":"subscribe","id":"s","stream":"` + p.id + `"}`)
	m := c.next()
	for m.Type == protocol.MessageWelcome {
		m = c.next()
	}
	if m.Type != protocol.MessageError || m.Error.Code != protocol.CodeStreamNotFound {
		t.Errorf("it was answered with %+v", m)
	}
	p.complete()
}

// demoted are clients who may watch what they begin, and what they subscribe to
// until they bring a fresh token.
type demoted struct {
	signals
	begun    string
	analyses atomic.Int32
	less     atomic.Bool
}

func (d *demoted) Analyze(context.Context, []byte) (string, error) {
	d.analyses.Add(1)
	return d.begun, nil
}

func (d *demoted) Authenticate(context.Context, string) error { d.less.Store(true); return nil }

func (d *demoted) Subscribe(_ context.Context, stream string) error {
	if d.less.Load() {
		return protocol.Errorf(protocol.CodeForbidden, "not stream %s", stream)
	}
	return nil
}

func TestAClientWhoseFreshTokenMayLessWatchesNoMoreThanThat(t *testing.T) {
	d := new(demoted)
	w := newWorld(t, hub.Options{Commands: d}, hub.FeedLimits{})
	own, other := w.publish().start(), w.publish().start()
	d.begun = own.id
	c := w.dial()
	answer := func(id string) protocol.Message {
		t.Helper()
		for {
			if m := c.next(); m.ID == id || m.ID == "" && m.Stream != "" {
				return m
			}
		}
	}
	c.send(`{"type":"analyze","id":"a","request":{"code":"x"}}`)
	answer("a")
	c.subscribe(other.id, 0)
	answer("s")
	c.send(`{"type":"authenticate","id":"t","token":"x"}`)
	if m := answer("t"); m.Type != protocol.MessageAccepted {
		t.Errorf("authenticate: %+v", m)
	}
	if m := answer("?"); m.Type != protocol.MessageError || m.Stream != other.id || m.Error.Code != protocol.CodeForbidden {
		t.Errorf("then: %+v", m)
	}
	// What it began itself is watched on, and nothing else.
	other.complete()
	own.complete()
	eventually(t, "the end of its own stream", func() bool {
		c.send(`{"type":"ping","id":"p"}`)
		answer("p")
		return c.transcripts[own.id] != nil && c.transcripts[own.id].Terminal() != nil
	})
	if tr := c.transcripts[other.id]; tr != nil && tr.Terminal() != nil {
		t.Error("the other stream was watched to its end")
	}
}

func TestAClientWhoseCredentialHasEndedBeginsNothingMore(t *testing.T) {
	c, d := newCredentials(), new(demoted)
	o := oneMessage
	o.Commands, o.Credential = d, func(context.Context) hub.Credential { return c }
	w := newWorld(t, o, roomyFeeds)
	ws, _ := w.hang(w.huge())
	c.await(t, 1)
	c.end(protocol.CloseRevoked)
	// The writer hangs, so nobody has said goodbye yet; commands are read on.
	ws.send(`{"type":"analyze","id":"late","request":{"code":"x"}}`)
	eventually(t, "the end of the connection", func() bool { return w.hub.Connections() == 0 })
	if n := d.analyses.Load(); n != 0 {
		t.Errorf("%d analyses were begun", n)
	}
}
