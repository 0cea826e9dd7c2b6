package resilience

import "fmt"

// Check returns what of the invariants doesn't hold at this moment: the pool's
// and its bulkheads' bounds, that their books agree, and that nobody waits
// while there is room.
func (p *Pool) Check() error {
	for _, c := range p.classes {
		if err := c.check(); err != nil {
			return fmt.Errorf("class %s: %w", c.name, err)
		}
	}
	return nil
}

func (c *class) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	busy, waiting := 0, 0
	for _, b := range c.bulkheads {
		busy += b.busy
		waiting += b.queued
		places := 0
		for _, l := range b.ring {
			places += len(l.places)
			if len(l.places) == 0 || b.tenants[l.tenant] != l {
				return fmt.Errorf("%s: tenant %q has %d places in the ring, and another line among the tenants", b.o.Name, l.tenant, len(l.places))
			}
		}
		switch {
		case b.busy < 0 || b.busy > b.o.Workers:
			return fmt.Errorf("%s: %d of %d workers busy", b.o.Name, b.busy, b.o.Workers)
		case b.queued > b.o.Queue || b.queued != places || len(b.tenants) != len(b.ring):
			return fmt.Errorf("%s: %d queued, of at most %d; %d in the ring; %d tenants, %d in the ring",
				b.o.Name, b.queued, b.o.Queue, places, len(b.tenants), len(b.ring))
		case b.queued > 0 && b.busy < b.o.Workers && c.busy < c.limit:
			return fmt.Errorf("%s: %d wait while %d of %d workers and %d of %d places are busy",
				b.o.Name, b.queued, b.busy, b.o.Workers, c.busy, c.limit)
		}
	}
	if busy != c.busy || busy > c.limit || waiting != c.waiting {
		return fmt.Errorf("%d busy, of at most %d, and %d in the bulkheads; %d waiting, and %d in the bulkheads", c.busy, c.limit, busy, c.waiting, waiting)
	}
	return nil
}
