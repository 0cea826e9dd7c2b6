package analysis

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// plan returns who may answer r, in the order of asking, and the offline
// analyser where r lets it answer in their place. A name that doesn't exist is
// an invalid_request that lists those that do.
func (s *Service) plan(r *protocol.Request) (list []*target, fallback *target, err error) {
	cs := s.candidates
	if len(cs) == 0 {
		return nil, nil, protocol.Errorf(protocol.CodeServiceUnavailable, "no provider is configured")
	}
	if r.Provider != protocol.ProviderAuto {
		t, err := named(cs, r)
		if err != nil {
			return nil, nil, err
		}
		list = []*target{t}
	} else {
		for _, c := range cs {
			if t := c.target(r.Model); t != nil && !c.local() && c.hasKey() {
				list = append(list, t)
			}
		}
		if len(list) == 0 && r.Model != "" {
			return nil, nil, protocol.Errorf(protocol.CodeInvalidRequest, `field "model" is %.60q; no provider has it: %s`, r.Model, models(cs))
		}
		if len(list) == 0 {
			return []*target{alone(cs)}, nil, nil
		}
		s.order(list, r)
	}
	degrade := r.Provider == protocol.ProviderAuto && s.opts.Degrade
	if d := r.Options.Degrade; d != nil {
		degrade = *d
	}
	if i := slices.IndexFunc(cs, (*candidate).local); degrade && i >= 0 && !list[0].local() {
		fallback = cs[i].targets[0]
	}
	return list, fallback, nil
}

// alone is who answers where no provider can be asked: the offline analyser, or
// else the first of the others, which says what it lacks.
func alone(cs []*candidate) *target {
	if i := slices.IndexFunc(cs, (*candidate).local); i >= 0 {
		return cs[i].targets[0]
	}
	return cs[0].targets[0]
}

// named returns the target that a request for one provider names.
func named(cs []*candidate, r *protocol.Request) (*target, error) {
	i := slices.IndexFunc(cs, func(c *candidate) bool { return c.Name() == r.Provider })
	if i < 0 {
		return nil, protocol.Errorf(protocol.CodeInvalidRequest, `field "provider" is %.60q; it must be %s or one of %s`,
			r.Provider, protocol.ProviderAuto, names(cs))
	}
	c := cs[i]
	if t := c.target(r.Model); t != nil {
		return t, nil
	}
	if c.local() {
		return nil, protocol.Errorf(protocol.CodeInvalidRequest, `field "model" is %.60q; the provider %q has no models, so leave it out`,
			r.Model, c.Name())
	}
	return nil, protocol.Errorf(protocol.CodeInvalidRequest, `field "model" is %.60q; the provider %q has %s`,
		r.Model, c.Name(), strings.Join(c.features.Models, ", "))
}

// order sorts targets for r: those first whose context holds the code, whose
// breakers let calls through, those of other nodes' included, who named no time to come back, whose answers
// don't break off, and who can be called now, within our own limits; then by
// priority; and within one by chance, with the weights and what is known of
// their health as odds.
func (s *Service) order(list []*target, r *protocol.Request) {
	now := time.Now()
	var best time.Duration
	for _, t := range list {
		if l, _, _ := t.health.read(now); l > 0 && (best == 0 || l < best) {
			best = l
		}
	}
	need := tokensOf(r)
	type rank struct {
		short, shut, elsewhere, paused, breaking, full bool
		draw                                           float64
	}
	ranks := make(map[*target]rank, len(list))
	for _, t := range list {
		ranks[t] = rank{
			short:     t.info.ContextTokens > 0 && int64(t.info.ContextTokens) < need,
			shut:      !t.breaker.Ready(),
			elsewhere: s.hints.open(t, now),
			paused:    t.pausedFor(now) > 0, breaking: t.health.breaking(now),
			full: t.busy() || s.spent(t, need),
			// Efraimidis and Spirakis: the order of u^(1/w) draws without
			// replacement in proportion to w.
			draw: math.Pow(s.opts.Random(), 1/t.share(now, best)),
		}
	}
	later := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case b:
			return -1
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b *target) int {
		x, y := ranks[a], ranks[b]
		return cmp.Or(later(x.short, y.short), later(x.shut, y.shut), later(x.elsewhere, y.elsewhere), later(x.paused, y.paused), later(x.breaking, y.breaking), later(x.full, y.full),
			cmp.Compare(a.entry.Priority, b.entry.Priority), cmp.Compare(y.draw, x.draw))
	})
}

// spent reports whether a call that takes so many tokens would have to wait for
// t's limits.
func (s *Service) spent(t *target, tokens int64) bool {
	left := s.ledger.Left(t.Name())
	return left.Requests == 0 || (left.Tokens >= 0 && left.Tokens < min(tokens, left.Limits.TokensPerMinute))
}

// larger returns the targets for which r might not be too long though it was
// for t: those whose limit is larger or not known.
func (s *Service) larger(t *target, r *protocol.Request) []*target {
	var list []*target
	for _, c := range s.candidates {
		if c.local() || (r.Provider != protocol.ProviderAuto && c != t.candidate) {
			continue
		}
		for _, other := range c.targets {
			if other == t || (r.Model != "" && other.model != r.Model) {
				continue
			}
			if n := other.info.ContextTokens; n == 0 || n > t.info.ContextTokens {
				list = append(list, other)
			}
		}
	}
	s.order(list, r)
	return list
}

func names(cs []*candidate) string {
	s := make([]string, len(cs))
	for i, c := range cs {
		s[i] = c.Name()
	}
	return strings.Join(s, ", ")
}

func models(cs []*candidate) string {
	s := make([]string, len(cs))
	for i, c := range cs {
		if c.local() {
			s[i] = c.Name() + " has no models"
			continue
		}
		s[i] = c.Name() + " has " + strings.Join(c.features.Models, ", ")
	}
	return strings.Join(s, "; ")
}

// share is how much of the traffic t should get, among those of the same
// priority, of which the fastest has the latency best.
func (t *target) share(now time.Time, best time.Duration) float64 {
	latency, errors, _ := t.health.read(now)
	share := float64(t.entry.Weight) * (1 - errors) * (1 - errors)
	if latency > best && best > 0 {
		// Slower ones get less, but always something: their latency is known
		// only while they are asked.
		share *= max(float64(best)/float64(latency), 0.1)
	}
	return max(share, 1e-3)
}
