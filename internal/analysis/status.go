package analysis

import (
	"time"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// newLedger returns the accounts for what o's providers are asked.
func newLedger(cs []*candidate, o *Options) *accounting.Ledger {
	limits := make(map[string]accounting.Limits, len(cs))
	free := map[string]bool{CacheName: true}
	prices := make(map[[2]string]providers.Price)
	for _, c := range cs {
		limits[c.Name()] = c.entry.Limits
		free[c.Name()] = c.local()
		for _, t := range c.targets {
			prices[[2]string{c.Name(), t.model}] = t.info.Price
		}
	}
	return accounting.New(accounting.Options{
		Providers: limits,
		Tenant:    o.TenantLimits, Credential: o.CredentialLimits, Shared: o.SharedLimits,
		Free: free,
		Cost: func(provider, model string, u *protocol.Usage) (float64, bool) {
			p := prices[[2]string{provider, model}]
			return p.Cost(u), !p.IsZero()
		},
	})
}

// A ProviderStatus is how a provider does at the moment.
type ProviderStatus struct {
	Name             string
	Features         providers.Features
	Priority, Weight int
	Models           []ModelStatus
	Bulkhead         resilience.BulkheadState
	// Left is what our own limits still allow in this minute.
	Left accounting.Left
	// Upstream is what the provider said of its limits; nil before it has.
	Upstream *providers.RateLimits
	// PausedUntil is when the provider asked to come back; zero where it did
	// not, or that time has passed.
	PausedUntil time.Time
	// Usage is what its calls have used since the start, by model.
	Usage []accounting.Total
	// Stuck is how many calls have not returned though they were ended.
	Stuck int
}

// A ModelStatus is how one model of a provider does. For a provider without
// models there is one, whose ID is "".
type ModelStatus struct {
	ID      string
	Info    providers.ModelInfo
	Breaker resilience.BreakerState
	// Elsewhere is what other nodes said lately of theirs, by node.
	Elsewhere []NodeHint
	// FirstContent is the smoothed time to the first content; 0 before the
	// first call.
	FirstContent time.Duration
	// ErrorRate is the smoothed part of calls that failed, from 0 to 1.
	ErrorRate float64
	Calls     uint64
}

// Providers returns how the providers do, best first.
func (s *Service) Providers() []ProviderStatus {
	now := time.Now()
	totals := s.ledger.Totals()
	all := make([]ProviderStatus, len(s.candidates))
	for i, c := range s.candidates {
		p := ProviderStatus{Name: c.Name(), Features: c.features, Priority: c.entry.Priority, Weight: c.entry.Weight,
			Bulkhead: c.bulkhead.State(), Left: s.ledger.Left(c.Name())}
		if l, ok := upstreamLimits(c.Provider); ok {
			p.Upstream = &l
		}
		if d := c.pausedFor(now); d > 0 {
			p.PausedUntil = now.Add(d)
		}
		for _, t := range c.targets {
			m := ModelStatus{ID: t.model, Info: t.info, Breaker: t.breaker.State(), Elsewhere: s.hints.of(t, now)}
			m.FirstContent, m.ErrorRate, m.Calls = t.health.read(now)
			p.Models = append(p.Models, m)
		}
		for _, total := range totals {
			if total.Provider == c.Name() {
				p.Usage = append(p.Usage, total)
			}
		}
		all[i] = p
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range all {
		all[i].Stuck = s.stuck[all[i].Name]
	}
	return all
}

// Pool returns how many places of each class of resources are taken.
func (s *Service) Pool() []resilience.ClassState { return s.pool.State() }

// Running returns how many jobs run here.
func (s *Service) Running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.jobs)
}
