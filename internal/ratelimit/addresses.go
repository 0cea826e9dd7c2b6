package ratelimit

import (
	"cmp"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// AddressOptions are what an address may do before anybody knows who is there.
type AddressOptions struct {
	// RequestsPerMinute may come from one address; 0 for no limit.
	RequestsPerMinute int64
	// FailuresPerMinute may be credentials that nobody knows. One more, and the
	// address is shut out. 0 for no limit.
	FailuresPerMinute int64
	// Block is how long that lasts the first time; it doubles each time, up to
	// BlockMax, until the address has behaved for an hour. Defaults 10 s and
	// 15 min.
	Block, BlockMax time.Duration
	// Max bounds the addresses that are remembered, and so does it the
	// credentials that are known to be good; 50,000 by default, 20 MB at most. The
	// one not seen for longest gives way.
	Max int
}

// forgiven is how long an address must behave until its blocks are forgotten, and
// how long a credential that was good is let through a block.
const forgiven = time.Hour

// Addresses keep those out that try credentials. They are each node's own: before
// anybody is known, nothing should leave the node, least of all in a flood.
//
// Many may share an address, of an office, a carrier or a proxy. So a block is
// for credentials that are not known to be good: one that was good at that address
// within the last hour is let in, as device cookies do
// (https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies).
// Who guesses learns nothing by that, since what is not known isn't even looked
// at.
type Addresses struct {
	// Set by NewAddresses, then read-only.
	opts AddressOptions

	mu     sync.Mutex
	states recent[netip.Addr, *address]  // guarded by mu
	good   recent[credential, time.Time] // guarded by mu: when these were last good
}

// An address is one of those that are watched.
type address struct {
	requests *rate.Limiter // nil for no limit
	failures *rate.Limiter // nil until the first
	blocks   int           // how often it was blocked since it was last forgiven
	failed   time.Time     // the last time
	until    time.Time     // when the block ends
	refused  *rate.Limiter // how fast it still comes while it is blocked; nil until then
	shut     time.Time     // until when its connections need not be read
}

// credential is somebody's at one address, or, where sum is zero, anybody's.
type credential struct {
	address netip.Addr
	sum     [16]byte // of a SHA-256, so that what is in memory is no credential
}

// A blocked address that makes more requests a second than this is a flood, in
// which even answering them is too much: its connections are not read for
// shutFor.
const (
	floodRate  = 50
	floodBurst = 100
	shutFor    = time.Second
)

// NewAddresses returns Addresses that know nothing yet.
func NewAddresses(o AddressOptions) *Addresses {
	o.Block = cmp.Or(o.Block, 10*time.Second)
	o.BlockMax = max(cmp.Or(o.BlockMax, 15*time.Minute), o.Block)
	o.Max = cmp.Or(o.Max, 50_000)
	return &Addresses{opts: o, states: newRecent[netip.Addr, *address](o.Max), good: newRecent[credential, time.Time](o.Max)}
}

// Network is what one holder of addresses has at least: of IPv6 a /64, of which a
// single machine has all (RFC 4291, section 2.5.1).
func Network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// A Verdict is what Addresses say of a request.
type Verdict uint8

// The verdicts.
const (
	// Welcome requests are looked at.
	Welcome Verdict = iota
	// TooMany came from there within a minute.
	TooMany
	// Blocked is an address with too many failures.
	Blocked
)

// Arrive counts a request, which brings this credential or none, and says whether
// it may be looked at, and else after what time one may.
func (s *Addresses) Arrive(a netip.Addr, secret string) (Verdict, time.Duration) {
	if s.opts.RequestsPerMinute <= 0 && s.opts.FailuresPerMinute <= 0 {
		return Welcome, 0
	}
	a = Network(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	state, ok := s.states.get(a)
	if !ok {
		if s.opts.RequestsPerMinute <= 0 {
			return Welcome, 0 // nothing is remembered of who has done nothing
		}
		state = s.add(a)
	}
	if left := s.blocked(state, a, secret, now); left > 0 {
		if state.refused == nil {
			state.refused = rate.NewLimiter(floodRate, floodBurst)
		}
		if !state.refused.AllowN(now, 1) {
			state.shut = now.Add(shutFor)
		}
		return Blocked, left
	}
	if state.requests != nil && !state.requests.AllowN(now, 1) {
		return TooMany, refill(1-state.requests.TokensAt(now), s.opts.RequestsPerMinute)
	}
	return Welcome, 0
}

// Blocked is for how long yet the address is blocked for this credential; 0 where
// it isn't. It counts nothing: it is for what comes over a connection that is open
// already.
func (s *Addresses) Blocked(a netip.Addr, secret string) time.Duration {
	a = Network(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	state, ok := s.states.get(a)
	if !ok {
		return 0
	}
	return s.blocked(state, a, secret, time.Now())
}

// blocked is called with mu held.
func (s *Addresses) blocked(state *address, a netip.Addr, secret string, now time.Time) time.Duration {
	left := state.until.Sub(now)
	if left <= 0 || secret == "" || s.known(a, secret, now) {
		return 0
	}
	return left
}

// add is called with mu held.
func (s *Addresses) add(a netip.Addr) *address {
	state := new(address)
	if n := s.opts.RequestsPerMinute; n > 0 {
		state.requests = rate.NewLimiter(perMinute(n), int(n))
	}
	s.states.put(a, state)
	return state
}

// Failed counts a credential that nobody knows. It reports for how long the
// address is blocked from now on, 0 if it isn't.
func (s *Addresses) Failed(a netip.Addr) time.Duration {
	n := s.opts.FailuresPerMinute
	if n <= 0 {
		return 0
	}
	a = Network(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	state, ok := s.states.get(a)
	if !ok {
		state = s.add(a)
	}
	if now.Sub(state.failed) > forgiven {
		state.blocks = 0
	}
	state.failed = now
	if state.failures == nil {
		state.failures = rate.NewLimiter(perMinute(n), int(n))
	}
	if now.Before(state.until) || state.failures.AllowN(now, 1) {
		return 0 // blocked already, by what came at the same time
	}
	block := min(s.opts.Block<<min(state.blocks, 30), s.opts.BlockMax)
	if block <= 0 { // shifted out
		block = s.opts.BlockMax
	}
	state.blocks++
	state.until = now.Add(block)
	return block
}

// Good remembers a credential that was good.
func (s *Addresses) Good(a netip.Addr, secret string) {
	if s.opts.FailuresPerMinute <= 0 || secret == "" {
		return
	}
	a = Network(a)
	key := credentialOf(a, secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.good.put(key, now)
	s.good.put(credential{address: a}, now)
}

// known is called with mu held.
func (s *Addresses) known(a netip.Addr, secret string, now time.Time) bool {
	at, ok := s.good.get(credentialOf(a, secret))
	return ok && now.Sub(at) < forgiven
}

func credentialOf(a netip.Addr, secret string) credential {
	sum := sha256.Sum256([]byte(secret))
	return credential{a, [16]byte(sum[:16])}
}

// Shut reports whether a connection from the address need not even be read: it is
// blocked, floods the node all the same, and nobody there was known lately.
func (s *Addresses) Shut(a netip.Addr) bool {
	if s.opts.FailuresPerMinute <= 0 {
		return false
	}
	a = Network(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	state, ok := s.states.peek(a)
	if !ok {
		return false
	}
	now := time.Now()
	if !now.Before(state.shut) {
		return false
	}
	at, ok := s.good.peek(credential{address: a})
	return !ok || now.Sub(at) >= forgiven
}

// Len is how many addresses are remembered.
func (s *Addresses) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states.len()
}
