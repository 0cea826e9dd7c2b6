package analysis

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/athena-hub/athena/internal/resilience"
)

// A BreakerHint is what one node tells the others about the breaker of a
// provider's model. It is a hint: a node that hears of an open breaker asks
// others first, and this one where it has to. Its own breaker alone forbids.
type BreakerHint struct {
	Provider string `json:"provider"`
	Model    string `json:"model"`
	// Open says that the node lets no call through. Where it is false the node
	// probes, or would with the next call: then others need not keep away, and
	// must not, if a node without calls is not to keep them away for ever.
	Open bool `json:"open"`
	// Until is when it will probe, by its clock.
	Until time.Time `json:"until,omitzero"`
	// Why is why it opened.
	Why string `json:"why,omitempty"`
}

// A NodeHint is a BreakerHint and the node that gave it.
type NodeHint struct {
	Node string
	BreakerHint
}

// hints are what other nodes said lately.
type hints struct {
	ttl time.Duration // since when is lately

	mu    sync.Mutex
	nodes map[string]nodeHints // guarded by mu
}

// nodeHints are one node's newest ones.
type nodeHints struct {
	at   time.Time
	open []BreakerHint
}

// BreakerHints returns what other nodes should know of this one's breakers:
// those that are not closed.
func (s *Service) BreakerHints() []BreakerHint {
	var all []BreakerHint
	for _, c := range s.candidates {
		for _, t := range c.targets {
			if b := t.breaker.State(); b.State != resilience.Closed {
				all = append(all, BreakerHint{Provider: c.Name(), Model: t.model, Open: b.State == resilience.Open, Until: b.NextProbe, Why: b.Why})
			}
		}
	}
	return all
}

// Hinted takes what another node says of its breakers, in the place of what it
// said before. It is forgotten after Options.HintTTL, so it has to be said
// again and again.
func (s *Service) Hinted(node string, said []BreakerHint) {
	known := make([]BreakerHint, 0, len(said))
	for _, h := range said {
		if s.targetOf(h.Provider, h.Model) != nil {
			known = append(known, h)
		}
	}
	h, now := &s.hints, time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, old := range h.nodes { // so that nodes that come and go leave nothing
		if now.Sub(old.at) > h.ttl {
			delete(h.nodes, name)
		}
	}
	delete(h.nodes, node)
	if len(known) > 0 {
		h.nodes[node] = nodeHints{now, known}
	}
}

// targetOf returns the configured target of these names; nil if there is none.
func (s *Service) targetOf(provider, model string) *target {
	if c := s.candidateOf(provider); c != nil {
		return c.byModel(model)
	}
	return nil
}

// candidateOf returns the configured provider of that name; nil if there is
// none.
func (s *Service) candidateOf(provider string) *candidate {
	i := slices.IndexFunc(s.candidates, func(c *candidate) bool { return c.Name() == provider })
	if i < 0 {
		return nil
	}
	return s.candidates[i]
}

// of returns what the nodes said of t lately, by node.
func (h *hints) of(t *target, now time.Time) []NodeHint {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []NodeHint
	for node, said := range h.nodes {
		if now.Sub(said.at) > h.ttl {
			continue
		}
		for _, hint := range said.open {
			if hint.Provider == t.Name() && hint.Model == t.model {
				all = append(all, NodeHint{node, hint})
			}
		}
	}
	slices.SortFunc(all, func(a, b NodeHint) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// open reports whether t's breaker is open on another node.
func (h *hints) open(t *target, now time.Time) bool {
	return slices.ContainsFunc(h.of(t, now), func(n NodeHint) bool { return n.Open })
}
