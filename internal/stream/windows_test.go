package stream

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A window notes when it was over.
type window struct {
	due  time.Time
	over []time.Time
	busy time.Duration
}

func (w *window) windowOver() {
	w.over = append(w.over, time.Now())
	time.Sleep(w.busy) // of the bubble's clock: the work that it makes
}

// inWindows runs f beside the loop.
func inWindows(t *testing.T, length time.Duration, f func(t *testing.T, ws *windows)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ws := newWindows(length)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { ws.run(ctx) })
		f(t, ws)
		cancel()
		running.Wait()
	})
}

func TestEveryWindowEndsOnceAndAtMostATickLate(t *testing.T) {
	const length = 25 * time.Millisecond
	inWindows(t, length, func(t *testing.T, ws *windows) {
		for range 20 { // with pauses in which no window is open
			var all []*window
			for range 200 {
				wait := 1 + rand.N(length)
				w := &window{due: time.Now().Add(wait)}
				all = append(all, w)
				ws.add(w, wait)
				time.Sleep(rand.N(time.Millisecond))
			}
			time.Sleep(2*length + rand.N(time.Hour))
			synctest.Wait()
			for _, w := range all {
				if len(w.over) != 1 {
					t.Fatalf("a window was over %d times", len(w.over))
				}
				if late := w.over[0].Sub(w.due); late < 0 || late > ws.tick {
					t.Errorf("a window was over %v after its time, want 0 to %v", late, ws.tick)
				}
			}
			if _, open := ws.next(); open {
				t.Error("windows are open still")
			}
		}
	})
}

func TestALoopThatIsLateForgetsNoWindow(t *testing.T) {
	const length = 16 * time.Millisecond
	inWindows(t, length, func(t *testing.T, ws *windows) {
		var all []*window
		for i := range 500 {
			w := new(window)
			if i%50 == 0 {
				w.busy = rand.N(5 * length) // the wheel turns more than once
			}
			all = append(all, w)
			ws.add(w, 1+rand.N(length))
			time.Sleep(rand.N(time.Millisecond))
		}
		time.Sleep(100 * length)
		synctest.Wait()
		for i, w := range all {
			if len(w.over) != 1 {
				t.Fatalf("window %d was over %d times", i, len(w.over))
			}
		}
	})
}
