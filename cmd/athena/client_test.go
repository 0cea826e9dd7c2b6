package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A scriptedStream is a stream as a server could send it.
type scriptedStream struct {
	id     string
	events []protocol.Encoded
	text   string
}

// streamOf makes a stream that says pieces, and completes.
func streamOf(t *testing.T, pieces ...string) *scriptedStream {
	t.Helper()
	s := &scriptedStream{id: protocol.NewStreamID()}
	s.add(t, protocol.TypeStarted, protocol.Started{Provider: "scripted", Model: "m-1", Analysis: "review", Attempt: 1})
	var d protocol.Digest
	for _, p := range pieces {
		s.text += p
		d.Add(p)
		s.add(t, protocol.TypeChunk, protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: p})
	}
	n, sum := d.Sum()
	s.add(t, protocol.TypeCompleted, protocol.Completed{FinishReason: "stop", Provider: "scripted", Model: "m-1",
		Events: uint64(len(s.events) + 1), Bytes: n, SHA256: sum})
	return s
}

func (s *scriptedStream) add(t *testing.T, typ protocol.Type, data any) {
	t.Helper()
	e, err := protocol.Encode(s.id, 0, uint64(len(s.events)+1), typ, time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC), data)
	if err != nil {
		t.Fatal(err)
	}
	s.events = append(s.events, e)
}

// frames are the events after a cursor, up to and with the one at to, as SSE.
func (s *scriptedStream) frames(after, to int) []byte {
	var b []byte
	for _, e := range s.events[after:to] {
		b = protocol.AppendSSE(b, strconv.AppendUint(nil, e.Seq, 10), "", e.JSON)
	}
	return b
}

// lines are all events, one a line.
func (s *scriptedStream) lines() string {
	var b strings.Builder
	for _, e := range s.events {
		b.Write(e.JSON)
		b.WriteByte('\n')
	}
	return b.String()
}

const scriptedHead = "retry: 1000\n: padding\nevent: welcome\ndata: {\"node\":\"n\",\"heartbeat_ms\":10000,\"max_streams\":64}\n\n"

// A scriptedServer answers the resources of one stream; each request for the
// events is answered by the next of connections, the last for all that follow.
type scriptedServer struct {
	stream      *scriptedStream
	connections []func(w http.ResponseWriter, r *http.Request, after int)
	start       http.HandlerFunc // nil for 201

	mu     sync.Mutex
	after  []string // guarded by mu: the Last-Event-ID of each connection
	keys   []string // guarded by mu: of each POST
	bodies []string // guarded by mu: of each POST

	asked chan struct{} // gets one for each DELETE
}

func newScriptedServer(s *scriptedStream, connections ...func(w http.ResponseWriter, r *http.Request, after int)) *scriptedServer {
	return &scriptedServer{stream: s, connections: connections, asked: make(chan struct{}, 16)}
}

func (s *scriptedServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "POST /v1/analyses":
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.keys, s.bodies = append(s.keys, r.Header.Get("Idempotency-Key")), append(s.bodies, string(body))
		s.mu.Unlock()
		if s.start != nil {
			s.start(w, r)
			return
		}
		s.created(w)
	case "DELETE /v1/streams/" + s.stream.id:
		w.WriteHeader(http.StatusAccepted)
		s.asked <- struct{}{}
	case "GET /v1/streams/" + s.stream.id + "/events":
		s.mu.Lock()
		n := min(len(s.after), len(s.connections)-1)
		id := r.Header.Get("Last-Event-ID")
		s.after = append(s.after, id)
		s.mu.Unlock()
		after, _ := strconv.Atoi(id)
		s.connections[n](w, r, after)
	default:
		http.NotFound(w, r)
	}
}

func (s *scriptedServer) created(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(protocol.Metadata{ID: s.stream.id, State: protocol.StateRunning})
}

// sends writes frames as an event stream and ends it properly.
func sends(frames ...[]byte) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = w.Write([]byte(scriptedHead))
		for _, f := range frames {
			_, _ = w.Write(f)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// cutsAfter sends frames and breaks the connection off.
func cutsAfter(frames ...[]byte) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, r *http.Request, after int) {
		sends(frames...)(w, r, after)
		panic(http.ErrAbortHandler)
	}
}

// hangsAfter sends frames and then nothing more.
func hangsAfter(frames ...[]byte) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, r *http.Request, after int) {
		sends(frames...)(w, r, after)
		<-r.Context().Done()
	}
}

// refuses answers with an error.
func refuses(status int, header, value, body string) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Type", "application/problem+json")
		if header != "" {
			w.Header().Set(header, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// pipeTo returns a client of a server inside this process, for tests whose
// time is not the clock's.
func pipeTo(t *testing.T, h http.Handler) *client {
	ln := newPipeListener()
	server := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return ln.dial(ctx) }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return newClient(&url.URL{Scheme: "http", Host: "scripted"}, "", transport)
}

// followed is what came of following a stream.
type followed struct {
	lines string
	lost  []string
	text  string
	took  time.Duration
	err   error
}

func followScripted(t *testing.T, s *scriptedServer) followed {
	var got followed
	f := &follower{client: pipeTo(t, s), id: s.stream.id,
		event: func(_ *protocol.Event, json []byte) error { got.lines += string(json) + "\n"; return nil },
		lost:  func(err error) { got.lost = append(got.lost, err.Error()) },
	}
	began := time.Now()
	got.err = f.follow(t.Context())
	got.took, got.text = time.Since(began), f.seen.Text()
	return got
}

func TestAClientResumesAfterACutAndNothingIsLostOrRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := streamOf(t, "one ", "two ", "three ", "four")
		torn := s.frames(3, 4)
		server := newScriptedServer(s,
			cutsAfter(s.frames(0, 2)),
			cutsAfter(s.frames(2, 3), torn[:len(torn)-1]),   // the last event lacks the end of its block
			sends(s.frames(3, 4), []byte("retry: 300\n\n")), // a drain
			sends([]byte(":\n:\n"), []byte("event: from-the-future\ndata: {}\n\n"), s.frames(4, 6)))
		got := followScripted(t, server)
		if got.err != nil || got.lines != s.lines() || got.text != s.text || len(got.lost) != 3 {
			t.Errorf("got %+v, want the events %s", got, s.lines())
		}
		if want := []string{"", "2", "3", "4"}; !slices.Equal(server.after, want) {
			t.Errorf("asked after %q, want %q", server.after, want)
		}
	})
}

func TestAClientGivesUpOnWhatAnotherTryWillNotMend(t *testing.T) {
	s := streamOf(t, "one ", "two")
	other := streamOf(t, "x")
	problem := func(status int, code protocol.Code) string {
		return fmt.Sprintf(`{"code":%q,"title":"T","detail":"the reason","status":%d,"retryable":false}`, code, status)
	}
	for name, c := range map[string]struct {
		connection func(http.ResponseWriter, *http.Request, int)
		want       string
	}{
		"the stream is unknown":       {refuses(404, "", "", problem(404, protocol.CodeStreamNotFound)), "doesn't know this analysis any more"},
		"the token is refused":        {refuses(401, "", "", problem(401, protocol.CodeUnauthorized)), "unauthorized: the reason"},
		"it ended before it ended":    {refuses(204, "", "", ""), "that is not its end"},
		"it is a page":                {func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = io.WriteString(w, "<html>") }, "not an event stream"},
		"it is a redirect":            {refuses(302, "Location", "http://elsewhere.example/", ""), "a redirect to http://elsewhere.example/"},
		"an event is repeated":        {sends(s.frames(0, 2), s.frames(1, 2)), "breaks P1"},
		"an event is missing":         {sends(s.frames(0, 1), s.frames(2, 3)), "breaks P1"},
		"text is missing":             {sends(s.frames(0, 2), bytes.Replace(s.frames(2, 4), []byte("two"), []byte("too"), 1)), "breaks P5"},
		"the event is another's":      {sends(other.frames(0, 1)), "an event of another stream"},
		"it is no event":              {sends([]byte("data: [1]\n\n")), "no event"},
		"it is an event without end":  {sends([]byte("data: "), bytes.Repeat([]byte("x"), maxBlockBytes+1)), "an event of more than"},
		"it is 501 of something else": {refuses(501, "", "", "no"), "the answer is 501 Not Implemented"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := followScripted(t, newScriptedServer(s, c.connection))
				if got.err == nil || !strings.Contains(got.err.Error(), c.want) || len(got.lost) > 0 || got.took > 0 {
					t.Errorf("got %+v, want at once an error with %q", got, c.want)
				}
			})
		})
	}
}

func TestAClientWaitsAsLongAsAServerAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := streamOf(t, "one")
		draining := `{"code":"draining","title":"T","status":503,"retryable":true}`
		got := followScripted(t, newScriptedServer(s,
			refuses(503, "Retry-After", "20", draining),
			refuses(503, "Retry-After", time.Now().Add(45*time.Second).UTC().Format(http.TimeFormat), "<html>"),
			sends(s.frames(0, 3))))
		if got.err != nil || got.lines != s.lines() || got.took < 44*time.Second || got.took > 60*time.Second {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAClientGivesUpAfterAMinuteWithoutSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := streamOf(t, "one", "two")
		server := newScriptedServer(s, cutsAfter(s.frames(0, 2)), cutsAfter())
		got := followScripted(t, server)
		if got.err == nil || !strings.Contains(got.err.Error(), "lost after event 2 and could not be resumed") ||
			got.took < followPatience-maxPause || got.took > followPatience || got.lines != strings.Join(strings.SplitAfter(s.lines(), "\n")[:2], "") {
			t.Errorf("got %+v", got)
		}
		if n := len(server.after); n < 5 || n > 60 {
			t.Errorf("connected %d times", n)
		}
	})
}

func TestAConnectionWithoutHeartbeatsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := streamOf(t, "one")
		beats := func(w http.ResponseWriter, r *http.Request, after int) {
			sends(s.frames(0, 1))(w, r, after)
			for range 6 { // two minutes in all
				time.Sleep(20 * time.Second)
				_, _ = io.WriteString(w, ":\n")
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
		}
		got := followScripted(t, newScriptedServer(s, beats, sends(s.frames(1, 3))))
		if got.err != nil || got.lines != s.lines() || !slices.Equal(got.lost, []string{errSilent.Error()}) ||
			got.took < 150*time.Second || got.took > 155*time.Second {
			t.Errorf("got %+v", got)
		}
	})
}

func TestARepeatedStartIsOneAnalysis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(streamOf(t, "x"))
		tries := 0
		s.start = func(w http.ResponseWriter, r *http.Request) {
			switch tries++; tries {
			case 1:
				panic(http.ErrAbortHandler)
			case 2:
				refuses(429, "Retry-After", "7", `{"code":"rate_limited","title":"T","status":429,"retryable":true}`)(w, r, 0)
			default:
				s.created(w)
			}
		}
		began := time.Now()
		id, err := pipeTo(t, s).start(t.Context(), &protocol.Request{Code: "a < b && c > d"}, "the-key")
		if took := time.Since(began); id != s.stream.id || err != nil || took < 7*time.Second {
			t.Errorf("got %q, %v after %s", id, err, took)
		}
		if want := []string{"the-key", "the-key", "the-key"}; !slices.Equal(s.keys, want) {
			t.Errorf("the keys were %q, want %q", s.keys, want)
		}
		if want := `{"code":"a < b && c > d"}` + "\n"; s.bodies[0] != want || s.bodies[2] != want {
			t.Errorf("the bodies were %q, want %q", s.bodies, want)
		}
	})
}

func TestAStartThatIsRefusedIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(streamOf(t, "x"))
		s.start = func(w http.ResponseWriter, r *http.Request) {
			refuses(400, "", "", `{"code":"invalid_request","title":"T","detail":"no","status":400,"retryable":false}`)(w, r, 0)
		}
		_, err := pipeTo(t, s).start(t.Context(), &protocol.Request{Code: "x"}, "k")
		if !errors.Is(err, protocol.ErrValidation) || len(s.keys) != 1 {
			t.Errorf("got %v after %d requests", err, len(s.keys))
		}
	})
}
