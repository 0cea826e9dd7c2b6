// Package auth says who a request comes from and what that caller may do.
// Callers have API keys, from the configuration (static) or from the store,
// tokens of an identity provider (JWT), or tickets: since pages can't set
// headers on an EventSource or a WebSocket, a caller with a key asks for a
// ticket, which stands in the URL once and then never works again.
//
// The package promises that no credential appears in its errors, and that a
// handler behind the Middleware doesn't see a ticket in the URL. It tells of
// each connection when its credential ends (Hold). Which scope a resource needs
// is its handler's affair.
package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/problem"
)

// A Key is one API key of the configuration.
type Key struct {
	// Name is its owner's, for logs.
	Name   string
	Secret string
}

// Options tune an Authenticator. Zero values mean the defaults.
type Options struct {
	// AllowAnonymous lets everybody in who brings no credential, if there are
	// neither keys nor JWT.
	AllowAnonymous bool
	// Stored are the keys that the store has; nil for none.
	Stored *Keyring
	// JWT verifies tokens; nil where none are taken.
	JWT *JWT
	// Grace is how long a connection may outlive a credential that expires.
	// Default 30 s. What is revoked ends at once.
	Grace time.Duration
	// TicketTTL is how long a ticket may wait for its use. Default 30 s.
	TicketTTL time.Duration
	// MaxTickets bounds the tickets that wait. Default 10,000. Beyond that the
	// oldest are forgotten of who has most.
	MaxTickets int
	// Node is this node's name among several, and Elsewhere uses up a ticket that
	// another one has issued, by asking it. A client negotiates with one node and
	// connects to any. Nil where there is but one.
	Node      string
	Elsewhere func(ctx context.Context, node, ticket string, from Place) (Identity, bool)
	// OnFailure is told of each credential that was refused, and of requests
	// without one (see the Failure constants); nil for nobody. It must be quick.
	OnFailure func(ctx context.Context, f Failure)
}

// An Authenticator knows the keys and the tickets. Its methods may be called
// concurrently.
type Authenticator struct {
	// Set by New, then read-only.
	keys      []hashedKey
	stored    *Keyring
	jwt       *JWT
	anonymous bool
	grace     time.Duration
	node      string
	elsewhere func(ctx context.Context, node, ticket string, from Place) (Identity, bool)
	onFailure func(ctx context.Context, f Failure)

	tickets tickets
	holds   holds
}

// A hashedKey is kept in the place of the key. Hashes have one length, so that
// comparing them in constant time doesn't tell the key's.
type hashedKey struct {
	name string
	sum  [sha256.Size]byte
}

// The kinds of credentials, as they stand before their ids.
const (
	staticKind = "static:"
	storedKind = "key:"
	jwtKind    = "jwt:"
)

// storedKeyID is the id of the stored key that an identity came with.
func storedKeyID(id Identity) (key string, ok bool) {
	if key, ok = strings.CutPrefix(id.Credential, storedKind); !ok {
		return "", false
	}
	return key, true
}

// The bounds on what is looked at for one request.
const (
	maxCredential = 1024
	maxToken      = 8 << 10 // of a JWT, which carries claims
)

// New returns an Authenticator for these keys. Where nobody could get in, that
// is an error here rather than later.
func New(keys []Key, o Options) (*Authenticator, error) {
	if len(keys) == 0 && o.Stored == nil && o.JWT == nil && !o.AllowAnonymous {
		return nil, errors.New("there are no API keys, and nobody may come without one")
	}
	a := &Authenticator{stored: o.Stored, jwt: o.JWT, anonymous: o.AllowAnonymous && len(keys) == 0 && o.JWT == nil,
		grace: cmp.Or(o.Grace, 30*time.Second), tickets: newTickets(o.TicketTTL, o.MaxTickets),
		node: o.Node, elsewhere: o.Elsewhere, onFailure: o.OnFailure}
	a.holds.by = make(map[string]map[*watch]struct{})
	for _, k := range keys {
		if k.Secret == "" || len(k.Secret) > maxCredential {
			return nil, errors.New("the API key of " + k.Name + " is empty or too long")
		}
		a.keys = append(a.keys, hashedKey{k.Name, sha256.Sum256([]byte(k.Secret))})
	}
	if a.stored != nil {
		a.stored.onChange(a.changed)
	}
	return a, nil
}

// Required reports whether requests need credentials.
func (a *Authenticator) Required() bool { return !a.anonymous }

// Token returns whose key or token this is.
func (a *Authenticator) Token(token string) (Identity, error) {
	unknown := errKey
	if a.stored != nil && strings.HasPrefix(token, keyPrefix) && len(token) == keyTextLen {
		id, err := a.stored.lookup(token)
		switch {
		case errors.Is(err, errNotLoaded):
			unknown = errNotLoaded
		case !errors.Is(err, errKey):
			return id, err
		}
		// A key of the configuration may look like that, too.
	}
	if len(token) <= maxCredential && len(a.keys) > 0 {
		sum := sha256.Sum256([]byte(token))
		found := -1
		for i := range a.keys { // all of them, so that the time doesn't tell which
			if subtle.ConstantTimeCompare(sum[:], a.keys[i].sum[:]) == 1 {
				found = i
			}
		}
		if found >= 0 {
			return Identity{Name: a.keys[found].name, Scopes: AllScopes, Credential: staticKind + a.keys[found].name}, nil
		}
	}
	if a.jwt != nil && strings.Count(token, ".") == 2 {
		return a.jwt.verify(token)
	}
	return Identity{}, unknown
}

// authenticate finds the caller in the headers, or in the query where a ticket
// may stand there.
func (a *Authenticator) authenticate(r *http.Request, mayTicket bool) (Identity, error) {
	// Of two headers of a name each part on the way may look at another one.
	if len(r.Header["Authorization"]) > 1 || len(r.Header["X-Api-Key"]) > 1 {
		return Identity{}, errTwice
	}
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, token, ok := strings.Cut(h, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return Identity{}, errScheme
		}
		return a.Token(strings.TrimSpace(token))
	}
	if key := r.Header.Get("X-API-Key"); key != "" {
		return a.Token(key)
	}
	if t := r.URL.Query().Get(ticketParam); t != "" {
		if !mayTicket {
			return Identity{}, errNoPlace
		}
		if id, ok := a.redeem(r.Context(), t, placeOf(r)); ok {
			return id, a.good(id)
		}
		return Identity{}, errTicket
	}
	if a.anonymous {
		return Anonymous, nil
	}
	return Identity{}, errMissing
}

// ticketParam is the query's parameter that holds a ticket.
const ticketParam = "ticket"

// Middleware puts the caller's Identity into the request's context, or answers
// 401. mayTicket says which requests may bring a ticket. Tickets, good or not,
// are taken out of the URL.
func (a *Authenticator) Middleware(mayTicket func(*http.Request) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := a.authenticate(r, mayTicket(r))
		if err != nil {
			a.failed(r.Context(), err)
			problem.Write(w, err)
			return
		}
		next.ServeHTTP(w, withoutTicket(r.WithContext(newContext(r.Context(), a, id))))
	})
}

// withoutTicket returns r, or a copy whose URL has no ticket.
func withoutTicket(r *http.Request) *http.Request {
	if !strings.Contains(r.URL.RawQuery, ticketParam) && !strings.Contains(r.URL.RawQuery, "%") {
		return r
	}
	q := r.URL.Query()
	if !q.Has(ticketParam) {
		return r
	}
	q.Del(ticketParam)
	u := new(url.URL)
	*u = *r.URL
	u.RawQuery = q.Encode()
	c := r.WithContext(r.Context())
	c.URL = u
	c.RequestURI = u.RequestURI()
	return c
}
