package main

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/internal/telemetry"
	"github.com/athena-hub/athena/protocol"
)

// observer tells the metrics what analyses do, and the log what an operator
// should look at.
type observer struct {
	metrics *telemetry.Metrics
	log     zerolog.Logger
	edge    *edge
}

var _ analysis.Observer = observer{}

// CallStarted implements analysis.Observer. Calls are counted when they end.
func (observer) CallStarted(string, string) {}

// FirstContent implements analysis.Observer.
func (o observer) FirstContent(provider, model string, after time.Duration) {
	o.metrics.FirstContent(provider, after)
	o.metrics.ModelFirstContent(provider, model, after)
}

// CallEnded implements analysis.Observer.
func (o observer) CallEnded(e analysis.CallEnd) {
	outcome := telemetry.OutcomeOK
	switch {
	case e.Cancelled != "": // or handed over
		outcome = telemetry.OutcomeCancelled
	case e.Outrun:
		outcome = telemetry.OutcomeOutrun
	case e.Error != nil:
		outcome = string(e.Error.Code)
	}
	o.metrics.ProviderCall(e.Provider, e.Model, outcome, e.Took)
	o.metrics.Used(e.Provider, e.Model, e.Usage)
}

// JobEnded implements analysis.Observer.
func (o observer) JobEnded(e analysis.JobEnd) {
	o.edge.recordEnd(e)
	if e.HandedOver || e.TakenOver { // it has not ended, but runs here no more
		o.metrics.HandedOver(e.TakenOver)
		return
	}
	o.metrics.AnalysisEnded(string(e.Type))
	if e.Degraded {
		o.metrics.AnalysisDegraded()
	}
}

// AttemptLost counts what a call had used whose node is gone.
func (o observer) AttemptLost(provider, model string, u *protocol.Usage) {
	o.metrics.Used(provider, model, u)
}

// Retried implements analysis.Observer.
func (o observer) Retried(provider string, code protocol.Code) { o.metrics.Retry(provider, code) }

// FailedOver implements analysis.Observer.
func (o observer) FailedOver(from, to, reason string) { o.metrics.Failover(from, to, reason) }

// Hedged implements analysis.Observer.
func (o observer) Hedged(provider string, won bool) { o.metrics.Hedge(provider, won) }

// Waited implements analysis.Observer.
func (o observer) Waited(provider, reason string, d time.Duration) {
	if reason == protocol.ReasonRateLimit {
		o.metrics.RateLimitWait(provider, d)
		return
	}
	o.metrics.QueueWait(provider, d)
}

// Joined implements analysis.Observer.
func (o observer) Joined() { o.metrics.AnalysisJoined() }

// BreakerChanged implements analysis.Observer. The states themselves are read
// at each scrape.
func (o observer) BreakerChanged(provider, model string, s resilience.BreakerState) {
	e := o.log.Info()
	if s.State == resilience.Open {
		e = o.log.Warn().Str("why", s.Why).Time("next_probe", s.NextProbe)
	}
	e.Str("provider", provider).Str("model", model).Str("state", string(s.State)).Msg("breaker changed")
}

// providerGauges and poolGauges are what is asked for at each scrape.
func (n *node) providerGauges() []telemetry.ProviderGauges {
	var all []telemetry.ProviderGauges
	for _, p := range n.analyses.Providers() {
		g := telemetry.ProviderGauges{Provider: p.Name, Workers: p.Bulkhead.Workers, Busy: p.Bulkhead.Busy, Queued: p.Bulkhead.Queued,
			Refused: p.Bulkhead.Refused, Connections: -1, Stuck: p.Stuck}
		if c := n.upstreams.pools[p.Name]; c != nil {
			g.Connections = c.State().Open
		}
		for _, m := range p.Models {
			g.Models = append(g.Models, telemetry.ModelGauges{Model: m.ID, Circuit: string(m.Breaker.State), Opens: m.Breaker.Opened})
		}
		all = append(all, g)
	}
	return all
}

func (n *node) poolGauges() []telemetry.PoolGauges {
	var all []telemetry.PoolGauges
	for _, c := range n.analyses.Pool() {
		all = append(all, telemetry.PoolGauges{Class: string(c.Class), Limit: c.Limit, Busy: c.Busy, Waiting: c.Waiting})
	}
	return all
}

// listProviders is the answer of GET /v1/providers.
func (n *node) listProviders() []gateway.Provider {
	var list []gateway.Provider
	health := n.checkups.results()
	for _, p := range n.analyses.Providers() {
		d := n.describe(&p)
		if h, ok := health[p.Name]; ok {
			d.Health = &h
		}
		d.Keys, d.NoKey = n.keys.describe(p.Name, false), n.keys.lacks(p.Name)
		list = append(list, d)
	}
	return list
}

// describe is p in the gateway's words.
func (n *node) describe(p *analysis.ProviderStatus) gateway.Provider {
	f := &p.Features
	g := gateway.Provider{
		Name: p.Name, Dialect: n.dialect(p.Name), Version: f.Version, Priority: p.Priority, Weight: p.Weight,
		PausedUntil: gateway.Instant{Time: p.PausedUntil}, Models: f.Models, ModelInfo: make(map[string]gateway.ProviderModel, len(p.Models)),
		Features: gateway.ProviderFeatures{Findings: f.Findings, Reasoning: f.Reasoning, Streaming: f.Streaming, Batching: f.Batching,
			FunctionCalling: f.FunctionCalling, Prefill: f.Prefill},
		Bulkhead: &gateway.ProviderBulkhead{Class: string(p.Bulkhead.Class), Workers: p.Bulkhead.Workers, Busy: p.Bulkhead.Busy,
			Queue: p.Bulkhead.Queue, Queued: p.Bulkhead.Queued, Refused: p.Bulkhead.Refused},
		Limits: limits(p), Usage: usage(p), StuckCalls: p.Stuck,
	}
	for _, way := range f.Protocols {
		g.Protocols = append(g.Protocols, string(way))
	}
	for _, m := range p.Models {
		g.ModelInfo[m.ID] = describeModel(&m)
	}
	if c := n.upstreams.pools[p.Name]; c != nil {
		s := c.State()
		g.Connections = &gateway.ProviderConnections{Open: s.Open, Idle: &s.Idle, InFlight: s.Calls}
	}
	return g
}

func describeModel(m *analysis.ModelStatus) gateway.ProviderModel {
	b := &m.Breaker
	d := gateway.ProviderModel{
		ContextTokens: m.Info.ContextTokens, MaxOutputTokens: m.Info.MaxOutputTokens,
		Breaker: gateway.ProviderBreaker{State: gateway.BreakerState(b.State), Why: b.Why, Since: gateway.Instant{Time: b.Since},
			NextProbe: gateway.Instant{Time: b.NextProbe}, Failures: b.Failures, Slow: b.Slow, Calls: b.Calls, Opened: b.Opened},
		FirstContentMS: (m.FirstContent + time.Millisecond - 1).Milliseconds(), ErrorRate: m.ErrorRate, Calls: m.Calls,
	}
	for _, h := range m.Elsewhere {
		d.Elsewhere = append(d.Elsewhere, gateway.NodeBreaker{Node: h.Node, Why: h.Why, NextProbe: gateway.Instant{Time: h.Until}})
	}
	if price := m.Info.Price; !price.IsZero() {
		d.Price = &gateway.ProviderPrice{Input: price.Input, Output: price.Output, CachedInput: price.CachedInput}
	}
	return d
}

// limits are the server's own, and the provider's words; nil where there are
// none.
func limits(p *analysis.ProviderStatus) *gateway.ProviderLimits {
	l := gateway.ProviderLimits{RequestsPerMinute: p.Left.Limits.RequestsPerMinute, TokensPerMinute: p.Left.Limits.TokensPerMinute,
		RequestsLeft: known(p.Left.Requests), TokensLeft: known(p.Left.Tokens)}
	if u := p.Upstream; u != nil {
		l.Upstream = &gateway.UpstreamLimits{
			RequestsLimit: known(u.RequestsLimit), RequestsRemaining: known(u.RequestsRemaining), RequestsReset: gateway.Instant{Time: u.RequestsReset},
			TokensLimit: known(u.TokensLimit), TokensRemaining: known(u.TokensRemaining), TokensReset: gateway.Instant{Time: u.TokensReset},
			At: gateway.Instant{Time: u.At},
		}
	}
	if l == (gateway.ProviderLimits{}) {
		return nil
	}
	return &l
}

// known is n, or nil for -1, which stands for what nothing is known of.
func known(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

// usage adds up what all callers have used of p.
func usage(p *analysis.ProviderStatus) *gateway.ProviderUsage {
	var u gateway.ProviderUsage
	for _, t := range p.Usage {
		u.Calls += t.Calls
		u.EstimatedCalls += t.EstimatedCalls
		u.InputTokens += t.InputTokens
		u.OutputTokens += t.OutputTokens
		u.CachedTokens += t.CachedTokens
		u.ReasoningTokens += t.ReasoningTokens
		u.CostUSD += t.CostUSD
	}
	return &u
}
