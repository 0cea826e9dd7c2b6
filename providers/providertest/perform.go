package providertest

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// A performance is one call being answered. It belongs to the call's goroutine.
type performance struct {
	u       *Upstream
	call    *Call
	script  *Script
	wire    wire
	w       http.ResponseWriter
	ctx     context.Context
	control *http.ResponseController
	open    bool // the headers are out
	failed  bool // a write did: the client has left
	written int  // bytes of the body
	// socket is where events go in the place of w, nil without a WebSocket.
	socket *websocket.Conn
	// from is how many pieces the client has already, which cost no time again.
	from int
}

// run follows the script to its end, or until the client leaves.
func (p *performance) run() {
	s := p.script
	if !p.wait(s.HeaderDelay) {
		return
	}
	p.headers()
	if why := p.call.refusal(s); why != "" {
		p.call.finished()
		answerStatus(p.w, http.StatusBadRequest, errorBody(p.call.Dialect, "invalid_request_error", why))
		return
	}
	switch s.Fault.Kind {
	case FaultStatus:
		p.status()
		return
	case FaultReset:
		p.reset()
		return
	case FaultSilence:
		p.hold()
		return
	}
	if p.call.whole {
		p.whole()
		return
	}
	if p.socket == nil {
		p.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		p.w.Header().Set("Cache-Control", "no-cache")
		p.w.WriteHeader(http.StatusOK)
		p.flush()
	}
	p.open = true
	if s.Fault.Kind == FaultMute {
		p.hold()
		return
	}
	for range s.Framing.Comments {
		p.comment()
	}
	// In Responses, an error comes after the answer was begun.
	if s.Fault.Kind != FaultError || s.Fault.After > 0 || p.call.Dialect == Responses {
		p.write(p.wire.begin(nil))
	}
	if !p.pieces() {
		return
	}
	if s.Fault.Kind != FaultNoFinish {
		p.write(p.wire.finish(nil, s.Finish, s.Usage))
		if s.Fault.Kind != FaultNoEnd {
			p.write(p.wire.end(nil))
		}
	}
	if p.failed {
		return
	}
	p.call.finished()
	if s.Framing.HoldOpen {
		p.hold()
	}
}

// headers sets what the script has of them.
func (p *performance) headers() {
	s := p.script
	for name, values := range s.Header {
		p.w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	if s.RequestID != "" {
		name := "X-Request-Id"
		if p.call.Dialect == Claude {
			name = "Request-Id"
		}
		p.w.Header().Set(name, s.RequestID)
	}
}

// status answers with an HTTP error.
func (p *performance) status() {
	f := p.script.Fault
	if p.socket != nil {
		p.call.finished()
		p.send([]byte(socketFailure(f)))
		return
	}
	for name, values := range f.Header {
		p.w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	body := f.Body
	if body == "" {
		body = statusBody(p.call.Dialect, f.Status)
	}
	p.call.finished()
	answerStatus(p.w, f.Status, body)
}

// reset closes the connection so that the client's system reports a reset.
func (p *performance) reset() {
	p.call.finished()
	if p.socket != nil {
		_ = p.socket.CloseNow() // as far as a connection that was taken over can be reset
		return
	}
	conn, _, err := p.control.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2 has no connection to take, but can be aborted
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // Close then sends RST in the place of FIN
	}
	_ = conn.Close()
}

// pieces writes the answer, and reports whether the script goes on after it.
func (p *performance) pieces() bool {
	s := p.script
	if s.Steady.Chunks > 0 {
		return p.steady()
	}
	for i := range len(s.Pieces) + 1 {
		if !p.fault(i, i == len(s.Pieces)) {
			return false
		}
		if i == len(s.Pieces) {
			break
		}
		piece := s.Pieces[i]
		pause := piece.After
		if s.Fault.Kind == FaultCrawl && i >= s.Fault.After {
			pause = s.Fault.Interval
		}
		if i >= p.from && !p.wait(pause) {
			return false
		}
		if s.Framing.Pings {
			p.write(p.wire.ping(nil))
		}
		if !p.write(p.wire.piece(nil, piece)) {
			return false
		}
		p.call.wrote()
	}
	return true
}

// fault does what the script wants after n pieces, and reports whether the
// answer goes on. A fault that is set beyond the end strikes at the end.
func (p *performance) fault(n int, last bool) bool {
	f := p.script.Fault
	if n != f.After && !(last && n < f.After) || f.Bytes > 0 {
		return true
	}
	switch f.Kind {
	case FaultCut:
		p.call.finished()
		panic(http.ErrAbortHandler) // closes the connection inside the response
	case FaultEnd:
		p.call.finished()
		return false
	case FaultStall:
		p.hold()
		return false
	case FaultMalformed:
		return p.write(p.wire.malformed(nil, f.Body))
	case FaultError:
		code, message := f.words()
		p.write(p.wire.failure(nil, code, message))
		p.call.finished()
		return false
	}
	return true
}

// steady writes the chunks of a Steady answer. One chunk is made, and its
// stamp overwritten each time.
func (p *performance) steady() bool {
	st := p.script.Steady
	n := st.Bytes
	if n <= 0 {
		n = 24
	}
	if st.Stamp {
		n = max(n, StampBytes)
	}
	text := strings.Repeat("x", n)
	// The first may open a block; the frame is that of the second.
	opening := p.wire.piece(nil, Piece{Text: text})
	frame := p.wire.piece(nil, Piece{Text: text})
	opening = opening[:len(opening)-len(frame)]
	at := bytes.Index(frame, []byte(text))
	if len(opening) > 0 {
		p.write(opening)
	}
	start := time.Now()
	var timer *time.Timer
	for i := range st.Chunks {
		if !p.fault(i, false) {
			return false
		}
		if st.Interval > 0 {
			if d := time.Until(start.Add(time.Duration(i) * st.Interval)); d > 0 {
				if timer == nil {
					timer = time.NewTimer(d)
					defer timer.Stop()
				} else {
					timer.Reset(d)
				}
				select {
				case <-timer.C:
				case <-p.ctx.Done():
					return false
				case <-p.u.closing.Done():
					panic(http.ErrAbortHandler) // as in until
				}
			}
		}
		if st.Stamp {
			stamp(frame[at:], time.Now())
		}
		if !p.write(frame) {
			return false
		}
		p.call.wrote()
	}
	return p.fault(st.Chunks, true)
}

// stamp writes t over the first StampBytes of b.
func stamp(b []byte, t time.Time) {
	n := strconv.AppendInt(b[:0], t.UnixNano(), 10) // 19 digits until the year 2262
	b[len(n)] = ' '
}

// StampTime returns the time at the head of a stamped chunk's text. ok is
// false where there is none.
func StampTime(text string) (t time.Time, ok bool) {
	if len(text) < StampBytes || text[StampBytes-1] != ' ' {
		return time.Time{}, false
	}
	n, err := strconv.ParseInt(text[:StampBytes-1], 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(0, n), true
}

// write sends b in the script's framing, and reports whether the client is
// still there.
func (p *performance) write(b []byte) bool {
	if p.failed {
		return false
	}
	if p.socket != nil {
		return p.sendEvents(b)
	}
	switch f := p.script.Framing; {
	case f.CRLF:
		b = bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
	case f.CR:
		b = bytes.ReplaceAll(b, []byte("\n"), []byte("\r"))
	}
	step := p.script.Framing.Split
	if step <= 0 {
		step = len(b)
	}
	for len(b) > 0 {
		n := min(step, len(b))
		if f := p.script.Fault; f.Kind == FaultCut && f.Bytes > 0 {
			if n = min(n, f.Bytes-p.written); n <= 0 {
				p.call.finished()
				panic(http.ErrAbortHandler) // as in fault
			}
			p.written += n
		}
		if _, err := p.w.Write(b[:n]); err != nil {
			p.failed = true
			return false
		}
		b = b[n:]
		p.flush()
	}
	return !p.failed
}

func (p *performance) flush() {
	if err := p.control.Flush(); err != nil {
		p.failed = true
	}
}

func (p *performance) comment() {
	text := p.script.Framing.Comment
	if text == "" {
		text = "keep-alive"
	}
	if p.socket == nil {
		p.write([]byte(": " + text + "\n\n"))
	}
}

// wait waits for d, with comments as the script wants them, and reports whether
// the client is still there.
func (p *performance) wait(d time.Duration) bool {
	if d <= 0 {
		return !p.failed
	}
	done := time.NewTimer(d)
	defer done.Stop()
	return p.until(done.C)
}

// hold waits until the client leaves. When the Upstream closes first, it
// breaks the connection off.
func (p *performance) hold() { p.until(nil) }

func (p *performance) until(done <-chan time.Time) bool {
	var beat <-chan time.Time
	if every := p.script.Framing.KeepAlive; every > 0 && p.open {
		t := time.NewTicker(every)
		defer t.Stop()
		beat = t.C
	}
	for {
		select {
		case <-done:
			return !p.failed
		case <-beat:
			p.comment()
		case <-p.ctx.Done():
			return false
		case <-p.u.closing.Done():
			panic(http.ErrAbortHandler) // returning would end the response properly
		}
	}
}
