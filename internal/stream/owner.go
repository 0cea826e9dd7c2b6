package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/athena-hub/athena/hub"
)

// How a node ceases to write a stream: because it is done (finish), because
// another node has the job now (fence), or because it gives it away (HandOver).
// In the last two cases its feed is followed from then on, and those who watch
// it stay.

// leave ends the writing. Further appends fail with why, if it is not nil, and
// what was not stored is dropped. It reports false if that has been done.
func (w *Writer) leave(why error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return false
	}
	w.gone = true
	if why != nil {
		w.ended = why
	}
	w.pending.Reset()
	if w.final != nil { // its place is in the log no more
		w.final, w.untold = nil, true
		close(w.told)
	}
	w.node.waits(-w.log.bytes)
	w.log = logQueue{}
	return true
}

// writes reports whether the stream is still this node's.
func (w *Writer) writes() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.gone
}

// release says that the writer is gone. Only who has made it leave calls it.
func (w *Writer) release() {
	w.unhook()
	w.node.feeds.Disown(w.feed)
	w.node.mu.Lock()
	if w.node.writers[w.id] == w {
		delete(w.node.writers, w.id)
	}
	w.node.mu.Unlock()
	close(w.stored)
}

// finish is called when the terminal event is stored: from here on everybody
// reads the log.
func (w *Writer) finish() {
	n := w.node
	w.mu.Lock()
	pos, batches := w.log.pos, w.log.batches
	w.mu.Unlock()
	if !w.leave(nil) {
		return
	}
	events, whole := w.feed.Events(0)
	w.mark.mu.Lock()
	w.mark.over = true // whatever is being recorded has been
	w.mark.mu.Unlock()
	ctx, cancel := context.WithTimeout(n.ctx, n.opts.StoreTimeout)
	defer cancel()
	if err := n.bus.ClearRunning(ctx, w.id); err != nil && n.ctx.Err() == nil {
		n.opts.Logger.Warn().Err(err).Str("stream", w.id).Msg("record of a finished job could not be removed yet")
		n.settle(w.id, w.mark.value, 0) // what finds an ended stream removes its record, after a restart too
	}
	w.release()
	if whole && batches >= wholeBatches {
		w.keepWhole(pos, events)
	}
}

// AwaitStored waits until the stream's end is stored, which it reports. It
// reports false once another node writes the stream, and when ctx or the node
// ends before.
func (w *Writer) AwaitStored(ctx context.Context) bool {
	select {
	case <-w.stored:
	case <-ctx.Done():
		return false
	case <-w.node.ctx.Done():
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended != ErrFenced //nolint:errorlint // as it was set
}

// maxConflicts is how many conflicts in a row there are, while the record says
// that the job is ours, before the log is believed.
const maxConflicts = 4

// conflicted is called when the log has another batch where the writer's next
// one belongs. Among several nodes the record says whether another has the job.
// If it doesn't, the batch may be the writer's own, of a try that seemed to
// fail, and a replica that lags behind doesn't show it yet: the same batch is
// tried again.
func (w *Writer) conflicted(conflict error) {
	n := w.node
	if n.opts.Sole {
		w.fence(conflict.Error())
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.opts.StoreTimeout)
	defer cancel()
	now, err := n.bus.RunningRecord(ctx, w.id)
	who := unsure
	if err == nil {
		who = w.mark.holder(now)
	}
	w.mu.Lock()
	w.log.conflicts++
	often := w.log.conflicts >= maxConflicts
	w.mu.Unlock()
	switch {
	case who == another:
		w.fence("its record names another node")
	case who == unsure || !often:
		n.opts.Metrics.StoreFailed()
		w.storeLater()
	default:
		// Somebody appended who didn't have the job, or ended the stream. The job
		// is lost; whoever takes it over sees to the rest.
		w.fence(conflict.Error())
		if who == ours {
			n.settle(w.id, w.mark.value, now.Revision-1)
		}
	}
}

// fence is called when another node writes the stream: this one becomes a
// follower. It does nothing where the writer is done.
func (w *Writer) fence(why string) {
	n := w.node
	if !w.leave(ErrFenced) {
		return
	}
	n.opts.Logger.Error().Str("stream", w.id).Str("why", why).Msg("another node has taken the stream over; this one only follows now")
	if n.opts.Sole {
		// Nobody else can have, so nobody else will end it.
		ctx, cancel := context.WithTimeout(n.ctx, n.opts.StoreTimeout)
		if err := n.endLost(ctx, w.id); err != nil && n.ctx.Err() == nil {
			n.opts.Logger.Error().Err(err).Str("stream", w.id).Msg("stream could not be ended; the next start will")
		}
		cancel()
	}
	w.release()
	n.opts.OnFenced(w.id)
	n.followOn(w.feed)
}

// followOn follows a stream that this node wrote until now. Its feed goes on to
// the end. One that has an end which the log has not, since it could not be
// stored, is left to those who watch it: it is whole, though others will see
// another.
func (n *Node) followOn(feed *hub.Feed) {
	if _, ended := feed.Head(); ended {
		n.feeds.Drop(feed)
		return
	}
	n.start(func() {
		for wait := persistRetry; ; wait = min(2*wait, persistMax) {
			stop, err := n.followNow(feed)
			if err == nil {
				n.feeds.Follow(feed, stop)
				return
			}
			if !pause(n.ctx, wait) {
				return
			}
			n.opts.Logger.Warn().Err(err).Str("stream", feed.ID()).Msg("stream that was taken over can't be followed yet")
		}
	})
}

// followNow follows a feed whose past is fetched in the background. On a node
// that is alone the stream's end is.
func (n *Node) followNow(feed *hub.Feed) (stop func(), err error) {
	if n.opts.Sole {
		return n.Open(n.ctx, feed)
	}
	f, err := n.follow(feed)
	if err != nil {
		return nil, err
	}
	f.watch()
	return f.close, nil
}

// HandOver stores everything and gives the job to whichever node takes it over;
// this one follows from then on. The job must write nothing meanwhile; what it
// writes afterwards fails with ErrFenced. If HandOver fails, the writer goes on
// as before, unless the error is ErrFenced: then another node has the job
// already.
func (w *Writer) HandOver(ctx context.Context) error {
	n := w.node
	if n.opts.Sole {
		return errors.New("hand over: there is no other node")
	}
	if err := w.hold(); err != nil {
		return err
	}
	err := w.emptied(ctx)
	if err == nil {
		err = w.giveAway(ctx)
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrFenced):
		w.fence("its record names another node")
		return err
	default:
		w.mu.Lock()
		if !w.gone {
			w.ended = nil
		}
		w.mu.Unlock()
		return fmt.Errorf("hand stream %s over: %w", w.id, err)
	}
	if w.leave(ErrFenced) {
		w.release()
		n.followOn(w.feed)
	}
	return nil
}

// hold has nothing more appended, and what there is stored at once.
func (w *Writer) hold() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return w.ended
	}
	if err := w.flushText(); err != nil {
		return err
	}
	w.ended = ErrFenced
	w.storeNow()
	return nil
}

// emptied waits until everything is stored.
func (w *Writer) emptied(ctx context.Context) error {
	w.mu.Lock()
	q := &w.log
	if len(q.events) == 0 {
		w.mu.Unlock()
		return nil
	}
	if q.empty == nil {
		q.empty = make(chan struct{})
	}
	empty := q.empty
	w.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-w.stored:
		return ErrFenced
	case <-ctx.Done():
		return fmt.Errorf("store what is left: %w", ctx.Err())
	}
}

// giveAway makes the job's record nobody's.
func (w *Writer) giveAway(ctx context.Context) error {
	m, bus := &w.mark, w.node.bus
	m.mu.Lock()
	defer m.mu.Unlock()
	nobody := w.node.nobodysRecord()
	return w.node.persist(ctx, func(ctx context.Context) (again bool, err error) {
		now, err := bus.RunningRecord(ctx, w.id)
		if err != nil {
			return true, err
		}
		switch {
		case bytes.Equal(now.Value, nobody): // by a try that seemed to fail
			m.revision, m.over = now.Revision, true
			return false, nil
		case bytes.Equal(now.Value, m.value):
			m.revision = now.Revision
		case now.Revision > m.revision, now.Revision == 0 && m.revision != 0:
			return false, ErrFenced
		}
		revision, taken, err := bus.TakeRunning(ctx, w.id, nobody, m.revision)
		if err == nil && !taken {
			err = errUnsettled
		}
		if err == nil {
			m.revision, m.over = revision, true
		}
		return true, err
	})
}

// Verify is for a node that was taken for dead: it lost its lease. It looks for
// streams that another node has the job of now, and fences their writers, which
// would otherwise only be noticed when they append. An error tells of those
// that could not be looked up.
func (n *Node) Verify(ctx context.Context) error {
	n.mu.Lock()
	writers := make([]*Writer, 0, len(n.writers))
	for _, w := range n.writers {
		writers = append(writers, w)
	}
	n.mu.Unlock()
	var errs []error
	for _, w := range writers {
		if err := w.verify(ctx); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// verify fences the writer if its job is another node's.
func (w *Writer) verify(ctx context.Context) error {
	now, err := w.node.bus.RunningRecord(ctx, w.id)
	if err != nil {
		return fmt.Errorf("whose job stream %s is: %w", w.id, err)
	}
	switch w.mark.holder(now) {
	case another:
		w.fence("its record names another node")
	case none:
		w.mark.mu.Lock()
		done := w.mark.over // it is this node that has ended the stream
		w.mark.mu.Unlock()
		if !done {
			w.fence("its record is gone: another node has ended the stream")
		}
	case ours, unsure: // what lags shows another node soon, or the log does
	}
	return nil
}
