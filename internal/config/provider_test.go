package config_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/config"
)

// only loads a file with an entry "mine" and returns that provider.
func only(t *testing.T, entry string, args ...string) (config.Provider, error) {
	t.Helper()
	s, err := load(t, "providers:\n  mine:\n    dialect: openai\n    base_url: http://127.0.0.1:1\n"+entry, nil, args...)
	if err != nil {
		return config.Provider{}, err
	}
	return s.Providers[slices.IndexFunc(s.Providers, func(p config.Provider) bool { return p.Name == "mine" })], nil
}

func TestEveryKeyOfAnEntryIsRead(t *testing.T) {
	yes, no := true, false
	base := usual(config.Provider{Name: "mine", Dialect: "openai", BaseURL: "http://127.0.0.1:1", Priority: 50})
	for _, c := range []struct {
		entry string
		want  func(*config.Provider)
	}{
		{"", func(*config.Provider) {}},
		{"    weight:\n    features:\n    limits: {queue: }\n    models: \n", func(*config.Provider) {}},
		{"    models: one\n", func(p *config.Provider) { p.Models = []config.Model{{ID: "one"}} }},
		{"    models: {id: one, context_tokens: 8192}\n", func(p *config.Provider) { p.Models = []config.Model{{ID: "one", ContextTokens: 8192}} }},
		{`    models:
      - {id: big, context_tokens: 200000, max_output_tokens: 64000, price: {input: 3, output: 15, cached_input: 0.3}}
      - small
      - id: free
        price: {output: 1e-2}
`, func(p *config.Provider) {
			p.Models = []config.Model{
				{ID: "big", ContextTokens: 200000, MaxOutputTokens: 64000, Price: config.Price{Input: 3, Output: 15, CachedInput: 0.3}},
				{ID: "small"}, {ID: "free", Price: config.Price{Output: 0.01}},
			}
		}},
		{"    priority: -3\n    weight: 7\n", func(p *config.Provider) { p.Priority, p.Weight = -3, 7 }},
		{"    protocol: auto\n", func(*config.Provider) {}},
		{"    protocol: websocket\n", func(p *config.Provider) { p.Protocol = "websocket" }},
		{"    protocol: sse\n", func(p *config.Provider) { p.Protocol = "sse" }},
		{"    protocol: polling\n    background: true\n", func(p *config.Provider) { p.Protocol, p.Background = "polling", true }},
		{"    features: {streaming: false, batching: true, function_calling: false, prefill: true}\n", func(p *config.Provider) {
			p.Features = config.Features{Streaming: &no, Batching: &yes, FunctionCalling: &no, Prefill: &yes}
		}},
		{"    features: {prefill: false}\n", func(p *config.Provider) { p.Features.Prefill = &no }},
		{"    limits: {requests_per_minute: 60, tokens_per_minute: 100000, concurrency: 4, queue: 0}\n", func(p *config.Provider) {
			p.RequestsPerMinute, p.TokensPerMinute, p.Concurrency, p.Queue = 60, 100_000, 4, 0
			p.Connections.Max, p.Connections.Idle = 8, 4
		}},
		{"    hedge_after: 1500ms\n", func(p *config.Provider) { p.HedgeAfter = 1500 * time.Millisecond }},
		{"    hedge_after: 0\n", func(p *config.Provider) { p.HedgeAfter = 0 }},
		{"    hedge_after: off\n", func(p *config.Provider) { p.HedgeAfter = 0 }},
		{"    timeouts: {connect: 2s, headers: 3s, first_content: 4s, idle: 5s}\n", func(p *config.Provider) {
			p.ConnectTimeout, p.HeaderTimeout, p.FirstContentTimeout, p.IdleTimeout = 2*time.Second, 3*time.Second, 4*time.Second, 5*time.Second
		}},
		{"    min_rate: 1KiB\n", func(p *config.Provider) { p.MinRate = 1024 }},
		{"    connections: {max: 9, idle: 0, idle_timeout: 5m, http2: false}\n", func(p *config.Provider) {
			p.Connections = config.Connections{Max: 9, IdleTimeout: 5 * time.Minute}
		}},
		{"    connections: {max: 3}\n", func(p *config.Provider) { p.Connections.Max, p.Connections.Idle = 3, 3 }},
		{"    headers: {X-A: b}\n", func(p *config.Provider) { p.Headers = map[string]config.Secret{"X-A": "b"} }},
	} {
		want := base
		c.want(&want)
		if got, err := only(t, c.entry); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got  %+v, %v\nwant %+v", c.entry, got, err, want)
		}
	}
}

func TestAnEntryTakesWhatItLeavesOutFromTheGlobalSettings(t *testing.T) {
	args := []string{"--hedge-after=0", "--connect-timeout=1s", "--header-timeout=2s", "--first-content-timeout=3s", "--idle-timeout=4s",
		"--min-rate=50", "--provider-concurrency=3", "--provider-queue=0"}
	want := config.Provider{
		Name: "mine", Dialect: "openai", BaseURL: "http://127.0.0.1:1", Priority: 50, Weight: 1, Concurrency: 3,
		ConnectTimeout: time.Second, HeaderTimeout: 2 * time.Second, FirstContentTimeout: 3 * time.Second, IdleTimeout: 4 * time.Second,
		MinRate: 50, Connections: config.Connections{Max: 6, Idle: 3, IdleTimeout: config.DefaultIdleTimeout, HTTP2: true},
	}
	if got, err := only(t, "", args...); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	want.HedgeAfter, want.MinRate, want.IdleTimeout, want.Queue = time.Second, 0, time.Minute, 5
	if got, err := only(t, "    hedge_after: 1s\n    min_rate: 0\n    timeouts: {idle: 1m}\n    limits: {queue: 5}\n", args...); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestHedgingCanBeTurnedOffEverywhere(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		env  []string
		args []string
	}{
		"off in the file": {yaml: "hedge_after: off\n"}, "0 in the file": {yaml: "hedge_after: 0\n"},
		"off in a variable": {env: []string{"ATHENA_HEDGE_AFTER=off"}}, "0 in a variable": {env: []string{"ATHENA_HEDGE_AFTER=0"}},
		"off in a flag": {args: []string{"--hedge-after=off"}}, "0 in a flag": {args: []string{"--hedge-after", "0"}},
	} {
		if s, err := load(t, c.yaml, c.env, c.args...); err != nil || s.HedgeAfter != 0 || s.Providers[0].HedgeAfter != 0 {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	for _, text := range []string{"never", "8"} {
		if _, err := load(t, "hedge_after: "+text+"\n", nil); err == nil || !strings.Contains(err.Error(), "line 1, key hedge_after: expected a duration such as 8s, or off, but got") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestTheLocalAnalyserHasAsManyWorkersAsMayRun(t *testing.T) {
	for _, c := range []struct {
		yaml string
		want int
	}{
		{"cpu_limit: 3\nprovider_concurrency: 50\n", 3},
		{"cpu_limit: 3\nproviders: {local: {limits: {queue: 1}}}\n", 3},
		{"cpu_limit: 3\nproviders: {local: {limits: {concurrency: 2}}}\n", 2},
	} {
		if s, err := load(t, c.yaml, nil); err != nil || s.Providers[0].Concurrency != c.want {
			t.Errorf("%s: %+v, %v", c.yaml, s, err)
		}
	}
}

func TestEveryDialectCanBeNamed(t *testing.T) {
	for _, d := range config.Dialects {
		entry := "providers: {mine: {dialect: " + d + ", base_url: \"http://127.0.0.1:1\"}}\n"
		if d == "local" {
			entry = "providers: {mine: {dialect: local}}\n"
		}
		if s, err := load(t, entry, nil); err != nil || s.Providers[0].Dialect != d {
			t.Errorf("%s: %+v, %v", d, s, err)
		}
	}
}

func TestEveryMistakeInAnEntryIsToldWithItsLineAndKey(t *testing.T) {
	// The entry's first line is the file's fifth.
	for _, c := range []struct{ entry, want string }{
		{"    weight: 0\n", "line 5, key providers.mine.weight: is 0; it must be from 1 to 1000000"},
		{"    weight: much\n", "line 5, key providers.mine.weight: must be a whole number"},
		{"    priority: 99999999999\n", "line 5, key providers.mine.priority: is 99999999999; it must be from"},
		{"    protocol: pigeon\n", "line 5, key providers.mine.protocol: must be one of auto, websocket, sse, polling"},
		{"    background: perhaps\n", "line 5, key providers.mine.background: must be true or false"},
		{"    features: {streaming: 3}\n", "line 5, key providers.mine.features.streaming: must be true or false"},
		{"    features: {telepathy: true}\n", "line 5, key providers.mine.features.telepathy: is not known; known are streaming, batching, function_calling, prefill"},
		{"    features: [streaming]\n", "line 5, key providers.mine.features: must be a map of keys to values"},
		{"    limits:\n      requests_per_minute: -1\n", "line 6, key providers.mine.limits.requests_per_minute: is -1; it must be from 0 to"},
		{"    limits:\n      tokens_per_minute: 1.5\n", "line 6, key providers.mine.limits.tokens_per_minute: must be a whole number"},
		{"    limits: {concurrency: 0}\n", "line 5, key providers.mine.limits.concurrency: is 0; it must be from 1 to 100000"},
		{"    limits: {queue: -1}\n", "line 5, key providers.mine.limits.queue: is -1; it must be from 0 to 1000000"},
		{"    limits: {tokens: 3}\n", "line 5, key providers.mine.limits.tokens: is not known; known are requests_per_minute, tokens_per_minute, concurrency, queue"},
		{"    hedge_after: 8\n", "line 5, key providers.mine.hedge_after: must be a duration with its unit, such as 250ms, 8s or 2m"},
		{"    hedge_after: -1s\n", "line 5, key providers.mine.hedge_after: is -1s; it must be from 0s to 1h0m0s"},
		{"    hedge_after: {a: b}\n", "line 5, key providers.mine.hedge_after: must be a duration"},
		{"    timeouts: {connect: 1ms}\n", "line 5, key providers.mine.timeouts.connect: is 1ms; it must be from 100ms to 1h0m0s"},
		{"    timeouts: {headers: 2h}\n", "line 5, key providers.mine.timeouts.headers: is 2h0m0s"},
		{"    timeouts: {first_content: 0}\n", "line 5, key providers.mine.timeouts.first_content: is 0s"},
		{"    timeouts: {idle: soon}\n", "line 5, key providers.mine.timeouts.idle: must be a duration"},
		{"    timeouts: {total: 1m}\n", "line 5, key providers.mine.timeouts.total: is not known; known are connect, headers, first_content, idle"},
		{"    min_rate: fast\n", `line 5, key providers.mine.min_rate: "fast" is not a size`},
		{"    min_rate: 1GiB\n", "line 5, key providers.mine.min_rate: is 1GiB; it must be from 0 to 1MiB"},
		{"    connections: {max: 0}\n", "line 5, key providers.mine.connections.max: is 0; it must be from 1 to 100000"},
		{"    connections: {idle: many}\n", "line 5, key providers.mine.connections.idle: must be a whole number"},
		{"    connections: {idle_timeout: 1ms}\n", "line 5, key providers.mine.connections.idle_timeout: is 1ms; it must be from 1s to 1h0m0s"},
		{"    connections: {http2: maybe}\n", "line 5, key providers.mine.connections.http2: must be true or false"},
		{"    connections: {http3: true}\n", "line 5, key providers.mine.connections.http3: is not known; known are max, idle, idle_timeout, http2"},
		{"    connections: {max: 2, idle: 3}\n", "line 2, key providers.mine: connections.idle is 3, more than connections.max (2)"},
		{"    models:\n      - a\n      - \"\"\n", "line 7, key providers.mine.models[1]: has no id"},
		{"    models:\n      - a\n      - a\n", `line 7, key providers.mine.models[1]: has the id "a" of another`},
		{"    models:\n      - [a]\n", "line 6, key providers.mine.models[0]: must be a model's id, or a map with id in it"},
		{"    models:\n      - {context_tokens: 5}\n", "line 6, key providers.mine.models[0]: has no id"},
		{"    models:\n      - id: a\n        context_tokens: 0\n", "line 7, key providers.mine.models[0].context_tokens: is 0; it must be from 1 to 1000000000"},
		{"    models:\n      - {id: a, max_output_tokens: x}\n", "line 6, key providers.mine.models[0].max_output_tokens: must be a whole number"},
		{"    models:\n      - {id: a, max_output_tokens: 9, context_tokens: 8}\n", "line 6, key providers.mine.models[0]: max_output_tokens is more than context_tokens"},
		{"    models:\n      - {id: a, size: 8}\n", "line 6, key providers.mine.models[0].size: is not known; known are id, context_tokens, max_output_tokens, price"},
		{"    models:\n      - {id: a, price: 8}\n", "line 6, key providers.mine.models[0].price: must be a map of keys to values"},
		{"    models:\n      - {id: a, price: {input: -1}}\n", "line 6, key providers.mine.models[0].price.input: must be US dollars per million tokens, from 0 to 1e+06"},
		{"    models:\n      - {id: a, price: {output: NaN}}\n", "line 6, key providers.mine.models[0].price.output: must be US dollars"},
		{"    models:\n      - {id: a, price: {cached: 1}}\n", "line 6, key providers.mine.models[0].price.cached: is not known; known are input, output, cached_input"},
		{"    headers: {X-A: [b]}\n", "line 5, key providers.mine.headers.X-A: must be text"},
	} {
		if _, err := only(t, c.entry); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\nwant %q", c.entry, err, c.want)
		}
	}
	for _, key := range []string{"protocol: sse", "background: true", "connections: {max: 3}", "headers: {A: b}", "base_url: \"http://x\""} {
		_, err := load(t, "providers: {local: {"+key+"}}\n", nil)
		if err == nil || !strings.Contains(err.Error(), "line 1, key providers.local: the dialect local runs in the server; it takes no ") {
			t.Errorf("local with %s: %v", key, err)
		}
	}
}

func TestWhatFollowsAnErrorCanBeChanged(t *testing.T) {
	want := []config.Recovery{{Code: "timeout", Strategy: "failover"}, {Code: "rate_limited", Strategy: "fail"}}
	for name, c := range map[string]struct {
		yaml string
		env  []string
		args []string
	}{
		"flags":        {args: []string{"--recovery", "timeout=failover", "--recovery=rate_limited=fail"}},
		"one flag":     {args: []string{"--recovery=timeout=failover,rate_limited=fail"}},
		"the variable": {env: []string{"ATHENA_RECOVERY=timeout=failover,rate_limited = fail"}},
		"a list":       {yaml: "recovery: [timeout=failover, rate_limited=fail]\n"},
		"a map":        {yaml: "recovery:\n  timeout: failover\n  rate_limited: fail\n"},
		"a flag wins":  {yaml: "recovery: {internal: fail}\n", args: []string{"--recovery=timeout=failover,rate_limited=fail"}},
	} {
		if s, err := load(t, c.yaml, c.env, c.args...); err != nil || !reflect.DeepEqual(s.Recovery, want) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	for _, c := range []struct{ yaml, want string }{
		{"\nrecovery: {timeout: pray}\n", `line 2, key recovery: "pray" is not what can follow timeout; it must be one of retry, failover, queue, degrade, fail`},
		{"recovery: {bad_luck: fail}\n", `line 1, key recovery: "bad_luck" is not an error that a provider's call ends with; they are timeout, connection_failed,`},
		{"recovery: [timeout]\n", `line 1, key recovery: "timeout" is not CODE=STRATEGY, such as timeout=failover`},
		{"recovery: {timeout: [fail]}\n", `line 1, key recovery.timeout: must be text`},
		{"recovery: [timeout=fail, timeout=retry]\n", `recovery: timeout is named twice`},
	} {
		if _, err := load(t, c.yaml, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.yaml, err, c.want)
		}
	}
	table := config.Table()
	for _, word := range append(slices.Clone(config.RecoveryCodes), config.RecoveryStrategies...) {
		_, row, _ := strings.Cut(table, "| `--recovery` |")
		if row, _, _ = strings.Cut(row, "\n"); !strings.Contains(row, word) {
			t.Errorf("the help of --recovery doesn't name %s", word)
		}
	}
}

func TestDegradingCanBeTurnedOnAndOff(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		env  []string
		args []string
		want bool
	}{
		"by default":      {},
		"a flag":          {args: []string{"--degrade"}, want: true},
		"a variable":      {env: []string{"ATHENA_DEGRADE=true"}, want: true},
		"the file":        {yaml: "degrade: true\n", want: true},
		"the flag for no": {yaml: "degrade: true\n", args: []string{"--no-degrade"}},
	} {
		if s, err := load(t, c.yaml, c.env, c.args...); err != nil || s.Degrade != c.want {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func TestNumbersOfFailoverHaveBounds(t *testing.T) {
	for _, c := range []struct{ flag, want string }{
		{"--after-content=discard", "--after-content must be one of"},
		{"--hedge-after=-1s", "hedge_after: is -1s; it must be from 0s to 1h0m0s"},
		{"--max-attempts=0", "max_attempts: is 0; it must be from 1 to 100"},
		{"--max-retries=-1", "max_retries: is -1; it must be from 0 to 100"},
		{"--retry-backoff=0s", "retry_backoff: is 0s; it must be from 1ms to 1h0m0s"},
		{"--retry-backoff=11s", "retry_backoff: is 11s, more than retry_backoff_max (10s)"},
		{"--retry-backoff-max=2h", "retry_backoff_max: is 2h0m0s"},
		{"--retry-budget=1.5", "retry_budget: is 1.5; it must be from 0 to 1"},
		{"--retry-budget=NaN", "retry_budget: is NaN; it must be from 0 to 1"},
		{"--rate-limit-wait=-1s", "rate_limit_wait: is -1s"},
		{"--min-rate=2MiB", "min_rate: is 2MiB; it must be from 0 to 1MiB"},
		{"--min-rate-window=1ms", "min_rate_window: is 1ms; it must be from 1s to 1h0m0s"},
		{"--breaker-failures=0", "breaker_failures: is 0; it must be from 1 to 1000000"},
		{"--breaker-window=0s", "breaker_window: is 0s"},
		{"--breaker-slow-after=-1s", "breaker_slow_after: is -1s"},
		{"--breaker-backoff=random", "--breaker-backoff must be one of"},
		{"--breaker-base=11s", "breaker_base: is 11s, more than breaker_max (10s)"},
		{"--breaker-max=1ms", "breaker_max: is 1ms; it must be from 10ms to 1h0m0s"},
		{"--breaker-probes=0", "breaker_probes: is 0; it must be from 1 to 1000"},
		{"--provider-concurrency=0", "provider_concurrency: is 0; it must be from 1 to 100000"},
		{"--provider-queue=-1", "provider_queue: is -1; it must be from 0 to 1000000"},
		{"--network-limit=0", "network_limit: is 0"},
		{"--cpu-limit=0", "cpu_limit: is 0"},
		{"--memory-limit=0", "memory_limit: is 0"},
		{"--tenant-requests-per-minute=-1", "tenant_requests_per_minute: is -1; it must be from 0 to"},
		{"--tenant-tokens-per-minute=-1", "tenant_tokens_per_minute: is -1; it must be from 0 to"},
	} {
		if _, err := load(t, "", nil, c.flag); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.flag, err, c.want)
		}
	}
}
