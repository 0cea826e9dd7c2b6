package hub

import "sync"

// A readyQueue holds the sessions that have something to write and no writer
// yet, for a few workers that never wait for a client. It is what lets an
// append neither write nor wait, and it costs less than a goroutine for each
// wake-up: a goroutine of its own begins with a small stack, which writing
// outgrows, so that each message paid for a copy of it (measured with a
// thousand streams of one SSE client each: 0.9 of 11.5 µs per message).
type readyQueue struct {
	mu      sync.Mutex
	came    sync.Cond  // mu; a worker is wanted
	waiting []*session // guarded by mu, as all below; those before next were taken
	next    int
	workers int // all of them
	idle    int // those that wait for came and were not called
	closed  bool
}

// perWorker is how many sessions may wait for each worker that is awake before
// another one is woken. A message takes a worker about 5 µs, waking one as long.
const perWorker = 4

func newReadyQueue(workers int) *readyQueue {
	q := &readyQueue{workers: workers}
	q.came.L = &q.mu
	return q
}

// add takes sessions that the caller has claimed.
func (q *readyQueue) add(claimed ...*session) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, claimed...)
	for n := len(q.waiting) - q.next; q.idle > 0 && (q.workers-q.idle)*perWorker < n; q.idle-- {
		q.came.Signal()
	}
}

// take moves the sessions that have waited longest to the end of buf: a
// worker's share of what waits, and none where nothing does.
func (q *readyQueue) take(buf []*session) []*session {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.takeLocked(buf)
}

const (
	// maxShare bounds what a worker takes at once: few enough that the
	// processors share the work, and many enough that the lock doesn't count.
	maxShare = 32
	// maxQueue bounds the memory that is kept while nothing waits.
	maxQueue = 4096
)

func (q *readyQueue) takeLocked(buf []*session) []*session {
	n := len(q.waiting) - q.next
	share := q.waiting[q.next:][:min(n, max(1, n/q.workers), maxShare)]
	buf = append(buf, share...)
	clear(share)
	if q.next += len(share); q.next == len(q.waiting) {
		q.waiting, q.next = q.waiting[:0], 0
		if cap(q.waiting) > maxQueue {
			q.waiting = nil
		}
	}
	return buf
}

// wait is take, but waits for something. It returns nothing more than buf only
// when the queue is closed and empty.
func (q *readyQueue) wait(buf []*session) []*session {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.next == len(q.waiting) && !q.closed {
		q.idle++ // whoever calls takes it back
		q.came.Wait()
	}
	return q.takeLocked(buf)
}

// close lets the workers return once nothing waits. Nothing may be added
// afterwards.
func (q *readyQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.came.Broadcast()
}

// serveReady is one worker. A session that has to be waited for gets a
// goroutine of its own.
func (h *Hub) serveReady() {
	var share []*session
	for {
		if share = h.ready.wait(share[:0]); len(share) == 0 {
			return
		}
		sc := scratches.Get().(*scratch)
		for ; len(share) > 0; share = h.ready.take(share[:0]) {
			for i, s := range share {
				share[i] = nil
				if waits := s.loop(sc, false); waits {
					h.wg.Go(s.run)
				}
			}
		}
		sc.release()
	}
}
