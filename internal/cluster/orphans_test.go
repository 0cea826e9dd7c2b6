package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/cluster"
)

func TestARecordOfAnUnknownNodeIsLeftAloneForALease(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		time.Sleep(2 * lease)
		all[2].close()
		time.Sleep(lease)
		w.mu.Lock()
		w.put("never", "nobody", 7)
		w.put("late", "c", w.epochs+1) // this node's lease comes late
		w.mu.Unlock()
		found := time.Now()
		all[0].Look()
		time.Sleep(lease * 4 / 5)
		if len(w.takings("never"))+len(w.takings("late")) > 0 {
			t.Error("taken over before a lease had passed")
		}
		w.start("c")
		time.Sleep(3 * lease)
		wantTaken(t, w, "never", cluster.ReasonOwnerLost, found, 2*lease)
		if len(w.takings("late")) > 0 {
			t.Error("a node's stream was taken over since its lease came late")
		}
	})
}

func TestARecordOfANodeThatNeverWasIsTakenOverAfterALease(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startAll("a", "b")
		time.Sleep(2 * lease)
		w.mu.Lock()
		w.put("never", "nobody", 7)
		w.mu.Unlock()
		time.Sleep(8 * lease) // somebody has made his round
		if n := len(w.takings("never")); n != 1 {
			t.Errorf("taken over %d times", n)
		}
		w.mu.Lock()
		w.put("another", "nobody", 8)
		w.mu.Unlock()
		made := time.Now()
		w.processes[0].Look()
		time.Sleep(2 * lease)
		wantTaken(t, w, "another", cluster.ReasonOwnerLost, made, lease*3/2)
	})
}

func TestAStreamThatANodeBeginsRightAfterItWokeIsItsOwn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		for i := range 20 {
			id := fmt.Sprint("job", i)
			time.Sleep(2 * lease)
			all[0].stop()
			time.Sleep(3*lease + time.Duration(i)*lease/100)
			all[0].resume()
			for !w.hasLease("a") {
				time.Sleep(time.Millisecond)
			}
			all[0].mark(id)
			all[0].Look()
			time.Sleep(lease)
			if len(w.takings(id)) > 0 {
				t.Errorf("%s was taken over", id)
			}
			w.mu.Lock()
			delete(w.running, id)
			w.mu.Unlock()
		}
	})
}

func TestANewNodesFirstStreamIsItsOwn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startAll("a", "b")
		time.Sleep(2 * lease)
		for i := range 20 {
			c := w.start("c") // again and again
			c.mark(fmt.Sprint("job", i))
			c.Look()
			time.Sleep(lease / 3)
			w.mu.Lock()
			delete(w.running, fmt.Sprint("job", i))
			w.mu.Unlock()
			if i%2 == 0 {
				c.close()
			} else {
				c.kill()
			}
		}
		for i := range 20 {
			if len(w.takings(fmt.Sprint("job", i))) > 0 {
				t.Errorf("job %d was taken from a living node", i)
			}
		}
	})
}

func TestACopyOfTheStoreThatLagsProvesNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		for _, p := range all {
			p.set(func() { p.lag = 3 * lease })
			p.mark("of-" + p.name)
		}
		time.Sleep(20 * lease)
		for _, p := range all {
			if len(w.takings("of-"+p.name)) > 0 || p.verifications(time.Time{}) > 0 {
				t.Errorf("%s was taken for gone, by what a copy said that lags", p.name)
			}
		}
		died := time.Now()
		all[0].kill()
		all[1].set(func() { all[1].lag = 0 })
		time.Sleep(5 * lease)
		wantTaken(t, w, "of-a", cluster.ReasonOwnerLost, died, 2*soon)
	})
}

func TestACopyOfTheStoreThatLagsHidesAnOrphanNotForLongAndStartsNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		time.Sleep(2 * lease)
		for _, p := range all {
			p.set(func() { p.runLag = lease / 5 })
		}
		all[0].mark("job")
		time.Sleep(lease)
		w.mu.Lock()
		w.put("job", "", 1)
		w.mu.Unlock()
		made := time.Now()
		all[0].Look()
		time.Sleep(3 * lease)
		wantTaken(t, w, "job", cluster.ReasonDraining, made, lease/5+small)
		if n := w.takeOverCalls(); n != 1 {
			t.Errorf("TakeOver was called %d times", n)
		}
	})
}

func TestOrphansThatNobodySpokeOfAreFoundInTheEnd(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startAll("a", "b")
		time.Sleep(3 * lease)
		w.mu.Lock()
		w.put("job", "", 1)
		w.running["broken"] = w.running["job"]
		broken := w.running["broken"]
		broken.Value = []byte("{")
		w.running["broken"] = broken
		w.mu.Unlock()
		made := time.Now()
		time.Sleep(10 * lease)
		wantTaken(t, w, "job", cluster.ReasonDraining, made, 8*lease)
	})
}

func TestANodeThatWokeDoesNotActOnWhatItKnewBefore(t *testing.T) {
	for i := range 10 {
		inWorld(t, func(t *testing.T, w *world) {
			all := w.startAll("a", "b")
			a, b := all[0], all[1]
			b.set(func() { b.slow = time.Second })
			for i := range 200 {
				a.mark(fmt.Sprint("job", i))
			}
			time.Sleep(2 * lease)
			a.stop()
			for w.takeOverCalls() == 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(lease*3/5 + time.Duration(i)*lease/50)
			b.stop() // in the middle of it
			a.resume()
			time.Sleep(4 * lease)
			woken := time.Now()
			b.resume()
			time.Sleep(5 * lease)
			taken := 0
			for i := range 200 {
				for _, taking := range w.takings(fmt.Sprint("job", i)) {
					if taking.by == b && !taking.at.Before(woken) {
						taken++
					}
				}
			}
			if taken > cluster.DefaultTakeOvers { // calls that were under way
				t.Errorf("%d jobs were taken from an owner that is back", taken)
			}
		})
	}
}

func TestAnOwnerThatIsBackKeepsWhatNobodyHasTaken(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		all[0].mark("job")
		for _, p := range all[1:] {
			p.set(func() { p.takeErr = errStore })
		}
		time.Sleep(2 * lease)
		all[0].stop()
		time.Sleep(3 * lease)
		if w.takeOverCalls() == 0 {
			t.Error("nobody tried")
		}
		all[0].resume()
		time.Sleep(lease / 2)
		for _, p := range all[1:] {
			p.set(func() { p.takeErr = nil })
		}
		time.Sleep(10 * lease)
		if len(w.takings("job")) > 0 {
			t.Error("the stream was taken from an owner that is back")
		}
	})
}

func TestRanksAreTheSameForEveryoneAndMoveLittle(t *testing.T) {
	nodes := []string{"a", "b", "c", "d"}
	without := func(node string) (others []string) {
		for _, n := range nodes {
			if n != node {
				others = append(others, n)
			}
		}
		return others
	}
	first := map[string]int{}
	for i := range 1000 {
		id := fmt.Sprint("stream", i)
		ranks := map[int]string{}
		for _, n := range nodes {
			ranks[cluster.Rank(id, n, without(n))] = n
		}
		if len(ranks) != len(nodes) {
			t.Fatalf("ranks of %s: %v", id, ranks)
		}
		first[ranks[0]]++
		if ranks[0] != "d" && cluster.Rank(id, ranks[0], without(ranks[0])[:2]) != 0 {
			t.Errorf("%s moved although its node stayed", id)
		}
	}
	for _, n := range nodes {
		if first[n] < 200 || first[n] > 300 {
			t.Errorf("%s comes first for %d of 1000", n, first[n])
		}
	}
}
