//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// clusterSecret is what the nodes of a test share.
const clusterSecret = "a secret of the tests, of no use elsewhere"

// clustered are the flags of one node among others, which find it at the
// address advertised, if that is not the one that it listens at.
func clustered(name, listen, advertised string, routes []string) []string {
	flags := []string{"--cluster-name", "tests", "--node-name", name, "--cluster-listen", listen, "--cluster-routes", strings.Join(routes, ",")}
	if advertised != "" && advertised != listen {
		flags = append(flags, "--cluster-advertise", advertised)
	}
	return flags
}

// A group is several nodes that behave as one.
type group struct {
	t     *testing.T
	up    *providertest.Upstream
	args  []string
	nodes []*server // by their place, as long as they are part of it

	mu      sync.Mutex
	scripts map[string][]providertest.Script // guarded by mu: answers to the calls for a code
	calls   map[string][]string              // guarded by mu: the nodes that called for it
}

// together starts nodes of these names, which all ask one upstream, with more
// flags for each. They are killed with the test.
func together(t *testing.T, names []string, args ...string) *group {
	t.Helper()
	g := &group{t: t, up: upstream(t, answer(0, "unasked")), args: args, scripts: make(map[string][]providertest.Script), calls: make(map[string][]string)}
	g.up.SetReply(g.reply)
	for _, name := range names {
		g.nodes = append(g.nodes, g.member(name))
	}
	g.start(g.nodes...)
	g.wait(g.nodes...)
	return g
}

// member makes a node that is still to be started.
func (g *group) member(name string) *server {
	g.t.Helper()
	s := &server{t: g.t, variables: []string{"OPENAI_BASE_URL=" + g.up.URL, "OPENAI_API_KEY=" + keyOfNode(name), "ATHENA_CLUSTER_SECRET=" + clusterSecret}}
	var listen string
	var err error
	if s.addr, err = freeAddress(); err == nil {
		listen, err = freeAddress()
	}
	if err != nil {
		g.t.Fatal(err)
	}
	s.url = "http://" + s.addr
	s.args = slices.Concat([]string{"--listen", s.addr, "--data-dir", g.t.TempDir(), "--log-level", "info",
		"--coalesce-window", "2ms", "--batch-interval", "20ms", "--reconnect-delay", "20ms", "--drain-timeout", "10s", "--drain-delay", "100ms"},
		clustered(name, listen, "", nil), g.args)
	g.t.Cleanup(func() {
		if s.process == nil {
			return
		}
		if g.t.Failed() {
			g.t.Logf("%s: %s", name, s.process.log())
		}
		_ = s.process.cmd.Process.Signal(syscall.SIGCONT) // it may be stopped
		if err := s.process.kill(); err != nil {
			g.t.Error(err)
		}
	})
	return s
}

// flag is the value that the node was started with.
func (s *server) flag(name string) string { return s.args[slices.Index(s.args, name)+1] }

// start starts nodes at the same time: none is ready before there are others.
// They are told where all nodes of the group are.
func (g *group) start(nodes ...*server) {
	g.t.Helper()
	var routes []string
	for _, s := range g.nodes {
		routes = append(routes, s.flag("--cluster-listen"))
	}
	errs := make([]error, len(nodes))
	var started sync.WaitGroup
	for i, s := range nodes {
		s.args[slices.Index(s.args, "--cluster-routes")+1] = strings.Join(routes, ",")
		started.Go(func() { s.process, _, errs[i] = launch(s.variables, s.args...) })
	}
	started.Wait()
	if err := errors.Join(errs...); err != nil {
		g.t.Fatal(err)
	}
}

// signal sends a signal to the node's process.
func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.process.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// cluster asks a node how it sees the cluster.
func clusterSeenFrom(ctx context.Context, url string) (*gateway.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/cluster", nil)
	if err != nil {
		return nil, err
	}
	tap := newTap(0)
	defer tap.transport.CloseIdleConnections()
	res, err := tap.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	c := new(gateway.Cluster)
	if err := json.Unmarshal(b, c); err != nil || res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%d %.300s: %w", res.StatusCode, b, err)
	}
	return c, nil
}

// whole says what a node that sees the cluster so lacks, if all of these nodes
// are to be there and the store is to have all its copies; "" for nothing.
func whole(c *gateway.Cluster, names []string) string {
	var up []string
	for _, n := range c.Nodes {
		if n.State == gateway.NodeUp {
			up = append(up, n.Name)
		}
	}
	slices.Sort(up)
	want := slices.Sorted(slices.Values(names))
	switch {
	case !slices.Equal(up, want):
		return fmt.Sprintf("%v are up, want %v", up, want)
	case !c.History.Quorum:
		return "the store has no majority"
	case c.History.Current < min(c.History.Replicas, len(names)) || len(names) >= 3 && c.History.Replicas < 3:
		return fmt.Sprintf("%d of %d copies are up to date", c.History.Current, c.History.Replicas)
	case len(c.Degraded) > 0 && len(names) >= 3: // fewer lack a copy
		return strings.Join(c.Degraded, "; ")
	}
	return ""
}

// waitWhole waits until each of the nodes sees all of them, and a whole store.
func waitWhole(ctx context.Context, names, urls []string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, url := range urls {
		for {
			c, err := clusterSeenFrom(ctx, url)
			if err == nil {
				lacks := whole(c, names)
				if lacks == "" {
					break
				}
				err = errors.New(lacks)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("the node at %s does not see a whole cluster: %w", url, err)
			}
		}
	}
	return nil
}

// wait waits until these nodes see each other, all together and no others.
func (g *group) wait(nodes ...*server) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	var names, urls []string
	for _, s := range nodes {
		names, urls = append(names, s.flag("--node-name")), append(urls, s.url)
	}
	if err := waitWhole(ctx, names, urls); err != nil {
		g.t.Fatal(err)
	}
}

// answers sets what the upstream says to the first call for the code, to the
// second and so on; the last stands for all after it.
func (g *group) answers(code string, scripts ...providertest.Script) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.scripts[code] = scripts
}

func (g *group) reply(c *providertest.Call) providertest.Script {
	g.mu.Lock()
	defer g.mu.Unlock()
	for code, scripts := range g.scripts {
		if strings.Contains(string(c.Body), code) {
			g.calls[code] = append(g.calls[code], nodeOfKey(c))
			return scripts[min(len(g.calls[code]), len(scripts))-1]
		}
	}
	return answer(0, "unasked")
}

// callers are the nodes that asked the upstream for the code, in order.
func (g *group) callers(code string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.calls[code])
}

// request is one for this code, of which each test has its own.
func request(code string) string { return fmt.Sprintf(`{"code":%q,"cache":"bypass"}`, code) }

// beginCode starts an analysis of the code.
func (s *server) beginCode(code string) (id string) {
	s.t.Helper()
	r := s.do("POST", "/v1/analyses", request(code))
	if r.status != http.StatusCreated {
		s.t.Fatalf("status %d, body %s", r.status, r.body)
	}
	return strings.TrimPrefix(r.header.Get("Location"), "/v1/streams/")
}

// A roamer is one client of one stream that goes from node to node, with its
// cursor and nothing else, as the client of a balancer does.
type roamer struct {
	t          *testing.T
	id         string
	transport  string
	urls       []string // of those that it may be sent to
	transcript *protocol.Transcript
	events     []received
	// failed is when a connection was last lost, and back when the first event
	// came after that.
	failed, back time.Time
	moves        int
	refusals     []string // answers that were no success
}

// follow reads to the end of the stream, from wherever it can. step is called
// after each delivery.
func (r *roamer) follow(ctx context.Context, step func()) error {
	for turn := 0; r.transcript.Terminal() == nil; turn++ {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: stream %s has not ended; cursor %d, refusals %v", r.transport, r.id, r.transcript.Cursor(), r.refusals)
		}
		if err := r.connect(ctx, r.urls[turn%len(r.urls)], step); err != nil {
			return fmt.Errorf("%s: stream %s, after event %d: %w", r.transport, r.id, r.transcript.Cursor(), err)
		}
		rest(ctx, 20*time.Millisecond)
	}
	return nil
}

// connect makes one connection and reads until it or the stream ends. The error
// is a broken promise.
func (r *roamer) connect(ctx context.Context, url string, step func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := open(ctx, r.transport, target{url: url}, []protocol.Cursor{{Stream: r.id, After: r.transcript.Cursor()}})
	if err == nil {
		defer l.close(false)
		if poll, ok := l.(*pollConn); ok {
			poll.wait = time.Second
		}
	}
	for err == nil && r.transcript.Terminal() == nil {
		var d delivery
		if d, err = l.next(); err != nil {
			break
		}
		if d.message != nil {
			switch d.message.Type {
			case protocol.MessageError:
				r.refusals = append(r.refusals, d.message.Error.Error())
				return nil
			case protocol.MessageReconnect:
				r.moves++
				return nil
			}
		}
		for i := range d.events {
			if err := r.transcript.Apply(&d.events[i].event); err != nil {
				return err
			}
			r.events = append(r.events, d.events[i])
		}
		if len(d.events) > 0 && !r.failed.IsZero() && r.back.IsZero() {
			r.back = time.Now()
		}
		step()
	}
	if err != nil && ctx.Err() == nil && r.failed.IsZero() {
		r.failed = time.Now()
	}
	// A node that leaves may say so to whom no balancer keeps away from it.
	if refused, ok := errors.AsType[*refusedError](err); ok && refused.error.Code != protocol.CodeDraining {
		r.refusals = append(r.refusals, refused.Error())
	}
	if m, ok := errors.AsType[*malformedError](err); ok {
		return m
	}
	return nil
}

// A roaming is several roamers that have been sent off.
type roaming struct {
	t       *testing.T
	roamers []*roamer
	done    sync.WaitGroup
	errs    []error
	cancel  context.CancelFunc
}

// roam sends off a client of the stream over each transport. Each begins at
// first, and goes on at all the others and first in turn. It returns when all
// have seen so much text.
func (g *group) roam(id, text string, first *server, others ...*server) *roaming {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	all := &roaming{t: g.t, cancel: cancel, errs: make([]error, len(transports))}
	g.t.Cleanup(func() { cancel(); all.done.Wait() })
	urls := []string{first.url}
	for _, s := range others {
		urls = append(urls, s.url)
	}
	var begun sync.WaitGroup
	for i, transport := range transports {
		r := &roamer{t: g.t, id: id, transport: transport, urls: urls, transcript: new(protocol.Transcript)}
		all.roamers = append(all.roamers, r)
		begun.Add(1)
		once := sync.OnceFunc(begun.Done)
		all.done.Go(func() {
			defer once()
			all.errs[i] = r.follow(ctx, func() {
				if strings.HasPrefix(r.transcript.Text(), text) {
					once()
				}
			})
		})
	}
	begun.Wait()
	return all
}

// wait waits until all have seen the end, which must be the same for all, and
// returns what one of them knows.
func (r *roaming) wait() *protocol.Transcript {
	r.t.Helper()
	r.done.Wait()
	defer r.cancel()
	if err := errors.Join(r.errs...); err != nil {
		r.t.Fatal(err)
	}
	first := r.roamers[0].transcript
	for _, other := range r.roamers[1:] {
		a, b := first.Terminal(), other.transcript.Terminal()
		if a.Type != b.Type || string(a.Data) != string(b.Data) || a.Seq != b.Seq || a.Type == protocol.TypeCompleted && first.Text() != other.transcript.Text() {
			r.t.Fatalf("over %s the stream ends with %s %s (%d) and says %q, over %s with %s %s (%d) and %q",
				r.roamers[0].transport, a.Type, a.Data, a.Seq, first.Text(), other.transport, b.Type, b.Data, b.Seq, other.transcript.Text())
		}
	}
	return first
}

// failovers are the changes of attempt that the events tell of.
func failovers(t *testing.T, events []received) (list []protocol.Failover) {
	t.Helper()
	for _, e := range events {
		if e.Type != protocol.TypeFailover {
			continue
		}
		var f protocol.Failover
		if err := e.event.Decode(&f); err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}
