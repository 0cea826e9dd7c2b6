//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const (
	// clusterTortureClients is how many clients there are at once.
	clusterTortureClients = 50
	// healTime is how long after a fault its consequences may still be seen:
	// routes come back, a store finds its leader, a node notices what it missed.
	healTime = 5 * time.Second
	// adoptTime is how long a node that was cut off may take, once it is not, to
	// find that a stream of its own has another end: a try to store it that is
	// under way, and the wait before the next one.
	adoptTime = 5 * time.Second
	// wholeTime bounds how long the cluster may need to be whole again.
	wholeTime = 40 * time.Second
)

// A tortureCluster is the victim that is three nodes behind a balancer, whose
// routes can be cut.
type tortureCluster struct {
	world  *torture
	front  balancer
	routes *routes
	names  []string
	addrs  []string // of the nodes, for clients
	args   [][]string

	mu        sync.Mutex
	processes []*process // guarded by mu; nil where there is none
	outages   []*outage  // guarded by mu
	faults    [faultKinds]int
	errs      []error // guarded by mu
}

var _ victim = (*tortureCluster)(nil)

// An outage is a time in which a node was not what the others think, or gone.
type outage struct {
	kind     faultKind
	node     int
	from, to time.Time // to is zero while it lasts
}

// hard reports whether the node may have told its clients what the others never
// heard. One that is asked to end stores it first.
func (o *outage) hard() bool { return o.kind != faultRestart && o.kind != faultRolling }

// at reports whether the outage, or what followed from it, was at a time.
func (o *outage) at(t time.Time) bool {
	return !o.from.After(t.Add(lostEnd)) && (o.to.IsZero() || !o.to.Add(healTime).Before(t))
}

// newTortureCluster makes one that is whole.
func newTortureCluster(ctx context.Context, t *testing.T, w *torture) *tortureCluster {
	t.Helper()
	v := &tortureCluster{world: w, names: abc, processes: make([]*process, len(abc)), routes: newRoutes(t, abc...)}
	for i, name := range v.names {
		addr, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		v.addrs = append(v.addrs, addr)
		v.args = append(v.args, slices.Concat([]string{"--listen", addr, "--data-dir", t.TempDir()}, tortureFlags,
			clustered(name, v.routes.proxies[i].to, v.routes.proxies[i].addr, v.routes.all()),
			[]string{"--cluster-lease", "1s", "--drain-delay", "300ms", "--max-attempts", "50", "--max-retries", "10"}))
	}
	t.Cleanup(func() {
		for i := range v.names {
			if p := v.take(i); p != nil {
				_ = p.cmd.Process.Signal(syscall.SIGCONT) // it may be stopped
				if err := p.kill(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var started sync.WaitGroup
	errs := make([]error, len(v.names))
	for i := range v.names {
		started.Go(func() { errs[i] = v.start(i) })
	}
	started.Wait()
	err := errors.Join(errs...)
	if err == nil {
		err = v.waitWhole(ctx, wholeTime)
	}
	if err != nil {
		t.Fatal(err)
	}
	v.front = balance(t, w.seed, v.addrs)
	return v
}

// start starts a node, at its address and with its data.
func (v *tortureCluster) start(node int) error {
	url, key := v.world.upstream.URL, keyOfNode(v.names[node])
	p, _, err := launch([]string{"OPENAI_BASE_URL=" + url, "OPENAI_API_KEY=" + key, "ANTHROPIC_BASE_URL=" + url, "ANTHROPIC_API_KEY=" + key}, v.args[node]...)
	if err != nil {
		return fmt.Errorf("node %s: %w", v.names[node], err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.processes[node] = p
	return nil
}

// take takes a node's process away, to end it.
func (v *tortureCluster) take(node int) *process {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.processes[node]
	v.processes[node] = nil
	return p
}

func (v *tortureCluster) urls() (list []string) {
	for _, addr := range v.addrs {
		list = append(list, "http://"+addr)
	}
	return list
}

func (v *tortureCluster) waitWhole(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return waitWhole(ctx, v.names, v.urls())
}

func (v *tortureCluster) address() string { return v.front.url }

// recovered lets the nodes have the machine for a moment.
func (v *tortureCluster) recovered(ctx context.Context) { rest(ctx, 300*time.Millisecond) }

// begins notes an outage of a node; the result ends it.
func (v *tortureCluster) begins(kind faultKind, nodes ...int) (ends func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var begun []*outage
	for _, n := range nodes {
		begun = append(begun, &outage{kind: kind, node: n, from: time.Now()})
	}
	v.outages = append(v.outages, begun...)
	v.faults[kind]++
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, o := range begun {
			o.to = time.Now()
		}
	}
}

// strike does one fault, and heals it.
func (v *tortureCluster) strike(ctx context.Context, f *fault) error {
	switch f.kind {
	case faultKill:
		defer v.begins(f.kind, f.node)()
		if err := v.take(f.node).kill(); err != nil {
			return err
		}
		rest(ctx, f.lasts)
		return v.start(f.node)
	case faultPause:
		defer v.begins(f.kind, f.node)()
		v.mu.Lock()
		p := v.processes[f.node]
		v.mu.Unlock()
		err := p.cmd.Process.Signal(syscall.SIGSTOP)
		rest(ctx, f.lasts)
		return errors.Join(err, p.cmd.Process.Signal(syscall.SIGCONT))
	case faultRestart:
		return v.restart(ctx, f.kind, f.node, f.lasts)
	case faultRolling:
		for i := range v.names {
			if err := v.restart(ctx, f.kind, (f.node+i)%len(v.names), f.lasts/4); err != nil {
				return err
			}
		}
		return nil
	case faultCut, faultStall:
		defer v.begins(f.kind, f.node)()
		v.routes.isolate(f.node, map[faultKind]routeHurt{faultCut: routeCut, faultStall: routeStalled}[f.kind])
		rest(ctx, f.lasts)
		v.routes.isolate(f.node, routeWhole)
		return nil
	case faultApart:
		defer v.begins(f.kind, f.node, f.peer)()
		v.routes.set(f.node, f.peer, routeCut)
		rest(ctx, f.lasts)
		v.routes.set(f.node, f.peer, routeWhole)
		return nil
	}
	return fmt.Errorf("there is no fault %d", f.kind)
}

// restart ends a node as an administrator does, and starts it again.
func (v *tortureCluster) restart(ctx context.Context, kind faultKind, node int, away time.Duration) error {
	defer v.begins(kind, node)()
	if err := v.take(node).interrupt(); err != nil {
		return fmt.Errorf("node %s: %w", v.names[node], err)
	}
	rest(ctx, away)
	return v.start(node)
}

func (v *tortureCluster) attack(ctx context.Context) error {
	r := decisions(v.world.seed, decidesFaults, 0)
	var kinds []faultKind
	var previous *fault
	var striking sync.WaitGroup
	for number := 0; ; number++ {
		var f fault
		f, kinds = nextFault(r, number, previous, kinds)
		if !f.overlaps {
			striking.Wait()
			if f.settles && !v.world.isOver() {
				_ = v.waitWhole(ctx, healTime) // if it takes longer, so much the worse for it
			}
		}
		v.world.restUntilOver(ctx, f.after)
		if v.world.isOver() || ctx.Err() != nil || v.failed() != nil {
			break
		}
		striking.Go(func() {
			if err := v.strike(ctx, &f); err != nil {
				v.mu.Lock()
				v.errs = append(v.errs, fmt.Errorf("fault %d, %s: %w", number, f.kind, err))
				v.mu.Unlock()
			}
		})
		previous = &f
	}
	striking.Wait()
	if err := v.failed(); err != nil || ctx.Err() != nil {
		return err
	}
	// The calm is when the cluster is whole, and nodes that were cut off know
	// what they missed.
	if err := v.waitWhole(ctx, wholeTime); err != nil {
		return err
	}
	rest(ctx, adoptTime)
	return nil
}

func (v *tortureCluster) failed() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(v.errs...)
}

// out reports whether the node may have been cut off from the others, stopped
// or dying at a time, or the store without a majority, so that what it said
// then may not have been stored. Any node is -1.
func (v *tortureCluster) out(node int, at time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	var away [3]bool
	gone := 0
	for _, o := range v.outages {
		if !o.at(at) {
			continue
		}
		if o.hard() && (node < 0 || o.node == node) {
			return true
		}
		if !away[o.node] {
			away[o.node] = true
			gone++
		}
	}
	return gone > 1
}

// writers are the nodes that can have written to the stream until then: those
// that had asked the upstream for it; -1 stands for any.
func (v *tortureCluster) writers(s *tortureStream, until time.Time) (nodes []int) {
	v.world.mu.Lock()
	defer v.world.mu.Unlock()
	for _, a := range v.world.asked[s.number] {
		if i := slices.Index(v.names, a.node); i >= 0 && !a.at.After(until) && !slices.Contains(nodes, i) {
			nodes = append(nodes, i)
		}
	}
	if len(nodes) == 0 {
		return []int{-1}
	}
	return nodes
}

// mayDiffer allows two ends where one was told by a node that could not store
// it: such a node goes on for its own clients, while the others, if they have a
// majority, take over.
func (v *tortureCluster) mayDiffer(s *tortureStream, one, other *protocol.Event) bool {
	for _, e := range []*protocol.Event{one, other} {
		for _, node := range v.writers(s, e.Time) {
			if v.out(node, e.Time) {
				return true
			}
		}
	}
	return false
}

func (v *tortureCluster) mayRefuse(s *tortureStream, e *protocol.Error) bool {
	switch e.Code {
	case "": // the balancer's own: it found no node, or lost one while it asked
		return e.Status == 502 || e.Status == 503 || e.Status == 504
	case protocol.CodeDraining, protocol.CodeOverloaded:
		return true
	case protocol.CodeServiceUnavailable: // what can't be known or done just now
		return v.stirred(time.Now())
	case protocol.CodeStreamNotFound: // where the node that began it could not store that, and can't be asked
		return s != nil && v.stirred(s.started)
	}
	return false
}

// mayForget allows that while anything happens to nodes: the store may have no
// leader for a moment, and a node that can't ask it starts an analysis twice
// rather than not at all. How often is counted.
func (v *tortureCluster) mayForget(since time.Time) bool {
	if !v.stirred(since) {
		return false
	}
	v.world.count(func(c *counts) { c.forgotten++ })
	return true
}

// stirred reports whether anything has happened to nodes since then, or a
// little before.
func (v *tortureCluster) stirred(since time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.outages, func(o *outage) bool { return o.to.IsZero() || o.to.Add(healTime).After(since) })
}

// lacks says of what too little happened.
func (v *tortureCluster) lacks(lasts time.Duration) (lacks []string) {
	v.mu.Lock()
	faults := v.faults
	v.mu.Unlock()
	v.world.mu.Lock()
	defer v.world.mu.Unlock()
	c, seconds := &v.world.counts, int(lasts/time.Second)
	all := 0
	for _, n := range faults {
		all += n
	}
	needs := []need{
		{"faults of nodes", all, seconds * 20 / 60}, {"cuts", total(c.cuts) + c.losses, seconds * 10_000 / 60},
		{"streams", c.streams, 2 * seconds}, {"events", c.events, 200 * seconds}, {"ended streams", c.seenEnded, seconds / 2},
		{"switches", c.switches, 20 * seconds}, {"rewinds", c.rewinds, seconds}, {"lost answers", c.dropped, seconds},
		{"slow reads", c.slow, seconds}, {"faults of the upstream", c.faults, seconds / 4}, {"clients ahead of the log", c.ahead, min(1, seconds/30)},
	}
	for k, n := range faults {
		needs = append(needs, need{"faults by " + faultKind(k).String(), n, seconds / 60})
	}
	for _, transport := range transports {
		needs = append(needs, need{"connections by " + transport, c.connections[transport], 10 * seconds})
	}
	return lacking(needs)
}

// hasten makes a client's rounds short, so that there are many cuts. Almost
// half of them end before an answer can have come.
func hasten(d *round) {
	d.cutEvents = 1 + d.cutEvents%8
	d.cutAfter /= 3
	if d.drops>>62 > 0 {
		d.cutAfter /= 10
	}
	d.rest /= 4
	d.pause /= 2
}

// TestTortureOfAClusterLosesNothingAndRepeatsNothing does to three nodes behind
// HAProxy or nginx what TestTortureLosesNothingAndRepeatsNothing does to one:
// nodes are killed, stopped for a while, restarted alone and in turn, and cut
// off from each other. Each client must get one consistent stream, and when it
// is calm again all nodes must agree, with what clients got, too.
func TestTortureOfAClusterLosesNothingAndRepeatsNothing(t *testing.T) {
	lasts := 60 * time.Second
	if testing.Short() {
		lasts = 15 * time.Second
	}
	w, lasts := newTorture(t, lasts, clusterTortureClients)
	w.hurry, w.keyed, w.starters = hasten, true, 4
	w.long = longPiece / 20 // the race detector looks at each byte, several times on each node
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	w.cancel = cancel
	v := newTortureCluster(ctx, t, w)
	w.victim = v
	begun := time.Now()
	w.run(ctx, lasts, func() []string { return v.lacks(lasts) })
	tortured := time.Since(begun)
	if ctx.Err() == nil {
		if err := w.audit(ctx, v.urls()...); err != nil {
			w.fail(err)
		}
	}
	for i := range v.names { // what is read then comes from the disk
		if ctx.Err() != nil {
			break
		}
		if err := v.restart(ctx, faultRestart, i, 0); err != nil {
			w.fail(err)
		}
	}
	if ctx.Err() == nil {
		if err := errors.Join(v.waitWhole(ctx, wholeTime), w.audit(ctx, v.front.url)); err != nil {
			w.fail(fmt.Errorf("after a restart of all: %w", err))
		}
	}
	v.report(t, lasts, tortured)
}

// report fails the test for what went wrong, or if too little happened.
func (v *tortureCluster) report(t *testing.T, lasts, tortured time.Duration) {
	var faults []string
	v.mu.Lock()
	for k, n := range v.faults {
		faults = append(faults, fmt.Sprintf("%d by %s", n, faultKind(k)))
	}
	if len(v.world.errs) > 0 {
		for i, p := range v.processes {
			if p != nil {
				t.Logf("%s: %s", v.names[i], p.log())
			}
		}
		for _, o := range v.outages {
			t.Logf("%s of %s from %s to %s", o.kind, v.names[o.node], o.from.Format("05.000"), o.to.Format("05.000"))
		}
	}
	v.mu.Unlock()
	t.Logf("%v behind %s; faults: %s", tortured.Round(time.Second), v.front.name, strings.Join(faults, ", "))
	v.world.report(t, v.lacks(lasts))
	c := &v.world.counts
	if c.forgotten > max(2, c.streams/10) {
		t.Errorf("%d keys of %d analyses were forgotten", c.forgotten, c.streams)
	}
	if unknown := c.streams - c.completed - c.ownerLost - c.cancelled; unknown > max(2, c.streams/10) {
		t.Errorf("%d of %d streams are unknown: they are to be stored before their node ends", unknown, c.streams)
	}
	if c.ownerLost > max(2, c.streams/10) {
		t.Errorf("%d of %d streams were lost with their node; they are to be taken over", c.ownerLost, c.streams)
	}
}
