package accounting

import (
	"math"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// maxTokens bounds what one call is believed to have used, so that sums of
// nonsense can't overflow.
const maxTokens = 1 << 40

// A Reservation is a call's place in the books. Its methods may be called
// concurrently; the first of them to come ends it.
type Reservation struct {
	// Set by Reserve, then read-only.
	ledger   *Ledger
	key      Key
	accounts [3]*account // the provider's, the tenant's and the credential's; nil without limits
	taken    [3]int64    // tokens that were taken from each

	shared *sharedPart // what was taken from Options.Shared; nil for nothing

	mu      sync.Mutex
	ended   bool            // guarded by mu
	settled *protocol.Usage // guarded by mu: what Settle returned
}

// A sharedPart is what a reservation has taken from the limits of all.
type sharedPart struct {
	tenant, credential string
	tokens             int64
}

// Settle ends the reservation of a call that was made. u is what the provider
// said of its usage: nil if nothing, and parts of it may be missing, that is 0
// though there were bytes. These are estimated from the bytes of the prompt and
// of everything that was answered, and the result is marked as Estimated. Its
// CostUSD is u's, or else what Options.Cost says. u is not changed.
//
// Tokens that were reserved and not used are given back, those that were used
// beyond the reservation are taken, if need be as debt. The request stays
// taken.
//
// A second call does nothing, and returns what the first one did. After
// Release nothing is counted.
func (r *Reservation) Settle(u *protocol.Usage, inputBytes, outputBytes int64) *protocol.Usage {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.settled != nil {
		return clone(r.settled)
	}
	whole := complete(u, inputBytes, outputBytes)
	l := r.ledger
	if whole.CostUSD == nil && l.opts.Cost != nil {
		if usd, ok := l.opts.Cost(r.key.Provider, r.key.Model, clone(whole)); ok && validCost(usd) {
			whole.CostUSD = &usd
		}
	}
	if r.ended {
		return whole
	}
	r.ended, r.settled = true, whole
	used := whole.InputTokens + whole.OutputTokens
	if s := r.shared; s != nil && used != s.tokens {
		l.opts.Shared.Settle(s.tenant, s.credential, 0, used-s.tokens)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for i, a := range r.accounts {
		if a != nil {
			a.tokens.refill(now)
			a.tokens.take(used - r.taken[i])
		}
	}
	l.count(r.key, whole)
	return clone(whole)
}

// Charge counts a call that was made without a reservation, since it was made by
// a process that died before it could settle it: as one that was settled, even
// where the limits, which may go into debt, would not have allowed it. It returns
// what Settle would.
func (l *Ledger) Charge(k Key, u *protocol.Usage, inputBytes, outputBytes int64) *protocol.Usage {
	l.mu.Lock()
	now := time.Now()
	r := l.reservation(k, "", now)
	for _, a := range r.accounts {
		if a != nil {
			a.requests.refill(now)
			a.requests.take(1)
		}
	}
	l.mu.Unlock()
	if l.opts.Shared != nil && !l.opts.Free[k.Provider] {
		l.opts.Shared.Settle(k.Tenant, "", 1, 0)
		r.shared = &sharedPart{tenant: k.Tenant}
	}
	return r.Settle(u, inputBytes, outputBytes)
}

// Release ends the reservation of a call that was never made, and gives back
// everything it took. After Settle, and a second time, it does nothing.
func (r *Reservation) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	if s := r.shared; s != nil {
		r.ledger.opts.Shared.Settle(s.tenant, s.credential, -1, -s.tokens)
	}
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	now := time.Now()
	for i, a := range r.accounts {
		if a != nil {
			a.requests.refill(now)
			a.requests.take(-1)
			a.tokens.refill(now)
			a.tokens.take(-r.taken[i])
		}
	}
}

// complete returns a usage without holes or contradictions.
func complete(u *protocol.Usage, inputBytes, outputBytes int64) *protocol.Usage {
	whole := &protocol.Usage{}
	if u != nil {
		*whole = *u
	}
	if c := whole.CostUSD; c != nil {
		whole.CostUSD = nil
		if usd := *c; validCost(usd) {
			whole.CostUSD = &usd
		}
	}
	for _, n := range []*int64{&whole.InputTokens, &whole.OutputTokens, &whole.CachedTokens, &whole.ReasoningTokens} {
		*n = min(max(*n, 0), maxTokens)
	}
	// Estimates are no smaller than the parts that are known.
	if whole.InputTokens == 0 && (inputBytes > 0 || whole.CachedTokens > 0) {
		whole.InputTokens = max(EstimateTokens(inputBytes), whole.CachedTokens)
		whole.Estimated = true
	}
	if whole.OutputTokens < tooFew(outputBytes) || whole.OutputTokens == 0 && whole.ReasoningTokens > 0 {
		whole.OutputTokens = max(EstimateTokens(outputBytes), whole.ReasoningTokens)
		whole.Estimated = true
	}
	whole.CachedTokens = min(whole.CachedTokens, whole.InputTokens)
	whole.ReasoningTokens = min(whole.ReasoningTokens, whole.OutputTokens)
	return whole
}

// validCost leaves out what JSON can't say and sums can't hold.
func validCost(usd float64) bool { return usd >= 0 && !math.IsInf(usd, 0) }

func clone(u *protocol.Usage) *protocol.Usage {
	c := *u
	if u.CostUSD != nil {
		usd := *u.CostUSD
		c.CostUSD = &usd
	}
	return &c
}
