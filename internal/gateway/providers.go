package gateway

import (
	"net/http"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A Provider is one entry of GET /v1/providers, whose answer is
// {"providers": […], "time": "…"}, best first; time is the server's, so that
// clients can count down to others.
//
// Every caller sees the same: numbers are of all callers together, and none is
// one caller's own.
type Provider struct {
	Name    string `json:"name"`
	Dialect string `json:"dialect"`
	// Version is that of the wire, as the vendor names it.
	Version string `json:"version,omitempty"`
	// Priority orders providers, lower numbers first; Weight is the share among
	// those of the same priority.
	Priority int `json:"priority"`
	Weight   int `json:"weight"`
	// State is filled in when the list is asked for.
	State ProviderState `json:"state"`
	// PausedUntil is when the provider asked to come back; zero where it did
	// not.
	PausedUntil Instant `json:"paused_until,omitzero"`
	// Models are those it is known to have, the default first; empty for one
	// that has none.
	Models []string `json:"models"`
	// ModelInfo is what is known of each model, by id. A provider without
	// models has one under "".
	ModelInfo map[string]ProviderModel `json:"model_info,omitempty"`
	Features  ProviderFeatures         `json:"features"`
	// Protocols are the ways in which answers can come, in the order in which
	// they are tried.
	Protocols []string `json:"protocols,omitempty"`
	// Bulkhead bounds the calls that run and wait.
	Bulkhead *ProviderBulkhead `json:"bulkhead,omitempty"`
	// Limits is left out where neither the server nor the provider has any.
	Limits *ProviderLimits `json:"limits,omitempty"`
	// Connections is left out for one without a wire.
	Connections *ProviderConnections `json:"connections,omitempty"`
	// Usage is what calls have used since the server started.
	Usage *ProviderUsage `json:"usage,omitempty"`
	// StuckCalls have not returned though they were ended.
	StuckCalls int `json:"stuck_calls,omitempty"`
	// NoKey says that it can't be called until a key of it is set.
	NoKey bool `json:"no_key,omitempty"`
	// Keys are those that it is called with. None of them is told.
	Keys []ProviderKey `json:"keys,omitempty"`
	// Health is left out where nothing is known.
	Health *ProviderHealth `json:"health,omitempty"`
}

// A ProviderState says in a word how a provider does.
type ProviderState string

// The states of providers.
const (
	ProviderOK ProviderState = "ok"
	// ProviderDegraded: a breaker is not closed, calls wait for a place, or the
	// provider asked to be left alone for a while.
	ProviderDegraded ProviderState = "degraded"
	// ProviderDown: all its breakers are open, or it has no key.
	ProviderDown ProviderState = "down"
)

// ProviderFeatures say what a provider can do.
type ProviderFeatures struct {
	Findings  bool `json:"findings"`
	Reasoning bool `json:"reasoning"`
	Streaming bool `json:"streaming"`
	Batching  bool `json:"batching"`
	// FunctionCalling: models can call tools.
	FunctionCalling bool `json:"function_calling"`
	// Prefill: the beginning of an answer can be given, to be continued.
	Prefill bool `json:"prefill"`
}

// A ProviderModel is one model of a provider, and how it does.
type ProviderModel struct {
	// ContextTokens bounds the prompt and the answer together, MaxOutputTokens
	// the answer; 0, and left out, where it isn't known.
	ContextTokens   int `json:"context_tokens,omitempty"`
	MaxOutputTokens int `json:"max_output_tokens,omitempty"`
	// Price is left out where it isn't known.
	Price   *ProviderPrice  `json:"price,omitempty"`
	Breaker ProviderBreaker `json:"breaker"`
	// Elsewhere are the nodes whose breakers before the model are open; this one
	// asks others first then.
	Elsewhere []NodeBreaker `json:"elsewhere,omitempty"`
	// FirstContentMS is the smoothed time to the first content of recent calls,
	// rounded up to milliseconds; left out before the first.
	FirstContentMS int64 `json:"first_content_ms,omitempty"`
	// ErrorRate is the smoothed part of recent calls that failed, from 0 to 1.
	ErrorRate float64 `json:"error_rate"`
	// Calls is how many calls these two are over.
	Calls uint64 `json:"calls"`
}

// A ProviderPrice is in US dollars per million tokens.
type ProviderPrice struct {
	Input  float64 `json:"input"`
	Output float64 `json:"output"`
	// CachedInput is left out where it is Input's.
	CachedInput float64 `json:"cached_input,omitempty"`
}

// A BreakerState is what a breaker does with calls.
type BreakerState string

// The states of breakers.
const (
	BreakerClosed   BreakerState = "closed"    // lets calls through
	BreakerHalfOpen BreakerState = "half_open" // lets a few through, to see
	BreakerOpen     BreakerState = "open"      // lets none through
)

// A ProviderBreaker is the breaker before one model.
type ProviderBreaker struct {
	State BreakerState `json:"state"`
	// Why it opened last; "" once it has closed.
	Why   string  `json:"why,omitempty"`
	Since Instant `json:"since,omitzero"`
	// NextProbe is from when on a call is let through to see; zero while closed.
	NextProbe Instant `json:"next_probe,omitzero"`
	// Failures and Slow are those of the Calls in the breaker's window.
	Failures int `json:"failures"`
	Slow     int `json:"slow"`
	Calls    int `json:"calls"`
	// Opened is how often it has opened.
	Opened uint64 `json:"opened"`
}

// A NodeBreaker is an open breaker of another node.
type NodeBreaker struct {
	Node string `json:"node"`
	Why  string `json:"why,omitempty"`
	// NextProbe is from when on that node lets a call through to see.
	NextProbe Instant `json:"next_probe,omitzero"`
}

// A ProviderBulkhead bounds a provider's calls: so many workers, and a queue
// before them.
type ProviderBulkhead struct {
	// Class is the resource that a call takes: "cpu", "memory" or "network".
	Class   string `json:"class"`
	Workers int    `json:"workers"`
	Busy    int    `json:"busy"`
	Queue   int    `json:"queue"`
	Queued  int    `json:"queued"`
	// Refused is how many found the queue full.
	Refused uint64 `json:"refused"`
}

// ProviderLimits are what may be asked within a minute: the server's own, and
// what the provider says of its.
type ProviderLimits struct {
	// Of the server's own limits, those that are not set are left out.
	RequestsPerMinute int64  `json:"requests_per_minute,omitempty"`
	TokensPerMinute   int64  `json:"tokens_per_minute,omitempty"`
	RequestsLeft      *int64 `json:"requests_left,omitempty"`
	TokensLeft        *int64 `json:"tokens_left,omitempty"`
	// Upstream is what the headers of the provider's newest answer said; left
	// out before it has said anything.
	Upstream *UpstreamLimits `json:"upstream,omitempty"`
}

// UpstreamLimits are a provider's own words of its limits. What it says nothing
// of is left out.
type UpstreamLimits struct {
	RequestsLimit     *int64  `json:"requests_limit,omitempty"`
	RequestsRemaining *int64  `json:"requests_remaining,omitempty"`
	RequestsReset     Instant `json:"requests_reset,omitzero"`
	TokensLimit       *int64  `json:"tokens_limit,omitempty"`
	TokensRemaining   *int64  `json:"tokens_remaining,omitempty"`
	TokensReset       Instant `json:"tokens_reset,omitzero"`
	// At is when it said so.
	At Instant `json:"at"`
}

// ProviderConnections are those to the provider.
type ProviderConnections struct {
	Open int `json:"open"`
	// Idle is left out where it isn't known.
	Idle *int `json:"idle,omitempty"`
	// InFlight is how many requests run on them.
	InFlight int `json:"in_flight"`
}

// ProviderUsage is what calls have used.
type ProviderUsage struct {
	Calls uint64 `json:"calls"`
	// EstimatedCalls are those whose numbers are, at least in part, estimated.
	EstimatedCalls uint64 `json:"estimated_calls"`
	// CachedTokens are a part of InputTokens, ReasoningTokens of OutputTokens.
	InputTokens     int64 `json:"input_tokens"`
	OutputTokens    int64 `json:"output_tokens"`
	CachedTokens    int64 `json:"cached_tokens"`
	ReasoningTokens int64 `json:"reasoning_tokens"`
	// CostUSD is the sum over the calls whose price is known.
	CostUSD float64 `json:"cost_usd"`
}

// ProviderHealth is what was last known of a provider.
type ProviderHealth struct {
	OK      bool            `json:"ok"`
	Checked time.Time       `json:"checked"`
	Error   *protocol.Error `json:"error,omitempty"`
}

// An Instant is a time that is written as the protocol writes times: in UTC
// with milliseconds.
type Instant struct{ time.Time }

// MarshalJSON writes i.
func (i Instant) MarshalJSON() ([]byte, error) {
	return i.UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000Z07:00"`), nil
}

// state judges p by what else it says.
func (p *Provider) state(now time.Time) ProviderState {
	var open, notClosed int
	for _, m := range p.ModelInfo {
		switch m.Breaker.State {
		case BreakerOpen:
			open++
			notClosed++
		case BreakerHalfOpen:
			notClosed++
		}
	}
	switch {
	case p.NoKey, open > 0 && open == len(p.ModelInfo):
		return ProviderDown
	case notClosed > 0, p.Bulkhead != nil && p.Bulkhead.Queued > 0, p.PausedUntil.After(now):
		return ProviderDegraded
	}
	return ProviderOK
}

// providers answers GET /v1/providers.
func (g *Gateway) providers(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	list := g.opts.Providers()
	answer := struct {
		Providers []Provider `json:"providers"`
		Time      Instant    `json:"time"`
	}{make([]Provider, 0, len(list)), Instant{now}}
	for _, p := range list {
		if p.Models == nil {
			p.Models = []string{}
		}
		p.State = p.state(now)
		answer.Providers = append(answer.Providers, p)
	}
	writeJSON(w, http.StatusOK, answer)
}
