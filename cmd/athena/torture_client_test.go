package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/protocol"
)

// A view is one stream as one client knows it.
type view struct {
	stream     *tortureStream
	transcript *protocol.Transcript
	events     []received // all that were applied, to go back to an old cursor
}

func newView(s *tortureStream) *view { return &view{stream: s, transcript: new(protocol.Transcript)} }

func (v *view) ended() bool { return v.transcript.Terminal() != nil }

// rewind goes back to the state after a part of the events, from 0 to 1.
func (v *view) rewind(place float64) error {
	v.events = v.events[:int(place*float64(len(v.events)))]
	v.transcript = new(protocol.Transcript)
	for i := range v.events {
		if err := v.transcript.Apply(&v.events[i].event); err != nil {
			return err
		}
	}
	return nil
}

// keptNotes is how much of a client's history a failure shows.
const keptNotes = 60

// A tortureClient watches streams, and does to its connections whatever can
// happen to a connection. It belongs to one goroutine.
type tortureClient struct {
	world   *torture
	at      string // where it connects to; "" for where all do
	number  int
	decide  *rand.Rand
	views   []*view
	last    string // the transport of the connection before
	history []string
}

func (c *tortureClient) note(format string, args ...any) {
	if len(c.history) == keptNotes {
		c.history = slices.Delete(c.history, 0, 1)
	}
	c.history = append(c.history, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// run goes from connection to connection until the torture is calm and all
// that it watched has ended.
func (c *tortureClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.views = slices.DeleteFunc(c.views, (*view).ended)
		d := nextRound(c.decide)
		if c.world.hurry != nil {
			c.world.hurry(&d)
		}
		if c.world.isCalm() {
			if len(c.views) == 0 {
				return
			}
			d = round{transport: d.transport, rest: d.rest, cut: cutClean}
		}
		err := c.round(ctx, &d)
		if err == nil {
			for _, v := range c.views {
				if err = v.stream.check(v.transcript); err != nil {
					err = fmt.Errorf("stream %s: %w", v.stream.id, err)
					break
				}
			}
		}
		if err != nil {
			c.world.fail(fmt.Errorf("client %d: %w\nits history:\n  %s", c.number, err, strings.Join(c.history, "\n  ")))
			return
		}
		rest(ctx, d.rest)
	}
	if !errors.Is(context.Cause(ctx), errTooLate) {
		return
	}
	for _, v := range c.views {
		if !v.ended() {
			c.world.fail(fmt.Errorf("client %d: P4: stream %s, begun %v ago, has not ended; cursor %d\nits history:\n  %s",
				c.number, v.stream.id, time.Since(v.stream.started).Round(time.Millisecond), v.transcript.Cursor(), strings.Join(c.history, "\n  ")))
		}
	}
}

// round makes one connection. The error is a broken promise; what may happen
// to connections is none.
func (c *tortureClient) round(ctx context.Context, d *round) error {
	for _, pick := range d.picks {
		if len(c.views) >= d.streams {
			break
		}
		s := c.world.pick(pick, d.fresh)
		if s != nil && !slices.ContainsFunc(c.views, func(v *view) bool { return v.stream == s }) {
			c.views = append(c.views, newView(s))
		}
	}
	if len(c.views) == 0 {
		return nil
	}
	if d.rewind {
		v := c.views[0]
		before := v.transcript.Cursor()
		if err := v.rewind(d.rewindPlace); err != nil {
			return err
		}
		c.note("goes back from %d to %d in %s", before, v.transcript.Cursor(), v.stream.id)
		c.world.count(func(n *counts) { n.rewinds++ })
	}
	cursors := make([]protocol.Cursor, len(c.views))
	for i, v := range c.views {
		cursors[i] = protocol.Cursor{Stream: v.stream.id, After: v.transcript.Cursor()}
	}
	c.note("%s from %s", d.transport, protocol.AppendCursors(nil, cursors))
	c.world.count(func(n *counts) {
		n.connections[d.transport]++
		if c.last != "" && c.last != d.transport {
			n.switches++
		}
	})
	c.last = d.transport

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := open(ctx, d.transport, target{url: cmp.Or(c.at, c.world.victim.address()), receive: d.receive}, cursors)
	if err != nil {
		return c.lost(ctx, err)
	}
	abrupt := d.cut == cutReset
	defer func() { l.close(abrupt) }()
	if d.cutAfter > 0 {
		late := time.AfterFunc(d.cutAfter, func() {
			if abrupt {
				l.close(true)
			}
			cancel()
		})
		defer late.Stop()
	}
	return c.read(ctx, d, l, cursors)
}

// read takes deliveries until the decision says that it is enough, all streams
// have ended, or the connection has.
func (c *tortureClient) read(ctx context.Context, d *round, l link, cursors []protocol.Cursor) error {
	paused := d.pause == 0
	ws, _ := l.(*wsConn)
	var leaving *view // the subscription that is being renewed
	left := false     // the server has said that it is over
	for events, messages := 0, 0; ; messages++ {
		poll, polls := l.(*pollConn)
		if polls {
			poll.wait = 700 * time.Millisecond
			if poll.dropNext = d.drops>>(messages%64)&1 != 0; poll.dropNext {
				c.note("will lose the next answer")
				c.world.count(func(n *counts) { n.dropped++ })
			}
		}
		got, err := l.next()
		if err != nil {
			return c.lost(ctx, err)
		}
		if got.message != nil {
			if over, err := c.told(got.message); over || err != nil {
				return err
			}
			if got.message.Type == protocol.MessageUnsubscribed && leaving != nil && !left && !leaving.ended() {
				again := &protocol.Command{Type: protocol.CommandSubscribe, ID: "r", Stream: leaving.stream.id, After: leaving.transcript.Cursor()}
				c.note("subscribes again from %d to %s", again.After, again.Stream)
				if err := ws.send(again); err != nil {
					return c.lost(ctx, err)
				}
				c.world.count(func(n *counts) { n.resubscriptions++ })
				left = true
			}
			if got.message.Type == protocol.MessageSubscribed && got.message.ID == "r" {
				left = false
			}
		}
		for i := range got.events {
			if left && got.events[i].event.Stream == leaving.stream.id {
				return promiseBroken("an event came of stream %s, whose subscription is over", leaving.stream.id)
			}
			if err := c.apply(&got.events[i], cursors); err != nil {
				return err
			}
		}
		if got.cursor != "" {
			want := strconv.FormatUint(cursors[0].After, 10)
			if len(cursors) > 1 {
				want = string(protocol.AppendCursors(nil, cursors))
			}
			if got.cursor != want {
				return promiseBroken("the server says that the cursor is %s, but it is %s", got.cursor, want)
			}
		}
		if !slices.ContainsFunc(c.views, func(v *view) bool { return !v.ended() }) {
			c.note("all have ended")
			return nil
		}
		if got.done {
			return promiseBroken("P4: the server says that nothing follows %s, but not all have ended", protocol.AppendCursors(nil, cursors))
		}
		events += len(got.events)
		if d.cutEvents > 0 && events >= d.cutEvents {
			c.note("cuts the connection (%d) after %d events", d.cut, events)
			c.world.count(func(n *counts) { n.cuts[d.cut]++ })
			return nil
		}
		if ws != nil && leaving == nil && d.resubscribe > 0 && events >= d.resubscribe {
			leaving = c.views[slices.IndexFunc(c.views, func(v *view) bool { return !v.ended() })]
			c.note("unsubscribes from %s", leaving.stream.id)
			if err := ws.send(&protocol.Command{Type: protocol.CommandUnsubscribe, ID: "u", Stream: leaving.stream.id}); err != nil {
				return c.lost(ctx, err)
			}
		}
		if d.slow > 0 {
			c.world.count(func(n *counts) { n.slow++ })
			rest(ctx, d.slow)
		}
		if !paused && events >= d.pauseEvents {
			paused = true
			c.note("pauses for %v", d.pause)
			c.world.count(func(n *counts) { n.pauses++ })
			rest(ctx, d.pause)
		}
	}
}

// told takes a WebSocket's message that is no event. over says that the
// connection is.
func (c *tortureClient) told(m *protocol.Message) (over bool, err error) {
	switch m.Type {
	case protocol.MessageError:
		c.note("is told %s of %s", m.Error.Code, m.Stream)
		return true, c.refused(m.Error, m.Stream)
	case protocol.MessageSubscribed:
		for _, v := range c.views {
			if v.stream.id == m.Stream && (m.Head == nil || *m.Head < v.transcript.Cursor()) {
				return true, promiseBroken("stream %s has cursor %d, and the head is told as %v", m.Stream, v.transcript.Cursor(), m.Head)
			}
		}
	case protocol.MessageReconnect:
		c.note("is told to reconnect: %s", m.Reason)
		c.world.count(func(n *counts) { n.moved++ })
		return true, nil
	}
	return false, nil
}

// lost takes the error that ended a connection, and returns one if it may not
// happen to a connection.
func (c *tortureClient) lost(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		c.note("has cut the connection")
		c.world.count(func(n *counts) { n.cuts[cutGone]++ })
		return nil //nolint:nilerr // the end of ctx is a cut, which may happen
	}
	if r, ok := errors.AsType[*refusedError](cause); ok {
		c.note("is refused with %d %s", r.status, r.error.Code)
	} else {
		c.note("loses the connection: %v", cause)
	}
	if m, ok := errors.AsType[*malformedError](cause); ok {
		return m
	}
	if r, ok := errors.AsType[*refusedError](cause); ok {
		c.world.victim.recovered(ctx)
		return c.refused(r.problem(), "")
	}
	if e, ok := errors.AsType[*net.OpError](cause); ok && e.Op == "dial" {
		c.world.victim.recovered(ctx)
	}
	if code := websocket.CloseStatus(cause); code != -1 && protocol.CloseActionOf(int(code)) != protocol.ActionReconnect {
		return promiseBroken("the server closed the connection with %d", code)
	}
	c.world.count(func(n *counts) {
		n.losses++
		if errors.Is(cause, io.EOF) || errors.Is(cause, errSentAway) {
			n.moved++
		}
	})
	return nil
}

// refused takes the error that a stream was refused with, or, where the stream
// is "", any of those that the client watches. It returns one if that may not
// happen. A stream that nobody knows any more is watched no longer.
func (c *tortureClient) refused(e *protocol.Error, stream string) error {
	c.world.count(func(n *counts) { n.refused++ })
	if e.Code == protocol.CodeStreamNotFound {
		i := slices.IndexFunc(c.views, func(v *view) bool {
			return (stream == "" || v.stream.id == stream) && c.world.victim.mayRefuse(v.stream, e)
		})
		if i < 0 {
			return promiseBroken("stream %s: the server answers with %v", stream, e)
		}
		c.views = slices.Delete(c.views, i, i+1)
		c.world.count(func(n *counts) { n.vanished++ })
		return nil
	}
	for _, v := range c.views {
		if (stream == "" || v.stream.id == stream) && c.world.victim.mayRefuse(v.stream, e) {
			return nil
		}
	}
	return promiseBroken("stream %s: the server answers with %v", stream, e)
}

// apply takes one event.
func (c *tortureClient) apply(e *received, cursors []protocol.Cursor) error {
	i := slices.IndexFunc(cursors, func(cur protocol.Cursor) bool { return cur.Stream == e.event.Stream })
	if i < 0 {
		return promiseBroken("an event came of stream %s, which was not asked for", e.event.Stream)
	}
	v := c.views[slices.IndexFunc(c.views, func(v *view) bool { return v.stream.id == e.event.Stream })]
	before := v.transcript.Cursor()
	if end := v.transcript.Terminal(); end != nil && c.world.victim.mayDiffer(v.stream, end, &e.event) {
		// A client of several streams that has the whole answer of one, from a
		// node that the others took for gone, keeps it.
		cursors[i].After = e.Seq
		c.note("event %d..%d (%s) after the end of %s", e.First, e.Seq, e.Type, v.stream.id)
		c.world.count(func(n *counts) { n.afterEnd++ })
		return nil
	}
	if err := v.transcript.Apply(&e.event); err != nil {
		return err
	}
	if err := v.stream.saw(e); err != nil {
		return fmt.Errorf("stream %s: %w", v.stream.id, err)
	}
	v.events = append(v.events, *e)
	cursors[i].After = e.Seq
	c.note("event %d..%d (%s)", e.First, e.Seq, e.Type)
	c.world.count(func(n *counts) {
		n.events++
		if e.Type == protocol.TypeChunk && e.First < e.Seq {
			n.merged++
		}
		if e.First <= before {
			n.ahead++
		}
	})
	if !v.ended() {
		return nil
	}
	err := v.stream.check(v.transcript)
	if err == nil {
		err = v.stream.ended(v.transcript)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", v.stream.id, err)
	}
	return nil
}

// rest waits, unless ctx ends first.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
