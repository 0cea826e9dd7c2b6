package providertest

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/providers"
)

// refusals are the ways in which an Upstream doesn't answer.
type refusals struct {
	upgrades            int // the status, 0 where they are taken
	streams, background bool
	count               int
}

// RefuseUpgrades refuses WebSockets with status, as a server or a proxy does
// that knows none; 0 takes them again.
func (u *Upstream) RefuseUpgrades(status int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refuses.upgrades = status
}

// RefuseStreams refuses calls for streams, as a server that knows none.
func (u *Upstream) RefuseStreams(refuse bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refuses.streams = refuse
}

// RefuseBackground refuses background answers, as a server that knows none.
func (u *Upstream) RefuseBackground(refuse bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refuses.background = refuse
}

// Refused returns how many calls were refused in these ways. They are no Calls,
// and use up no script.
func (u *Upstream) Refused() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.refuses.count
}

// refuse answers c if it asks in a way that is refused.
func (u *Upstream) refuse(w http.ResponseWriter, c *Call) bool {
	u.mu.Lock()
	param := ""
	switch {
	case u.refuses.background && c.stored != nil:
		param = "background"
	case u.refuses.streams && !c.whole && c.Protocol != providers.ProtocolWebSocket:
		param = "stream"
	}
	if param != "" {
		u.refuses.count++
	}
	u.mu.Unlock()
	if param == "" {
		return false
	}
	answerStatus(w, http.StatusBadRequest, fmt.Sprintf(`{"error":{"message":"Unsupported parameter: '%s'.","type":"invalid_request_error","param":%s,"code":"unsupported_parameter"}}`,
		param, quote(param)))
	return true
}

// stored is what an Upstream keeps of a background answer.
type stored struct {
	id     string
	script Script
}

// newCall returns the call that r is, with its body.
func newCall(r *http.Request, dialect Dialect, body []byte, arrived time.Time) *Call {
	c := &Call{Dialect: dialect, Path: r.URL.Path, Query: r.URL.Query(), Header: r.Header.Clone(), Body: body, Arrived: arrived,
		Protocol: providers.ProtocolSSE, done: make(chan struct{}), hungUp: make(chan struct{}), cancelled: make(chan struct{})}
	c.whole = dialect != Claude && !gjson.GetBytes(body, "stream").Bool()
	background := dialect == Responses && gjson.GetBytes(body, "background").Bool()
	if background {
		c.stored = &stored{}
	}
	if c.whole || background {
		c.Protocol = providers.ProtocolPolling
	}
	return c
}

// newWire returns what writes the answer to c.
func (c *Call) newWire(s *Script) wire {
	model := s.Model
	if model == "" {
		model = gjson.GetBytes(c.Body, "model").String()
	}
	switch c.Dialect {
	case Claude:
		return newClaudeWire(model, s.Usage)
	case Responses:
		id := "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b"
		if c.stored != nil {
			id = c.stored.id
		}
		return newResponsesWire(id, model, c.stored != nil, s.Steady.Chunks == 0)
	}
	return newOpenAIWire(model, gjson.GetBytes(c.Body, "stream_options.include_usage").Bool())
}

// Reads returns the calls that read background answers again, as streams or as
// a whole, oldest first.
func (u *Upstream) Reads() []*Call {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*Call(nil), u.reads...)
}

// Cancelled is closed when the client has cancelled a background answer.
func (c *Call) Cancelled() <-chan struct{} { return c.cancelled }

// serveResponses answers r if it belongs to the Responses dialect.
func (u *Upstream) serveResponses(w http.ResponseWriter, r *http.Request) bool {
	_, rest, ok := strings.Cut(r.URL.Path, "/responses")
	if !ok || rest != "" && rest[0] != '/' {
		return false
	}
	id, action, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	switch {
	case id == "" && r.Method == http.MethodPost:
		u.answer(w, r, Responses)
	case id == "" && strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		u.answerSocket(w, r)
	case id != "" && action == "" && r.Method == http.MethodGet:
		u.read(w, r, id)
	case id != "" && action == "cancel" && r.Method == http.MethodPost:
		u.cancel(w, id)
	default:
		return false
	}
	return true
}

// keep stores a background answer under an id of its own.
func (u *Upstream) keep(c *Call, s *Script) {
	c.stored.id = fmt.Sprintf("resp_%048d", u.total)
	c.stored.script = *s
}

// find returns the call that began the background answer with this id.
func (u *Upstream) find(id string) *Call {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.calls {
		if c.stored != nil && c.stored.id == id {
			return c
		}
	}
	return nil
}

// read answers a call for a background answer: from an event on, or as it is.
func (u *Upstream) read(w http.ResponseWriter, r *http.Request, id string) {
	begun := u.find(id)
	if begun == nil {
		answerStatus(w, http.StatusNotFound, statusBody(Responses, http.StatusNotFound))
		return
	}
	s := begun.stored.script
	c := newCall(r, Responses, begun.Body, time.Now())
	c.Protocol, c.stored = providers.ProtocolPolling, begun.stored
	c.whole = r.URL.Query().Get("stream") != "true"
	if u.refuse(w, c) {
		return
	}
	u.mu.Lock()
	if len(u.reads) == KeptCalls {
		u.reads = append(u.reads[:0], u.reads[KeptCalls/2:]...)
	}
	u.reads = append(u.reads, c)
	u.mu.Unlock()
	defer close(c.done)
	p := &performance{u: u, call: c, script: &s, w: w, ctx: r.Context(), control: http.NewResponseController(w), wire: c.newWire(&s)}
	if c.whole {
		p.poll(begun)
		return
	}
	s.Fault = begun.nextFault()
	if after, err := strconv.Atoi(c.Query.Get("starting_after")); err == nil {
		p.wire.(*responsesWire).from = after + 1 //nolint:forcetypeassert // of this dialect
		p.from = begun.Pieces()
	}
	u.perform(p)
}

// nextFault returns the fault of the next connection that reads c's answer again.
func (c *Call) nextFault() Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.reads
	c.reads++
	if n < len(c.stored.script.Resume) {
		return c.stored.script.Resume[n]
	}
	return Fault{}
}

// poll answers with the answer as it is: in progress for as often as the script
// says, and then ended.
func (p *performance) poll(begun *Call) {
	begun.mu.Lock()
	begun.polls++
	there := begun.polls > p.script.Polls
	begun.mu.Unlock()
	w := p.wire.(*responsesWire) //nolint:forcetypeassert // of this dialect
	p.call.finished()
	select {
	case <-begun.cancelled:
		answerStatus(p.w, http.StatusOK, w.response("cancelled", "null", "null", nil))
		return
	default:
	}
	switch f := p.script.Fault; {
	case !there:
		answerStatus(p.w, http.StatusOK, w.response("in_progress", "null", "null", nil))
	case f.Kind == FaultError:
		code, message := f.words()
		answerStatus(p.w, http.StatusOK, w.response("failed", `{"code":`+quote(code)+`,"message":`+quote(message)+`}`, "null", nil))
	default:
		answerStatus(p.w, http.StatusOK, p.wholeBody())
	}
}

func (u *Upstream) cancel(w http.ResponseWriter, id string) {
	c := u.find(id)
	if c == nil {
		answerStatus(w, http.StatusNotFound, statusBody(Responses, http.StatusNotFound))
		return
	}
	c.mu.Lock()
	select {
	case <-c.cancelled: // before: it is the same again
	default:
		close(c.cancelled)
	}
	c.mu.Unlock()
	answerStatus(w, http.StatusOK, newResponsesWire(id, "", true, false).response("cancelled", "null", "null", nil))
}

// answerSocket answers one call over a WebSocket. What strikes before an answer
// strikes at the handshake; after it, the vendor keeps the connection for
// further calls, which nobody makes here.
func (u *Upstream) answerSocket(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	u.mu.Lock()
	status := u.refuses.upgrades
	if status != 0 {
		u.refuses.count++
	}
	next := u.script
	if len(u.queue) > 0 {
		next = u.queue[0]
	}
	u.mu.Unlock()
	if status != 0 {
		w.Header().Set("Content-Type", "text/html")
		answerStatus(w, status, "<html>"+http.StatusText(status)+"</html>")
		return
	}
	c := newCall(r, Responses, nil, arrived)
	c.Protocol, c.whole = providers.ProtocolWebSocket, false
	p := &performance{u: u, call: c, w: w, ctx: r.Context(), control: http.NewResponseController(w)}
	if next.Fault.Kind == FaultStatus || next.Fault.Kind == FaultReset {
		s := u.note(c)
		defer close(c.done)
		p.script = &s
		u.perform(p)
		return
	}
	p.script = &next
	p.headers()
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }() // whatever is left of it
	conn.SetReadLimit(maxBodyBytes)
	_, body, err := conn.Read(u.closing)
	if err != nil {
		return // the client left before it had asked
	}
	c.Body = body
	s := u.note(c)
	defer close(c.done)
	p.script, p.wire, p.socket = &s, c.newWire(&s), conn
	p.ctx = conn.CloseRead(context.WithoutCancel(r.Context()))
	u.perform(p)
	switch s.Fault.Kind {
	case FaultEnd, FaultNoEnd, FaultNoFinish:
		_ = conn.Close(websocket.StatusNormalClosure, "") // an end is an end, even unacknowledged
	default:
		p.hold()
	}
}

// sendEvents sends the data of whole events as messages. Framing is for
// server-sent events.
func (p *performance) sendEvents(events []byte) bool {
	for event := range strings.SplitSeq(string(events), "\n\n") {
		_, data, ok := strings.Cut(event, "data: ")
		if ok && !p.send([]byte(data)) {
			return false
		}
	}
	return !p.failed
}

func (p *performance) send(message []byte) bool {
	if err := p.socket.Write(p.ctx, websocket.MessageText, message); err != nil {
		p.failed = true
	}
	return !p.failed
}

// socketFailure is what the vendor sends over a WebSocket where HTTP has a
// status.
func socketFailure(f Fault) string {
	body := f.Body
	if body == "" {
		body = statusBody(Responses, f.Status)
	}
	return fmt.Sprintf(`{"type":"error","status":%d,"error":%s}`, f.Status, gjson.Get(body, "error").Raw)
}
