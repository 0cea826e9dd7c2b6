package backbone

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	topicPrefix  = "athena."
	gatherPrefix = "athena.gather."
	// headerFailed, with a reason, is on a reply that could not be given.
	headerFailed = "Athena-Failed"
)

// reserved are the topics whose subjects this package uses otherwise.
var reserved = map[string]bool{"log": true, "live": true, "gather": true, "ping": true}

func checkTopic(topic string) error {
	if reserved[topic] {
		return fmt.Errorf("%w: topic %q is used otherwise", ErrInvalid, topic)
	}
	return checkToken("topic", topic)
}

func checkTopicAndName(topic, name string) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	return checkToken("name", name)
}

// Serve answers what others ask of a topic and a name, by fn, one request at a
// time. When it returns, requests from this node reach it, and those from the
// others as soon as they have heard of it, some milliseconds later. A name
// should be served once. A reply may have up to MaxMessageBytes. fn should not
// block for long, since the next request waits for it. stop is as
// SubscribeLive's.
func (b *Backbone) Serve(topic, name string, fn func(request []byte) (reply []byte)) (stop func(), err error) {
	if err := checkTopicAndName(topic, name); err != nil {
		return nil, err
	}
	stop, err = b.subscribe(topicPrefix+topic+"."+name, func(m *nats.Msg) { b.respond(m, topic, fn(m.Data)) }, nil)
	if err != nil {
		return nil, fmt.Errorf("serve %s of %s: %w", topic, name, err)
	}
	return sync.OnceFunc(stop), nil
}

// respond sends the reply to m, or word that it can't be sent.
func (b *Backbone) respond(m *nats.Msg, topic string, reply []byte) {
	if m.Reply == "" {
		return
	}
	err := m.Respond(reply)
	if errors.Is(err, nats.ErrMaxPayload) {
		err = m.RespondMsg(&nats.Msg{Header: nats.Header{headerFailed: {err.Error()}}})
	}
	if err != nil && !b.closing.Load() {
		b.log.Debug().Err(err).Str("topic", topic).Msg("could not answer another node")
	}
}

// Ask asks whoever serves a topic and a name, on whichever node. ErrNoOwner,
// at once, where nobody does. Where the node that does has died without a word
// and nobody has noticed yet, it takes until ctx ends.
func (b *Backbone) Ask(ctx context.Context, topic, name string, request []byte) (reply []byte, err error) {
	if err := checkTopicAndName(topic, name); err != nil {
		return nil, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	m, err := b.conn.RequestWithContext(ctx, topicPrefix+topic+"."+name, request)
	if errors.Is(err, nats.ErrNoResponders) {
		err = ErrNoOwner
	}
	if err == nil {
		if reason := m.Header.Get(headerFailed); reason != "" {
			err = fmt.Errorf("its owner could not answer: %s", reason)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ask for %s of %s: %w", topic, name, known(err))
	}
	return m.Data, nil
}

// Publish sends data to all nodes that have subscribed to topic, this one
// included. Delivery is at most once.
func (b *Backbone) Publish(topic string, data []byte) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	if err := b.conn.Publish(topicPrefix+topic, data); err != nil {
		return fmt.Errorf("publish on %s: %w", topic, known(err))
	}
	return nil
}

// Subscribe calls fn with what is published on topic from now on, in order and
// from one goroutine. fn may keep data and must not block for long: what waits
// for it is bounded, and beyond that it is dropped. stop is as SubscribeLive's.
func (b *Backbone) Subscribe(topic string, fn func(data []byte)) (stop func(), err error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	stop, err = b.subscribe(topicPrefix+topic, func(m *nats.Msg) { fn(m.Data) }, func(s *nats.Subscription) error {
		return s.SetPendingLimits(b.opts.PendingMessages, b.opts.PendingBytes)
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", topic, err)
	}
	return sync.OnceFunc(stop), nil
}

// Answer answers what Gather asks of all nodes on topic, by fn, one request at
// a time. Where fn returns nil, this node says nothing. fn should not block for
// long. stop is as SubscribeLive's.
func (b *Backbone) Answer(topic string, fn func(request []byte) (reply []byte)) (stop func(), err error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	stop, err = b.subscribe(gatherPrefix+topic, func(m *nats.Msg) {
		if reply := fn(m.Data); reply != nil {
			b.respond(m, topic, reply)
		}
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("answer %s: %w", topic, err)
	}
	return sync.OnceFunc(stop), nil
}

// Gather asks all nodes that Answer on topic, this one included, and returns
// what they reply until there are n replies or ctx ends, which is no error:
// then it is what has come. None, and at once, where nobody answers. A ctx
// without a deadline is given one of 10 s.
func (b *Backbone) Gather(ctx context.Context, topic string, request []byte, n int) ([][]byte, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	if n <= 0 {
		return nil, nil
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	token, g := b.gathers.begin(n)
	defer b.gathers.end(token)
	if err := b.conn.PublishRequest(gatherPrefix+topic, b.gathers.prefix+token, request); err != nil {
		return nil, fmt.Errorf("ask all nodes for %s: %w", topic, known(err))
	}
	select {
	case <-g.done:
	case <-ctx.Done():
	case <-b.closed:
		return nil, fmt.Errorf("ask all nodes for %s: %w", topic, ErrClosed)
	}
	return b.gathers.replies(g), nil
}

// gathers are the calls of Gather that wait. They share one subscription, since
// one for each call would have to be made known to every node and forgotten
// again, which costs more than the question.
type gathers struct {
	prefix string // of the subjects for replies; set by serveGathers, then read-only

	mu      sync.Mutex
	last    uint64             // guarded by mu
	waiting map[string]*gather // by token; guarded by mu
}

type gather struct {
	done chan struct{} // closed when there are enough replies, or nobody answers

	want    int
	replies [][]byte // guarded by gathers.mu
	over    bool     // done is closed; guarded by gathers.mu
}

func (b *Backbone) serveGathers() error {
	b.gathers.prefix = b.conn.NewInbox() + "."
	b.gathers.waiting = make(map[string]*gather)
	_, err := b.subscribe(b.gathers.prefix+"*", b.gathers.reply, nil)
	if err != nil {
		return fmt.Errorf("listen for replies: %w", err)
	}
	return nil
}

func (gs *gathers) begin(n int) (token string, g *gather) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.last++
	token, g = strconv.FormatUint(gs.last, 36), &gather{done: make(chan struct{}), want: n}
	gs.waiting[token] = g
	return token, g
}

func (gs *gathers) end(token string) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	delete(gs.waiting, token)
}

func (gs *gathers) replies(g *gather) [][]byte {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return g.replies
}

func (gs *gathers) reply(m *nats.Msg) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.waiting[m.Subject[len(gs.prefix):]]
	if g == nil || g.over {
		return
	}
	nobody := len(m.Data) == 0 && m.Header.Get("Status") == "503"
	if !nobody && m.Header.Get(headerFailed) == "" {
		g.replies = append(g.replies, m.Data)
	}
	if nobody || len(g.replies) == g.want {
		g.over = true
		close(g.done)
	}
}

// servePing lets this node answer itself.
func (b *Backbone) servePing() error {
	b.ping = "athena.ping." + b.conn.NewInbox()
	_, err := b.subscribe(b.ping, func(m *nats.Msg) {
		_ = m.Respond(m.Data) // Ping says so when nothing arrives
	}, nil)
	if err != nil {
		return fmt.Errorf("listen for pings: %w", err)
	}
	return nil
}

// Ping sends a message through the bus to itself and writes to the store, and
// returns nil when both worked. Where only the store doesn't, the error is
// ErrNoStore.
func (b *Backbone) Ping(ctx context.Context) error {
	if b.closing.Load() {
		return ErrClosed
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	if _, err := b.conn.RequestWithContext(ctx, b.ping, []byte("ping")); err != nil {
		return fmt.Errorf("send a message through the bus: %w", known(err))
	}
	if err := b.pingStore(ctx); err != nil {
		return fmt.Errorf("write to the store: %w", err)
	}
	return nil
}

// pingTimeout bounds one write that shows whether the store works.
const pingTimeout = 2 * time.Second
