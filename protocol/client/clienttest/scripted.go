// Package clienttest has a server that says what a test tells it to, for tests
// of what follows streams. It keeps no promise of its own: a test may have it
// cut, repeat and lie.
package clienttest

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A Stream is a stream as a server could send it.
type Stream struct {
	ID     string
	Events []protocol.Encoded
	Text   string
}

// StreamOf makes a stream that says pieces, and completes.
func StreamOf(t *testing.T, pieces ...string) *Stream {
	t.Helper()
	s := &Stream{ID: protocol.NewStreamID()}
	s.Add(t, protocol.TypeStarted, protocol.Started{Provider: "scripted", Model: "m-1", Analysis: "review", Attempt: 1})
	var d protocol.Digest
	for _, p := range pieces {
		s.Text += p
		d.Add(p)
		s.Add(t, protocol.TypeChunk, protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: p})
	}
	n, sum := d.Sum()
	s.Add(t, protocol.TypeCompleted, protocol.Completed{FinishReason: "stop", Provider: "scripted", Model: "m-1",
		Events: uint64(len(s.Events) + 1), Bytes: n, SHA256: sum})
	return s
}

// Add appends an event.
func (s *Stream) Add(t *testing.T, typ protocol.Type, data any) {
	t.Helper()
	e, err := protocol.Encode(s.ID, 0, uint64(len(s.Events)+1), typ, time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC), data)
	if err != nil {
		t.Fatal(err)
	}
	s.Events = append(s.Events, e)
}

// Frames are the events after a cursor, up to and with the one at to, as SSE.
func (s *Stream) Frames(after, to int) []byte {
	var b []byte
	for _, e := range s.Events[after:to] {
		b = protocol.AppendSSE(b, strconv.AppendUint(nil, e.Seq, 10), "", e.JSON)
	}
	return b
}

// Lines are all events, one a line.
func (s *Stream) Lines() string {
	var b strings.Builder
	for _, e := range s.Events {
		b.Write(e.JSON)
		b.WriteByte('\n')
	}
	return b.String()
}

const head = "retry: 1000\n: padding\nevent: welcome\ndata: {\"node\":\"n\",\"heartbeat_ms\":10000,\"max_streams\":64}\n\n"

// A Server answers the resources of one stream; each request for the
// events is answered by the next of connections, the last for all that follow.
type Server struct {
	Stream      *Stream
	Connections []func(w http.ResponseWriter, r *http.Request, after int)
	Start       http.HandlerFunc // nil for 201

	mu     sync.Mutex
	after  []string // guarded by mu: the Last-Event-ID of each connection
	keys   []string // guarded by mu: of each POST
	bodies []string // guarded by mu: of each POST

	Asked chan struct{} // gets one for each DELETE
}

// NewServer returns a server of s.
func NewServer(s *Stream, connections ...func(w http.ResponseWriter, r *http.Request, after int)) *Server {
	return &Server{Stream: s, Connections: connections, Asked: make(chan struct{}, 16)}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "POST /v1/analyses":
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.keys, s.bodies = append(s.keys, r.Header.Get("Idempotency-Key")), append(s.bodies, string(body))
		s.mu.Unlock()
		if s.Start != nil {
			s.Start(w, r)
			return
		}
		s.Created(w)
	case "DELETE /v1/streams/" + s.Stream.ID:
		w.WriteHeader(http.StatusAccepted)
		s.Asked <- struct{}{}
	case "GET /v1/streams/" + s.Stream.ID + "/events":
		s.mu.Lock()
		n := min(len(s.after), len(s.Connections)-1)
		id := r.Header.Get("Last-Event-ID")
		s.after = append(s.after, id)
		s.mu.Unlock()
		after, _ := strconv.Atoi(id)
		s.Connections[n](w, r, after)
	default:
		http.NotFound(w, r)
	}
}

// Created answers that the analysis has begun.
func (s *Server) Created(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(protocol.Metadata{ID: s.Stream.ID, State: protocol.StateRunning})
}

// Sends writes frames as an event stream and ends it properly.
func Sends(frames ...[]byte) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = w.Write([]byte(head))
		for _, f := range frames {
			_, _ = w.Write(f)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// CutsAfter sends frames and breaks the connection off.
func CutsAfter(frames ...[]byte) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, r *http.Request, after int) {
		Sends(frames...)(w, r, after)
		panic(http.ErrAbortHandler)
	}
}

// HangsAfter sends frames and then nothing more.
func HangsAfter(frames ...[]byte) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, r *http.Request, after int) {
		Sends(frames...)(w, r, after)
		<-r.Context().Done()
	}
}

// Refuses answers with an error.
func Refuses(status int, header, value, body string) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Type", "application/problem+json")
		if header != "" {
			w.Header().Set(header, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// After returns the cursors after which was asked, in order.
func (s *Server) After() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.after)
}

// Keys returns the Idempotency-Key of each POST.
func (s *Server) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keys)
}

// Bodies returns the body of each POST.
func (s *Server) Bodies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}
