package gateway_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// at is a time, of another zone and finer than is written.
func at(seconds int) gateway.Instant {
	return gateway.Instant{Time: time.Date(2026, 11, 22, 22, 0, seconds, 123456789, time.FixedZone("", 3600))}
}

// everything is a provider of which all is known, and one of which nothing is.
func everything() []gateway.Provider {
	return []gateway.Provider{{
		Name: "claude", Dialect: "claude", Version: "2023-06-01", Priority: 10, Weight: 3, PausedUntil: at(9), Models: []string{"big", "small"},
		ModelInfo: map[string]gateway.ProviderModel{
			"big": {
				ContextTokens: 200_000, MaxOutputTokens: 64_000, Price: &gateway.ProviderPrice{Input: 3, Output: 15, CachedInput: 0.3},
				Breaker:        gateway.ProviderBreaker{State: gateway.BreakerOpen, Why: "5 of 6 calls failed", Since: at(1), NextProbe: at(4), Failures: 5, Slow: 1, Calls: 6, Opened: 2},
				FirstContentMS: 840, ErrorRate: 0.75, Calls: 40,
			},
			"small": {Breaker: gateway.ProviderBreaker{State: gateway.BreakerClosed, Since: at(0)}},
		},
		Features:  gateway.ProviderFeatures{Reasoning: true, Streaming: true, Batching: true, FunctionCalling: true},
		Protocols: []string{"websocket", "sse"},
		Bulkhead:  &gateway.ProviderBulkhead{Class: "network", Workers: 20, Busy: 20, Queue: 100, Queued: 7, Refused: 1},
		Limits: &gateway.ProviderLimits{
			RequestsPerMinute: 50, TokensPerMinute: 40_000, RequestsLeft: new(int64(0)), TokensLeft: new(int64(39_000)),
			Upstream: &gateway.UpstreamLimits{RequestsLimit: new(int64(1000)), RequestsRemaining: new(int64(0)), RequestsReset: at(30), At: at(2)},
		},
		Connections: &gateway.ProviderConnections{Open: 4, Idle: new(int(1)), InFlight: 20},
		Usage: &gateway.ProviderUsage{Calls: 41, EstimatedCalls: 3, InputTokens: 120_000, OutputTokens: 9000, CachedTokens: 100_000, ReasoningTokens: 400,
			CostUSD: 0.225},
		StuckCalls: 1,
		Health:     &gateway.ProviderHealth{Checked: time.Unix(0, 0).UTC(), Error: protocol.Errorf(protocol.CodeTimeout, "slow")},
	}, {Name: "local", Dialect: "local", Features: gateway.ProviderFeatures{Findings: true}}}
}

func TestProvidersAreListedWithAllThatIsKnown(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.Providers = everything })
	before := time.Now().Truncate(time.Millisecond)
	a := n.do("GET", "/v1/providers", "")
	var got struct {
		Providers json.RawMessage
		Time      time.Time
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s: %v", a.status, a.header, a.body, err)
	}
	if got.Time.Before(before) || got.Time.After(time.Now()) || !regexp.MustCompile(`"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"\}\n$`).MatchString(a.body) {
		t.Errorf("the time is %v in %s", got.Time, a.body)
	}
	golden, err := os.ReadFile("testdata/providers.json")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(got.Providers); err != nil {
		t.Fatal(err)
	}
	if b.String() != string(golden) {
		t.Errorf("testdata/providers.json is not what is answered:\n%s", b.String())
	}
}

func TestAProvidersStateSumsItUp(t *testing.T) {
	breakers := func(states ...gateway.BreakerState) gateway.Provider {
		p := gateway.Provider{ModelInfo: make(map[string]gateway.ProviderModel), Bulkhead: new(gateway.ProviderBulkhead)}
		for i, s := range states {
			p.ModelInfo[string(rune('a'+i))] = gateway.ProviderModel{Breaker: gateway.ProviderBreaker{State: s}}
		}
		return p
	}
	with := func(p gateway.Provider, change func(*gateway.Provider)) gateway.Provider {
		change(&p)
		return p
	}
	const closed, half, open = gateway.BreakerClosed, gateway.BreakerHalfOpen, gateway.BreakerOpen
	for _, c := range []struct {
		name     string
		provider gateway.Provider
		want     gateway.ProviderState
	}{
		{"nothing known", gateway.Provider{}, gateway.ProviderOK},
		{"all closed", breakers(closed, closed), gateway.ProviderOK},
		{"one open", breakers(closed, open), gateway.ProviderDegraded},
		{"one half open", breakers(half), gateway.ProviderDegraded},
		{"open and half open", breakers(open, half), gateway.ProviderDegraded},
		{"all open", breakers(open, open), gateway.ProviderDown},
		{"all open with a queue", with(breakers(open), func(p *gateway.Provider) { p.Bulkhead.Queued = 1 }), gateway.ProviderDown},
		{"busy", with(breakers(closed), func(p *gateway.Provider) { p.Bulkhead.Busy = 20 }), gateway.ProviderOK},
		{"a queue", with(breakers(closed), func(p *gateway.Provider) { p.Bulkhead.Queued = 1 }), gateway.ProviderDegraded},
		{"paused", with(breakers(closed), func(p *gateway.Provider) { p.PausedUntil = gateway.Instant{Time: time.Now().Add(time.Hour)} }), gateway.ProviderDegraded},
		{"no longer paused", with(breakers(closed), func(p *gateway.Provider) { p.PausedUntil = at(0) }), gateway.ProviderOK},
	} {
		n := start(t, false, func(o *gateway.Options) {
			o.Providers = func() []gateway.Provider { return []gateway.Provider{c.provider} }
		})
		var got struct{ Providers []gateway.Provider }
		a := n.do("GET", "/v1/providers", "")
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || len(got.Providers) != 1 || got.Providers[0].State != c.want {
			t.Errorf("%s: %v %s, want %s", c.name, err, a.body, c.want)
		}
	}
}
