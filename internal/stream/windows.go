package stream

import (
	"context"
	"sync"
	"time"
)

// ticksPerWindow is how finely coalescing windows are told apart: one ends up
// to this part of it late.
const ticksPerWindow = 8

// A windowed has a window that ends. windowOver is called once for each add,
// possibly early.
type windowed interface{ windowOver() }

// windows ends the coalescing windows of a node's writers, all that are due at
// each tick together. A timer for each window would start a goroutine for each
// event, and wake the hub's workers for each; in groups the workers stay awake
// (measured with 500 answers at 50 chunks a second: a tenth of a chunk's CPU).
// While no window is open nothing ticks.
type windows struct {
	// Set by newWindows, then read-only.
	length, tick time.Duration
	start        time.Time
	opened       chan struct{} // the first window has opened

	mu    sync.Mutex
	slots [ticksPerWindow + 2][]windowed // guarded by mu: by tick, modulo their number
	count int                            // guarded by mu: how many are in slots
	done  int64                          // guarded by mu: the last tick that is over
}

func newWindows(length time.Duration) *windows {
	return &windows{length: length, tick: max(length/ticksPerWindow, time.Millisecond), start: time.Now(),
		opened: make(chan struct{}, 1)}
}

// add has w.windowOver called after the wait, which is no longer than a window:
// up to a tick later, or earlier where the loop is late.
func (ws *windows) add(w windowed, wait time.Duration) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	now := time.Since(ws.start) // not before: its slot must not have been emptied yet
	if ws.count == 0 {
		ws.done = int64(now / ws.tick)
		select {
		case ws.opened <- struct{}{}:
		default:
		}
	}
	slot := &ws.slots[((now+wait)/ws.tick+1)%time.Duration(len(ws.slots))]
	*slot = append(*slot, w)
	ws.count++
}

// run calls windowOver of each writer in time, until ctx ends.
func (ws *windows) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var over []windowed
	for {
		wait, open := ws.next()
		if !open {
			select {
			case <-ws.opened:
			case <-ctx.Done():
				return
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		over = ws.take(over[:0])
		for i, w := range over {
			w.windowOver()
			over[i] = nil
		}
	}
}

// next returns how long it is until the next tick, and whether any window is
// open.
func (ws *windows) next() (wait time.Duration, open bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return time.Duration(ws.done+1)*ws.tick - time.Since(ws.start), ws.count > 0
}

// take moves the writers whose ticks have come to the end of over, which is
// empty.
func (ws *windows) take(over []windowed) []windowed {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	now := int64(time.Since(ws.start) / ws.tick)
	for t := max(ws.done+1, now-int64(len(ws.slots))+1); t <= now; t++ {
		slot := &ws.slots[t%int64(len(ws.slots))]
		over = append(over, *slot...)
		clear(*slot)
		*slot = (*slot)[:0]
	}
	ws.count -= len(over)
	ws.done = now
	return over
}
