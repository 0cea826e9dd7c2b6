package gateway

import (
	"cmp"
	"context"
	"io"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/overload"
	"github.com/athena-hub/athena/internal/problem"
	"github.com/athena-hub/athena/internal/ratelimit"
	"github.com/athena-hub/athena/protocol"
)

// Caps are what somebody may have: what in a minute, how many at once. 0 is no
// limit.
type Caps struct {
	RequestsPerMinute, BytesPerMinute int64
	Connections, Streams              int64
}

// LimitOptions configure Limits.
type LimitOptions struct {
	// Key is for each credential, Tenant for each tenant. A credential that names
	// no tenant is one of its own.
	Key, Tenant Caps
	// Tenants are those whose limits aren't Tenant's, by what Identity.CountsFor returns.
	Tenants map[string]Caps
	// AddressConnections is how many connections one address may have.
	AddressConnections int64
	// Limiter counts minutes. Required.
	Limiter *ratelimit.Limiter
	// Places counts what is had at once. Required.
	Places *ratelimit.Places
	// Addresses keep those out who try credentials. Required.
	Addresses *ratelimit.Addresses
	// Load says what to refuse when the node has nearly all that it can do; nil for
	// nothing.
	Load *overload.Shedder
	// Metrics is told of what was refused; nil for nobody.
	Metrics LimitMetrics
	// Blocked is told when an address is shut out, and for how long; nil for
	// nobody.
	Blocked func(address netip.Addr, d time.Duration)
}

// LimitMetrics is told of what was refused: by which limit.
type LimitMetrics interface{ Limited(limit string) }

// Limits hold callers to what they may ask of the node. A nil *Limits has none.
//
// An address's limits come before anybody is known, and are this node's alone;
// those of credentials and tenants come after that.
type Limits struct {
	// Set by NewLimits, then read-only.
	opts    LimitOptions
	tenant  *tenantCaps            // of most tenants
	tenants map[string]*tenantCaps // of the others
}

// tenantCaps are what one tenant, or each of most, may have.
type tenantCaps struct {
	Caps
	policy string // the RateLimit-Policy header; "" without limits a minute
}

// NewLimits returns Limits.
func NewLimits(o LimitOptions) *Limits {
	l := &Limits{opts: o, tenants: make(map[string]*tenantCaps, len(o.Tenants))}
	l.tenant = &tenantCaps{o.Tenant, policy(&o.Key, &o.Tenant)}
	for name, caps := range o.Tenants {
		l.tenants[name] = &tenantCaps{caps, policy(&o.Key, &caps)}
	}
	return l
}

// of returns what a caller's tenant may have, and its name.
func (l *Limits) of(id auth.Identity) (*tenantCaps, string) {
	name := id.CountsFor()
	if t, ok := l.tenants[name]; ok {
		return t, name
	}
	return l.tenant, name
}

// policy is the RateLimit-Policy header (draft-ietf-httpapi-ratelimit-headers-10,
// section 3) of what a key and its tenant may have.
func policy(key, tenant *Caps) string {
	var policies []string
	for _, p := range []struct {
		kind  ratelimit.Kind
		limit int64
		unit  string
	}{
		{ratelimit.CredentialRequests, key.RequestsPerMinute, ""},
		{ratelimit.TenantRequests, tenant.RequestsPerMinute, ""},
		{ratelimit.CredentialBytes, key.BytesPerMinute, `;qu="content-bytes"`},
		{ratelimit.TenantBytes, tenant.BytesPerMinute, `;qu="content-bytes"`},
	} {
		if p.limit > 0 {
			policies = append(policies, `"`+p.kind.String()+`";q=`+strconv.FormatInt(p.limit, 10)+";w=60"+p.unit)
		}
	}
	return strings.Join(policies, ", ")
}

// arrive comes before authentication: it refuses what comes from an address that
// sends too much, or has sent too many bad credentials.
func (l *Limits) arrive(next http.Handler) http.Handler {
	if l == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r)
		if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
			next.ServeHTTP(w, r) // who asks for these decides whether others are sent here
			return
		}
		x.secret = credential(r)
		verdict, wait := l.opts.Addresses.Arrive(x.client.Address, x.secret)
		if verdict != ratelimit.Welcome {
			// It is many that are refused, and each is cheap: they are counted, and
			// not logged.
			x.quiet = true
			if verdict == ratelimit.Blocked {
				w.Header().Set("Connection", "close") // the next one may not even be read
				l.limited("address-failures")
				problem.Write(w, tooManyFailures(wait))
				return
			}
			l.limited("address")
			problem.Write(w, protocol.Errorf(protocol.CodeRateLimited, "your address has sent as many requests as it may in a minute").WithRetryAfter(wait))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refuse answers with err what is refused before it arrives, and counts it for
// its address as if it had.
func (l *Limits) refuse(w http.ResponseWriter, r *http.Request, err error) {
	l.arrive(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { problem.Write(w, err) })).ServeHTTP(w, r)
}

// Refused counts a credential that was refused against the address that it came
// from, by a request or over the connection that the request of ctx has opened: it
// is for the Authenticator's OnFailure. One that has expired was good, and is no
// guess: whose tokens are short-lived would otherwise block their whole office.
func (l *Limits) Refused(ctx context.Context, why auth.Failure) {
	switch why {
	case auth.FailureMissing, auth.FailureExpired, auth.FailureStore:
		return
	}
	x, ok := ctx.Value(exchangeKey{}).(*exchangeRecord)
	if l == nil || !ok {
		return
	}
	if d := l.opts.Addresses.Failed(x.client.Address); d > 0 && l.opts.Blocked != nil {
		l.opts.Blocked(x.client.Address, d)
	}
}

// mayTry reports why a token that came over a connection is not even looked at: its
// address is blocked. A fresh token of an identity provider's is, where the
// connection came by such a one: it can't have been good before, and can't be
// guessed.
func (l *Limits) mayTry(ctx context.Context, token string) error {
	x, ok := ctx.Value(exchangeKey{}).(*exchangeRecord)
	if l == nil || !ok || caller(ctx).ByToken() && strings.Count(token, ".") == 2 { // which keys don't have
		return nil
	}
	wait := l.opts.Addresses.Blocked(x.client.Address, token)
	if wait == 0 {
		return nil
	}
	l.limited("address-failures")
	return tooManyFailures(wait)
}

func tooManyFailures(wait time.Duration) *protocol.Error {
	return protocol.Errorf(protocol.CodeRateLimited, "too many credentials from your address were not known").WithRetryAfter(wait)
}

// issued lets a ticket pass a block of the address at which it was asked for: who
// asked was known there.
func (l *Limits) issued(ctx context.Context, ticket string) {
	if x, ok := ctx.Value(exchangeKey{}).(*exchangeRecord); ok && l != nil {
		l.opts.Addresses.Good(x.client.Address, ticket)
	}
}

// credential is what a request brings to say who it comes from; "" for nothing.
func credential(r *http.Request) string {
	if h := r.Header.Get("Authorization"); h != "" {
		// The key alone, since it may come in another header or a message, too.
		if scheme, token, ok := strings.Cut(h, " "); ok && strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
		return h
	}
	if k := r.Header.Get("X-Api-Key"); k != "" {
		return k
	}
	if strings.Contains(r.URL.RawQuery, "=") { // what it is called may be escaped
		return r.URL.Query().Get("ticket")
	}
	return ""
}

// enter comes after authentication: it takes what the request needs from its
// caller's minute, and answers if there isn't enough.
func (l *Limits) enter(w http.ResponseWriter, r *http.Request, id auth.Identity) bool {
	if l == nil {
		return true
	}
	x := exchangeOf(r)
	if !id.Anonymous {
		l.opts.Addresses.Good(x.client.Address, x.secret)
	}
	x.secret = "" // a connection may keep the record for as long as it lives
	err := l.shed(classOf(x.route))
	if err == nil {
		err = l.take(r.Context(), id, max(r.ContentLength, 0), w.Header())
	}
	if err != nil {
		x.quiet = true
		problem.Write(w, err)
		return false
	}
	if r.ContentLength < 0 && hasBody(r) {
		r.Body = &counted{ReadCloser: r.Body, done: func(n int64) { l.spend(r.Context(), id, n) }}
	}
	return true
}

// maxDemands is how many buckets one request takes from.
const maxDemands = 4

// demands appends what a request of so many bytes takes.
func (l *Limits) demands(ctx context.Context, d []ratelimit.Demand, id auth.Identity, requests, bytes int64) []ratelimit.Demand {
	tenant, name := l.of(id)
	for _, of := range [2]struct {
		caps            *Caps
		requests, bytes ratelimit.Kind
		name            string
	}{
		{&l.opts.Key, ratelimit.CredentialRequests, ratelimit.CredentialBytes, limitKey(ctx, id)},
		{&tenant.Caps, ratelimit.TenantRequests, ratelimit.TenantBytes, name},
	} {
		if n := of.caps.RequestsPerMinute; n > 0 && requests > 0 {
			d = append(d, ratelimit.Demand{Key: ratelimit.Key{Kind: of.requests, Name: of.name}, PerMinute: n, N: requests})
		}
		if n := of.caps.BytesPerMinute; n > 0 {
			d = append(d, ratelimit.Demand{Key: ratelimit.Key{Kind: of.bytes, Name: of.name}, PerMinute: n, N: bytes})
		}
	}
	return d
}

// LimitKey is the credential that the limits of the caller of ctx are for; of those
// who need none it is their address.
func LimitKey(ctx context.Context) string { return limitKey(ctx, caller(ctx)) }

func limitKey(ctx context.Context, id auth.Identity) string {
	if id.Credential != "" {
		return id.Credential
	}
	if x, ok := ctx.Value(exchangeKey{}).(*exchangeRecord); ok {
		return "@" + ratelimit.Network(x.client.Address).String()
	}
	return "@"
}

// take takes one request of so many bytes, and says in the headers, unless they
// are nil, what is left.
func (l *Limits) take(ctx context.Context, id auth.Identity, bytes int64, h http.Header) error {
	tenant, _ := l.of(id)
	if tenant.policy == "" {
		return nil
	}
	var demands [maxDemands]ratelimit.Demand
	var levels [maxDemands]ratelimit.Level
	d := l.demands(ctx, demands[:0], id, 1, bytes)
	ok, err := l.opts.Limiter.Take(ctx, d, levels[:len(d)])
	if err != nil {
		l.limited("redis")
		return protocol.Errorf(protocol.CodeOverloaded, "the limits on callers can't be looked up").WithRetryAfter(time.Second).WithCause(err)
	}
	if h != nil {
		h.Set("RateLimit-Policy", tenant.policy)
		h.Set("RateLimit", rateLimit(d, levels[:len(d)]))
	}
	if ok {
		return nil
	}
	worst := 0
	for i := range d {
		if levels[i].Wait > levels[worst].Wait {
			worst = i
		}
	}
	l.limited(d[worst].Kind.String())
	what := "requests"
	if k := d[worst].Kind; k == ratelimit.CredentialBytes || k == ratelimit.TenantBytes {
		what = "bytes"
	}
	who := "your key"
	if k := d[worst].Kind; k == ratelimit.TenantRequests || k == ratelimit.TenantBytes {
		who = "your tenant"
	}
	return protocol.Errorf(protocol.CodeRateLimited, "%s has used up its %d %s a minute", who, d[worst].PerMinute, what).WithRetryAfter(levels[worst].Wait)
}

// rateLimit is the RateLimit header (draft-ietf-httpapi-ratelimit-headers-10,
// section 4): what is left of each policy, and the seconds until all of it is back.
func rateLimit(demands []ratelimit.Demand, levels []ratelimit.Level) string {
	b := make([]byte, 0, 96)
	for i := range demands {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, '"')
		b = append(b, demands[i].Kind.String()...)
		b = append(b, `";r=`...)
		b = strconv.AppendInt(b, levels[i].Left, 10)
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, int64((levels[i].Full+time.Second-1)/time.Second), 10)
	}
	return string(b)
}

// spend takes bytes that have come already, if need be as a debt.
func (l *Limits) spend(ctx context.Context, id auth.Identity, bytes int64) {
	var demands [maxDemands]ratelimit.Demand
	var levels [maxDemands]ratelimit.Level
	d := l.demands(ctx, demands[:0], id, 0, bytes)
	for i := range d {
		d[i].Spent = true
	}
	_, _ = l.opts.Limiter.Take(ctx, d, levels[:len(d)]) // what can't be counted is given
}

// Admit gives a connection its place among its caller's: it is the hub's
// Options.Admit.
func (l *Limits) Admit(ctx context.Context, _ string) (leave func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	var claims []ratelimit.Claim
	claim := func(kind ratelimit.Kind, name string, n int64) {
		if n > 0 {
			claims = append(claims, ratelimit.Claim{Key: ratelimit.Key{Kind: kind, Name: name}, Max: n})
		}
	}
	if id, ok := auth.FromContext(ctx); ok {
		claim(ratelimit.CredentialConnections, limitKey(ctx, id), l.opts.Key.Connections)
		tenant, name := l.of(id)
		claim(ratelimit.TenantConnections, name, tenant.Connections)
	}
	if x, ok := ctx.Value(exchangeKey{}).(*exchangeRecord); ok {
		claim(ratelimit.AddressConnections, ratelimit.Network(x.client.Address).String(), l.opts.AddressConnections)
	}
	leave, full := l.opts.Places.Enter(claims...)
	if full >= 0 {
		return nil, l.full(claims[full], "connections")
	}
	return leave, nil
}

// placeRetry is when who has too much at once may try again: nobody knows when
// something of it ends.
const placeRetry = 5 * time.Second

// full says that somebody has all that it may have at once.
func (l *Limits) full(c ratelimit.Claim, of string) error {
	l.limited(c.Kind.String())
	who, _, _ := strings.Cut(c.Kind.String(), "-")
	return protocol.Errorf(protocol.CodeRateLimited, "your %s has as many %s as it may, which is %d", who, of, c.Max).WithRetryAfter(placeRetry)
}

// Allow takes what a WebSocket's command needs from its caller's minute: it is
// the hub's Options.Allow.
func (l *Limits) Allow(ctx context.Context, _ protocol.CommandType, bytes int) error {
	if l == nil {
		return nil
	}
	id, ok := auth.FromContext(ctx)
	if !ok {
		return nil
	}
	return l.take(ctx, id, int64(bytes), nil)
}

// Streams takes a place for an analysis of this caller, until leave is called.
func (l *Limits) Streams(ctx context.Context, kind protocol.AnalysisKind) (leave func(), err error) {
	id, ok := auth.FromContext(ctx)
	if l == nil || !ok {
		return func() {}, nil
	}
	claims := l.streams(ctx, id)
	if l.opts.Load != nil && l.opts.Load.Busy() {
		class := overload.Analyze
		switch {
		case kind == protocol.AnalysisExplain:
			class = overload.Explain
		case l.opts.Places.Greedy(claims[0].Key):
			class = overload.Greedy
		}
		if err := l.shed(class); err != nil {
			return nil, err
		}
	}
	leave, full := l.opts.Places.Enter(claims...)
	if full >= 0 {
		return nil, l.full(claims[full], "analyses running")
	}
	return leave, nil
}

// streams are the places that an analysis takes, the tenant's first. Those without a
// limit are counted, too: who has most is refused first.
func (l *Limits) streams(ctx context.Context, id auth.Identity) []ratelimit.Claim {
	caps, name := l.of(id)
	claims := []ratelimit.Claim{{Key: ratelimit.Key{Kind: ratelimit.TenantStreams, Name: name}, Max: cmp.Or(caps.Streams, math.MaxInt64)}}
	if n := l.opts.Key.Streams; n > 0 {
		claims = append(claims, ratelimit.Claim{Key: ratelimit.Key{Kind: ratelimit.CredentialStreams, Name: limitKey(ctx, id)}, Max: n})
	}
	return claims
}

// Hold takes the place of an analysis that another node has begun for this caller,
// until leave is called. It goes on whatever its caller has.
func (l *Limits) Hold(id auth.Identity) (leave func()) {
	if l == nil {
		return func() {}
	}
	return l.opts.Places.Hold(l.streams(context.Background(), id)...)
}

// shed refuses work of a class if the node has too much.
func (l *Limits) shed(c overload.Class) error {
	if l == nil || l.opts.Load == nil {
		return nil
	}
	wait, shed := l.opts.Load.Shed(c)
	if !shed {
		return nil
	}
	l.limited("overload-" + c.String())
	return protocol.Errorf(protocol.CodeOverloaded, "this node has nearly all that it can do, and puts off what can wait").WithRetryAfter(wait)
}

// classOf is the class of a request that has come, as far as its route tells.
func classOf(route string) overload.Class {
	switch route {
	case "GET /v1/providers", "GET /v1/cluster", "GET /v1/streams/{id}":
		return overload.List
	}
	return overload.Resume
}

func (l *Limits) limited(limit string) {
	if l.opts.Metrics != nil {
		l.opts.Metrics.Limited(limit)
	}
}

// counted tells, once, how many bytes of a body of unknown length have come.
type counted struct {
	io.ReadCloser
	n    int64
	done func(n int64) // nil once it was told
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n += int64(n)
	if err != nil {
		c.tell()
	}
	return n, err
}

func (c *counted) Close() error {
	c.tell()
	return c.ReadCloser.Close()
}

func (c *counted) tell() {
	if c.done != nil {
		c.done(c.n)
		c.done = nil
	}
}
