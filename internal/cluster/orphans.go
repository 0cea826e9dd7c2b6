package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/resilience"
)

// An owner is the process that a record names.
type owner struct {
	node  string
	epoch uint64
}

// ownerOf returns the owner of a record; the node is "" where the record was
// handed over.
func ownerOf(r backbone.Record) (owner, error) {
	var o struct {
		Node  *string `json:"node"`
		Epoch uint64  `json:"epoch"`
	}
	if err := json.Unmarshal(r.Value, &o); err != nil {
		return owner{}, err
	}
	if o.Node == nil {
		return owner{}, errors.New("it names no node")
	}
	return owner{*o.Node, o.Epoch}, nil
}

// A verdict says what a record is.
type verdict int

const (
	owned  verdict = iota // somebody runs it
	unsure                // its owner is missing, but not for long enough
	orphan                // nobody runs it
)

// judge says what a record with this owner is. It is right for a record that
// was read before the newest reading of the leases began.
func (t *table) judge(o owner) verdict {
	if o.node == "" {
		return orphan
	}
	if o == (owner{t.opts.Node, t.opts.Epoch}) {
		return owned
	}
	// A node writes its lease before its first record, and its first record
	// before it is known here. So what has no lease, and never had one that was
	// seen here, could not write one, and is given the time for it.
	sure := orphan
	if t.asOf.Before(t.quiet) {
		sure = unsure
	}
	current, known := t.opts.Epoch, o.node == t.opts.Node
	if p := t.peers[o.node]; p != nil {
		current, known = p.lease.Epoch, p.leased || !p.left.IsZero()
		if p.leased && (p.lease.Epoch == 0 || p.lease.Epoch == o.epoch) {
			return owned // alive, as far as anybody can tell
		}
		if !p.leased && p.lease.Epoch == o.epoch && known {
			return sure
		}
	}
	if known && o.epoch < current {
		return sure
	}
	since, missing := t.missing[o]
	if !missing {
		t.missing[o] = t.asOf
		return unsure
	}
	if since.Before(t.steady) {
		since = t.steady
	}
	if t.steady.IsZero() || t.asOf.Sub(since) < t.opts.Lease {
		return unsure
	}
	return sure
}

// A task is one orphan that this node will take, if nobody was quicker.
type task struct {
	record backbone.Record
	owner  owner
	look   bool      // at the record, before anything else
	due    time.Time // when to act
	tries  int
	busy   bool // a goroutine is at it
}

func (t *task) reason() string {
	if t.owner.node == "" {
		return ReasonDraining
	}
	return ReasonOwnerLost
}

// A result is what became of a task.
type result struct {
	id      string
	outcome outcome
}

type outcome int

const (
	finished outcome = iota // this node, or another one, has it
	failed                  // to be tried again
	changed                 // the record is another: look at all of them again
)

// orphans is what the goroutine that looks for them remembers.
type orphans struct {
	tasks   map[string]*task
	busy    int
	results chan result
	done    map[string]taken // so that a copy of the store that lags starts nothing
	unread  map[string]uint64

	scanned time.Time // when the last look began
	scan    time.Time // when the next one is due
}

type taken struct {
	revision uint64
	until    time.Time
}

// look has this node look for orphans, now and some more times soon, since a
// copy of the store that lags may not show them yet.
func (c *Cluster) look() {
	c.mu.Lock()
	c.eager = time.Now().Add(5 * c.opts.hurry())
	c.mu.Unlock()
	kick(c.scanNow)
}

// soonest is the shortest that the loop waits. A timer that has expired when
// select sees it crashes the race detector in a bubble of testing/synctest
// (go1.26).
const soonest = time.Millisecond

// orphanLoop looks for orphans, and has those taken over that are this node's
// to take.
func (c *Cluster) orphanLoop() {
	o := &orphans{tasks: make(map[string]*task), results: make(chan result, c.opts.TakeOvers),
		done: make(map[string]taken), unread: make(map[string]uint64)}
	o.scan = time.Now()
	timer := time.NewTimer(soonest)
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.scanNow:
			o.sooner(time.Now())
		case r := <-o.results:
			o.settle(r, c.opts)
		case <-timer.C:
		}
		if now := time.Now(); !now.Before(o.scan) && now.Sub(o.scanned) >= c.opts.hurry()/5 {
			o.scanned = now
			o.scan = now.Add(c.lookAround(o))
		}
		timer.Reset(max(time.Until(c.dispatch(o)), soonest))
	}
}

func (o *orphans) sooner(at time.Time) {
	if at.Before(o.scan) {
		o.scan = at
	}
}

// settle notes what became of a task.
func (o *orphans) settle(r result, opts Options) {
	t := o.tasks[r.id]
	o.busy--
	t.busy = false
	switch r.outcome {
	case failed:
		t.tries++
		t.look = true
		t.due = time.Now().Add(resilience.Backoff{Base: opts.hurry(), Max: opts.Lease}.Delay(t.tries))
	case changed:
		delete(o.tasks, r.id)
		o.sooner(time.Now())
	case finished:
		delete(o.tasks, r.id)
		o.done[r.id] = taken{t.record.Revision, time.Now().Add(2 * opts.Lease)}
	}
}

// dispatch starts what is due, and returns when to come again.
func (c *Cluster) dispatch(o *orphans) (next time.Time) {
	now := time.Now()
	next = o.scan
	if earliest := o.scanned.Add(c.opts.hurry() / 5); next.Before(earliest) {
		next = earliest
	}
	acting := c.acting()
	for id, t := range o.tasks {
		switch {
		case t.busy:
		case !acting:
			delete(o.tasks, id)
		case o.busy == c.opts.TakeOvers: // a result will wake the loop
		case t.due.After(now):
			if t.due.Before(next) {
				next = t.due
			}
		default:
			t.busy = true
			o.busy++
			work := *t
			c.wg.Go(func() { o.results <- result{id, c.act(id, work)} })
		}
	}
	return next
}

// acting reports whether this node may take orphans, and can.
func (c *Cluster) acting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held && !c.leaving && !c.own.Draining && !c.table.steady.IsZero()
}

// lookAround reads all records, and makes the orphans among them tasks. It
// returns when to do so again.
func (c *Cluster) lookAround(o *orphans) (again time.Duration) {
	if !c.acting() {
		return c.opts.beat()
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Lease)
	defer cancel()
	all, err := c.opts.Bus.Running(ctx)
	if err != nil {
		c.log.Debug().Err(err).Msg("could not read which analyses run")
		return c.opts.beat()
	}
	// Who has a lease is to be known as of after this reading; see judge.
	read, _ := c.clocks()
	kick(c.beatNow)
	if !c.await(ctx, func() bool { return !c.table.asOf.Before(read) }) {
		return c.opts.beat()
	}

	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	takers := c.table.takers(now)
	seen := make(map[owner]bool)
	again = c.opts.rounds()*9/10 + rand.N(c.opts.rounds()/5) // nodes that started together spread
	for id, r := range all {
		own, err := ownerOf(r)
		if err != nil {
			o.complain(c, id, r.Revision, err)
			continue
		}
		seen[own] = true
		if d := o.done[id]; r.Revision <= d.revision {
			continue
		}
		switch c.table.judge(own) {
		case owned:
			o.forget(id)
		case unsure:
			again = min(again, c.opts.beat())
		case orphan:
			o.add(id, r, own, now.Add(time.Duration(rank(id, c.opts.Node, takers))*c.opts.Lease/4), now)
		}
	}
	for id := range o.tasks {
		if _, there := all[id]; !there {
			o.forget(id)
		}
	}
	for id, d := range o.done {
		if now.After(d.until) {
			delete(o.done, id)
		}
	}
	for own := range c.table.missing {
		if !seen[own] {
			delete(c.table.missing, own)
		}
	}
	if begun.Before(c.eager) {
		again = min(again, c.opts.hurry())
	}
	return again
}

// add makes an orphan a task, or renews the one that there is.
func (o *orphans) add(id string, r backbone.Record, own owner, due, now time.Time) {
	t := o.tasks[id]
	if t == nil {
		o.tasks[id] = &task{record: r, owner: own, due: due, look: due.After(now)}
		return
	}
	if !t.busy && r.Revision > t.record.Revision {
		t.record, t.owner = r, own
	}
}

// forget drops a task that nobody has begun.
func (o *orphans) forget(id string) {
	if t := o.tasks[id]; t != nil && !t.busy {
		delete(o.tasks, id)
	}
}

// complain logs a record that can't be read, once.
func (o *orphans) complain(c *Cluster, id string, revision uint64, err error) {
	if o.unread[id] != revision {
		clear(o.unread) // there are few of these, if any
		o.unread[id] = revision
		c.log.Error().Err(err).Str("stream", id).Msg("the record of a running analysis can't be read, so nobody can take it over")
	}
}

// act takes one orphan over, if it still is one.
func (c *Cluster) act(id string, t task) outcome {
	log := c.log.With().Str("stream", id).Str("from", t.owner.node).Str("reason", t.reason()).Logger()
	if t.look {
		ctx, cancel := context.WithTimeout(c.ctx, c.opts.callTimeout())
		r, err := c.opts.Bus.RunningRecord(ctx, id)
		cancel()
		switch {
		case err != nil:
			log.Debug().Err(err).Msg("could not look at the record of an orphaned analysis")
			return failed
		case r.Revision == 0:
			return finished
		case r.Revision > t.record.Revision: // a smaller one is a copy's that lags
			return changed
		}
	}
	c.mu.Lock()
	// After a pause of this process the timers are first, and what is known is
	// from before.
	known := time.Since(c.table.asOf) <= c.opts.missed()
	still := c.table.judge(t.owner) == orphan
	c.mu.Unlock()
	if !known {
		return failed
	}
	if !still {
		return changed
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.TakeOverTimeout)
	defer cancel()
	err := c.opts.TakeOver(ctx, id, t.record, t.reason())
	if err == nil {
		return finished
	}
	if c.ctx.Err() == nil {
		ev := log.Debug()
		if t.tries%10 == 0 {
			ev = log.Warn()
		}
		ev.Err(err).Int("tries", t.tries+1).Msg("could not take an orphaned analysis over; it is tried again")
	}
	return failed
}
