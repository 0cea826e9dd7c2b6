package hub_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

func TestACallerWithTooManyConnectionsIsToldSoByEachTransport(t *testing.T) {
	var admitted, left atomic.Int32
	var full atomic.Bool
	w := newWorld(t, hub.Options{Admit: func(_ context.Context, _ string) (func(), error) {
		if full.Load() {
			return nil, protocol.Errorf(protocol.CodeRateLimited, "your key has enough").WithRetryAfter(3 * time.Second)
		}
		admitted.Add(1)
		return func() { left.Add(1) }, nil
	}}, hub.FeedLimits{})
	p := w.publish().start()
	first := w.dial()
	first.subscribe(p.id, 0)
	full.Store(true)

	second := w.dial()
	if code := second.closeCode(); code != protocol.CloseLimit {
		t.Errorf("a WebSocket is closed with %d, want %d", code, protocol.CloseLimit)
	}
	for _, accept := range []string{"text/event-stream", ""} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/v1/events?single=1&stream="+p.id, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "3" {
			t.Errorf("Accept %q: %s, Retry-After %q", accept, resp.Status, resp.Header.Get("Retry-After"))
		}
	}
	if _, _, err := w.hub.Collect(t.Context(), p.id); protocol.AsError(err).Code != protocol.CodeRateLimited {
		t.Errorf("Collect: %v", err)
	}
	if err := w.hub.Admissible(t.Context()); protocol.AsError(err).Code != protocol.CodeRateLimited {
		t.Errorf("Admissible: %v", err)
	}
	eventually(t, "only the first is there", func() bool { return w.hub.Connections() == 1 })
	p.complete()
	_ = first.conn.CloseNow()
	eventually(t, "every place was given back once", func() bool { return w.hub.Connections() == 0 && left.Load() == admitted.Load() })
}

func TestCommandsThatCostSomethingAreAskedForFirst(t *testing.T) {
	var asked []string
	w := newWorld(t, hub.Options{Allow: func(_ context.Context, c protocol.CommandType, bytes int) error {
		asked = append(asked, string(c)) // by the connection's one reader
		if bytes < 10 {
			t.Errorf("%s has %d bytes", c, bytes)
		}
		return protocol.Errorf(protocol.CodeRateLimited, "too many").WithRetryAfter(1500 * time.Millisecond)
	}}, hub.FeedLimits{})
	c := w.dial()
	for _, command := range []string{`{"type":"subscribe","id":"1","stream":"` + protocol.NewStreamID() + `"}`, `{"type":"analyze","id":"1","request":{"code":"x"}}`,
		`{"type":"cancel","id":"1","stream":"` + protocol.NewStreamID() + `"}`, `{"type":"authenticate","id":"1","token":"x"}`} {
		c.send(command)
		if m := c.next(); m.Type != protocol.MessageError || m.ID != "1" || m.Error.Code != protocol.CodeRateLimited || m.Error.RetryAfterMS != 1500 {
			t.Errorf("%s: %+v", command, m)
		}
	}
	c.send(`{"type":"ping","id":"2"}`)
	if m := c.next(); m.Type != protocol.MessagePong {
		t.Errorf("a ping: %+v", m)
	}
	if got := strings.Join(asked, " "); got != "subscribe analyze cancel authenticate" {
		t.Errorf("asked for %s", got)
	}
}

func TestWhoWaitsForAResultGivesOnePlaceBack(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	ws := w.dial()
	ws.subscribe(p.id, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		if _, _, err := w.hub.Collect(ctx, p.id); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.hub.Connections(); n != 1 {
		t.Errorf("%d connections, where there is one", n)
	}
	p.complete()
}

func TestWhoHasTooManyConnectionsCantFillTheNodeWithRefusals(t *testing.T) {
	w := newWorld(t, hub.Options{Admit: func(context.Context, string) (func(), error) {
		return nil, protocol.Errorf(protocol.CodeRateLimited, "your key has enough").WithRetryAfter(3 * time.Second)
	}}, hub.FeedLimits{})
	refused := false
	for range 150 { // none of which says goodbye
		conn, resp, err := websocket.Dial(t.Context(), w.url+"/v1/ws", nil)
		if err == nil {
			defer conn.CloseNow()
			continue
		}
		if resp == nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "3" {
			t.Fatalf("%v, %+v", err, resp)
		}
		refused = true
	}
	if !refused {
		t.Error("150 WebSockets are open only to be told that they may not be")
	}
	eventually(t, "every place was given back", func() bool { return w.hub.Connections() == 0 })
}
