package auth_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/auth/authtest"
)

// BenchmarkToken is what it costs to know a caller, for each kind of credential,
// beside the floor of one SHA-256 of a key. Stored keys are among 100,000.
func BenchmarkToken(b *testing.B) {
	k := ring(b, authtest.NewStore(), auth.KeyringOptions{MaxKeys: 200_000})
	for i := range 100_000 {
		make1(b, k, auth.NewKey{Name: fmt.Sprintf("k%d", i), Tenant: "acme", Scopes: auth.ScopeRead})
	}
	stored, _ := make1(b, k, auth.NewKey{Name: "ci", Tenant: "acme", Scopes: auth.ScopeRead})
	var static []auth.Key
	for i := range 10 {
		static = append(static, auth.Key{Name: fmt.Sprintf("s%d", i), Secret: fmt.Sprintf("static-key-0123456789-%d", i)})
	}
	a, err := auth.New(static, auth.Options{Stored: k})
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, a *auth.Authenticator, token string, good bool) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Token(token); (err == nil) != good {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("floor: SHA-256", func(b *testing.B) {
		b.ReportAllocs()
		var sum [sha256.Size]byte
		for b.Loop() {
			sum = sha256.Sum256([]byte(stored))
		}
		_ = sum
	})
	run("stored", a, stored, true)
	run("static", a, static[9].Secret, true)
	run("unknown", a, stored[:19]+"_"+strings.Repeat("a", 52)+stored[len(stored)-6:], false)
	for _, alg := range []string{"HS256", "RS256", "ES256", "EdDSA"} {
		var key any = []byte(jwtSecret)
		o := auth.JWTOptions{Secret: []byte(jwtSecret)}
		if alg != "HS256" {
			key, o = signers()[alg], auth.JWTOptions{Keys: []any{public(alg)}}
		}
		token := sign(b, alg, key, claims(nil), nil)
		run("JWT "+alg+", remembered", verifier(b, o), token, true)
		o.Remember = -1
		run("JWT "+alg+", verified", verifier(b, o), token, true)
	}
}

// BenchmarkMiddleware is the whole of a request's authentication, beside the bare
// handler.
func BenchmarkMiddleware(b *testing.B) {
	k := ring(b, authtest.NewStore(), auth.KeyringOptions{})
	stored, _ := make1(b, k, auth.NewKey{Name: "ci", Tenant: "acme", Scopes: auth.ScopeRead})
	a := withKeys(b, k)
	served := 0
	bare := http.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	r := httptest.NewRequest("GET", "/v1/streams/x", nil)
	r.Header.Set("Authorization", "Bearer "+stored)
	for name, h := range map[string]http.Handler{"floor: bare": bare, "stored key": a.Middleware(func(*http.Request) bool { return false }, bare)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			served = 0
			n := 0
			for b.Loop() {
				h.ServeHTTP(nil, r)
				n++
			}
			if served != n {
				b.Fatalf("%d of %d were served", served, n)
			}
		})
	}
}
