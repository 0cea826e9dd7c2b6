package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/athena-hub/athena/internal/auth"
)

const jwtSecret = "canary-secret-of-64-bytes-0123456789-0123456789-0123456789-01234"

// signers are keys of each kind, made once: an RSA key takes a while.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	r, err1 := rsa.GenerateKey(rand.Reader, 2048)
	e, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, d, err3 := ed25519.GenerateKey(rand.Reader)
	if err1 != nil || err2 != nil || err3 != nil {
		panic("no keys")
	}
	return map[string]crypto.Signer{"RS256": r, "PS384": r, "ES256": e, "EdDSA": d}
})

// public is the key that verifies what the signer of alg signs.
func public(alg string) any { return signers()[alg].Public() }

// claims are good ones, changed by more: a nil value takes a claim away.
func claims(more map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{"sub": "ada", "iss": "https://login.example", "aud": "athena", "exp": time.Now().Add(time.Hour).Unix(), "tenant": "acme", "scope": "openid analyze athena:read"}
	for name, v := range more {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

// sign makes a token; header is what it has beside alg and typ.
func sign(t testing.TB, alg string, key any, c jwt.MapClaims, header map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.GetSigningMethod(alg), c)
	maps.Copy(token.Header, header)
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verifier(t testing.TB, o auth.JWTOptions) *auth.Authenticator {
	t.Helper()
	if o.DefaultScopes == 0 {
		o.DefaultScopes = auth.DefaultScopes
	}
	o.Issuer, o.Audience, o.TenantClaim = "https://login.example", "athena", "tenant"
	j, err := auth.NewJWT(o)
	if err != nil {
		t.Fatal(err)
	}
	a, err := auth.New(nil, auth.Options{JWT: j})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestATokensClaimsSayWhoItIs(t *testing.T) {
	a := verifier(t, auth.JWTOptions{Secret: []byte(jwtSecret)})
	for _, c := range []struct {
		name   string
		more   map[string]any
		tenant string
		scopes auth.Scopes
	}{
		{"text with spaces between", nil, "acme", auth.ScopeAnalyze | auth.ScopeRead},
		{"a list", map[string]any{"scope": nil, "scp": []string{"read", "other"}}, "acme", auth.ScopeRead},
		{"a list by another name", map[string]any{"scope": nil, "scopes": []string{"cancel"}}, "acme", auth.ScopeCancel},
		{"nothing of scopes", map[string]any{"scope": nil}, "acme", auth.DefaultScopes},
		{"scopes of others only", map[string]any{"scope": "openid email"}, "acme", 0},
		{"no tenant", map[string]any{"tenant": nil}, "", auth.ScopeAnalyze | auth.ScopeRead},
		{"one of several audiences", map[string]any{"aud": []string{"x", "athena"}}, "acme", auth.ScopeAnalyze | auth.ScopeRead},
	} {
		token := sign(t, "HS256", []byte(jwtSecret), claims(c.more), nil)
		want := "jwt:ada"
		if c.tenant != "" {
			want = "jwt:" + c.tenant + "/ada"
		}
		for range 2 { // the second time it is remembered
			id, err := a.Token(token)
			if err != nil || id.Name != "ada" || id.Tenant != c.tenant || id.Scopes != c.scopes || id.Credential != want || id.Anonymous || time.Until(id.Expires) < 59*time.Minute {
				t.Errorf("%s: %+v, %v", c.name, id, err)
			}
		}
	}
}

func TestATokensTenantIsNotOneThatACallerCountsAs(t *testing.T) {
	a := verifier(t, auth.JWTOptions{Secret: []byte(jwtSecret)})
	for tenant, taken := range map[string]bool{"acme": true, "~key-1": false, "tenant:acme": false} {
		_, err := a.Token(sign(t, "HS256", []byte(jwtSecret), claims(map[string]any{"tenant": tenant}), nil))
		if (err == nil) != taken {
			t.Errorf("%s: %v", tenant, err)
		}
	}
}

func TestNoTwoCallersWithTokensHaveOneCredential(t *testing.T) {
	a := verifier(t, auth.JWTOptions{Secret: []byte(jwtSecret)})
	seen := make(map[string]any)
	for _, c := range [][2]any{{"acme", "ada"}, {"other", "ada"}, {nil, "ada"}, {nil, "acme/ada"}, {"acme/ada", "x"}, {"acme", "ada/x"}, {nil, "acme%2Fada"}} {
		id, err := a.Token(sign(t, "HS256", []byte(jwtSecret), claims(map[string]any{"tenant": c[0], "sub": c[1]}), nil))
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		if before, ok := seen[id.Credential]; ok {
			t.Errorf("%v and %v both count as %s", c, before, id.Credential)
		}
		seen[id.Credential] = c
	}
	// "~ada" is what ada counts for where she has no tenant.
	if id, err := a.Token(sign(t, "HS256", []byte(jwtSecret), claims(map[string]any{"tenant": "~ada"}), nil)); err == nil {
		t.Errorf("the tenant %q counts for %q", id.Tenant, id.CountsFor())
	}
}

func TestTokensOfEveryKindOfKeyAreTaken(t *testing.T) {
	for alg, key := range signers() {
		a := verifier(t, auth.JWTOptions{Keys: []any{key.Public()}})
		if id, err := a.Token(sign(t, alg, key, claims(nil), nil)); err != nil || id.Name != "ada" {
			t.Errorf("%s: %+v, %v", alg, id, err)
		}
	}
	for _, alg := range []string{"HS384", "HS512"} {
		a := verifier(t, auth.JWTOptions{Secret: []byte(jwtSecret)})
		if id, err := a.Token(sign(t, alg, []byte(jwtSecret), claims(nil), nil)); err != nil || id.Name != "ada" {
			t.Errorf("%s: %+v, %v", alg, id, err)
		}
	}
}

func TestTokensThatAreNotWhatTheyMustBeAreRefused(t *testing.T) {
	rsaPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public("RS256")))})
	byRSA := verifier(t, auth.JWTOptions{Keys: []any{public("RS256")}})
	bySecret := verifier(t, auth.JWTOptions{Secret: []byte(jwtSecret), Required: map[string]string{"tenant": "", "email_verified": "true"}})
	good := func(more map[string]any) jwt.MapClaims {
		c := claims(map[string]any{"email_verified": true})
		for name, v := range more {
			if c[name] = v; v == nil {
				delete(c, name)
			}
		}
		return c
	}
	hs := func(more map[string]any) string { return sign(t, "HS256", []byte(jwtSecret), good(more), nil) }
	rs := func(header map[string]any) string {
		return sign(t, "RS256", signers()["RS256"], good(nil), header)
	}
	unsigned := sign(t, "none", jwt.UnsafeAllowNoneSignatureType, good(nil), nil)
	parts := strings.Split(hs(nil), ".")
	raw := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct {
		name  string
		a     *auth.Authenticator
		token string
		want  string // of the refusal
	}{
		// Algorithm confusion, and no algorithm at all.
		{"a public key as a secret, in PEM", byRSA, sign(t, "HS256", rsaPEM, good(nil), nil), "not one that this server takes"},
		{"a public key as a secret, in DER", byRSA, sign(t, "HS256", must(x509.MarshalPKIXPublicKey(public("RS256"))), good(nil), nil), "not one that this server takes"},
		{"none", byRSA, unsigned, "not one that this server takes"},
		{"none, with a secret", bySecret, unsigned, "not one that this server takes"},
		{"NONE", bySecret, raw(`{"alg":"NONE"}`) + "." + parts[1] + ".", "not one that this server takes"},
		{"no algorithm", bySecret, raw(`{"typ":"JWT"}`) + "." + parts[1] + "." + parts[2], "not one that this server takes"},
		{"another kind of key", byRSA, sign(t, "ES256", signers()["ES256"], good(nil), nil), "not one that this server takes"},
		{"another secret", bySecret, sign(t, "HS256", []byte(jwtSecret+"x"), good(nil), nil), "not one that this server takes"},
		{"an empty secret", bySecret, sign(t, "HS256", []byte{}, good(nil), nil), "not one that this server takes"},
		{"a signature cut off", bySecret, parts[0] + "." + parts[1] + ".", "not one that this server takes"},
		{"claims of another token", bySecret, parts[0] + "." + raw(`{"sub":"root","exp":9999999999}`) + "." + parts[2], "not one that this server takes"},
		// Headers.
		{"crit", byRSA, rs(map[string]any{"crit": []string{"exp"}}), "not one that this server takes"},
		{"an empty crit", byRSA, rs(map[string]any{"crit": []string{}}), "not one that this server takes"},
		{"a token for something else", byRSA, rs(map[string]any{"typ": "logout+jwt"}), "not one that this server takes"},
		{"a typ that is no text", byRSA, rs(map[string]any{"typ": 1}), "not one that this server takes"},
		{"a kid that is no text", byRSA, rs(map[string]any{"kid": []string{"x"}}), "not one that this server takes"},
		{"a kid that is huge", byRSA, rs(map[string]any{"kid": strings.Repeat("k", 200)}), "not one that this server takes"},
		// Form.
		{"huge", bySecret, hs(map[string]any{"x": strings.Repeat("x", 9000)}), "not one that this server takes"},
		{"nested deep", bySecret, parts[0] + "." + raw(strings.Repeat("[", 5000)) + "." + parts[2], "not one that this server takes"},
		{"four parts", bySecret, hs(nil) + ".x", "not known"},
		{"padding", bySecret, parts[0] + "." + parts[1] + "." + parts[2] + "=", "not one that this server takes"},
		// Claims.
		{"expired", bySecret, hs(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), "expired"},
		{"no expiry", bySecret, hs(map[string]any{"exp": nil}), "claims are not as they must be"},
		{"an expiry that is text", bySecret, hs(map[string]any{"exp": "tomorrow"}), "not"},
		{"not yet good", bySecret, hs(map[string]any{"nbf": time.Now().Add(time.Minute).Unix()}), "claims are not as they must be"},
		{"issued later", bySecret, hs(map[string]any{"iat": time.Now().Add(time.Minute).Unix()}), "claims are not as they must be"},
		{"another issuer", bySecret, hs(map[string]any{"iss": "https://login.example.evil"}), "claims are not as they must be"},
		{"no issuer", bySecret, hs(map[string]any{"iss": nil}), "claims are not as they must be"},
		{"another audience", bySecret, hs(map[string]any{"aud": []string{"other"}}), "claims are not as they must be"},
		{"no audience", bySecret, hs(map[string]any{"aud": nil}), "claims are not as they must be"},
		{"no subject", bySecret, hs(map[string]any{"sub": nil}), "claims are not as they must be"},
		{"a subject with a line in it", bySecret, hs(map[string]any{"sub": "a\nb"}), "claims are not as they must be"},
		{"a subject that is a tenant's owner", bySecret, hs(map[string]any{"sub": "tenant:acme"}), "claims are not as they must be"},
		{"a tenant that is no text", bySecret, hs(map[string]any{"tenant": 1}), "claims are not as they must be"},
		{"a required claim that is missing", bySecret, hs(map[string]any{"tenant": nil}), "claims are not as they must be"},
		{"a required claim that is another", bySecret, hs(map[string]any{"email_verified": false}), "claims are not as they must be"},
		{"scopes that are no text", bySecret, hs(map[string]any{"scope": []any{1}}), "claims are not as they must be"},
	} {
		if got := refused(c.a, c.token); !strings.Contains(got, c.want) || strings.Contains(got, "ada") || strings.Contains(got, "canary") {
			t.Errorf("%s: %q; want %q", c.name, got, c.want)
		}
	}
	if got := refused(bySecret, hs(nil)); got != "" {
		t.Errorf("a good one: %q", got)
	}
	if got := refused(byRSA, rs(map[string]any{"kid": "../../etc/passwd' OR 1=1", "jku": "http://evil.example", "x5u": "http://evil.example", "jwk": map[string]any{"kty": "oct"}})); got != "" {
		t.Errorf("a good one whose header names other keys, which nobody looks at: %q", got)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestARememberedTokenEndsAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := verifier(t, auth.JWTOptions{Secret: []byte(jwtSecret), Leeway: -1})
		token := sign(t, "HS256", []byte(jwtSecret), claims(map[string]any{"exp": time.Now().Add(20 * time.Second).Unix()}), nil)
		if got := refused(a, token); got != "" {
			t.Fatal(got)
		}
		time.Sleep(19 * time.Second)
		if got := refused(a, token); got != "" {
			t.Error(got)
		}
		time.Sleep(time.Second)
		if got := refused(a, token); !strings.Contains(got, "expired") {
			t.Errorf("after its end: %q", got)
		}
	})
}

func TestKeysOfNoUseAreRefusedAtOnce(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // that it is refused is the test
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]auth.JWTOptions{
		"none": {}, "a short secret": {Secret: []byte("short")}, "an empty secret": {Secret: []byte{}}, "a small RSA key": {Keys: []any{&small.PublicKey}}, "a private key": {Keys: []any{small}},
	} {
		if _, err := auth.NewJWT(o); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	block := func(typ string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}) }
	pub := must(x509.MarshalPKIXPublicKey(public("ES256")))
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"nothing": {nil, "no public key"}, "text": {[]byte("hello"), "no public key"}, "a private key": {block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(signers()["ES256"]))), "private key"},
		"nonsense": {block("PUBLIC KEY", []byte("x")), ""}, "a small key": {block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&small.PublicKey)), "1024 bits"}, "something else": {block("CERTIFICATE REQUEST", pub), "CERTIFICATE REQUEST"},
	} {
		if _, err := auth.ParsePublicKeys(c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys, err := auth.ParsePublicKeys(append(block("PUBLIC KEY", pub), block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(public("RS256").(*rsa.PublicKey)))...)); err != nil || len(keys) != 2 {
		t.Errorf("two keys: %d, %v", len(keys), err)
	}
}

func FuzzJWT(f *testing.F) {
	a := verifier(f, auth.JWTOptions{Secret: []byte(jwtSecret), Keys: []any{public("ES256"), public("RS256")}})
	good := sign(f, "HS256", []byte(jwtSecret), claims(nil), nil)
	f.Add(good)
	f.Add(sign(f, "none", jwt.UnsafeAllowNoneSignatureType, claims(nil), nil))
	f.Add(good[:len(good)-10])
	f.Add("..")
	f.Add("eyJhbGciOiJIUzI1NiJ9.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if id, err := a.Token(token); err == nil && token != good {
			t.Errorf("%q is %+v", token, id)
		}
	})
}

func FuzzJWTClaims(f *testing.F) {
	a := verifier(f, auth.JWTOptions{Secret: []byte(jwtSecret)})
	f.Add([]byte(`{"sub":"ada","tenant":"acme","scope":"read"}`))
	f.Add([]byte(`{"sub":1,"tenant":[],"scope":{},"scp":[1]}`))
	f.Add([]byte(`{"exp":1e300,"nbf":-1,"aud":[[]]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c jwt.MapClaims
		if json.Unmarshal(b, &c) != nil || c == nil {
			return
		}
		for name, v := range claims(nil) {
			if _, given := c[name]; !given {
				c[name] = v
			}
		}
		s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(jwtSecret))
		if err != nil {
			return
		}
		id, err := a.Token(s)
		if err == nil && (id.Name == "" || len(id.Name) > 128 || strings.ContainsAny(id.Name+id.Tenant, "\x00\n\x1b") || id.Expires.IsZero() || id.Scopes&^auth.AllScopes != 0) {
			t.Errorf("%s is %+v", b, id)
		}
	})
}

func FuzzPublicKeys(f *testing.F) {
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public("ES256")))}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if keys, err := auth.ParsePublicKeys(b); (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys and %v", len(keys), err)
		}
	})
}
