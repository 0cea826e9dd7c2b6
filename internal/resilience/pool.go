package resilience

import (
	"slices"
	"sync"
)

// Class is the resource that a call uses up.
type Class string

// The classes.
const (
	ClassCPU     Class = "cpu"
	ClassMemory  Class = "memory"
	ClassNetwork Class = "network"
)

// What a PoolLimits' zero fields mean.
const (
	DefaultCPU     = 5
	DefaultMemory  = 3
	DefaultNetwork = 50
)

// PoolLimits are how many calls of each class may run at once, over all
// bulkheads. 5, 3 and 50 by default.
type PoolLimits struct {
	CPU, Memory, Network int
}

// A Pool is the semaphore over all bulkheads, one for each class of resource.
type Pool struct {
	classes [3]*class // set by NewPool, then read-only
}

// A ClassState is what is to be seen of a class.
type ClassState struct {
	Class Class
	// Limit is how many places there are, Busy how many are taken, Waiting how
	// many are asked for in the queues of its bulkheads.
	Limit, Busy, Waiting int
}

// A class is the places for one resource, and the bulkheads that share them.
// They share its lock too: a place that one gives back goes to whoever is next
// in any of them, in the same step, so that no wake-up can be lost in between.
//
// With mu free, whoever waits has a reason: its bulkhead's workers are all
// busy, or the class's places are all taken.
type class struct {
	name  Class
	limit int

	mu        sync.Mutex
	busy      int         // guarded by mu
	waiting   int         // guarded by mu; the sum of the bulkheads' queued
	bulkheads []*Bulkhead // guarded by mu
	turn      int         // guarded by mu; the index of the bulkhead to look at first
}

// NewPool returns a Pool with all places free.
func NewPool(l PoolLimits) *Pool {
	limit := func(n, otherwise int) int {
		if n <= 0 {
			return otherwise
		}
		return n
	}
	return &Pool{classes: [3]*class{
		{name: ClassCPU, limit: limit(l.CPU, DefaultCPU)},
		{name: ClassMemory, limit: limit(l.Memory, DefaultMemory)},
		{name: ClassNetwork, limit: limit(l.Network, DefaultNetwork)},
	}}
}

// State returns what is to be seen of each class.
func (p *Pool) State() []ClassState {
	states := make([]ClassState, 0, len(p.classes))
	for _, c := range p.classes {
		c.mu.Lock()
		states = append(states, ClassState{Class: c.name, Limit: c.limit, Busy: c.busy, Waiting: c.waiting})
		c.mu.Unlock()
	}
	return states
}

// Bulkhead returns a new bulkhead, which lives as long as the pool.
func (p *Pool) Bulkhead(o BulkheadOptions) *Bulkhead {
	switch {
	case o.Queue == 0:
		o.Queue = DefaultQueue
	case o.Queue < 0:
		o.Queue = 0
	}
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	i := slices.IndexFunc(p.classes[:], func(c *class) bool { return c.name == o.Class })
	if i < 0 {
		o.Class, i = ClassNetwork, len(p.classes)-1
	}
	c := p.classes[i]
	b := &Bulkhead{o: o, class: c, tenants: make(map[string]*line)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bulkheads = append(c.bulkheads, b)
	return b
}

// grant gives free places to those who wait: to one of each bulkhead in turn,
// passing over those whose workers are all busy. c.mu is held.
func (c *class) grant() {
	for c.busy < c.limit && c.waiting > 0 {
		n := len(c.bulkheads)
		granted := false
		for i := range n {
			b := c.bulkheads[(c.turn+i)%n]
			if b.queued == 0 || b.busy >= b.o.Workers {
				continue
			}
			c.turn = (c.turn + i + 1) % n
			b.take(b.pop())
			b.rank()
			granted = true
			break
		}
		if !granted {
			return
		}
	}
}
