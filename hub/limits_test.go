package hub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

// signals is a hub.Commands that tells when a cancel has come.
type signals struct{ cancelled chan string }

func (s *signals) Analyze(context.Context, []byte) (string, error) { return "", nil }
func (s *signals) Cancel(_ context.Context, id string) error       { s.cancelled <- id; return nil }
func (s *signals) Subscribe(context.Context, string) error         { return nil }
func (s *signals) Authenticate(context.Context, string) error      { return nil }

// oneMessage makes all that a stream holds one message, and lets feeds hold
// more than the buffers of two sockets.
var (
	oneMessage = hub.Options{MessageBytes: 64 << 20, WriteTimeout: time.Minute}
	roomyFeeds = hub.FeedLimits{FeedBytes: 256 << 20}
)

// huge publishes 30 events of 700 KiB each, none of which can be merged.
func (w *world) huge() *publisher {
	p := w.publish().start()
	text := strings.Repeat("x", 700<<10)
	for i := range 30 {
		p.append(protocol.TypeChunk, &protocol.Chunk{Kind: []protocol.ChunkKind{protocol.KindText, protocol.KindReasoning}[i%2], Attempt: 1, Text: text})
	}
	return p
}

// hang subscribes a client to a huge stream and reads no further than the
// beginning of the message that holds it, so that the session's writer waits in
// the middle of it. The rest of the message can be read from the reader.
func (w *world) hang(p *publisher) (*wsClient, io.Reader) {
	w.t.Helper()
	c := w.dial()
	c.conn.SetReadLimit(-1)
	c.subscribe(p.id, 0)
	for {
		_, r, err := c.conn.Reader(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		first := make([]byte, 1)
		if _, err := io.ReadFull(r, first); err != nil {
			w.t.Fatal(err)
		}
		if first[0] == '[' {
			return c, r
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestAStreamThatIsSubscribedAnewWhileItsEndIsWrittenIsSentAgain(t *testing.T) {
	o := oneMessage
	cmds := &signals{make(chan string, 1)}
	o.Commands = cmds
	w := newWorld(t, o, roomyFeeds)
	p := w.huge()
	p.append(protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient})
	c, rest := w.hang(p)
	c.send(fmt.Sprintf(`{"type":"unsubscribe","id":"u","stream":%q}`, p.id))
	c.send(fmt.Sprintf(`{"type":"subscribe","id":"again","stream":%q,"after":31}`, p.id))
	c.send(fmt.Sprintf(`{"type":"cancel","id":"k","stream":%q}`, p.id))
	<-cmds.cancelled // all of them are done while the writer hangs

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := io.Copy(io.Discard, rest); err != nil {
		t.Fatal(err)
	}
	subscribed := false
	for {
		_, msg, err := c.conn.Read(ctx)
		if err != nil {
			t.Fatalf("after the second \"subscribed\" (%v) nothing came: %v", subscribed, err)
		}
		if strings.Contains(string(msg[:min(len(msg), 200)]), `"id":"again"`) {
			subscribed = true
			continue
		}
		if subscribed && strings.Contains(string(msg[:min(len(msg), 300)]), `"cancelled"`) {
			return
		}
	}
}

// What waits for a client is bounded, however the answers came about.
func TestAClientThatSendsCommandsAndReadsNoAnswersIsClosed(t *testing.T) {
	w := newWorld(t, oneMessage, roomyFeeds)
	q := w.publish().start()
	for name, commands := range map[string][]string{
		"pings": {`{"type":"ping","id":"a"}`},
		"subscribes and unsubscribes": {
			fmt.Sprintf(`{"type":"subscribe","id":"a","stream":%q,"after":1}`, q.id),
			fmt.Sprintf(`{"type":"unsubscribe","id":"b","stream":%q}`, q.id),
		},
	} {
		t.Run(name, func(t *testing.T) {
			closed := w.metrics.closedFor("too_slow")
			c, _ := w.hang(w.huge())
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var err error
			for i := 0; i < 100_000 && err == nil; i++ {
				err = c.conn.Write(ctx, websocket.MessageText, []byte(commands[i%len(commands)]))
			}
			if err == nil || ctx.Err() != nil {
				t.Fatalf("writing ended with %v, want a connection that the server has closed", err)
			}
			eventually(t, "the session is gone", func() bool { return w.metrics.closedFor("too_slow") == closed+1 })
		})
	}
}

func TestAMergedChunkOfALongPollKeepsTheLimitOfOneEvent(t *testing.T) {
	w := newWorld(t, hub.Options{PollBytes: 4 << 20}, hub.FeedLimits{})
	p := w.publish().start()
	for range 100 {
		p.chunk(strings.Repeat("x", 16<<10))
	}
	got, _ := w.poll("single=1&after=1&stream=" + p.id)
	for _, e := range got.Events {
		if len(e) > protocol.MaxEventBytes {
			t.Errorf("an event has %d bytes, limit %d", len(e), protocol.MaxEventBytes)
		}
	}
}

func TestAnEventSourceThatReconnectsDuringADrainIsNotAnsweredWith5xx(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w.hub.Drain(ctx, 0)
	c := w.sse("single=1&stream="+p.id, "1")
	if c.resp.StatusCode >= 500 {
		t.Errorf("status is %d: an EventSource gives up for good; PROTOCOL.md wants a response that ends with retry:", c.resp.StatusCode)
	}
}

func TestAnSSEClientWhoseHistoryHasExpiredIsTold(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{FeedBytes: 4 << 10})
	p := w.publish().start()
	p.feed.MarkStored(1 << 60)
	for i := range 100 {
		p.append(protocol.TypeProgress, &protocol.Progress{Stage: fmt.Sprint("stage ", i)})
	}
	if _, ok := p.feed.Events(1); ok {
		t.Fatal("the feed still holds all")
	}
	w.source.mu.Lock()
	w.source.events[p.id] = w.source.events[p.id][60:] // the limits have dropped the beginning
	w.source.mu.Unlock()
	c := w.sse("single=1&stream="+p.id, "1")
	if c.resp.StatusCode == http.StatusNotFound {
		return
	}
	var frames []string
	for {
		f, err := c.frame()
		if err != nil {
			break
		}
		frames = append(frames, fmt.Sprintf("%s/%s/retry %s", f.event, f.id, f.retry))
	}
	t.Errorf("status %d with frames %q: the client reconnects with the same cursor for ever; want 404", c.resp.StatusCode, frames)
}

func TestAPingIsAnsweredAfterAQuietTimeLongerThanTheWriteTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hub.Options{WriteTimeout: time.Second, Heartbeat: time.Hour}, hub.FeedLimits{})
	c := w.dial()
	quiet := time.After(1500 * time.Millisecond)
	<-quiet
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		for {
			if _, _, err := c.conn.Read(ctx); err != nil {
				return
			}
		}
	}()
	if err := c.conn.Ping(ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
}

func TestDrainAlsoMovesAClientThatWasAdmittedJustBefore(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	block := make(chan struct{})
	id := protocol.NewStreamID()
	e, err := protocol.Encode(id, 1, 1, protocol.TypeStarted, time.Now(), &protocol.Started{Provider: "p", Attempt: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.source.events[id] = []protocol.Encoded{e}
	w.source.block = block
	got := make(chan *sseClient, 1)
	go func() { got <- w.sse("single=1&stream="+id, "") }()
	eventually(t, "the stream is being opened", func() bool { opens, _, _ := w.source.counts(); return opens == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w.hub.Drain(ctx, 0)
	close(block)
	c := <-got
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			if _, err := c.frame(); err != nil {
				return
			}
		}
	}()
	select {
	case <-over:
	case <-time.After(patience):
		t.Errorf("the drain is over, and a client that was being admitted stays for good (connections: %d)", w.hub.Connections())
	}
}

func TestConnectionsThatAreBeingOpenedCountToo(t *testing.T) {
	w := newWorld(t, hub.Options{MaxConnections: 1}, hub.FeedLimits{})
	block := make(chan struct{})
	var ids []string
	for range 5 {
		id := protocol.NewStreamID()
		e, err := protocol.Encode(id, 1, 1, protocol.TypeStarted, time.Now(), &protocol.Started{Provider: "p", Attempt: 1})
		if err != nil {
			t.Fatal(err)
		}
		w.source.events[id] = []protocol.Encoded{e}
		ids = append(ids, id)
	}
	w.source.block = block
	var wg sync.WaitGroup
	var refused atomic.Int32
	for _, id := range ids {
		wg.Go(func() {
			if c := w.sse("single=1&stream="+id, ""); c.resp.ContentLength > 0 { // sent away: a stream has no length
				refused.Add(1)
			}
		})
	}
	eventually(t, "four are refused while one is being opened", func() bool { return refused.Load() == 4 })
	close(block)
	wg.Wait()
	if n := w.hub.Connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestALongPollClientThatPipelinesAndReadsNothingIsClosed(t *testing.T) {
	w := newWorld(t, hub.Options{WriteTimeout: 100 * time.Millisecond}, hub.FeedLimits{})
	p := w.publish().start()
	for range 10 {
		p.chunk(strings.Repeat("x", 16<<10))
	}
	d := net.Dialer{}
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// The answers are 32 MB, more than the buffers of both sides take.
	const asked, least = 200, 200 * 160 << 10
	req := fmt.Sprintf("GET /v1/events?single=1&after=0&stream=%s HTTP/1.1\r\nHost: x\r\n\r\n", p.id)
	if _, err := conn.Write([]byte(strings.Repeat(req, asked))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server gives a write up", func() bool { return w.metrics.closedFor("write_failed") == 1 })
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, conn)
	if ne, ok := errors.AsType[net.Error](err); (ok && ne.Timeout()) || n >= least {
		t.Errorf("the connection is still there: read %d bytes, %v", n, err)
	}
}

// An EventSource gives up for ever on an error status.
func TestAnEventSourceThatFindsNoPlaceComesBack(t *testing.T) {
	w := newWorld(t, hub.Options{MaxConnections: 1, ReconnectDelay: 2 * time.Second}, hub.FeedLimits{})
	p := w.publish().start()
	first := w.sse("single=1&stream="+p.id, "")
	second := w.sse("single=1&stream="+p.id, "")
	body, err := io.ReadAll(second.resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if second.resp.StatusCode != http.StatusOK || second.resp.Header.Get("Content-Type") != "text/event-stream" || !strings.HasPrefix(string(body), "retry: ") || strings.Contains(string(body), "data:") {
		t.Errorf("the second is answered with %s %q, want a time to come back", second.resp.Status, body)
	}
	if err := w.hub.Admissible(t.Context()); protocol.AsError(err).Code != protocol.CodeOverloaded {
		t.Errorf("a connection is admissible: %v", err)
	}
	// Who waits for the result needs a place, too.
	if _, _, err := w.hub.Collect(t.Context(), p.id); protocol.AsError(err).Code != protocol.CodeOverloaded {
		t.Errorf("Collect: %v, want overloaded", err)
	}
	p.complete()
	if _, err := io.ReadAll(first.resp.Body); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the place is free", func() bool { return w.hub.Admissible(t.Context()) == nil })
	if _, _, err := w.hub.Collect(t.Context(), p.id); err != nil {
		t.Error(err)
	}
}

// An error that nobody is left to be told of is none of the server's.
func TestAClientThatLeavesWhileItsStreamIsOpenedIsNotInTheLog(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, hub.Options{Logger: zerolog.New(zerolog.SyncWriter(&log))}, hub.FeedLimits{})
	w.source.block = make(chan struct{})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/v1/events?single=1&stream="+protocol.NewStreamID(), nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			err = errors.Join(fmt.Errorf("it was answered with %s", resp.Status), resp.Body.Close())
		}
		answered <- err
	}()
	eventually(t, "the stream is being opened", func() bool { opens, _, _ := w.source.counts(); return opens == 1 })
	leave()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	eventually(t, "its place is free", func() bool { return w.hub.Connections() == 0 })
	if log.Len() > 0 {
		t.Errorf("the log says %s", log.String())
	}
}

// A stuckHistory answers for a stream's history once, and then never again.
type stuckHistory struct {
	first   protocol.Encoded
	asked   *atomic.Int32
	reading chan struct{}
}

func (stuckHistory) Open(context.Context, *hub.Feed) (func(), error) {
	return nil, protocol.Errorf(protocol.CodeStreamNotFound, "unknown")
}
func (stuckHistory) Refresh(context.Context, *hub.Feed) error { return nil }
func (s stuckHistory) Read(ctx context.Context, _ string, _ uint64, _ int) ([]protocol.Encoded, error) {
	if s.asked.Add(1) == 1 { // when the client subscribes
		return []protocol.Encoded{s.first}, nil
	}
	s.reading <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAProtocolErrorDuringAHistoryReadKeepsItsCloseCode(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{FeedBytes: 4 << 10})
	p := w.publish().start()
	first, _ := p.feed.Events(0)
	src := stuckHistory{first[0], new(atomic.Int32), make(chan struct{}, 1)}
	h := hub.New(w.feeds, src, hub.Options{})
	defer h.Close()
	srv := httptest.NewServer(http.HandlerFunc(h.ServeWebSocket))
	defer srv.Close()
	p.feed.MarkStored(1 << 60)
	for i := range 100 {
		p.append(protocol.TypeProgress, &protocol.Progress{Stage: fmt.Sprint("stage ", i)})
	}
	w.url = srv.URL
	c := w.dial()
	c.subscribe(p.id, 0)
	<-src.reading
	c.send("no command")
	if code := c.closeCode(); code != protocol.CloseProtocolError {
		t.Errorf("close code is %d, which makes the client come back; want %d", code, protocol.CloseProtocolError)
	}
}
