package auth

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// JWTOptions say which tokens are taken. Zero values mean the defaults.
type JWTOptions struct {
	// Secret verifies tokens of HS256, and of HS384 and HS512 where it has as many
	// bits; nil for none.
	Secret []byte
	// Keys are public keys, for the algorithms of their kind: *rsa.PublicKey,
	// *ecdsa.PublicKey and ed25519.PublicKey.
	Keys []any
	// JWKS are keys that are fetched; nil for none.
	JWKS *JWKS

	// Issuer and Audience are what a token must name; "" for any.
	Issuer, Audience string
	// Leeway is by how much clocks may differ. Default 30 s; negative for none.
	Leeway time.Duration
	// TenantClaim names the claim with the tenant; "" for none. Who has no such
	// claim belongs to the tenant "".
	TenantClaim string
	// Required are claims that a token must have, and their values; "" for any.
	Required map[string]string
	// DefaultScopes are those of a token that says nothing of scopes.
	DefaultScopes Scopes
	// Remember is how long a verified token is taken without being verified again,
	// and MaxRemembered how many are. Defaults 1 min and 10,000.
	Remember      time.Duration
	MaxRemembered int
}

// A JWT verifies tokens of an identity provider (RFC 7519, and RFC 8725 on what
// goes wrong with them). Which algorithm a token may have follows from the key
// and never from the token: "none" has no key, and a public key is no secret of
// HS256.
type JWT struct {
	opts   JWTOptions
	keys   []verificationKey
	parser *jwt.Parser
	known  remembered
}

// A verificationKey is a key and the algorithms it is for.
type verificationKey struct {
	id   string // "" for one that tokens needn't name
	key  any
	algs []string
}

// minSecretBytes is RFC 7518's, section 3.2: as many bits as the hash.
const minSecretBytes = 32

// NewJWT returns a JWT. Its errors say which key is of no use.
func NewJWT(o JWTOptions) (*JWT, error) {
	if o.Leeway == 0 {
		o.Leeway = 30 * time.Second
	}
	o.Leeway = max(o.Leeway, 0)
	if o.Remember == 0 {
		o.Remember = time.Minute
	}
	if o.MaxRemembered == 0 {
		o.MaxRemembered = 10_000
	}
	j := &JWT{opts: o, known: remembered{max: o.MaxRemembered, byHash: make(map[[sha256.Size]byte]*list.Element), order: list.New()}}
	if o.Secret != nil {
		if len(o.Secret) < minSecretBytes {
			return nil, fmt.Errorf("the secret has %d bytes; it must have %d at least, such as those of: openssl rand -hex 32", len(o.Secret), minSecretBytes)
		}
		k := verificationKey{key: o.Secret, algs: []string{"HS256"}}
		if len(o.Secret) >= 48 {
			k.algs = append(k.algs, "HS384")
		}
		if len(o.Secret) >= 64 {
			k.algs = append(k.algs, "HS512")
		}
		j.keys = append(j.keys, k)
	}
	for _, key := range o.Keys {
		algs, err := algorithms(key)
		if err != nil {
			return nil, err
		}
		j.keys = append(j.keys, verificationKey{key: key, algs: algs})
	}
	if len(j.keys) == 0 && o.JWKS == nil {
		return nil, errors.New("there is no key to verify tokens with")
	}
	options := []jwt.ParserOption{jwt.WithLeeway(o.Leeway), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding()}
	if o.Issuer != "" {
		options = append(options, jwt.WithIssuer(o.Issuer))
	}
	if o.Audience != "" {
		options = append(options, jwt.WithAudience(o.Audience))
	}
	j.parser = jwt.NewParser(options...)
	return j, nil
}

// minRSABits is RFC 7518's, section 3.3.
const minRSABits = 2048

// algorithms are those that a public key is for.
func algorithms(key any) ([]string, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("the RSA key has %d bits; it must have %d at least", k.N.BitLen(), minRSABits)
		}
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, nil
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}, nil
		case 384:
			return []string{"ES384"}, nil
		case 521:
			return []string{"ES512"}, nil
		}
		return nil, fmt.Errorf("the curve %.20s is not P-256, P-384 or P-521", k.Curve.Params().Name)
	case ed25519.PublicKey:
		return []string{"EdDSA"}, nil
	}
	return nil, fmt.Errorf("a %T is not a public key of RSA, ECDSA or Ed25519", key)
}

// verify returns whose token it is.
func (j *JWT) verify(token string) (Identity, error) {
	if len(token) > maxToken {
		return Identity{}, errToken
	}
	sum := sha256.Sum256([]byte(token))
	now := time.Now()
	if id, ok := j.known.get(sum, now); ok {
		if over(id.Expires, now) {
			return Identity{}, errExpired
		}
		return id, nil
	}
	claims := jwt.MapClaims{}
	if _, err := j.parser.ParseWithClaims(token, claims, j.candidates); err != nil {
		switch {
		case errors.Is(err, errKeysAway):
			return Identity{}, errNotLoaded
		case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenSignatureInvalid):
			return Identity{}, errExpired
		case errors.Is(err, jwt.ErrTokenInvalidClaims):
			return Identity{}, errClaims
		}
		return Identity{}, errToken
	}
	id, err := j.identity(claims)
	if err != nil {
		return Identity{}, errClaims // what was wrong could hold what the caller sent
	}
	until := now.Add(j.opts.Remember)
	if id.Expires.Before(until) {
		until = id.Expires
	}
	j.known.put(sum, id, until)
	return id, nil
}

// maxCandidates bounds how many keys are tried for a token that names none.
const maxCandidates = 8

// candidates are the keys that a token may be signed with.
func (j *JWT) candidates(t *jwt.Token) (any, error) {
	// What must be understood, and isn't, makes the token of no use (RFC 7515,
	// section 4.1.11); nothing is understood here beyond the standard.
	if _, critical := t.Header["crit"]; critical {
		return nil, jwt.ErrTokenUnverifiable
	}
	// A token of another kind, signed by the same key, is not for access (RFC 8725,
	// section 3.11).
	if typ, given := t.Header["typ"]; given {
		s, ok := typ.(string)
		s = strings.TrimPrefix(strings.ToLower(s), "application/")
		if !ok || s != "jwt" && s != "at+jwt" {
			return nil, jwt.ErrTokenUnverifiable
		}
	}
	kid, named := t.Header["kid"]
	id, ok := kid.(string)
	if named && (!ok || len(id) > maxNameBytes) {
		return nil, jwt.ErrTokenUnverifiable
	}
	alg := t.Method.Alg()
	var set jwt.VerificationKeySet
	add := func(keys []verificationKey) {
		for _, k := range keys {
			// A kid is only compared, never a path or a query of anything.
			if slices.Contains(k.algs, alg) && (k.id == "" || id == "" || k.id == id) {
				set.Keys = append(set.Keys, k.key)
			}
		}
	}
	add(j.keys)
	if j.opts.JWKS != nil && !strings.HasPrefix(alg, "HS") {
		keys, err := j.opts.JWKS.find(id)
		if err != nil && len(set.Keys) == 0 {
			return nil, err
		}
		add(keys)
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxCandidates {
		return nil, jwt.ErrTokenUnverifiable
	}
	return set, nil
}

// identity reads the claims of a token whose signature is good.
func (j *JWT) identity(claims jwt.MapClaims) (Identity, error) {
	sub, err := claims.GetSubject()
	if err == nil && sub == "" {
		err = errors.New("no subject")
	}
	expires, expiresErr := claims.GetExpirationTime()
	if err = errors.Join(err, expiresErr, checkName("subject", sub)); err != nil {
		return Identity{}, err
	}
	id := Identity{Name: sub, Expires: expires.Add(j.opts.Leeway), Scopes: j.opts.DefaultScopes}
	if name := j.opts.TenantClaim; name != "" {
		if v, given := claims[name]; given {
			tenant, ok := v.(string)
			if err := checkName("tenant", tenant); err != nil || !ok {
				return Identity{}, errors.Join(err, fmt.Errorf("the tenant is a %T", v))
			}
			id.Tenant = tenant
		}
	}
	id.Credential = jwtCredential(id.Tenant, sub)
	for name, want := range j.opts.Required {
		v, given := claims[name]
		if !given || want != "" && !claimIs(v, want) {
			return Identity{}, errors.New("a required claim is missing or another")
		}
	}
	given := false
	for _, name := range []string{"scope", "scp", "scopes"} {
		v, ok := claims[name]
		if !ok {
			continue
		}
		if !given {
			given, id.Scopes = true, 0
		}
		names, err := scopesOf(v)
		if err != nil {
			return Identity{}, err
		}
		for _, n := range names {
			id.Scopes |= scopeNamed(strings.TrimPrefix(n, "athena:")) // others are another service's
		}
	}
	return id, nil
}

// escaped keeps a slash in a name from ending it.
var escaped = strings.NewReplacer("%", "%25", "/", "%2F")

// jwtCredential is the credential of whoever has tokens of this subject: the same
// for all of them, and another one in each tenant, since tenants may name their
// people alike and limits are counted by it.
func jwtCredential(tenant, subject string) string {
	if tenant == "" {
		return jwtKind + escaped.Replace(subject)
	}
	return jwtKind + escaped.Replace(tenant) + "/" + escaped.Replace(subject)
}

// claimIs reports whether a claim is want, or a list that has it.
func claimIs(v any, want string) bool {
	switch v := v.(type) {
	case string:
		return v == want
	case bool, float64:
		return fmt.Sprint(v) == want
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { s, ok := e.(string); return ok && s == want })
	}
	return false
}

// scopesOf reads a claim with scopes: text with spaces between, as RFC 8693 has
// it, or a list.
func scopesOf(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return strings.Fields(v), nil
	case []any:
		names := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("a scope is no text")
			}
			names = append(names, s)
		}
		return names, nil
	}
	return nil, errors.New("the scopes are neither text nor a list")
}

// remembered are tokens that were verified, by their hash: a signature costs 30
// to 100 µs, a look-up one.
type remembered struct {
	max int

	mu     sync.Mutex
	byHash map[[sha256.Size]byte]*list.Element // guarded by mu
	order  *list.List                          // guarded by mu: of rememberedToken, newest first
}

type rememberedToken struct {
	sum   [sha256.Size]byte
	id    Identity
	until time.Time
}

func (r *remembered) get(sum [sha256.Size]byte, now time.Time) (Identity, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byHash[sum]
	if !ok {
		return Identity{}, false
	}
	t := e.Value.(rememberedToken)
	if over(t.until, now) {
		r.order.Remove(e)
		delete(r.byHash, sum)
		return Identity{}, false
	}
	r.order.MoveToFront(e)
	return t.id, true
}

func (r *remembered) put(sum [sha256.Size]byte, id Identity, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.byHash[sum]; ok {
		return
	}
	if r.order.Len() >= r.max {
		oldest := r.order.Remove(r.order.Back()).(rememberedToken)
		delete(r.byHash, oldest.sum)
	}
	r.byHash[sum] = r.order.PushFront(rememberedToken{sum, id, until})
}
