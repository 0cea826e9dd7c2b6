package accounting

import (
	"cmp"
	"slices"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// A Total is what the settled calls of one Key used together.
type Total struct {
	Key
	// Calls were settled, EstimatedCalls of them with numbers that were, at
	// least in part, estimated.
	Calls, EstimatedCalls uint64
	// CachedTokens are a part of InputTokens, ReasoningTokens of OutputTokens.
	InputTokens, OutputTokens, CachedTokens, ReasoningTokens int64
	// CostUSD is the sum over the calls whose price is known.
	CostUSD float64
}

// Totals returns what was used since the Ledger was made, sorted by provider,
// model and tenant.
func (l *Ledger) Totals() []Total {
	l.mu.Lock()
	all := make([]Total, 0, len(l.totals))
	for _, t := range l.totals {
		all = append(all, *t)
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b Total) int {
		return cmp.Or(strings.Compare(a.Provider, b.Provider), strings.Compare(a.Model, b.Model), strings.Compare(a.Tenant, b.Tenant))
	})
	return all
}

// count adds a settled call. It is called with mu held.
func (l *Ledger) count(k Key, u *protocol.Usage) {
	t := l.total(k)
	t.Calls++
	if u.Estimated {
		t.EstimatedCalls++
	}
	t.InputTokens += u.InputTokens
	t.OutputTokens += u.OutputTokens
	t.CachedTokens += u.CachedTokens
	t.ReasoningTokens += u.ReasoningTokens
	if u.CostUSD != nil {
		t.CostUSD += *u.CostUSD
	}
}

// total returns where k is counted. It is called with mu held.
func (l *Ledger) total(k Key) *Total {
	k.Provider = admit(l.names, k.Provider, maxProviders)
	k.Model = admit(l.models, k.Model, l.opts.MaxModels)
	if t, ok := l.totals[k]; ok {
		return t
	}
	if len(l.totals) >= l.opts.MaxTotals {
		k.Model, k.Tenant = Other, Other // one for each provider beyond the bound
	}
	t, ok := l.totals[k]
	if !ok {
		t = &Total{Key: k}
		l.totals[k] = t
	}
	return t
}

// admit returns the name that something is counted under: its own if it's
// known or there is room for another one.
func admit(known map[string]struct{}, name string, limit int) string {
	if _, ok := known[name]; ok {
		return name
	}
	name = bounded(name, len(known), limit)
	known[name] = struct{}{}
	return name
}

// bounded returns name, or Other if so many others leave no room for it. It is
// a copy, so that it doesn't hold on to a whole request.
func bounded(name string, others, limit int) string {
	if others >= limit || len(name) > maxNameBytes {
		return Other
	}
	return strings.Clone(name)
}
