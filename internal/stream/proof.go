package stream

import (
	"context"
	"errors"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
)

// What proves that a stream has no more than this node knows of it, and that
// the end which it knows is the stream's.

// Beyond judges a cursor beyond the feed's head: see hub.HeadJudge. That there
// is no such place takes proof. While nodes are cut off from each other, or
// only just together again, an owner may not know that it isn't one any more,
// a replica shows what was stored long ago, and a leader doesn't know that there
// is a newer one. What is proof is the log as a majority has it now: whoever
// goes on with a stream stores the event that covers what may have been said
// before, and says nothing to anybody until that is stored.
func (n *Node) Beyond(ctx context.Context, feed *hub.Feed, _ uint64) error {
	if n.opts.Sole {
		return nil // the feed is all there is
	}
	ctx, cancel := context.WithTimeout(ctx, 2*n.opts.AskTimeout)
	defer cancel()
	id := feed.ID()
	if w := n.writer(id); w != nil && w.feed == feed {
		// The client may have been served by a node that has the job now.
		err := w.verify(ctx)
		switch head, ended := feed.Head(); {
		case w.writes() && err == nil && n.storedUpTo(ctx, id, head):
			return nil
		case w.writes() || !ended:
			return hub.ErrHeadUnknown
		}
	}
	f := n.follower(id)
	head, ended := feed.Head()
	if ended {
		return n.beyondEnd(ctx, feed, head)
	}
	if f == nil || f.feed != feed {
		return hub.ErrHeadUnknown // it is about to be followed
	}
	// Only an owner that answers now, with what the feed had before and what the
	// log does not go beyond, proves that there is no more.
	owned, err := f.catchUpOnce(ctx)
	f.settle()
	if err != nil || !owned {
		return hub.ErrHeadUnknown
	}
	last, err := n.bus.LogTailNow(ctx, id)
	if err != nil && !errors.Is(err, backbone.ErrNotFound) {
		return hub.ErrHeadUnknown
	}
	if last > head {
		f.missed(last) // if the feed lacks it, who answered is not the owner any more
		return hub.ErrHeadUnknown
	}
	if now, _ := feed.Head(); now != head {
		return hub.ErrHeadUnknown
	}
	return nil
}

// storedUpTo reports whether the log is known to hold nothing after seq.
func (n *Node) storedUpTo(ctx context.Context, id string, seq uint64) bool {
	last, err := n.bus.LogTailNow(ctx, id)
	return errors.Is(err, backbone.ErrNotFound) || err == nil && last <= seq
}

// beyondEnd is Beyond for a feed that has ended. It may have an end that was
// never stored, of a job that went on elsewhere.
func (n *Node) beyondEnd(ctx context.Context, feed *hub.Feed, head uint64) error {
	last, err := n.bus.LogTailNow(ctx, feed.ID())
	if err != nil && !errors.Is(err, backbone.ErrNotFound) {
		return away(feed.ID(), err)
	}
	if last <= head { // or 0, where nothing was stored
		return nil
	}
	n.supersede(feed, last)
	return hub.ErrSuperseded
}

// maxAhead bounds what is remembered of feeds that were dropped. Few are opened
// again.
const maxAhead = 10_000

// supersede drops a feed whose end is another than the log's, which goes on up
// to last.
func (n *Node) supersede(feed *hub.Feed, last uint64) {
	n.mu.Lock() // who told the other end may still do so
	if len(n.ahead) >= maxAhead {
		clear(n.ahead)
	}
	n.ahead[feed.ID()] = last
	n.mu.Unlock()
	n.feeds.Drop(feed)
}

const (
	// confirmMin is how soon after a stream's end it is looked up in the log,
	// unless it came from there. The wait until the next time doubles up to
	// confirmMax.
	confirmMin = 250 * time.Millisecond
	confirmMax = 5 * time.Second
)

// confirm has the end of the feed compared with the log's, unless it came from
// there. An owner that was cut off from the store tells its clients an end that
// it can't store, while the stream may go on elsewhere; who got that end is not
// to give it to others for as long as it is remembered.
func (f *follower) confirm() {
	f.mu.Lock()
	known := f.logged || f.confirms
	f.confirms = true
	f.mu.Unlock()
	if n := f.node; !known && !n.opts.Sole {
		n.start(func() { n.confirmEnd(f.feed) })
	}
}

// confirmEnd waits until the log has the feed's end, or drops a feed that has
// another.
func (n *Node) confirmEnd(feed *hub.Feed) {
	head, _ := feed.Head()
	for wait := confirmMin; pause(n.ctx, wait) && n.feeds.Has(feed); wait = min(2*wait, confirmMax) {
		last, _, end, err := n.bus.LogTail(n.ctx, feed.ID())
		switch {
		case err != nil: // it isn't stored yet, or can't be looked up
		case end && last == head:
			return
		case last > head:
			n.opts.Logger.Warn().Str("stream", feed.ID()).Msg("a stream went on after an end that could not be stored; the log is right")
			n.supersede(feed, last)
			return
		}
	}
}
