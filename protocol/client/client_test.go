package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
	"github.com/athena-hub/athena/protocol/client/clienttest"
)

// pipeTo returns a client of a server inside this process, for tests whose
// time is not the clock's.
func pipeTo(t *testing.T, h http.Handler, transports ...string) *client.Client {
	t.Helper()
	conns := make(chan net.Conn)
	ln := pipeListener{conns, make(chan struct{}), new(sync.Once)}
	server := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		near, far := net.Pipe()
		select {
		case conns <- far:
			return near, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}}
	c, err := client.New(client.Config{URL: "http://scripted", Transports: transports, RoundTripper: transport})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		transport.CloseIdleConnections()
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return c
}

// A pipeListener accepts the far ends of pipes.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   *sync.Once
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// followed is what came of following a stream.
type followed struct {
	lines string
	lost  []string
	text  string
	took  time.Duration
	err   error
}

// follow follows a stream to its end.
func follow(t *testing.T, c *client.Client, id string) followed {
	t.Helper()
	var got followed
	r := c.Watch(id, nil)
	r.Lost = func(err error) { got.lost = append(got.lost, err.Error()) }
	began := time.Now()
	for e, err := range r.Events(t.Context()) {
		if err != nil {
			got.err = err
			break
		}
		got.lines += string(e.JSON) + "\n"
	}
	got.took, got.text = time.Since(began), r.Transcript().Text()
	return got
}

func followScripted(t *testing.T, s *clienttest.Server) followed {
	t.Helper()
	return follow(t, pipeTo(t, s, protocol.TransportSSE), s.Stream.ID)
}

func TestAClientResumesAfterACutAndNothingIsLostOrRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := clienttest.StreamOf(t, "one ", "two ", "three ", "four")
		torn := s.Frames(3, 4)
		server := clienttest.NewServer(s,
			clienttest.CutsAfter(s.Frames(0, 2)),
			clienttest.CutsAfter(s.Frames(2, 3), torn[:len(torn)-1]),   // the last event lacks the end of its block
			clienttest.Sends(s.Frames(3, 4), []byte("retry: 300\n\n")), // a drain
			clienttest.Sends([]byte(":\n:\n"), []byte("event: from-the-future\ndata: {}\n\n"), s.Frames(4, 6)))
		got := followScripted(t, server)
		if got.err != nil || got.lines != s.Lines() || got.text != s.Text || len(got.lost) != 3 {
			t.Errorf("got %+v, want the events %s", got, s.Lines())
		}
		if want := []string{"", "2", "3", "4"}; !slices.Equal(server.After(), want) {
			t.Errorf("asked after %q, want %q", server.After(), want)
		}
	})
}

func TestAClientGivesUpOnWhatAnotherTryWillNotMend(t *testing.T) {
	s := clienttest.StreamOf(t, "one ", "two")
	other := clienttest.StreamOf(t, "x")
	problem := func(status int, code protocol.Code) string {
		return fmt.Sprintf(`{"code":%q,"title":"T","detail":"the reason","status":%d,"retryable":false}`, code, status)
	}
	for name, c := range map[string]struct {
		connection func(http.ResponseWriter, *http.Request, int)
		want       string
	}{
		"the stream is unknown":       {clienttest.Refuses(404, "", "", problem(404, protocol.CodeStreamNotFound)), "doesn't know this analysis any more"},
		"the token is refused":        {clienttest.Refuses(401, "", "", problem(401, protocol.CodeUnauthorized)), "unauthorized: the reason"},
		"it ended before it ended":    {clienttest.Refuses(204, "", "", ""), "that is not its end"},
		"it is a page":                {func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = io.WriteString(w, "<html>") }, "not an event stream"},
		"it is a redirect":            {clienttest.Refuses(302, "Location", "http://elsewhere.example/", ""), "a redirect to http://elsewhere.example/"},
		"an event is repeated":        {clienttest.Sends(s.Frames(0, 2), s.Frames(1, 2)), "breaks P1"},
		"an event is missing":         {clienttest.Sends(s.Frames(0, 1), s.Frames(2, 3)), "breaks P1"},
		"text is missing":             {clienttest.Sends(s.Frames(0, 2), bytes.Replace(s.Frames(2, 4), []byte("two"), []byte("too"), 1)), "breaks P5"},
		"the event is another's":      {clienttest.Sends(other.Frames(0, 1)), "an event of another stream"},
		"it is no event":              {clienttest.Sends([]byte("data: [1]\n\n")), "no event"},
		"it is an event without end":  {clienttest.Sends([]byte("data: "), bytes.Repeat([]byte("x"), client.MaxBlockBytes+1)), "an event of more than"},
		"it is 501 of something else": {clienttest.Refuses(501, "", "", "no"), "the answer is 501 Not Implemented"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := followScripted(t, clienttest.NewServer(s, c.connection))
				if got.err == nil || !strings.Contains(got.err.Error(), c.want) || len(got.lost) > 0 || got.took > 0 {
					t.Errorf("got %+v, want at once an error with %q", got, c.want)
				}
			})
		})
	}
}

func TestAClientWaitsAsLongAsAServerAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := clienttest.StreamOf(t, "one")
		draining := `{"code":"draining","title":"T","status":503,"retryable":true}`
		got := followScripted(t, clienttest.NewServer(s,
			clienttest.Refuses(503, "Retry-After", "20", draining),
			clienttest.Refuses(503, "Retry-After", time.Now().Add(45*time.Second).UTC().Format(http.TimeFormat), "<html>"),
			clienttest.Sends(s.Frames(0, 3))))
		if got.err != nil || got.lines != s.Lines() || got.took < 44*time.Second || got.took > 60*time.Second {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAClientGivesUpAfterAMinuteWithoutSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := clienttest.StreamOf(t, "one", "two")
		server := clienttest.NewServer(s, clienttest.CutsAfter(s.Frames(0, 2)), clienttest.CutsAfter())
		got := followScripted(t, server)
		if got.err == nil || !strings.Contains(got.err.Error(), "lost after event 2 and could not be resumed") ||
			got.took < client.DefaultPatience-client.MaxPause || got.took > client.DefaultPatience || got.lines != strings.Join(strings.SplitAfter(s.Lines(), "\n")[:2], "") {
			t.Errorf("got %+v", got)
		}
		if n := len(server.After()); n < 5 || n > 60 {
			t.Errorf("connected %d times", n)
		}
	})
}

func TestAConnectionWithoutHeartbeatsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := clienttest.StreamOf(t, "one")
		beats := func(w http.ResponseWriter, r *http.Request, after int) {
			clienttest.Sends(s.Frames(0, 1))(w, r, after)
			for range 6 { // two minutes in all
				time.Sleep(20 * time.Second)
				_, _ = io.WriteString(w, ":\n")
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
		}
		got := followScripted(t, clienttest.NewServer(s, beats, clienttest.Sends(s.Frames(1, 3))))
		if got.err != nil || got.lines != s.Lines() || !slices.Equal(got.lost, []string{client.ErrSilent.Error()}) ||
			got.took < 150*time.Second || got.took > 155*time.Second {
			t.Errorf("got %+v", got)
		}
	})
}

func TestARepeatedStartIsOneAnalysis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := clienttest.NewServer(clienttest.StreamOf(t, "x"))
		tries := 0
		s.Start = func(w http.ResponseWriter, r *http.Request) {
			switch tries++; tries {
			case 1:
				panic(http.ErrAbortHandler)
			case 2:
				clienttest.Refuses(429, "Retry-After", "7", `{"code":"rate_limited","title":"T","status":429,"retryable":true}`)(w, r, 0)
			default:
				s.Created(w)
			}
		}
		began := time.Now()
		run, err := pipeTo(t, s).Analyze(t.Context(), &protocol.Request{Code: "a < b && c > d"})
		if took := time.Since(began); err != nil || run.ID() != s.Stream.ID || took < 7*time.Second {
			t.Errorf("got %v, %v after %s", run, err, took)
		}
		if len(s.Keys()) != 3 || len(s.Keys()[0]) < 20 || s.Keys()[1] != s.Keys()[0] || s.Keys()[2] != s.Keys()[0] {
			t.Errorf("the keys were %q, want one three times", s.Keys())
		}
		if want := `{"code":"a < b && c > d"}` + "\n"; s.Bodies()[0] != want || s.Bodies()[2] != want {
			t.Errorf("the bodies were %q, want %q", s.Bodies(), want)
		}
	})
}

func TestAStartThatIsRefusedIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := clienttest.NewServer(clienttest.StreamOf(t, "x"))
		s.Start = func(w http.ResponseWriter, r *http.Request) {
			clienttest.Refuses(400, "", "", `{"code":"invalid_request","title":"T","detail":"no","status":400,"retryable":false}`)(w, r, 0)
		}
		_, err := pipeTo(t, s).Analyze(t.Context(), &protocol.Request{Code: "x"})
		if !errors.Is(err, protocol.ErrValidation) || len(s.Keys()) != 1 {
			t.Errorf("got %v after %d requests", err, len(s.Keys()))
		}
	})
}

func TestATransportThatDoesNotProveItselfIsGivenUpAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := clienttest.StreamOf(t, "one")
		server := clienttest.NewServer(s,
			func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() }, // no welcome
			clienttest.Sends(s.Frames(0, 3)),                                             // which is no answer to a poll
			clienttest.Sends(s.Frames(0, 3)))
		got := follow(t, pipeTo(t, server, protocol.TransportSSE, protocol.TransportLongPoll), s.ID)
		if got.err != nil || got.lines != s.Lines() || len(got.lost) != 1 || got.took < client.DefaultProbeTimeout || got.took > client.DefaultProbeTimeout+2*time.Second {
			t.Errorf("got %+v", got)
		}
	})
}

func TestPollsGoOnAfterWhatCameAndWaitWhereAServerShutsDown(t *testing.T) {
	s := clienttest.StreamOf(t, "one", "two")
	poll := func(after, to int, rest string) func(http.ResponseWriter, *http.Request, int) {
		return func(w http.ResponseWriter, r *http.Request, _ int) {
			if got := r.URL.Query().Get("after"); got != fmt.Sprint(after) {
				t.Errorf("asked after %q, want %d", got, after)
			}
			var events []string
			for _, e := range s.Events[after:to] {
				events = append(events, string(e.JSON))
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"events":[%s],"cursor":"%d"%s}`, strings.Join(events, ","), to, rest)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		server := clienttest.NewServer(s, poll(0, 1, ""), poll(1, 1, ""), poll(1, 3, `,"retry_after_ms":9000`), poll(3, 4, `,"done":true`))
		got := follow(t, pipeTo(t, server, protocol.TransportLongPoll), s.ID)
		if got.err != nil || got.lines != s.Lines() || len(got.lost) != 1 || got.took < 9*time.Second {
			t.Errorf("got %+v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		got := follow(t, pipeTo(t, clienttest.NewServer(s, poll(0, 1, `,"done":true`)), protocol.TransportLongPoll), s.ID)
		if got.err == nil || !strings.Contains(got.err.Error(), "that is not its end") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestWhoAnswersPollsAtOnceWithNothingIsNotAskedInATightLoop(t *testing.T) {
	s := clienttest.StreamOf(t, "one")
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		server := clienttest.NewServer(s, func(w http.ResponseWriter, _ *http.Request, _ int) {
			asked.Add(1)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"events":[],"cursor":"0"}`)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, err := range pipeTo(t, server, protocol.TransportLongPoll).Watch(s.ID, nil).Events(ctx) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if n := asked.Load(); n < 10 || n > 50 {
			t.Errorf("asked %d times in 10 s", n)
		}
	})
}
