package analysis

import (
	"sync"

	"github.com/athena-hub/athena/protocol"
)

// A spending adds up what the calls of a job have used. Calls that run beside
// each other end at any time.
type spending struct {
	mu    sync.Mutex
	total protocol.Usage // guarded by mu
}

func (s *spending) add(u *protocol.Usage) {
	if u == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.total
	t.InputTokens += u.InputTokens
	t.OutputTokens += u.OutputTokens
	t.CachedTokens += u.CachedTokens
	t.ReasoningTokens += u.ReasoningTokens
	t.Estimated = t.Estimated || u.Estimated
	if u.CostUSD != nil {
		cost := *u.CostUSD
		if t.CostUSD != nil {
			cost += *t.CostUSD
		}
		t.CostUSD = &cost
	}
}

func (s *spending) sum() protocol.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}
