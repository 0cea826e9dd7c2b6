package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// serveSocket answers each call with messages, one for each of those given, and
// closes as it is told.
func serveSocket(tb testing.TB, close func(*websocket.Conn), messages ...string) *Client {
	tb.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client learns of it
		}
		defer func() { _ = conn.CloseNow() }()
		if _, _, err := conn.Read(r.Context()); err != nil {
			return
		}
		for _, m := range messages {
			if conn.Write(r.Context(), websocket.MessageText, []byte(m)) != nil {
				return
			}
		}
		close(conn)
	}))
	tb.Cleanup(srv.Close)
	c, err := NewClient(providers.Config{BaseURL: srv.URL, Client: srv.Client()}, Dialect{Name: "x", Path: func(p string) string { return p },
		Authorize: func(http.Header, string) {}, Limits: func(http.Header, time.Time) (providers.RateLimits, bool) { return providers.RateLimits{}, false }})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

var waits = SocketWaits{Open: 20 * time.Second, First: 20 * time.Second}

func ask(tb testing.TB, c *Client) (providers.Stream, bool, error) {
	tb.Helper()
	return c.Socket(tb.Context(), Call{Path: "/r", Body: []byte(`{}`), Decoder: marks{}}, waits)
}

func TestASocketsEndIsWholeOnlyAfterTheLastMessage(t *testing.T) {
	normal := func(c *websocket.Conn) { _ = c.Close(websocket.StatusNormalClosure, "") }
	cut := func(c *websocket.Conn) { _ = c.CloseNow() }
	for _, tc := range []struct {
		name     string
		messages []string
		close    func(*websocket.Conn)
		state    providers.State
		code     protocol.Code
		eof      bool
	}{
		{"whole", []string{`{"a":1}`, "LAST"}, cut, providers.StateComplete, "", true},
		{"closed in order before its end", []string{`{"a":1}`}, normal, providers.StateTruncated, protocol.CodeStreamInterrupted, true},
		{"cut", []string{`{"a":1}`}, cut, providers.StateTruncated, protocol.CodeStreamInterrupted, false},
		{"closed for an error", []string{`{"a":1}`}, func(c *websocket.Conn) { _ = c.Close(websocket.StatusInternalError, "x") }, providers.StateTruncated, protocol.CodeStreamInterrupted, false},
		{"too long a message", []string{`{"a":1}`, strings.Repeat(" ", MaxEventBytes+1)}, cut, providers.StateError, protocol.CodeInvalidResponse, false},
		{"no JSON", []string{`{"a":1}`, "x"}, cut, providers.StateError, protocol.CodeInvalidResponse, false},
		{"an empty message", []string{`{"a":1}`, ""}, cut, providers.StateError, protocol.CodeInvalidResponse, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _, err := ask(t, serveSocket(t, tc.close, tc.messages...))
			if err != nil {
				t.Fatal(err)
			}
			if c, err := s.Next(); err != nil || c.Text != `{"a":1}` {
				t.Fatalf("%+v, %v", c, err)
			}
			_, err = s.Next()
			o := s.Outcome()
			if o.State != tc.state || (err == io.EOF) != tc.eof || (o.Err == nil) != (tc.code == "") || o.Err != nil && o.Err.Code != tc.code {
				t.Errorf("%v, %+v", err, o)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestASocketThatClosesBeforeItsFirstMessageIsNone(t *testing.T) {
	_, other, err := ask(t, serveSocket(t, func(c *websocket.Conn) { _ = c.CloseNow() }))
	if err == nil || !other {
		t.Errorf("%v, %v", other, err)
	}
}

func TestASocketWhoseFirstMessageRefusesTheWayIsNone(t *testing.T) {
	done := func(c *websocket.Conn) { _ = c.Close(websocket.StatusNormalClosure, "") }
	refused := serveSocket(t, done, `{"type":"error","status":400,"error":{"type":"invalid_request_error","message":"model m is not supported in WebSocket streaming mode"}}`)
	if _, other, err := ask(t, refused); err == nil || !other {
		t.Errorf("the error is %v, another way may work: %v; want that one may", err, other)
	}
	failed := serveSocket(t, done, `{"type":"error","status":429,"error":{"type":"rate_limit_error","message":"slow down"}}`)
	s, other, err := ask(t, failed)
	if err != nil || other {
		t.Fatalf("an ordinary error is the answer's: %v, other %v", err, other)
	}
	_ = s.Close() // it is not read
}

func TestTheEndOfTheContextClosesASocketAtOnce(t *testing.T) {
	closed := make(chan time.Time, 1)
	c := serveSocket(t, func(c *websocket.Conn) {
		_, _, _ = c.Read(context.Background())
		closed <- time.Now()
	}, `{"a":1}`)
	ctx, cancel := context.WithCancel(t.Context())
	s, _, err := c.Socket(ctx, Call{Path: "/r", Body: []byte(`{}`), Decoder: marks{}}, waits)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	cancel() // nobody reads
	if d := (<-closed).Sub(begin); d > 100*time.Millisecond {
		t.Errorf("the other side saw it after %v", d)
	}
	for err == nil {
		_, err = s.Next()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzSocketMessages(f *testing.F) {
	for _, m := range []string{`{"a":1}`, "LAST", `{"whole":1}`, "", "\x00", `{"a":"` + strings.Repeat("x", 5000) + `"}`} {
		f.Add(m, "LAST")
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		done := func(c *websocket.Conn) { _ = c.Close(websocket.StatusNormalClosure, "") }
		s, _, err := ask(t, serveSocket(t, done, first, second))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			c, err := s.Next()
			if err != nil {
				break
			}
			got = append(got, c.Text)
		}
		o := s.Outcome()
		if whole := o.State == providers.StateComplete; whole != (o.Err == nil) || whole && first != "LAST" && second != "LAST" &&
			!strings.Contains(first+second, "whole") {
			t.Errorf("%q and %q: %+v", first, second, o)
		}
		for i, text := range got {
			if text != []string{first, second}[i] {
				t.Errorf("message %d, %q, became %q", i, []string{first, second}[i], text)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
