package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// patience bounds each wait of an end-to-end test.
const patience = 30 * time.Second

// upstream starts a model's server that follows the script.
func upstream(t *testing.T, s providertest.Script) *providertest.Upstream {
	t.Helper()
	return providertest.NewUpstream(t, s)
}

// openAIAt and anthropicAt are the variables that make a server use an upstream.
func openAIAt(up *providertest.Upstream) []string {
	return []string{"OPENAI_BASE_URL=" + up.URL, "OPENAI_API_KEY=sk-test-canary"}
}

func anthropicAt(up *providertest.Upstream) []string {
	return []string{"ANTHROPIC_BASE_URL=" + up.URL, "ANTHROPIC_API_KEY=sk-test-canary"}
}

// answer is a script that says these texts, pausing before each.
func answer(pause time.Duration, texts ...string) providertest.Script {
	pieces := providertest.Texts(texts...)
	for i := range pieces {
		pieces[i].After = pause
	}
	return providertest.Script{Pieces: pieces}
}

// held is a script that says these texts and then neither goes on nor ends.
func held(texts ...string) providertest.Script {
	return providertest.Script{Pieces: providertest.Texts(texts...),
		Fault: providertest.Fault{Kind: providertest.FaultStall, After: len(texts)}}
}

// A reply is an HTTP answer that has been read.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends a request; header has names and values in turn.
func (s *server) do(method, path, body string, header ...string) reply {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	tap := newTap(0)
	defer tap.transport.CloseIdleConnections()
	res, err := tap.client.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }() // it was read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{res.StatusCode, res.Header, string(b)}
}

// decode returns the reply's body as a T.
func decode[T any](t *testing.T, r reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	return v
}

// wantProblem fails the test unless r is a problem with this status and code.
func wantProblem(t *testing.T, r reply, status int, code protocol.Code) {
	t.Helper()
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("content type %q, body %s; want a problem", ct, r.body)
	}
	p := decode[protocol.Error](t, r)
	if r.status != status || p.Code != code || p.Status != status || p.Title == "" {
		t.Fatalf("status %d, problem %+v; want %d, %s", r.status, p, status, code)
	}
}

// aRequest is what the tests ask for where it doesn't matter.
const aRequest = `{"code":"package p\n\nfunc f() {}\n","filename":"p.go","cache":"bypass"}`

// begin starts an analysis and returns its stream.
func (s *server) begin(header ...string) string {
	s.t.Helper()
	r := s.do("POST", "/v1/analyses", aRequest, header...)
	m := decode[protocol.Metadata](s.t, r)
	if r.status != http.StatusCreated || r.header.Get("Location") != "/v1/streams/"+m.ID {
		s.t.Fatalf("status %d, Location %q, body %s", r.status, r.header.Get("Location"), r.body)
	}
	return m.ID
}

// A watch is one client of one stream.
type watch struct {
	t          *testing.T
	id         string
	link       link
	cancel     context.CancelFunc
	transcript *protocol.Transcript
	events     []received
	// partial: the client did not begin at 0, so that its transcript is not kept.
	partial bool
	cursor  uint64
	ended   bool
}

// watch connects a client, which is closed with the test.
func (s *server) watch(transport, id string, after uint64) *watch {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	l, err := open(ctx, transport, target{url: s.url}, []protocol.Cursor{{Stream: id, After: after}})
	if err != nil {
		cancel()
		s.t.Fatalf("%s: %v", transport, err)
	}
	w := &watch{t: s.t, id: id, link: l, cancel: cancel, transcript: new(protocol.Transcript), partial: after > 0, cursor: after}
	s.t.Cleanup(w.close)
	return w
}

func (w *watch) close() {
	w.cancel()
	w.link.close(false)
}

// more takes the next delivery. It reports false when the server has ended the
// connection.
func (w *watch) more() bool {
	w.t.Helper()
	d, err := w.link.next()
	if errors.Is(err, io.EOF) {
		return false
	}
	if err != nil {
		w.t.Fatalf("after event %d of %s: %v", w.cursor, w.id, err)
	}
	if d.message != nil && d.message.Type == protocol.MessageError {
		w.t.Fatalf("after event %d of %s: %v", w.cursor, w.id, d.message.Error)
	}
	for _, e := range d.events {
		if e.First > w.cursor+1 || e.Seq <= w.cursor {
			w.t.Fatalf("event %d..%d follows cursor %d", e.First, e.Seq, w.cursor)
		}
		w.cursor, w.ended = e.Seq, e.Terminal()
		w.events = append(w.events, e)
		if w.partial {
			continue
		}
		if err := w.transcript.Apply(&e.event); err != nil {
			w.t.Fatal(err)
		}
	}
	return true
}

// until reads until cond holds.
func (w *watch) until(cond func(*watch) bool) *watch {
	w.t.Helper()
	for !cond(w) {
		if !w.more() {
			w.t.Fatalf("the connection ended after event %d of %s, before what was waited for", w.cursor, w.id)
		}
	}
	return w
}

func ended(w *watch) bool { return w.ended }

// until watches the stream from its beginning until cond holds, and goes.
func (s *server) until(id string, cond func(*watch) bool) {
	s.t.Helper()
	w := s.watch(protocol.TransportSSE, id, 0)
	defer w.close()
	w.until(cond)
}

// readFrom returns the stream from the cursor on to its end.
func (s *server) readFrom(transport, id string, after uint64) []received {
	s.t.Helper()
	w := s.watch(transport, id, after)
	defer w.close()
	return w.until(ended).events
}

// read returns the whole stream.
func (s *server) read(transport, id string) *protocol.Transcript {
	s.t.Helper()
	w := s.watch(transport, id, 0)
	defer w.close()
	return w.until(ended).transcript
}

// wantEnd fails the test unless the transcript ended with an event of this
// type and data that hold this text.
func wantEnd(t *testing.T, tr *protocol.Transcript, typ protocol.Type, data string) {
	t.Helper()
	e := tr.Terminal()
	if e == nil || e.Type != typ || !strings.Contains(string(e.Data), data) {
		t.Fatalf("the stream ended with %+v; want %s with %s", e, typ, data)
	}
}
