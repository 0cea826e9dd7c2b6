package cluster

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
)

// A peer is what this node knows of another.
type peer struct {
	node  string
	first time.Time // when it was first known

	// Its lease, as last read.
	leased   bool
	revision uint64
	lease    lease     // the newest that could be read, also when it is removed
	changed  time.Time // when this revision was first seen
	renewed  time.Time // when a change last showed that the node was alive; zero: never
	removing bool      // this node took it for dead and removes its lease
	left     time.Time // when the lease was found removed; zero: it wasn't

	// Its newest message of gossip.
	said  message
	heard time.Time // zero: never
	since time.Time // since when its messages have come without a pause
}

// lastHeard returns when the node was last known to be alive.
func (p *peer) lastHeard() time.Time {
	if p.heard.After(p.renewed) {
		return p.heard
	}
	return p.renewed
}

// process returns the newest process of the node that is known, and whether it
// has said that it leaves.
func (p *peer) process() (epoch uint64, started time.Time, leaving bool) {
	if p.said.Epoch > p.lease.Epoch {
		return p.said.Epoch, p.said.Started, p.said.State == StateLeaving
	}
	leaving = p.lease.State == StateLeaving || p.said.Epoch == p.lease.Epoch && p.said.State == StateLeaving
	return p.lease.Epoch, p.lease.Started, leaving
}

// A table is what this node knows of the others. It is guarded by the
// Cluster's mu.
type table struct {
	opts  Options
	peers map[string]*peer

	asOf    time.Time // the newest reading shows all that was written before this
	awake   time.Time // since when this process has run without a long pause
	renewal time.Time // when this node's newest renewal began
	steady  time.Time // since when all of them worked; zero: the newest didn't
	quiet   time.Time // until then nobody counts as gone

	// missing are the owners of records that have no lease and never had one,
	// as far as this node knows, and when they were first missed.
	missing map[owner]time.Time
}

func (t *table) init(o Options, now time.Time) {
	*t = table{opts: o, peers: make(map[string]*peer), awake: now, missing: make(map[owner]time.Time)}
}

// renewed notes that a renewal of this node's lease, begun at this time, worked.
func (t *table) renewed(begun time.Time) {
	if t.steady.IsZero() || begun.Sub(t.renewal) > t.opts.missed() {
		t.steady = begun
	}
	t.renewal = begun
}

// forgive lets all leases count from now on.
func (t *table) forgive(now time.Time, slept bool) {
	t.steady, t.renewal = now, now
	t.quiet = now.Add(t.opts.Lease)
	if slept {
		t.awake = now
	}
	for _, p := range t.peers {
		p.changed = now
	}
	clear(t.missing)
}

// maxPeers bounds what malformed, or malicious, gossip can make this node keep.
const maxPeers = 4096

// peer returns what is known of the node, which is little if it is new. It is
// nil if that can't be kept.
func (t *table) peer(node string, now time.Time) *peer {
	p := t.peers[node]
	if p == nil && len(t.peers) < maxPeers {
		p = &peer{node: node, first: now}
		t.peers[node] = p
	}
	return p
}

// A finding is what a reading of all leases has shown.
type finding struct {
	news       bool // there may be orphans that there were not before
	left, gone []string
	silent     []silence
}

// A silence is a lease that was not renewed.
type silence struct {
	node     string
	revision uint64
	length   time.Duration
}

// observe takes in a reading of all leases that shows everything written before
// asOf, and was there at now.
func (t *table) observe(all map[string]backbone.Record, asOf, now time.Time, judges bool) (f finding) {
	// What is new in the first reading after the store was away may be from
	// before: a leader that died has sent on what the next one then keeps.
	stale := t.asOf.Before(t.steady)
	t.asOf = asOf
	for node, r := range all {
		if node == t.opts.Node {
			continue
		}
		p := t.peer(node, now)
		if p == nil || p.leased && p.revision == r.Revision {
			continue
		}
		if p.leased && !stale {
			p.renewed = now
		}
		p.leased, p.removing, p.left = true, false, time.Time{}
		p.revision, p.changed = r.Revision, now
		if l, ok := parseLease(r); ok {
			f.news = f.news || p.lease.Epoch != 0 && l.Epoch != p.lease.Epoch
			p.lease = l
		}
	}
	for _, p := range t.peers {
		if p.leased && all[p.node].Revision == 0 {
			t.remove(p, now)
			f.news = true
			if _, _, leaving := p.process(); leaving {
				f.left = append(f.left, p.node)
			} else {
				f.gone = append(f.gone, p.node)
			}
		}
		if judges && !p.removing && t.silent(p, now) {
			p.removing = true
			since := p.renewed
			if since.IsZero() {
				since = p.first
			}
			f.silent = append(f.silent, silence{p.node, p.revision, now.Sub(since)})
		}
		if !p.leased && now.Sub(p.lastHeard()) > t.opts.remembered() && now.Sub(p.left) > t.opts.remembered() {
			delete(t.peers, p.node)
		}
	}
	return f
}

// buried notes whether the lease of a silent node could be removed.
func (t *table) buried(s silence, removed bool, now time.Time) {
	p := t.peers[s.node]
	if p == nil || !p.leased || p.revision != s.revision {
		return
	}
	p.removing = false
	if removed {
		t.remove(p, now)
	}
}

// remove notes that the node's lease is removed.
func (t *table) remove(p *peer, now time.Time) {
	p.leased, p.revision, p.removing, p.left = false, 0, false, now
}

// silent reports whether the node has not renewed its lease for the length of
// one, although it could have.
func (t *table) silent(p *peer, now time.Time) bool {
	o := t.opts
	if !p.leased {
		return false
	}
	steady := t.asOf.Sub(t.steady)
	if steady >= o.Lease {
		return t.asOf.Sub(p.changed) >= o.Lease
	}
	// The store was away. See the package's comment. The last renewal may have
	// come a beat after the last message.
	silence := o.Lease + o.beat()
	return steady >= o.beat() && t.asOf.Sub(t.awake) >= silence && t.asOf.Sub(p.first) >= silence &&
		t.asOf.Sub(p.lastHeard()) >= silence && t.nobodyHears(p, now)
}

// nobodyHears reports whether all nodes that this one hears say that they don't
// hear p, and the network was well enough that one of them was heard without a
// pause for a whole lease.
func (t *table) nobodyHears(p *peer, now time.Time) (well bool) {
	for _, other := range t.peers {
		if other == p || now.Sub(other.heard) > t.opts.missed() {
			continue
		}
		if !slices.Contains(other.said.Unheard, p.node) {
			return false
		}
		well = well || now.Sub(other.since) >= t.opts.Lease
	}
	return well
}

// unheard returns the nodes that have a lease and were not heard by gossip for
// the length of one, sorted.
func (t *table) unheard(now time.Time) (nodes []string) {
	for _, p := range t.peers {
		if lease := t.opts.Lease; p.leased && now.Sub(p.heard) >= lease && now.Sub(p.first) >= lease {
			nodes = append(nodes, p.node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// hear takes in a message. The peer is nil where it counts for nothing, and
// known says that this node was heard before.
func (t *table) hear(m message, now time.Time) (p *peer, known bool) {
	p = t.peer(m.Node, now)
	if p == nil {
		return nil, false
	}
	known = now.Sub(p.heard) <= t.opts.Lease && p.said.Epoch == m.Epoch
	if m.Epoch < max(p.lease.Epoch, p.said.Epoch) {
		return nil, false // an older process of it, whose last words came late
	}
	if p.since.IsZero() || now.Sub(p.heard) > t.opts.missed() {
		p.since = now
	}
	p.said, p.heard = m, now
	return p, known
}

// others returns the nodes that were heard within a lease, either way, and
// don't leave, sorted.
func (t *table) others(now time.Time, draining bool) []string {
	var up []string
	for _, p := range t.peers {
		if _, _, leaving := p.process(); !leaving && now.Sub(p.lastHeard()) <= t.opts.Lease && (draining || !p.said.Facts.Draining) {
			up = append(up, p.node)
		}
	}
	slices.Sort(up)
	return up
}

// takers returns the other nodes that can be expected to take orphans now.
func (t *table) takers(now time.Time) []string {
	var nodes []string
	for _, p := range t.peers {
		last := p.lastHeard()
		if last.Before(p.changed) {
			last = p.changed
		}
		_, _, leaving := p.process()
		if p.leased && !p.removing && !leaving && !p.said.Facts.Draining && now.Sub(last) <= t.opts.missed() {
			nodes = append(nodes, p.node)
		}
	}
	return nodes
}

// rank returns how many of the others come before node for this stream
// (rendezvous hashing, so that all nodes agree without talking, and a node that
// comes or goes moves only what is its own).
func rank(id, node string, others []string) (n int) {
	own := weight(id, node)
	for _, other := range others {
		if w := weight(id, other); w > own || w == own && other > node {
			n++
		}
	}
	return n
}

func weight(id, node string) uint64 {
	sum := sha256.Sum256([]byte(id + "\x00" + node))
	return binary.BigEndian.Uint64(sum[:])
}

// A Member is one node, as this one sees it.
type Member struct {
	Node  string
	Epoch uint64
	State State
	// Since is when its process started, by its own clock.
	Since time.Time
	// Heard is when it was last known to be alive, by this node's clock; now
	// for this node itself, and the zero time where it has not been heard since
	// this process started.
	Heard time.Time
	// Self says that it is this node.
	Self bool
	// Facts are what it said last.
	Facts Facts
}

// Members returns all nodes: those that have a lease, those that were heard
// within the length of one, and, for some time, those that are gone without
// having left. They are sorted by name.
func (c *Cluster) Members() []Member {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []Member{{Node: c.opts.Node, Epoch: c.opts.Epoch, State: c.state(), Since: c.started, Heard: now, Self: true, Facts: c.own}}
	for _, p := range c.table.peers {
		epoch, started, leaving := p.process()
		m := Member{Node: p.node, Epoch: epoch, State: StateUp, Since: started, Heard: p.lastHeard(), Facts: p.said.Facts}
		// A lease that was there when this process started says nothing yet.
		last := m.Heard
		if last.IsZero() {
			last = p.first
		}
		switch {
		case !p.left.IsZero() && leaving && (!p.heard.After(p.left) || now.Sub(p.heard) > c.opts.missed()):
			continue // it has left
		case !p.left.IsZero() && !p.heard.After(p.left), now.Sub(last) > c.opts.Lease:
			m.State = StateGone
		case leaving:
			m.State = StateLeaving
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// Others returns how many other nodes are up: heard within a lease, through the
// store or by gossip, and not leaving.
func (c *Cluster) Others() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.table.others(time.Now(), true))
}

// Up returns the names of the other nodes that new work can be given to, sorted.
func (c *Cluster) Up() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.others(time.Now(), false)
}
