package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/overload"
	"github.com/athena-hub/athena/internal/problem"
	"github.com/athena-hub/athena/protocol"
)

// streamEvents answers GET /v1/streams/{id}/events.
func (g *Gateway) streamEvents(w http.ResponseWriter, r *http.Request) {
	id, err := pathID(r)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	q := r.URL.Query()
	after, err := seqParam(q.Get("after"), r.Header.Get("Last-Event-ID"))
	if err != nil {
		g.fail(w, r, err)
		return
	}
	g.serveEvents(w, r, q, []protocol.Cursor{{Stream: id, After: after}}, true)
}

// events answers GET /v1/events.
func (g *Gateway) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	cursors, err := cursorParams(q["stream"], q.Get("after"), r.Header.Get("Last-Event-ID"), g.opts.MaxStreams)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	for _, c := range cursors {
		if err := mayKnow(r.Context(), c.Stream); err != nil {
			g.fail(w, r, err)
			return
		}
	}
	g.serveEvents(w, r, q, cursors, false)
}

func (g *Gateway) serveEvents(w http.ResponseWriter, r *http.Request, q url.Values, cursors []protocol.Cursor, single bool) {
	if r.Method != http.MethodGet { // HEAD: there would be no end to it
		methodNotAllowed(w, r, http.MethodGet)
		return
	}
	exchangeOf(r).watched = cursors
	w.Header().Add("Vary", "Accept")
	if begins(cursors) {
		if err := g.opts.Limits.shed(overload.Watch); err != nil {
			g.putOff(w, r, err)
			return
		}
	}
	if wantsSSE(r) {
		g.noWriteDeadline(w)
		g.opts.Streams.ServeSSE(w, r, cursors, single)
		return
	}
	wait, err := waitParam(q.Get("wait"))
	if err != nil {
		g.fail(w, r, err)
		return
	}
	g.noWriteDeadline(w)
	g.opts.Streams.ServeLongPoll(w, r, cursors, single, wait)
}

// putOff says that a stream can't be watched now. An EventSource would give up for
// ever on an error status, so it is told to come back.
func (g *Gateway) putOff(w http.ResponseWriter, r *http.Request, err error) {
	if !wantsSSE(r) {
		g.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store, no-transform")
	// It comes back whether it has read this or not.
	_, _ = fmt.Fprintf(w, "retry: %d\n\n", protocol.AsError(err).RetryAfterMS)
}

// begins reports whether the client has nothing of these streams yet.
func begins(cursors []protocol.Cursor) bool {
	return !slices.ContainsFunc(cursors, func(c protocol.Cursor) bool { return c.After > 0 })
}

// seqParam is the cursor of a single stream. Last-Event-ID wins: an
// EventSource that reconnects sends it with the URL that it was opened with.
func seqParam(after, lastEventID string) (uint64, error) {
	if lastEventID != "" {
		after = lastEventID
	}
	if after == "" {
		return 0, nil
	}
	return protocol.ParseSeq(after)
}

// cursorParams are the cursors of several streams, in the order in which the
// streams were named.
func cursorParams(streams []string, after, lastEventID string, max int) ([]protocol.Cursor, error) {
	if len(streams) == 0 {
		return nil, protocol.Errorf(protocol.CodeInvalidRequest, `no stream was named; write "?stream=ID", once for each`)
	}
	if len(streams) > max {
		return nil, protocol.Errorf(protocol.CodeInvalidRequest, "%d streams were named, more than the limit of %d", len(streams), max)
	}
	cursors := make([]protocol.Cursor, 0, len(streams))
	index := func(id string) int {
		return slices.IndexFunc(cursors, func(c protocol.Cursor) bool { return c.Stream == id })
	}
	for _, id := range streams {
		if !protocol.ValidStreamID(id) {
			return nil, protocol.Errorf(protocol.CodeStreamNotFound, "%.60q is not the id of a stream", id)
		}
		if index(id) >= 0 {
			return nil, protocol.Errorf(protocol.CodeInvalidRequest, "stream %s was named twice", id)
		}
		cursors = append(cursors, protocol.Cursor{Stream: id})
	}
	for _, text := range []string{after, lastEventID} { // the later one wins
		if text == "" {
			continue
		}
		given, err := protocol.ParseCursors(text)
		if err != nil {
			return nil, err
		}
		for _, c := range given {
			i := index(c.Stream)
			if i < 0 {
				return nil, protocol.Errorf(protocol.CodeInvalidCursor, "the cursor has stream %s, which was not named with ?stream=", c.Stream)
			}
			cursors[i].After = c.After
		}
	}
	return cursors, nil
}

// waitParam is how long the client wants to wait; no time at all where it says
// nothing.
func waitParam(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, protocol.Errorf(protocol.CodeInvalidRequest, "wait is %.40q; it must be a time such as 25s", s)
	}
	return d, nil
}

// webSocket answers GET /v1/ws.
func (g *Gateway) webSocket(w http.ResponseWriter, r *http.Request) {
	if !headerHas(r.Header, "Upgrade", "websocket") || !headerHas(r.Header, "Connection", "upgrade") {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		problem.Write(w, withStatus(protocol.Errorf(protocol.CodeInvalidRequest,
			"this is a WebSocket; a proxy in between that removes the Upgrade header looks like this too"), http.StatusUpgradeRequired))
		return
	}
	if r.Header.Get("Sec-WebSocket-Version") != "13" || r.Header.Get("Sec-WebSocket-Key") == "" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		problem.Write(w, protocol.Errorf(protocol.CodeInvalidRequest, "the WebSocket handshake needs Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key"))
		return
	}
	if r.Header.Get("Sec-WebSocket-Protocol") != "" && !headerHas(r.Header, "Sec-WebSocket-Protocol", protocol.Version) {
		problem.Write(w, protocol.Errorf(protocol.CodeInvalidRequest, "the WebSocket subprotocol is %.60q; it must be %s, or none", r.Header.Get("Sec-WebSocket-Protocol"), protocol.Version))
		return
	}
	g.opts.Streams.ServeWebSocket(w, r)
}

// headerHas reports whether a header's list has an item, in any case.
func headerHas(h http.Header, name, item string) bool {
	for _, line := range h.Values(name) {
		for s := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(s), item) {
				return true
			}
		}
	}
	return false
}

var transportURLs = map[string]string{
	protocol.TransportWebSocket: "/v1/ws",
	protocol.TransportSSE:       "/v1/events",
	protocol.TransportLongPoll:  "/v1/events",
}

// negotiate answers POST /v1/negotiate. Nothing in the body is needed.
func (g *Gateway) negotiate(w http.ResponseWriter, r *http.Request) {
	if _, err := g.readBody(w, r); err != nil {
		g.fail(w, r, err)
		return
	}
	n := protocol.Negotiation{Protocol: protocol.Version, Transports: []protocol.TransportOffer{}, HeartbeatMS: g.opts.Heartbeat.Milliseconds(),
		ProbeTimeoutMS: g.opts.ProbeTimeout.Milliseconds(), MaxStreams: g.opts.MaxStreams}
	if g.opts.Cache != nil {
		n.Cache = g.opts.Cache.Name()
	}
	for _, name := range g.opts.Transports {
		if canCarry(r, name) {
			n.Transports = append(n.Transports, protocol.TransportOffer{Name: name, URL: transportURLs[name]})
		}
	}
	if id, ok := auth.FromContext(r.Context()); ok {
		if n.Ticket = g.opts.Auth.Ticket(id, r); n.Ticket != "" {
			g.opts.Limits.issued(r.Context(), n.Ticket)
		}
	}
	writeJSON(w, http.StatusOK, n)
}

// canCarry reports whether the way that the request came can carry a
// transport, as far as the request shows. Over HTTP/1.0, here or between two
// proxies (Via, RFC 9110 section 7.6.3), nothing can be upgraded, and answers
// of unknown length tend to be collected; HTTP/2 here has no upgrade.
func canCarry(r *http.Request, transport string) bool {
	old := !r.ProtoAtLeast(1, 1)
	for _, via := range r.Header.Values("Via") {
		for hop := range strings.SplitSeq(via, ",") {
			version, _, _ := strings.Cut(strings.TrimSpace(hop), " ")
			old = old || version == "1.0" || strings.EqualFold(version, "HTTP/1.0")
		}
	}
	switch transport {
	case protocol.TransportWebSocket:
		return !old && r.ProtoMajor == 1
	case protocol.TransportSSE:
		return !old
	}
	return true
}
