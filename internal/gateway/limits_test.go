package gateway_test

import (
	"crypto/rand"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/overload"
	"github.com/athena-hub/athena/internal/ratelimit"
	"github.com/athena-hub/athena/protocol"
)

// limited starts a node with limits, which change has set.
func limited(t *testing.T, change ...func(*gateway.LimitOptions)) *node {
	t.Helper()
	return start(t, true, func(o *gateway.Options) { o.Limits = everyLimit(change...) })
}

func TestWatchersThatComeAnewArePutOffByAFullNodeAndThoseThatComeBackAreNot(t *testing.T) {
	full := overload.New(overload.Options{Connections: func() float64 { return 1 }})
	t.Cleanup(full.Close)
	n := limited(t, func(o *gateway.LimitOptions) { o.Load = full })
	key := []string{"Authorization", "Bearer " + apiKey}
	id := n.startJob("hold", key...)
	events := "/v1/streams/" + id + "/events"
	a := n.do("GET", events, "", key...)
	if a.status != 503 || decode[protocol.Error](t, a).Code != protocol.CodeOverloaded || a.header.Get("Retry-After") == "" {
		t.Errorf("a long-poll from the beginning: %d %s", a.status, a.body)
	}
	a = n.do("GET", events, "", append(key, "Accept", "text/event-stream")...)
	if a.status != 200 || !strings.HasPrefix(a.body, "retry: ") || strings.Contains(a.body, "data:") {
		t.Errorf("an EventSource is to come back, and not to give up: %d %q", a.status, a.body)
	}
	for _, back := range [][]string{{events + "?after=1"}, {events, "Last-Event-ID", "1"}, {"/v1/events?stream=" + id + "&after=" + id + ":1"}} {
		if a := n.do("GET", back[0], "", append(key, back[1:]...)...); a.status != 200 || !strings.Contains(a.body, "hello ") {
			t.Errorf("%v: %d %s", back, a.status, a.body)
		}
	}
}

func TestLimitsAreTaughtToPagesOfOtherOrigins(t *testing.T) {
	a := limited(t).do("GET", "/v1/providers", "", "Authorization", "Bearer "+apiKey, "Origin", "https://app.example.com")
	exposed := a.header.Get("Access-Control-Expose-Headers")
	for _, h := range []string{"RateLimit", "RateLimit-Policy", "Retry-After"} {
		if !strings.Contains(exposed, h) || h != "Retry-After" && a.header.Get(h) == "" {
			t.Errorf("%s is %q, and %q is exposed", h, a.header.Get(h), exposed)
		}
	}
}

func TestTheAddressWhoseLimitsHoldIsTheOneThatATrustedProxyTells(t *testing.T) {
	n := start(t, true, trusting(t, "loopback"), func(o *gateway.Options) {
		o.Limits = everyLimit(func(o *gateway.LimitOptions) {
			o.Addresses = ratelimit.NewAddresses(ratelimit.AddressOptions{RequestsPerMinute: 1})
		})
	})
	ask := func(address, path string) int {
		return n.do("GET", path, "", "Authorization", "Bearer "+apiKey, "X-Forwarded-For", address).status
	}
	for i, c := range []struct {
		address, path string
		want          int
	}{{"192.0.2.1", "/v1/providers", 200}, {"192.0.2.1", "/", 429}, {"192.0.2.2", "/", 200}, {"192.0.2.2", "/healthz", 200}, {"192.0.2.1", "/readyz", 200}} {
		if got := ask(c.address, c.path); got != c.want {
			t.Errorf("%d: %s for %s: %d, want %d", i, c.path, c.address, got, c.want)
		}
	}
	if strings.Contains(n.log.String(), `"status":429`) && !strings.Contains(n.log.String(), `{"level":"debug","request_id"`) {
		t.Error("what is refused since there is too much of it fills the log")
	}
}

func TestWhatIsRefusedForItsOriginOrHostCountsForItsAddress(t *testing.T) {
	for name, ask := range map[string]struct {
		keyed  bool
		header []string
		want   int
	}{
		"another site's page":     {true, []string{"Origin", "https://evil.example"}, 403},
		"another site without it": {true, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"another name":            {false, []string{"Host", "evil.example"}, 421},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, ask.keyed, func(o *gateway.Options) {
				o.LoopbackOnly = !ask.keyed
				o.Limits = everyLimit(func(o *gateway.LimitOptions) {
					o.Addresses = ratelimit.NewAddresses(ratelimit.AddressOptions{RequestsPerMinute: 2})
				})
			})
			for i, want := range []int{ask.want, ask.want, 429} {
				if a := n.do("POST", "/v1/negotiate", "", ask.header...); a.status != want {
					t.Errorf("request %d: %d %s; want %d", i, a.status, a.body, want)
				}
			}
			if a := n.do("GET", "/v1/providers", "", "X-API-Key", apiKey); a.status != 429 {
				t.Errorf("and another of the same address: %d", a.status)
			}
		})
	}
}

func TestATenantWithLimitsOfItsOwnHasThose(t *testing.T) {
	n := limited(t, func(o *gateway.LimitOptions) {
		o.Tenant.RequestsPerMinute = 1
		o.Tenants = map[string]gateway.Caps{"~ada": {RequestsPerMinute: 3}}
	})
	passed := func(key string) (passed int) {
		for range 5 {
			if a := n.do("GET", "/v1/providers", "", "Authorization", "Bearer "+key); a.status == 200 {
				passed++
			}
		}
		return passed
	}
	if ada, bob := passed(apiKey), passed("another-key-012345"); ada != 3 || bob != 1 {
		t.Errorf("%d and %d requests passed, want 3 and 1", ada, bob)
	}
}

func TestAnonymousCallersHaveTheLimitsOfAKeyByTheirAddress(t *testing.T) {
	n := start(t, false, trusting(t, "loopback"), func(o *gateway.Options) {
		o.Limits = everyLimit(func(o *gateway.LimitOptions) { o.Key.RequestsPerMinute = 2 })
	})
	for i, c := range []struct {
		address string
		want    int
	}{{"2001:db8::1", 200}, {"2001:db8::2", 200}, {"2001:db8::3", 429}, {"192.0.2.1", 200}} {
		if got := n.do("GET", "/v1/providers", "", "X-Forwarded-For", c.address).status; got != c.want {
			t.Errorf("%d: %s: %d, want %d", i, c.address, got, c.want)
		}
	}
}

func TestABodyOfUnknownLengthCountsWhenItHasCome(t *testing.T) {
	const perMinute = 1000
	n := limited(t, func(o *gateway.LimitOptions) { o.Tenant.BytesPerMinute = perMinute })
	send := func(size int) int {
		t.Helper()
		body := `{"code":"` + strings.Repeat("x", size) + `"}`
		r, err := http.NewRequestWithContext(t.Context(), "POST", n.url+"/v1/analyses", struct{ *strings.Reader }{strings.NewReader(body)})
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = -1
		r.Header.Set("Authorization", "Bearer "+apiKey)
		res, err := n.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if got := send(3 * perMinute); got != 201 {
		t.Fatalf("the first: %d", got)
	}
	if got := send(1); got != 429 {
		t.Errorf("after three minutes' worth: %d", got)
	}
}

func TestExpiredTokensDoNotBlockTheirAddressAndForgedOnesDo(t *testing.T) {
	secret := []byte("a secret of 32 bytes, or of more")
	tokens, err := auth.NewJWT(auth.JWTOptions{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	limits := everyLimit(func(o *gateway.LimitOptions) {
		o.Addresses = ratelimit.NewAddresses(ratelimit.AddressOptions{FailuresPerMinute: 3, Block: time.Hour, BlockMax: time.Hour})
	})
	authn, err := auth.New(nil, auth.Options{JWT: tokens, OnFailure: limits.Refused})
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, true, func(o *gateway.Options) { o.Auth, o.Limits = authn, limits })
	ask := func(ends time.Duration, secret []byte) int {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ada", "exp": time.Now().Add(ends).Unix()}).SignedString(secret)
		if err != nil {
			t.Fatal(err)
		}
		return n.do("GET", "/v1/providers", "", "Authorization", "Bearer "+token).status
	}
	for range 10 {
		if got := ask(-time.Hour, secret); got != 401 {
			t.Fatalf("an expired token: %d", got)
		}
	}
	if got := ask(time.Hour, secret); got == 429 {
		t.Error("a fresh token is blocked by expired ones of its address")
	}
	for i := range 6 {
		if got, want := ask(time.Hour, []byte("another secret of 32 bytes at the least")), 401; got != want && (i < 4 || got != 429) {
			t.Errorf("forged token %d: %d", i, got)
		}
	}
	if got := ask(time.Hour+time.Second, secret); got != 429 {
		t.Errorf("after forged ones: %d", got)
	}
}

func TestABlockedAddressRenewsTokensOverAConnectionAndGuessesNoKeys(t *testing.T) {
	secret := []byte("a secret of 32 bytes, or of more")
	tokens, err := auth.NewJWT(auth.JWTOptions{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	limits := everyLimit(func(o *gateway.LimitOptions) {
		o.Addresses = ratelimit.NewAddresses(ratelimit.AddressOptions{FailuresPerMinute: 1, Block: time.Hour, BlockMax: time.Hour})
	})
	authn, err := auth.New(nil, auth.Options{JWT: tokens, OnFailure: limits.Refused})
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ada", "exp": time.Now().Add(time.Hour).Unix(), "jti": rand.Text()}).SignedString(secret)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	commands := &gateway.Commands{Auth: authn, Limits: limits}
	n := start(t, true, func(o *gateway.Options) {
		o.Auth, o.Limits = authn, limits
		// A command of a connection has the context of the request that opened it.
		o.MetricsHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for i, c := range []struct {
				token string
				want  protocol.Code
			}{{"guess", protocol.CodeUnauthorized}, {"guess", protocol.CodeUnauthorized}, {"guess", protocol.CodeRateLimited}, {fresh(), ""}, {"guess", protocol.CodeRateLimited}} {
				got := protocol.Code("")
				if err := commands.Authenticate(r.Context(), c.token); err != nil {
					got = protocol.AsError(err).Code
				}
				if got != c.want {
					t.Errorf("%d: %q, want %q", i, got, c.want)
				}
			}
		})
	})
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ada", "exp": time.Now().Add(time.Hour).Unix(), "scope": "admin"}).SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	if a := n.do("GET", "/metrics", "", "Authorization", "Bearer "+text); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}
