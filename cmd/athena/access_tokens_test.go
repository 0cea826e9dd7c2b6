package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/athena-hub/athena/protocol"
)

// publishes starts a server that publishes a key, as identity providers do, and
// returns its URL.
func publishes(t *testing.T, id string, key crypto.PublicKey) string {
	t.Helper()
	k, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"keys": []any{k.Marshal()}})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(b) // who asks may have gone
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestTokensOfAnIdentityProviderLetTheirTenantsInUntilTheyExpire(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	up := upstream(t, answer(0, "hello"))
	s := serve(t, openAIAt(up), "--jwt-jwks-url", publishes(t, "k1", &key.PublicKey), "--jwt-audience", "athena", "--jwt-issuer", "https://login.example",
		"--jwt-required-claim", "email_verified=true", "--jwt-leeway", "0s", "--auth-grace", "1s")
	token := func(sub, tenant string, life time.Duration, change ...string) string {
		c := jwt.MapClaims{"sub": sub, "iss": "https://login.example", "aud": "athena", "exp": jwt.NewNumericDate(time.Now().Add(life)), "email_verified": true, "tenant": tenant}
		for i := 0; i < len(change); i += 2 {
			c[change[i]] = change[i+1]
		}
		unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, c)
		unsigned.Header["kid"] = "k1"
		text, err := unsigned.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if r := s.do("GET", "/v1/providers", ""); r.status != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", r.status, r.body)
	}
	ada, bob := token("ada", "acme", time.Hour), token("bob", "globex", time.Hour)
	id := s.begin(authorization(ada)...)
	if !protocol.StreamOf(id, "acme") {
		t.Errorf("the stream %s is not the tenant's", id)
	}
	wantProblem(t, s.do("GET", "/v1/streams/"+id, "", authorization(bob)...), http.StatusNotFound, protocol.CodeStreamNotFound)
	wantProblem(t, s.do("GET", "/v1/keys", "", authorization(ada)...), http.StatusForbidden, protocol.CodeForbidden)
	if r := s.do("GET", "/v1/keys", "", authorization(token("root", "", time.Hour, "scope", "admin"))...); r.status != http.StatusOK {
		t.Errorf("an operator's token: %d %s", r.status, r.body)
	}
	for name, bad := range map[string]string{"another audience": token("ada", "acme", time.Hour, "aud", "other"), "a missing claim": token("ada", "acme", time.Hour, "email_verified", "no"), "expired": token("ada", "acme", -time.Minute)} {
		if r := s.do("GET", "/v1/streams/"+id, "", authorization(bad)...); r.status != http.StatusUnauthorized || strings.Contains(r.body, bad) {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}

	if r := s.do("GET", "/metrics", "", authorization(token("root", "", time.Hour, "scope", "admin"))...); !strings.Contains(r.body, `athena_auth_failures_total{reason="claims"} 2`) ||
		!strings.Contains(r.body, `athena_auth_failures_total{reason="expired"} 1`) {
		t.Errorf("the refusals are not counted: %s", r.body)
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	connect := func() *wsConn {
		l, err := openWebSocket(ctx, target{url: s.url, header: bearer(token("ada", "acme", 5*time.Second))})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	expires, renews := connect(), connect()
	defer expires.close(true)
	defer renews.close(true)
	renew := func(text string) *protocol.Message {
		if err := renews.send(&protocol.Command{Type: protocol.CommandAuthenticate, ID: "a", Token: text}); err != nil {
			t.Fatal(err)
		}
		d, err := renews.next()
		if err != nil || d.message == nil {
			t.Fatalf("authenticate: %+v, %v", d, err)
		}
		return d.message
	}
	if m := renew(bob); m.Error == nil || m.Error.Code != protocol.CodeForbidden {
		t.Errorf("another caller's token: %+v", m)
	}
	if m := renew(token("ada", "acme", time.Hour, "scope", "cancel")); m.Type != protocol.MessageAccepted {
		t.Errorf("a fresh token: %+v", m)
	}
	_, err = expires.next()
	if code := websocket.CloseStatus(err); code != protocol.CloseExpired {
		t.Errorf("the connection whose token expired ended with %v, want %d", err, protocol.CloseExpired)
	}
	// The fresh token's rights hold: it has a scope less.
	if err := renews.send(&protocol.Command{Type: protocol.CommandSubscribe, ID: "s", Stream: id}); err != nil {
		t.Fatal(err)
	}
	if d, err := renews.next(); err != nil || d.message == nil || d.message.Error == nil || d.message.Error.Code != protocol.CodeForbidden {
		t.Errorf("with the fresh token: %+v, %v", d, err)
	}
	if log := s.process.log(); strings.Contains(log, ada) || strings.Contains(log, strings.Split(ada, ".")[2]) {
		t.Error("the log shows a token")
	}
}
