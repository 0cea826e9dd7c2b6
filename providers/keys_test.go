package providers_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/claude"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

// A turnstile stands before a model's server and answers by the key.
type turnstile struct {
	url string

	mu     sync.Mutex
	status map[string]int    // guarded by mu
	header map[string]string // guarded by mu: of all answers
	first  map[string]string // guarded by mu: what a WebSocket says first, and last
	asked  []string          // guarded by mu
}

func newTurnstile(t *testing.T, up http.Handler) *turnstile {
	t.Helper()
	s := &turnstile{status: make(map[string]int), header: make(map[string]string), first: make(map[string]string)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("X-Api-Key") + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		s.mu.Lock()
		status, first := s.status[key], s.first[key]
		s.asked = append(s.asked, r.Method+" "+key)
		if status != 0 {
			for name, value := range s.header {
				w.Header().Set(name, value)
			}
		}
		s.mu.Unlock()
		switch {
		case first != "" && r.Header.Get("Upgrade") != "":
			conn, err := websocket.Accept(w, r, nil)
			if err != nil {
				return // the client learns of it
			}
			_, _, _ = conn.Read(r.Context())
			_ = conn.Write(r.Context(), websocket.MessageText, []byte(first))
			_ = conn.Close(websocket.StatusNormalClosure, "")
		case status == 0:
			up.ServeHTTP(w, r)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"error":{"type":"an_error","code":"a_code","message":"your key `+key+` is no good"}}`)
		}
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *turnstile) set(key string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status[key] = status
}

func (s *turnstile) keys() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.asked, ", ")
	s.asked = nil
	return all
}

const (
	keyA = "canary-key-a-0123456789"
	keyB = "canary-key-b-0123456789"
)

func ringOf(t *testing.T, keys ...string) *secrets.Ring {
	t.Helper()
	r := secrets.NewRing("p", nil)
	var entries []secrets.Entry
	for i, text := range keys {
		k, err := secrets.NewKey([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		// The first is taken first.
		entries = append(entries, secrets.Entry{ID: string(rune('a' + i)), Weight: 10 - 5*i, Key: k})
	}
	if err := r.Set("config", entries); err != nil {
		t.Fatal(err)
	}
	return r
}

// ways are all in which a provider is asked over the network.
var ways = []struct {
	name    string
	factory providers.Factory
	change  func(*providers.Config)
}{
	{"claude", claude.New, func(*providers.Config) {}},
	{"deepseek", openai.NewDeepSeek, func(*providers.Config) {}},
	{"chat", openai.NewChat, func(*providers.Config) {}},
	{"chat, whole", openai.NewChat, func(c *providers.Config) { c.Features.Streaming = new(bool) }},
	{"responses", openai.NewResponses, func(*providers.Config) {}},
	{"responses, websocket", openai.NewResponses, func(c *providers.Config) { c.Protocol = providers.ProtocolWebSocket }},
	{"responses, background", openai.NewResponses, func(c *providers.Config) { c.Background = true }},
	{"responses, polling", openai.NewResponses, func(c *providers.Config) { c.Protocol = providers.ProtocolPolling }},
}

func provider(t *testing.T, factory providers.Factory, c providers.Config) providers.Provider {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c.Name, c.Models, c.Client = "p", []string{"m"}, &http.Client{Transport: transport}
	p, err := factory(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func answerOf(p providers.Provider, t *testing.T) (string, error) {
	t.Helper()
	s, err := p.Stream(t.Context(), &providers.Request{Model: "m", Prompt: "p"})
	if err != nil {
		return "", err
	}
	defer func() { _ = s.Close() }()
	var text strings.Builder
	for {
		c, err := s.Next()
		if errors.Is(err, io.EOF) {
			return text.String(), nil
		}
		if err != nil {
			return text.String(), err
		}
		if c.Type == providers.ChunkText {
			text.WriteString(c.Text)
		}
	}
}

func TestEveryWayToAskGoesOnWithTheNextKeyAndTellsNone(t *testing.T) {
	for _, way := range ways {
		for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusPaymentRequired, http.StatusTooManyRequests} {
			t.Run(way.name+" "+http.StatusText(status), func(t *testing.T) {
				s := newTurnstile(t, providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("fine")}))
				r := ringOf(t, keyA, keyB)
				c := providers.Config{BaseURL: s.url, Keys: r}
				way.change(&c)
				p := provider(t, way.factory, c)
				s.set(keyA, status)
				if text, err := answerOf(p, t); err != nil || text != "fine" {
					t.Fatalf("%q, %v; asked: %s", text, err, s.keys())
				}
				if asked := s.keys(); strings.Count(asked, keyA) != 1 || !strings.Contains(asked, keyB) {
					t.Errorf("asked: %s", asked)
				}
				if state := r.Status()[0].State; state == secrets.StateOK {
					t.Error("the key that was refused doesn't rest")
				}
				if text, err := answerOf(p, t); err != nil || text != "fine" || strings.Contains(s.keys(), keyA) {
					t.Errorf("the next call: %q, %v", text, err)
				}
				s.set(keyB, status)
				for range 2 {
					_, err := answerOf(p, t)
					if err == nil || strings.Contains(err.Error(), "canary") {
						t.Errorf("with no key that is taken: %v", err)
					}
				}
			})
		}
	}
}

func TestAKeyThatIsReplacedDuringACallIsFollowedByTheNewOne(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("fine")})
	r := ringOf(t, keyA)
	var asked []string // by one call after the other
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		key := req.Header.Get("X-Api-Key")
		asked = append(asked, key)
		if key == keyB {
			up.ServeHTTP(w, req)
			return
		}
		k, err := secrets.NewKey([]byte(keyB))
		if err == nil {
			err = r.Set("config", []secrets.Entry{{ID: "a", Key: k}})
		}
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusUnauthorized) // the old one has just been ended
	}))
	t.Cleanup(srv.Close)
	text, err := answerOf(provider(t, claude.New, providers.Config{BaseURL: srv.URL, Keys: r, NeedsKey: true}), t)
	if err != nil || text != "fine" || len(asked) != 2 {
		t.Errorf("%q, %v; asked with %d keys", text, err, len(asked))
	}
	if k := r.Status()[0]; k.State != secrets.StateOK || k.Rests != 0 {
		t.Errorf("the new key pays for the old: %+v", k)
	}
}

func TestAnAnswerThatRunsOutlivesItsKeyAndNoneIsAskedForWithItAfter(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("one ", "two ", "three")})
	r := ringOf(t, keyA)
	p := provider(t, claude.New, providers.Config{BaseURL: up.URL, Keys: r, NeedsKey: true})
	s, err := p.Stream(t.Context(), &providers.Request{Model: "m", Prompt: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	r.Wipe()
	var text strings.Builder
	for {
		c, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.Type == providers.ChunkText {
			text.WriteString(c.Text)
		}
	}
	if text.String() != "one two three" {
		t.Errorf("got %q", text.String())
	}
	if _, err := answerOf(p, t); err == nil || protocol.AsError(err).Code != protocol.CodeUnauthorized {
		t.Errorf("without a key: %v", err)
	}
}

func TestAnErrorThatIsNotTheKeysIsNotTriedWithAnother(t *testing.T) {
	for _, way := range ways {
		if way.name == "responses, websocket" {
			continue // a handshake that fails is asked for in another way
		}
		s := newTurnstile(t, providertest.NewUpstream(t, providertest.Script{}))
		c := providers.Config{BaseURL: s.url, Keys: ringOf(t, keyA, keyB)}
		way.change(&c)
		s.set(keyA, http.StatusInternalServerError)
		_, err := answerOf(provider(t, way.factory, c), t)
		if asked := s.keys(); err == nil || strings.Contains(asked, keyB) {
			t.Errorf("%s: %v; asked: %s", way.name, err, asked)
		}
	}
}

func TestAWebSocketsFirstMessageCanRefuseTheKey(t *testing.T) {
	s := newTurnstile(t, providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("fine")}))
	refusal := func(key string) string {
		return `{"type":"error","status":429,"error":{"type":"insufficient_quota","code":"insufficient_quota","message":"` + key + ` has no credit"}}`
	}
	s.first[keyA] = refusal(keyA)
	r := ringOf(t, keyA, keyB)
	p := provider(t, openai.NewResponses, providers.Config{BaseURL: s.url, Keys: r, Protocol: providers.ProtocolWebSocket})
	if text, err := answerOf(p, t); err != nil || text != "fine" || s.keys() != "GET "+keyA+", GET "+keyB {
		t.Errorf("%q, %v", text, err)
	}
	if r.Status()[0].State != secrets.StateExhausted {
		t.Errorf("the key is %+v", r.Status()[0])
	}
	s.mu.Lock()
	s.first[keyB] = refusal(keyB)
	s.mu.Unlock()
	if _, err := answerOf(p, t); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("with no key that is taken: %v", err)
	}
}

func TestWhatIsAskedOfABackgroundAnswerIsAskedWithItsOwnKey(t *testing.T) {
	s := newTurnstile(t, providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("fi", "ne"), Polls: 2}))
	r := ringOf(t, keyA, keyB)
	p := provider(t, openai.NewResponses, providers.Config{BaseURL: s.url, Keys: r, Protocol: providers.ProtocolPolling, Features: providers.FeatureOverrides{Streaming: new(bool)}, Background: true})
	for range 3 {
		if text, err := answerOf(p, t); err != nil || text != "fine" {
			t.Fatalf("%q, %v", text, err)
		}
		asked := s.keys()
		if !strings.Contains(asked, "GET ") || strings.Contains(asked, keyA) && strings.Contains(asked, keyB) {
			t.Errorf("asked: %s", asked)
		}
	}
}

func TestTheTimeToComeBackIsThatOfTheKeyThatComesBackFirst(t *testing.T) {
	s := newTurnstile(t, providertest.NewUpstream(t, providertest.Script{}))
	p := provider(t, claude.New, providers.Config{BaseURL: s.url, Keys: ringOf(t, keyA, keyB)})
	s.set(keyA, http.StatusTooManyRequests)
	s.set(keyB, http.StatusTooManyRequests)
	s.header["Retry-After"] = "30"
	_, _ = answerOf(p, t)
	s.mu.Lock()
	s.header["Retry-After"] = "3000"
	s.mu.Unlock()
	_, err := answerOf(p, t) // a is asked, whose rest ends first
	e := protocol.AsError(err)
	if wait := time.Duration(e.RetryAfterMS) * time.Millisecond; e.Code != protocol.CodeRateLimited || wait == 0 || wait > 31*time.Second {
		t.Errorf("%v, to come back after %s", err, wait)
	}
}

func TestAKeyWithoutQuotaRestsAsLongAsTheProviderSays(t *testing.T) {
	s := newTurnstile(t, providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("fine")}))
	r := ringOf(t, keyA, keyB)
	s.set(keyA, http.StatusPaymentRequired)
	s.header["Retry-After"] = "3600"
	if _, err := answerOf(provider(t, claude.New, providers.Config{BaseURL: s.url, Keys: r}), t); err != nil {
		t.Fatal(err)
	}
	if k := r.Status()[0]; k.State != secrets.StateExhausted || time.Until(k.Until) < 50*time.Minute {
		t.Errorf("the key is %+v", k)
	}
}

func TestAnErrorWithinAStreamIsTheKeysToo(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"too much with "+r.Header.Get("X-Api-Key")+"\"}}\n\n")
	}))
	defer srv.Close()
	r := ringOf(t, keyA, keyB)
	p := provider(t, claude.New, providers.Config{BaseURL: srv.URL, Keys: r})
	for i := range 2 {
		if _, err := answerOf(p, t); protocol.AsError(err).Code != protocol.CodeRateLimited || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v", err)
		}
		if k := r.Status()[i]; k.State != secrets.StateLimited || k.Calls != 1 {
			t.Errorf("key %s: %+v", k.ID, k)
		}
	}
}

func TestALimitThatOneKeyHasUsedUpIsNotTheProviders(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("fine"), Header: http.Header{
		"Anthropic-Ratelimit-Requests-Remaining": {"0"}, "Anthropic-Ratelimit-Requests-Reset": {time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}}})
	s := newTurnstile(t, up)
	p := provider(t, claude.New, providers.Config{BaseURL: s.url, Keys: ringOf(t, keyA, keyB)})
	if _, err := answerOf(p, t); err != nil {
		t.Fatal(err)
	}
	if l, ok := p.(providers.RateLimiter).RateLimits(); ok {
		t.Errorf("after one key's: %+v", l)
	}
	if _, err := answerOf(p, t); err != nil || s.keys() != "POST "+keyA+", POST "+keyB {
		t.Errorf("the other key is not taken: %v", err)
	}
	if l, ok := p.(providers.RateLimiter).RateLimits(); !ok || l.RequestsRemaining != 0 {
		t.Errorf("after both: %+v", l)
	}
}

func TestHealthChecksEachKeyAndOneThatIsGoodIsEnough(t *testing.T) {
	s := newTurnstile(t, providertest.NewUpstream(t, providertest.Script{}))
	r := ringOf(t, keyA, keyB)
	p := provider(t, claude.New, providers.Config{BaseURL: s.url, Keys: r})
	s.set(keyA, http.StatusUnauthorized)
	if err := p.(providers.HealthChecker).Health(t.Context()); err != nil {
		t.Errorf("with one good key: %v", err)
	}
	for i, want := range []secrets.State{secrets.StateRefused, secrets.StateOK} {
		if k := r.Status()[i]; k.State != want || k.Checked.IsZero() {
			t.Errorf("key %s: %+v", k.ID, k)
		}
	}
	s.set(keyB, http.StatusUnauthorized)
	if err := p.(providers.HealthChecker).Health(t.Context()); !errors.Is(err, protocol.ErrAuthentication) || strings.Contains(err.Error(), "canary") {
		t.Errorf("with none: %v", err)
	}
	s.set(keyA, 0)
	if err := p.(providers.HealthChecker).Health(t.Context()); err != nil || r.Status()[0].State != secrets.StateOK {
		t.Errorf("once one is good again: %v, %+v", err, r.Status()[0])
	}
}

func TestAProviderWhoseKeysAreGoneIsNotCalled(t *testing.T) {
	s := newTurnstile(t, providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("fine")}))
	r := ringOf(t, keyA)
	p := provider(t, claude.New, providers.Config{BaseURL: s.url, Keys: r, NeedsKey: true})
	if !p.(providers.KeyHolder).HasKey() {
		t.Error("it has a key, and says no")
	}
	if err := r.Set("config", nil); err != nil {
		t.Fatal(err)
	}
	_, err := answerOf(p, t)
	if protocol.AsError(err).Code != protocol.CodeUnauthorized || p.(providers.KeyHolder).HasKey() || s.keys() != "" {
		t.Errorf("without a key: %v", err)
	}
}

func TestNoKeyFollowsARedirect(t *testing.T) {
	thief := newTurnstile(t, http.NotFoundHandler())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.url+r.URL.Path, http.StatusTemporaryRedirect) //nolint:gosec // what the test is about
	}))
	defer srv.Close()
	for _, way := range ways {
		c := providers.Config{BaseURL: srv.URL, Keys: ringOf(t, keyA, keyB), Headers: map[string]string{"X-Proxy": "canary-header"}}
		way.change(&c)
		p := provider(t, way.factory, c)
		if _, err := answerOf(p, t); err == nil || !strings.Contains(err.Error(), "redirect") {
			t.Errorf("%s: %v", way.name, err)
		}
		if err := p.(providers.HealthChecker).Health(t.Context()); err == nil {
			t.Errorf("%s: a redirect is taken for health", way.name)
		}
	}
	if asked := thief.keys(); asked != "" {
		t.Errorf("the other host was asked: %s", asked)
	}
}
