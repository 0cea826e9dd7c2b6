package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/problem"
	"github.com/athena-hub/athena/protocol"
)

// Commands does what clients ask for over a WebSocket. The context carries the
// values of the request that opened the connection, the caller's identity
// among them, and ends with the connection. Errors go to the client as
// protocol.AsError makes them.
type Commands interface {
	// Analyze starts an analysis and returns its stream.
	Analyze(ctx context.Context, request []byte) (stream string, err error)
	// Subscribe reports why the client may not watch a stream; nil if it may.
	Subscribe(ctx context.Context, stream string) error
	// Cancel ends one; cancelling one that has ended is no error.
	Cancel(ctx context.Context, stream string) error
	// Authenticate checks a fresh token for the connection. Whether the client may
	// go on watching what it subscribed to is then asked of Subscribe.
	Authenticate(ctx context.Context, token string) error
}

// A SubscriptionWatcher is Commands that want to know what became of each
// subscription that they allowed.
type SubscriptionWatcher interface {
	// Subscribed is told of the stream, and why it is not watched after all; nil if
	// it is.
	Subscribed(ctx context.Context, stream string, err error)
}

// A Credential is what a client is there by.
type Credential interface {
	// Watch calls end, at most once, when the credential is no longer good, with a
	// close code and what is wrong; it may do so before it returns. It is not
	// called any more once release has returned.
	Watch(end func(code int, detail string)) (release func())
}

// Metrics is told what the transports do. transport is one of the protocol's
// names. Methods are called from many goroutines and must be quick.
type Metrics interface {
	// Opened and Closed bracket a connection, which lived so long; a long-poll is
	// one while it waits.
	Opened(transport string)
	Closed(transport string, reason string, lived time.Duration)
	// Wrote tells of one message: how many events it carried, how many more
	// were merged into those, its payload in bytes, and by how many events its
	// furthest cursor was behind.
	Wrote(transport string, events, merged, bytes int, lag uint64)
}

// Options tune a Hub. Zero values mean the defaults.
type Options struct {
	// Node is this node's name in welcome messages.
	Node string
	// Heartbeat is how long a connection may be idle before the server says
	// that it is there. Default 15 s.
	Heartbeat time.Duration
	// WriteTimeout bounds one write to a connection. A client that takes
	// longer is closed, and resumes from its cursor. Default 30 s.
	WriteTimeout time.Duration
	// MessageBytes is about how much one message carries. Default 31 KiB, below
	// the 32 KiB that some WebSocket clients read at most unless told otherwise.
	MessageBytes int
	// PollBytes is about how much the answer to one long-poll carries. Default
	// 256 KiB.
	PollBytes int
	// PollLinger is how long a long-poll that has something waits for more.
	// Default 20 ms.
	PollLinger time.Duration
	// PollMaxWait bounds how long a long-poll waits. Default 60 s.
	PollMaxWait time.Duration
	// ReconnectDelay is what clients are told to wait before they come back,
	// give or take half. Default 2 s.
	ReconnectDelay time.Duration
	// HistoryTimeout bounds one read of history. Default 10 s.
	HistoryTimeout time.Duration
	// CommandTimeout bounds one command, and how long a client may take to
	// send one message. Default 30 s.
	CommandTimeout time.Duration
	// MaxStreams bounds the streams of one connection. Default 64.
	MaxStreams int
	// MaxConnections bounds the connections of this node. Default 15,000.
	MaxConnections int
	// MaxCommandBytes bounds one message of a WebSocket client. Default 1.25 MiB.
	MaxCommandBytes int64
	// Commands is needed for WebSocket commands beyond subscribing.
	Commands Commands
	// Credential returns what the client of a request is there by, nil for what
	// doesn't end. Connections end with it. Nil where no credentials are in use.
	Credential func(ctx context.Context) Credential
	// Admit gives a connection, whose request had this context, a place among
	// those of its caller, until leave is called; an error, such as rate_limited,
	// says that it has too many. nil where callers have no limit. transport is "" for
	// who only asks.
	Admit func(ctx context.Context, transport string) (leave func(), err error)
	// Allow is asked before a WebSocket's command that costs something is done:
	// a protocol.Command's type, and the bytes of its message. nil allows all.
	Allow func(ctx context.Context, command protocol.CommandType, bytes int) error
	// AllowOrigin decides whether a browser page may open a WebSocket. Where it
	// is nil only pages of the server's own host may.
	AllowOrigin func(*http.Request) bool
	// Viewers counts the clients that watch a stream on other nodes; nil where
	// there are none. It may take some hundred milliseconds.
	Viewers func(ctx context.Context, stream string) int
	// CacheGeneration is what clients are told of answers that they keep; nil for
	// nothing. When it changes, call TellCacheGeneration. It returns
	// letters and digits, at once.
	CacheGeneration func() string
	Metrics         Metrics
	Logger          zerolog.Logger
}

func (o Options) withDefaults() Options {
	o.Node = cmp.Or(o.Node, "athena")
	o.Heartbeat = cmp.Or(o.Heartbeat, 15*time.Second)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 30*time.Second)
	o.MessageBytes = cmp.Or(o.MessageBytes, 31<<10)
	o.PollBytes = cmp.Or(o.PollBytes, 256<<10)
	o.PollLinger = cmp.Or(o.PollLinger, 20*time.Millisecond)
	o.PollMaxWait = cmp.Or(o.PollMaxWait, 60*time.Second)
	o.ReconnectDelay = cmp.Or(o.ReconnectDelay, 2*time.Second)
	o.HistoryTimeout = cmp.Or(o.HistoryTimeout, 10*time.Second)
	o.CommandTimeout = cmp.Or(o.CommandTimeout, 30*time.Second)
	o.MaxStreams = cmp.Or(o.MaxStreams, 64)
	o.MaxConnections = cmp.Or(o.MaxConnections, 15_000)
	o.MaxCommandBytes = cmp.Or(o.MaxCommandBytes, 5<<18)
	if o.CacheGeneration == nil {
		o.CacheGeneration = func() string { return "" }
	}
	if o.Commands == nil {
		o.Commands = noCommands{}
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	return o
}

// A Hub serves the three transports. Its Serve methods are for HTTP handlers.
type Hub struct {
	opts   Options
	feeds  *Feeds
	source Source

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup // writers that may wait, and the heart
	readers sync.WaitGroup // WebSockets' readers
	ready   *readyQueue
	workers sync.WaitGroup // writers that don't wait, which serve ready

	draining atomic.Bool
	drained  chan struct{} // closed when draining begins
	window   time.Duration // over which clients are asked to move; set before drained is closed
	places   atomic.Int64  // connections that were admitted and have not left
	refusals atomic.Int64  // those of them whose callers are told that they have too many
	now      atomic.Int64  // sinceStart, as of the heart's last tick

	mu       sync.Mutex
	sessions map[*session]struct{} // guarded by mu
	closed   bool                  // guarded by mu: no session may start
}

// New returns a hub whose streams come from feeds and, where they have none,
// from source. Close ends its goroutines.
func New(feeds *Feeds, source Source, o Options) *Hub {
	h := &Hub{opts: o.withDefaults(), feeds: feeds, source: source,
		drained: make(chan struct{}), sessions: make(map[*session]struct{})}
	h.ready = newReadyQueue(runtime.GOMAXPROCS(0))
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.now.Store(int64(sinceStart()))
	h.wg.Go(h.heart)
	for range h.ready.workers {
		h.workers.Go(h.serveReady)
	}
	return h
}

// Connections returns how many clients are connected, waiting long-polls and
// those that are just coming included.
func (h *Hub) Connections() int { return int(h.places.Load()) }

// Options returns the options with the defaults filled in.
func (h *Hub) Options() Options { return h.opts }

// Collect waits until the stream has ended, or ctx has, and returns what it
// says until then. The error is ctx's only if nothing could be read at all. Who
// waits has a place as a long-poll has.
func (h *Hub) Collect(ctx context.Context, stream string) (*protocol.Transcript, protocol.Metadata, error) {
	leave, err := h.admit(ctx, protocol.TransportLongPoll)
	if err != nil {
		return nil, protocol.Metadata{}, err
	}
	defer leave()
	ctx, release := h.bounded(ctx)
	defer release()
	p := newPoll()
	subs, err := h.subscribeAll(ctx, []protocol.Cursor{{Stream: stream}}, p)
	if err != nil {
		return nil, protocol.Metadata{}, err
	}
	defer h.unsubscribeAll(subs)
	defer h.opened(protocol.TransportLongPoll)("answered")
	var t protocol.Transcript
	var b batch
	for {
		b.reset()
		// Without ctx: what is there is told even when the wait is over.
		if _, err := h.gather(h.ctx, &b, subs, 0, h.opts.PollBytes, true); err != nil {
			return nil, protocol.Metadata{}, err
		}
		for i := range b.items {
			ev, err := b.items[i].event.Event()
			if err != nil {
				return nil, protocol.Metadata{}, err
			}
			if err := t.Apply(&ev); err != nil {
				return nil, protocol.Metadata{}, err
			}
		}
		if len(b.items) > 0 {
			continue
		}
		if !allDone(subs) && p.wait(ctx) {
			continue
		}
		if err := credentialEnded(ctx); err != nil {
			return nil, protocol.Metadata{}, err
		}
		return &t, subs[0].feed.Metadata(), nil
	}
}

// Metadata returns what the stream's events say in short. While it runs, its
// viewers are those on all nodes.
func (h *Hub) Metadata(ctx context.Context, stream string) (protocol.Metadata, error) {
	f, err := h.feeds.Open(ctx, stream, h.source)
	if err != nil {
		return protocol.Metadata{}, err
	}
	defer h.feeds.Release(f)
	m := f.Metadata()
	if h.opts.Viewers != nil && m.State == protocol.StateRunning {
		m.Viewers += h.opts.Viewers(ctx, stream)
	}
	return m, nil
}

// opened counts a connection, until what it returns is called.
func (h *Hub) opened(transport string) (closed func(reason string)) {
	began := sinceStart()
	h.opts.Metrics.Opened(transport)
	return func(reason string) { h.opts.Metrics.Closed(transport, reason, sinceStart()-began) }
}

// drainEnding asks a client to move.
func (h *Hub) drainEnding() *ending {
	return &ending{reason: "drain", code: protocol.CloseDrain, move: h.reconnectDelay()}
}

func (h *Hub) reconnectDelay() time.Duration {
	return jitter(h.opts.ReconnectDelay, rand.Float64())
}

var clockStart = time.Now()

// sinceStart is the time by a clock that nobody sets: a step of the wall clock
// would look like a long silence of every client. It is never 0.
func sinceStart() time.Duration { return time.Since(clockStart) + 1 }

// heart gives idle sessions their heartbeat and closes WebSockets that have
// been silent for too long.
func (h *Hub) heart() {
	tick := time.NewTicker(h.opts.Heartbeat / 8)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			now := sinceStart()
			h.now.Store(int64(now))
			h.mu.Lock()
			for s := range h.sessions {
				s.tick(now)
			}
			h.mu.Unlock()
		case <-h.ctx.Done():
			return
		}
	}
}

// Drain asks every client to move to another node, or to come back later,
// spread over the window, and waits until they are gone or ctx ends.
func (h *Hub) Drain(ctx context.Context, window time.Duration) {
	h.beginDrain(window)
	h.mu.Lock()
	sessions := slices.Collect(maps.Keys(h.sessions))
	h.mu.Unlock()

	step := window / time.Duration(len(sessions)+1)
	for _, s := range sessions {
		s.end(*h.drainEnding())
		if step > 0 && !sleep(ctx, step) {
			break
		}
	}
	for _, s := range sessions {
		select {
		case <-s.done:
		case <-ctx.Done():
			return
		}
	}
}

// beginDrain lets nobody in any more. Polls that wait are answered over the
// window.
func (h *Hub) beginDrain(window time.Duration) {
	if h.draining.CompareAndSwap(false, true) {
		h.window = window
		close(h.drained)
	}
}

// Close ends every connection at once and waits for all goroutines.
func (h *Hub) Close() {
	h.beginDrain(0)
	h.mu.Lock()
	h.closed = true
	sessions := slices.Collect(maps.Keys(h.sessions))
	h.mu.Unlock()
	for _, s := range sessions {
		s.end(ending{reason: "shutdown", abort: true})
	}
	h.cancel()
	for _, s := range sessions {
		<-s.done
	}
	h.readers.Wait()
	h.ready.close() // no session is left to be added
	h.workers.Wait()
	h.wg.Wait()
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// TellCacheGeneration tells all who are connected which generation of cached
// answers is good now. Polls tell it with their answers.
func (h *Hub) TellCacheGeneration() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.sessions {
		if s.tellGeneration() {
			s.wake()
		}
	}
}

// tellGeneration has the client told the generation, if it doesn't know it: of
// several only the newest. The hub's mu is held; the caller wakes the session.
func (s *session) tellGeneration() bool {
	g := s.hub.opts.CacheGeneration()
	if g == s.generation {
		return false
	}
	s.generation = g
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache = g
	return true
}

// welcome is the first thing a client hears. On a WebSocket it has a type.
func (h *Hub) welcome(typ string) []byte {
	b, err := json.Marshal(protocol.Welcome{Type: typ, Node: h.opts.Node, HeartbeatMS: h.opts.Heartbeat.Milliseconds(), MaxStreams: h.opts.MaxStreams, Cache: h.opts.CacheGeneration()})
	if err != nil {
		panic(err) // strings and numbers only
	}
	return b
}

// refuse answers with err.
func (h *Hub) refuse(w http.ResponseWriter, r *http.Request, err error) {
	h.log(r.Context(), err)
	h.bound(w)
	problem.Write(w, err)
}

// log logs an error whose cause a client isn't told, unless the client has gone,
// with which ctx ends.
func (h *Hub) log(ctx context.Context, err error) {
	if ctx.Err() == nil && protocol.AsError(err).Code == protocol.CodeInternal {
		h.opts.Logger.Error().Err(err).Msg("a client could not be served")
	}
}

// bound bounds the writing of a short answer, which net/http does once the
// handler has returned.
func (h *Hub) bound(w http.ResponseWriter) {
	// A connection that takes no deadline is closed already, or a test's.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.opts.WriteTimeout))
}

type noCommands struct{}

var errNoCommands = protocol.Errorf(protocol.CodeForbidden, "this server takes no commands")

func (noCommands) Analyze(context.Context, []byte) (string, error) { return "", errNoCommands }
func (noCommands) Subscribe(context.Context, string) error         { return nil }
func (noCommands) Cancel(context.Context, string) error            { return errNoCommands }
func (noCommands) Authenticate(context.Context, string) error      { return errNoCommands }

type noMetrics struct{}

func (noMetrics) Opened(string)                        {}
func (noMetrics) Closed(string, string, time.Duration) {}
func (noMetrics) Wrote(string, int, int, int, uint64)  {}
