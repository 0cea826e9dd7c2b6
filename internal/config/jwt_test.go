package config_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatIsWrongWithTheSettingsOfTokensIsTold(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a short secret":              {[]string{"--jwt-secret", "short"}, "jwt_secret: the secret is shorter than 32"},
		"two secrets":                 {[]string{"--jwt-secret", secret, "--jwt-secret-file", empty}, "given twice"},
		"an empty file":               {[]string{"--jwt-secret-file", empty}, "is empty"},
		"no file":                     {[]string{"--jwt-public-key", empty + "x"}, "jwt_public_key"},
		"a URL without an audience":   {[]string{"--jwt-jwks-url", "https://login.example/keys"}, "jwt_audience: is missing"},
		"an issuer without a key":     {[]string{"--jwt-issuer", "x"}, "jwt_issuer: is for tokens"},
		"a claim without a name":      {[]string{"--jwt-secret", secret, "--jwt-required-claim", "=x"}, "is not NAME or NAME=VALUE"},
		"a scope that is none":        {[]string{"--jwt-secret", secret, "--jwt-default-scopes", "root"}, `"root" is none of analyze, read`},
		"a leeway of an hour":         {[]string{"--jwt-secret", secret, "--jwt-leeway", "1h"}, "jwt_leeway: is 1h0m0s"},
		"a connection without an end": {[]string{"--auth-grace", "0s"}, "auth_grace: is 0s; it must be from 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, "", nil, c.args...)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestTokensAndRequiredCredentialsAreEnoughBeyondLoopback(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := load(t, "", nil, "--listen", "0.0.0.0:80", "--jwt-secret-file", file, "--jwt-required-claim", "a=b,c", "--jwt-required-claim", "d")
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.TokenSecret()
	if err != nil || got.Reveal() != secret || !s.TakesJWT() || !maps.Equal(s.RequiredClaims(), map[string]string{"a": "b,c", "d": ""}) {
		t.Errorf("%v, %v, %+v", err, s.TakesJWT(), s.RequiredClaims())
	}
	if _, err := load(t, "", nil, "--listen", "0.0.0.0:80", "--require-auth"); err != nil {
		t.Error(err)
	}
}
