package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// ssePadding is sent as a comment in the first frame, so that proxies with
// small buffers pass it on at once.
const ssePadding = 2 << 10

// ServeSSE answers with the events after the cursors as an event stream, and
// returns when every stream has ended or the connection has. single says that
// the ids of the frames are those of the one stream ("17"), not the combined
// form ("A:17,B:3"). Before the first byte errors are answered as problems.
func (h *Hub) ServeSSE(w http.ResponseWriter, r *http.Request, cursors []protocol.Cursor, single bool) {
	leave, err := h.admit(r.Context(), protocol.TransportSSE)
	if err != nil {
		if _, limited := errors.AsType[*callerLimitError](err); r.Method == http.MethodGet && !limited {
			h.sendAway(w)
			return
		}
		h.refuse(w, r, err)
		return
	}
	started := false
	defer func() {
		if !started {
			leave()
		}
	}()
	if err := h.checkCursors(cursors); err != nil {
		h.refuse(w, r, err)
		return
	}
	s := h.newSession(r.Context(), protocol.TransportSSE)
	s.leave = leave
	s.oneShot = true
	subs, err := h.subscribeAll(r.Context(), cursors, s)
	if err != nil {
		s.cancel()
		if e := protocol.AsError(err); r.Method == http.MethodGet && e.Retryable && e.Status >= http.StatusInternalServerError {
			h.sendAway(w) // its owner or the store is away for a moment
			return
		}
		h.refuse(w, r, err)
		return
	}
	if allDone(subs) {
		s.cancel()
		h.unsubscribeAll(subs)
		h.bound(w)
		w.Header().Set("Cache-Control", "no-store") // else a cache may keep it (RFC 9110, section 15.3.5)
		w.WriteHeader(http.StatusNoContent)         // stops an EventSource
		return
	}
	link := &sseLink{single: single, cursors: slices.Clone(cursors)}
	sseHeader(w.Header())
	if r.ProtoMajor == 1 && canHijack(w) {
		started = h.serveConn(w, r, s, link, subs)
		return
	}
	w.WriteHeader(http.StatusOK)
	wire := &responseWire{w: w, rc: http.NewResponseController(w), timeout: h.opts.WriteTimeout}
	if started = s.start(wire, link, h.ssePreamble(link), subs, nil); !started {
		s.cancel()
		h.unsubscribeAll(subs)
		return
	}
	select {
	case <-s.done:
	case <-r.Context().Done():
		s.end(ending{reason: "client_gone", abort: true})
		<-s.done // the writer must not touch w after the handler
	}
}

func sseHeader(head http.Header) {
	head.Set("Content-Type", "text/event-stream")
	head.Set("Cache-Control", "no-store, no-transform")
	head.Set("X-Accel-Buffering", "no")
}

// sendAway tells an EventSource to come back later, to this node or another. An
// error status would make it give up for ever.
func (h *Hub) sendAway(w http.ResponseWriter) {
	sseHeader(w.Header())
	h.bound(w)
	w.WriteHeader(http.StatusOK)
	// The client comes back whether it has read this or not.
	_, _ = fmt.Fprintf(w, "retry: %d\n\n", h.reconnectDelay().Milliseconds())
}

// serveConn takes the connection over from net/http, which keeps two buffers,
// two goroutines and the request for as long as a handler runs; here a
// goroutine that waits for the client to leave is all. The response ends with
// its connection. It reports false if the session could not start.
func (h *Hub) serveConn(w http.ResponseWriter, r *http.Request, s *session, link *sseLink, subs []*subscription) (started bool) {
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	take := &takeover{ResponseWriter: w, timeout: h.opts.WriteTimeout}
	_, brw, err := take.Hijack() // this sends the header
	if err != nil {
		s.cancel()
		h.unsubscribeAll(subs)
		return false
	}
	link.chunked = r.ProtoAtLeast(1, 1)
	s.detach()
	read := func() {
		for { // what a client sends here means nothing
			if _, err := brw.Reader.Discard(1); err != nil {
				break
			}
		}
		s.end(ending{reason: "client_gone", abort: true})
		<-s.done
	}
	if !s.start(take.wire, link, h.ssePreamble(link), subs, read) {
		s.cancel()
		h.unsubscribeAll(subs)
		take.wire.abort()
		return false
	}
	return true
}

// canHijack reports whether w, or what it wraps, is an http.Hijacker.
func canHijack(w http.ResponseWriter) bool {
	for {
		if _, ok := w.(http.Hijacker); ok {
			return true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = u.Unwrap()
	}
}

func (h *Hub) ssePreamble(l *sseLink) []byte {
	b := []byte("retry: ")
	b = strconv.AppendInt(b, h.reconnectDelay().Milliseconds(), 10)
	b = append(b, "\n: "...)
	b = append(b, strings.Repeat(" ", ssePadding)...)
	b = append(b, '\n')
	return protocol.AppendSSE(b, l.appendID(nil), "welcome", h.welcome(""))
}

// checkCursors refuses a list of streams that no transport serves.
func (h *Hub) checkCursors(cursors []protocol.Cursor) error {
	if len(cursors) == 0 {
		return protocol.Errorf(protocol.CodeInvalidRequest, `no stream was named; write "?stream=ID", once for each`)
	}
	if len(cursors) > h.opts.MaxStreams {
		return protocol.Errorf(protocol.CodeInvalidRequest, "%d streams were named, more than the limit of %d", len(cursors), h.opts.MaxStreams)
	}
	for i, c := range cursors {
		if slices.ContainsFunc(cursors[:i], func(d protocol.Cursor) bool { return c.Stream == d.Stream }) {
			return protocol.Errorf(protocol.CodeInvalidRequest, "stream %.60q was named twice", c.Stream)
		}
	}
	return nil
}

// An sseLink makes an event stream's messages.
type sseLink struct {
	single bool
	// chunked says that the messages are HTTP/1.1 chunks (RFC 9112, section
	// 7.1), since net/http no longer makes them.
	chunked bool

	// Owned by the session's writer.
	cursors []protocol.Cursor // what the client will have after the frames so far
}

// The size of a chunk is written before it, in as many digits as any message
// can need; leading zeros are allowed.
const (
	chunkHead     = "00000000\r\n"
	chunkTail     = "\r\n"
	lastChunk     = "0\r\n\r\n"
	chunkSizeLen  = len(chunkHead) - 2
	lowerHexDigit = "0123456789abcdef"
)

func (l *sseLink) openChunk(buf []byte) []byte {
	if l.chunked {
		buf = append(buf, chunkHead...)
	}
	return buf
}

// closeChunk ends the chunk that begins at from.
func (l *sseLink) closeChunk(buf []byte, from int) []byte {
	if !l.chunked {
		return buf
	}
	size := len(buf) - from - len(chunkHead)
	for i := chunkSizeLen - 1; i >= 0; i-- {
		buf[from+i] = lowerHexDigit[size&15]
		size >>= 4
	}
	return append(buf, chunkTail...)
}

func (l *sseLink) appendControl(buf, frame []byte) []byte {
	from := len(buf)
	return l.closeChunk(append(l.openChunk(buf), frame...), from)
}

// appendCache gives the frame no id, so that the client's cursor stays.
func (l *sseLink) appendCache(buf []byte, generation string) []byte {
	data, err := json.Marshal(struct {
		Cache string `json:"cache"`
	}{generation})
	if err != nil {
		panic(err) // a string
	}
	return l.appendControl(buf, protocol.AppendSSE(nil, nil, protocol.MessageCache, data))
}

func (l *sseLink) appendEvents(buf []byte, b *batch) []byte {
	from := len(buf)
	buf = l.openChunk(buf)
	for i := range b.items {
		e := &b.items[i].event
		l.move(b.items[i].sub.feed.id, e.Seq)
		buf = append(buf, "id: "...)
		buf = l.appendID(buf)
		buf = append(buf, '\n')
		buf = protocol.AppendSSE(buf, nil, "", e.JSON)
	}
	return l.closeChunk(buf, from)
}

func (l *sseLink) move(stream string, seq uint64) {
	for i := range l.cursors {
		if l.cursors[i].Stream == stream {
			l.cursors[i].After = seq
			return
		}
	}
}

func (l *sseLink) appendID(b []byte) []byte {
	if l.single {
		return strconv.AppendUint(b, l.cursors[0].After, 10)
	}
	return protocol.AppendCursors(b, l.cursors)
}

// appendBeats appends a comment of one line: as a frame of its own, with an
// empty line, it breaks some decoders.
func (l *sseLink) appendBeats(buf []byte, _ beats) []byte { return l.appendControl(buf, []byte(":\n")) }

func (l *sseLink) appendGoodbye(buf []byte, e ending) []byte {
	if e.move > 0 {
		retry := strconv.AppendInt([]byte("retry: "), e.move.Milliseconds(), 10)
		buf = l.appendControl(buf, append(retry, "\n\n"...))
	}
	if l.chunked {
		buf = append(buf, lastChunk...)
	}
	return buf
}

func (*sseLink) appendPong(buf, _ []byte) []byte { return buf } // it has no pings

func (l *sseLink) close(ending) {}
