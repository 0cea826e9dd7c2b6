package auth

import (
	"strings"
	"time"
)

// Scopes are what an identity may do: a set of them, each a bit.
type Scopes uint8

// The scopes.
const (
	// ScopeAnalyze starts analyses.
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

	// AllScopes are all of them.
	AllScopes = ScopeAnalyze | ScopeRead | ScopeCancel | ScopeProviders | ScopeAdmin
)

// scopeNames are as they stand in keys and tokens, in the order of the bits.
var scopeNames = [...]string{"analyze", "read", "cancel", "providers", "admin"}

// String lists the scopes by name, with spaces between, as RFC 8693 does in a
// token's scope.
func (s Scopes) String() string {
	var names []string
	for i, name := range scopeNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
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
	// revocation: never the secret. "" for an anonymous caller.
	Credential string
	// Expires is when that ends; zero for never.
	Expires time.Time
	// Stream is the only stream that it may read; "" for no such bound.
	Stream    string
	Anonymous bool
}

// Anonymous is everybody, where no credentials are in use.
var Anonymous = Identity{Name: "anonymous", Scopes: AllScopes, Anonymous: true}

// May reports whether the identity has all of these scopes.
func (id Identity) May(s Scopes) bool { return id.Scopes&s == s }
