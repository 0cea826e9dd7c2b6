package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

// coverWidth is how many numbers the event covers that ends a stream whose
// owner was lost, or lets it begin anew. It must be more than a node can have
// written and not stored: a million events a second would take an hour.
const coverWidth = 1 << 32

// cover returns the event that follows the stored part of a stream whose owner
// is gone. What holds of it, and makes P1 true for every client:
//
//   - It covers a wide range from the stored head on. Clients may have seen
//     events that were never stored, and their cursors must lie before its end.
//   - It ends the stream, or drops what was said before. So it doesn't matter
//     which of those events a client has seen.
//   - It is stored before anybody sees it, and before what follows it is
//     written. So a cursor beyond its end is proof that the log has it, and
//     whoever lacks it finds a hole before what follows.
//   - What the old owner still writes has numbers below its end: a feed that has
//     the event ignores them, and one that hasn't takes them for what they are,
//     a tail that the event will replace.
func cover(id string, stored uint64, t protocol.Type, data any) (protocol.Encoded, error) {
	return protocol.Encode(id, stored+1, stored+coverWidth, t, time.Now(), data)
}

// batchOf is a batch of one event.
func batchOf(e protocol.Encoded) backbone.Batch {
	return backbone.Batch{First: e.First, Last: e.Seq, End: e.Terminal(), Events: [][]byte{e.JSON}}
}

// ErrTaken says that another node has the job.
var ErrTaken = errors.New("another node has taken the job over")

// A Takeover is a job whose record this node has won, and which nobody runs. It
// must be ended, by Resume, Fail or Release, or nobody ever will. It is for one
// goroutine at a time.
type Takeover struct {
	// Set by TakeOver, then read-only.
	node     *Node
	id       string
	value    []byte // the record, and its revision
	revision uint64

	// What the log holds.
	past   *protocol.Transcript // nil where it can't be told whole
	events []protocol.Encoded
	base   uint64 // the cursor before events[0]
	last   uint64 // the stored head
	pos    uint64 // where it stands in the log
	ended  bool

	over bool // nothing is left to do
}

// TakeOver makes a job that has lost its node this node's own, and reads its
// past. ErrTaken: another node was quicker. After any other error nothing is to
// be done: if the record has become this node's, it is given back as soon as
// the store allows, and found as one of nobody. It tries until ctx ends, for
// want of the store's answer.
func (n *Node) TakeOver(ctx context.Context, l Lost) (*Takeover, error) {
	t := &Takeover{node: n, id: l.ID, value: n.ownRecord(), past: new(protocol.Transcript)}
	err := n.persist(ctx, func(ctx context.Context) (again bool, err error) {
		now, err := n.bus.RunningRecord(ctx, l.ID)
		if err != nil {
			return true, err
		}
		if now.Revision == 0 || (now.Revision > l.Revision && !bytes.Equal(now.Value, t.value)) {
			return false, ErrTaken
		}
		revision, taken, err := n.bus.TakeRunning(ctx, l.ID, t.value, l.Revision)
		if err == nil && !taken {
			return false, ErrTaken
		}
		t.revision = revision
		return true, err
	})
	if errors.Is(err, ErrTaken) {
		return nil, err
	}
	if err != nil {
		n.settle(l.ID, t.value, l.Revision)
		return nil, fmt.Errorf("take stream %s over: %w", l.ID, err)
	}
	if w := n.writer(l.ID); w != nil {
		w.fence("its record named another node") // and now names a later job of this one
	}
	if err := n.persist(ctx, func(ctx context.Context) (bool, error) { return true, t.read(ctx) }); err != nil {
		t.Release()
		return nil, fmt.Errorf("take stream %s over: read its past: %w", l.ID, err)
	}
	if t.ended {
		t.clear(ctx)
	}
	return t, nil
}

// Past is what the log holds; nil where its beginning has expired.
func (t *Takeover) Past() *protocol.Transcript { return t.past }

// Ended reports whether the log holds the stream's end. Then its record is
// removed, and nothing is left to do.
func (t *Takeover) Ended() bool { return t.ended }

// Resume writes f, discarding and covering, and returns the Writer that writes
// what follows. Clients that watch the stream, here and elsewhere, stay and see
// it. It tries until ctx ends. ErrEnded: the old owner has stored the stream's
// end meanwhile. ErrTaken: another node has taken the job over from this one.
// After any other error, Fail or Release is to follow.
func (t *Takeover) Resume(ctx context.Context, f *protocol.Failover) (*Writer, error) {
	discarding := *f
	discarding.Discard = true // what is covered may have been seen or not
	e, err := t.append(ctx, protocol.TypeFailover, &discarding)
	if err != nil {
		return nil, fmt.Errorf("resume stream %s: %w", t.id, err)
	}
	w, err := t.adopt(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("resume stream %s: %w", t.id, err)
	}
	return w, nil
}

// Fail ends the stream with the error, covering. It tries until ctx ends, and
// gives the job back where it fails. That the stream has ended otherwise
// meanwhile is no error.
func (t *Takeover) Fail(ctx context.Context, cause *protocol.Error) error {
	e, err := t.append(ctx, protocol.TypeFailed, &protocol.Failed{Error: cause})
	if errors.Is(err, ErrEnded) {
		return nil
	}
	if err != nil {
		t.Release()
		return fmt.Errorf("end stream %s: %w", t.id, err)
	}
	t.tell(e)
	t.clear(ctx)
	return nil
}

// Release gives the job back, for any node to take it over. It does nothing
// where the Takeover has been ended otherwise.
func (t *Takeover) Release() {
	if !t.over {
		t.over = true
		t.node.settle(t.id, t.value, t.revision-1)
	}
}

// clear removes the record of a stream that has ended.
func (t *Takeover) clear(ctx context.Context) {
	t.over, t.ended = true, true
	if err := t.node.bus.ClearRunning(ctx, t.id); err != nil {
		t.node.settle(t.id, t.value, t.revision-1)
	}
}

// tell gives the covering event to the followers on all nodes, this one
// included.
func (t *Takeover) tell(e protocol.Encoded) {
	bus := t.node.bus
	_ = bus.PublishLive(t.id, e.JSON) // a hole, which its readers will fill
	_ = bus.PublishLive(t.id, announcement(e.Seq))
}

// append stores the covering event. Where the old owner has appended since the
// log was read, it reads on and covers from there.
//
// The log is read, then the record is checked, and then the event is appended
// at the position that was read, in this order. So if another node takes the job
// over from this one, its covering event comes after the check, and this one's
// can't come after it: it conflicts. Without the check this one could read the
// other's event, and cover that.
func (t *Takeover) append(ctx context.Context, typ protocol.Type, data any) (e protocol.Encoded, err error) {
	switch {
	case t.ended:
		return e, ErrEnded
	case t.over:
		return e, errors.New("the takeover is over")
	}
	made, moved := false, false
	err = t.node.persist(ctx, func(ctx context.Context) (again bool, err error) {
		if moved {
			if err := t.read(ctx); err != nil {
				return true, err
			}
			if n := len(t.events); n > 0 && bytes.Equal(t.events[n-1].JSON, e.JSON) {
				return false, nil // a try that seemed to fail had stored it
			}
			if t.ended { // by whomever, so that the record may be gone
				return false, ErrEnded
			}
			made, moved = false, false
		}
		if !made { // a try after one that may have been stored must be the same to a byte
			if err := t.check(ctx); err != nil {
				return !errors.Is(err, ErrTaken) && !errors.Is(err, ErrEnded), err
			}
			if e, err = cover(t.id, t.last, typ, data); err != nil {
				return false, err
			}
			made = true
		}
		pos, err := t.node.bus.AppendLog(ctx, t.id, t.pos, batchOf(e))
		if err != nil {
			moved = errors.Is(err, backbone.ErrConflict)
			return true, err
		}
		t.last, t.pos = e.Seq, pos
		return false, nil
	})
	switch {
	case errors.Is(err, ErrEnded):
		t.clear(ctx)
	case errors.Is(err, ErrTaken):
		t.over = true
	}
	return e, err
}

// check reports ErrTaken if the job's record is no longer this node's, and
// ErrEnded if that is so since the old owner has ended the stream after all.
func (t *Takeover) check(ctx context.Context) error {
	now, err := t.node.bus.RunningRecord(ctx, t.id)
	if err != nil {
		return err
	}
	switch holderOf(now, t.value, t.revision) {
	case ours:
		return nil
	case unsure:
		return errLags
	case none:
		if err := t.read(ctx); err != nil {
			return err
		}
		if t.ended {
			return ErrEnded
		}
	}
	return ErrTaken
}

// errLags says that what was read is older than what was seen before: a replica
// lags behind.
var errLags = errors.New("a replica of the store lags behind")

// read reads on to the end of the log. What it has read stays read if it fails.
func (t *Takeover) read(ctx context.Context) error {
	for {
		last, pos, end, err := t.node.bus.LogTail(ctx, t.id)
		if errors.Is(err, backbone.ErrNotFound) {
			t.pos, t.ended = 0, false // nothing was ever stored, or it has all expired
			return nil
		}
		if err != nil {
			return err
		}
		if last < t.last {
			return errLags
		}
		if last == t.last {
			t.pos, t.ended = pos, end
			return nil
		}
		if err := t.readTo(ctx, last); err != nil {
			return err
		}
	}
}

// readTo reads until last, or beyond.
func (t *Takeover) readTo(ctx context.Context, last uint64) error {
	for t.last < last {
		batches, err := t.node.bus.ReadLog(ctx, t.id, t.last, pageBytes)
		if errors.Is(err, backbone.ErrGap) {
			err = t.skip(ctx)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		if len(batches) == 0 {
			return errLags
		}
		for i := range batches {
			for _, raw := range batches[i].Events {
				e, err := protocol.Parse(raw)
				if err != nil {
					return err
				}
				if e.Seq > t.last {
					t.take(e)
				}
			}
		}
	}
	return nil
}

// skip goes to where the log begins, since what lay before has expired.
func (t *Takeover) skip(ctx context.Context) error {
	first, err := t.node.bus.LogFirst(ctx, t.id)
	if err != nil {
		return err
	}
	if first <= t.last+1 {
		return errLags
	}
	t.past, t.events = nil, nil
	t.base, t.last = first-1, first-1
	return nil
}

// take takes the next event of the log.
func (t *Takeover) take(e protocol.Encoded) {
	t.events = append(t.events, e)
	t.last = e.Seq
	if t.past == nil {
		return
	}
	ev, err := e.Event()
	if err == nil {
		err = t.past.Apply(&ev)
	}
	if err != nil {
		t.node.opts.Logger.Error().Err(err).Str("stream", t.id).Msg("the log of a stream that is taken over can't be trusted")
		t.past = nil
	}
}

// adopt makes the Writer that goes on after e, the covering event, which is
// stored. The feed on this node may be ahead of the log, since its clients saw
// what the old owner never stored; or behind it, and then gets what it lacks, so
// that its metadata are right; or there is none yet.
func (t *Takeover) adopt(ctx context.Context, e protocol.Encoded) (*Writer, error) {
	n := t.node
	w := newWriter(n, t.id, t.value)
	w.mark.revision = t.revision
	w.seq, w.log.pos, w.log.batches = e.Seq, t.pos, len(t.events) // as many at most, and most often nearly so
	var err error
	w.feed, err = n.feeds.Adopt(ctx, t.id, func(f *hub.Feed) error {
		f.MarkStored(e.Seq)
		f.StartAt(t.base) // does nothing to a feed that has begun
		for i := range t.events {
			if err := f.Append(t.events[i]); err != nil {
				return err
			}
		}
		return f.Append(e)
	})
	if err != nil {
		if w.feed != nil {
			n.followOn(w.feed)
		}
		return nil, err
	}
	if err := w.serve(); err != nil {
		n.feeds.Disown(w.feed)
		n.followOn(w.feed)
		return nil, err
	}
	t.over, t.events = true, nil
	t.tell(e)
	return w, nil
}
