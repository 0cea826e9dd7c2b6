package hub_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what is to happen, on a machine that is
// busy with something else.
const patience = time.Minute

// A world is a hub behind a real HTTP server, and the streams in it.
type world struct {
	t      *testing.T
	feeds  *hub.Feeds
	hub    *hub.Hub
	source *history
	url    string

	sources *sources

	metrics *recorder
}

func newWorld(t *testing.T, o hub.Options, limits hub.FeedLimits) *world {
	t.Helper()
	w := &world{t: t, feeds: hub.NewFeeds(limits), source: &history{events: map[string][]protocol.Encoded{}}, metrics: newRecorder()}
	w.sources = &sources{Source: w.source}
	o.Metrics = w.metrics
	if o.PollLinger == 0 {
		o.PollLinger = time.Millisecond
	}
	w.hub = hub.New(w.feeds, w.sources, o)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ws", w.hub.ServeWebSocket)
	mux.HandleFunc("GET /v1/events", func(rw http.ResponseWriter, r *http.Request) {
		var cs []protocol.Cursor
		single := r.URL.Query().Get("single") != ""
		for _, s := range r.URL.Query()["stream"] {
			cs = append(cs, protocol.Cursor{Stream: s})
		}
		cursor := r.Header.Get("Last-Event-ID")
		if cursor == "" {
			cursor = r.URL.Query().Get("after")
		}
		if cursor != "" && single {
			cs[0].After, _ = protocol.ParseSeq(cursor)
		} else if cursor != "" {
			after, err := protocol.ParseCursors(cursor)
			if err != nil {
				t.Error(err)
			}
			for i := range cs {
				for _, a := range after {
					if a.Stream == cs[i].Stream {
						cs[i].After = a.After
					}
				}
			}
		}
		if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			w.hub.ServeSSE(rw, r, cs, single)
			return
		}
		wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
		w.hub.ServeLongPoll(rw, r, cs, single, wait)
	})
	srv := httptest.NewServer(mux)
	w.url = srv.URL
	t.Cleanup(func() {
		w.hub.Close()
		http.DefaultClient.CloseIdleConnections()
		srv.Close()
		w.feeds.Close()
	})
	return w
}

// sources is the Source that a test has chosen, the world's own if none.
type sources struct{ hub.Source }

func (s *sources) Beyond(ctx context.Context, f *hub.Feed, cursor uint64) error {
	if j, ok := s.Source.(hub.HeadJudge); ok {
		return j.Beyond(ctx, f, cursor)
	}
	return nil
}

// useSource is to be called before there are clients.
func (w *world) useSource(s hub.Source) { w.sources.Source = s }

// history is a Source: streams that have no feed any more.
type history struct {
	mu     sync.Mutex
	events map[string][]protocol.Encoded
	opens  int
	reads  int
	stops  int
	block  chan struct{} // not nil: Open waits for it
	live   map[string]*hub.Feed
}

func (h *history) Open(ctx context.Context, f *hub.Feed) (func(), error) {
	h.mu.Lock()
	h.opens++
	events, ok := h.events[f.ID()]
	block := h.block
	h.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !ok {
		return nil, protocol.Errorf(protocol.CodeStreamNotFound, "stream %s is unknown", f.ID())
	}
	f.MarkStored(1 << 62)
	for _, e := range events {
		if err := f.Append(e); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	if h.live == nil {
		h.live = map[string]*hub.Feed{}
	}
	h.live[f.ID()] = f
	h.mu.Unlock()
	return func() { h.mu.Lock(); h.stops++; h.mu.Unlock() }, nil
}

func (h *history) Refresh(context.Context, *hub.Feed) error { return nil }

func (h *history) Read(_ context.Context, id string, after uint64, budget int) ([]protocol.Encoded, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	var out []protocol.Encoded
	for _, e := range h.events[id] {
		if e.Seq > after {
			out = append(out, e)
			if budget -= len(e.JSON); budget < 0 {
				break
			}
		}
	}
	return out, nil
}

func (h *history) counts() (opens, reads, stops int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.opens, h.reads, h.stops
}

// A publisher writes a stream as a Writer does, without merging.
type publisher struct {
	t       *testing.T
	w       *world
	feed    *hub.Feed
	id      string
	seq     uint64
	text    strings.Builder
	digest  protocol.Digest
	mu      sync.Mutex
	started time.Time
}

func (w *world) publish() *publisher {
	w.t.Helper()
	p := &publisher{t: w.t, w: w, id: protocol.NewStreamID(), started: time.Now()}
	var err error
	if p.feed, err = w.feeds.Create(p.id); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (p *publisher) append(t protocol.Type, data any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	e, err := protocol.Encode(p.id, p.seq, p.seq, t, time.Now(), data)
	if err == nil {
		err = p.feed.Append(e)
	}
	if err != nil {
		p.t.Error(err)
	}
	p.w.source.mu.Lock()
	p.w.source.events[p.id] = append(p.w.source.events[p.id], e)
	p.w.source.mu.Unlock()
}

func (p *publisher) start() *publisher {
	p.append(protocol.TypeStarted, &protocol.Started{Provider: "p", Model: "m", Attempt: 1})
	return p
}

func (p *publisher) chunk(text string) {
	p.text.WriteString(text)
	p.digest.Add(text)
	p.append(protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: text})
}

func (p *publisher) chunks(n int) {
	for i := range n {
		p.chunk(fmt.Sprintf("chunk %d «é» ", i))
	}
}

func (p *publisher) complete() {
	bytes, sum := p.digest.Sum()
	p.append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop", Events: p.seq + 1, Bytes: bytes, SHA256: sum})
}

// check fails the test unless tr is p's whole stream.
func (p *publisher) check(tr *protocol.Transcript) {
	p.t.Helper()
	if tr.Terminal() == nil || tr.Terminal().Type != protocol.TypeCompleted {
		p.t.Fatalf("the stream ended with %+v at %d, want completed", tr.Terminal(), tr.Cursor())
	}
	if tr.Text() != p.text.String() {
		p.t.Fatalf("text has %d bytes, want the %d that were written", len(tr.Text()), p.text.Len())
	}
}

// A wsClient is a WebSocket client that applies what it gets to transcripts.
type wsClient struct {
	t           *testing.T
	conn        *websocket.Conn
	transcripts map[string]*protocol.Transcript
	messages    int
	events      int
}

func (w *world) dial() *wsClient {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, w.url+"/v1/ws", &websocket.DialOptions{Subprotocols: []string{protocol.Version}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.CloseNow() })
	c := &wsClient{t: w.t, conn: conn, transcripts: map[string]*protocol.Transcript{}}
	if m := c.next(); m.Type != protocol.MessageWelcome {
		w.t.Fatalf("the first message is %q, want welcome", m.Type)
	}
	return c
}

func (c *wsClient) send(msg string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *wsClient) subscribe(id string, after uint64) {
	c.t.Helper()
	c.send(fmt.Sprintf(`{"type":"subscribe","id":"s","stream":%q,"after":%d}`, id, after))
}

// read returns the next message: either of the server's own or events, which
// are applied.
func (c *wsClient) read(ctx context.Context) (m protocol.Message, events []protocol.Event, err error) {
	_, b, err := c.conn.Read(ctx)
	if err != nil {
		return m, nil, err
	}
	c.messages++
	if b[0] == '[' {
		if err := json.Unmarshal(b, &events); err != nil {
			return m, nil, err
		}
	} else {
		if err := json.Unmarshal(b, &m); err != nil {
			return m, nil, err
		}
		if protocol.DataFor(protocol.Type(m.Type)) == nil {
			return m, nil, nil
		}
		events = make([]protocol.Event, 1)
		if err := json.Unmarshal(b, &events[0]); err != nil {
			return m, nil, err
		}
	}
	for i := range events {
		tr := c.transcripts[events[i].Stream]
		if tr == nil {
			tr = new(protocol.Transcript)
			c.transcripts[events[i].Stream] = tr
		}
		if err := tr.Apply(&events[i]); err != nil {
			return m, nil, err
		}
	}
	c.events += len(events)
	return m, events, nil
}

// next returns the next message of the server's own.
func (c *wsClient) next() protocol.Message {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		m, events, err := c.read(ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(events) == 0 {
			return m
		}
	}
}

// until reads until the stream has ended.
func (c *wsClient) until(id string) *protocol.Transcript {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		if tr := c.transcripts[id]; tr != nil && tr.Terminal() != nil {
			return tr
		}
		if _, _, err := c.read(ctx); err != nil {
			c.t.Fatal(err)
		}
	}
}

// closeCode reads until the connection ends and returns its close code.
func (c *wsClient) closeCode() int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		if _, _, err := c.read(ctx); err != nil {
			return int(websocket.CloseStatus(err))
		}
	}
}

// A frame is one of an event stream.
type frame struct{ id, event, data, comment, retry string }

// An sseClient reads frames line by line, as the specification says.
type sseClient struct {
	t    *testing.T
	resp *http.Response
	r    *bufio.Reader
	id   string
}

func (w *world) sse(query, lastEventID string) *sseClient {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), "GET", w.url+"/v1/events?"+query, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if lastEventID != "" {
		req.Header.Set("Last-Event-ID", lastEventID)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = resp.Body.Close() })
	return &sseClient{t: w.t, resp: resp, r: bufio.NewReader(resp.Body)}
}

func (c *sseClient) frame() (f frame, err error) {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return f, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			if f.id != "" {
				c.id = f.id
			}
			return f, nil
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			f.comment += value + ";"
		case "id":
			f.id = value
		case "event":
			f.event = value
		case "data":
			f.data += value
		case "retry":
			f.retry = value
		default:
			c.t.Errorf("unknown field in line %q", line)
		}
	}
}

// events applies unnamed frames to the transcripts until the response ends or
// stop says so.
func (c *sseClient) events(transcripts map[string]*protocol.Transcript, stop func() bool) {
	c.t.Helper()
	for {
		f, err := c.frame()
		if err == io.EOF {
			return
		}
		if err != nil {
			c.t.Fatal(err)
		}
		if f.data == "" || f.event != "" {
			continue
		}
		var e protocol.Event
		if err := json.Unmarshal([]byte(f.data), &e); err != nil {
			c.t.Fatal(err)
		}
		tr := transcripts[e.Stream]
		if tr == nil {
			tr = new(protocol.Transcript)
			transcripts[e.Stream] = tr
		}
		if err := tr.Apply(&e); err != nil {
			c.t.Fatal(err)
		}
		if stop != nil && stop() {
			return
		}
	}
}

// poll asks once.
func (w *world) poll(query string) (protocol.Poll, *protocol.Error) {
	w.t.Helper()
	resp, err := http.Get(w.url + "/v1/events?" + query)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		e := new(protocol.Error)
		if err := json.Unmarshal(body, e); err != nil {
			w.t.Fatalf("status %d with body %q", resp.StatusCode, body)
		}
		return protocol.Poll{}, e
	}
	var p protocol.Poll
	if err := json.Unmarshal(body, &p); err != nil {
		w.t.Fatalf("%v in %q", err, body)
	}
	return p, nil
}

func applyAll(t *testing.T, tr *protocol.Transcript, p protocol.Poll) {
	t.Helper()
	for _, raw := range p.Events {
		var e protocol.Event
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		if err := tr.Apply(&e); err != nil {
			t.Fatal(err)
		}
	}
}

// recorder is a hub.Metrics.
type recorder struct {
	mu     sync.Mutex
	open   map[string]int
	closed map[string]int // by reason
	events map[string]int
	merged int
}

func newRecorder() *recorder {
	return &recorder{open: map[string]int{}, closed: map[string]int{}, events: map[string]int{}}
}

func (r *recorder) Opened(transport string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[transport]++
}

func (r *recorder) Closed(transport, reason string, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[transport]--
	r.closed[reason]++
}

func (r *recorder) Wrote(transport string, events, merged, _ int, _ uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events[transport] += events
	r.merged += merged
}

func (r *recorder) closedFor(reason string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed[reason]
}

// eventually fails the test if cond does not come true.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
