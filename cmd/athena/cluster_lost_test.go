//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A lostClient watches one stream, and goes to the other nodes when its own is
// lost. It belongs to one goroutine, but for what mu guards.
type lostClient struct {
	id         string
	transport  string
	urls       []string // the first is that of its node
	transcript *protocol.Transcript
	wait       time.Duration // how long the server has told it to wait before it reconnects

	mu         sync.Mutex
	connected  time.Time // guarded by mu: when the newest connection was there
	lost, back time.Time // guarded by mu
	err        error     // guarded by mu
}

// reconnectDelay is what nodes tell clients to wait, give or take half.
const reconnectDelay = 2 * time.Second

func (c *lostClient) run(ctx context.Context, r *rand.Rand) {
	for turn := 0; c.transcript.Terminal() == nil; turn++ {
		c.wait = time.Duration((0.5 + r.Float64()) * float64(reconnectDelay)) // where the server doesn't tell
		err := c.connect(ctx, c.urls[turn%len(c.urls)])
		c.mu.Lock()
		if c.lost.IsZero() && !c.connected.IsZero() {
			c.lost = time.Now()
		}
		if err == nil && ctx.Err() != nil {
			err = fmt.Errorf("the stream has not ended; cursor %d", c.transcript.Cursor())
		}
		c.err = err
		c.mu.Unlock()
		if err != nil {
			return
		}
		if c.transcript.Terminal() == nil {
			rest(ctx, c.wait)
		}
	}
}

// there notes that the connection is.
func (c *lostClient) there() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connected = time.Now()
	if !c.lost.IsZero() && c.back.IsZero() {
		c.back = c.connected
	}
}

// connect makes one connection and reads while it lasts. The error is a broken
// promise.
func (c *lostClient) connect(ctx context.Context, url string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := open(ctx, c.transport, target{url: url}, []protocol.Cursor{{Stream: c.id, After: c.transcript.Cursor()}})
	if err != nil {
		return nil
	}
	defer l.close(true)
	switch l := l.(type) {
	case *sseConn:
		c.there()
		if l.retry > 0 {
			c.wait = l.retry
		}
	case *pollConn:
		l.wait = 2 * time.Second
	}
	for c.transcript.Terminal() == nil {
		d, err := l.next()
		if err != nil {
			return nil
		}
		if d.message != nil {
			switch d.message.Type {
			case protocol.MessageError:
				return d.message.Error
			case protocol.MessageSubscribed:
				c.there()
			}
			continue
		}
		if c.transport == protocol.TransportLongPoll {
			c.there()
		}
		for i := range d.events {
			if err := c.transcript.Apply(&d.events[i].event); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestClientsOfALostNodeAreBackWithinSeconds kills a node that has a third of
// many clients, which mostly wait.
func TestClientsOfALostNodeAreBackWithinSeconds(t *testing.T) {
	within, clients, streams := 5*time.Second, 2000, 50
	if raceEnabled {
		within, clients = 2*within, 400 // each costs several times as much
	}
	if testing.Short() {
		clients /= 4
	}
	g := together(t, abc, "--cluster-lease", "2s", "--reconnect-delay", reconnectDelay.String(), "--provider-concurrency", "200", "--network-limit", "200")
	const piece = 600 * time.Millisecond
	var texts []string
	for i := range 20 {
		texts = append(texts, fmt.Sprintf("Teil %d. ", i))
	}
	text := strings.Join(texts, "")
	var ids []string
	for i := range streams {
		code := fmt.Sprintf("code-many-%d-", i)
		g.answers(code, answer(piece, texts...), answer(50*time.Millisecond, texts...))
		ids = append(ids, g.nodes[i%3].beginCode(code))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var all []*lostClient
	var running sync.WaitGroup
	for i := range clients {
		c := &lostClient{id: ids[i%streams], transport: transports[i/3%3], transcript: new(protocol.Transcript)}
		for k := range g.nodes {
			c.urls = append(c.urls, g.nodes[(i+k)%3].url)
		}
		if i%2 == 1 { // not all to the same
			c.urls[1], c.urls[2] = c.urls[2], c.urls[1]
		}
		all = append(all, c)
		r := rand.New(rand.NewPCG(uint64(i), 0))
		running.Go(func() { c.run(ctx, r) })
	}
	connected := func() (n int) {
		for _, c := range all {
			c.mu.Lock()
			if !c.connected.IsZero() {
				n++
			}
			c.mu.Unlock()
		}
		return n
	}
	for begun := time.Now(); connected() < clients && time.Since(begun) < patience; {
		rest(ctx, 20*time.Millisecond)
	}
	if n := connected(); n < clients {
		t.Fatalf("only %d of %d clients are connected", n, clients)
	}
	before := [2]int{memory(t, g.nodes[1]), memory(t, g.nodes[2])}
	most := before
	killed := time.Now()
	g.nodes[0].kill()
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	for !closed(done) {
		for i := range most {
			most[i] = max(most[i], memory(t, g.nodes[i+1]))
		}
		rest(ctx, 50*time.Millisecond)
	}
	var took []time.Duration
	for i, c := range all {
		if c.err != nil {
			t.Fatalf("client %d over %s: %v", i, c.transport, c.err)
		}
		if got := c.transcript.Text(); c.transcript.Terminal().Type != protocol.TypeCompleted || got != text {
			t.Fatalf("client %d over %s: the stream ended with %s %s, text %q", i, c.transport, c.transcript.Terminal().Type, c.transcript.Terminal().Data, got)
		}
		if c.urls[0] != g.nodes[0].url {
			if !c.lost.IsZero() && c.back.After(killed) {
				t.Errorf("client %d over %s lost a node that lives", i, c.transport)
			}
			continue
		}
		if c.back.IsZero() {
			t.Fatalf("client %d over %s of the node that was killed never lost it, or never came back", i, c.transport)
		}
		took = append(took, c.back.Sub(killed))
	}
	slices.Sort(took)
	t.Logf("%d clients of %d lost their node, and were back after %v at the median, %v at the 99th percentile, %v at most; "+
		"the others' memory went from %d and %d MiB to %d and %d at most", len(took), clients, took[len(took)/2].Round(time.Millisecond),
		took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), before[0]>>10, before[1]>>10, most[0]>>10, most[1]>>10)
	if len(took) < clients/4 {
		t.Errorf("only %d of %d clients were on the node that was killed", len(took), clients)
	}
	if longest := took[len(took)-1]; longest > within {
		t.Errorf("the last client was back after %v, want within %v", longest, within)
	}
	for i := range most {
		if most[i] > 2*before[i] {
			t.Errorf("node %d had %d KiB in memory, and then %d", i+1, before[i], most[i])
		}
	}
}

// memory is what a node has in memory, in KiB.
func memory(t *testing.T, s *server) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the process has no VmRSS")
	return 0
}
