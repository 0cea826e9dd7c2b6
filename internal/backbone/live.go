package backbone

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const livePrefix = "athena.live."

// PublishLive hands data to the bus for whoever is subscribed to stream id. It
// keeps data, which must not change afterwards, and never waits for the
// network: a connection's own Publish does when its buffer is full, so a
// goroutine of this package does that part. Messages of one id arrive in the
// order of the calls.
//
// Where nobody can be interested, since the server is in this process and
// listens nowhere, it returns without queueing: 44 ns. With one subscriber in
// the same process, published and received, a message takes 3.7 µs on a machine
// with two busy cores (BenchmarkPublishLive…).
//
// It returns ErrOverloaded, and drops data, when LiveQueueBytes wait already.
func (b *Backbone) PublishLive(id string, data []byte) error {
	if err := checkToken("stream id", id); err != nil {
		return err
	}
	if b.closing.Load() {
		return ErrClosed
	}
	if b.alone && !b.interest.has(id) {
		return nil
	}
	// The embedded server knows of the whole cluster who is interested. Whoever
	// follows a stream subscribes first and asks its owner second, over the same
	// route, so when the owner answers, its server knows; and what is not
	// published until then is in the answer. 0.2 µs, in the place of 4 for a
	// message that the server throws away.
	if b.server != nil && !b.alone && !b.server.GlobalAccount().SubscriptionInterest(livePrefix+id) {
		return nil
	}
	if int64(len(data)) > b.liveConn.MaxPayload() {
		return fmt.Errorf("publish %d bytes of %s: %w", len(data), id, ErrTooLarge)
	}
	if !b.queue.put(liveMsg{id, data}) {
		b.dropped.Add(1)
		return ErrOverloaded
	}
	return nil
}

// publishQueued runs in the queue's goroutine.
func (b *Backbone) publishQueued(msgs []liveMsg) {
	for i := range msgs {
		if err := b.liveConn.Publish(livePrefix+msgs[i].id, msgs[i].data); err != nil {
			b.dropped.Add(1)
			if !b.closing.Load() {
				b.log.Debug().Err(err).Str("stream", msgs[i].id).Msg("live message was not published")
			}
		}
	}
}

// SubscribeLive calls fn with every message that is published to stream id
// from now on, in order and from one goroutine. When it returns, the
// subscription is in force at the server: nothing published after is missed,
// by this process or another one on the same server.
//
// fn may keep data. It must not block: what waits for it is bounded
// (Options.PendingBytes), and beyond that messages are dropped and
// Options.OnDrop is told. Once stop has returned, no further call begins; one
// under way may still be finishing. stop may be called more than once, and
// from fn.
func (b *Backbone) SubscribeLive(id string, fn func(data []byte)) (stop func(), err error) {
	if err := checkToken("stream id", id); err != nil {
		return nil, err
	}
	l := &liveSub{id: id, drop: b.drop}
	b.interest.add(id, l)
	stopSub, err := b.subscribe(livePrefix+id, func(m *nats.Msg) {
		if l.slow.Load() {
			l.tell(m.Sub)
		}
		fn(m.Data)
	}, func(s *nats.Subscription) error {
		l.sub.Store(s)
		return s.SetPendingLimits(b.opts.PendingMessages, b.opts.PendingBytes)
	})
	if err != nil {
		b.interest.remove(id, l)
		return nil, fmt.Errorf("subscribe to %s: %w", id, err)
	}
	return sync.OnceFunc(func() {
		stopSub()
		b.interest.remove(id, l)
	}), nil
}

// subscribe is a subscription that is in force at the server when it returns,
// whose goroutine Close waits for, and whose function isn't called once stop
// has returned.
func (b *Backbone) subscribe(subject string, fn func(*nats.Msg), setUp func(*nats.Subscription) error) (stop func(), err error) {
	b.mu.Lock()
	if b.closing.Load() {
		b.mu.Unlock()
		return nil, ErrClosed
	}
	b.subs.Add(1)
	b.mu.Unlock()
	var stopped atomic.Bool
	sub, err := b.conn.Subscribe(subject, func(m *nats.Msg) {
		if !stopped.Load() {
			fn(m)
		}
	})
	if err != nil {
		b.subs.Done()
		return nil, known(err)
	}
	// Called when the subscription's goroutine ends, which it does when it is
	// unsubscribed or the connection is closed.
	ended := sync.OnceFunc(b.subs.Done)
	sub.SetClosedHandler(func(string) { ended() })
	if !sub.IsValid() {
		ended() // before it had the handler
	}
	stop = func() {
		stopped.Store(true)
		_ = sub.Unsubscribe() // fails only where it has ended already
	}
	if setUp != nil {
		err = setUp(sub)
	}
	if err == nil {
		err = b.conn.FlushTimeout(connectTimeout)
	}
	if err != nil {
		stop()
		return nil, known(err)
	}
	return stop, nil
}

// A liveSub is one live subscription of this process.
type liveSub struct {
	// Set by SubscribeLive, then read-only.
	id   string
	drop func(id string, n int)

	sub atomic.Pointer[nats.Subscription]
	// slow is set when the connection says that messages are being dropped,
	// which it says for the first one only. From then on the subscription's
	// own goroutine counts, until it has caught up.
	slow atomic.Bool

	mu   sync.Mutex
	told int // how many drops have been told, guarded by mu
}

// tell tells of the messages dropped since it was last called.
func (l *liveSub) tell(sub *nats.Subscription) {
	// In this order: a message dropped after the flag was cleared sets it
	// again, and one dropped before is counted here.
	if waiting, _, err := sub.Pending(); err == nil && waiting == 0 {
		l.slow.Store(false)
	}
	n, err := sub.Dropped()
	if err != nil {
		return // it has ended
	}
	l.mu.Lock()
	fresh := n - l.told
	l.told = n
	l.mu.Unlock()
	if fresh > 0 {
		l.drop(l.id, fresh)
	}
}

// interest knows which streams this process is subscribed to.
type interest struct {
	mu sync.RWMutex
	by map[string][]*liveSub // guarded by mu
}

func (in *interest) has(id string) bool {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return len(in.by[id]) > 0
}

func (in *interest) add(id string, l *liveSub) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.by == nil {
		in.by = make(map[string][]*liveSub)
	}
	in.by[id] = append(in.by[id], l)
}

func (in *interest) remove(id string, l *liveSub) {
	in.mu.Lock()
	defer in.mu.Unlock()
	subs := in.by[id]
	for i := range subs {
		if subs[i] == l {
			subs = append(subs[:i:i], subs[i+1:]...)
			break
		}
	}
	if len(subs) == 0 {
		delete(in.by, id)
	} else {
		in.by[id] = subs
	}
}

func (in *interest) each(fn func(id string)) {
	in.mu.RLock()
	ids := make([]string, 0, len(in.by))
	for id := range in.by {
		ids = append(ids, id)
	}
	in.mu.RUnlock()
	for _, id := range ids {
		fn(id)
	}
}

// slow is called when sub has begun to drop messages.
func (in *interest) slow(id string, sub *nats.Subscription) {
	var late *liveSub
	in.mu.RLock()
	for _, l := range in.by[id] {
		if l.sub.Load() == sub {
			late = l
		}
	}
	in.mu.RUnlock()
	if late != nil {
		late.slow.Store(true)
		late.tell(sub)
	}
}

type liveMsg struct {
	id   string
	data []byte
}

// A liveQueue takes messages without waiting and gives them to one goroutine,
// many at a time.
type liveQueue struct {
	max  int
	wake chan struct{} // holds a token while msgs may be non-empty
	done chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	msgs   []liveMsg // guarded by mu
	bytes  int       // of msgs and of what is being published; guarded by mu
	closed bool      // guarded by mu
}

// liveMsgOverhead is what a queued message costs beside its data.
const liveMsgOverhead = 64

func (q *liveQueue) init(maxBytes int) {
	q.max, q.wake = maxBytes, make(chan struct{}, 1)
}

func (q *liveQueue) start(publish func([]liveMsg)) {
	q.done = make(chan struct{})
	go q.run(publish)
}

func (q *liveQueue) run(publish func([]liveMsg)) {
	defer close(q.done)
	var spare []liveMsg
	for range q.wake {
		for {
			q.mu.Lock()
			msgs, closed := q.msgs, q.closed
			q.msgs = spare[:0]
			q.mu.Unlock()
			if len(msgs) == 0 {
				if closed {
					return
				}
				spare = msgs
				break
			}
			publish(msgs)
			size := 0
			for i := range msgs {
				size += len(msgs[i].data) + liveMsgOverhead
			}
			q.mu.Lock()
			q.bytes -= size
			q.mu.Unlock()
			clear(msgs)
			spare = msgs
			if cap(spare) > maxSpare {
				spare = nil // a burst should not be paid for ever after
			}
		}
	}
}

const maxSpare = 4096

func (q *liveQueue) put(m liveMsg) bool {
	size := len(m.data) + liveMsgOverhead
	q.mu.Lock()
	if q.closed || q.bytes+size > q.max {
		q.mu.Unlock()
		return false
	}
	q.bytes += size
	q.msgs = append(q.msgs, m)
	first := len(q.msgs) == 1
	q.mu.Unlock()
	if first {
		q.kick()
	}
	return true
}

func (q *liveQueue) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// stop lets the goroutine publish what is queued and end, and reports whether
// it did within d.
func (q *liveQueue) stop(d time.Duration) bool {
	if q.done == nil {
		return true
	}
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.kick()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-q.done:
		return true
	case <-timer.C:
		return false
	}
}

// wait waits until the goroutine has ended, after stop.
func (q *liveQueue) wait() {
	if q.done != nil {
		<-q.done
	}
}
