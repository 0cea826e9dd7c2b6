package accounting

import (
	"cmp"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// Other is the tenant and the model that stand for all those that there is no
// room for. A real one of this name is counted with them.
const Other = "other"

// A Key says whom a call is counted for.
type Key struct{ Provider, Model, Tenant string }

// Limits bound what calls may take. The zero value of each is no limit.
type Limits struct {
	RequestsPerMinute, TokensPerMinute int64
}

// Options configure a Ledger. Zero values stand for the defaults.
type Options struct {
	// Providers are the limits of those that have any, by name.
	Providers map[string]Limits
	// Tenant are the limits that each tenant has for itself.
	Tenant Limits
	// Credential are the limits that each credential has for itself.
	Credential Limits
	// Shared holds the tenants and credentials of all nodes to limits together,
	// beside this ledger's own; nil where there is nothing of the kind.
	Shared Shared
	// Free are the providers whose calls count against no tenant's limits,
	// since they cost nothing.
	Free map[string]bool
	// Cost returns what a usage costs, in US dollars; ok is false where no
	// price is known. It is called concurrently, without locks of the Ledger.
	// Where it is nil no price is known.
	Cost func(provider, model string, u *protocol.Usage) (usd float64, ok bool)
	// MaxTenants bounds how many tenants, and how many credentials, are told apart; 10,000 by default.
	// Those that come later share limits and totals, under the name Other;
	// credentials do until others have had none of their minute for long enough.
	MaxTenants int
	// MaxModels bounds the models, of all providers together, that are told
	// apart; 1,000 by default. Those that come later are counted as Other.
	MaxModels int
	// MaxTotals bounds how many combinations of provider, model and tenant are
	// counted each by itself; 100,000 by default, about 20 MB. Later ones are
	// counted under their provider with model and tenant Other.
	MaxTotals int
}

// Shared are limits that hold for several ledgers together. Its methods may be
// called concurrently, and may take as long as a call of a provider may wait for
// them, some hundred milliseconds.
type Shared interface {
	// Reserve takes one request and so many tokens from tenant and credential, or
	// nothing: because they don't have it, and then it returns how long it takes
	// until they do, or because that can't be known, and the call is made without.
	Reserve(tenant, credential string, tokens int64) (taken bool, wait time.Duration)
	// Settle takes so many tokens more, or gives back what is less than 0, and so
	// many requests.
	Settle(tenant, credential string, requests, tokens int64)
}

// maxProviders and maxNameBytes bound names that come from configuration or
// have been checked before; they matter only if that changes.
const (
	maxProviders = 1000
	maxNameBytes = 1024
)

// A Ledger keeps the books. Its methods may be called concurrently.
type Ledger struct {
	// Set by New, then read-only.
	opts Options

	// One lock for all of it: a reservation takes from provider and tenant at
	// once, and a call to a provider costs milliseconds where this costs less
	// than one microsecond (BenchmarkReserveAndSettle).
	mu          sync.Mutex
	providers   map[string]*account // guarded by mu: those with limits
	tenants     map[string]*account // guarded by mu
	credentials map[string]*account // guarded by mu; nil without limits on them
	swept       time.Time           // guarded by mu: when credentials last were
	names       map[string]struct{} // guarded by mu: the providers in totals
	models      map[string]struct{} // guarded by mu
	totals      map[Key]*Total      // guarded by mu
}

// An account is what a provider or a tenant may spend. Its buckets are guarded
// by the ledger's mu.
type account struct{ requests, tokens bucket }

func newAccount(l Limits, now time.Time) *account {
	return &account{newBucket(l.RequestsPerMinute, now), newBucket(l.TokensPerMinute, now)}
}

// New returns a Ledger whose buckets are full.
func New(o Options) *Ledger {
	o.MaxTenants = cmp.Or(o.MaxTenants, 10_000)
	o.MaxModels = cmp.Or(o.MaxModels, 1000)
	o.MaxTotals = cmp.Or(o.MaxTotals, 100_000)
	l := &Ledger{
		opts:      o,
		providers: make(map[string]*account, len(o.Providers)),
		tenants:   make(map[string]*account),
		names:     make(map[string]struct{}),
		models:    make(map[string]struct{}),
		totals:    make(map[Key]*Total),
	}
	if o.Credential != (Limits{}) {
		l.credentials = make(map[string]*account)
	}
	now := time.Now()
	for name, limits := range o.Providers {
		l.providers[name] = newAccount(limits, now)
	}
	return l
}

// Reserve takes one request and so many tokens from the provider and the
// tenant of k, or, if either can't give them, nothing from any. Then it
// returns nil and how long it takes until it can, if nobody else takes or owes
// anything in the meantime.
//
// Each limit is a bucket that holds a minute's worth and refills
// continuously: from a full one a minute's worth may be taken at once. More
// tokens than that may be reserved when the bucket is full, and leave it in
// debt.
//
// A reservation must be ended by Settle or Release.
func (l *Ledger) Reserve(k Key, tokens int64) (*Reservation, time.Duration) {
	return l.ReserveFor(k, "", tokens)
}

// ReserveFor is Reserve that takes from the credential, too, by which the tenant
// came; "" for none.
func (l *Ledger) ReserveFor(k Key, credential string, tokens int64) (*Reservation, time.Duration) {
	tokens = min(max(tokens, 0), maxTokens)
	r, wait := l.reserve(k, credential, tokens)
	if r == nil || l.opts.Shared == nil || l.opts.Free[k.Provider] {
		return r, wait
	}
	// Last, and without the lock: it may be on another machine.
	taken, wait := l.opts.Shared.Reserve(k.Tenant, credential, tokens)
	if wait > 0 {
		r.Release()
		return nil, wait
	}
	if taken { // else nothing is to be given back
		r.shared = &sharedPart{k.Tenant, credential, tokens}
	}
	return r, 0
}

// reserve takes from the ledger's own accounts.
func (l *Ledger) reserve(k Key, credential string, tokens int64) (*Reservation, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	r := l.reservation(k, credential, now)
	var wait time.Duration
	for _, a := range r.accounts {
		if a == nil {
			continue
		}
		a.requests.refill(now)
		a.tokens.refill(now)
		wait = max(wait, a.requests.wait(1), a.tokens.wait(tokens))
	}
	if wait > 0 {
		return nil, wait
	}
	for i, a := range r.accounts {
		if a != nil {
			a.requests.take(1)
			r.taken[i] = a.tokens.take(tokens)
		}
	}
	return r, 0
}

// reservation returns one that has taken nothing yet. It is called with mu held.
func (l *Ledger) reservation(k Key, credential string, now time.Time) *Reservation {
	tenant, a := l.tenant(k.Tenant, now)
	k.Tenant = tenant
	if l.opts.Free[k.Provider] {
		a, credential = nil, ""
	}
	return &Reservation{ledger: l, key: k, accounts: [3]*account{l.providers[k.Provider], a, l.credential(credential, now)}}
}

// credential returns the account of one; nil where it has no limits. It is called
// with mu held.
func (l *Ledger) credential(id string, now time.Time) *account {
	if id == "" || l.credentials == nil {
		return nil
	}
	if a, ok := l.credentials[id]; ok {
		return a
	}
	if len(l.credentials) >= l.opts.MaxTenants {
		l.sweep(now)
	}
	id = bounded(id, len(l.credentials), l.opts.MaxTenants)
	a, ok := l.credentials[id]
	if !ok {
		a = newAccount(l.opts.Credential, now)
		l.credentials[id] = a
	}
	return a
}

// sweepEvery bounds how often the accounts are looked through.
const sweepEvery = time.Second

// sweep forgets the credentials whose accounts are as new. There may be as many as
// people that an identity provider knows, and those that come late must not share
// one account for ever. It is called with mu held.
func (l *Ledger) sweep(now time.Time) {
	if now.Sub(l.swept) < sweepEvery {
		return
	}
	l.swept = now
	for id, a := range l.credentials {
		a.requests.refill(now)
		a.tokens.refill(now)
		if a.requests.full() && a.tokens.full() {
			delete(l.credentials, id)
		}
	}
}

// tenant returns the name that a tenant is counted under, and its account. It
// is called with mu held.
func (l *Ledger) tenant(name string, now time.Time) (string, *account) {
	if a, ok := l.tenants[name]; ok {
		return name, a
	}
	// Other has its place beside the bound.
	name = bounded(name, len(l.tenants), l.opts.MaxTenants)
	a, ok := l.tenants[name]
	if !ok {
		a = newAccount(l.opts.Tenant, now)
		l.tenants[name] = a
	}
	return name, a
}

// Left is what a provider's minute still allows.
type Left struct {
	// Requests and Tokens are what may be taken now; -1 where there is no
	// limit, 0 also in debt.
	Requests, Tokens int64
	Limits           Limits
}

// Left returns what the minute still allows the provider.
func (l *Ledger) Left(provider string) Left {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.providers[provider]
	if !ok {
		return Left{Requests: -1, Tokens: -1}
	}
	now := time.Now()
	a.requests.refill(now)
	a.tokens.refill(now)
	return Left{
		Requests: a.requests.left(), Tokens: a.tokens.left(),
		Limits: Limits{RequestsPerMinute: a.requests.limit, TokensPerMinute: a.tokens.limit},
	}
}
