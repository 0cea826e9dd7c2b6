package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/cluster"
)

// soon is when, after the death of a node, its streams must be taken over.
const soon = lease + 2*lease/5 + small

// wantTaken checks that a stream was taken over once.
func wantTaken(t *testing.T, w *world, id, reason string, since time.Time, within time.Duration) {
	t.Helper()
	all := w.takings(id)
	if len(all) != 1 {
		t.Errorf("%s was taken over %d times", id, len(all))
		return
	}
	if took := all[0].at.Sub(since); took > within {
		t.Errorf("%s was taken over after %v", id, took)
	}
	if all[0].reason != reason {
		t.Errorf("%s was taken over for %s", id, all[0].reason)
	}
}

func TestADeadNodesStreamsAreTakenOverOnceAndInTime(t *testing.T) {
	for nodes := 2; nodes <= 5; nodes++ { // two as with a store of NATS's own
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				var all []*process
				for _, name := range []string{"a", "b", "c", "d", "e"}[:nodes] {
					all = append(all, w.start(name))
					time.Sleep(lease / 20) // they don't beat together
				}
				for _, p := range all {
					p.set(func() { p.lag = 60 * time.Millisecond }) // what is usual
				}
				time.Sleep(2 * lease)
				for i := range 100 {
					all[0].mark(fmt.Sprint("job", i))
					all[1].mark(fmt.Sprint("other", i))
				}
				died := time.Now()
				all[0].kill()
				time.Sleep(3 * lease)
				by := map[string]int{}
				for i := range 100 {
					wantTaken(t, w, fmt.Sprint("job", i), cluster.ReasonOwnerLost, died, soon)
					wantTaken(t, w, fmt.Sprint("job", i), cluster.ReasonOwnerLost, w.removed["a"], small)
					for _, taking := range w.takings(fmt.Sprint("job", i)) {
						by[taking.by.name]++
					}
					if len(w.takings(fmt.Sprint("other", i))) > 0 {
						t.Error("a living node's stream was taken over")
					}
				}
				if n := w.takeOverCalls(); n != 100 {
					t.Errorf("TakeOver was called %d times for 100 streams", n)
				}
				for _, p := range all[1:] {
					if by[p.name] < 50/(nodes-1) {
						t.Errorf("%s took over %d of 100", p.name, by[p.name])
					}
				}
				for _, m := range all[1].Members() {
					if want := map[bool]cluster.State{true: cluster.StateGone, false: cluster.StateUp}[m.Node == "a"]; m.State != want {
						t.Errorf("%s is %s", m.Node, m.State)
					}
				}
				time.Sleep(20 * lease)
				if n := len(all[1].Members()); n != nodes-1 {
					t.Errorf("%d members are left in the end", n)
				}
			})
		})
	}
}

func TestANodeThatMayBeDeadTooIsNotWaitedFor(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c", "d", "e")
		time.Sleep(2 * lease)
		for i := range 50 {
			all[0].mark(fmt.Sprint("a", i))
			all[1].mark(fmt.Sprint("b", i))
		}
		died := time.Now()
		all[0].kill()
		time.Sleep(lease / 5)
		all[1].kill()
		time.Sleep(3 * lease)
		for i := range 50 {
			wantTaken(t, w, fmt.Sprint("a", i), cluster.ReasonOwnerLost, died, soon)
			wantTaken(t, w, fmt.Sprint("b", i), cluster.ReasonOwnerLost, died, lease/5+soon)
			wantTaken(t, w, fmt.Sprint("a", i), cluster.ReasonOwnerLost, w.removed["a"], small)
			wantTaken(t, w, fmt.Sprint("b", i), cluster.ReasonOwnerLost, w.removed["b"], small)
		}
	})
}

func TestWhenTheStoresLeaderDiesTooTheElectionIsMostOfTheWait(t *testing.T) {
	for _, election := range []time.Duration{3 * time.Second, 5 * time.Second, 8 * time.Second} {
		inWorld(t, func(t *testing.T, w *world) {
			all := w.startAll("a", "b", "c")
			time.Sleep(3 * lease)
			all[0].mark("job")
			all[1].mark("other")
			died := time.Now()
			all[0].kill()
			w.setDown(true)
			time.Sleep(election)
			w.mu.Lock()
			last := w.leases["a"] // what it wrote last, the next leader keeps
			w.revision++
			last.Revision = w.revision
			w.leases["a"] = last
			w.mu.Unlock()
			w.setDown(false)
			time.Sleep(3 * lease)
			wantTaken(t, w, "job", cluster.ReasonOwnerLost, died, max(soon, election+lease/5)+small)
			if len(w.takings("other")) > 0 {
				t.Error("a living node's stream was taken over")
			}
		})
	}
}

func TestAfterTheStoreWasAwayANodeMayBeBackLaterThanTheOthers(t *testing.T) {
	for name, c := range map[string]struct {
		unheard int           // so many others don't hear the node
		alone   bool          // nobody hears anybody
		later   time.Duration // than the store is back
	}{
		"it is heard":                            {later: lease * 4 / 5},
		"one other hears it":                     {unheard: 1, later: lease * 4 / 5},
		"the network was away":                   {unheard: 2, alone: true, later: lease * 4 / 5},
		"it is not heard but back at once":       {unheard: 2, later: lease / 20},
		"it is back at once, with the whole net": {unheard: 2, alone: true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				all := w.startAll("a", "b", "c")
				time.Sleep(3*lease + lease/10) // b and c have seen a's newest lease
				a, others := all[:1], all[1:]
				a[0].mark("job")
				w.part(true, a, others[:c.unheard])
				w.part(c.alone, all[1:2], all[2:])
				w.setDown(true)
				time.Sleep(3 * lease)
				a[0].set(func() { a[0].storeCut = true })
				w.setDown(false)
				w.part(false, all[1:2], all[2:])
				time.Sleep(c.later)
				a[0].set(func() { a[0].storeCut = false })
				w.part(false, a, others)
				time.Sleep(5 * lease)
				if len(w.takings("job")) > 0 || !w.removed["a"].IsZero() {
					t.Error("the node that was back last was taken for gone")
				}
			})
		})
	}
}

func TestAStoreThatLostAllLeasesCostsNobodyItsStreams(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		for _, p := range all {
			p.mark("of-" + p.name)
		}
		time.Sleep(3 * lease)
		w.mu.Lock()
		clear(w.leases)
		w.mu.Unlock()
		time.Sleep(10 * lease)
		for _, p := range all {
			if len(w.takings("of-"+p.name)) > 0 || !w.hasLease(p.name) || p.verifications(time.Time{}) != 1 {
				t.Errorf("%s: %d takeovers, %d verifications", p.name, len(w.takings("of-"+p.name)), p.verifications(time.Time{}))
			}
		}
	})
}

func TestMachinesThatWereSuspendedTogetherNeedNotWakeTogether(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		// The clock of b and c that shows waking time shows nothing of it.
		var suspended time.Duration
		suspends := func(p *process, _ *cluster.Options) {
			p.clocks = func() (monotonic, wall time.Time) {
				w.mu.Lock()
				defer w.mu.Unlock()
				now := time.Now()
				return now, now.Round(0).Add(suspended)
			}
		}
		a := w.start("a")
		w.start("b", suspends)
		w.start("c", suspends)
		a.mark("job")
		time.Sleep(2*lease + lease/10)
		a.stop()
		time.Sleep(lease / 5)
		a.set(func() { suspended = time.Hour })
		time.Sleep(lease * 9 / 10)
		a.resume()
		time.Sleep(5 * lease)
		if len(w.takings("job")) > 0 || !w.removed["a"].IsZero() {
			t.Error("the machine that woke last was taken for gone")
		}
	})
}

func TestTheSideWithoutTheStoreJudgesNobodyAndIsTakenOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		time.Sleep(3 * lease)
		for _, p := range all {
			p.mark("of-" + p.name)
		}
		cut := time.Now()
		all[0].set(func() { all[0].storeCut = true })
		w.part(true, all[:1], all[1:])
		time.Sleep(4 * lease)
		wantTaken(t, w, "of-a", cluster.ReasonOwnerLost, cut, soon)
		if n := all[0].Others(); n != 0 {
			t.Errorf("the node that is cut off knows %d others", n)
		}
		if n := all[0].verifications(time.Time{}); n > 0 {
			t.Error("a lease that can't be renewed is not lost")
		}
		healed := time.Now()
		all[0].set(func() { all[0].storeCut = false })
		w.part(false, all[:1], all[1:])
		time.Sleep(2 * lease)
		if n := all[0].verifications(healed); n == 0 {
			t.Error("the node found its lease gone, and did not verify")
		}
		time.Sleep(5 * lease)
		if len(w.takings("of-b"))+len(w.takings("of-c")) > 0 {
			t.Error("the side with the store lost its streams")
		}
	})
}

func TestAHandedOverStreamIsTakenOverAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		time.Sleep(2 * lease)
		if err := all[0].Leave(t.Context()); err != nil {
			t.Error(err)
		}
		for i := range 20 {
			all[0].mark(fmt.Sprint("kept", i))
			w.mu.Lock()
			w.put(fmt.Sprint("job", i), "", all[0].epoch)
			w.mu.Unlock()
		}
		begun := time.Now()
		all[0].Look()
		time.Sleep(2 * lease)
		for i := range 20 {
			wantTaken(t, w, fmt.Sprint("job", i), cluster.ReasonDraining, begun, small)
			for _, taking := range w.takings(fmt.Sprint("job", i)) {
				if taking.by == all[0] {
					t.Error("the node that leaves took it back")
				}
			}
			if len(w.takings(fmt.Sprint("kept", i))) > 0 {
				t.Error("what a leaving node still runs was taken over")
			}
		}
		left := time.Now()
		all[0].close()
		time.Sleep(lease)
		for i := range 20 {
			wantTaken(t, w, fmt.Sprint("kept", i), cluster.ReasonOwnerLost, left, lease/5+small)
		}
	})
}

func TestANodeThatDrainsTakesNothingOver(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		all[1].set(func() { all[1].facts.Draining = true })
		time.Sleep(2 * lease)
		for i := range 20 {
			all[0].mark(fmt.Sprint("job", i))
		}
		died := time.Now()
		all[0].kill()
		time.Sleep(3 * lease)
		for i := range 20 {
			wantTaken(t, w, fmt.Sprint("job", i), cluster.ReasonOwnerLost, died, soon)
		}
		if up := all[2].Up(); len(up) != 0 {
			t.Errorf("work would be given to %v", up)
		}
	})
}

func TestWhatAnOlderProcessOfANodeRanIsTakenOverAtOnce(t *testing.T) {
	for _, others := range []int{0, 2} {
		inWorld(t, func(t *testing.T, w *world) {
			a := w.start("a")
			w.startAll([]string{"b", "c"}[:others]...)
			time.Sleep(2 * lease)
			for i := range 20 {
				a.mark(fmt.Sprint("job", i))
			}
			a.kill()
			started := time.Now()
			w.start("a")
			time.Sleep(2 * lease)
			for i := range 20 {
				wantTaken(t, w, fmt.Sprint("job", i), cluster.ReasonOwnerLost, started, lease/2)
			}
		})
	}
}

func TestAllNodesRestartedTogetherTakeOverWhatRanBefore(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, p := range w.startAll("a", "b", "gone-for-good") {
			p.mark("of-" + p.name)
			defer p.kill()
			p.kill()
		}
		started := time.Now()
		w.startAll("a", "b")
		time.Sleep(3 * lease)
		for _, name := range []string{"a", "b", "gone-for-good"} {
			wantTaken(t, w, "of-"+name, cluster.ReasonOwnerLost, started, soon+lease/5)
		}
	})
}

func TestATakeoverThatFailsIsTriedAgainAndByTheNextNodeToo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		time.Sleep(2 * lease)
		for i := range 20 {
			all[0].mark(fmt.Sprint("job", i))
		}
		died := time.Now()
		all[0].kill()
		all[1].set(func() { all[1].takeErr = errStore })
		time.Sleep(3 * lease)
		for i := range 20 { // the ones that b was to take wait for a rank
			wantTaken(t, w, fmt.Sprint("job", i), cluster.ReasonOwnerLost, died, soon+lease/4)
		}

		all[2].set(func() { all[2].takeErr = errStore })
		w.mu.Lock()
		w.put("late", "", 1)
		w.mu.Unlock()
		all[1].Look()
		before := w.takeOverCalls()
		time.Sleep(5 * lease)
		if n := w.takeOverCalls() - before; n > 20 {
			t.Errorf("two nodes tried %d times in %v", n, 5*lease)
		}
		back := time.Now()
		all[2].set(func() { all[2].takeErr = nil })
		time.Sleep(3 * lease)
		wantTaken(t, w, "late", cluster.ReasonDraining, back, lease*3/2)
	})
}
