package telemetry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/athena-hub/athena/internal/telemetry"
	"github.com/athena-hub/athena/protocol"
)

// busy returns metrics in which every series of providers has something.
func busy() *telemetry.Metrics {
	m := telemetry.NewMetrics("")
	m.ModelFirstContent("claude", "big", 300*time.Millisecond)
	m.ProviderCall("claude", "big", telemetry.OutcomeOK, time.Second)
	m.ProviderCall("claude", "big", "timeout", time.Second)
	m.ProviderCall("claude", "big", telemetry.OutcomeOutrun, time.Second)
	m.Failover("claude", "openai", "timeout")
	m.Failover("claude", "openai", protocol.ReasonHedged)
	m.Retry("claude", protocol.CodeRateLimited)
	m.Hedge("openai", true)
	m.Hedge("openai", false)
	m.Used("claude", "big", &protocol.Usage{InputTokens: 100, OutputTokens: 20, CachedTokens: 60, ReasoningTokens: 5, CostUSD: new(0.25)})
	m.Used("claude", "big", &protocol.Usage{InputTokens: 1, OutputTokens: -3, CostUSD: new(-1.0), Estimated: true})
	m.Used("claude", "big", nil)
	m.QueueWait("claude", 20*time.Millisecond)
	m.RateLimitWait("claude", 3*time.Second)
	m.AnalysisDegraded()
	m.AnalysisJoined()
	m.ObserveProviders(func() []telemetry.ProviderGauges {
		return []telemetry.ProviderGauges{
			{Provider: "claude", Models: []telemetry.ModelGauges{{Model: "big", Circuit: "open", Opens: 3}, {Model: "small", Circuit: "half_open", Opens: 1}},
				Workers: 20, Busy: 4, Queued: 2, Refused: 9, Connections: 5, Stuck: 1},
			{Provider: "local", Models: []telemetry.ModelGauges{{Circuit: "closed"}}, Workers: 5, Connections: -1},
		}
	}, func() []telemetry.PoolGauges {
		return []telemetry.PoolGauges{{Class: "network", Limit: 50, Busy: 4, Waiting: 2}}
	})
	return m
}

func TestWhatProvidersDoIsScraped(t *testing.T) {
	text := scrape(t, busy())
	for _, line := range []string{
		`provider_model_first_content_seconds_bucket{model="big",provider="claude",le="0.25"} 0`,
		`provider_model_first_content_seconds_bucket{model="big",provider="claude",le="0.5"} 1`,
		`provider_calls_total{model="big",outcome="ok",provider="claude"} 1`,
		`provider_calls_total{model="big",outcome="timeout",provider="claude"} 1`,
		`provider_calls_total{model="big",outcome="outrun",provider="claude"} 1`,
		`provider_failovers_total{from="claude",reason="timeout",to="openai"} 1`,
		`provider_failovers_total{from="claude",reason="hedged",to="openai"} 1`,
		`provider_retries_total{code="rate_limited",provider="claude"} 1`,
		`provider_hedges_total{outcome="won",provider="openai"} 1`, `provider_hedges_total{outcome="lost",provider="openai"} 1`,
		`provider_tokens_total{kind="input",model="big",provider="claude"} 101`, `provider_tokens_total{kind="output",model="big",provider="claude"} 20`,
		`provider_tokens_total{kind="cached",model="big",provider="claude"} 60`, `provider_tokens_total{kind="reasoning",model="big",provider="claude"} 5`,
		`provider_cost_usd_total{model="big",provider="claude"} 0.25`,
		`provider_queue_wait_seconds_bucket{provider="claude",le="0.1"} 1`, `provider_rate_limit_wait_seconds_sum{provider="claude"} 3`,
		`analyses_degraded_total 1`, `analyses_joined_total 1`,
		`provider_circuit_state{model="big",provider="claude"} 2`, `provider_circuit_state{model="small",provider="claude"} 1`,
		`provider_circuit_state{model="",provider="local"} 0`, `provider_circuit_opens_total{model="big",provider="claude"} 3`,
		`provider_bulkhead_workers{provider="claude"} 20`, `provider_bulkhead_busy{provider="claude"} 4`,
		`provider_bulkhead_queued{provider="claude"} 2`, `provider_bulkhead_refused_total{provider="claude"} 9`,
		`provider_upstream_connections{provider="claude"} 5`, `provider_stuck_calls{provider="claude"} 1`,
		`pool_places{class="network"} 50`, `pool_busy{class="network"} 4`, `pool_waiting{class="network"} 2`,
	} {
		if !strings.Contains(text, "\nathena_"+line+"\n") {
			t.Errorf("no line athena_%s", line)
		}
	}
	if strings.Contains(text, `upstream_connections{provider="local"}`) {
		t.Error("a provider without a wire has connections")
	}
}

func TestTheNamesOfMetricsAreAsPrometheusWantsThem(t *testing.T) {
	m := busy()
	m.Opened("sse")
	m.Closed("sse", "done", time.Second)
	m.AnalysisStarted()
	m.AnalysisEnded("completed")
	m.Request("GET /v1/ws", 101, time.Millisecond, true)
	m.ObserveFeeds(func() int { return 0 }, func() int64 { return 0 }, func() int64 { return 0 })
	problems, err := promlint.New(strings.NewReader(scrape(t, m))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "athena_") { // the others are Go's own
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestLabelsOfProvidersAreBounded(t *testing.T) {
	m := telemetry.NewMetrics("")
	var models []telemetry.ModelGauges
	for i := range telemetry.MaxModels + 20 {
		models = append(models, telemetry.ModelGauges{Model: fmt.Sprintf("m%d", i), Circuit: "closed", Opens: 1})
		word := fmt.Sprintf("word-%d", i)
		m.ProviderCall("p", "m0", word, 0)
		m.Failover("p", "q", word)
		m.Retry("p", protocol.Code(word))
		m.ModelFirstContent("p", models[i].Model, 0)
		m.Used("p", models[i].Model, &protocol.Usage{OutputTokens: 1})
	}
	models[telemetry.MaxModels+7].Circuit = "open"
	m.ObserveProviders(func() []telemetry.ProviderGauges { return []telemetry.ProviderGauges{{Provider: "p", Models: models}} },
		func() []telemetry.PoolGauges { return nil })
	text := scrape(t, m)
	for name, want := range map[string]int{
		"provider_calls_total": 1, "provider_failovers_total": 1, "provider_retries_total": 1,
		"provider_model_first_content_seconds_count": telemetry.MaxModels + 1, "provider_tokens_total": telemetry.MaxModels + 1,
		"provider_circuit_state": telemetry.MaxModels + 1, "provider_circuit_opens_total": telemetry.MaxModels + 1,
	} {
		if n := strings.Count(text, "\nathena_"+name+"{"); n != want {
			t.Errorf("%d series of %s, want %d", n, name, want)
		}
	}
	for _, line := range []string{`circuit_state{model="other",provider="p"} 2`, `circuit_opens_total{model="other",provider="p"} 20`,
		`tokens_total{kind="output",model="other",provider="p"} 20`, `retries_total{code="other",provider="p"} 220`} {
		if !strings.Contains(text, "\nathena_provider_"+line+"\n") {
			t.Errorf("no line athena_provider_%s", line)
		}
	}
}
