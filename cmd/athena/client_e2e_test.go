package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
)

// A cutter is a TCP proxy that breaks each connection off after a random
// number of bytes of the server's, until it is told to be calm.
type cutter struct {
	ln    net.Listener
	to    string
	calm  atomic.Bool
	cuts  atomic.Int64
	tasks sync.WaitGroup
}

func startCutter(t *testing.T, to string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln, to: to}
	c.tasks.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.tasks.Go(func() { c.serve(t.Context(), conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		c.tasks.Wait()
	})
	return c
}

func (c *cutter) serve(ctx context.Context, near net.Conn) {
	far, err := new(net.Dialer).DialContext(ctx, "tcp", c.to)
	if err != nil {
		_ = near.Close()
		return
	}
	end := sync.OnceFunc(func() { _, _ = near.Close(), far.Close() })
	defer context.AfterFunc(ctx, end)()
	defer end()
	c.tasks.Go(func() {
		_, _ = io.Copy(far, near)
		end()
	})
	budget := int64(400 + rand.IntN(8000))
	if c.calm.Load() {
		budget = 1 << 40
	}
	if n, _ := io.CopyN(near, far, budget); n == budget {
		c.cuts.Add(1)
		if rand.IntN(2) == 0 {
			_ = near.(*net.TCPConn).SetLinger(0) // a reset, and not a proper end
		}
	}
}

func TestTheGoClientLosesAndRepeatsNothingHoweverItsConnectionsAreCut(t *testing.T) {
	t.Parallel()
	var texts []string
	for i := range 60 {
		texts = append(texts, fmt.Sprintf("piece %d, π and 🦉. ", i))
	}
	s := serve(t, anthropicAt(upstream(t, answer(8*time.Millisecond, texts...))))
	cuts := startCutter(t, s.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	calm := time.AfterFunc(8*time.Second, func() { cuts.calm.Store(true) }) // so that it ends on slow machines, too
	defer calm.Stop()
	var runs sync.WaitGroup
	defer runs.Wait()
	var lost atomic.Int64
	for _, transports := range [][]string{nil, {protocol.TransportWebSocket}, {protocol.TransportSSE}, {protocol.TransportLongPoll}} {
		c, err := client.New(client.Config{URL: "http://" + cuts.ln.Addr().String(), Transports: transports})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for n := range 8 {
			runs.Go(func() {
				run, err := c.Analyze(ctx, &protocol.Request{Code: fmt.Sprintf("package p%d\n", n), Cache: protocol.CacheBypass})
				if err != nil {
					t.Errorf("%q: %v", transports, err)
					return
				}
				run.Lost = func(error) { lost.Add(1) }
				for _, err := range run.Events(ctx) {
					if err != nil {
						t.Errorf("%q: %v", transports, err)
					}
				}
				if got, want := run.Transcript().Text(), strings.Join(texts, ""); got != want {
					t.Errorf("%q: the text is %q, want %q", transports, got, want)
				}
			})
		}
	}
	runs.Wait()
	if cuts.cuts.Load() < 20 || lost.Load() < 20 {
		t.Errorf("only %d connections were cut, and %d lost", cuts.cuts.Load(), lost.Load())
	}
}

// A turnstile is a reverse proxy that may refuse upgrades and hold answers back
// until they are whole.
type turnstile struct {
	proxy   *httputil.ReverseProxy
	refuse  atomic.Bool // upgrades
	buffer  atomic.Bool
	sockets atomic.Int64
	streams atomic.Int64
	polls   atomic.Int64
}

func (g *turnstile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/v1/ws":
		if g.refuse.Load() {
			http.Error(w, "no upgrades here", http.StatusBadRequest)
			return
		}
		g.sockets.Add(1)
	case r.Header.Get("Accept") == "text/event-stream":
		g.streams.Add(1)
		if g.buffer.Load() {
			held := httptest.NewRecorder()
			g.proxy.ServeHTTP(held, r)
			_, _ = io.Copy(w, bytes.NewReader(held.Body.Bytes()))
			return
		}
	case strings.HasSuffix(r.URL.Path, "/events"):
		g.polls.Add(1)
	}
	g.proxy.ServeHTTP(w, r)
}

func throughTurnstile(t *testing.T, s *server, config client.Config) (*turnstile, *client.Client) {
	t.Helper()
	to, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	g := &turnstile{proxy: &httputil.ReverseProxy{Transport: transport, FlushInterval: -1,
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }}}
	front := httptest.NewServer(g)
	config.URL = front.URL
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		front.Close()
		transport.CloseIdleConnections()
	})
	return g, c
}

func TestTheGoClientTakesTheTransportThatGetsThrough(t *testing.T) {
	const text = "one two three"
	s := serve(t, anthropicAt(upstream(t, answer(5*time.Millisecond, "one ", "two ", "three"))))
	for name, c := range map[string]struct{ refuse, buffer bool }{
		"a WebSocket":                {false, false},
		"an event stream":            {true, false},
		"polls where answers buffer": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			g, c2 := throughTurnstile(t, s, client.Config{})
			g.refuse.Store(c.refuse)
			g.buffer.Store(c.buffer)
			for n := range 3 {
				run, err := c2.Analyze(t.Context(), &protocol.Request{Code: fmt.Sprintf("x%d", n), Cache: protocol.CacheBypass})
				if err != nil {
					t.Fatal(err)
				}
				for _, err := range run.Events(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
				}
				if got := run.Transcript().Text(); got != text {
					t.Errorf("the text is %q", got)
				}
			}
			sockets, streams, polls := g.sockets.Load(), g.streams.Load(), g.polls.Load()
			switch {
			case !c.refuse && (sockets != 1 || streams+polls != 0),
				c.refuse && !c.buffer && (sockets != 0 || streams != 3 || polls != 0),
				c.buffer && (polls < 3 || streams != 1):
				t.Errorf("%d WebSockets, %d event streams, %d polls", sockets, streams, polls)
			}
		})
	}
}

func TestTheGoClientMovesToABetterTransportAndLosesNothing(t *testing.T) {
	t.Parallel()
	texts := []string{"one ", "two ", "three "}
	for i := range 100 {
		texts = append(texts, fmt.Sprintf("piece %d ", i))
	}
	s := serve(t, anthropicAt(upstream(t, answer(20*time.Millisecond, texts...))))
	g, c := throughTurnstile(t, s, client.Config{TryBetter: 300 * time.Millisecond})
	g.refuse.Store(true)
	run, err := c.Analyze(t.Context(), &protocol.Request{Code: "x", Cache: protocol.CacheBypass})
	if err != nil {
		t.Fatal(err)
	}
	run.Lost = func(err error) { t.Errorf("lost: %v", err) }
	for e, err := range run.Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == protocol.TypeChunk {
			g.refuse.Store(false)
		}
	}
	if got, want := run.Transcript().Text(), strings.Join(texts, ""); got != want || g.sockets.Load() != 1 || g.streams.Load() != 1 {
		t.Errorf("%d WebSockets, %d event streams, the text %q", g.sockets.Load(), g.streams.Load(), got)
	}
}

func TestTheGoClientListsProvidersAndIsToldWhatIsWrong(t *testing.T) {
	s := serve(t, anthropicAt(upstream(t, answer(0, "hi"))))
	_, c := throughTurnstile(t, s, client.Config{})
	providers, err := c.Providers(t.Context())
	if err != nil || len(providers) < 2 || providers[0].Name == "" || providers[0].State == "" || !bytes.Contains(providers[0].JSON, []byte(`"features"`)) {
		t.Errorf("got %+v, %v", providers, err)
	}
	if _, err := c.Analyze(t.Context(), &protocol.Request{Code: "x", Provider: "nobody"}); !errors.Is(err, protocol.ErrValidation) {
		t.Errorf("got %v", err)
	}
	for _, err := range c.Watch(protocol.NewStreamID(), nil).Events(t.Context()) {
		if e, ok := errors.AsType[*protocol.Error](err); !ok || e.Code != protocol.CodeStreamNotFound {
			t.Errorf("got %v", err)
		}
	}
}
