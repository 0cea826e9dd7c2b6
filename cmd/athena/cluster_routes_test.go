//go:build unix

package main

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// Routes are what the connections between nodes pass in a test that cuts them:
// each node advertises a proxy in the place of its own address, and is told the
// others' proxies.
type routes struct {
	nodes   []string
	proxies []*routeProxy
	done    sync.WaitGroup

	mu    sync.Mutex
	hurt  map[[2]int]routeHurt   // guarded by mu: what is wrong between two nodes, the smaller first
	eased chan struct{}          // guarded by mu: closed and replaced when hurt changes
	conns map[*routeConn]bool    // guarded by mu
	over  bool                   // guarded by mu
	stats struct{ accepted int } // guarded by mu
}

// A routeHurt is what is wrong between two nodes.
type routeHurt uint8

const (
	routeWhole   routeHurt = iota
	routeCut               // connections are closed
	routeStalled           // nothing comes through, but it isn't lost either
)

// A routeProxy is where the others find a node.
type routeProxy struct {
	routes *routes
	node   int
	addr   string // of the proxy
	to     string // of the node
	ln     net.Listener
}

// A routeConn is one connection between two nodes.
type routeConn struct {
	from, to int // from is -1 until it has said who it is
	ends     [2]net.Conn
}

// newRoutes makes proxies for nodes of these names. They end with the test.
func newRoutes(t *testing.T, nodes ...string) *routes {
	t.Helper()
	r := &routes{nodes: nodes, hurt: make(map[[2]int]routeHurt), eased: make(chan struct{}), conns: make(map[*routeConn]bool)}
	for i := range nodes {
		to, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.proxies = append(r.proxies, &routeProxy{r, i, ln.Addr().String(), to, ln})
	}
	for _, p := range r.proxies {
		r.done.Go(p.accept)
	}
	t.Cleanup(r.close)
	return r
}

func (r *routes) close() {
	r.mu.Lock()
	r.over = true
	close(r.eased)
	r.eased = make(chan struct{})
	for c := range r.conns {
		c.close()
	}
	r.mu.Unlock()
	for _, p := range r.proxies {
		_ = p.ln.Close() // over
	}
	r.done.Wait()
}

// all are the addresses for --cluster-routes.
func (r *routes) all() (list []string) {
	for _, p := range r.proxies {
		list = append(list, p.addr)
	}
	return list
}

func pair(a, b int) [2]int { return [2]int{min(a, b), max(a, b)} }

// set says what is wrong between two nodes from now on.
func (r *routes) set(a, b int, hurt routeHurt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hurt[pair(a, b)] = hurt
	close(r.eased)
	r.eased = make(chan struct{})
	if hurt != routeCut {
		return
	}
	for c := range r.conns {
		// Whose it is may not be known yet: such a connection has just begun.
		if c.from < 0 && (c.to == a || c.to == b) || c.from >= 0 && pair(c.from, c.to) == pair(a, b) {
			c.close()
		}
	}
}

// isolate does the same to all routes of one node.
func (r *routes) isolate(node int, hurt routeHurt) {
	for other := range r.nodes {
		if other != node {
			r.set(node, other, hurt)
		}
	}
}

func (c *routeConn) close() {
	_ = c.ends[0].Close() // cut
	_ = c.ends[1].Close()
}

func (p *routeProxy) accept() {
	for {
		from, err := p.ln.Accept()
		if err != nil {
			return
		}
		to, err := net.DialTimeout("tcp", p.to, time.Second)
		if err != nil {
			_ = from.Close() // the node isn't there
			continue
		}
		c := &routeConn{from: -1, to: p.node, ends: [2]net.Conn{from, to}}
		p.routes.mu.Lock()
		if p.routes.over {
			p.routes.mu.Unlock()
			c.close()
			continue
		}
		p.routes.conns[c] = true
		p.routes.stats.accepted++
		p.routes.mu.Unlock()
		p.routes.done.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { p.routes.pump(c, 0, 1) })
			both.Go(func() { p.routes.pump(c, 1, 0) })
			both.Wait()
			p.routes.mu.Lock()
			delete(p.routes.conns, c)
			p.routes.mu.Unlock()
		})
	}
}

// maxIntroduction is how much of a connection is searched for the name of the
// node that made it.
const maxIntroduction = 16 << 10

// pump copies one direction, as far as nothing is wrong between the two nodes.
func (r *routes) pump(c *routeConn, from, to int) {
	defer c.close()
	buf := make([]byte, 32<<10)
	var said []byte // of who it may be
	for {
		n, err := c.ends[from].Read(buf)
		if err != nil {
			return
		}
		if from == 0 && len(said) < maxIntroduction {
			said = append(said, buf[:n]...)
			r.introduce(c, said)
		}
		if !r.pass(c) {
			return
		}
		if _, err := c.ends[to].Write(buf[:n]); err != nil {
			return
		}
	}
}

// introduce finds out who made the connection. NATS's servers say it in plain
// text, where routes are not encrypted.
func (r *routes) introduce(c *routeConn, said []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.from >= 0 {
		return
	}
	for i, name := range r.nodes {
		if bytes.Contains(said, []byte(`"server_name":"`+name+`"`)) {
			c.from = i
		}
	}
}

// pass waits until something may come through the connection; it reports false
// where that has been cut.
func (r *routes) pass(c *routeConn) bool {
	for {
		r.mu.Lock()
		hurt, eased, over := routeWhole, r.eased, r.over
		if c.from >= 0 {
			hurt = r.hurt[pair(c.from, c.to)]
		}
		r.mu.Unlock()
		switch {
		case over || hurt == routeCut:
			return false
		case hurt == routeWhole:
			return true
		}
		<-eased
	}
}

func TestRoutesAreCutAndStalledBetweenTheRightNodes(t *testing.T) {
	r := newRoutes(t, "a", "b")
	ln, err := net.Listen("tcp", r.proxies[1].to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }() // the test is over
	connect := func() (client, server net.Conn) {
		t.Helper()
		client, err := net.Dial("tcp", r.proxies[1].addr)
		if err != nil {
			t.Fatal(err)
		}
		if server, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = client.Close(), server.Close() })
		return client, server
	}
	const hello = `INFO {"server_id":"X","server_name":"a"}`
	buf := make([]byte, 100)
	client, server := connect()
	say := func(text string) {
		t.Helper()
		if _, err := client.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	say(hello)
	if n, err := server.Read(buf); err != nil || string(buf[:n]) != hello {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	r.isolate(0, routeStalled)
	say("late")
	_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // fails only on a closed connection
	var netErr net.Error
	if n, err := server.Read(buf); !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Fatalf("%q came through a stalled route, %v", buf[:n], err)
	}
	r.set(0, 1, routeWhole)
	_ = server.SetReadDeadline(time.Now().Add(patience)) // as above
	if n, err := server.Read(buf); err != nil || string(buf[:n]) != "late" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	r.isolate(1, routeCut)
	if n, err := server.Read(buf); err == nil {
		t.Fatalf("%q came through a route that was cut", buf[:n])
	}
	client, server = connect()
	say(hello)
	_ = server.SetReadDeadline(time.Now().Add(patience)) // as above
	if n, err := server.Read(buf); err == nil {
		t.Fatalf("%q came through a new connection of a route that was cut", buf[:n])
	}
}
