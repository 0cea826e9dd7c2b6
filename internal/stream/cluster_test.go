package stream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

// A faultBus is a backbone with faults that the test turns on and off.
type faultBus struct {
	*backbone.Backbone

	away      atomic.Bool                     // the store answers nothing, and that is known
	hang      atomic.Bool                     // recording a job takes until its context ends
	unmarked  atomic.Bool                     // records can't be removed
	deaf      atomic.Bool                     // no live message arrives
	mute      atomic.Bool                     // none is sent
	slow      atomic.Int64                    // how long answers to others' questions take
	append    atomic.Pointer[appendFault]     // in the place of an append
	read      atomic.Pointer[readFault]       // in the place of reading the log
	lag       atomic.Pointer[backbone.Record] // what reading a record gives instead
	tail      atomic.Pointer[tails]           // what the log of the streams ends with, in the place of what it does
	apart     atomic.Bool                     // owners can't be reached, and it looks as if there were none
	unsettled atomic.Bool                     // nodes come and go
	asked     atomic.Int64                    // questions to owners
	subscribe atomic.Int64                    // live subscriptions that are in force
}

type appendFault func(real func() (uint64, error)) (uint64, error)

type readFault func(real func() ([]backbone.Batch, error)) ([]backbone.Batch, error)

var errAway = fmt.Errorf("%w: the test says so", backbone.ErrNoStore)

func (b *faultBus) StoreUp() bool { return !b.away.Load() && b.Backbone.StoreUp() }

func (b *faultBus) Settled() bool { return !b.unsettled.Load() }

func (b *faultBus) AppendLog(ctx context.Context, id string, prev uint64, batch backbone.Batch) (uint64, error) {
	return b.StartAppend(ctx, id, prev, batch)()
}

func (b *faultBus) StartAppend(ctx context.Context, id string, prev uint64, batch backbone.Batch) func() (uint64, error) {
	if b.away.Load() {
		return func() (uint64, error) { return 0, errAway }
	}
	real := func() (uint64, error) { return b.Backbone.AppendLog(ctx, id, prev, batch) }
	if f := b.append.Load(); f != nil {
		return func() (uint64, error) { return (*f)(real) }
	}
	return b.Backbone.StartAppend(ctx, id, prev, batch)
}

func (b *faultBus) ReadLog(ctx context.Context, id string, after uint64, budget int) ([]backbone.Batch, error) {
	if b.away.Load() {
		return nil, errAway
	}
	if f := b.read.Load(); f != nil {
		return (*f)(func() ([]backbone.Batch, error) { return b.Backbone.ReadLog(ctx, id, after, budget) })
	}
	return b.Backbone.ReadLog(ctx, id, after, budget)
}

func (b *faultBus) LogTail(ctx context.Context, id string) (last, pos uint64, end bool, err error) {
	if b.away.Load() {
		return 0, 0, false, errAway
	}
	if m := b.tail.Load(); m != nil {
		return (*m)[id], 1, false, nil
	}
	return b.Backbone.LogTail(ctx, id)
}

func (b *faultBus) LogTailNow(ctx context.Context, id string) (last uint64, err error) {
	if b.away.Load() {
		return 0, errAway
	}
	return b.Backbone.LogTailNow(ctx, id)
}

func (b *faultBus) RunningRecord(ctx context.Context, id string) (backbone.Record, error) {
	if b.away.Load() {
		return backbone.Record{}, errAway
	}
	if r := b.lag.Load(); r != nil {
		return *r, nil
	}
	return b.Backbone.RunningRecord(ctx, id)
}

func (b *faultBus) TakeRunning(ctx context.Context, id string, record []byte, revision uint64) (uint64, bool, error) {
	if b.away.Load() {
		return 0, false, errAway
	}
	if b.hang.Load() {
		<-ctx.Done()
		return 0, false, ctx.Err()
	}
	return b.Backbone.TakeRunning(ctx, id, record, revision)
}

func (b *faultBus) ClearRunning(ctx context.Context, id string) error {
	if b.away.Load() || b.unmarked.Load() {
		return errAway
	}
	return b.Backbone.ClearRunning(ctx, id)
}

func (b *faultBus) PublishLive(id string, data []byte) error {
	if b.mute.Load() {
		return nil
	}
	return b.Backbone.PublishLive(id, data)
}

func (b *faultBus) SubscribeLive(id string, fn func([]byte)) (func(), error) {
	stop, err := b.Backbone.SubscribeLive(id, func(data []byte) {
		if !b.deaf.Load() {
			fn(data)
		}
	})
	if err != nil {
		return nil, err
	}
	b.subscribe.Add(1)
	return sync.OnceFunc(func() { b.subscribe.Add(-1); stop() }), nil
}

func (b *faultBus) ServeHistory(id string, fn func([]byte) []byte) (func(), error) {
	return b.Backbone.ServeHistory(id, func(request []byte) []byte {
		if d := b.slow.Load(); d > 0 {
			<-time.After(time.Duration(d))
		}
		return fn(request)
	})
}

func (b *faultBus) AskHistory(ctx context.Context, id string, request []byte) ([]byte, error) {
	b.asked.Add(1)
	if b.apart.Load() {
		return nil, backbone.ErrNoOwner
	}
	return b.Backbone.AskHistory(ctx, id, request)
}

// A peer is one of several nodes, with a server in front.
type peer struct {
	t     *testing.T
	name  string
	bus   *faultBus
	feeds *hub.Feeds
	node  *stream.Node
	hub   *hub.Hub
	url   string
	down  bool

	unstored atomic.Int64
}

// fast are options under which everything that waits in a test is short.
var fast = stream.Options{BatchInterval: 5 * time.Millisecond, RetryMax: 50 * time.Millisecond, TerminalWait: 50 * time.Millisecond,
	AskTimeout: 500 * time.Millisecond, CheckInterval: 50 * time.Millisecond}

// peers starts nodes over one NATS server.
func peers(t *testing.T, o stream.Options, names ...string) (all []*peer) {
	t.Helper()
	srv := natsServer(t)
	for _, name := range names {
		all = append(all, startPeer(t, srv, name, o, len(names)-1))
	}
	return all
}

func startPeer(t *testing.T, srv, name string, o stream.Options, others int) *peer {
	t.Helper()
	p := &peer{t: t, name: name}
	bus, err := backbone.Open(t.Context(), backbone.Options{NatsURL: srv, Node: name, OnDrop: func(id string, _ int) { p.node.Dropped(id) }})
	must(t, err)
	p.bus = &faultBus{Backbone: bus}
	p.feeds = hub.NewFeeds(hub.FeedLimits{Linger: 50 * time.Millisecond, OpenTimeout: 5 * time.Second})
	o.Node, o.Metrics = name, p
	if o.Peers == nil {
		o.Peers = func() int { return others }
	}
	if testing.Verbose() {
		o.Logger = zerolog.New(zerolog.NewTestWriter(t)).With().Str("node", name).Logger()
	}
	p.node = stream.New(p.feeds, p.bus, o)
	p.hub = hub.New(p.feeds, p.node, hub.Options{PollLinger: time.Millisecond, HistoryTimeout: 5 * time.Second, Viewers: p.node.ViewersElsewhere})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		after, err := strconv.ParseUint(q.Get("after"), 10, 64)
		if err != nil {
			t.Error(err)
		}
		wait, _ := time.ParseDuration(q.Get("wait"))
		p.hub.ServeLongPoll(w, r, []protocol.Cursor{{Stream: q.Get("stream"), After: after}}, true, wait)
	}))
	p.url = server.URL
	t.Cleanup(func() {
		p.stop()
		server.CloseClientConnections()
		server.Close()
	})
	return p
}

func (p *peer) BatchStored(int, int, time.Duration) {}
func (p *peer) StoreFailed()                        {}
func (p *peer) Unstored(delta int)                  { p.unstored.Add(int64(delta)) }

// stop ends the node; jobs that still write are cut off, as by a crash.
func (p *peer) stop() {
	if p.down {
		return
	}
	p.down = true
	p.hub.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := p.node.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		p.t.Error(err)
	}
	p.feeds.Close()
	if err := p.bus.Close(); err != nil {
		p.t.Error(err)
	}
}

// crash ends the node with what it has not stored.
func (p *peer) crash() {
	p.bus.away.Store(true)
	p.stop()
}

func (p *peer) create() *stream.Writer {
	p.t.Helper()
	w, err := p.node.Create(p.t.Context(), protocol.NewStreamID())
	must(p.t, err)
	return w
}

// lost is what a node that looks for orphans finds.
func (p *peer) lost(id string) stream.Lost {
	p.t.Helper()
	r, err := p.bus.Backbone.RunningRecord(p.t.Context(), id)
	must(p.t, err)
	if r.Revision == 0 {
		p.t.Fatalf("stream %s has no record", id)
	}
	l, err := stream.ParseRecord(id, r)
	must(p.t, err)
	return l
}

func (p *peer) takeOver(id string) *stream.Takeover {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	t, err := p.node.TakeOver(ctx, p.lost(id))
	must(p.t, err)
	return t
}

func resume(t *testing.T, taken *stream.Takeover, attempt int) *stream.Writer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w, err := taken.Resume(ctx, &protocol.Failover{From: "p", To: "p", Attempt: attempt, Reason: "owner_lost"})
	must(t, err)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: attempt}))
	return w
}

func start(t *testing.T, w *stream.Writer) {
	t.Helper()
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
}

// say writes chunks and returns their text.
func say(t *testing.T, w *stream.Writer, attempt, n int, what string) string {
	t.Helper()
	var text strings.Builder
	for i := range n {
		piece := fmt.Sprintf("%s %d é;", what, i)
		text.WriteString(piece)
		must(t, w.Chunk(protocol.KindText, attempt, piece))
	}
	return text.String()
}

func complete(t *testing.T, w *stream.Writer) {
	t.Helper()
	must(t, w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop", Provider: "p"}))
}

// logged waits until the log has events up to seq.
func (p *peer) logged(id string, seq uint64) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("the log has event %d", seq), func() bool {
		last, _, _, err := p.bus.Backbone.LogTail(p.t.Context(), id)
		return err == nil && last >= seq
	})
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
		tick(t)
	}
}

// A viewer is a client of one stream, that polls whichever node it is told to.
// It checks the promises.
type viewer struct {
	t      *testing.T
	stream string
	tr     protocol.Transcript
}

func watches(t *testing.T, id string) *viewer { return &viewer{t: t, stream: id} }

// poll asks once. It returns the error that the server answers with.
func (v *viewer) poll(p *peer, wait time.Duration) (got int, refused *protocol.Error) {
	v.t.Helper()
	return v.ask(p, v.tr.Cursor(), wait)
}

func (v *viewer) ask(p *peer, after uint64, wait time.Duration) (got int, refused *protocol.Error) {
	v.t.Helper()
	got, refused, err := v.get(p, after, wait)
	must(v.t, err)
	return got, refused
}

// try is poll of a node that may be gone.
func (v *viewer) try(p *peer, wait time.Duration) (got int, refused *protocol.Error, err error) {
	return v.get(p, v.tr.Cursor(), wait)
}

func (v *viewer) get(p *peer, after uint64, wait time.Duration) (got int, refused *protocol.Error, err error) {
	url := fmt.Sprintf("%s/?stream=%s&after=%d&wait=%s", p.url, v.stream, after, wait)
	req, err := http.NewRequestWithContext(v.t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return 0, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		refused = new(protocol.Error)
		return 0, refused, json.Unmarshal(body, refused)
	}
	var answer protocol.Poll
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, nil, err
	}
	for _, raw := range answer.Events {
		var e protocol.Event
		err := json.Unmarshal(raw, &e)
		if err == nil {
			err = v.tr.Apply(&e)
		}
		if err != nil {
			v.t.Errorf("through %s: %v", p.name, err)
			return 0, nil, err
		}
	}
	return len(answer.Events), nil, nil
}

// until polls p until the condition holds.
func (v *viewer) until(p *peer, what string, cond func() bool) {
	v.t.Helper()
	eventually(v.t, what, func() bool {
		if cond() {
			return true
		}
		if _, refused := v.poll(p, 100*time.Millisecond); refused != nil {
			v.t.Fatalf("%s refuses cursor %d: %v", p.name, v.tr.Cursor(), refused)
		}
		return cond()
	})
}

func (v *viewer) reaches(p *peer, seq uint64) {
	v.t.Helper()
	v.until(p, fmt.Sprintf("the client of %s reaches %d", p.name, seq), func() bool { return v.tr.Cursor() >= seq })
}

func (v *viewer) ends(p *peer, text string) {
	v.t.Helper()
	v.until(p, "the client of "+p.name+" sees the end", func() bool { return v.tr.Terminal() != nil })
	wantCompleted(v.t, &v.tr, text)
}

func (v *viewer) fails(p *peer, code protocol.Code) {
	v.t.Helper()
	v.until(p, "the client of "+p.name+" sees the end", func() bool { return v.tr.Terminal() != nil })
	var failed protocol.Failed
	if end := v.tr.Terminal(); end.Type != protocol.TypeFailed || end.Decode(&failed) != nil || failed.Error.Code != code {
		v.t.Fatalf("the stream ends with %+v, want failed with %s", v.tr.Terminal(), code)
	}
}
