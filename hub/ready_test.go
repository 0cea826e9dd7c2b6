package hub

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func TestEverySessionThatIsReadyIsTakenOnceAndInOrder(t *testing.T) {
	q := newReadyQueue(1)
	sessions := make([]session, 10)
	for i := range sessions {
		q.add(&sessions[i])
	}
	q.close()
	var got []*session
	for share := q.wait(nil); len(share) > 0; share = q.wait(nil) {
		got = append(got, share...)
	}
	if len(got) != len(sessions) {
		t.Fatalf("%d sessions were taken, want %d", len(got), len(sessions))
	}
	for i := range sessions {
		if got[i] != &sessions[i] {
			t.Errorf("session %d was not taken in its turn", i)
		}
	}
}

func TestNoReadySessionIsForgottenOrServedTwice(t *testing.T) {
	const workers, adders, rounds = 4, 8, 2000
	q := newReadyQueue(workers)
	var taken sync.Map // *session to *atomic.Int32
	var added atomic.Int64
	var serving, adding sync.WaitGroup
	for range workers {
		serving.Go(func() {
			var share []*session
			for {
				if share = q.wait(share[:0]); len(share) == 0 {
					return
				}
				for ; len(share) > 0; share = q.take(share[:0]) {
					if len(share) > maxShare {
						t.Errorf("a worker took %d sessions, want at most %d", len(share), maxShare)
					}
					for _, s := range share {
						n, _ := taken.LoadOrStore(s, new(atomic.Int32))
						n.(*atomic.Int32).Add(1)
					}
				}
			}
		})
	}
	for range adders {
		adding.Go(func() {
			for range rounds {
				group := make([]*session, 1+rand.IntN(3)*rand.IntN(40))
				for i := range group {
					group[i] = new(session)
				}
				added.Add(int64(len(group)))
				q.add(group...)
			}
		})
	}
	adding.Wait()
	q.close()
	serving.Wait()
	n := int64(0)
	taken.Range(func(_, v any) bool {
		if times := v.(*atomic.Int32).Load(); times != 1 {
			t.Errorf("a session was served %d times", times)
		}
		n++
		return true
	})
	if n != added.Load() {
		t.Errorf("%d sessions were served, want %d", n, added.Load())
	}
}

func TestMoreWorkersAreWokenWhenMuchWaits(t *testing.T) {
	q := newReadyQueue(2)
	q.idle = 2
	calls := []struct{ add, idle int }{
		{1, 1},             // the first session needs a worker
		{perWorker - 1, 1}, // which is enough for a few
		{1, 0},             // and not for more
		{maxShare, 0},      // there are no others
	}
	for i, c := range calls {
		q.add(make([]*session, c.add)...)
		if q.idle != c.idle {
			t.Fatalf("after step %d %d workers sleep, want %d", i, q.idle, c.idle)
		}
	}
}

func TestWakingASessionNeedsNoMemory(t *testing.T) {
	q := newReadyQueue(1)
	s, buf := new(session), make([]*session, 0, maxShare)
	if n := testing.AllocsPerRun(100, func() {
		q.add(s)
		if buf = q.take(buf[:0]); len(buf) != 1 {
			t.Fatal("the session was not taken")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
