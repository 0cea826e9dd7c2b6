package hub

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A poll waits for feeds to grow.
type poll struct{ woken chan struct{} }

func newPoll() *poll { return &poll{make(chan struct{}, 1)} }

func (p *poll) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// wait reports false if ctx ended before the poll was woken.
func (p *poll) wait(ctx context.Context) bool {
	select {
	case <-p.woken:
		return true
	case <-ctx.Done():
		return false
	}
}

// ServeLongPoll answers with the events after the cursors, as soon as there is
// one, or with none when wait is over. single is as in ServeSSE.
//
// A poll that waits when the node begins to drain is answered within the
// drain's window, with a hint when to ask again, and its connection is closed,
// so that the next one may find another node.
func (h *Hub) ServeLongPoll(w http.ResponseWriter, r *http.Request, cursors []protocol.Cursor, single bool, wait time.Duration) {
	leave, err := h.admit(r.Context(), protocol.TransportLongPoll)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	defer leave()
	if err := h.checkCursors(cursors); err != nil {
		h.refuse(w, r, err)
		return
	}
	bounded, release := h.bounded(r.Context())
	defer release()
	p := newPoll()
	subs, err := h.subscribeAll(r.Context(), cursors, p)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	defer h.unsubscribeAll(subs)
	closed, reason := h.opened(protocol.TransportLongPoll), "answered"
	defer func() { closed(reason) }()

	ctx, cancel := context.WithTimeout(bounded, min(max(wait, 0), h.opts.PollMaxWait))
	defer cancel()
	sc := scratches.Get().(*scratch)
	defer func() {
		sc.batch.reset()
		if cap(sc.buf) <= maxScratch {
			scratches.Put(sc)
		}
	}()
	sc.batch.reset()
	if err := h.pollEvents(ctx, &sc.batch, subs, p); err != nil {
		h.refuse(w, r, err)
		return
	}
	if r.Context().Err() != nil {
		reason = "client_gone"
		return
	}
	if err := credentialEnded(bounded); err != nil {
		reason = "credential_ended"
		h.refuse(w, r, err)
		return
	}
	head := w.Header()
	var move time.Duration
	if h.draining.Load() && !allDone(subs) {
		reason, move = "drain", h.reconnectDelay()
		head.Set("Connection", "close")
		head.Set("Retry-After", strconv.FormatInt(int64((move+time.Second-1)/time.Second), 10))
	}
	sc.buf = appendPoll(sc.buf[:0], &sc.batch, subs, single, move, h.opts.CacheGeneration())
	head.Set("Content-Type", "application/json")
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Length", strconv.Itoa(len(sc.buf)))
	rc := http.NewResponseController(w)
	if err := rc.SetWriteDeadline(time.Now().Add(h.opts.WriteTimeout)); err != nil {
		h.refuse(w, r, err)
		return
	}
	_, err = w.Write(sc.buf)
	if err == nil {
		err = rc.Flush() // or it would be written after the deadline is gone
	}
	if err == nil {
		err = rc.SetWriteDeadline(time.Time{}) // for the connection's next request
	}
	if err != nil {
		reason = "write_failed" // the client asks again with the same cursor
		return
	}
	h.opts.Metrics.Wrote(protocol.TransportLongPoll, len(sc.batch.items), sc.batch.merged, sc.batch.bytes, sc.batch.lag)
}

// pollEvents fills b, waiting while there is nothing, and then a moment longer.
// It returns when ctx or the hub ends, too, and in a drain at some time within
// its window: those who poll are not to come back all together.
func (h *Hub) pollEvents(ctx context.Context, b *batch, subs []*subscription, p *poll) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	linger := time.NewTimer(h.opts.PollLinger)
	defer linger.Stop()

	lingering := false
	drained, leave := h.drained, (<-chan time.Time)(nil)
	for {
		// History is read although the wait may be over: what there is, is told.
		full, err := h.gather(h.ctx, b, subs, 0, h.opts.PollBytes, true)
		if errors.Is(err, errBeyondEnd) {
			return nil // the next poll is told what is wrong
		}
		if err != nil {
			return err
		}
		if full || allDone(subs) {
			return nil
		}
		if len(b.items) > 0 && !lingering {
			lingering = true
			linger.Reset(h.opts.PollLinger)
		}
		var over <-chan time.Time
		if lingering {
			over = linger.C
		}
		select {
		case <-p.woken:
		case <-over:
			return nil
		case <-drained:
			if h.window <= 0 {
				return nil
			}
			drained = nil
			moves := time.NewTimer(rand.N(h.window))
			defer moves.Stop()
			leave = moves.C
		case <-leave:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// appendPoll appends a protocol.Poll. Its events are forwarded as they are. Where
// move is not 0 the client is told to ask again after that time, and not before.
func appendPoll(buf []byte, b *batch, subs []*subscription, single bool, move time.Duration, generation string) []byte {
	buf = append(buf, `{"events":[`...)
	for i := range b.items {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(buf, b.items[i].event.JSON...)
	}
	buf = append(buf, `],"cursor":"`...)
	if single {
		buf = strconv.AppendUint(buf, subs[0].after, 10)
	} else {
		buf = protocol.AppendCursors(buf, cursorsOf(subs))
	}
	buf = append(buf, `","done":`...)
	buf = strconv.AppendBool(buf, allDone(subs))
	if move > 0 {
		buf = append(buf, `,"retry_after_ms":`...)
		buf = strconv.AppendInt(buf, move.Milliseconds(), 10)
	}
	if generation != "" {
		buf = strconv.AppendQuote(append(buf, `,"cache":`...), generation)
	}
	return append(buf, "}\n"...)
}

func cursorsOf(subs []*subscription) []protocol.Cursor {
	cs := make([]protocol.Cursor, 0, len(subs))
	for _, sub := range subs {
		cs = append(cs, protocol.Cursor{Stream: sub.feed.id, After: sub.after})
	}
	return slices.Clip(cs)
}
