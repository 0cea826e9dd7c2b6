package hub

import (
	"context"
	"errors"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A subscription is a cursor into a feed that somebody watches. after is owned
// by whoever gathers: a session's writer while it runs, or a poll.
type subscription struct {
	feed  *Feed
	by    watcher
	after uint64
	own   bool // the client began the stream on this connection; set before it is used
}

// subscribe opens the stream, checks the cursor and makes by a watcher. The
// caller must wake itself, since the feed may already be ahead of the cursor.
func (h *Hub) subscribe(ctx context.Context, c protocol.Cursor, by watcher) (*subscription, error) {
	f, err := h.open(ctx, c)
	if errors.Is(err, ErrSuperseded) {
		f, err = h.open(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	sub := &subscription{feed: f, by: by, after: c.After}
	if _, inMemory := f.Events(c.After); !inMemory {
		// What the client lacks may have expired. It is told so now, when every
		// transport can still answer with an error.
		if _, err := h.history(ctx, sub, 1); err != nil {
			h.feeds.Release(f)
			return nil, err
		}
	}
	f.watch(by)
	return sub, nil
}

// open opens the cursor's stream, and makes sure that the cursor is not beyond
// its head, as far as anybody can know that.
func (h *Hub) open(ctx context.Context, c protocol.Cursor) (*Feed, error) {
	f, err := h.feeds.Open(ctx, c.Stream, h.source)
	if err != nil {
		return nil, err
	}
	if head, _ := f.Head(); c.After <= head {
		return f, nil
	}
	// The client may have been served by a node that is ahead of this one.
	if err = h.source.Refresh(ctx, f); err == nil {
		head, _ := f.Head()
		if c.After <= head {
			return f, nil
		}
		if judge, ok := h.source.(HeadJudge); ok {
			err = judge.Beyond(ctx, f, c.After)
		}
		if errors.Is(err, ErrHeadUnknown) {
			return f, nil // it waits for what covers its cursor
		}
		if head, _ = f.Head(); err == nil && c.After <= head {
			return f, nil // meanwhile
		}
		if err == nil {
			err = protocol.Errorf(protocol.CodeInvalidCursor, "cursor %d is beyond the head %d of stream %s", c.After, head, c.Stream)
		}
	}
	h.feeds.Release(f)
	return nil, err
}

// subscribeAll subscribes to several streams, or to none of them.
func (h *Hub) subscribeAll(ctx context.Context, cs []protocol.Cursor, by watcher) ([]*subscription, error) {
	subs := make([]*subscription, 0, len(cs))
	for _, c := range cs {
		sub, err := h.subscribe(ctx, c, by)
		if err != nil {
			h.unsubscribeAll(subs)
			return nil, err
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

func (h *Hub) unsubscribe(sub *subscription) {
	sub.feed.unwatch(sub.by)
	h.feeds.Release(sub.feed)
}

func (h *Hub) unsubscribeAll(subs []*subscription) {
	for _, sub := range subs {
		h.unsubscribe(sub)
	}
}

// done reports whether everything was gathered, the terminal event included.
func (sub *subscription) done() bool {
	w := sub.feed.window.Load()
	return w.ended && sub.after == w.head
}

func allDone(subs []*subscription) bool {
	for _, sub := range subs {
		if !sub.done() {
			return false
		}
	}
	return true
}

// An item is one event of a message, after merging.
type item struct {
	sub   *subscription
	event protocol.Encoded
}

// A batch is what one message will carry. It is reused, message after message.
type batch struct {
	items  []item
	bytes  int
	lag    uint64 // how far behind the head the furthest cursor was, in events
	merged int    // how many events went into others
}

func (b *batch) reset() {
	clear(b.items)
	*b = batch{items: b.items[:0]}
}

// gather fills b with what follows the cursors of subs, up to budget bytes, and
// moves the cursors. start says which subscription is asked first, so that one
// that always has more can't starve the others. full says that no more fitted.
// It waits only to read history, and returns errWouldWait where it may not.
func (h *Hub) gather(ctx context.Context, b *batch, subs []*subscription, start, budget int, mayWait bool) (full bool, err error) {
	for i := range subs {
		sub := subs[(start+i)%len(subs)]
		for {
			w := sub.feed.window.Load()
			entries, ok := w.after(sub.after)
			if !ok {
				if !mayWait {
					return false, errWouldWait
				}
				if entries, err = h.history(ctx, sub, max(budget-b.bytes, 1)); err != nil {
					return false, &streamError{sub, err}
				}
			}
			if len(entries) == 0 {
				if w.ended && sub.after > w.head {
					return false, errBeyondEnd
				}
				break
			}
			b.lag = max(b.lag, w.head-sub.after)
			if full := sub.take(b, entries, budget); full {
				return true, nil
			}
			if ok {
				break
			}
		}
	}
	return false, nil
}

// errBeyondEnd says that a stream has ended before a cursor that was taken
// without proof (ErrHeadUnknown). Whoever asks with it again is judged anew.
var errBeyondEnd = protocol.Errorf(protocol.CodeInvalidCursor, "the stream ended before the cursor")

// errWouldWait says that history would have to be read.
var errWouldWait = errors.New("history would have to be read")

func (h *Hub) history(ctx context.Context, sub *subscription, budget int) ([]protocol.Encoded, error) {
	ctx, cancel := context.WithTimeout(ctx, h.opts.HistoryTimeout)
	defer cancel()
	entries, err := h.source.Read(ctx, sub.feed.id, sub.after, budget)
	if err == nil && (len(entries) == 0 || entries[0].First > sub.after+1) {
		err = notFound(sub.feed.id) // what lay there has expired (P6)
	}
	return entries, err
}

// mergeOverhead is by how much a merged chunk's JSON may be longer than the
// first one's beside the text: a "first", and numbers with more digits.
const mergeOverhead = 48

// take merges what may be merged of entries, puts it into b and moves the
// cursor. It reports true, and leaves the rest, when no more fits into budget
// bytes; one event fits always.
func (sub *subscription) take(b *batch, entries []protocol.Encoded, budget int) (full bool) {
	for len(entries) > 0 {
		n, size := 1, len(entries[0].JSON)+1 // and a comma
		if len(b.items) > 0 && b.bytes+size > budget {
			return true
		}
		for n < len(entries) && entries[n-1].Mergeable(&entries[n]) {
			more := entries[n].TextLen()
			if n == 1 {
				more += mergeOverhead
			}
			if b.bytes+size+more > budget || size+more > protocol.MaxEventBytes {
				break
			}
			size += more
			n++
		}
		e := protocol.Merge(sub.feed.id, entries[:n])
		b.items = append(b.items, item{sub, e})
		b.bytes += len(e.JSON) + 1
		b.merged += n - 1
		sub.after = e.Seq
		entries = entries[n:]
	}
	return false
}

// A streamError says which of a session's streams could not be read.
type streamError struct {
	sub *subscription
	err error
}

func (e *streamError) Error() string { return "stream " + e.sub.feed.id + ": " + e.err.Error() }
func (e *streamError) Unwrap() error { return e.err }

// jitter returns a duration from d/2 to 3d/2, so that clients that were cut off
// together don't come back together. r is from 0 up to 1.
func jitter(d time.Duration, r float64) time.Duration {
	return d/2 + time.Duration(float64(d)*r)
}
