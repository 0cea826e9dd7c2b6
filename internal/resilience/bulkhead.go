package resilience

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/eapache/go-resiliency/semaphore"
)

// What a BulkheadOptions' zero fields mean.
const (
	DefaultWorkers = 20
	DefaultQueue   = 100
)

// BulkheadOptions configure a Bulkhead.
type BulkheadOptions struct {
	Name string
	// Class is whose places are used. ClassNetwork by default, and where it is
	// unknown.
	Class Class
	// Workers is how many places may be taken at once. 20 by default.
	Workers int
	// Queue is how many may wait for one. 100 by default; negative: none. Each
	// change of the queue looks at all of it, see BenchmarkQueue.
	Queue int
}

// A Bulkhead bounds how many calls of one kind run at once, and lines up the
// rest: tenants take turns, and one tenant's calls keep their order. A tenant
// with many calls waiting so delays its own.
type Bulkhead struct {
	// Set by Pool.Bulkhead, then read-only.
	o     BulkheadOptions
	class *class

	// Guarded by class.mu.
	busy    int
	queued  int
	tenants map[string]*line // those with places waiting
	ring    []*line          // the same, in the order of their turns
	scratch []*line          // rank's
	refused uint64
	granted uint64
}

// A line is the places that one tenant waits for.
type line struct {
	tenant string
	places []*Place // never empty
}

// A BulkheadState is what is to be seen of a Bulkhead.
type BulkheadState struct {
	Name  string
	Class Class
	// Workers is how many places may be taken, Busy how many are.
	Workers, Busy int
	// Queue is how many may wait, Queued how many do.
	Queue, Queued int
	// Refused is how many calls of Enter found the queue full, Granted how many
	// places were taken.
	Refused, Granted uint64
}

// A FullError says that as many wait for a place as may. It is in the family of
// go-resiliency's semaphore.ErrNoTickets.
type FullError struct {
	Name  string // the bulkhead's
	Queue int    // how many may wait
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%s: the queue of %d is full", e.Name, e.Queue)
}

// Unwrap returns semaphore.ErrNoTickets.
func (e *FullError) Unwrap() error { return semaphore.ErrNoTickets }

// A placeState is how far a Place has come.
type placeState int

const (
	placeWaiting placeState = iota
	placeGranted
	placeLeft
)

// A Place is one call's, asked for or taken. Whoever got it must call Leave.
type Place struct {
	b *Bulkhead

	// Set when it was made, then read-only. moved is nil where it was granted
	// at once.
	ready chan struct{}
	moved chan struct{}
	line  *line // nil where it was granted at once

	state    placeState   // guarded by class.mu
	position atomic.Int64 // written with class.mu held
}

// granted is the Ready of all places that were granted at once.
var granted = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// TryEnter takes a place if there is one at once. It never overtakes those who
// wait.
func (b *Bulkhead) TryEnter() (*Place, bool) {
	b.class.mu.Lock()
	defer b.class.mu.Unlock()
	return b.tryEnter()
}

// tryEnter is TryEnter. class.mu is held.
func (b *Bulkhead) tryEnter() (*Place, bool) {
	// While the class has room, nobody waits in another bulkhead who could
	// have it: see class.
	if b.queued > 0 || b.busy >= b.o.Workers || b.class.busy >= b.class.limit {
		return nil, false
	}
	p := &Place{b: b, ready: granted}
	b.take(p)
	return p, true
}

// Enter takes a place at once, or waits in line for one: Ready says which. If
// too many wait already it returns a *FullError.
func (b *Bulkhead) Enter(tenant string) (*Place, error) {
	b.class.mu.Lock()
	defer b.class.mu.Unlock()
	if p, ok := b.tryEnter(); ok {
		return p, nil
	}
	if b.queued >= b.o.Queue {
		b.refused++
		return nil, &FullError{Name: b.o.Name, Queue: b.o.Queue}
	}
	l := b.tenants[tenant]
	if l == nil {
		l = &line{tenant: tenant}
		b.tenants[tenant] = l
		b.ring = append(b.ring, l)
	}
	p := &Place{b: b, ready: make(chan struct{}), moved: make(chan struct{}, 1), line: l}
	l.places = append(l.places, p)
	b.queued++
	b.class.waiting++
	b.rank()
	return p, nil
}

// State returns what is to be seen of the bulkhead.
func (b *Bulkhead) State() BulkheadState {
	b.class.mu.Lock()
	defer b.class.mu.Unlock()
	return BulkheadState{Name: b.o.Name, Class: b.o.Class, Workers: b.o.Workers, Busy: b.busy,
		Queue: b.o.Queue, Queued: b.queued, Refused: b.refused, Granted: b.granted}
}

// Ready is closed once the place is granted.
func (p *Place) Ready() <-chan struct{} { return p.ready }

// Position is how many grants away the place is, among those who wait at this
// bulkhead now: 1 is the next. It is 0 once it is granted, and once it is left.
// It may grow when another tenant, whose turn comes first, joins the queue.
func (p *Place) Position() int { return int(p.position.Load()) }

// Moved signals that Position has changed since the last signal was taken, but
// not that the place is granted, which Ready does. It is nil, and so never
// signals, where the place was granted at once.
func (p *Place) Moved() <-chan struct{} { return p.moved }

// Leave gives the place back if it was granted, which grants it to the next in
// line before Leave returns, and otherwise gives it up: it will not be granted.
// Only the first call does something.
func (p *Place) Leave() {
	b := p.b
	b.class.mu.Lock()
	defer b.class.mu.Unlock()
	switch p.state {
	case placeGranted:
		b.busy--
		b.class.busy--
		b.class.grant()
	case placeWaiting:
		// Nobody else can have become able to run: what they wait for is
		// still taken.
		b.remove(p)
		b.rank()
	case placeLeft:
	}
	p.state = placeLeft
}

// take makes p a taken place. class.mu is held.
func (b *Bulkhead) take(p *Place) {
	b.busy++
	b.class.busy++
	b.granted++
	p.state = placeGranted
	p.position.Store(0)
	if p.line != nil {
		close(p.ready)
	}
}

// pop takes the next place out of the queue: the first one of the tenant whose
// turn it is, who goes to the end of the ring. class.mu is held, and somebody
// waits.
func (b *Bulkhead) pop() *Place {
	l := b.ring[0]
	p := l.places[0]
	b.remove(p)
	if len(l.places) > 0 {
		b.ring = append(slices.Delete(b.ring, 0, 1), l)
	}
	return p
}

// remove takes a place out of the queue. A tenant without another one leaves
// the ring. class.mu is held.
func (b *Bulkhead) remove(p *Place) {
	l := p.line
	l.places = slices.DeleteFunc(l.places, func(other *Place) bool { return other == p })
	if len(l.places) == 0 {
		delete(b.tenants, l.tenant)
		b.ring = slices.DeleteFunc(b.ring, func(other *line) bool { return other == l })
	}
	p.position.Store(0)
	b.queued--
	b.class.waiting--
}

// rank numbers the places in the order in which they will be granted: the first
// of each tenant, then the second of each, and so on. Those who moved are
// signalled. class.mu is held.
func (b *Bulkhead) rank() {
	n := int64(0)
	lines := append(b.scratch[:0], b.ring...)
	b.scratch = lines
	for round := 0; len(lines) > 0; round++ {
		longer := lines[:0] // those that have places for the next round too
		for _, l := range lines {
			n++
			p := l.places[round]
			if old := p.position.Swap(n); old != n && old != 0 {
				select {
				case p.moved <- struct{}{}:
				default: // it is signalled already
				}
			}
			if round+1 < len(l.places) {
				longer = append(longer, l)
			}
		}
		lines = longer
	}
	clear(b.scratch)
}
