package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const (
	// fleetNodes is how many nodes the configurations have.
	fleetNodes = 3
	// quick is more than the quicker pieces of a stream take through a proxy on a
	// busy machine, and less than proxies wait for more where they do: HAProxy
	// 200 ms, without its option http-no-delay, for most pieces.
	quick = 150 * time.Millisecond
)

// TestNodesBehindTheProxiesThatUsersHave runs the configurations of deploy/ in
// front of nodes, which are streamed from, stopped and killed.
func TestNodesBehindTheProxiesThatUsersHave(t *testing.T) {
	m := newGatedModel(t, "One. ", "Two, ", "drei; ", "четыре: ", "五 ", "and six.")
	f := startFleet(t, m, fleetNodes)
	var proxies []*proxy
	for i := range proxyKinds {
		k := &proxyKinds[i]
		t.Run(k.name, func(t *testing.T) { k.need(t) })
		if _, err := k.find(); err == nil {
			proxies = append(proxies, k.start(t, f.addresses()...))
		}
	}
	if len(proxies) == 0 {
		t.Skip("there is no proxy")
	}
	all := func(n int) func(*visitor) bool {
		return func(v *visitor) bool { return v.text() == m.upTo(n) }
	}
	sayTheRest := func(c *crowd) (quickToo time.Duration) {
		c.await("the first piece comes", all(1))
		var took []time.Duration
		for n := 1; n < len(m.texts); n++ {
			said := time.Now()
			m.goOn(n + 1)
			c.await(fmt.Sprintf("piece %d comes before the next is said", n+1), all(n+1))
			took = append(took, time.Since(said))
		}
		c.await("it ends", (*visitor).ended)
		slices.Sort(took)
		return took[1] // one may be quick by chance
	}

	for _, p := range proxies {
		t.Run("what is said comes at once, from every node, "+p.name, func(t *testing.T) {
			m.goOn(1)
			c := gather(t, []*proxy{p}, fleetHeader, f.names, f.begin(p.url))
			if d := sayTheRest(c); d > quick {
				t.Errorf("all pieces but one took at least %v to all clients", d)
			}
			c.check(m.upTo(len(m.texts)), false)
		})
		t.Run("requests arrive as they were sent, "+p.name, func(t *testing.T) { testRequests(t, p) })
		t.Run("a client that has gone is gone, "+p.name, func(t *testing.T) { testGone(t, f, m, p) })
	}

	for _, p := range proxies {
		t.Run("tickets are good on every node, "+p.name, func(t *testing.T) { testTickets(t, p) })
	}

	// Clients of one node move to the others, and come to the end there; those
	// who pass by notice nothing.
	leave := func(t *testing.T, name string, owner *server, end func() (wait func() error)) *crowd {
		m.goOn(1)
		id := f.begin(owner.url)
		c := gather(t, proxies, fleetHeader, f.names, id)
		passers := passBy(t, proxies, id)
		c.await("the first piece comes", all(1))
		wait := end()
		passers.more(40)
		c.await("it is on another node than "+name, func(v *visitor) bool {
			return v.transport == protocol.TransportLongPoll || v.at() != "" && v.at() != name
		})
		sayTheRest(c)
		if err := wait(); err != nil {
			t.Error(err)
		}
		passers.check()
		return c
	}
	restart := t.Run("a node that is stopped", func(t *testing.T) {
		stopped := f.nodes[0]
		c := leave(t, f.names[0], stopped, func() func() error {
			ended := make(chan error, 1)
			p := stopped.process
			stopped.process = nil
			go func() { ended <- p.interrupt() }()
			return func() error { return <-ended }
		})
		c.check(m.upTo(len(m.texts)), false)
		if n := c.moves(); n < 2*len(proxies) {
			t.Errorf("%d clients were asked to move, want at least one over WebSocket and one over SSE behind each proxy", n)
		}
	})
	if !restart {
		return
	}
	f.start(f.nodes[0])
	t.Run("a node that is killed", func(t *testing.T) {
		for _, p := range proxies {
			f.waitBehind(t, p) // also the node that has come back
		}
		c := leave(t, f.names[1], f.nodes[2], func() func() error {
			f.nodes[1].kill()
			return func() error { return nil }
		})
		c.check(m.upTo(len(m.texts)), true)
	})
}

// testRequests sends what proxies are known to change or refuse.
func testRequests(t *testing.T, p *proxy) {
	s := &server{t: t, url: p.url}
	authorization := fleetHeader.Get("Authorization")
	large := `{"code":"` + strings.Repeat(`x = 1 \n`, 1<<17-1) + `","language":"python","provider":"local","cache":"bypass"}`
	if r := s.do(http.MethodPost, "/v1/analyses", large, "Authorization", authorization); r.status != http.StatusCreated {
		t.Errorf("a request with almost 1 MiB of code: %d %.300s", r.status, r.body)
	}
	// A page of this server is known by its origin, in which the port is.
	if r := s.do(http.MethodGet, "/v1/providers", "", "Authorization", authorization, "Origin", p.url); r.status != http.StatusOK {
		t.Errorf("a page of this server: %d %.300s", r.status, r.body)
	}
	if r := s.do(http.MethodGet, "/v1/providers", ""); r.status != http.StatusUnauthorized || r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("without a key: %d %.300s; want Athena's own answer", r.status, r.body)
	}
}

// testGone looks whether a node notices that the client of a stream has gone.
func testGone(t *testing.T, f *fleet, m *gatedModel, p *proxy) {
	m.goOn(1)
	defer m.goOn(len(m.texts))
	id := f.begin(p.url)
	f.waitStream(t, id, func(m protocol.Metadata) bool { return m.Head >= 2 })
	for _, transport := range transports {
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		// A long-poll that waits, since there is nothing after the first piece.
		l, err := open(ctx, transport, target{url: p.url, header: fleetHeader}, []protocol.Cursor{{Stream: id, After: 2}})
		if err != nil {
			t.Fatal(err)
		}
		var reading sync.WaitGroup
		reading.Go(func() {
			for err == nil {
				_, err = l.next()
			}
		})
		f.waitStream(t, id, func(m protocol.Metadata) bool { return m.Viewers == 1 })
		l.close(true)
		f.waitStream(t, id, func(m protocol.Metadata) bool { return m.Viewers == 0 })
		t.Logf("over %s noticed within %v", transport, time.Since(began))
		cancel()
		reading.Wait()
	}
}

// testTickets asks for tickets and uses them, as pages do, each time over new
// connections, which come to any node.
func testTickets(t *testing.T, p *proxy) {
	s := &server{t: t, url: p.url}
	for range 2 * fleetNodes {
		r := s.do(http.MethodPost, "/v1/negotiate", "", "Authorization", fleetHeader.Get("Authorization"))
		ticket := decode[struct{ Ticket string }](t, r).Ticket
		if ticket == "" {
			t.Fatalf("no ticket: %d %s", r.status, r.body)
		}
		l, err := openWebSocket(t.Context(), target{url: p.url + "/v1/ws?ticket=" + ticket})
		if err != nil {
			t.Fatalf("with a ticket: %v", err)
		}
		l.close(false)
		if strings.Contains(p.said(), ticket) {
			t.Errorf("%s has logged a ticket", p.name)
		}
	}
}
