package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
)

// A State is how a node is.
type State string

// The states of nodes. The first two stand in leases and gossip.
const (
	StateUp      State = "up"
	StateLeaving State = "leaving" // shuts down: it takes no work any more
	StateGone    State = "gone"    // is silent, and has not left
)

// A lease is the record by which a node proves that it is alive.
type lease struct {
	Node    string    `json:"node"`
	Epoch   uint64    `json:"epoch"`
	Started time.Time `json:"started"`
	State   State     `json:"state"`
}

// parseLease reads a lease. One that can't be read still proves, by its
// revision, that its node is alive.
func parseLease(r backbone.Record) (l lease, ok bool) {
	if json.Unmarshal(r.Value, &l) != nil || l.Epoch == 0 {
		return lease{}, false
	}
	return l, true
}

// A keeper is what the goroutine that renews the lease remembers.
type keeper struct {
	revision uint64 // of the lease as last written; 0: none
	written  uint64 // the largest revision that was ever
	lost     bool   // a lease was lost, and no new one written yet
	verified bool   // Verify was called for that

	woke, wokeWall time.Time // the begin of the last beat, by both clocks
	failing        bool      // the store did not answer

	twin        uint64    // the revision of a newer process's lease with this node's name
	twinChanged time.Time // when it was first seen
	twinChecked time.Time // when Verify was last called for it
	twinNamed   bool      // it was logged
}

// renewLoop keeps the lease and watches those of the others.
func (c *Cluster) renewLoop() {
	for {
		begun, _ := c.clocks()
		ok := c.beatOnce()
		c.mu.Lock()
		close(c.observed)
		c.observed = make(chan struct{})
		c.mu.Unlock()
		wait := c.opts.hurry()
		if ok {
			c.mu.Lock()
			settled := begun.Sub(c.table.steady) >= c.opts.Lease
			c.mu.Unlock()
			if settled {
				wait = c.opts.beat()
			}
			now, _ := c.clocks()
			wait = max(wait-now.Sub(begun), 0)
		}
		if !pause(c.ctx, wait, c.beatNow) {
			return
		}
	}
}

// beatOnce renews the lease and then reads those of all. The order is what
// makes the reading a proof, see the package's comment.
func (c *Cluster) beatOnce() (ok bool) {
	k := &c.keeper
	begun, wall := c.clocks()
	if !k.woke.IsZero() {
		// The longest beat, with both its calls timing out, is shorter.
		gap, gapWall := begun.Sub(k.woke), wall.Sub(k.wokeWall)
		if gap > c.opts.Lease || gapWall-gap > c.opts.Lease {
			c.log.Warn().Dur("for", max(gap, gapWall)).Msg("this process was stopped or could not run; what it was running may have been taken over")
			c.forgive(begun, true)
			kick(c.verifyNow)
		}
	}
	k.woke, k.wokeWall = begun, wall

	err := c.renew(begun)
	if c.ctx.Err() != nil {
		return false
	}
	if err != nil {
		c.storeFailed(err)
		return false
	}
	if k.failing {
		k.failing = false
		kick(c.gossipNow) // if the network was away, the others wonder
		c.log.Info().Msg("the store takes this node's lease again")
	}
	if k.revision == 0 {
		return true // another process rules, so this one can't judge
	}
	c.mu.Lock()
	c.table.renewed(begun)
	c.mu.Unlock()

	all, err := c.readAll(k.revision)
	if err != nil {
		if c.ctx.Err() == nil {
			c.log.Debug().Err(err).Msg("could not read the leases of the others")
		}
		return false
	}
	c.observe(all, begun)
	return true
}

// readAll reads the leases of all from a copy of the store that has this node's
// of a revision. Copies take turns to answer, and those that don't lead are told
// late what is stored: in a trial of three nodes a tenth of the readings came
// from before the write that had just been acknowledged, for up to a second.
func (c *Cluster) readAll(revision uint64) (map[string]backbone.Record, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.callTimeout())
	defer cancel()
	for wait := c.opts.hurry() / 50; ; wait *= 2 {
		all, err := c.opts.Bus.Leases(ctx)
		if err != nil {
			return nil, err
		}
		if all[c.opts.Node].Revision >= revision {
			return all, nil
		}
		if !pause(ctx, wait, nil) {
			return nil, errors.New("the copies of the store that answer lag behind")
		}
	}
}

// observe takes in a reading of all leases that shows what was written before
// asOf, and has the leases removed that were not renewed.
func (c *Cluster) observe(all map[string]backbone.Record, asOf time.Time) {
	now, _ := c.clocks()
	c.mu.Lock()
	f := c.table.observe(all, asOf, now, !c.leaving)
	for _, s := range f.silent {
		c.wg.Go(func() { c.bury(s) })
	}
	c.mu.Unlock()
	for _, node := range f.left {
		c.log.Info().Str("node", node).Msg("a node has left")
	}
	for _, node := range f.gone {
		c.log.Warn().Str("node", node).Msg("a node is gone: another found that it had not renewed its lease")
	}
	if f.news {
		c.look()
	}
}

// bury removes the lease of a node that is silent, unless it was renewed in the
// last moment.
func (c *Cluster) bury(s silence) {
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.callTimeout())
	defer cancel()
	removed, err := c.opts.Bus.RemoveLease(ctx, s.node, s.revision)

	now, _ := c.clocks()
	c.mu.Lock()
	c.table.buried(s, removed, now)
	c.mu.Unlock()
	switch {
	case removed:
		c.log.Warn().Str("node", s.node).Dur("silent", s.length).Msg("a node is gone: it has not renewed its lease")
		c.Look() // those that the orphans belong to may be about to beat only in a second
	case err != nil && c.ctx.Err() == nil:
		c.log.Debug().Err(err).Str("node", s.node).Msg("the lease of a silent node could not be removed")
	}
}

func (c *Cluster) storeFailed(err error) {
	k := &c.keeper
	ev := c.log.Debug()
	if !k.failing {
		ev = c.log.Warn()
	}
	ev.Err(err).Msg("the store does not take this node's lease; nobody is judged until it does")
	k.failing = true
	c.mu.Lock()
	c.table.steady = time.Time{}
	c.mu.Unlock()
}

// forgive lets all leases count from now on, since the others may have had as
// little chance to renew theirs as this node had. slept says that this process
// was not running.
func (c *Cluster) forgive(now time.Time, slept bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.forgive(now, slept)
}

// renew writes the lease. nil with a revision of 0 says that the store works,
// but a newer process of this node's name has the lease.
func (c *Cluster) renew(now time.Time) error {
	k := &c.keeper
	var refused error
	if k.revision > 0 {
		if refused = c.write(k.revision); refused == nil {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.beat())
	defer cancel()
	all, err := c.opts.Bus.Leases(ctx)
	switch {
	case refused != nil && !errors.Is(refused, backbone.ErrConflict) && (err != nil || !shows(all, c.opts.Node, k.revision)):
		return refused
	case err != nil:
		return fmt.Errorf("read the leases: %w", err)
	}
	own := all[c.opts.Node]
	l, readable := parseLease(own)
	mine := readable && l.Epoch == c.opts.Epoch && l.Started.Equal(c.started)
	newer := readable && l.Epoch > c.opts.Epoch
	if k.revision > 0 && (!mine || own.Revision <= k.written) {
		// Otherwise it is a write of our own, whose answer did not arrive.
		c.loseLease(now, newer)
	}
	k.revision = 0
	if newer && !c.outlived(own.Revision, now) {
		return nil
	}
	if mine && own.Revision <= k.written {
		own.Revision = 0 // a copy of the store that lags still has it
	}
	err = c.write(own.Revision)
	if k.lost && (err == nil || !k.verified) {
		k.verified = true
		kick(c.verifyNow) // after a new lease once more: what others took before
	}
	if err != nil {
		return err
	}
	if k.lost {
		c.log.Info().Msg("this node has a lease again")
	}
	k.lost, k.verified, k.twin, k.twinNamed = false, false, 0, false
	c.mu.Lock()
	c.twin.rules = false
	c.mu.Unlock()
	return nil
}

// loseLease notes that the lease was removed or replaced.
func (c *Cluster) loseLease(now time.Time, replaced bool) {
	c.keeper.lost = true
	if !replaced {
		c.log.Warn().Msg("other nodes took this one for gone, and removed its lease; what it was running may have been taken over")
	}
	c.forgive(now, false)
	c.mu.Lock()
	c.held = false
	c.mu.Unlock()
}

// shows reports whether a reading shows that the lease of this revision is no
// more: it has what was written later, but not that. A leader that was just
// elected may not be able to say so, and not answer.
func shows(all map[string]backbone.Record, node string, revision uint64) bool {
	if all[node].Revision >= revision {
		return false // maybe by a write of our own
	}
	for _, r := range all {
		if r.Revision > revision {
			return true
		}
	}
	return false
}

// write writes the lease over the one of this revision.
func (c *Cluster) write(revision uint64) error {
	c.mu.Lock()
	state := c.state()
	c.mu.Unlock()
	value, err := json.Marshal(lease{Node: c.opts.Node, Epoch: c.opts.Epoch, Started: c.started.UTC(), State: state})
	if err != nil {
		return fmt.Errorf("encode the lease: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.callTimeout())
	defer cancel()
	next, err := c.opts.Bus.WriteLease(ctx, value, revision)
	if err != nil {
		return fmt.Errorf("write the lease: %w", err)
	}
	c.keeper.revision = next
	c.keeper.written = max(c.keeper.written, next)
	c.mu.Lock()
	c.held = true
	c.said = c.said || state == StateLeaving
	c.mu.Unlock()
	return nil
}

// state is what this node says of itself. The caller holds mu.
func (c *Cluster) state() State {
	if c.leaving {
		return StateLeaving
	}
	return StateUp
}

// outlived reports whether the newer process with this node's name, whose lease
// has this revision, has been silent for a lease, so that this one may be the
// node again. Until then this one is fenced: it has no lease, judges nobody and
// takes nothing over, and what it was running belongs to others as soon as they
// find it.
func (c *Cluster) outlived(revision uint64, now time.Time) bool {
	k := &c.keeper
	// One that replaced a lease that was in use, or renews its own, is alive.
	if (k.lost || k.twin > 0 && k.twin != revision) && !k.twinNamed {
		k.twinNamed = true
		c.log.Error().Str("node", c.opts.Node).
			Msg("a newer process uses this node's name, and this one stands back: give one of them another --node-name")
	}
	if k.twin != revision {
		k.twin, k.twinChanged = revision, now
		c.mu.Lock()
		c.twin.rules = true
		c.mu.Unlock()
	}
	if now.Sub(k.twinChecked) >= c.opts.Lease {
		k.twinChecked = now
		kick(c.verifyNow)
	}
	return now.Sub(k.twinChanged) >= c.opts.Lease
}

// dropLease removes this node's lease, unless it is somebody else's by now.
func (c *Cluster) dropLease(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.callTimeout())
	defer cancel()
	revision := c.keeper.revision
	for range 2 {
		if revision == 0 {
			return
		}
		removed, err := c.opts.Bus.RemoveLease(ctx, c.opts.Node, revision)
		if removed {
			return
		}
		var all map[string]backbone.Record
		if err == nil { // a write whose answer did not arrive was later
			all, err = c.opts.Bus.Leases(ctx)
		}
		if err != nil {
			c.log.Warn().Err(err).Msg("this node's lease could not be removed; the others will miss its renewal")
			return
		}
		own := all[c.opts.Node]
		if l, ok := parseLease(own); !ok || l.Epoch != c.opts.Epoch || own.Revision <= revision {
			return
		}
		revision = own.Revision
	}
}

// A twin is another process that uses this node's name.
type twin struct {
	// rules says that it is newer and has the lease.
	rules bool
	// What its gossip says.
	epoch    uint64
	messages int
	heard    time.Time
}

// enough messages are no longer the last ones of a process that has just ended.
const enough = 3

// heardFrom notes a message of another process with this node's name, and
// reports whether it is the one that makes it certain.
func (t *twin) heardFrom(epoch uint64, now time.Time, o Options) bool {
	if t.epoch != epoch || now.Sub(t.heard) > o.Lease {
		t.epoch, t.messages = epoch, 0
	}
	t.heard = now
	t.messages++
	return t.messages == enough
}

func (t *twin) err(o Options) error {
	if t.rules || t.messages >= enough && time.Since(t.heard) <= o.Lease {
		return fmt.Errorf("%w: %s; give one of them another --node-name", ErrNotAlone, o.Node)
	}
	return nil
}
