package hub

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A link makes the messages of one transport. Only the session's writer calls
// it. Messages may stand behind each other in one buffer.
type link interface {
	// appendControl appends a message that is no event.
	appendControl(buf, msg []byte) []byte
	// appendCache tells of another generation of cached answers.
	appendCache(buf []byte, generation string) []byte
	// appendEvents appends b as one message.
	appendEvents(buf []byte, b *batch) []byte
	// appendBeats appends what tells the client that the server is there, or
	// asks it whether it is.
	appendBeats(buf []byte, b beats) []byte
	// appendPong answers a ping of the client's.
	appendPong(buf, payload []byte) []byte
	// appendGoodbye appends what the client is told at the end.
	appendGoodbye(buf []byte, e ending) []byte
	// close ends the connection as the transport wants it, after the goodbye.
	close(e ending)
}

// The states of a session's writer, as bits.
const (
	writerRuns  = 1 << iota // a goroutine is in loop, or the session waits in the ready queue
	writerDirty             // something may have come since it last looked
)

// beats are the heartbeats that are due, as bits.
type beats uint8

const (
	beatTell beats = 1 << iota // nothing was written for a while
	beatAsk                    // nothing was read for a while
)

// An ending says why a session ends.
type ending struct {
	reason string        // the metric's label
	code   int           // the WebSocket close code
	detail string        // for the close frame
	move   time.Duration // not 0: tell the client to come back after this time
	abort  bool          // the connection is lost already: no goodbye
}

// A session is one client's streaming connection and its cursors.
type session struct {
	// Set by newSession and start, then read-only.
	hub       *Hub
	transport string
	wire      wire
	link      link
	ctx       context.Context // ends with the session
	cancel    context.CancelFunc
	caller    Credential          // what the client is there by; nil for what doesn't end
	leave     func()              // gives the place back that it was admitted to
	done      chan struct{}       // closed when nothing of the session runs any more
	closed    func(reason string) // counts its end
	release   func()              // ends the watch on the client's credential
	// oneShot says that the session is over when all its streams are (SSE).
	oneShot bool

	state     atomic.Uint32
	lastWrite atomic.Int64 // by sinceStart
	lastRead  atomic.Int64 // the same, of anything from the client; 0 where that can't be seen
	busy      atomic.Bool  // a command is being done, and nothing is read

	// Guarded by the hub's mu: the generation of cached answers that the client
	// has been told, or is about to be.
	generation string

	// Owned by the hub's heart.
	asked time.Duration // when the client was last asked for a sign of life, by sinceStart

	// Owned by the writer goroutine while it runs.
	turn int    // which subscription is gathered first
	rest []byte // of a message that the wire has not taken yet

	mu     sync.Mutex
	subs   []*subscription // guarded by mu; the slice is replaced, not changed
	outbox [][]byte        // guarded by mu: control messages that wait
	beats  beats           // guarded by mu
	cache  string          // guarded by mu: the generation that the client is to be told, "" for none
	ping   []byte          // guarded by mu: the client's newest ping, not nil until it is answered
	ending *ending         // guarded by mu: the session is to end
}

// newSession returns a session that doesn't run yet: wakes are remembered until
// start. Whoever finds that it can't start only calls cancel.
func (h *Hub) newSession(ctx context.Context, transport string) *session {
	s := &session{hub: h, transport: transport, caller: h.credential(ctx), done: make(chan struct{}), generation: h.opts.CacheGeneration()}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.lastWrite.Store(int64(sinceStart()))
	s.state.Store(writerRuns)
	return s
}

// detach lets go of the request that the session began with.
func (s *session) detach() {
	s.cancel()
	s.ctx, s.cancel = context.WithCancel(context.Background())
}

// start begins writing: first what first holds, then the events of subs. What
// reads the connection, if anything does, runs in a goroutine and must return
// when the session has ended. It reports false if the hub is closed.
func (s *session) start(w wire, l link, first []byte, subs []*subscription, read func()) bool {
	h := s.hub
	s.wire, s.link, s.outbox, s.subs = w, l, [][]byte{first}, subs
	s.watchCredential()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		s.release()
		return false
	}
	h.sessions[s] = struct{}{}
	s.tellGeneration() // where it has changed since newSession
	s.closed = h.opened(s.transport)
	if h.draining.Load() { // since it was admitted
		s.mu.Lock()
		if s.ending == nil {
			s.ending = h.drainEnding()
		}
		s.mu.Unlock()
	}
	h.wg.Go(s.run)
	if read != nil {
		h.readers.Go(read)
	}
	return true
}

// wake makes sure that a writer looks at the session after now.
func (s *session) wake() {
	if s.claim() {
		s.hub.ready.add(s)
	}
}

// claim notes that there is something to write, and reports true if the caller
// has to see to it, since no writer does.
func (s *session) claim() bool {
	return s.state.Or(writerRuns|writerDirty)&writerRuns == 0
}

// wakeAll wakes the watchers of a feed that has grown. The caller, who appends,
// neither writes nor waits.
func wakeAll(watchers []watcher) {
	if len(watchers) == 1 { // the usual case needs no memory
		watchers[0].wake()
		return
	}
	var claimed []*session
	for i, w := range watchers {
		s, ok := w.(*session)
		switch {
		case !ok:
			w.wake()
		case s.claim():
			if claimed == nil {
				claimed = make([]*session, 0, len(watchers)-i)
			}
			claimed = append(claimed, s)
		}
	}
	if len(claimed) > 0 {
		claimed[0].hub.ready.add(claimed...) // all are of one hub
	}
}

// scratch is what a writer needs while it runs. An idle session has none.
type scratch struct {
	batch batch
	buf   []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxScratch bounds the buffers that are kept for the next writer.
const maxScratch = 128 << 10

func (sc *scratch) release() {
	sc.batch.reset()
	if cap(sc.buf) <= maxScratch {
		scratches.Put(sc)
	}
}

// run writes until there is nothing more to write, waiting where it must.
func (s *session) run() {
	sc := scratches.Get().(*scratch)
	defer sc.release()
	s.loop(sc, true)
}

// loop writes until there is nothing more to write. If it may not wait, it
// reports true, and leaves the session claimed, when it would have to, and also
// when more keeps coming, since other sessions wait for the goroutine.
func (s *session) loop(sc *scratch, mayWait bool) (waits bool) {
	for rounds := 0; mayWait || rounds < 2; rounds++ {
		s.state.And(^uint32(writerDirty))
		switch s.round(sc, mayWait) {
		case roundWaits:
			return true
		case roundOver:
			return false // writerRuns stays set, so that nothing starts again
		case roundIdle:
			if s.state.CompareAndSwap(writerRuns, 0) {
				return false
			}
		case roundWrote:
		}
	}
	return true
}

// How a round ended.
type roundEnd uint8

const (
	roundIdle  roundEnd = iota // there was nothing to write
	roundWrote                 // there may be more
	roundWaits                 // it needs a goroutine that may wait
	roundOver                  // the session has ended
)

// round writes what waits: control messages, one message of events, and
// heartbeats, with one write.
func (s *session) round(sc *scratch, mayWait bool) roundEnd {
	s.mu.Lock()
	if s.ending != nil && !mayWait {
		s.mu.Unlock()
		return roundWaits
	}
	subs, outbox, due, ping, cache, end := s.subs, s.outbox, s.beats, s.ping, s.cache, s.ending
	s.outbox, s.beats, s.ping, s.cache = nil, 0, nil, ""
	s.mu.Unlock()

	if end != nil && end.abort {
		return s.finish(*end)
	}
	if len(s.rest) > 0 { // only where mayWait: until then nobody else claims
		if err := s.wire.write(s.rest); err != nil {
			return s.fail(err)
		}
		s.rest = nil
	}
	buf := sc.buf[:0]
	for _, msg := range outbox {
		buf = s.link.appendControl(buf, msg)
	}
	if end != nil {
		return s.goodbye(sc, buf, subs, *end)
	}
	if ping != nil {
		buf = s.link.appendPong(buf, ping)
	}
	if cache != "" {
		buf = s.link.appendCache(buf, cache)
	}

	b := &sc.batch
	b.reset()
	var lost *streamError
	_, err := s.hub.gather(s.ctx, b, subs, s.turn, s.hub.opts.MessageBytes, mayWait)
	waits := errors.Is(err, errWouldWait)
	if err != nil && !waits {
		s.hub.log(s.ctx, err)
		if lost, _ = errors.AsType[*streamError](err); lost == nil || s.oneShot || s.ctx.Err() != nil {
			return s.goodbye(sc, buf, nil, s.endingOr(ending{reason: "stream_lost", code: protocol.CloseGoingAway, move: s.hub.reconnectDelay()}))
		}
	}
	s.turn++
	if len(b.items) > 0 {
		buf = s.link.appendEvents(buf, b)
	}
	if len(buf) > 0 {
		due &^= beatTell // the client is just being told
	}
	if due != 0 {
		buf = s.link.appendBeats(buf, due)
	}
	if lost != nil {
		m := protocol.Message{Type: protocol.MessageError, Stream: lost.sub.feed.id, Error: protocol.AsError(lost.err)}
		buf = s.link.appendControl(buf, m.JSON())
		s.remove(lost.sub, nil)
	}
	sc.buf = buf
	if len(buf) == 0 {
		if waits {
			return roundWaits
		}
		return roundIdle
	}
	written, err := s.send(buf, mayWait)
	if err != nil {
		return s.fail(err)
	}
	s.lastWrite.Store(s.hub.now.Load())
	if len(b.items) > 0 {
		s.hub.opts.Metrics.Wrote(s.transport, len(b.items), b.merged, b.bytes, b.lag)
		s.drop(b)
	}
	switch {
	case s.oneShot && allDone(subs):
		s.markDone()
		if !mayWait {
			return roundWaits
		}
		return roundWrote
	case !written || waits:
		return roundWaits
	}
	return roundWrote
}

// endingOr returns why the session is to end, e if nothing else was said.
func (s *session) endingOr(e ending) ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		return *s.ending
	}
	return e
}

// send writes buf, or as much of it as needs no waiting; the rest is kept for
// the next round, which may wait. It reports whether all was written.
func (s *session) send(buf []byte, mayWait bool) (written bool, err error) {
	if mayWait {
		return true, s.wire.write(buf)
	}
	n, err := s.wire.writeNow(buf)
	if err != nil || n == len(buf) {
		return true, err
	}
	s.rest = bytes.Clone(buf[n:])
	return false, nil
}

// markDone ends a session whose streams have all ended and been written.
func (s *session) markDone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending == nil {
		s.ending = &ending{reason: "done", code: protocol.CloseDone}
	}
}

// goodbye writes buf, what is left of the streams where the client is asked to
// move, and why the session ends.
func (s *session) goodbye(sc *scratch, buf []byte, subs []*subscription, e ending) roundEnd {
	if e.abort {
		return s.finish(e)
	}
	var err error
	if len(buf) > 0 {
		err = s.wire.write(buf)
	}
	if err == nil && e.move > 0 {
		err = s.writeRest(sc, subs)
	}
	if err == nil {
		if buf = s.link.appendGoodbye(sc.buf[:0], e); len(buf) > 0 {
			err = s.wire.write(buf)
		}
	}
	if err != nil {
		return s.fail(err)
	}
	return s.finish(e)
}

// writeRest writes what the feeds hold before a client is asked to move: the
// end of an analysis that was allowed to finish, say, which the client could
// otherwise only read once it has found another node. What a running stream
// gets in the meantime is left to that one.
func (s *session) writeRest(sc *scratch, subs []*subscription) error {
	heads := make([]uint64, len(subs))
	for i, sub := range subs {
		heads[i], _ = sub.feed.Head()
	}
	b := &sc.batch
	for i, sub := range subs {
		for sub.after < heads[i] {
			b.reset()
			_, err := s.hub.gather(s.ctx, b, subs[i:i+1], 0, s.hub.opts.MessageBytes, false)
			if err != nil || len(b.items) == 0 {
				break // the history is left to the other node, too
			}
			sc.buf = s.link.appendEvents(sc.buf[:0], b)
			if err := s.wire.write(sc.buf); err != nil {
				return err
			}
			s.hub.opts.Metrics.Wrote(s.transport, len(b.items), b.merged, b.bytes, b.lag)
		}
	}
	return nil
}

// drop ends the subscriptions whose terminal event is in b, so that they don't
// count any more.
func (s *session) drop(b *batch) {
	if s.oneShot {
		return // the ids of SSE frames name every stream of the request
	}
	for i := range b.items {
		if b.items[i].event.Terminal() {
			s.remove(b.items[i].sub, nil)
		}
	}
}

// fail ends the session after a write that failed, which it also does when the
// connection was aborted for another reason.
func (s *session) fail(err error) roundEnd {
	s.mu.Lock()
	e := s.ending
	s.mu.Unlock()
	if e == nil || !e.abort {
		e = &ending{reason: "write_failed", abort: true}
		if isTimeout(err) {
			e.reason = "too_slow"
		}
	}
	return s.finish(*e)
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// finish ends the session. Only the writer calls it, once.
func (s *session) finish(e ending) roundEnd {
	s.mu.Lock()
	subs := s.subs
	s.subs, s.outbox = nil, nil
	s.ending = &e
	s.mu.Unlock()

	s.release()
	s.hub.unsubscribeAll(subs)
	if e.abort {
		s.wire.abort()
	} else {
		s.link.close(e)
	}
	s.wire.close()
	s.hub.mu.Lock()
	delete(s.hub.sessions, s)
	s.hub.mu.Unlock()
	s.leave()
	s.cancel()
	close(s.done)
	s.closed(e.reason)
	return roundOver
}

// end asks the writer to end the session. The first ending counts, except that
// a lost connection overrides a goodbye.
func (s *session) end(e ending) {
	s.mu.Lock()
	if s.ending == nil || (e.abort && !s.ending.abort) {
		s.ending = &e
	}
	s.mu.Unlock()
	if e.abort {
		s.wire.abort() // a write that hangs comes back
	}
	s.cancel() // so does a read of history
	s.wake()
}

// maxOutbox bounds the control messages that wait for one client. More means
// that it goes on sending commands and doesn't read the answers.
const maxOutbox = 1024

// answer has a ping of the client's answered. Of several that wait only the
// newest is, which RFC 6455, section 5.5.3, allows.
func (s *session) answer(ping []byte) {
	s.mu.Lock()
	s.ping = append(make([]byte, 0, len(ping)), ping...)
	s.mu.Unlock()
	s.wake()
}

// tell queues a control message.
func (s *session) tell(m *protocol.Message) {
	s.mu.Lock()
	s.queue(m)
	s.mu.Unlock()
	s.wake()
}

// queue puts m into the outbox. s.mu is held; the caller wakes the session.
func (s *session) queue(m *protocol.Message) {
	if s.ending != nil {
		return
	}
	s.outbox = append(s.outbox, m.JSON())
	if len(s.outbox) > maxOutbox {
		s.ending = &ending{reason: "too_slow", abort: true}
		s.wire.abort() // the writer hangs in a write
	}
}

// add takes sub into the session, behind the answer m, or gives it back if the
// session has ended.
func (s *session) add(sub *subscription, m *protocol.Message) {
	s.mu.Lock()
	if s.ending != nil {
		s.mu.Unlock()
		s.hub.unsubscribe(sub)
		return
	}
	s.subs = append(slices.Clone(s.subs), sub)
	s.queue(m)
	s.mu.Unlock()
	s.wake()
}

// remove ends a subscription, with the answer m if it is not nil. It reports
// false if it was no longer there.
func (s *session) remove(sub *subscription, m *protocol.Message) bool {
	s.mu.Lock()
	i := slices.Index(s.subs, sub)
	if i < 0 {
		s.mu.Unlock()
		return false
	}
	s.subs = slices.Delete(slices.Clone(s.subs), i, i+1)
	if m != nil {
		s.queue(m)
	}
	s.mu.Unlock()
	s.hub.unsubscribe(sub)
	if m != nil {
		s.wake()
	}
	return true
}

// streams returns how many streams the session watches, and its subscription
// to this one, or nil.
func (s *session) streams(stream string) (n int, watched *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subs {
		if sub.feed.id == stream {
			watched = sub
		}
	}
	return len(s.subs), watched
}

// tick is called by the heart, several times per heartbeat. A client is asked
// for a sign of life also while it is written to: that a write succeeds only
// shows that a buffer took it.
func (s *session) tick(now time.Duration) {
	beat := s.hub.opts.Heartbeat
	var due beats
	if read := time.Duration(s.lastRead.Load()); read != 0 && !s.busy.Load() {
		if now-read > 5*beat/2 {
			s.end(ending{reason: "heartbeat_missed", code: protocol.CloseHeartbeatMissed, detail: "no sign of life"})
			return
		}
		if now-read >= beat && now-s.asked >= beat {
			s.asked = now
			due |= beatAsk
		}
	}
	if now-time.Duration(s.lastWrite.Load()) >= beat {
		s.lastWrite.Store(int64(now)) // once per interval, also while a write hangs
		due |= beatTell
	}
	if due == 0 {
		return
	}
	s.mu.Lock()
	s.beats |= due
	s.mu.Unlock()
	s.wake()
}
