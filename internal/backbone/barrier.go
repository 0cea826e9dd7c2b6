package backbone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// A barrier is a message in the log that stands behind everything that was
// stored before it. NATS reads a replica, or a leader that may have been
// deposed without knowing, and neither asks the others whether it is up to date:
// after a partition both may show a past that has gone on elsewhere. But a
// message is acknowledged once a majority has it, and a replica that has it has
// all before it. So a barrier, and a read that finds it, is a read that nothing
// stored before can be missing from.
//
// Those who ask at the same time share one: it only has to be begun after the
// question.
type barrier struct {
	turn  chan struct{} // of one place: whoever has it may use what follows
	begun time.Time     // when the newest one that was acknowledged was sent
	pos   uint64        // its position
}

const (
	// barrierPause is the least time between two barriers, however many ask: a
	// client that makes up cursors must not fill the log.
	barrierPause = 50 * time.Millisecond
	// barrierPrefix stands before a node's name in the subject of its barriers.
	// No stream's id has its last character.
	barrierPrefix = logPrefix + "barrier_"
	// lagPause is the wait for a replica that has not got the barrier yet.
	lagPause = 20 * time.Millisecond
)

// LogTailNow returns the last seq that the log holds of stream id, at some
// moment after the call began, as a majority of the store has it: LogTail may
// show an earlier state where nodes were cut off from each other. It costs a
// write, and is for when a wrong answer would be believed. ErrNotFound: the log
// holds nothing of the stream. ErrNoStore where there is no majority.
func (b *Backbone) LogTailNow(ctx context.Context, id string) (last uint64, err error) {
	if b.alone {
		last, _, _, err = b.LogTail(ctx, id)
		return last, err
	}
	if err := checkToken("stream id", id); err != nil {
		return 0, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		last, err = b.tailBehindBarrier(ctx, id)
		err = s.log.failed(err)
	}
	if err != nil {
		return 0, fmt.Errorf("find the end of the log of %s now: %w", id, err)
	}
	return last, nil
}

func (b *Backbone) tailBehindBarrier(ctx context.Context, id string) (last uint64, err error) {
	pos, err := b.passBarrier(ctx)
	if err != nil {
		return 0, err
	}
	for {
		msgs, err := jetstreamext.GetLastMsgsFor(ctx, b.js, logStream, []string{logPrefix + id, barrierPrefix + b.opts.Node})
		if err != nil {
			return 0, err
		}
		var tail, wall *jetstream.RawStreamMsg
		for m, err := range msgs {
			switch {
			case errors.Is(err, jetstreamext.ErrNoMessages): // yet
			case err != nil:
				return 0, err
			case m.Subject == logPrefix+id:
				tail = m
			default:
				wall = m
			}
		}
		// The iterator ends without a word when the context does.
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if wall != nil && wall.Sequence >= pos {
			if tail == nil {
				return 0, ErrNotFound
			}
			t, err := parseStored(tail)
			return t.Last, err
		}
		if !pause(ctx, lagPause) {
			return 0, ctx.Err()
		}
	}
}

// passBarrier returns the position of a barrier that was begun after the call.
func (b *Backbone) passBarrier(ctx context.Context) (pos uint64, err error) {
	asked := time.Now()
	w := &b.barrier
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if w.begun.After(asked) {
		return w.pos, nil
	}
	if rest := time.Until(w.begun.Add(barrierPause)); rest > 0 && !pause(ctx, rest) {
		return 0, ctx.Err()
	}
	begun := time.Now()
	ack, err := b.js.Publish(ctx, barrierPrefix+b.opts.Node, []byte("1"), jetstream.WithExpectStream(logStream))
	if err != nil {
		return 0, err
	}
	w.begun, w.pos = begun, ack.Sequence
	return w.pos, nil
}
