package connections

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon bounds what happens at once.
const soon = 10 * time.Second

// start returns a pool that ends with the test, and must have no call then.
func start(tb testing.TB, o Options) *Pool {
	tb.Helper()
	p := New(o)
	tb.Cleanup(func() {
		p.CloseIdleConnections()
		settle(tb, p, func(s State) bool { return s.Open == 0 && s.InUse == 0 && s.Calls == 0 && s.Idle == 0 })
	})
	return p
}

// settle waits until the state is as it should be: net/http closes connections
// in goroutines of its own.
func settle(tb testing.TB, p *Pool, ok func(State) bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	for !ok(p.State()) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			tb.Fatalf("the state is still %+v", p.State())
		}
	}
}

// ask has provider answer, and checks that the answer is whole.
func ask(tb testing.TB, client *http.Client, url string) {
	tb.Helper()
	provider, err := openai.NewChat(providers.Config{Name: "up", Dialect: "openai-chat", BaseURL: url, Models: []string{"m"}, Client: client})
	if err != nil {
		tb.Error(err)
		return
	}
	s, err := provider.Stream(tb.Context(), &providers.Request{Model: "m", Prompt: "?"})
	if err != nil {
		tb.Error(err)
		return
	}
	a, err := providertest.Collect(s)
	if err != nil || a.Err != nil || a.Text != "an answer" || a.Outcome.State != providers.StateComplete {
		tb.Errorf("%+v, %v", a, err)
	}
}

// together makes n calls at once, which all have arrived before any is answered.
func together(tb testing.TB, client *http.Client, up *providertest.Upstream, n int) {
	tb.Helper()
	var calls sync.WaitGroup
	for range n {
		calls.Go(func() { ask(tb, client, up.URL) })
	}
	calls.Wait()
}

var answered = providertest.Script{Pieces: providertest.Texts("an ", "answer")}

func TestAnAnswerLeavesItsConnectionForTheNext(t *testing.T) {
	for name, change := range map[string]func(*providertest.Script){
		"a whole answer":          func(*providertest.Script) {},
		"one without [DONE]":      func(s *providertest.Script) { s.Fault.Kind = providertest.FaultNoEnd },
		"one in small pieces":     func(s *providertest.Script) { s.Framing.Split = 3 },
		"one with comments in it": func(s *providertest.Script) { s.Framing.Comments = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			script := answered
			change(&script)
			up := providertest.NewUpstream(t, script)
			p := start(t, Options{})
			for range 20 {
				ask(t, p.Client(), up.URL)
			}
			if s := p.State(); s != (State{Open: 1, Idle: 1, Opened: 1, Reused: 19}) {
				t.Errorf("after 20 calls in a row: %+v", s)
			}
		})
	}
}

func TestNoMoreConnectionsAreOpenedThanCallsRunAtOnce(t *testing.T) {
	const calls, rounds = 20, 5
	script := answered
	script.HeaderDelay = 20 * time.Millisecond
	for name, fault := range map[string]providertest.FaultKind{"whole": providertest.FaultNone, "without [DONE]": providertest.FaultNoEnd} {
		t.Run(name, func(t *testing.T) {
			script := script
			script.Fault.Kind = fault
			up := providertest.NewUpstream(t, script)
			p := start(t, Options{Max: 2 * calls, Idle: calls})
			for range rounds {
				together(t, p.Client(), up, calls)
			}
			s := p.State()
			if s.Opened == 0 || s.Opened > calls || s.Open != int(s.Opened) || s.Idle != s.Open || s.Calls != 0 {
				t.Errorf("after %d calls, %d at once: %+v", calls*rounds, calls, s)
			}
			// A connection that was dialled for one call may carry another, which
			// had its own taken: net/http counts neither as reused.
			if s.Reused+s.Opened < calls*rounds {
				t.Errorf("%d calls: %+v", calls*rounds, s)
			}
		})
	}
}

func TestTheStateTellsWhatTheConnectionsDo(t *testing.T) {
	script := answered
	script.Fault = providertest.Fault{Kind: providertest.FaultStall, After: 1}
	up := providertest.NewUpstream(t, script)
	p := start(t, Options{Max: 2})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var calls sync.WaitGroup
	for range 3 {
		calls.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, up.URL+"/chat/completions", http.NoBody)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := p.Client().Do(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				_ = resp.Body.Close() // the second changes nothing
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("a call that was cancelled ended with %v", err)
			}
		})
	}
	settle(t, p, func(s State) bool { return s == State{Open: 2, InUse: 2, Calls: 3, Opened: 2} })
	if _, err := up.WaitCall(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if up.Count() != 2 {
		t.Errorf("%d calls reached the provider over 2 connections", up.Count())
	}
	cancel()
	calls.Wait()
	settle(t, p, func(s State) bool { return s.Open == 0 && s.InUse == 0 && s.Calls == 0 })
}

func TestAConnectionThatWasClosedWhileIdleCostsNoCall(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer srv.Close()
	p := start(t, Options{})
	for range 3 {
		get(t, p, srv.URL, "HTTP/1.1")
		srv.CloseClientConnections()
	}
	settle(t, p, func(s State) bool { return s.Open == 0 })
	if s := p.State(); s.Opened != 3 {
		t.Errorf("3 calls, the connection closed after each: %+v", s)
	}
	if _, err := p.Client().Get("http://127.0.0.1:1"); err == nil {
		t.Error("a call to nobody had no error")
	}
	if s := p.State(); s.Calls != 0 || s.Opened != 3 {
		t.Errorf("after a call that reached nobody: %+v", s)
	}
}

func TestIdleConnectionsCanBeTurnedOff(t *testing.T) {
	up := providertest.NewUpstream(t, answered)
	p := start(t, Options{Idle: -1})
	for range 3 {
		ask(t, p.Client(), up.URL)
	}
	settle(t, p, func(s State) bool { return s == State{Opened: 3} })
}

func get(t *testing.T, p *Pool, url, proto string) {
	t.Helper()
	resp, err := p.Client().Get(url)
	if err != nil {
		t.Error(err)
		return
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "ok" || resp.Proto != proto {
		t.Errorf("%s: %q, %v; want %s", resp.Proto, body, err, proto)
	}
}

// secure is a server that speaks HTTP/2 too, and answers calls when release is
// closed. The pool trusts it.
func secure(t *testing.T, release <-chan struct{}) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
			_, _ = io.WriteString(w, "ok")
		case <-r.Context().Done():
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func trusting(t *testing.T, srv *httptest.Server, o Options) *Pool {
	t.Helper()
	p := start(t, o)
	p.transport.TLSClientConfig = &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12} //nolint:forcetypeassert // as httptest makes it
	return p
}

func TestCallsShareAConnectionOverHTTP2(t *testing.T) {
	release := make(chan struct{})
	srv := secure(t, release)
	p := trusting(t, srv, Options{})
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() { get(t, p, srv.URL, "HTTP/2.0") })
	}
	settle(t, p, func(s State) bool { return s.Calls == 10 && s.InUse >= 1 })
	close(release)
	calls.Wait()
	for range 10 {
		get(t, p, srv.URL, "HTTP/2.0")
	}
	settle(t, p, func(s State) bool { return s.InUse == 0 && s.Open == 1 })
	if s := p.State(); s.Calls != 0 || s.Reused < 10 {
		t.Errorf("after 20 calls: %+v", s)
	}
}

func TestHTTP2CanBeTurnedOff(t *testing.T) {
	release := make(chan struct{})
	close(release)
	srv := secure(t, release)
	p := trusting(t, srv, Options{NoHTTP2: true})
	get(t, p, srv.URL, "HTTP/1.1")
	get(t, p, srv.URL, "HTTP/1.1")
	if s := p.State(); s != (State{Open: 1, Idle: 1, Opened: 1, Reused: 1}) {
		t.Errorf("%+v", s)
	}
}

func TestADeadConnectionIsNoticedOverHTTP2(t *testing.T) {
	srv := secure(t, make(chan struct{}))
	// A middlebox that forgets the connection: it is open, and nothing passes.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	forget, cut := context.WithCancel(t.Context())
	var passing sync.WaitGroup
	defer passing.Wait()
	defer cut()
	passing.Go(func() {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(far, near) })
		both.Go(func() { _, _ = io.Copy(forgetful{forget, near}, far) })
		both.Wait()
	})
	p := trusting(t, srv, Options{})
	p.transport.TLSClientConfig.ServerName = "example.com"
	p.transport.HTTP2.SendPingTimeout, p.transport.HTTP2.PingTimeout = 30*time.Millisecond, 30*time.Millisecond
	failed := make(chan error, 1)
	passing.Go(func() {
		resp, err := p.Client().Get("https://" + l.Addr().String())
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	})
	settle(t, p, func(s State) bool { return s.InUse == 1 })
	select { // silence alone harms no call
	case err := <-failed:
		t.Fatalf("the call ended with %v while the connection worked", err)
	case <-time.After(300 * time.Millisecond):
	}
	cut()
	select {
	case err := <-failed:
		if err == nil {
			t.Error("the call had no error")
		}
	case <-time.After(soon):
		t.Error("a call on a dead connection goes on waiting")
	}
	_ = srv.Config.Close() // whose connection the middlebox still holds
}

// forgetful drops what is written once its context has ended.
type forgetful struct {
	ctx context.Context
	to  io.Writer
}

func (f forgetful) Write(b []byte) (int, error) {
	select {
	case <-f.ctx.Done():
		return len(b), nil
	default:
		return f.to.Write(b)
	}
}

func TestAnUpgradedConnectionIsInUseUntilItIsClosed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		kind, b, err := c.Read(r.Context())
		if err == nil {
			err = c.Write(r.Context(), kind, b)
		}
		if err != nil {
			t.Error(err)
		}
		_, _, _ = c.Read(r.Context()) // until the client leaves
	}))
	defer srv.Close()
	p := start(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	c, _, err := websocket.Dial(ctx, srv.URL, &websocket.DialOptions{HTTPClient: p.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.Read(ctx); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	if s := p.State(); s != (State{Open: 1, InUse: 1, Calls: 1, Opened: 1}) {
		t.Errorf("while it is open: %+v", s)
	}
	_ = c.CloseNow()
	settle(t, p, func(s State) bool { return s == State{Opened: 1} })
}
