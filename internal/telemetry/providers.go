package telemetry

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/athena-hub/athena/protocol"
)

// providerMetrics are those of the calls of providers and of what was done
// about their failures.
type providerMetrics struct {
	firstContent  *prometheus.HistogramVec
	modelContent  *prometheus.HistogramVec
	calls         *prometheus.CounterVec
	callSeconds   *prometheus.HistogramVec
	failovers     *prometheus.CounterVec
	retries       *prometheus.CounterVec
	hedges        *prometheus.CounterVec
	tokens        *prometheus.CounterVec
	cost          *prometheus.CounterVec
	queueWait     *prometheus.HistogramVec
	rateLimitWait *prometheus.HistogramVec
	fallbacks     prometheus.Counter
	joined        prometheus.Counter
}

func newProviderMetrics(reg prometheus.Registerer) providerMetrics {
	waits := []float64{.001, .01, .1, .5, 1, 2, 5, 10, 30, 60, 300}
	contents := []float64{.05, .1, .25, .5, 1, 2, 4, 8, 15, 30, 60, 120}
	return providerMetrics{
		firstContent: histogramVec(reg, "provider_first_content_seconds", "Time from the call of a provider to the first piece of its answer.", contents, "provider"),
		modelContent: histogramVec(reg, "provider_model_first_content_seconds", "The same by model.", contents, "provider", "model"),
		calls: counterVec(reg, "provider_calls_total",
			"Attempts at an answer that have ended, by outcome: ok, cancelled, outrun (by a provider that was asked beside) or the error's code.", "provider", "model", "outcome"),
		callSeconds: histogramVec(reg, "provider_call_seconds", "Time that calls of providers took as a whole.",
			[]float64{.1, .5, 1, 2, 5, 10, 30, 60, 120, 300, 900}, "provider"),
		failovers: counterVec(reg, "provider_failovers_total", "Turns from a provider to another, or to itself for a new answer, by reason: an error's code or hedged.",
			"from", "to", "reason"),
		retries:       counterVec(reg, "provider_retries_total", "Times that a provider was asked again after a failure, by the error's code.", "provider", "code"),
		hedges:        counterVec(reg, "provider_hedges_total", "Calls of a provider beside a slow one, by outcome: won or lost.", "provider", "outcome"),
		tokens:        counterVec(reg, "provider_tokens_total", "Tokens used, by kind: input, output, cached (a part of input) and reasoning (a part of output).", "provider", "model", "kind"),
		cost:          counterVec(reg, "provider_cost_usd_total", "US dollars that calls cost, of models whose price is known.", "provider", "model"),
		queueWait:     histogramVec(reg, "provider_queue_wait_seconds", "Time that analyses waited for a place at a provider.", waits, "provider"),
		rateLimitWait: histogramVec(reg, "provider_rate_limit_wait_seconds", "Time that analyses waited until a rate limit allowed a call.", waits, "provider"),
		fallbacks:     counter(reg, "analyses_degraded_total", "Analyses that the offline analyser answered in the place of providers."),
		joined:        counter(reg, "analyses_joined_total", "Requests that were given the stream of an equal one that was running."),
	}
}

// FirstContent records the time from a call to the answer's first piece.
func (m *Metrics) FirstContent(provider string, after time.Duration) {
	m.providers.firstContent.WithLabelValues(provider).Observe(after.Seconds())
}

// ModelFirstContent records it by model, in a metric of its own: what counts
// over all models is not to depend on how many of them have names.
func (m *Metrics) ModelFirstContent(provider, model string, after time.Duration) {
	m.providers.modelContent.WithLabelValues(provider, m.model(provider, model)).Observe(after.Seconds())
}

// The outcomes that are no error's code.
const (
	OutcomeOK        = "ok"
	OutcomeCancelled = "cancelled"
	OutcomeOutrun    = "outrun"
)

// ProviderCall counts a call that has ended. The outcome is one of the
// constants or an error's code.
func (m *Metrics) ProviderCall(provider, model, outcome string, took time.Duration) {
	m.providers.calls.WithLabelValues(provider, m.model(provider, model), known(outcome, OutcomeOK, OutcomeCancelled, OutcomeOutrun)).Inc()
	m.providers.callSeconds.WithLabelValues(provider).Observe(took.Seconds())
}

// Failover counts a turn from one provider to another. The reason is an
// error's code or protocol.ReasonHedged.
func (m *Metrics) Failover(from, to, reason string) {
	m.providers.failovers.WithLabelValues(from, to, known(reason, protocol.ReasonHedged)).Inc()
}

// Retry counts that a provider is asked again, because of an error.
func (m *Metrics) Retry(provider string, code protocol.Code) {
	m.providers.retries.WithLabelValues(provider, known(string(code))).Inc()
}

// Hedge counts a call of provider beside a slow one, once it is known whether
// it was the first to answer.
func (m *Metrics) Hedge(provider string, won bool) {
	outcome := "lost"
	if won {
		outcome = "won"
	}
	m.providers.hedges.WithLabelValues(provider, outcome).Inc()
}

// Used counts what a call has used; u may be nil.
func (m *Metrics) Used(provider, model string, u *protocol.Usage) {
	if u == nil {
		return
	}
	model = m.model(provider, model)
	for _, k := range []struct {
		kind   string
		tokens int64
	}{{"input", u.InputTokens}, {"output", u.OutputTokens}, {"cached", u.CachedTokens}, {"reasoning", u.ReasoningTokens}} {
		if k.tokens > 0 { // a counter panics at less
			m.providers.tokens.WithLabelValues(provider, model, k.kind).Add(float64(k.tokens))
		}
	}
	if u.CostUSD != nil && *u.CostUSD > 0 {
		m.providers.cost.WithLabelValues(provider, model).Add(*u.CostUSD)
	}
}

// QueueWait records how long an analysis waited for a place at provider.
func (m *Metrics) QueueWait(provider string, d time.Duration) {
	m.providers.queueWait.WithLabelValues(provider).Observe(d.Seconds())
}

// RateLimitWait records how long one waited until a rate limit allowed a call.
func (m *Metrics) RateLimitWait(provider string, d time.Duration) {
	m.providers.rateLimitWait.WithLabelValues(provider).Observe(d.Seconds())
}

// AnalysisDegraded counts an analysis that the offline analyser answered in the
// place of providers.
func (m *Metrics) AnalysisDegraded() { m.providers.fallbacks.Inc() }

// AnalysisJoined counts a request that was given a running stream.
func (m *Metrics) AnalysisJoined() { m.providers.joined.Inc() }

var codes = protocol.Codes()

// known bounds a label whose values are errors' codes and the others.
func known(value string, others ...string) string {
	if slices.Contains(others, value) || slices.Contains(codes, protocol.Code(value)) {
		return value
	}
	return "other"
}

// ProviderGauges is how a provider does at the moment.
type ProviderGauges struct {
	Provider string
	Models   []ModelGauges
	// Workers, Busy and Queued are the bulkhead's; Refused is how many it has
	// refused so far.
	Workers, Busy, Queued int
	Refused               uint64
	// Connections is how many are open; -1 for a provider without a wire.
	Connections int
	// Stuck is how many calls have not returned though they were ended.
	Stuck int
}

// ModelGauges is how one model of a provider does.
type ModelGauges struct {
	Model string
	// Circuit is the breaker's state: "closed", "half_open" or "open".
	Circuit string
	// Opens is how often the breaker has opened so far.
	Opens uint64
}

// PoolGauges is how much of one class of resources is taken.
type PoolGauges struct {
	Class                string
	Limit, Busy, Waiting int
}

// ObserveProviders registers what is asked for at each scrape: how the
// providers do, and what they use of the pool. It is for once. The functions
// may be called concurrently; providers' names and the classes must differ.
func (m *Metrics) ObserveProviders(providers func() []ProviderGauges, pool func() []PoolGauges) {
	m.registry.MustRegister(&providerCollector{read: providers, model: m.model}, poolCollector{pool})
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	circuitState  = desc("provider_circuit_state", "State of the breaker before a model: 0 closed, 1 half-open, 2 open.", "provider", "model")
	circuitOpens  = desc("provider_circuit_opens_total", "Times that the breaker before a model has opened.", "provider", "model")
	workers       = desc("provider_bulkhead_workers", "Calls of a provider that may run at once.", "provider")
	workersBusy   = desc("provider_bulkhead_busy", "Calls of a provider that run now.", "provider")
	workersQueued = desc("provider_bulkhead_queued", "Analyses that wait for a place at a provider.", "provider")
	refused       = desc("provider_bulkhead_refused_total", "Analyses that found a provider's queue full.", "provider")
	upstreams     = desc("provider_upstream_connections", "Connections to a provider that are open.", "provider")
	stuckCalls    = desc("provider_stuck_calls", "Calls that have not returned though they were ended.", "provider")
	poolLimit     = desc("pool_places", "Calls that may run at once over all providers, by class of resources.", "class")
	poolBusy      = desc("pool_busy", "Calls that run now over all providers, by class of resources.", "class")
	poolWaiting   = desc("pool_waiting", "Analyses that wait for a place of a class of resources.", "class")
)

// A providerCollector reads how providers do.
type providerCollector struct {
	read  func() []ProviderGauges
	model func(provider, model string) string
}

// Describe implements prometheus.Collector.
func (c *providerCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{circuitState, circuitOpens, workers, workersBusy, workersQueued, refused, upstreams, stuckCalls} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *providerCollector) Collect(ch chan<- prometheus.Metric) {
	for _, p := range c.read() {
		is := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, t, v, append([]string{p.Provider}, labels...)...)
		}
		for _, m := range c.models(p) {
			is(circuitState, prometheus.GaugeValue, float64(slices.Index(circuits, m.Circuit)), m.Model)
			is(circuitOpens, prometheus.CounterValue, float64(m.Opens), m.Model)
		}
		is(workers, prometheus.GaugeValue, float64(p.Workers))
		is(workersBusy, prometheus.GaugeValue, float64(p.Busy))
		is(workersQueued, prometheus.GaugeValue, float64(p.Queued))
		is(refused, prometheus.CounterValue, float64(p.Refused))
		is(stuckCalls, prometheus.GaugeValue, float64(p.Stuck))
		if p.Connections >= 0 {
			is(upstreams, prometheus.GaugeValue, float64(p.Connections))
		}
	}
}

// circuits are the states of breakers; the place of each is its number.
var circuits = []string{"closed", "half_open", "open"}

// models returns p's models with those beyond the bound in one, whose circuit
// is the worst of theirs: a scrape with two of a name would fail.
func (c *providerCollector) models(p ProviderGauges) []ModelGauges {
	all := make([]ModelGauges, 0, len(p.Models))
	for _, m := range p.Models {
		m.Model = c.model(p.Provider, m.Model)
		i := slices.IndexFunc(all, func(o ModelGauges) bool { return o.Model == m.Model })
		if i < 0 {
			all = append(all, m)
			continue
		}
		all[i].Opens += m.Opens
		if slices.Index(circuits, m.Circuit) > slices.Index(circuits, all[i].Circuit) {
			all[i].Circuit = m.Circuit
		}
	}
	return all
}

// A poolCollector reads how the pool does.
type poolCollector struct{ read func() []PoolGauges }

// Describe implements prometheus.Collector.
func (poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{poolLimit, poolBusy, poolWaiting} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.read() {
		ch <- prometheus.MustNewConstMetric(poolLimit, prometheus.GaugeValue, float64(s.Limit), s.Class)
		ch <- prometheus.MustNewConstMetric(poolBusy, prometheus.GaugeValue, float64(s.Busy), s.Class)
		ch <- prometheus.MustNewConstMetric(poolWaiting, prometheus.GaugeValue, float64(s.Waiting), s.Class)
	}
}
