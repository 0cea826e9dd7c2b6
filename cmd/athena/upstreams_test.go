package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/connections"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/providertest"
)

// configured is what the settings in a file make, and in flags.
func configured(t *testing.T, yaml string, args ...string) (*config.Serve, *upstreams, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "athena.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(append([]string{"--config", path, "--data-dir", t.TempDir()}, args...), nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := newUpstreams(cfg)
	if u != nil {
		t.Cleanup(u.close)
	}
	return cfg, u, err
}

func TestTheConfigurationKnowsWhatTheProgramDoes(t *testing.T) {
	if got := dialects().Dialects(); !slices.Equal(got, config.Dialects) {
		t.Errorf("the dialects are %q, those of the configuration %q", got, config.Dialects)
	}
	var strategies []string
	for _, s := range analysis.Strategies {
		strategies = append(strategies, string(s))
	}
	if !slices.Equal(strategies, config.RecoveryStrategies) {
		t.Errorf("the strategies are %q, those of the configuration %q", strategies, config.RecoveryStrategies)
	}
	for _, code := range config.RecoveryCodes {
		if _, ok := analysis.DefaultRecovery[protocol.Code(code)]; !ok {
			t.Errorf("nothing follows %s by default", code)
		}
	}
	var growths []string
	for _, g := range []resilience.Growth{resilience.Linear, resilience.Exponential, resilience.Fibonacci} {
		growths = append(growths, string(g))
	}
	if !strings.Contains(config.Table(), strings.Join(growths[:2], ", ")+" or "+growths[2]) {
		t.Errorf("the growths are %q, which the help of --breaker-backoff doesn't say", growths)
	}
}

func TestAnEntryBecomesWhatTheAnalysesUse(t *testing.T) {
	_, u, err := configured(t, `
providers:
  mine:
    dialect: openai-chat
    base_url: http://127.0.0.1:1
    models: [{id: big, context_tokens: 8000, max_output_tokens: 500, price: {input: 3, output: 15, cached_input: 0.5}}, small]
    priority: 1
    weight: 4
    features: {function_calling: false}
    limits: {requests_per_minute: 60, tokens_per_minute: 9000, concurrency: 3, queue: 0}
    hedge_after: off
    timeouts: {headers: 2s, first_content: 3s, idle: 4s}
    min_rate: 12
  plain: {dialect: claude, base_url: "http://127.0.0.1:1"}
`, "--header-timeout=7s", "--first-content-timeout=8s", "--idle-timeout=9s", "--hedge-after=5s")
	if err != nil {
		t.Fatal(err)
	}
	want := []analysis.Entry{
		{
			Priority: 1, Weight: 4, Concurrency: 3, Queue: -1, Class: resilience.ClassNetwork, HedgeAfter: -1, MinRate: 12,
			Limits:        accounting.Limits{RequestsPerMinute: 60, TokensPerMinute: 9000},
			HeaderTimeout: 2 * time.Second, FirstContentTimeout: 3 * time.Second, IdleTimeout: 4 * time.Second,
			Models: map[string]providers.ModelInfo{"big": {ContextTokens: 8000, MaxOutputTokens: 500, Price: providers.Price{Input: 3, Output: 15, CachedInput: 0.5}}},
		},
		{
			Priority: config.DefaultPriority, Weight: 1, Concurrency: 20, Queue: 100, Class: resilience.ClassNetwork, HedgeAfter: 5 * time.Second, MinRate: -1,
			HeaderTimeout: 7 * time.Second, FirstContentTimeout: 8 * time.Second, IdleTimeout: 9 * time.Second, Models: map[string]providers.ModelInfo{},
		},
		{
			Priority: 1000, Weight: 1, Concurrency: 5, Queue: 100, Class: resilience.ClassCPU, HedgeAfter: 5 * time.Second, MinRate: -1,
			HeaderTimeout: 7 * time.Second, FirstContentTimeout: 8 * time.Second, IdleTimeout: 9 * time.Second, Models: map[string]providers.ModelInfo{},
		},
	}
	var names []string
	for i := range u.entries {
		names = append(names, u.entries[i].Provider.Name())
		f := u.entries[i].Provider.Features()
		if i == 0 && (!slices.Equal(f.Models, []string{"big", "small"}) || f.FunctionCalling) {
			t.Errorf("the features of %s are %+v", names[i], f)
		}
		u.entries[i].Provider = nil
	}
	if !slices.Equal(names, []string{"mine", "plain", "local"}) || !reflect.DeepEqual(u.entries, want) {
		t.Errorf("%q: got  %+v\nwant %+v", names, u.entries, want)
	}
	if len(u.pools) != 2 || u.pools["mine"] == nil || u.pools["plain"] == nil || u.pools["mine"] == u.pools["plain"] {
		t.Errorf("the pools are %v", u.pools)
	}
}

func TestAProtocolThatTheDialectDoesNotHaveIsAMistakeOfTheConfiguration(t *testing.T) {
	for _, entry := range []string{"dialect: openai-chat, protocol: websocket", "dialect: openai-chat, background: true"} {
		_, _, err := configured(t, "providers: {mine: {base_url: \"http://127.0.0.1:1\", "+entry+"}}\n")
		if e, ok := errors.AsType[*exitError](err); !ok || e.code != exitUsage || !strings.Contains(err.Error(), `provider "mine": `) {
			t.Errorf("%s: %v", entry, err)
		}
	}
}

func TestEachProviderHasConnectionsOfItsOwn(t *testing.T) {
	one := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("yes")})
	two := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("yes")})
	_, u, err := configured(t, `
providers:
  one: {dialect: openai-chat, base_url: "`+one.URL+`", models: m}
  two: {dialect: claude, base_url: "`+two.URL+`", models: m, connections: {idle: 0}}
`)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range u.entries[:2] {
		for range 3 + i {
			s, err := e.Provider.Stream(t.Context(), &providers.Request{Analysis: &protocol.Request{Code: "x"}, Model: "m", Prompt: "?"})
			if err != nil {
				t.Fatal(err)
			}
			if a, err := providertest.Collect(s); err != nil || a.Text != "yes" || a.Outcome.State != providers.StateComplete {
				t.Errorf("%s: %+v, %v", e.Provider.Name(), a, err)
			}
		}
	}
	if s := u.pools["one"].State(); s != (connections.State{Open: 1, Idle: 1, Opened: 1, Reused: 2}) {
		t.Errorf("one: %+v", s)
	}
	if s := u.pools["two"].State(); s.Opened != 4 || s.Reused != 0 || s.Calls != 0 {
		t.Errorf("two, which keeps none: %+v", s)
	}
}
