package auth

import (
	"fmt"
	"strings"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// Scopes are what an identity may do: a set of them, each a bit.
type Scopes uint8

// The scopes.
const (
	// ScopeAnalyze starts analyses, and sees the stream of each that it starts
	// in the answer to the request that does.
	ScopeAnalyze Scopes = 1 << iota
	// ScopeRead sees streams of the identity's tenant.
	ScopeRead
	// ScopeCancel cancels them.
	ScopeCancel
	// ScopeProviders sees which providers there are, and how they are.
	ScopeProviders
	// ScopeAdmin is the operator's: keys, nodes, metrics, provider keys, and the
	// streams of all tenants.
	ScopeAdmin
	// ScopeMetrics reads the metrics and no more, for what collects them. Who
	// has ScopeAdmin needs no ScopeMetrics.
	ScopeMetrics

	// AllScopes are all of them.
	AllScopes = ScopeAnalyze | ScopeRead | ScopeCancel | ScopeProviders | ScopeAdmin | ScopeMetrics
	// DefaultScopes are those of a new key that names none: all but the
	// operator's.
	DefaultScopes = AllScopes &^ (ScopeAdmin | ScopeMetrics)
)

// scopeNames are as they stand in keys and tokens, in the order of the bits.
var scopeNames = [...]string{"analyze", "read", "cancel", "providers", "admin", "metrics"}

// Names lists the scopes by name.
func (s Scopes) Names() []string {
	names := make([]string, 0, len(scopeNames))
	for i, name := range scopeNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String lists the scopes by name, with spaces between, as RFC 8693 does in a
// token's scope.
func (s Scopes) String() string { return strings.Join(s.Names(), " ") }

// ParseScopes is the set of these names. Its error says which one is none.
func ParseScopes(names []string) (Scopes, error) {
	var s Scopes
	for _, name := range names {
		one := scopeNamed(name)
		if one == 0 {
			return 0, fmt.Errorf("%.40q is no scope; they are %s", name, strings.Join(scopeNames[:], ", "))
		}
		s |= one
	}
	return s, nil
}

// scopeNamed is the scope of this name, 0 where there is none.
func scopeNamed(name string) Scopes {
	for i, n := range scopeNames {
		if n == name {
			return 1 << i
		}
	}
	return 0
}

// An Identity is who a request comes from, and what it may do. Two are equal
// if they are the same caller with the same rights.
type Identity struct {
	// Name is the key's or the token's subject, for logs and people;
	// "anonymous" where no credentials are in use.
	Name string
	// Tenant is whose streams it sees. "" is the tenant of keys that name none.
	Tenant string
	Scopes Scopes
	// Credential is the id of what the caller came with, for limits and
	// revocation: never the secret. "" for an anonymous caller. What stands
	// before the colon is its kind: static, key or jwt.
	Credential string
	// Generation says which of the secrets that a stored key has had, one after
	// the other, the caller came with; 0 for other credentials.
	Generation uint32
	// Expires is when the credential ends; zero for never.
	Expires time.Time
	// Stream is the only stream that it may read; "" for no such bound.
	Stream    string
	Anonymous bool
}

// Anonymous is everybody, where no credentials are in use.
var Anonymous = Identity{Name: "anonymous", Scopes: AllScopes, Anonymous: true}

// May reports whether the identity has all of these scopes.
func (id Identity) May(s Scopes) bool { return id.missing(s) == 0 }

// missing are those of the scopes that the identity doesn't have.
func (id Identity) missing(s Scopes) Scopes {
	has := id.Scopes
	if has&ScopeAdmin != 0 {
		has |= ScopeMetrics
	}
	return s &^ has
}

// Allow returns nil if the identity has all of these scopes, and otherwise a
// forbidden that names those that are missing.
func (id Identity) Allow(s Scopes) error {
	missing := id.missing(s)
	if missing == 0 {
		return nil
	}
	return protocol.Errorf(protocol.CodeForbidden, "this needs the scope %s, which your key or token doesn't have", missing)
}

// Sees reports whether the identity may know of a stream at all: it is its
// tenant's, or the one that a share token is for. An operator sees all. What it
// may do with the stream its scopes say.
func (id Identity) Sees(stream string) bool {
	switch {
	case id.Stream != "":
		return stream == id.Stream
	case id.May(ScopeAdmin):
		return protocol.ValidStreamID(stream)
	}
	return protocol.StreamOf(stream, id.Tenant)
}

// ownerPrefix keeps tenants apart from callers without one: no name has a colon
// in it.
const ownerPrefix = "tenant:"

// Owner is whom what the identity starts belongs to: for idempotency keys, for
// sharing equal requests, and for what is counted. That is the tenant, so that
// nothing of one reaches another, and where there is none the caller; "" where
// no credentials are in use.
func (id Identity) Owner() string {
	switch {
	case id.Anonymous:
		return ""
	case id.Tenant != "":
		return ownerPrefix + id.Tenant
	}
	return id.Name
}

// loneTenant begins what a caller without a tenant counts for, as if it were one of
// its own.
const loneTenant = "~"

// CountsFor is the tenant that the caller counts for: its own or, where its
// credential names none, itself.
func (id Identity) CountsFor() string {
	if id.Tenant != "" {
		return id.Tenant
	}
	return loneTenant + id.Name
}

// SplitOwner tells the tenant of what Owner returned, or else the caller.
func SplitOwner(owner string) (tenant, caller string) {
	if tenant, ok := strings.CutPrefix(owner, ownerPrefix); ok {
		return tenant, ""
	}
	return "", owner
}

// sameCaller reports whether a fresh credential is the same caller's as the one
// before: of the same name and tenant, and of the same kind, since a key may be
// named as a token's subject is.
func (id Identity) sameCaller(before Identity) bool {
	kind := func(id Identity) string {
		k, _, _ := strings.Cut(id.Credential, ":")
		return k
	}
	return id.Name == before.Name && id.Tenant == before.Tenant && id.Stream == before.Stream && kind(id) == kind(before)
}

// ByToken reports whether the caller came with a token of an identity provider.
func (id Identity) ByToken() bool { return strings.HasPrefix(id.Credential, jwtKind) }

// maxNameBytes bounds the names of keys, tenants and subjects.
const maxNameBytes = 128

// checkName says what is wrong with the name of a key, a tenant or a subject.
// It goes into logs and, of a tenant, into what things are counted by.
func checkName(what, name string) error {
	if len(name) > maxNameBytes {
		return fmt.Errorf("the %s has %d bytes, more than the limit of %d", what, len(name), maxNameBytes)
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f || c == '�' {
			return fmt.Errorf("the %s %.80q has a character in it that can't be shown", what, name)
		}
	}
	if what == "tenant" && strings.HasPrefix(name, loneTenant) {
		return fmt.Errorf("the tenant must not begin with %q, which stands for callers without one", loneTenant)
	}
	if strings.HasPrefix(name, ownerPrefix) {
		return fmt.Errorf("the %s must not begin with %q", what, ownerPrefix)
	}
	return nil
}
