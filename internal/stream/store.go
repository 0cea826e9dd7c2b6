package stream

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

// maxBatchBytes bounds a batch that collected while the store failed.
const maxBatchBytes = 512 << 10

// A logQueue is what a Writer has still to store. Everything is guarded by the
// Writer's mu.
type logQueue struct {
	events  []protocol.Encoded
	bytes   int
	pos     uint64 // of the stream's last stored batch
	batches int    // how many the stream has, at least
	// barred says that the job is not recorded yet, before which nothing is
	// stored: if this process died, nobody would look for a stream that is in the
	// log without an end and in no record.
	barred  bool
	listed  bool // the writer is in the storer's list for the next tick
	urgent  bool // it is in the list for now
	storing bool // a batch is on its way
	retry   time.Duration
	retryAt time.Time // no try before, after one that failed; zero otherwise
	// tried is how many events are in a batch whose storing failed. It may have
	// been stored all the same, which only the very same batch can find out.
	tried int
	// conflicts is how many tries in a row found another batch in the place.
	conflicts int
	// empty, where somebody waits for it, is closed when nothing is left.
	empty chan struct{}
}

// A storer stores what the writers of a node have, in groups: all that have
// something at each tick, and those that can't wait at once. A group costs a
// fraction of what its batches cost one by one (see backbone.StartAppend).
type storer struct {
	kick chan struct{} // urgent is not empty

	mu     sync.Mutex
	due    []*Writer // guarded by mu
	urgent []*Writer // guarded by mu
}

func (st *storer) list(w *Writer, urgent bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !urgent {
		st.due = append(st.due, w)
		return
	}
	st.urgent = append(st.urgent, w)
	select {
	case st.kick <- struct{}{}:
	default:
	}
}

// take returns the writers to look at now.
func (st *storer) take(tick bool) (writers []*Writer) {
	st.mu.Lock()
	defer st.mu.Unlock()
	writers, st.urgent = st.urgent, nil
	if tick {
		writers = append(writers, st.due...)
		st.due = nil
	}
	return writers
}

// storeLoop runs until the node is closed.
func (n *Node) storeLoop() {
	tick := time.NewTicker(n.opts.BatchInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.storeGroup(n.storer.take(true), true)
		case <-n.storer.kick:
			n.storeGroup(n.storer.take(false), false)
		case <-n.ctx.Done():
			return
		}
	}
}

// An onWay is a batch that is being stored.
type onWay struct {
	w      *Writer
	events int
	bytes  int
	last   uint64
	end    bool
	began  time.Time
	wait   func() (pos uint64, err error)
}

// storeGroup sends a batch of each writer that has one, and leaves waiting for
// the answers to a goroutine.
func (n *Node) storeGroup(writers []*Writer, tick bool) {
	if len(writers) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.opts.StoreTimeout)
	var group []onWay
	for _, w := range writers {
		b, bytes, prev, ok := w.nextBatch(tick)
		if !ok {
			continue
		}
		group = append(group, onWay{w: w, events: len(b.Events), bytes: bytes, last: b.Last, end: b.End,
			began: time.Now(), wait: n.bus.StartAppend(ctx, w.id, prev, b)})
	}
	started := len(group) > 0 && n.start(func() {
		defer cancel()
		for i := range group {
			group[i].finish()
		}
	})
	if !started {
		cancel()
	}
}

// finish waits for the answer.
func (o *onWay) finish() {
	w, n := o.w, o.w.node
	pos, err := o.wait()
	switch {
	case errors.Is(err, backbone.ErrConflict):
		n.start(func() { w.conflicted(err) }) // others of the group wait
	case err != nil:
		n.opts.Metrics.StoreFailed()
		if n.ctx.Err() == nil {
			n.opts.Logger.Warn().Err(err).Str("stream", w.id).Int("events", o.events).Msg("storing events failed; it will be tried again")
		}
		w.storeLater()
	default:
		n.opts.Metrics.BatchStored(o.events, o.bytes, time.Since(o.began))
		w.feed.MarkStored(o.last)
		if o.end {
			w.tell()
		}
		// The head after a batch shows a hole at the tail to those who follow.
		// One that is lost is followed by others.
		_ = n.bus.PublishLive(w.id, announcement(o.last))
		w.storedBatch(o.events, o.bytes, pos)
		if o.end {
			n.start(w.finish) // others of the group wait
		}
	}
}

// enqueue takes an event to be stored. w.mu is held.
func (w *Writer) enqueue(e protocol.Encoded) {
	q := &w.log
	q.events = append(q.events, e)
	q.bytes += len(e.JSON)
	w.node.waits(len(e.JSON))
	w.storeSoon(e.Terminal())
}

// storeSoon has the writer stored at the next tick, or at once if it is urgent
// or has much, unless that is under way or a try has just failed. w.mu is held.
func (w *Writer) storeSoon(urgent bool) {
	q := &w.log
	if q.storing || q.barred || len(q.events) == 0 {
		return
	}
	urgent = (urgent || q.bytes >= w.node.opts.BatchBytes) && q.retryAt.IsZero()
	if urgent && !q.urgent {
		q.urgent = true
		w.node.storer.list(w, true)
	} else if !urgent && !q.listed {
		q.listed = true
		w.node.storer.list(w, false)
	}
}

// storeNow has the writer stored at once, what failed before included. w.mu is
// held.
func (w *Writer) storeNow() {
	w.log.retry, w.log.retryAt = 0, time.Time{}
	w.storeSoon(true)
}

// nextBatch takes the writer from the storer's list. ok says that there is
// something to store now.
func (w *Writer) nextBatch(tick bool) (b backbone.Batch, bytes int, prev uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := &w.log
	q.urgent = false
	if tick {
		q.listed = false
	}
	if q.storing || q.barred || len(q.events) == 0 {
		return b, 0, 0, false
	}
	if time.Now().Before(q.retryAt) {
		w.storeSoon(false)
		return b, 0, 0, false
	}
	q.storing = true
	b, bytes, prev = w.batch()
	return b, bytes, prev, true
}

// batch returns the next events to store and where the log stands. w.mu is held.
func (w *Writer) batch() (b backbone.Batch, bytes int, prev uint64) {
	q := &w.log
	for i := range q.events {
		e := &q.events[i]
		if q.tried > 0 && i == q.tried {
			break
		}
		if q.tried == 0 && i > 0 && bytes+len(e.JSON) > maxBatchBytes {
			break
		}
		bytes += len(e.JSON)
		b.Events = append(b.Events, e.JSON)
		b.Last, b.End = e.Seq, e.Terminal()
	}
	b.First = q.events[0].First
	q.tried = len(b.Events)
	return b, bytes, q.pos
}

// storedBatch takes what was stored out of the queue.
func (w *Writer) storedBatch(events, bytes int, pos uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return // meanwhile
	}
	q := &w.log
	q.pos, q.retry, q.retryAt, q.tried, q.conflicts = pos, 0, time.Time{}, 0, 0
	q.batches++
	clear(q.events[:events])
	q.events = q.events[events:]
	if len(q.events) == 0 {
		q.events = nil
	}
	q.bytes -= bytes
	w.node.waits(-bytes)
	q.storing = false
	if len(q.events) == 0 && q.empty != nil {
		close(q.empty)
		q.empty = nil
	}
	w.storeSoon(len(q.events) > 0 && q.events[len(q.events)-1].Terminal())
}

// storeLater tries again after a wait that doubles.
func (w *Writer) storeLater() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return
	}
	q := &w.log
	q.storing = false
	q.retry = min(max(2*q.retry, w.node.opts.BatchInterval), w.node.opts.RetryMax)
	q.retryAt = time.Now().Add(q.retry)
	w.storeSoon(false)
}

// announcement is the live message that tells a stream's head. An event begins
// with a brace, so the two can't be mistaken for each other.
func announcement(head uint64) []byte {
	return strconv.AppendUint(nil, head, 10)
}
