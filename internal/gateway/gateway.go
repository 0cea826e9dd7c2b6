package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/audit"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/problem"
	"github.com/athena-hub/athena/internal/proxies"
	"github.com/athena-hub/athena/protocol"
)

// Analyses starts and ends analyses. Errors that clients should see have an
// *protocol.Error in their tree.
type Analyses interface {
	// Start starts an analysis and returns its stream. created is false if the
	// owner's idempotency key had started it before. The analysis outlives ctx.
	Start(ctx context.Context, req *protocol.Request, o StartOptions) (id string, created bool, err error)
	// Cancel asks a running analysis to end, and doesn't wait for it.
	// Cancelling one that has ended is no error.
	Cancel(ctx context.Context, id string) error
}

// StartOptions are what a request for an analysis brings besides its body.
type StartOptions struct {
	IdempotencyKey string
	RequestID      string
	// Owner is whom the analysis belongs to (auth.Identity.Owner), "" where no
	// credentials are in use, and Tenant whose streams its stream is among.
	Owner, Tenant string
}

// Streams serves the events of streams. *hub.Hub is one.
type Streams interface {
	// Metadata returns what the stream's events say in short.
	Metadata(ctx context.Context, id string) (protocol.Metadata, error)
	// Admissible reports why a connection that came now would have no place.
	Admissible(ctx context.Context) error
	// Collect waits until the stream has ended, or ctx has, and returns what it
	// says until then. Who waits has a place as a connection has.
	Collect(ctx context.Context, id string) (*protocol.Transcript, protocol.Metadata, error)
	// The transports. They answer errors themselves, as problems. single says
	// that the client uses the plain form of the cursor ("17").
	ServeWebSocket(w http.ResponseWriter, r *http.Request)
	ServeSSE(w http.ResponseWriter, r *http.Request, cursors []protocol.Cursor, single bool)
	ServeLongPoll(w http.ResponseWriter, r *http.Request, cursors []protocol.Cursor, single bool, wait time.Duration)
}

// Metrics is told of each request. The route is a pattern.
type Metrics interface {
	// streamed says that the answer is an event stream or a WebSocket, which goes
	// on after the handler.
	Request(route string, status int, took time.Duration, streamed bool)
}

// Options configure a Gateway. Those without a default are required.
type Options struct {
	Analyses Analyses
	Streams  Streams
	Auth     *auth.Authenticator
	Origins  *Origins
	// Providers answers GET /v1/providers.
	Providers func() []Provider
	// ProviderKeys answers what is below /v1/providers/{name}/keys; nil for
	// nothing.
	ProviderKeys ProviderKeys
	// Ready reports why the node can't take requests; nil if it can. It may
	// take a while, and is asked at most once a second.
	Ready func(ctx context.Context) error
	// Cluster answers GET /v1/cluster, and tells readiness who is there and
	// what is degraded. Required.
	Cluster func(ctx context.Context) Cluster
	// Keys makes and ends API keys, and tokens that share a stream; nil where there
	// is no store for them.
	Keys Keys
	// Cache answers DELETE /v1/cache, and what clients are told of it; nil for
	// nothing.
	Cache CacheGeneration
	// Forget takes a node that is gone for good out of the store's majority;
	// nil where there is no store to do that for.
	Forget func(ctx context.Context, node string) error
	// MetricsHandler answers GET /metrics; nil for none.
	MetricsHandler http.Handler
	// Page holds index.html and what it needs; nil for none.
	Page    fs.FS
	Metrics Metrics // nil for none
	Limits  *Limits // on what callers ask for; nil for none
	Logger  zerolog.Logger
	// Proxies are believed when they say who their client is; nil for none.
	Proxies *proxies.Proxies
	// Audit records who did what; nil for nowhere.
	Audit *audit.Log
	// HSTS is how long browsers that came by HTTPS are told to come by nothing
	// else; 0 tells them nothing.
	HSTS time.Duration

	// LoopbackOnly refuses requests for other hosts than this machine: without
	// credentials, a page whose name is made to resolve to 127.0.0.1 would be
	// the same origin as this server.
	LoopbackOnly bool
	// Transports are offered to clients that negotiate, in this order. Default
	// all three.
	Transports []string
	// Heartbeat, ProbeTimeout and MaxStreams are what clients are told.
	// Defaults 15 s, 3 s and 64.
	Heartbeat    time.Duration
	ProbeTimeout time.Duration
	MaxStreams   int
	// MaxCodeBytes is the limit on a request's code, from which the one on its
	// body follows. Default 1 MiB.
	MaxCodeBytes int64
	// BodyTimeout is how long a body may take to arrive. Default 30 s.
	BodyTimeout time.Duration
	// WriteTimeout is how long an answer that is no stream may take to be
	// written. Default 30 s.
	WriteTimeout time.Duration
	// ReadyTimeout bounds one call of Ready. Default 5 s.
	ReadyTimeout time.Duration
	// ResultMaxWait bounds ?wait= of POST /v1/analyses. Default 10 min.
	ResultMaxWait time.Duration
}

// MaxRequestBytes is the limit on a request for an analysis as JSON, where its
// code has a limit of maxCode. Code grows in JSON: most by the escapes \uXXXX,
// which some encoders write for anything beyond ASCII, where two bytes become
// six. The limit on WebSocket commands should be the same.
func MaxRequestBytes(maxCode int64) int64 { return 3*maxCode + 64<<10 }

func (o Options) withDefaults() (Options, error) {
	for name, missing := range map[string]bool{"Analyses": o.Analyses == nil, "Streams": o.Streams == nil, "Auth": o.Auth == nil,
		"Origins": o.Origins == nil, "Providers": o.Providers == nil, "Ready": o.Ready == nil, "Cluster": o.Cluster == nil} {
		if missing {
			return o, errors.New("gateway: no " + name)
		}
	}
	if len(o.Transports) == 0 {
		o.Transports = []string{protocol.TransportWebSocket, protocol.TransportSSE, protocol.TransportLongPoll}
	}
	o.Heartbeat = cmp.Or(o.Heartbeat, 15*time.Second)
	o.ProbeTimeout = cmp.Or(o.ProbeTimeout, 3*time.Second)
	o.MaxStreams = cmp.Or(o.MaxStreams, 64)
	o.MaxCodeBytes = cmp.Or(o.MaxCodeBytes, 1<<20)
	o.BodyTimeout = cmp.Or(o.BodyTimeout, 30*time.Second)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 30*time.Second)
	o.ReadyTimeout = cmp.Or(o.ReadyTimeout, 5*time.Second)
	o.ResultMaxWait = cmp.Or(o.ResultMaxWait, 10*time.Minute)
	return o, nil
}

// A Gateway is the http.Handler of a node.
type Gateway struct {
	// Set by New, then read-only.
	opts    Options
	mux     *http.ServeMux
	handler http.Handler

	draining atomic.Bool
	waits    context.Context // ends when ?wait= must not wait any longer
	endWaits context.CancelFunc

	readyMu   sync.Mutex
	readyAt   time.Time // guarded by readyMu
	readyLast error     // guarded by readyMu
}

// New returns a Gateway. It reads the page once.
func New(o Options) (*Gateway, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Gateway{opts: o, mux: http.NewServeMux()}
	g.waits, g.endWaits = context.WithCancel(context.Background())

	// Callers are known on these. Tickets are for what browsers can't give
	// headers to.
	private := func(pattern string, tickets bool, h http.HandlerFunc) {
		mayTicket := func(*http.Request) bool { return tickets }
		g.mux.Handle(pattern, o.Auth.Middleware(mayTicket, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if id, ok := auth.FromContext(r.Context()); ok {
				x := exchangeOf(r)
				x.identity, x.caller, x.known = id.Name, id, true
				if !o.Limits.enter(w, r, id) {
					return
				}
			}
			h(w, r)
		})))
	}
	private("POST /v1/analyses", false, needs(auth.ScopeAnalyze, g.analyze))
	private("GET /v1/streams/{id}", false, needs(auth.ScopeRead, g.metadata))
	private("DELETE /v1/streams/{id}", false, needs(auth.ScopeCancel, g.cancel))
	private("GET /v1/streams/{id}/events", true, needs(auth.ScopeRead, g.streamEvents))
	private("GET /v1/events", true, needs(auth.ScopeRead, g.events))
	private("GET /v1/ws", true, g.webSocket)
	private("POST /v1/negotiate", false, g.negotiate)
	private("GET /v1/providers", false, needs(auth.ScopeProviders, g.providers))
	private("GET /v1/cluster", false, needs(auth.ScopeAdmin, g.cluster))
	private("DELETE /v1/cluster/nodes/{name}", false, needs(auth.ScopeAdmin, g.forget))
	if o.Cache != nil {
		private("DELETE /v1/cache", false, needs(auth.ScopeAdmin, g.clearCache))
	}
	if o.Keys != nil {
		g.mountKeys(private)
	}
	if o.ProviderKeys != nil {
		g.mountProviderKeys(private)
	}
	if o.MetricsHandler != nil {
		private("GET /metrics", false, needs(auth.ScopeMetrics, o.MetricsHandler.ServeHTTP))
	}
	g.mux.HandleFunc("GET /healthz", g.healthz)
	g.mux.HandleFunc("GET /readyz", g.readyz)
	if o.Page != nil {
		if err := g.mountPage(o.Page); err != nil {
			return nil, err
		}
	}

	// A page sees errors only with the headers that its origin needs.
	h := o.Origins.middleware(o.Limits, g.bodyGuard(o.Limits.arrive(http.HandlerFunc(g.route))))
	if o.LoopbackOnly {
		h = hostGuard(o.Origins, o.Limits, h)
	}
	// The deadline comes before all that refuse: net/http reads on in the body
	// of a refused request, and needs it for that.
	g.handler = g.exchange(g.headers(g.bodyDeadline(h)))
	return g, nil
}

// ServeHTTP answers a request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.handler.ServeHTTP(w, r) }

// Drain makes readiness say that the node is going away. Requests are served
// on.
func (g *Gateway) Drain() { g.draining.Store(true) }

// route hands the request to its handler, and says as a problem what the mux
// would say as text. Paths that aren't clean are not found, where the mux would
// redirect, and repeat the query, with its ticket, in the answer.
func (g *Gateway) route(w http.ResponseWriter, r *http.Request) {
	if p := r.URL.Path; p != "/" && path.Clean(p) != p {
		notFound(w, r)
		return
	}
	h, pattern := g.mux.Handler(r)
	if pattern != "" {
		exchangeOf(r).route = pattern
		if r.Method != http.MethodPost && r.Method != http.MethodPut && hasBody(r) {
			// Unread, it would keep net/http from noticing that the client of a
			// stream has gone.
			g.fail(w, r, protocol.Errorf(protocol.CodeInvalidRequest, "a %.20q request has no body here", r.Method))
			return
		}
		g.mux.ServeHTTP(w, r)
		return
	}
	answer := &muffled{header: make(http.Header), status: http.StatusOK}
	h.ServeHTTP(answer, r)
	if answer.status == http.StatusMethodNotAllowed {
		methodNotAllowed(w, r, answer.header.Get("Allow"))
		return
	}
	notFound(w, r)
}

func notFound(w http.ResponseWriter, r *http.Request) {
	problem.Write(w, withStatus(protocol.Errorf(protocol.CodeInvalidRequest, "there is nothing at %.100q", r.URL.Path), http.StatusNotFound))
}

// muffled takes an answer's status and headers and drops its body.
type muffled struct {
	header http.Header
	status int
}

func (m *muffled) Header() http.Header         { return m.header }
func (m *muffled) Write(b []byte) (int, error) { return len(b), nil }
func (m *muffled) WriteHeader(status int)      { m.status = status }

func methodNotAllowed(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	problem.Write(w, withStatus(protocol.Errorf(protocol.CodeInvalidRequest, "%.20q is not possible here; it must be %s", r.Method, allow), http.StatusMethodNotAllowed))
}

// withStatus returns e with another status, for what HTTP has a status for and
// the protocol no code.
func withStatus(e *protocol.Error, status int) *protocol.Error {
	c := *e
	c.Status, c.Title = status, http.StatusText(status)
	return &c
}

// fail answers with err, and logs what the answer doesn't say.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	if e := protocol.AsError(err); e.Code == protocol.CodeInternal && r.Context().Err() == nil {
		g.opts.Logger.Error().Err(err).Str("request_id", RequestID(r.Context())).Msg("request failed")
	}
	problem.Write(w, err)
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // types of this package and protocol's, which all encode
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(buf.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes()) // nobody is left to be told
}

// wantsSSE reports whether the client accepts an event stream by name.
func wantsSSE(r *http.Request) bool { return accepts(r.Header.Values("Accept"), "text/event-stream") }

// accepts reports whether a list of what is accepted, with weights (RFC 9110
// section 12.4.2), has this by name and doesn't refuse it.
func accepts(lines []string, name string) bool {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			parts := strings.Split(item, ";")
			if !strings.EqualFold(strings.TrimSpace(parts[0]), name) {
				continue
			}
			return !slices.ContainsFunc(parts[1:], func(p string) bool {
				q, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(p, " ", "")), "q=")
				weight, err := strconv.ParseFloat(q, 64)
				return ok && err == nil && weight == 0
			})
		}
	}
	return false
}
