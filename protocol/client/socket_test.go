package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
	"github.com/athena-hub/athena/protocol/client/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// A socketServer is a server with a WebSocket, on which play says what a test
// wants of the nth connection.
type socketServer struct {
	t      *testing.T
	stream *clienttest.Stream
	play   func(c *played, n int)

	dials atomic.Int64
	mu    sync.Mutex
	seen  []string // guarded by mu: the tokens of the connections
}

// played is one connection of a socketServer.
type played struct {
	t    *testing.T
	conn *websocket.Conn
	ctx  context.Context
}

// next returns the next command, ok false once the client has gone.
func (p *played) next() (c protocol.Command, ok bool) {
	_, b, err := p.conn.Read(p.ctx)
	if err != nil {
		return c, false
	}
	c, _, err = protocol.ParseCommand(b)
	if err != nil {
		p.t.Errorf("the client sent %s: %v", b, err)
	}
	return c, err == nil
}

func (p *played) say(text string) { _ = p.conn.Write(p.ctx, websocket.MessageText, []byte(text)) }

func (p *played) answer(typ string, c protocol.Command) {
	p.say(string((&protocol.Message{Type: typ, ID: c.ID, Stream: c.Stream}).JSON()))
}

// events says those from after to to, in one message.
func (p *played) events(s *clienttest.Stream, after, to int) {
	var all []json.RawMessage
	for _, e := range s.Events[after:to] {
		all = append(all, e.JSON)
	}
	b, err := json.Marshal(all)
	if err != nil {
		p.t.Error(err)
	}
	p.say(string(b))
}

func (s *socketServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/negotiate":
		_ = json.NewEncoder(w).Encode(protocol.Negotiation{Protocol: protocol.Version, ProbeTimeoutMS: 10_000,
			Transports: []protocol.TransportOffer{{Name: protocol.TransportWebSocket}, {Name: protocol.TransportSSE}}})
	case "/v1/ws":
		s.mu.Lock()
		s.seen = append(s.seen, r.Header.Get("Authorization"))
		s.mu.Unlock()
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol.Version}})
		if err != nil {
			s.t.Error(err)
			return
		}
		defer func() { _ = conn.CloseNow() }()
		p := &played{s.t, conn, r.Context()}
		n := int(s.dials.Add(1))
		p.say(`{"type":"welcome","node":"n","heartbeat_ms":15000,"max_streams":64}`)
		s.play(p, n)
	default:
		clienttest.NewServer(s.stream, clienttest.Sends(s.stream.Frames(0, len(s.stream.Events)))).ServeHTTP(w, r)
	}
}

// connectTo starts the server and returns a client of it.
func connectTo(t *testing.T, s *socketServer, config client.Config) *client.Client {
	t.Helper()
	s.t = t
	server := httptest.NewServer(s)
	config.URL = server.URL
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		server.Close()
	})
	return c
}

func TestAWebSocketThatBreaksIsResumedAfterTheLastEvent(t *testing.T) {
	s := clienttest.StreamOf(t, "one ", "two ", "three")
	var after []uint64
	server := &socketServer{stream: s, play: func(p *played, n int) {
		c, ok := p.next()
		if !ok {
			return
		}
		after = append(after, c.After)
		p.answer(protocol.MessageSubscribed, c)
		switch n {
		case 1:
			p.events(s, 0, 2)
		case 2:
			p.say(string(s.Events[2].JSON)) // an object instead of an array
			p.say(`{"type":"reconnect","after_ms":1,"reason":"drain"}`)
			p.next()
		default:
			p.say(`{"type":"from-the-future"}`)
			p.events(s, 3, 5)
			p.next()
		}
	}}
	c := connectTo(t, server, client.Config{})
	got := follow(t, c, s.ID)
	if got.err != nil || got.lines != s.Lines() || got.text != s.Text || len(got.lost) != 2 {
		t.Errorf("got %+v, want the events %s", got, s.Lines())
	}
	if want := []uint64{0, 2, 3}; !slices.Equal(after, want) {
		t.Errorf("subscribed after %d, want %d", after, want)
	}
}

func TestACloseCodeSaysWhatAClientDoes(t *testing.T) {
	s := clienttest.StreamOf(t, "one")
	for name, c := range map[string]struct {
		code  websocket.StatusCode
		dials int64
		want  string // of the error, "" for none
	}{
		"too slow is resumed":          {protocol.CloseTooSlow, 2, ""},
		"expired takes a new token":    {protocol.CloseExpired, 2, ""},
		"forbidden stops":              {protocol.CloseForbidden, 1, "4201 (the reason)"},
		"a limit stops":                {protocol.CloseLimit, 1, "4202"},
		"a protocol error stops":       {protocol.CloseProtocolError, 1, "4200"},
		"what nobody knows is resumed": {4050, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := &socketServer{stream: s, play: func(p *played, n int) {
				command, ok := p.next()
				if !ok {
					return
				}
				p.answer(protocol.MessageSubscribed, command)
				if n == 1 {
					_ = p.conn.Close(c.code, "the reason")
					return
				}
				p.events(s, 0, len(s.Events))
				p.next()
			}}
			var asked atomic.Int64
			tokens := []string{"one", "two"}
			client := connectTo(t, server, client.Config{Token: func(context.Context) (client.Token, error) {
				return client.Token{Value: tokens[min(asked.Add(1), 2)-1]}, nil
			}})
			got := follow(t, client, s.ID)
			if c.want == "" && (got.err != nil || got.text != s.Text) || c.want != "" && (got.err == nil || !strings.Contains(got.err.Error(), c.want)) {
				t.Errorf("got %+v, want an error with %q", got, c.want)
			}
			if n := server.dials.Load(); n != c.dials {
				t.Errorf("connected %d times, want %d", n, c.dials)
			}
			if c.code == protocol.CloseExpired && !slices.Equal(server.seen, []string{"Bearer one", "Bearer two"}) {
				t.Errorf("the tokens were %q", server.seen)
			}
		})
	}
}

func TestATokenIsRenewedOnTheWebSocketBeforeItEnds(t *testing.T) {
	s := clienttest.StreamOf(t, "one")
	server := &socketServer{stream: s, play: func(p *played, _ int) {
		c, ok := p.next()
		if !ok {
			return
		}
		p.answer(protocol.MessageSubscribed, c)
		if c, ok = p.next(); ok {
			if c.Type != protocol.CommandAuthenticate || c.Token != "fresh" {
				p.t.Errorf("the client sent %+v", c)
			}
			p.answer(protocol.MessageAccepted, c)
			p.events(s, 0, len(s.Events))
			p.next()
		}
	}}
	var asked atomic.Int64
	c := connectTo(t, server, client.Config{Token: func(context.Context) (client.Token, error) {
		if asked.Add(1) == 1 {
			return client.Token{Value: "first", Expires: time.Now().Add(30*time.Second + 500*time.Millisecond)}, nil
		}
		return client.Token{Value: "fresh"}, nil
	}})
	if got := follow(t, c, s.ID); got.err != nil || got.text != s.Text || server.dials.Load() != 1 {
		t.Errorf("got %+v over %d connections", got, server.dials.Load())
	}
}

func TestAReaderThatFallsBehindIsSubscribedAgain(t *testing.T) {
	big := strings.Repeat("x", 700_000)
	var pieces []string
	for range 5 { // more than may wait
		pieces = append(pieces, big)
	}
	s := clienttest.StreamOf(t, pieces...)
	var subscribed atomic.Int64
	flooded := make(chan struct{})
	server := &socketServer{stream: s, play: func(p *played, _ int) {
		var pinged sync.WaitGroup
		defer pinged.Wait()
		for {
			c, ok := p.next()
			if !ok {
				return
			}
			if c.Type == protocol.CommandUnsubscribe {
				p.answer(protocol.MessageUnsubscribed, c)
				continue
			}
			n := subscribed.Add(1)
			p.answer(protocol.MessageSubscribed, c)
			for i := int(c.After); i < len(s.Events); i++ {
				p.events(s, i, i+1)
			}
			if n == 1 { // the client answers a ping when it has read what comes before
				pinged.Go(func() {
					if err := p.conn.Ping(p.ctx); err != nil {
						t.Error(err)
					}
					close(flooded)
				})
			}
		}
	}}
	c := connectTo(t, server, client.Config{})
	run := c.Watch(s.ID, nil)
	run.Lost = func(err error) { t.Errorf("lost: %v", err) }
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, err := range run.Events(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		<-flooded
	}
	if run.Transcript().Text() != s.Text || subscribed.Load() < 2 || server.dials.Load() != 1 {
		t.Errorf("%d bytes of %d, after %d subscriptions on %d connections", len(run.Transcript().Text()), len(s.Text), subscribed.Load(), server.dials.Load())
	}
}

func TestTheSameStreamTwiceIsReadOverTwoConnections(t *testing.T) {
	s := clienttest.StreamOf(t, "one")
	server := &socketServer{stream: s}
	both := make(chan struct{})
	server.play = func(p *played, _ int) {
		c, ok := p.next()
		if !ok {
			return
		}
		p.answer(protocol.MessageSubscribed, c)
		p.events(s, 0, 1)
		<-both
		p.events(s, 1, len(s.Events))
		p.next()
	}
	c := connectTo(t, server, client.Config{})
	first := true
	for _, err := range c.Watch(s.ID, nil).Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if first {
			if got := follow(t, c, s.ID); got.err != nil || got.text != s.Text { // over SSE
				t.Errorf("got %+v", got)
			}
			close(both)
			first = false
		}
	}
	if server.dials.Load() != 1 {
		t.Errorf("there were %d WebSockets", server.dials.Load())
	}
}

func TestWhoLeavesTheLoopMayGoOn(t *testing.T) {
	s := clienttest.StreamOf(t, "one ", "two ", "three")
	server := &socketServer{stream: s, play: func(p *played, _ int) {
		for {
			c, ok := p.next()
			switch {
			case !ok:
				return
			case c.Type == protocol.CommandUnsubscribe:
				p.answer(protocol.MessageUnsubscribed, c)
			default:
				p.answer(protocol.MessageSubscribed, c)
				p.events(s, int(c.After), len(s.Events))
			}
		}
	}}
	run := connectTo(t, server, client.Config{}).Watch(s.ID, nil)
	for loops := 0; run.Transcript().Terminal() == nil; loops++ {
		if loops > len(s.Events) {
			t.Fatal("it doesn't go on")
		}
		for _, err := range run.Events(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if run.Transcript().Text() != s.Text {
		t.Errorf("the text is %q", run.Transcript().Text())
	}
}

func TestAClosedClientEndsItsRuns(t *testing.T) {
	s := clienttest.StreamOf(t, "one")
	server := &socketServer{stream: s, play: func(p *played, _ int) {
		if c, ok := p.next(); ok {
			p.answer(protocol.MessageSubscribed, c)
			p.events(s, 0, 1)
			p.next()
		}
	}}
	c := connectTo(t, server, client.Config{})
	var last error
	for _, err := range c.Watch(s.ID, nil).Events(t.Context()) {
		if last = err; err == nil {
			c.Close()
		}
	}
	if last == nil || errors.Is(last, context.DeadlineExceeded) {
		t.Errorf("got %v", last)
	}
}
