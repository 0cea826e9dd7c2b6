package stream_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

// An ambiguousBus stores the second batch, says that it timed out, and holds
// its answer back until it is told to go on.
type ambiguousBus struct {
	*backbone.Backbone
	calls  atomic.Int64
	goOn   chan struct{}
	called chan struct{}
}

func (b *ambiguousBus) AppendLog(ctx context.Context, id string, prev uint64, batch backbone.Batch) (uint64, error) {
	pos, err := b.Backbone.AppendLog(ctx, id, prev, batch)
	if b.calls.Add(1) == 1 {
		close(b.called)
		<-b.goOn
		return 0, context.DeadlineExceeded
	}
	return pos, err
}

func TestAnAppendThatTimedOutButWasStoredDoesNotEndTheWriter(t *testing.T) {
	bus, err := backbone.Open(t.Context(), backbone.Options{DataDir: t.TempDir(), Node: "n"})
	must(t, err)
	defer func() { must(t, bus.Close()) }()
	slow := &ambiguousBus{Backbone: bus, goOn: make(chan struct{}), called: make(chan struct{})}
	feeds := hub.NewFeeds(hub.FeedLimits{})
	defer feeds.Close()
	n := stream.New(feeds, slow, stream.Options{Sole: true, BatchInterval: time.Millisecond, RetryMax: 5 * time.Millisecond})
	w, err := n.Create(t.Context(), protocol.NewStreamID())
	must(t, err)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	<-slow.called                                             // stored, not answered
	must(t, w.Chunk(protocol.KindText, 1, "in the meantime")) // so the retry's batch is a longer one
	close(slow.goOn)
	deadline := time.Now().Add(3 * time.Second)
	for slow.calls.Load() < 2 && time.Now().Before(deadline) {
		tick(t)
	}
	for range 100 { // until the retry was judged
		tick(t)
	}
	if err := w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop"}); err != nil {
		t.Errorf("the terminal event can't be written: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, _, end, err := bus.LogTail(t.Context(), w.ID()); err != nil || !end {
		t.Errorf("the log of the stream has no end (%v)", err)
	}
}

// A lossyBus loses the live message of a terminal event on its way out, as
// PublishLive does when its queue is full.
type lossyBus struct {
	*backbone.Backbone
}

func (b *lossyBus) PublishLive(id string, data []byte) error {
	if strings.Contains(string(data), `"type":"completed"`) {
		return errors.New("overloaded")
	}
	return b.Backbone.PublishLive(id, data)
}

func TestAFollowerWhoseTerminalLiveMessageWasLostSeesTheEnd(t *testing.T) {
	srv := natsServer(t)
	bus, err := backbone.Open(t.Context(), backbone.Options{NatsURL: srv, Node: "a"})
	must(t, err)
	defer func() { must(t, bus.Close()) }()
	feeds := hub.NewFeeds(hub.FeedLimits{})
	defer feeds.Close()
	a := stream.New(feeds, &lossyBus{bus}, stream.Options{BatchInterval: 5 * time.Millisecond})
	b := startHost(t, backbone.Options{NatsURL: srv, Node: "b"}, hub.FeedLimits{}, stream.Options{})
	w, err := a.Create(t.Context(), protocol.NewStreamID())
	must(t, err)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	f, err := b.feeds.Open(t.Context(), w.ID(), b.node)
	must(t, err)
	defer b.feeds.Release(f)
	must(t, w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop"}))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	must(t, a.Close(ctx))
	deadline := time.Now().Add(3 * time.Second)
	for {
		head, ended := f.Head()
		if ended {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the follower is at %d and doesn't know of the end, which has been stored for 3 s", head)
		}
		tick(t)
	}
}

// A deafBus fails the second question to an owner or the log, once.
type deafBus struct {
	*backbone.Backbone
	asked atomic.Int64
	lose  atomic.Bool
}

func (b *deafBus) AskHistory(ctx context.Context, id string, request []byte) ([]byte, error) {
	if b.asked.Add(1) == 2 {
		return nil, context.DeadlineExceeded
	}
	return b.Backbone.AskHistory(ctx, id, request)
}

func (b *deafBus) SubscribeLive(id string, fn func([]byte)) (func(), error) {
	return b.Backbone.SubscribeLive(id, func(data []byte) {
		if !b.lose.Load() || strings.Contains(string(data), `"type":"completed"`) {
			fn(data)
		}
	})
}

func TestAHoleBeforeTheEndIsFilledThoughTheFirstTryFailed(t *testing.T) {
	srv := natsServer(t)
	a := startHost(t, backbone.Options{NatsURL: srv, Node: "a"}, hub.FeedLimits{}, stream.Options{BatchInterval: 5 * time.Millisecond})
	bus, err := backbone.Open(t.Context(), backbone.Options{NatsURL: srv, Node: "b"})
	must(t, err)
	defer func() { must(t, bus.Close()) }()
	deaf := &deafBus{Backbone: bus}
	feeds := hub.NewFeeds(hub.FeedLimits{})
	n := stream.New(feeds, deaf, stream.Options{})
	defer func() { feeds.Close(); must(t, n.Close(t.Context())) }()
	w := create(t, a)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	f, err := feeds.Open(t.Context(), w.ID(), n)
	must(t, err)
	defer feeds.Release(f)
	deaf.lose.Store(true)
	must(t, w.Chunk(protocol.KindText, 1, "lost on its way"))
	must(t, w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop"}))
	deadline := time.Now().Add(4 * time.Second)
	for {
		head, ended := f.Head()
		if ended {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the follower is at %d; it knows that there is more and asked %d times", head, deaf.asked.Load())
		}
		tick(t)
	}
}

func TestTheEndOfALongLogIsReadThoughItsBeginningHasExpired(t *testing.T) {
	dir := t.TempDir()
	bo := backbone.Options{DataDir: dir, LogMaxBytesPerStream: 64 << 10} // 16 batches
	h := startHost(t, bo, hub.FeedLimits{}, stream.Options{Sole: true})
	w := create(t, h)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	for range 40 {
		must(t, w.Append(protocol.TypeProgress, &protocol.Progress{Stage: "x"}))
		stored(t, h, w)
	}
	must(t, w.Append(protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient}))
	stored(t, h, w)
	h.stop(t)
	h = startHost(t, bo, hub.FeedLimits{}, stream.Options{Sole: true})
	if events, err := h.node.Read(t.Context(), w.ID(), 38, 1<<20); err != nil || len(events) != 4 {
		t.Fatalf("%d events after 38 in the log, error %v; the test wants 4", len(events), err)
	}
	f, err := h.feeds.Open(t.Context(), w.ID(), h.node)
	if err != nil {
		t.Fatalf("a client with cursor 38 of 42 can't resume, though the log has 39 to 42: %v", err)
	}
	h.feeds.Release(f)
}

func TestCloseTriesAtOnceToStoreThoughARetryWaits(t *testing.T) {
	bus, err := backbone.Open(t.Context(), backbone.Options{DataDir: t.TempDir(), Node: "n"})
	must(t, err)
	defer func() { must(t, bus.Close()) }()
	flaky := &flakyBus{Backbone: bus, fail: 1}
	feeds := hub.NewFeeds(hub.FeedLimits{})
	defer feeds.Close()
	n := stream.New(feeds, flaky, stream.Options{Sole: true, BatchInterval: 20 * time.Second, RetryMax: 20 * time.Second})
	w, err := n.Create(t.Context(), protocol.NewStreamID())
	must(t, err)
	write(t, w, 5)
	deadline := time.Now().Add(5 * time.Second)
	for flaky.failures() == 0 && time.Now().Before(deadline) {
		tick(t)
	}
	for range 20 {
		tick(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		t.Errorf("the store works again, and the end of the stream was lost: %v", err)
	}
}

func TestAFeedThatWasAdoptedAndDroppedIsNotFilledAnyMore(t *testing.T) {
	srv := natsServer(t)
	a := startHost(t, backbone.Options{NatsURL: srv, Node: "a"}, hub.FeedLimits{Linger: 10 * time.Millisecond}, stream.Options{BatchInterval: 5 * time.Millisecond})
	other, err := backbone.Open(t.Context(), backbone.Options{NatsURL: srv, Node: "b"})
	must(t, err)
	defer func() { must(t, other.Close()) }()
	w := create(t, a)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	stored(t, a, w)
	event := func(seq uint64) []byte {
		e, err := protocol.Encode(w.ID(), seq, seq, protocol.TypeProgress, time.Now(), &protocol.Progress{Stage: "y"})
		must(t, err)
		return e.JSON
	}
	_, pos, _, err := other.LogTail(t.Context(), w.ID())
	must(t, err)
	_, err = other.AppendLog(t.Context(), w.ID(), pos, backbone.Batch{First: 2, Last: 2, Events: [][]byte{event(2)}})
	must(t, err)
	must(t, w.Append(protocol.TypeProgress, &protocol.Progress{Stage: "z"}))
	deadline := time.Now().Add(8 * time.Second)
	for a.feeds.Len() > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the feed was not dropped")
		}
		tick(t)
	}
	for seq := range uint64(50) {
		must(t, other.PublishLive(w.ID(), event(3+seq)))
	}
	for range 200 {
		tick(t)
	}
	if n := a.feeds.Bytes(); n != 0 {
		t.Errorf("no feed is left, and %d bytes are in feeds: the follower goes on", n)
	}
}

func (b *ambiguousBus) StartAppend(ctx context.Context, id string, prev uint64, batch backbone.Batch) func() (uint64, error) {
	return func() (uint64, error) { return b.AppendLog(ctx, id, prev, batch) }
}

func TestAStreamThatRecoverCouldNotEndEndsWhenItIsOpened(t *testing.T) {
	dir := t.TempDir()
	h := startHost(t, backbone.Options{DataDir: dir}, hub.FeedLimits{}, stream.Options{Sole: true})
	w := create(t, h)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	stored(t, h, w)
	h.stop(t)

	bus, err := backbone.Open(t.Context(), backbone.Options{DataDir: dir, Node: "n1"})
	must(t, err)
	defer func() { must(t, bus.Close()) }()
	feeds := hub.NewFeeds(hub.FeedLimits{})
	defer feeds.Close()
	n := stream.New(feeds, &flakyBus{Backbone: bus, fail: 1}, stream.Options{Node: "n1", Sole: true})
	defer func() { must(t, n.Close(t.Context())) }()
	if ended, err := n.Recover(t.Context()); err == nil || ended != 0 {
		t.Fatalf("Recover ended %d streams, error %v; the test wants its append to fail", ended, err)
	}
	// The store works again. A client comes that was ahead of what was stored.
	hb := hub.New(feeds, n, hub.Options{})
	defer hb.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tr, _, err := hb.Collect(ctx, w.ID())
	must(t, err)
	var failed protocol.Failed
	if end := tr.Terminal(); end == nil {
		t.Fatalf("the stream has no end, its cursor is %d", tr.Cursor())
	} else if must(t, end.Decode(&failed)); failed.Error.Code != protocol.CodeOwnerLost || tr.Cursor() < 1<<32 {
		t.Errorf("the stream ends at %d with %+v", tr.Cursor(), failed.Error)
	}
}
