package auth_test

import (
	"crypto"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"go.uber.org/goleak"

	"github.com/athena-hub/athena/internal/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A provider publishes keys, as an identity provider does.
type provider struct {
	server *httptest.Server

	mu      sync.Mutex
	body    string
	status  int
	fetches int
}

func newProvider(t *testing.T, body string) *provider {
	t.Helper()
	p := &provider{body: body, status: 200}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.fetches++
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, "http://other.example/keys", http.StatusFound)
			return
		}
		w.WriteHeader(p.status)
		_, _ = w.Write([]byte(p.body)) // the client may have enough
	}))
	t.Cleanup(p.server.Close)
	return p
}

func (p *provider) set(body string, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.body, p.status = body, status
}

func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetches
}

// keySet is what is published for keys by their ids.
func keySet(t *testing.T, keys map[string]crypto.PublicKey, extra ...string) string {
	t.Helper()
	list := extra
	for id, key := range keys {
		k, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id, USE: jwkset.UseSig}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(k.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(b))
	}
	return `{"keys":[` + strings.Join(list, ",") + `]}`
}

func openJWKS(t *testing.T, o auth.JWKSOptions) *auth.JWKS {
	t.Helper()
	j, err := auth.OpenJWKS(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func TestPublishedKeysAreFetchedAndReplaced(t *testing.T) {
	p := newProvider(t, keySet(t, map[string]crypto.PublicKey{"old": public("RS256")}, `{"kty":"oct","k":"AAAA","kid":"secret"}`, `{"kty":"EC","kid":"broken"}`, `1`))
	a := verifier(t, auth.JWTOptions{JWKS: openJWKS(t, auth.JWKSOptions{URL: p.server.URL, Unknown: time.Nanosecond})})
	by := func(alg, kid string) string {
		return sign(t, alg, signers()[alg], claims(nil), map[string]any{"kid": kid})
	}
	old, fresh := by("RS256", "old"), by("ES256", "fresh")
	if got := refused(a, old); got != "" {
		t.Errorf("by a published key: %q", got)
	}
	if got := refused(a, fresh); !strings.Contains(got, "not one that this server takes") {
		t.Errorf("by a key that is not published: %q", got)
	}
	if got := refused(a, sign(t, "HS256", []byte{0, 0, 0}, claims(nil), map[string]any{"kid": "secret"})); got == "" {
		t.Error("by a secret that is published")
	}
	if got := refused(a, by("ES256", "old")); got == "" {
		t.Error("by another key with a known id")
	}
	p.set(keySet(t, map[string]crypto.PublicKey{"old": public("RS256"), "fresh": public("ES256")}), 200)
	if got := refused(a, fresh); got != "" {
		t.Errorf("by a key that was published in the meantime: %q", got)
	}
	for name, answer := range map[string]string{"an error": "", "no JSON": "x", "an empty set": `{"keys":[]}`, "a huge one": `{"keys":["` + strings.Repeat("x", 2<<20) + `"]}`} {
		p.set(answer, map[bool]int{true: 500, false: 200}[answer == ""])
		if got := refused(a, by("ES256", "unknown "+name)); got == "" {
			t.Errorf("%s: an unknown key was taken", name)
		}
		if got := refused(a, by("ES256", "fresh")); got != "" {
			t.Errorf("%s: keys that worked do so no more: %q", name, got)
		}
	}
}

func TestUnknownKeysAreLookedForNowAndThenOnly(t *testing.T) {
	p := newProvider(t, keySet(t, map[string]crypto.PublicKey{"a": public("ES256")}))
	a := verifier(t, auth.JWTOptions{JWKS: openJWKS(t, auth.JWKSOptions{URL: p.server.URL, Unknown: time.Hour})})
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			token := sign(t, "ES256", signers()["ES256"], claims(nil), map[string]any{"kid": strings.Repeat("x", i+1)})
			if refused(a, token) == "" {
				t.Error("an unknown key was taken")
			}
		})
	}
	all.Wait()
	if n := p.count(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

func TestAServerStartsWhileItsProviderIsAway(t *testing.T) {
	p := newProvider(t, "")
	p.set("", 503)
	a := verifier(t, auth.JWTOptions{JWKS: openJWKS(t, auth.JWKSOptions{URL: p.server.URL, Unknown: time.Nanosecond})})
	token := sign(t, "ES256", signers()["ES256"], claims(nil), map[string]any{"kid": "a"})
	if got := refused(a, token); !strings.Contains(got, "try again") {
		t.Errorf("before there are keys: %q", got)
	}
	p.set(keySet(t, map[string]crypto.PublicKey{"a": public("ES256")}), 200)
	// A fetch may still be under way that began before there were any.
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		got := refused(a, token)
		if got == "" {
			break
		}
		if !strings.Contains(got, "try again") || time.Now().After(until) {
			t.Fatalf("once there are keys: %q", got)
		}
	}
}

func TestKeysAreFetchedFromWhereTheyMayBeOnly(t *testing.T) {
	for _, url := range []string{"", "x", "http://login.example/keys", "ftp://login.example", "https://", "https://user:secret@login.example/keys"} {
		if err := auth.CheckJWKSURL(url); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
	p := newProvider(t, keySet(t, map[string]crypto.PublicKey{"a": public("ES256")}))
	token := sign(t, "ES256", signers()["ES256"], claims(nil), map[string]any{"kid": "a"})
	for name, url := range map[string]string{"a redirect to another host": p.server.URL + "/elsewhere", "where clouds keep credentials": "https://169.254.169.254/latest"} {
		a := verifier(t, auth.JWTOptions{JWKS: openJWKS(t, auth.JWKSOptions{URL: url, Timeout: 2 * time.Second})})
		if got := refused(a, token); got == "" {
			t.Errorf("%s was followed", name)
		}
	}
}

func FuzzPublishedKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","kid":"a"},{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AA"},{"kty":"oct","k":"AA"}]}`))
	f.Add([]byte(`{"keys":[1,null,{"x5c":["AA"],"x5u":"https://evil.example"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := auth.ParseJWKS(b); (err == nil) != (n > 0) {
			t.Errorf("%d keys and %v", n, err)
		}
	})
}
