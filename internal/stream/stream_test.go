package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is one node's floor up to the streams.
type host struct {
	bus   *backbone.Backbone
	feeds *hub.Feeds
	node  *stream.Node
	hub   *hub.Hub
	down  bool
}

func startHost(t *testing.T, bo backbone.Options, limits hub.FeedLimits, o stream.Options) *host {
	t.Helper()
	if bo.Node == "" {
		bo.Node = "n1"
	}
	h := &host{}
	bo.OnDrop = func(id string, _ int) { h.node.Dropped(id) }
	bus, err := backbone.Open(t.Context(), bo)
	if err != nil {
		t.Fatal(err)
	}
	h.bus = bus
	h.feeds = hub.NewFeeds(limits)
	o.Node = bo.Node
	h.node = stream.New(h.feeds, bus, o)
	h.hub = hub.New(h.feeds, h.node, hub.Options{})
	t.Cleanup(func() { h.stop(t) })
	return h
}

// stop ends the host as a process that exits cleanly does; jobs that still
// write are cut off, as by a crash.
func (h *host) stop(t *testing.T) {
	t.Helper()
	if h.down {
		return
	}
	h.down = true
	h.hub.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := h.node.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	h.feeds.Close()
	if err := h.bus.Close(); err != nil {
		t.Error(err)
	}
}

func create(t *testing.T, h *host) *stream.Writer {
	t.Helper()
	w, err := h.node.Create(t.Context(), protocol.NewStreamID())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write writes a whole answer of n chunks and returns its text.
func write(t *testing.T, w *stream.Writer, n int) string {
	t.Helper()
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Model: "m", Analysis: "review", Attempt: 1}))
	var text strings.Builder
	for i := range n {
		piece := fmt.Sprintf("chunk %d é\n", i)
		text.WriteString(piece)
		must(t, w.Chunk(protocol.KindText, 1, piece))
	}
	must(t, w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop", Provider: "p", Model: "m"}))
	return text.String()
}

func collect(t *testing.T, h *host, id string) *protocol.Transcript {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tr, _, err := h.hub.Collect(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func wantCompleted(t *testing.T, tr *protocol.Transcript, text string) {
	t.Helper()
	if tr.Terminal() == nil || tr.Terminal().Type != protocol.TypeCompleted {
		t.Fatalf("terminal event is %+v, want completed", tr.Terminal())
	}
	if tr.Text() != text {
		t.Fatalf("text has %d bytes, want the %d that were written", len(tr.Text()), len(text))
	}
}

func TestAStreamIsReadBackWholeFromFeedAndLog(t *testing.T) {
	dir := t.TempDir()
	h := startHost(t, backbone.Options{DataDir: dir}, hub.FeedLimits{}, stream.Options{Sole: true})
	w := create(t, h)
	text := write(t, w, 500)
	wantCompleted(t, collect(t, h, w.ID()), text)

	h.stop(t)
	h = startHost(t, backbone.Options{DataDir: dir}, hub.FeedLimits{}, stream.Options{Sole: true})
	ended, err := h.node.Recover(t.Context())
	if err != nil || ended != 0 {
		t.Fatalf("Recover ended %d streams, error %v; want none, since all had ended", ended, err)
	}
	tr := collect(t, h, w.ID())
	wantCompleted(t, tr, text)
	if tr.Cursor() != 502 {
		t.Fatalf("cursor is %d, want 502", tr.Cursor())
	}
}

func TestAReaderBehindTheWindowIsServedFromTheLog(t *testing.T) {
	h := startHost(t, backbone.Options{DataDir: t.TempDir()}, hub.FeedLimits{FeedBytes: 8 << 10},
		stream.Options{Sole: true, BatchBytes: 2 << 10, BatchInterval: 5 * time.Millisecond})
	w := create(t, h)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	var text strings.Builder
	for i := range 400 {
		piece := fmt.Sprintf("piece %d;", i)
		text.WriteString(piece)
		must(t, w.Chunk(protocol.KindText, 1, piece))
		if i%40 == 39 {
			stored(t, h, w)
		}
	}
	f, err := h.feeds.Open(t.Context(), w.ID(), h.node)
	must(t, err)
	if _, inMemory := f.Events(0); inMemory {
		t.Fatal("the feed still holds the first event; the test wants it dropped")
	}
	h.feeds.Release(f)
	must(t, w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop"}))
	wantCompleted(t, collect(t, h, w.ID()), text.String())
}

// stored waits until the log has everything that w has written.
func stored(t *testing.T, h *host, w *stream.Writer) {
	t.Helper()
	f, err := h.feeds.Open(t.Context(), w.ID(), h.node)
	must(t, err)
	defer h.feeds.Release(f)
	w.Flush()
	head, _ := f.Head()
	deadline := time.Now().Add(5 * time.Second)
	for {
		last, _, _, err := h.bus.LogTail(t.Context(), w.ID())
		if err == nil && last >= head {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log ends at %d (%v), want %d", last, err, head)
		}
		tick(t)
	}
}

// tick lets other goroutines run for a moment, between two looks at a condition
// that has a deadline.
func tick(t *testing.T) {
	select {
	case <-time.After(time.Millisecond):
	case <-t.Context().Done():
	}
}

func TestAStreamWhoseJobDiedEndsWithOwnerLostForEveryCursor(t *testing.T) {
	dir := t.TempDir()
	h := startHost(t, backbone.Options{DataDir: dir}, hub.FeedLimits{}, stream.Options{Sole: true})
	w := create(t, h)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	for i := range 10 {
		must(t, w.Chunk(protocol.KindText, 1, fmt.Sprint(i)))
	}
	stored(t, h, w)
	silent := create(t, h) // died before it stored anything
	h.stop(t)

	h = startHost(t, backbone.Options{DataDir: dir}, hub.FeedLimits{}, stream.Options{Sole: true})
	ended, err := h.node.Recover(t.Context())
	if err != nil || ended != 2 {
		t.Fatalf("Recover ended %d streams, error %v; want 2", ended, err)
	}
	tr := collect(t, h, w.ID())
	var failed protocol.Failed
	if tr.Terminal() == nil || tr.Terminal().Type != protocol.TypeFailed || tr.Terminal().Decode(&failed) != nil || failed.Error.Code != protocol.CodeOwnerLost {
		t.Fatalf("terminal event is %+v, want failed with owner_lost", tr.Terminal())
	}
	if tr.Text() != "0123456789" {
		t.Fatalf("text is %q, want what was stored", tr.Text())
	}
	// A client that saw more than was stored still finds the end after its cursor.
	f, err := h.feeds.Open(t.Context(), w.ID(), h.node)
	must(t, err)
	defer h.feeds.Release(f)
	for _, ahead := range []uint64{11, 12, 5000, 1 << 30} {
		events, ok := f.Events(ahead)
		if !ok || len(events) != 1 || events[0].First > ahead+1 || events[0].Seq <= ahead {
			t.Fatalf("after cursor %d come %d events, want the one that covers it", ahead, len(events))
		}
	}
	if tr := collect(t, h, silent.ID()); tr.Terminal() == nil || tr.Terminal().Type != protocol.TypeFailed {
		t.Fatalf("the stream that stored nothing ends with %+v, want failed", tr.Terminal())
	}
	if ended, err := h.node.Recover(t.Context()); err != nil || ended != 0 {
		t.Fatalf("a second Recover ended %d streams, error %v; want none", ended, err)
	}
}

func TestAnUnknownStreamIsNotFound(t *testing.T) {
	h := startHost(t, backbone.Options{DataDir: t.TempDir()}, hub.FeedLimits{}, stream.Options{Sole: true})
	for _, id := range []string{protocol.NewStreamID(), "nonsense", "", "../../etc/passwd", "A.>"} {
		_, err := h.hub.Metadata(t.Context(), id)
		if e := protocol.AsError(err); err == nil || e.Code != protocol.CodeStreamNotFound {
			t.Errorf("stream %q: error is %v, want stream_not_found", id, err)
		}
	}
}

func TestAStreamIsSeenFromAnotherNodeWhileItRuns(t *testing.T) {
	srv := natsServer(t)
	a := startHost(t, backbone.Options{NatsURL: srv, Node: "a"}, hub.FeedLimits{}, stream.Options{})
	b := startHost(t, backbone.Options{NatsURL: srv, Node: "b"}, hub.FeedLimits{}, stream.Options{})
	w := create(t, a)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	for i := range 100 {
		must(t, w.Chunk(protocol.KindText, 1, fmt.Sprintf("early %d;", i)))
	}
	type result struct {
		tr  *protocol.Transcript
		err error
	}
	got := make(chan result)
	for range 3 {
		go func() {
			tr, _, err := b.hub.Collect(t.Context(), w.ID())
			got <- result{tr, err}
		}()
	}
	var want strings.Builder
	for i := range 100 {
		fmt.Fprintf(&want, "early %d;", i)
	}
	for i := range 2000 {
		piece := fmt.Sprintf("late %d;", i)
		want.WriteString(piece)
		must(t, w.Chunk(protocol.KindText, 1, piece))
	}
	must(t, w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop"}))
	for range 3 {
		r := <-got
		must(t, r.err)
		wantCompleted(t, r.tr, want.String())
	}
}

func TestAWriterThatWasTakenOverFollows(t *testing.T) {
	srv := natsServer(t)
	a := startHost(t, backbone.Options{NatsURL: srv, Node: "a"}, hub.FeedLimits{}, stream.Options{})
	b := startHost(t, backbone.Options{NatsURL: srv, Node: "b"}, hub.FeedLimits{}, stream.Options{Sole: true})
	w := create(t, a)
	must(t, w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}))
	must(t, w.Chunk(protocol.KindText, 1, "stored"))
	stored(t, a, w)
	// b believes that a is dead.
	if n, err := b.node.Recover(t.Context()); n != 1 || err != nil {
		t.Fatalf("Recover ended %d streams, error %v; want 1", n, err)
	}
	must(t, w.Chunk(protocol.KindText, 1, "not stored"))
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := w.Chunk(protocol.KindText, 1, "x")
		if errors.Is(err, stream.ErrFenced) {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("error is %v, want ErrFenced", err)
		}
		tick(t)
	}
	tr := collect(t, a, w.ID())
	if tr.Terminal() == nil || tr.Terminal().Type != protocol.TypeFailed {
		t.Fatalf("terminal event is %+v, want the failed of the node that took over", tr.Terminal())
	}
}

func TestEventsAreStoredAgainAfterTheStoreFailed(t *testing.T) {
	bus, err := backbone.Open(t.Context(), backbone.Options{DataDir: t.TempDir(), Node: "n"})
	must(t, err)
	defer func() { must(t, bus.Close()) }()
	flaky := &flakyBus{Backbone: bus, fail: 3}
	feeds := hub.NewFeeds(hub.FeedLimits{})
	defer feeds.Close()
	n := stream.New(feeds, flaky, stream.Options{Sole: true, BatchInterval: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond})
	w, err := n.Create(t.Context(), protocol.NewStreamID())
	must(t, err)
	text := write(t, w, 50)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	must(t, n.Close(ctx))
	if flaky.failures() != 3 {
		t.Fatalf("the store failed %d times, want 3", flaky.failures())
	}
	batches, err := bus.ReadLog(t.Context(), w.ID(), 0, 1<<20)
	must(t, err)
	var tr protocol.Transcript
	for _, b := range batches {
		for _, raw := range b.Events {
			e, err := protocol.Parse(raw)
			must(t, err)
			ev, err := e.Event()
			must(t, err)
			must(t, tr.Apply(&ev))
		}
	}
	wantCompleted(t, &tr, text)
}

func TestChunksAreMergedWithinTheWindowAndTheFirstGoesAtOnce(t *testing.T) {
	h := startHost(t, backbone.Options{DataDir: t.TempDir()}, hub.FeedLimits{}, stream.Options{Sole: true, CoalesceWindow: time.Hour})
	w := create(t, h)
	f, err := h.feeds.Open(t.Context(), w.ID(), h.node)
	must(t, err)
	defer h.feeds.Release(f)
	types := func() string {
		events, _ := f.Events(0)
		var b bytes.Buffer
		for i := range events {
			ev, err := events[i].Event()
			must(t, err)
			var c protocol.Chunk
			must(t, ev.Decode(&c))
			fmt.Fprintf(&b, "%s:%s ", ev.Type, c.Text)
		}
		return b.String()
	}
	must(t, w.Chunk(protocol.KindText, 1, "a"))
	must(t, w.Chunk(protocol.KindText, 1, "b"))
	must(t, w.Chunk(protocol.KindText, 1, "c"))
	if got := types(); got != "chunk:a " {
		t.Fatalf("events are %q, want only the first chunk", got)
	}
	must(t, w.Append(protocol.TypeProgress, &protocol.Progress{Stage: "x"}))
	must(t, w.Chunk(protocol.KindText, 1, "d"))
	must(t, w.Chunk(protocol.KindReasoning, 1, "r"))
	must(t, w.Chunk(protocol.KindText, 2, "e"))
	must(t, w.Append(protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient}))
	if got, want := types(), "chunk:a chunk:bc progress: chunk:d chunk:r chunk:e cancelled: "; got != want {
		t.Fatalf("events are %q, want %q", got, want)
	}
	if err := w.Chunk(protocol.KindText, 2, "f"); !errors.Is(err, stream.ErrEnded) {
		t.Fatalf("a chunk after the end: error is %v, want ErrEnded", err)
	}
}

func TestLongTextIsSplitWithoutSplittingCharacters(t *testing.T) {
	h := startHost(t, backbone.Options{DataDir: t.TempDir()}, hub.FeedLimits{}, stream.Options{Sole: true, ChunkBytes: 64})
	w := create(t, h)
	text := strings.Repeat("día €𝄞 ", 100)
	must(t, w.Chunk(protocol.KindText, 1, text+"\xff\xfe"))
	must(t, w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop"}))
	tr := collect(t, h, w.ID())
	wantCompleted(t, tr, text+"\uFFFD")
	if tr.Cursor() < uint64(len(text)/64) {
		t.Fatalf("the text came in %d events, want at least %d", tr.Cursor()-1, len(text)/64)
	}
}

func TestMergedChunksAreToldWhenTheWindowIsOver(t *testing.T) {
	const window = 40 * time.Millisecond
	h := startHost(t, backbone.Options{DataDir: t.TempDir()}, hub.FeedLimits{}, stream.Options{Sole: true, CoalesceWindow: window})
	w := create(t, h)
	f, err := h.feeds.Open(t.Context(), w.ID(), h.node)
	must(t, err)
	defer h.feeds.Release(f)
	for i := range 5 { // text that waits while nothing follows it, again and again
		must(t, w.Chunk(protocol.KindText, 1, "a"))
		must(t, w.Chunk(protocol.KindText, 1, "b"))
		for range 10_000 {
			if len(textOf(t, f)) == 2*(i+1) {
				break
			}
			tick(t)
		}
		if got, want := textOf(t, f), strings.Repeat("ab", i+1); got != want {
			t.Fatalf("text is %q, want %q", got, want)
		}
	}
	events, _ := f.Events(0)
	for i := 1; i < len(events); i++ {
		a, err := events[i-1].Event()
		must(t, err)
		b, err := events[i].Event()
		must(t, err)
		if gap := b.Time.Sub(a.Time); gap < window-time.Millisecond { // times are told in milliseconds
			t.Errorf("chunk %d came %v after the one before, want the window of %v", i+1, gap, window)
		}
	}
}

// textOf returns the text of a feed's chunks.
func textOf(t *testing.T, f *hub.Feed) string {
	t.Helper()
	events, _ := f.Events(0)
	var b strings.Builder
	for i := range events {
		ev, err := events[i].Event()
		must(t, err)
		var c protocol.Chunk
		must(t, ev.Decode(&c))
		b.WriteString(c.Text)
	}
	return b.String()
}
