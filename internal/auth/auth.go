// Package auth says who a request comes from. Callers have API keys from a
// static list, or tickets: since pages can't set headers on an EventSource or a
// WebSocket, a caller with a key asks for a ticket, which stands in the URL
// once and then never works again.
//
// The package promises that neither keys nor tickets appear in its errors, and
// that a handler behind the Middleware doesn't see a ticket in the URL. What an
// identity may do is not decided here.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/problem"
	"github.com/athena-hub/athena/protocol"
)

// A Key is one API key.
type Key struct {
	// Name is its owner's, for logs.
	Name   string
	Secret string
}

// Options tune an Authenticator. Zero values mean the defaults.
type Options struct {
	// AllowAnonymous lets everybody in if there are no keys.
	AllowAnonymous bool
	// TicketTTL is how long a ticket may wait for its use. Default 30 s.
	TicketTTL time.Duration
	// MaxTickets bounds the tickets that wait. Default 10,000. The oldest are
	// forgotten first.
	MaxTickets int
	// Node is this node's name among several, and Elsewhere uses up a ticket that
	// another one has issued, by asking it. A client negotiates with one node and
	// connects to any. Nil where there is but one.
	Node      string
	Elsewhere func(ctx context.Context, node, ticket string) (Identity, bool)
}

// An Authenticator knows the keys and the tickets. Its methods may be called
// concurrently.
type Authenticator struct {
	keys      []hashedKey
	anonymous bool
	tickets   tickets
	node      string
	elsewhere func(ctx context.Context, node, ticket string) (Identity, bool)
}

// A hashedKey is kept in the place of the key. Hashes have one length, so that
// comparing them in constant time doesn't tell the key's.
type hashedKey struct {
	name string
	sum  [sha256.Size]byte
}

// maxCredential bounds what is hashed for one request.
const maxCredential = 1024

// New returns an Authenticator for these keys. Without keys and without
// AllowAnonymous nobody gets in, which is an error here rather than later.
func New(keys []Key, o Options) (*Authenticator, error) {
	if len(keys) == 0 && !o.AllowAnonymous {
		return nil, errors.New("there are no API keys, and nobody may come without one")
	}
	a := &Authenticator{anonymous: len(keys) == 0, tickets: newTickets(o.TicketTTL, o.MaxTickets), node: o.Node, elsewhere: o.Elsewhere}
	for _, k := range keys {
		if k.Secret == "" || len(k.Secret) > maxCredential {
			return nil, errors.New("the API key of " + k.Name + " is empty or too long")
		}
		a.keys = append(a.keys, hashedKey{k.Name, sha256.Sum256([]byte(k.Secret))})
	}
	return a, nil
}

// Required reports whether requests need credentials.
func (a *Authenticator) Required() bool { return !a.anonymous }

var (
	errMissing = protocol.Errorf(protocol.CodeUnauthorized, `an API key is needed, as "Authorization: Bearer KEY" or "X-API-Key: KEY"`)
	errKey     = protocol.Errorf(protocol.CodeUnauthorized, "the API key is not known")
	errTicket  = protocol.Errorf(protocol.CodeUnauthorized, "the ticket has been used or has expired; ask for another with POST /v1/negotiate")
	errNoPlace = protocol.Errorf(protocol.CodeUnauthorized, "a ticket is only for WebSocket and event streams; send the API key in a header")
	errScheme  = protocol.Errorf(protocol.CodeUnauthorized, `the Authorization header must be "Bearer KEY"`)
)

// Token returns whose key token is.
func (a *Authenticator) Token(token string) (Identity, error) {
	if a.anonymous {
		return Anonymous, nil
	}
	if len(token) > maxCredential {
		return Identity{}, errKey
	}
	sum := sha256.Sum256([]byte(token))
	found := -1
	for i := range a.keys { // all of them, so that the time doesn't tell which
		if subtle.ConstantTimeCompare(sum[:], a.keys[i].sum[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return Identity{}, errKey
	}
	return Identity{Name: a.keys[found].name, Scopes: AllScopes, Credential: "static:" + a.keys[found].name}, nil
}

// Ticket returns a ticket for id, which is good once; "" where no credentials
// are in use.
func (a *Authenticator) Ticket(id Identity) string {
	if a.anonymous {
		return ""
	}
	t := a.tickets.issue(id)
	if a.elsewhere != nil {
		t = a.node + ticketSeparator + t
	}
	return t
}

// ticketSeparator stands behind the name of the node that has issued a ticket;
// neither names nor tickets have it.
const ticketSeparator = "."

// Redeem uses up a ticket that this node has issued, without the node's name:
// for other nodes, to which it was brought.
func (a *Authenticator) Redeem(ticket string) (Identity, bool) { return a.tickets.redeem(ticket) }

// redeem uses up a ticket, whoever has issued it.
func (a *Authenticator) redeem(ctx context.Context, ticket string) (Identity, bool) {
	node, text, ok := strings.Cut(ticket, ticketSeparator)
	switch {
	case a.elsewhere == nil:
		return a.tickets.redeem(ticket)
	case !ok || len(ticket) > maxCredential:
		return Identity{}, false
	case node == a.node:
		return a.tickets.redeem(text)
	}
	return a.elsewhere(ctx, node, text)
}

// authenticate finds the caller in the headers, or in the query where a ticket
// may stand there.
func (a *Authenticator) authenticate(r *http.Request, mayTicket bool) (Identity, error) {
	if a.anonymous {
		return Anonymous, nil
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
		if id, ok := a.redeem(r.Context(), t); ok {
			return id, nil
		}
		return Identity{}, errTicket
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
			problem.Write(w, err)
			return
		}
		next.ServeHTTP(w, withoutTicket(r.WithContext(NewContext(r.Context(), id))))
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

type contextKey struct{}

// NewContext returns a context that carries id.
func NewContext(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext returns the identity that Middleware put there.
func FromContext(ctx context.Context) (id Identity, ok bool) {
	id, ok = ctx.Value(contextKey{}).(Identity)
	return id, ok
}
