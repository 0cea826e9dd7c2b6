package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/audit"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/protocol"
)

// A Result is the answer of POST /v1/analyses?wait=: the metadata and, once
// the analysis has ended (state is not "running"), what it said. A failed
// analysis is a Result like others, with its error; the request itself
// succeeded.
type Result struct {
	protocol.Metadata
	// Text is the answer; of a failed or cancelled analysis, as far as it came.
	Text      string             `json:"text"`
	Reasoning string             `json:"reasoning,omitempty"`
	Findings  []protocol.Finding `json:"findings"`
}

// maxIdempotencyKey bounds the header, in bytes.
const maxIdempotencyKey = 255

// analyze answers POST /v1/analyses. The content type is not looked at, since
// `curl -d` says that JSON is a form; forms of other sites are refused before.
func (g *Gateway) analyze(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	wait, err := waitParam(q.Get("wait"))
	if err != nil {
		g.fail(w, r, err)
		return
	}
	// A client that repeats the request after its stream broke off.
	after, err := seqParam("", r.Header.Get("Last-Event-ID"))
	if err != nil {
		g.fail(w, r, err)
		return
	}
	if wantsSSE(r) || wait > 0 {
		// An analysis that its client could not watch would run, and cost, for
		// nobody.
		if err := g.opts.Streams.Admissible(r.Context()); err != nil {
			g.fail(w, r, err)
			return
		}
	}
	key := r.Header.Get("Idempotency-Key")
	if len(key) > maxIdempotencyKey || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
		g.fail(w, r, protocol.Errorf(protocol.CodeInvalidRequest, "the Idempotency-Key must be at most %d printable ASCII characters", maxIdempotencyKey))
		return
	}
	body, err := g.readBody(w, r)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	req, err := protocol.ParseRequest(body)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	if g.opts.Audit.RecordsCode() {
		exchangeOf(r).code = req.Code
	}
	id, created, err := g.opts.Analyses.Start(r.Context(), req, startOptions(r.Context(), key))
	if err != nil {
		g.fail(w, r, err)
		return
	}
	w.Header().Set("Location", "/v1/streams/"+id)
	exchangeOf(r).stream = id
	if wantsSSE(r) {
		if created {
			after = 0
		}
		g.noWriteDeadline(w)
		g.opts.Streams.ServeSSE(w, r, []protocol.Cursor{{Stream: id, After: after}}, true)
		return
	}
	status := http.StatusCreated
	if !created {
		status = http.StatusOK
	}
	if wait > 0 {
		g.result(w, r, id, status, min(wait, g.opts.ResultMaxWait))
		return
	}
	m, err := g.opts.Streams.Metadata(r.Context(), id)
	if err != nil {
		g.fail(w, r, notYet(err))
		return
	}
	writeJSON(w, status, m)
}

// notYet is the error of reading a stream that has just been named: there is
// such a stream, if on another node that can't be asked at the moment.
func notYet(err error) error {
	if protocol.AsError(err).Code != protocol.CodeStreamNotFound {
		return err
	}
	return protocol.Errorf(protocol.CodeServiceUnavailable, "the analysis runs on another node, which can't be reached now; ask again").
		WithRetryAfter(time.Second).WithCause(err)
}

// startOptions are those of the caller's request.
func startOptions(ctx context.Context, idempotencyKey string) StartOptions {
	id := caller(ctx)
	return StartOptions{IdempotencyKey: idempotencyKey, RequestID: RequestID(ctx), Owner: id.Owner(), Tenant: id.Tenant}
}

// result answers with what the stream says when it has ended, or with its
// metadata when the wait is over.
func (g *Gateway) result(w http.ResponseWriter, r *http.Request, id string, status int, wait time.Duration) {
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(g.waits, cancel)()
	g.noWriteDeadline(w)
	t, m, err := g.opts.Streams.Collect(ctx, id)
	g.writeDeadline(w)
	if err != nil && r.Context().Err() == nil && (ctx.Err() != nil || noPlace(err)) {
		// Nothing could be read within the wait, or there was no place to wait;
		// the stream is there all the same.
		m, err = g.opts.Streams.Metadata(r.Context(), id)
		t = nil
	}
	switch {
	case err != nil:
		g.fail(w, r, notYet(err))
	case t == nil || m.State == protocol.StateRunning:
		writeJSON(w, status, m)
	default:
		res := Result{Metadata: m, Text: t.Text(), Reasoning: t.Reasoning(), Findings: t.Findings()}
		if res.Findings == nil {
			res.Findings = []protocol.Finding{}
		}
		writeJSON(w, status, res)
	}
}

// noPlace reports whether err says that the node, or its caller, has all the
// connections that it may.
func noPlace(err error) bool {
	code := protocol.AsError(err).Code
	return code == protocol.CodeOverloaded || code == protocol.CodeDraining || code == protocol.CodeRateLimited
}

// metadata answers GET /v1/streams/{id}.
func (g *Gateway) metadata(w http.ResponseWriter, r *http.Request) {
	m, err := g.find(r)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, m)
}

// cancel answers DELETE /v1/streams/{id} with the metadata as it was.
func (g *Gateway) cancel(w http.ResponseWriter, r *http.Request) {
	m, err := g.find(r)
	if err == nil && m.State == protocol.StateRunning {
		err = g.opts.Analyses.Cancel(r.Context(), r.PathValue("id"))
	}
	if err != nil {
		g.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusAccepted, m)
}

func (g *Gateway) find(r *http.Request) (protocol.Metadata, error) {
	id, err := pathID(r)
	if err != nil {
		return protocol.Metadata{}, err
	}
	return g.opts.Streams.Metadata(r.Context(), id)
}

// pathID returns the {id} of the path, if it is that of a stream that the caller
// may know of.
func pathID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if !protocol.ValidStreamID(id) {
		return "", protocol.Errorf(protocol.CodeStreamNotFound, "%.60q is not the id of a stream", id)
	}
	exchangeOf(r).stream = id
	return id, mayKnow(r.Context(), id)
}

// readBody reads the whole body, whose limit and deadline bodyGuard has set.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		// A few kilobytes of it could be gigabytes (CWE-409).
		return nil, withStatus(protocol.Errorf(protocol.CodeInvalidRequest, "Content-Encoding %.40q is not understood; send the body as it is", enc), http.StatusUnsupportedMediaType)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.Header().Set("Connection", "close") // what is left of the body is not waited for
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, protocol.Errorf(protocol.CodePayloadTooLarge, "the body has more than the limit of %d bytes", tooLarge.Limit)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, withStatus(protocol.Errorf(protocol.CodeInvalidRequest, "the body did not arrive within %s", g.opts.BodyTimeout), http.StatusRequestTimeout)
		}
		return nil, protocol.Errorf(protocol.CodeInvalidRequest, "the body broke off: it is shorter than its Content-Length, or badly chunked")
	}
	// net/http reads on, to notice when the client goes away; the deadline
	// would look like that.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	return b, nil
}

// Commands does for WebSocket clients what the resources do for others. It is
// a hub.Commands; its contexts carry the values of the request that opened the
// connection.
type Commands struct {
	Analyses Analyses
	Auth     *auth.Authenticator
	// Metadata finds a stream before it is cancelled, so that an unknown one is
	// told; nil if Analyses tells. It is usually the hub's, which needs the
	// Commands first: set it before the server starts.
	Metadata func(ctx context.Context, id string) (protocol.Metadata, error)
	// Audit records the commands; nil for nowhere.
	Audit  *audit.Log
	Limits *Limits // nil for none
}

// Analyze starts an analysis.
func (c *Commands) Analyze(ctx context.Context, request []byte) (stream string, err error) {
	code := ""
	defer func() { c.record(ctx, protocol.CommandAnalyze, stream, code, err) }()
	if err := caller(ctx).Allow(auth.ScopeAnalyze); err != nil {
		return "", err
	}
	req, err := protocol.ParseRequest(request)
	if err != nil {
		return "", err
	}
	if c.Audit.RecordsCode() {
		code = req.Code
	}
	id, _, err := c.Analyses.Start(ctx, req, startOptions(ctx, ""))
	return id, err
}

// Subscribe lets the caller watch a stream, if it may.
func (c *Commands) Subscribe(ctx context.Context, stream string) (err error) {
	defer func() {
		if err != nil { // else Subscribed is told
			c.Subscribed(ctx, stream, err)
		}
	}()
	if err := caller(ctx).Allow(auth.ScopeRead); err != nil {
		return err
	}
	if !protocol.ValidStreamID(stream) {
		return nil // the hub says so
	}
	return mayKnow(ctx, stream)
}

// Subscribed records what became of a subscription (hub.SubscriptionWatcher).
func (c *Commands) Subscribed(ctx context.Context, stream string, err error) {
	c.record(ctx, protocol.CommandSubscribe, stream, "", err)
}

// Cancel ends one.
func (c *Commands) Cancel(ctx context.Context, stream string) (err error) {
	defer func() { c.record(ctx, protocol.CommandCancel, stream, "", err) }()
	if err := caller(ctx).Allow(auth.ScopeCancel); err != nil {
		return err
	}
	if !protocol.ValidStreamID(stream) {
		return protocol.Errorf(protocol.CodeStreamNotFound, "%.60q is not the id of a stream", stream)
	}
	if err := mayKnow(ctx, stream); err != nil {
		return err
	}
	if c.Metadata != nil {
		if m, err := c.Metadata(ctx, stream); err != nil || m.State != protocol.StateRunning {
			return err
		}
	}
	return c.Analyses.Cancel(ctx, stream)
}

// Authenticate takes a fresh token for the connection, which must be the same
// caller's.
func (c *Commands) Authenticate(ctx context.Context, token string) (err error) {
	defer func() { c.record(ctx, protocol.CommandAuthenticate, "", "", err) }()
	if err := c.Limits.mayTry(ctx, token); err != nil {
		return err
	}
	return c.Auth.Renew(ctx, token) // which tells Limits of a failure
}
