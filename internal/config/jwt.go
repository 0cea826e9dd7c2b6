package config

import (
	"fmt"
	"slices"
	"strings"
)

// TakesJWT reports whether tokens of an identity provider are taken.
func (s *Serve) TakesJWT() bool {
	return s.JWTSecret != "" || s.JWTSecretFile != "" || s.JWTPublicKey != "" || s.JWTJWKSURL != ""
}

// TokenSecret returns the secret that signs tokens, "" where there is none. It
// reads the file.
func (s *Serve) TokenSecret() (Secret, error) {
	if s.JWTSecretFile == "" {
		return s.JWTSecret, nil
	}
	b, err := readBounded(s.JWTSecretFile)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(b), "\r\n") // of the editor, not of the secret
	if text == "" {
		return "", fmt.Errorf("%s is empty", s.JWTSecretFile)
	}
	return Secret(text), nil
}

// TokenKeys returns the file of public keys, nil where there is none.
func (s *Serve) TokenKeys() ([]byte, error) {
	if s.JWTPublicKey == "" {
		return nil, nil
	}
	return readBounded(s.JWTPublicKey)
}

// RequiredClaims are the claims that tokens must have, and their values; "" for
// any.
func (s *Serve) RequiredClaims() map[string]string {
	m := make(map[string]string, len(s.JWTRequiredClaim))
	for _, c := range s.JWTRequiredClaim {
		name, value, _ := strings.Cut(c, "=")
		m[name] = value
	}
	return m
}

// checkJWT checks what is for tokens.
func (s *Serve) checkJWT() []problem {
	var found []problem
	fail := func(key, format string, args ...any) {
		found = append(found, problem{key: key, text: fmt.Sprintf(format, args...)})
	}
	if s.JWTSecret != "" && s.JWTSecretFile != "" {
		found = append(found, problem{key: "jwt_secret", others: []string{"jwt_secret_file"},
			text: "the secret is given twice, by jwt_secret and jwt_secret_file; give one"})
	}
	secret, err := s.TokenSecret()
	switch {
	case err != nil:
		fail("jwt_secret_file", "%s", err)
	case secret != "" && len(secret) < MinSecretLength:
		key := "jwt_secret"
		if s.JWTSecretFile != "" {
			key = "jwt_secret_file"
		}
		fail(key, "the secret is shorter than %d characters; make one with: openssl rand -hex 32", MinSecretLength)
	}
	if _, err := s.TokenKeys(); err != nil {
		fail("jwt_public_key", "%s", err)
	}
	if s.JWTJWKSURL != "" && s.JWTAudience == "" {
		found = append(found, problem{key: "jwt_audience", others: []string{"jwt_jwks_url"},
			text: "is missing; an identity provider signs the tokens of many services by the same keys, and only the audience says which are for this one"})
	}
	if !s.TakesJWT() {
		for _, f := range []struct{ key, value string }{{"jwt_issuer", s.JWTIssuer}, {"jwt_audience", s.JWTAudience}, {"jwt_required_claim", strings.Join(s.JWTRequiredClaim, "")}} {
			if f.value != "" {
				fail(f.key, "is for tokens, and there is neither jwt_secret, jwt_public_key nor jwt_jwks_url")
			}
		}
	}
	for _, c := range s.JWTRequiredClaim {
		if strings.HasPrefix(c, "=") || c == "" {
			fail("jwt_required_claim", "%.80q is not NAME or NAME=VALUE", c)
		}
	}
	scopes := []string{"analyze", "read", "cancel", "providers", "admin", "metrics"}
	for _, name := range s.JWTDefaultScopes {
		if !slices.Contains(scopes, name) {
			fail("jwt_default_scopes", "%.40q is none of %s", name, strings.Join(scopes, ", "))
		}
	}
	return found
}
