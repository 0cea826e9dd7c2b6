//go:build unix

package hub

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}

// The WebSocket library may write a control frame after a worker has written
// the beginning of a message, and before the session's own goroutine writes the
// rest.
func TestAControlFrameDoesNotComeBetweenThePartsOfAMessage(t *testing.T) {
	client, server := pair(t)
	w := newConnWire(server, 20*time.Second)
	msg := bytes.Repeat([]byte{'x'}, 32<<20) // more than all buffers take
	n, err := w.writeNow(msg)
	if err != nil || n == 0 || n == len(msg) {
		t.Fatalf("%d bytes, %v; the test wants a part", n, err)
	}
	const frame = "\x8a\x00"
	wrote := make(chan error, 2)
	go func() {
		_, err := w.Write([]byte(frame))
		wrote <- err
		wrote <- w.write(msg[n:])
	}()
	got := make([]byte, len(msg)+len(frame))
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
	}
	if i := bytes.IndexByte(got, frame[0]); i != len(msg) {
		t.Fatalf("the control frame stands at %d, in a message of %d bytes", i, len(msg))
	}
}

// noHistory is a Source without streams.
type noHistory struct{}

func (noHistory) Open(_ context.Context, f *Feed) (func(), error) { return nil, notFound(f.id) }
func (noHistory) Refresh(context.Context, *Feed) error            { return nil }
func (noHistory) Read(_ context.Context, id string, _ uint64, _ int) ([]protocol.Encoded, error) {
	return nil, notFound(id)
}

// hubWithFeed returns a hub and the feed of a stream on it.
func hubWithFeed(t *testing.T) (*Hub, *Feed) {
	t.Helper()
	feeds := NewFeeds(FeedLimits{})
	h := New(feeds, noHistory{}, Options{})
	t.Cleanup(func() { h.Close(); feeds.Close() })
	f, err := feeds.Create(protocol.NewStreamID())
	if err != nil {
		t.Fatal(err)
	}
	return h, f
}

// ended publishes a stream that was cancelled at once.
func ended(t *testing.T, f *Feed) {
	t.Helper()
	e, err := protocol.Encode(f.id, 1, 1, protocol.TypeCancelled, time.Now(), &protocol.Cancelled{By: protocol.CancelClient})
	if err == nil {
		err = f.Append(e)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Close ends the sessions that it has listed, of which one may be over, and its
// handler have returned.
func TestASessionOverHTTP2MayBeEndedAfterItsHandlerReturned(t *testing.T) {
	h, f := hubWithFeed(t)
	returned := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(returned)
		h.ServeSSE(w, r, []protocol.Cursor{{Stream: f.id}}, true)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.ProtoMajor != 2 {
		t.Fatalf("the protocol is %s, want HTTP/2", resp.Proto)
	}
	h.mu.Lock()
	var s *session
	for s = range h.sessions {
		break
	}
	h.mu.Unlock()
	ended(t, f)
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	<-returned
	srv.CloseClientConnections() // net/http lets go of the response
	s.end(ending{reason: "shutdown", abort: true})
}

// A bounded answer remembers the deadline for writing it.
type bounded struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (b *bounded) SetWriteDeadline(t time.Time) error { b.deadline = t; return nil }

// The gateway has cleared its own deadline by then, and a client that pipelines
// such requests and reads nothing would hold a connection that no limit counts.
func TestWritingAShortAnswerHasADeadline(t *testing.T) {
	h, f := hubWithFeed(t)
	ended(t, f)
	check := func(name string, status int, serve func(w http.ResponseWriter, r *http.Request)) {
		b := &bounded{ResponseRecorder: httptest.NewRecorder()}
		serve(b, httptest.NewRequest(http.MethodGet, "/", nil))
		if b.Code != status || b.deadline.Before(time.Now()) {
			t.Errorf("%s: status %d and deadline %v, want %d and one to come", name, b.Code, b.deadline, status)
		}
	}
	unknown, over := []protocol.Cursor{{Stream: "x"}}, []protocol.Cursor{{Stream: f.id, After: 1}}
	check("an unknown stream over SSE", http.StatusNotFound, func(w http.ResponseWriter, r *http.Request) { h.ServeSSE(w, r, unknown, true) })
	check("an unknown stream by long-poll", http.StatusNotFound, func(w http.ResponseWriter, r *http.Request) { h.ServeLongPoll(w, r, unknown, true, 0) })
	check("the end of an event source", http.StatusNoContent, func(w http.ResponseWriter, r *http.Request) { h.ServeSSE(w, r, over, true) })
	h.Drain(t.Context(), 0)
	check("a drain over SSE", http.StatusOK, func(w http.ResponseWriter, r *http.Request) { h.ServeSSE(w, r, over, true) })
}
