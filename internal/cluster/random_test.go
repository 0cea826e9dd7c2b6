package cluster_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/cluster"
)

// TestWhateverHappensEachOrphanIsTakenAndNobodyWellIsJudged lets nodes die, be
// stopped, be cut off, leave and come back at random, and the store go away.
// world checks at each verdict that the node had been silent for a lease and
// had a cause, and at each takeover that the owner was not well. In the end,
// with everything healed, each stream must be a living process's.
//
// ATHENA_CLUSTER_SEED runs one seed again, ATHENA_CLUSTER_SEEDS that many.
func TestWhateverHappensEachOrphanIsTakenAndNobodyWellIsJudged(t *testing.T) {
	first, seeds := uint64(1), uint64(20)
	if testing.Short() {
		seeds = 3
	}
	if n, err := strconv.ParseUint(os.Getenv("ATHENA_CLUSTER_SEEDS"), 10, 64); err == nil {
		seeds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("ATHENA_CLUSTER_SEED"), 10, 64); err == nil {
		first, seeds = n, 1
	}
	var total simulated
	for seed := first; seed < first+seeds; seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := &simulation{world: newWorld(t, seed)}
			s.run(120)
			total.faults += s.faults
			total.taken += s.simulated.taken
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d seeds, %d faults, %d takeovers", seeds, total.faults, total.taken)
	if first == 1 && (total.faults < int(seeds)*50 || total.taken < int(seeds)*10) {
		t.Error("too little happened")
	}
}

type simulated struct{ faults, taken int }

type simulation struct {
	*world
	simulated
	nodes []*process // the newest process of each node
	jobs  int
}

func (s *simulation) intn(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rand.IntN(n)
}

func (s *simulation) run(steps int) {
	nodes := 3 + s.intn(3)
	for i := range nodes {
		s.nodes = append(s.nodes, s.start(fmt.Sprint("n", i)))
	}
	for range steps {
		time.Sleep(time.Duration(s.intn(4000)) * time.Millisecond)
		for _, p := range s.nodes { // everybody who can starts something
			s.mu.Lock()
			able := !p.dead && !p.stopped && !p.storeCut && !s.down && s.leases[p.name].Revision > 0
			s.mu.Unlock()
			if able && s.intn(3) == 0 {
				s.jobs++
				p.mark(fmt.Sprint("job", s.jobs))
			}
		}
		s.fault()
	}
	s.heal()
	time.Sleep(6 * lease)
	s.check()
}

// fault does one thing to one node, or to the store.
func (s *simulation) fault() {
	s.faults++
	i := s.intn(len(s.nodes))
	p := s.nodes[i]
	s.mu.Lock()
	dead, stopped, cut := p.dead, p.stopped, p.storeCut
	s.mu.Unlock()
	switch kind := s.intn(12); {
	case dead:
		s.nodes[i] = s.start(p.name)
	case stopped:
		p.resume()
	case cut && kind < 8:
		p.set(func() { p.storeCut = false })
		s.part(false, []*process{p}, s.nodes)
	case kind < 2:
		p.kill()
	case kind < 5:
		p.stop()
	case kind < 7:
		p.set(func() { p.storeCut = true; p.hangs = s.rand.IntN(2) == 0 })
		if kind == 6 {
			s.part(true, []*process{p}, s.nodes)
			s.part(false, []*process{p}, []*process{p})
		}
	case kind == 7:
		p.set(func() { p.loses = true })
	case kind == 8:
		p.set(func() { p.lag = time.Duration(s.rand.IntN(3000)) * time.Millisecond })
	case kind == 9:
		s.setDown(!s.down)
	case kind == 10:
		s.leave(p)
	default:
		s.handOver(p)
	}
	if s.down && s.intn(3) == 0 {
		s.setDown(false)
	}
}

// leave shuts a node down in good order; what it ran is handed over.
func (s *simulation) leave(p *process) {
	if err := p.Leave(s.t.Context()); err != nil {
		s.t.Errorf("seed %d: %s leaves: %v", s.seed, p.name, err)
	}
	s.handOver(p)
	p.close()
	p.set(func() { p.dead = true })
}

// handOver has a node leave all it runs to others.
func (s *simulation) handOver(p *process) {
	s.mu.Lock()
	if !s.world.down && !p.storeCut {
		for id := range s.running {
			if node, epoch := s.ownerOf(id); node == p.name && epoch == p.epoch {
				s.put(id, "", p.epoch)
			}
		}
	}
	s.mu.Unlock()
	p.Look()
}

func (s *simulation) heal() {
	s.setDown(false)
	for i, p := range s.nodes {
		s.mu.Lock()
		dead := p.dead
		s.mu.Unlock()
		if dead {
			s.nodes[i] = s.start(p.name)
			continue
		}
		p.resume()
		p.set(func() { p.storeCut, p.lag = false, 0 })
	}
	s.part(false, s.nodes, s.nodes)
}

// check checks what must be so once all is healed and some time has passed.
func (s *simulation) check() {
	s.mu.Lock()
	for id := range s.running {
		node, epoch := s.ownerOf(id)
		lives := false
		for _, p := range s.nodes {
			lives = lives || p.name == node && p.epoch == epoch
		}
		if !lives {
			s.t.Errorf("seed %d: %s belongs to %q, epoch %d, which is no more", s.seed, id, node, epoch)
		}
		s.simulated.taken += len(s.world.taken[id])
	}
	s.mu.Unlock()
	for _, p := range s.nodes {
		if !s.hasLease(p.name) {
			s.t.Errorf("seed %d: %s has no lease", s.seed, p.name)
		}
		if n := p.Others(); n != len(s.nodes)-1 {
			s.t.Errorf("seed %d: %s knows %d others", s.seed, p.name, n)
		}
		if err := p.Err(); err != nil {
			s.t.Errorf("seed %d: %s: %v", s.seed, p.name, err)
		}
		for _, m := range p.Members() {
			if m.State != cluster.StateUp {
				s.t.Errorf("seed %d: for %s %s is %s", s.seed, p.name, m.Node, m.State)
			}
		}
	}
}
