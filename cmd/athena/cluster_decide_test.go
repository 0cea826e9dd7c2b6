//go:build unix

package main

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// A fault is what happens to nodes, and when.
type fault struct {
	kind faultKind
	// node is whom it happens to; peer is the other node of faultApart.
	node, peer int
	// after is how long after the fault before it begins: after that one has
	// healed, or, where this overlaps, has begun.
	after    time.Duration
	overlaps bool
	// settles waits first until the cluster is whole again.
	settles bool
	// lasts is how long it is until it heals; a node that was killed or asked to
	// end is started again then.
	lasts time.Duration
}

// A faultKind is a way to hurt nodes.
type faultKind uint8

const (
	faultKill    faultKind = iota // kill -9
	faultPause                    // SIGSTOP, and SIGCONT later
	faultRestart                  // SIGTERM
	faultRolling                  // SIGTERM, one node after the other
	faultCut                      // no routes to the others
	faultStall                    // routes through which nothing comes for a while
	faultApart                    // no route between two nodes
	faultKinds                    // how many there are
)

func (k faultKind) String() string {
	return []string{"kill", "pause", "restart", "rolling restart", "cut", "stall", "cut between two"}[k]
}

// nextFault decides on a fault of a cluster of three. It draws the same numbers
// whatever comes out. Of each seven faults every one is another kind.
func nextFault(r *rand.Rand, number int, previous *fault, kinds []faultKind) (f fault, _ []faultKind) {
	if len(kinds) == 0 {
		for k := range faultKinds {
			kinds = append(kinds, k)
		}
	}
	pick := r.Uint64() % uint64(len(kinds))
	f.kind = kinds[pick]
	rest := make([]faultKind, 0, len(kinds))
	rest = append(append(rest, kinds[:pick]...), kinds[pick+1:]...)
	f.node = r.IntN(3)
	f.peer = (f.node + 1 + r.IntN(2)) % 3
	f.overlaps = r.IntN(3) == 0 && number > 0
	f.settles = r.IntN(3) == 0
	f.after = time.Duration(50+r.IntN(600)) * time.Millisecond
	short, long := time.Duration(r.IntN(1200))*time.Millisecond, time.Duration(1000+r.IntN(4000))*time.Millisecond
	switch f.kind {
	case faultKill, faultRestart, faultRolling:
		f.lasts = short
	case faultPause:
		f.lasts = long
		if r.IntN(4) == 0 {
			f.lasts += 3 * time.Second
		}
	default:
		f.lasts = long
	}
	if previous == nil || previous.overlaps || previous.kind == faultRolling || f.kind == faultRolling {
		f.overlaps = false
	}
	if !f.overlaps {
		return f, rest
	}
	// Two nodes are gone for a moment only.
	f.lasts = min(f.lasts, 1500*time.Millisecond)
	if f.node == previous.node {
		f.node = (f.node + 1) % 3
		f.peer = (f.node + 1 + f.peer%2) % 3
	}
	return f, rest
}

func TestASeedRepeatsEveryFaultOfTheTorture(t *testing.T) {
	decide := func(seed uint64) (faults []fault) {
		r := decisions(seed, decidesFaults, 0)
		var kinds []faultKind
		var previous *fault
		for number := range 70 {
			var f fault
			f, kinds = nextFault(r, number, previous, kinds)
			faults = append(faults, f)
			previous = &faults[number]
		}
		return faults
	}
	first := decide(7)
	if !reflect.DeepEqual(first, decide(7)) {
		t.Error("the same seed led to other faults")
	}
	if reflect.DeepEqual(first, decide(8)) {
		t.Error("another seed led to the same faults")
	}
	var kinds [faultKinds]int
	overlapping := 0
	for i, f := range first {
		kinds[f.kind]++
		if f.node == f.peer {
			t.Errorf("fault %d is between a node and itself", i)
		}
		if f.overlaps {
			overlapping++
			if before := first[i-1]; before.overlaps || before.node == f.node || f.lasts > 2*time.Second {
				t.Errorf("fault %d overlaps %+v too much: %+v", i, before, f)
			}
		}
	}
	for k, n := range kinds {
		if n != 10 {
			t.Errorf("%s comes %d times in 70", faultKind(k), n)
		}
	}
	if overlapping < 5 {
		t.Errorf("only %d faults overlap", overlapping)
	}
}
