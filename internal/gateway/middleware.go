package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime/debug"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/problem"
	"github.com/athena-hub/athena/internal/proxies"
	"github.com/athena-hub/athena/protocol"
)

// An exchangeRecord is what handlers add to the log line of their request. It
// belongs to the request's goroutine.
type exchangeRecord struct {
	id       string
	route    string
	identity string
	stream   string
	key      string // the id of the API key that was made, changed or ended
	// client is where the request comes from.
	client proxies.Client
	host   string // as the request itself has it
	// caller is who it was, if known; code what was to be analysed, where that
	// is recorded.
	caller auth.Identity
	known  bool
	code   string
	// watched are the streams of a request for events.
	watched []protocol.Cursor

	// What Limits know of the request.
	secret string // its credential, to be compared only
	quiet  bool   // it is one of too many, and not worth a line of the log
}

type exchangeKey struct{}

// exchangeOf returns the record of a request that came through exchange.
func exchangeOf(r *http.Request) *exchangeRecord {
	return r.Context().Value(exchangeKey{}).(*exchangeRecord)
}

// RequestID returns the id of the request that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	if x, ok := ctx.Value(exchangeKey{}).(*exchangeRecord); ok {
		return x.id
	}
	return ""
}

var saneRequestID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// exchange gives the request an id and its answer a deadline, and logs and
// counts it when it is over. A handler that panics is answered with 500 if
// nothing was written, and otherwise with a connection that breaks off.
//
// The path is logged, the query and the headers are not: they may hold tickets
// and keys.
func (g *Gateway) exchange(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		x := &exchangeRecord{id: r.Header.Get("X-Request-Id"), client: g.opts.Proxies.Client(r), host: r.Host}
		if !saneRequestID.MatchString(x.id) {
			x.id = rand.Text()
		}
		w.Header().Set("X-Request-Id", x.id)
		rec := &recorder{ResponseWriter: w}
		defer func() {
			thrown := recover()
			if err, _ := thrown.(error); thrown != nil && !errors.Is(err, http.ErrAbortHandler) {
				g.opts.Logger.Error().Str("request_id", x.id).Str("route", x.route).Str("panic", fmt.Sprint(thrown)).Bytes("stack", debug.Stack()).Msg("handler panicked")
				if rec.status == 0 {
					problem.Write(rec, protocol.Errorf(protocol.CodeInternal, "the server could not do this; its log says why"))
					thrown = nil
				}
			}
			g.logExchange(r, x, rec, time.Since(began))
			if thrown != nil {
				panic(http.ErrAbortHandler)
			}
		}()
		g.writeDeadline(rec)
		r = as(r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)), x.client)
		next.ServeHTTP(rec, r)
	})
}

// statusClientGone stands in log and metrics for the status that a client which
// went away would have got. nginx has it, too; HTTP has none.
const statusClientGone = 499

// maxLogged bounds what a client can put into a log line, for each field.
const maxLogged = 200

func (g *Gateway) logExchange(r *http.Request, x *exchangeRecord, rec *recorder, took time.Duration) {
	status := rec.status
	if status == 0 {
		status = http.StatusOK // net/http's, for a handler that wrote nothing
	}
	if status >= 500 && r.Context().Err() != nil {
		status = statusClientGone // nobody was there to be answered, which is no failure of ours
	}
	route := x.route
	level := zerolog.InfoLevel
	switch route {
	case "GET /healthz", "GET /readyz", "GET /metrics":
		level = zerolog.DebugLevel
	case "":
		route = "none"
	}
	if status >= 500 {
		level = max(level, zerolog.WarnLevel)
	}
	if x.quiet {
		level = zerolog.DebugLevel
	}
	streamed := status == http.StatusSwitchingProtocols || rec.Header().Get("Content-Type") == "text/event-stream"
	if g.opts.Metrics != nil {
		g.opts.Metrics.Request(route, status, took, streamed)
	}
	g.record(r, x, route, status, rec.code, took)
	remote := r.RemoteAddr // a Unix socket's
	if x.client.Address.IsValid() {
		remote = x.client.Address.String()
	}
	e := g.opts.Logger.WithLevel(level).Str("request_id", x.id).Str("method", cut(r.Method)).Str("path", cut(auth.HideKeys(r.URL.Path))).
		Str("route", route).Int("status", status).Str("remote", remote)
	if streamed {
		e.Bool("streamed", true) // it may have only begun
	} else {
		e.Int64("bytes", rec.bytes).Dur("took_ms", took)
	}
	for _, f := range [][2]string{{"caller", x.identity}, {"stream", x.stream}, {"user_agent", cut(r.UserAgent())}} {
		if f[1] != "" {
			e.Str(f[0], f[1])
		}
	}
	e.Msg("request")
}

func cut(s string) string { return s[:min(len(s), maxLogged)] }

// A recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int // 0 before the header
	bytes  int64
	code   protocol.Code // of the error; "" for none
}

var _ problem.Noter = (*recorder)(nil)

// Problem is problem.Noter's.
func (rec *recorder) Problem(code protocol.Code) {
	if rec.status == 0 {
		rec.code = code
	}
}

// Unwrap is for http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func (rec *recorder) WriteHeader(status int) {
	// Informational answers are followed by the real one, but for 101.
	if rec.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(b []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(b)
	rec.bytes += int64(n)
	return n, err
}

// writeDeadline bounds the writing of an answer. The server has no
// WriteTimeout, since that would end streams.
func (g *Gateway) writeDeadline(w http.ResponseWriter) {
	setWriteDeadline(w, time.Now().Add(g.opts.WriteTimeout))
}

// noWriteDeadline is for handlers that wait, or set deadlines themselves.
func (g *Gateway) noWriteDeadline(w http.ResponseWriter) { setWriteDeadline(w, time.Time{}) }

func setWriteDeadline(w http.ResponseWriter, t time.Time) {
	// A connection that takes no deadline is closed already, or a test's.
	_ = http.NewResponseController(w).SetWriteDeadline(t)
}

// headers sets what holds for every answer; pages relax the policy.
func (g *Gateway) headers(next http.Handler) http.Handler {
	hsts := strictTransport(g.opts.HSTS)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY") // for what doesn't know frame-ancestors
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", apiPolicy)
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", permissions)
		if hsts != "" && schemeOf(r) == "https" {
			h.Set("Strict-Transport-Security", hsts)
		}
		next.ServeHTTP(w, r)
	})
}

// hasBody reports whether r may have a body. Over HTTP/2 net/http says by the
// length alone that there is none.
func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

// bodyDeadline bounds how long a request's body may take to arrive.
func (g *Gateway) bodyDeadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hasBody(r) {
			if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.opts.BodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
				g.fail(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// bodyGuard bounds a request's body in size.
func (g *Gateway) bodyGuard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hasBody(r) {
			next.ServeHTTP(w, r)
			return
		}
		limit := MaxRequestBytes(g.opts.MaxCodeBytes)
		if r.ContentLength > limit {
			w.Header().Set("Connection", "close")
			problem.Write(w, protocol.Errorf(protocol.CodePayloadTooLarge, "the body has %d bytes, more than the limit of %d", r.ContentLength, limit))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		next.ServeHTTP(w, r)
	})
}
