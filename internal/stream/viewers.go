package stream

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// What concerns a stream on all nodes: who watches it, and ending its job.

const (
	// topicViewers is the topic on which nodes tell how many clients watch a
	// stream there, and viewersWait how long the answers may take.
	topicViewers = "viewers"
	viewersWait  = 300 * time.Millisecond
	// cancelWait is how long an owner that is asked to cancel a job takes to
	// say whether it does. Longer than that it is under way, and other
	// questions about the stream wait.
	cancelWait = 250 * time.Millisecond
)

// A viewersQuestion asks all nodes for the viewers of a stream.
type viewersQuestion struct {
	Stream string `json:"stream"`
}

// A viewersAnswer is one node's.
type viewersAnswer struct {
	Node    string `json:"node"`
	Viewers int    `json:"viewers"`
	// IdleMS is how long nobody has watched there, where Viewers is 0.
	IdleMS int64 `json:"idle_ms,omitempty"`
}

// clock is the time since clockStart, by a clock that nobody sets. It is never 0.
func clock() int64 { return int64(time.Since(clockStart)) + 1 }

var clockStart = time.Now()

// answerViewers answers other nodes' questions, until it is stopped. A node
// that has no feed of the stream says so.
func (n *Node) answerViewers() (stop func()) {
	if n.opts.Sole {
		return func() {}
	}
	stop, err := n.bus.Answer(topicViewers, func(request []byte) []byte {
		var q viewersQuestion
		if json.Unmarshal(request, &q) != nil {
			return nil
		}
		a := viewersAnswer{Node: n.opts.Node}
		count, idle, ok := n.feeds.Watchers(q.Stream)
		a.Viewers = count
		if ok && count == 0 {
			a.IdleMS = max(time.Since(idle).Milliseconds(), 1)
		}
		reply, err := json.Marshal(a)
		if err != nil {
			panic(err) // a string and numbers
		}
		return reply
	})
	if err != nil {
		n.opts.Logger.Error().Err(err).Msg("other nodes can't be told of this one's viewers")
		return func() {}
	}
	return stop
}

// Viewers returns how many clients watch the stream, on all nodes. It takes 300
// ms at most; nodes that don't answer by then are not counted.
func (n *Node) Viewers(ctx context.Context, id string) int {
	count, _, _ := n.feeds.Watchers(id)
	elsewhere, _ := n.viewersElsewhere(ctx, id)
	return count + elsewhere
}

// ViewersElsewhere is Viewers without this node's.
func (n *Node) ViewersElsewhere(ctx context.Context, id string) int {
	count, _ := n.viewersElsewhere(ctx, id)
	return count
}

// viewersElsewhere returns the viewers on other nodes and, where there are
// none, when the last one left, as far as a node still knows.
func (n *Node) viewersElsewhere(ctx context.Context, id string) (count int, left time.Time) {
	peers := n.opts.Peers()
	if peers <= 0 {
		return 0, left
	}
	request, err := json.Marshal(viewersQuestion{id})
	if err != nil {
		panic(err) // a string
	}
	ctx, cancel := context.WithTimeout(ctx, viewersWait)
	defer cancel()
	replies, err := n.bus.Gather(ctx, topicViewers, request, peers+1) // this node answers too
	if err != nil {
		n.opts.Logger.Debug().Err(err).Str("stream", id).Msg("the other nodes could not be asked for viewers")
	}
	now := time.Now()
	for _, reply := range replies {
		var a viewersAnswer
		if json.Unmarshal(reply, &a) != nil || a.Node == n.opts.Node {
			continue
		}
		count += max(a.Viewers, 0)
		if a.IdleMS > 0 {
			left = later(left, now.Add(-time.Duration(a.IdleMS)*time.Millisecond))
		}
	}
	return count, left
}

// Watchers returns how many clients watch, and where none does, since when. If
// none watches on this node the others are asked, which takes 300 ms at most.
// A viewer elsewhere who has left a while ago is known of only by what its node
// said while it was there, some seconds before at most.
func (w *Writer) Watchers() (count int, idleSince time.Time) {
	n := w.node
	count, idleSince = w.feed.Watchers()
	if count > 0 {
		return count, idleSince
	}
	elsewhere, left := n.viewersElsewhere(n.ctx, w.id)
	if elsewhere > 0 {
		w.viewed.Store(clock())
		return elsewhere, idleSince
	}
	if viewed := w.viewed.Load(); viewed > 0 {
		left = later(left, clockStart.Add(time.Duration(viewed)))
	}
	return 0, later(idleSince, left)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Cancel asks the stream's owner, whichever node it is, to cancel its job. The
// stream's end follows. backbone.ErrNoOwner: it has none now, since it has
// ended or is on its way to another node.
func (n *Node) Cancel(ctx context.Context, id string) error {
	_, err := n.ask(ctx, id, question{Cancel: true})
	return err
}

// ErrNoJob is what Options.OnCancel returns for a job that doesn't run on this
// node any more: it is being handed over, or has just ended.
var ErrNoJob = errors.New("no such job runs here")

// cancelHere cancels a job of this node's. The callback may take its time; that
// it has begun is told soon.
func (n *Node) cancelHere(id string) error {
	if n.opts.OnCancel == nil {
		return errors.New("this node cancels nothing for others")
	}
	done := make(chan error, 1)
	if !n.start(func() { done <- n.opts.OnCancel(n.ctx, id) }) {
		return errors.New("this node is shutting down")
	}
	wait := time.NewTimer(cancelWait)
	defer wait.Stop()
	select {
	case err := <-done:
		return err
	case <-wait.C:
		return nil
	}
}
