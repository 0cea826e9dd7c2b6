package gateway

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/audit"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/protocol"
)

// record writes an exchange to the audit log: what a known caller asked for,
// and who was not let in. Scrapes of the metrics are no deed of anybody's.
func (g *Gateway) record(r *http.Request, x *exchangeRecord, route string, status int, code protocol.Code, took time.Duration) {
	if g.opts.Audit == nil || route == "GET /metrics" {
		return
	}
	e := audit.Event{Kind: audit.KindRequest, Method: r.Method, Route: route, Stream: x.stream, Key: x.key, RequestID: x.id,
		UserAgent: r.UserAgent(), Status: status, TookMS: took.Milliseconds(), Code: x.code}
	switch {
	case status == http.StatusUnauthorized:
		e.Kind = audit.KindDenied
	case x.quiet && x.known:
		e.Kind = audit.KindLimited
	case !x.known: // the page, health, and what is refused before anybody is asked who they are
		return
	}
	e.Outcome = outcome(status, code)
	about(&e, r, x, route)
	if len(x.watched) > 1 || e.Stream == "" {
		for _, c := range x.watched {
			e.Streams = append(e.Streams, c.Stream)
		}
	}
	by(&e, x.caller, x.known)
	at(&e, x)
	g.opts.Audit.Write(e)
}

// outcome says how a request went in the words in which commands and analyses
// say it: the protocol's codes.
func outcome(status int, code protocol.Code) string {
	switch {
	case status < 400:
		return audit.OK
	case status == statusClientGone:
		return "client_gone"
	case code != "":
		return string(code)
	case status >= 500: // what answers with no error of the protocol is a library
		return string(protocol.CodeInternal)
	}
	return string(protocol.CodeInvalidRequest)
}

// about says what it was done to, by the resource's path, and by what the
// handler found or made there.
func about(e *audit.Event, r *http.Request, x *exchangeRecord, route string) {
	_, path, _ := strings.Cut(route, " ")
	switch {
	case strings.HasPrefix(path, "/v1/streams/"):
		e.Stream = cmp.Or(e.Stream, auth.HideKeys(r.PathValue("id")))
	case strings.HasPrefix(path, "/v1/providers/"):
		e.Provider = r.PathValue("name") // what stands for a key's id may be the key; the handler knows
	case strings.HasPrefix(path, "/v1/keys/"):
		e.Key = auth.HideKeys(r.PathValue("id"))
	case strings.HasPrefix(path, "/v1/cluster/nodes/"):
		e.Peer = r.PathValue("name")
	}
	e.Key = cmp.Or(x.key, e.Key)
}

// by says who it was.
func by(e *audit.Event, id auth.Identity, known bool) {
	if known {
		e.Caller, e.Tenant, e.Credential = id.Name, id.Tenant, id.Credential
	}
}

// at says from where.
func at(e *audit.Event, x *exchangeRecord) {
	if x.client.Address.IsValid() {
		e.Address = x.client.Address.String()
	}
}

// record writes a WebSocket client's command to the audit log. ctx carries the
// values of the request that opened the connection.
func (c *Commands) record(ctx context.Context, command protocol.CommandType, stream, code string, err error) {
	if c.Audit == nil {
		return
	}
	e := audit.Event{Kind: audit.KindCommand, Command: string(command), Stream: stream, Code: code, Outcome: audit.OK}
	if err != nil {
		refused := protocol.AsError(err).Code
		e.Outcome = string(refused)
		if command == protocol.CommandAuthenticate && (refused == protocol.CodeUnauthorized || refused == protocol.CodeRateLimited) {
			e.Kind = audit.KindDenied
		}
	}
	id, known := auth.FromContext(ctx)
	by(&e, id, known)
	if x, ok := ctx.Value(exchangeKey{}).(*exchangeRecord); ok {
		e.RequestID = x.id
		at(&e, x)
	}
	c.Audit.Write(e)
}
