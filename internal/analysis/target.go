package analysis

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/providers"
)

// A candidate is a configured provider with what it said of itself, and what
// all jobs share of it.
type candidate struct {
	// Set by New, then read-only.
	providers.Provider
	entry    Entry // with the defaults in place
	features providers.Features
	targets  []*target // by model, the default first; at least one
	bulkhead *resilience.Bulkhead
	budget   *resilience.Budget

	mu     sync.Mutex
	paused time.Time // guarded by mu: the provider named this time to come back
}

// A target is one model of a candidate, or a candidate that has no models:
// what a call goes to.
type target struct {
	// Set by New, then read-only.
	*candidate
	model   string
	info    providers.ModelInfo
	breaker *resilience.Breaker

	health health
}

// local reports whether it analyses by itself, without a model.
func (c *candidate) local() bool { return len(c.features.Models) == 0 }

// hasKey reports whether it can be called at all.
func (c *candidate) hasKey() bool {
	h, ok := c.Provider.(providers.KeyHolder)
	return !ok || h.HasKey()
}

// prefills reports whether t continues a beginning that it is given.
func (t *target) prefills() bool {
	if p, ok := t.Provider.(providers.Prefiller); ok {
		return p.Prefill(t.model)
	}
	return t.features.Prefill
}

// pause keeps calls away until then, since the provider said so.
func (c *candidate) pause(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.After(c.paused) {
		c.paused = until
	}
}

// pausedFor returns how long calls are to be kept away: because the provider
// named a time, or because its newest answer said that nothing is left.
func (c *candidate) pausedFor(now time.Time) time.Duration {
	c.mu.Lock()
	until := c.paused
	c.mu.Unlock()
	if l, ok := upstreamLimits(c.Provider); ok {
		if l.RequestsRemaining == 0 && l.RequestsReset.After(until) {
			until = l.RequestsReset
		}
		if l.TokensRemaining == 0 && l.TokensReset.After(until) {
			until = l.TokensReset
		}
	}
	return max(until.Sub(now), 0)
}

// upstreamLimits returns what p was told of its limits.
func upstreamLimits(p providers.Provider) (providers.RateLimits, bool) {
	if r, ok := p.(providers.RateLimiter); ok {
		return r.RateLimits()
	}
	return providers.RateLimits{}, false
}

// candidates makes the candidates of o, best first.
func candidates(o *Options, pool *resilience.Pool) []*candidate {
	entries := slices.Clone(o.Providers)
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Priority, b.Priority) })
	cs := make([]*candidate, len(entries))
	for i, e := range entries {
		cs[i] = newCandidate(e, o, pool)
	}
	return cs
}

func newCandidate(e Entry, o *Options, pool *resilience.Pool) *candidate {
	c := &candidate{Provider: e.Provider, features: e.Provider.Features(), budget: resilience.NewBudget(o.RetryBudget)}
	e.Weight = cmp.Or(e.Weight, 1)
	e.HedgeAfter = cmp.Or(e.HedgeAfter, o.HedgeAfter)
	e.HeaderTimeout = cmp.Or(e.HeaderTimeout, o.HeaderTimeout)
	e.FirstContentTimeout = cmp.Or(e.FirstContentTimeout, o.FirstContentTimeout)
	e.IdleTimeout = cmp.Or(e.IdleTimeout, o.IdleTimeout)
	e.MinRate = cmp.Or(e.MinRate, o.MinRate)
	if !c.features.Streaming && len(c.features.Protocols) > 0 {
		e.HeaderTimeout = -1 // its headers come with the whole answer
	}
	if e.Class == "" && c.local() {
		e.Class = resilience.ClassCPU
	}
	c.entry = e
	c.bulkhead = pool.Bulkhead(resilience.BulkheadOptions{Name: c.Name(), Class: e.Class, Workers: e.Concurrency, Queue: e.Queue})
	models := c.features.Models
	if c.local() {
		models = []string{""}
	}
	for _, model := range models {
		t := &target{candidate: c, model: model, info: e.Models[model]}
		b := o.Breaker
		b.OnChange = func(s resilience.BreakerState) { o.Observer.BreakerChanged(c.Name(), model, s) }
		t.breaker = resilience.NewBreaker(b)
		c.targets = append(c.targets, t)
	}
	return c
}

// target returns the target for a model, "" for the default; nil where there
// is none.
func (c *candidate) target(model string) *target {
	if model == "" {
		return c.targets[0]
	}
	return c.byModel(model)
}

// byModel returns the target of exactly that model; nil where there is none.
func (c *candidate) byModel(model string) *target {
	i := slices.IndexFunc(c.targets, func(t *target) bool { return t.model == model })
	if i < 0 {
		return nil
	}
	return c.targets[i]
}
