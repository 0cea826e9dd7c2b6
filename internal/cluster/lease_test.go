package cluster_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/cluster"
)

func TestALeaseIsThereWhenStartReturnsAndGoneAfterClose(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		if !w.hasLease("a") {
			t.Error("Start returned without a lease")
		}
		a.close()
		if w.hasLease("a") {
			t.Error("the lease outlived Close")
		}
		if err := a.Start(t.Context()); err == nil {
			t.Error("what is closed could be started")
		}
	})
}

func TestStartWaitsALeaseAtMostForAStoreThatDoesNotAnswer(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			w.setDown(true)
			begun := time.Now()
			a := w.start("a", func(p *process, _ *cluster.Options) { p.hangs = hangs })
			if took := time.Since(begun); took > lease {
				t.Errorf("Start took %v", took)
			}
			w.setDown(false)
			time.Sleep(lease)
			if !w.hasLease("a") {
				t.Error("the lease was not written when the store was back")
			}
			if n := a.verifications(begun); n > 0 {
				t.Errorf("verified %d times although no lease was lost", n)
			}
		})
	}
}

func TestAStoreThatDoesNotAnswerCostsNobodyTheLease(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			all := w.startAll("a", "b", "c")
			for _, p := range all {
				p.set(func() { p.hangs = hangs })
				p.mark("job-of-" + p.name)
			}
			time.Sleep(2 * lease)
			w.setDown(true)
			time.Sleep(10 * lease)
			for _, p := range all {
				if n := p.Others(); n != 2 {
					t.Errorf("without a majority %s knows %d others; gossip goes on", p.name, n)
				}
			}
			w.setDown(false)
			time.Sleep(10 * lease)
			for _, p := range all {
				if n := p.verifications(time.Time{}); n > 0 {
					t.Errorf("%s verified %d times", p.name, n)
				}
				if n := strings.Count(strings.Join(p.logs.all(), ""), `"level":"warn"`); n != 1 {
					t.Errorf("%s warned %d times of one outage", p.name, n)
				}
				if n := len(w.takings("job-of-" + p.name)); n > 0 {
					t.Errorf("the job of %s was taken over %d times", p.name, n)
				}
			}
		})
	}
}

func TestAWriteWhoseAnswerIsLostIsNotALostLease(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.start("b")
		a.mark("job")
		for range 5 {
			time.Sleep(2 * lease)
			a.set(func() { a.loses = true })
		}
		time.Sleep(2 * lease)
		if n := a.verifications(time.Time{}); n > 0 {
			t.Errorf("verified %d times", n)
		}
		if !w.hasLease("a") || len(w.takings("job")) > 0 {
			t.Error("the node was taken for gone")
		}
	})
}

func TestANodeThatWasStoppedVerifiesAndHasALeaseAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		a := all[0]
		a.mark("job")
		time.Sleep(2 * lease)
		a.stop()
		time.Sleep(3 * lease)
		if w.hasLease("a") {
			t.Error("nobody removed the lease of the node that was stopped")
		}
		if n := len(w.takings("job")); n != 1 {
			t.Errorf("its job was taken over %d times", n)
		}
		a.mark("untaken") // nobody has found this one
		woken := time.Now()
		a.set(func() { a.verifyErr = errStore })
		a.resume()
		time.Sleep(lease)
		if !w.hasLease("a") {
			t.Error("the node that woke has no lease")
		}
		failed := a.verifications(woken)
		if failed < 2 {
			t.Errorf("a Verify that failed was called %d times", failed)
		}
		a.set(func() { a.verifyErr = nil })
		time.Sleep(lease)
		settled := time.Now()
		time.Sleep(10 * lease)
		if n := a.verifications(settled); n > 0 {
			t.Errorf("verified %d times more after it had worked", n)
		}
		if n := len(w.takings("untaken")); n > 0 {
			t.Error("what nobody took meanwhile is still its own, but was taken")
		}
	})
}

func TestAShortStopIsNobodysBusiness(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.startAll("b", "c")
		a.mark("job")
		for range 10 {
			time.Sleep(lease)
			a.stop()
			time.Sleep(lease * 3 / 5)
			a.resume()
		}
		time.Sleep(lease)
		if n := a.verifications(time.Time{}); n > 0 || len(w.takings("job")) > 0 {
			t.Errorf("verified %d times, taken over %d times", n, len(w.takings("job")))
		}
	})
}

func TestANodeThatWasStoppedVerifiesThoughItHasItsLease(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		time.Sleep(2 * lease)
		a.stop()
		time.Sleep(2 * lease)
		a.resume()
		time.Sleep(2 * lease)
		if n := a.verifications(time.Time{}); n != 1 {
			t.Errorf("verified %d times", n)
		}
	})
}

func TestANodeThatWokeHasALeaseSoonThoughACopyShowsItsOldOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a")
		w.startAll("b", "c")
		time.Sleep(2 * lease)
		a.stop()
		time.Sleep(2 * lease)
		a.set(func() { a.lag = 2 * lease })
		a.resume()
		time.Sleep(lease / 2)
		if !w.hasLease("a") {
			t.Error("the node that woke has no lease")
		}
	})
}

func TestALostLeaseIsNoticedThoughTheStoreDoesNotSaySo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start("a", func(p *process, _ *cluster.Options) { p.mute = true })
		w.startAll("b", "c")
		time.Sleep(2 * lease)
		a.stop()
		time.Sleep(2 * lease)
		a.resume()
		woken := time.Now()
		time.Sleep(lease * 3 / 5)
		if !w.hasLease("a") || a.verifications(woken) == 0 {
			t.Error("the node that woke did not notice that it lost its lease")
		}
	})
}

func TestASuspendedMachineVerifiesThoughItsClockStoodStill(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var suspended time.Duration
		w.start("a")
		b := w.start("b", func(p *process, _ *cluster.Options) {
			p.clocks = func() (monotonic, wall time.Time) {
				w.mu.Lock()
				defer w.mu.Unlock()
				now := time.Now()
				return now, now.Round(0).Add(suspended)
			}
		})
		time.Sleep(2 * lease)
		if n := b.verifications(time.Time{}); n > 0 {
			t.Errorf("verified %d times without a cause", n)
		}
		b.set(func() { suspended = time.Hour })
		time.Sleep(2 * lease)
		if n := b.verifications(time.Time{}); n != 1 {
			t.Errorf("verified %d times after a suspension", n)
		}
	})
}

func TestOfTwoProcessesWithOneNameTheNewerStays(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("b")
		old := w.start("a")
		time.Sleep(2 * lease)
		young := w.start("a")
		young.mark("job")
		time.Sleep(lease)
		for _, p := range []*process{old, young} {
			if err := p.Err(); !errors.Is(err, cluster.ErrNotAlone) || !strings.Contains(err.Error(), "--node-name") {
				t.Errorf("process %d says %v", p.epoch, err)
			}
			said := 0
			for _, line := range p.logs.all() {
				if strings.Contains(line, `"level":"error"`) && strings.Contains(line, "--node-name") {
					said++
				}
			}
			if said == 0 || said > 2 {
				t.Errorf("process %d logged %d errors that say what to do", p.epoch, said)
			}
		}
		if n := old.verifications(time.Time{}); n == 0 {
			t.Error("the older process did not verify")
		}
		before := young.verifications(time.Time{})
		time.Sleep(20 * lease)
		if n := young.verifications(time.Time{}); n != before {
			t.Error("the newer process lost its lease to the older one")
		}
		if len(w.takings("job")) > 0 {
			t.Error("the newer process lost its job")
		}

		young.close()
		time.Sleep(2 * lease)
		if err := old.Err(); err != nil {
			t.Errorf("alone again, the older process says %v", err)
		}
		if !w.hasLease("a") {
			t.Error("alone again, the older process has no lease")
		}
	})
}

func TestTheOlderProcessReturnsWhenTheNewerOneDies(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		old := w.start("a")
		time.Sleep(lease)
		young := w.start("a")
		time.Sleep(2 * lease)
		young.kill()
		time.Sleep(3 * lease)
		if err := old.Err(); err != nil {
			t.Errorf("alone again, the older process says %v", err)
		}
		time.Sleep(lease)
		if n := w.start("b"); n.Others() > 1 {
			t.Error("a node counts twice")
		}
	})
}

func TestARestartIsNoTwin(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		old := w.start("a")
		time.Sleep(lease)
		old.kill()
		young := w.start("a")
		time.Sleep(2 * lease)
		if err := young.Err(); err != nil {
			t.Error(err)
		}
		for _, line := range young.logs.all() {
			t.Errorf("a restart logs %s", line)
		}
	})
}

func TestLeavingIsSeenAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		time.Sleep(lease)
		begun := time.Now()
		if err := all[0].Leave(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > small {
			t.Errorf("Leave took %v", took)
		}
		synctest.Wait()
		if n := all[1].Others(); n != 1 {
			t.Errorf("%d others are up for b", n)
		}
		for _, m := range all[1].Members() {
			if want := map[bool]cluster.State{true: cluster.StateLeaving, false: cluster.StateUp}[m.Node == "a"]; m.State != want {
				t.Errorf("%s is %s", m.Node, m.State)
			}
		}
		all[0].close()
		time.Sleep(lease)
		if n := len(all[1].Members()); n != 2 {
			t.Errorf("%d members are left: %+v", n, all[1].Members())
		}
	})
}

func TestLeavingWithoutAStoreIsBounded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b")
		for _, p := range all {
			p.set(func() { p.hangs = true })
		}
		time.Sleep(lease)
		w.setDown(true)
		time.Sleep(lease)
		begun := time.Now()
		if err := all[0].Leave(t.Context()); err != nil {
			t.Errorf("the others heard it: %v", err)
		}
		if n := all[1].Others(); n != 0 {
			t.Errorf("%d others are up for b", n)
		}
		all[0].close()
		if took := time.Since(begun); took > lease {
			t.Errorf("leaving took %v", took)
		}
	})
}
