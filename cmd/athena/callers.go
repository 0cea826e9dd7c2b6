package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/gateway"
)

var (
	_ auth.KeyStore  = backbone.Credentials{}
	_ gateway.Keys   = (*auth.Keyring)(nil)
	_ hub.Credential = (*auth.Hold)(nil)

	_ hub.SubscriptionWatcher = (*gateway.Commands)(nil)
)

// openCallers makes what knows who is calling.
func (n *node) openCallers(ctx context.Context) (*auth.Authenticator, error) {
	cfg := n.cfg
	configured, err := cfg.Keys()
	if err != nil {
		return nil, err
	}
	keys := make([]auth.Key, 0, len(configured))
	for _, k := range configured {
		keys = append(keys, auth.Key{Name: k.Name, Secret: k.Secret.Reveal()})
	}
	log := n.log.With().Str("part", "access").Logger()
	if n.keyring, err = auth.OpenKeyring(ctx, auth.KeyringOptions{Store: n.bus.Credentials(n.others), Logger: log}); err != nil {
		return nil, err
	}
	tokens, err := n.openTokens(ctx, log)
	if err != nil {
		return nil, err
	}
	refused := &refusals{log: log}
	o := auth.Options{AllowAnonymous: len(keys) == 0 && !cfg.RequireAuth, Stored: n.keyring, JWT: tokens, Grace: cfg.AuthGrace,
		OnFailure: func(ctx context.Context, f auth.Failure) {
			n.limits.gateway.Refused(ctx, f)
			n.metrics.Refused(string(f))
			refused.note(f)
		}}
	if cfg.Clustered() {
		o.Node, o.Elsewhere = cfg.Node, n.redeemElsewhere
	}
	if cfg.RequireAuth && len(keys) == 0 && tokens == nil && !n.keyring.HasAdmin() {
		log.Warn().Msg("nobody may come without a credential, and no key that is known has the scope admin; give --api-key once, and make keys with it: athena keys create")
	}
	n.callers, err = auth.New(keys, o)
	return n.callers, err
}

// openTokens makes what verifies tokens; nil where none are taken.
func (n *node) openTokens(ctx context.Context, log zerolog.Logger) (*auth.JWT, error) {
	cfg := n.cfg
	if !cfg.TakesJWT() {
		return nil, nil
	}
	o := auth.JWTOptions{Issuer: cfg.JWTIssuer, Audience: cfg.JWTAudience, Leeway: orNever(cfg.JWTLeeway), TenantClaim: cfg.JWTTenantClaim, Required: cfg.RequiredClaims()}
	secret, err := cfg.TokenSecret()
	if err != nil {
		return nil, err
	}
	if secret != "" {
		o.Secret = []byte(secret.Reveal())
	}
	file, err := cfg.TokenKeys()
	if err == nil && file != nil {
		o.Keys, err = auth.ParsePublicKeys(file)
	}
	if err != nil {
		return nil, fmt.Errorf("public keys of tokens, %s: %w", cfg.JWTPublicKey, err)
	}
	if o.DefaultScopes, err = auth.ParseScopes(cfg.JWTDefaultScopes); err != nil {
		return nil, err
	}
	if cfg.JWTJWKSURL != "" {
		n.published, err = auth.OpenJWKS(ctx, auth.JWKSOptions{URL: cfg.JWTJWKSURL, Refresh: cfg.JWTJWKSRefresh, Logger: log})
		if err != nil {
			return nil, fmt.Errorf("--jwt-jwks-url: %w", err)
		}
		o.JWKS = n.published
	}
	return auth.NewJWT(o)
}

// credential is what the hub ends connections by.
func credential(ctx context.Context) hub.Credential {
	if h := auth.HoldOf(ctx); h != nil {
		return h
	}
	return nil
}

// refusalsEvery is how often the log says that callers were refused: one line
// for each would let anybody fill a disk.
const refusalsEvery = 10 * time.Second

// refusals tells the log of callers that were refused, but not of each.
type refusals struct {
	log zerolog.Logger

	mu    sync.Mutex
	until time.Time            // guarded by mu: nothing is logged before
	since map[auth.Failure]int // guarded by mu: those that the log has not heard of
}

func (r *refusals) note(f auth.Failure) {
	if f == auth.FailureMissing {
		return // a page that asks for the key, most likely; the access log has it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since == nil {
		r.since = make(map[auth.Failure]int)
	}
	r.since[f]++
	now := time.Now()
	if now.Before(r.until) {
		return
	}
	e := r.log.Warn()
	for f, n := range r.since {
		e.Int(string(f), n)
	}
	e.Msgf("credentials were refused, counted by why; at most one such line in %s", refusalsEvery)
	r.since, r.until = nil, now.Add(refusalsEvery)
}

// A ticketQuestion asks the node that has issued a ticket whose it is, and a
// ticketAnswer tells; nobody's where it is not good.
type (
	ticketQuestion struct {
		Ticket string     `json:"ticket"`
		From   auth.Place `json:"from"`
	}
	ticketAnswer struct {
		Identity *auth.Identity `json:"identity,omitempty"`
	}
)

// ticketTimeout bounds the question for a ticket. A node that died is asked as
// long as it is not known to be gone; its clients get another ticket.
const ticketTimeout = time.Second

// serveTickets uses up tickets of this node that clients bring to others.
func (n *node) serveTickets() (stop func(), err error) {
	return n.bus.Serve(topicTicket, n.cfg.Node, func(request []byte) []byte {
		var q ticketQuestion
		var a ticketAnswer
		if json.Unmarshal(request, &q) == nil {
			if id, ok := n.callers.Redeem(q.Ticket, q.From); ok {
				a.Identity = &id
			}
		}
		return encode(a)
	})
}

// redeemElsewhere asks another node whose a ticket is, which uses it up.
func (n *node) redeemElsewhere(ctx context.Context, node, ticket string, from auth.Place) (auth.Identity, bool) {
	ctx, cancel := context.WithTimeout(ctx, ticketTimeout)
	defer cancel()
	reply, err := n.bus.Ask(ctx, topicTicket, node, encode(ticketQuestion{ticket, from}))
	var a ticketAnswer
	if err != nil || json.Unmarshal(reply, &a) != nil || a.Identity == nil {
		return auth.Identity{}, false
	}
	return *a.Identity, true
}
