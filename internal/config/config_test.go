package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/athena-hub/athena/internal/config"
)

const home = "HOME=/home/ada"

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "athena.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, yaml string, env []string, args ...string) (*config.Serve, error) {
	t.Helper()
	if yaml != "" {
		args = append(args, "--config", write(t, yaml))
	}
	return config.Load(args, append([]string{home}, env...))
}

// usual fills p with what the default settings give every provider.
func usual(p config.Provider) config.Provider {
	p.Weight, p.Concurrency, p.Queue, p.HedgeAfter = 1, 20, 100, 8*time.Second
	p.ConnectTimeout, p.HeaderTimeout, p.FirstContentTimeout, p.IdleTimeout = 10*time.Second, time.Minute, 2*time.Minute, time.Minute
	if p.Dialect == "local" {
		p.Concurrency = 5
	} else {
		p.Connections = config.Connections{Max: 40, Idle: 20, IdleTimeout: time.Minute, HTTP2: true}
	}
	return p
}

func TestWithoutAnySettingTheDefaultsHold(t *testing.T) {
	s, err := load(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Serve{
		Listen: "127.0.0.1:8080", DataDir: "/home/ada/.local/share/athena", Node: "athena", LogLevel: "info", LogFormat: "auto",
		ClusterListen: "127.0.0.1:6222", ClusterLease: 5 * time.Second, ClusterForgetAfter: 10 * time.Second, DrainDelay: 3 * time.Second, Takeover: true,
		AuthGrace: 30 * time.Second, JWTJWKSRefresh: 15 * time.Minute, JWTLeeway: 30 * time.Second, JWTTenantClaim: "tenant", JWTDefaultScopes: []string{"analyze", "read", "cancel", "providers"},
		Transports: []string{"websocket", "sse", "long-poll"}, Heartbeat: 15 * time.Second, WriteTimeout: 30 * time.Second,
		ProbeTimeout: 3 * time.Second, ReconnectDelay: 2 * time.Second, CoalesceWindow: 25 * time.Millisecond, MessageBytes: 31 << 10,
		PollBytes: 256 << 10, PollMaxWait: time.Minute, ResultMaxWait: 10 * time.Minute, MaxStreams: 64, MaxConnections: 15000,
		FeedBytes: 4 << 20, FeedsBytes: 256 << 20, HistoryAge: 7 * 24 * time.Hour, HistoryBytes: 4 << 30, HistoryStreamBytes: 64 << 20,
		BatchInterval: 250 * time.Millisecond, BatchBytes: 16 << 10, OrphanTimeout: 2 * time.Minute, ConnectTimeout: 10 * time.Second,
		HeaderTimeout: time.Minute, FirstContentTimeout: 2 * time.Minute, IdleTimeout: time.Minute, TotalTimeout: 30 * time.Minute,
		MaxCodeBytes: 1 << 20, MaxOutputBytes: 4 << 20, MaxAnalyses: 256, ReadHeaderTimeout: 10 * time.Second, BodyTimeout: 30 * time.Second,
		KeepAlive: 2 * time.Minute, MaxHeaderBytes: 32 << 10, DrainTimeout: 30 * time.Second,
		AfterContent: "restart", HedgeAfter: 8 * time.Second, HealthInterval: time.Minute, CacheBytes: 64 << 20, CacheAge: 24 * time.Hour, MaxAttempts: 6, MaxRetries: 2, RetryBackoff: 250 * time.Millisecond,
		RetryBackoffMax: 10 * time.Second, RetryBudget: 0.2, RateLimitWait: 15 * time.Second, MinRateWindow: 10 * time.Second,
		BreakerFailures: 5, BreakerWindow: 30 * time.Second, BreakerSlowAfter: time.Minute, BreakerBackoff: "exponential",
		BreakerBase: time.Second, BreakerMax: 10 * time.Second, BreakerProbes: 1,
		VaultTimeout: 5 * time.Second, VaultInterval: 30 * time.Second, KeyFileInterval: time.Second,
		ProviderConcurrency: 20, ProviderQueue: 100, NetworkLimit: 50, CPULimit: 5, MemoryLimit: 3,
		Edge: usualEdge,
		Limits: config.Limits{LimitAddressFailures: 30, LimitAddressBlock: 10 * time.Second, LimitAddressBlockMax: 15 * time.Minute,
			ShedFrom: 0.8, ShedLate: time.Second, RedisTimeout: 100 * time.Millisecond, RedisFailure: "local"},
		Providers: []config.Provider{usual(config.Provider{Name: "local", Dialect: "local", Priority: 1000})},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
}

func TestAFlagWinsOverAVariableAndThatOverTheFile(t *testing.T) {
	const yaml = "heartbeat: 20s\ntransports: [sse, long-poll]\nmax_streams: 7\ninsecure: true\nfeed_bytes: 1MiB\n"
	env := []string{"ATHENA_HEARTBEAT=30s", "ATHENA_TRANSPORTS=long-poll,websocket", "ATHENA_LOG_LEVEL=warn"}
	type values struct {
		heartbeat  time.Duration
		transports string
		streams    int
		insecure   bool
		feed       config.Bytes
		level      string
	}
	for _, c := range []struct {
		name string
		env  []string
		args []string
		want values
	}{
		{"file", nil, nil, values{20 * time.Second, "[sse long-poll]", 7, true, 1 << 20, "info"}},
		{"file and variables", env, nil, values{30 * time.Second, "[long-poll websocket]", 7, true, 1 << 20, "warn"}},
		{"an empty variable counts as none", []string{"ATHENA_HEARTBEAT="}, nil, values{20 * time.Second, "[sse long-poll]", 7, true, 1 << 20, "info"}},
		{"all three", env, []string{"--heartbeat=40s", "--transports=sse", "--max-streams=9", "--insecure=false"}, values{40 * time.Second, "[sse]", 9, false, 1 << 20, "warn"}},
	} {
		s, err := load(t, yaml, c.env, c.args...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := (values{s.Heartbeat, fmt.Sprint(s.Transports), s.MaxStreams, s.Insecure, s.FeedBytes, s.LogLevel}); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestTheProcessEnvironmentIsNotRead(t *testing.T) {
	t.Setenv("ATHENA_NODE", "wrong")
	t.Setenv("OPENAI_API_KEY", "wrong")
	s, err := load(t, "", []string{"ATHENA_NODE=right"})
	if err != nil || s.Node != "right" || len(s.Providers) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestTheFileMayBeNamedByAVariable(t *testing.T) {
	s, err := load(t, "", []string{"ATHENA_CONFIG=" + write(t, "node: n7\n")})
	if err != nil || s.Node != "n7" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestServeIsACommandAmongOthers(t *testing.T) {
	var cli struct {
		Serve   config.Serve `cmd:"" help:"Run."`
		Analyze struct {
			Server string `env:"TEST_ATHENA_SERVER"`
		} `cmd:""`
	}
	t.Setenv("TEST_ATHENA_SERVER", "http://there")
	parse := func(args ...string) (string, error) {
		var out strings.Builder
		cli.Serve, cli.Analyze.Server = config.Serve{}, ""
		exited := false
		k, err := kong.New(&cli, append(config.Options([]string{home, "ATHENA_NODE=n1", "ATHENA_HEARTBEAT=bad"}), kong.Writers(&out, &out),
			kong.Exit(func(int) { exited = true }))...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = k.Parse(args)
		if exited {
			err = nil
		}
		return out.String(), err
	}
	if _, err := parse("analyze"); err != nil || cli.Analyze.Server != "http://there" {
		t.Errorf("another command: %v, %q", err, cli.Analyze.Server)
	}
	if _, err := parse("serve"); err == nil || !strings.Contains(err.Error(), "variable ATHENA_HEARTBEAT: ") {
		t.Errorf("a bad variable: %v", err)
	}
	if _, err := parse("serve", "--heartbeat=20s"); err != nil || cli.Serve.Node != "n1" || cli.Serve.DataDir != "/home/ada/.local/share/athena" || len(cli.Serve.Providers) != 1 {
		t.Errorf("%+v, %v", cli.Serve, err)
	}
	if help, _ := parse("serve", "--help"); !strings.Contains(strings.Join(strings.Fields(help), " "), "How long a connection may be idle before a heartbeat is sent. ($ATHENA_HEARTBEAT)") ||
		!strings.Contains(help, "~/.local/share/athena") {
		t.Errorf("help:\n%s", help)
	}
}

func TestServeMayBeEmbeddedInACommand(t *testing.T) {
	type serveCommand struct {
		config.Serve `embed:""`
		Open         bool
		Token        string `env:"TEST_ATHENA_TOKEN"`
	}
	var cli struct {
		Serve serveCommand `cmd:""`
	}
	t.Setenv("TEST_ATHENA_TOKEN", "t")
	path := write(t, "max_streams: 7\nproviders: {mine: {dialect: openai, base_url: \"http://127.0.0.1:1\"}}\n")
	k, err := kong.New(&cli, config.Options([]string{home, "ATHENA_NODE=n1", "ATHENA_OPEN=true", "ATHENA_CONFIG=" + path})...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse([]string{"serve", "--heartbeat=20s"}); err != nil {
		t.Fatal(err)
	}
	s := cli.Serve
	if s.Node != "n1" || s.MaxStreams != 7 || s.Heartbeat != 20*time.Second || len(s.Providers) != 2 || s.Open || s.Token != "t" {
		t.Errorf("%+v", s)
	}
	if err := os.WriteFile(path, []byte("open: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err = kong.New(&cli, config.Options([]string{home, "ATHENA_CONFIG=" + path})...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse([]string{"serve"}); err == nil || !strings.Contains(err.Error(), "line 1, key open: is not known") {
		t.Errorf("a flag that is not Serve's, in the file: %v", err)
	}
}

func TestEveryProblemOfTheFileIsToldWithLineAndKey(t *testing.T) {
	path := write(t, `heartbeat: 20s
heart_beat: 1s
max-streams: 3
node: [a, {b: c}]
node: x
providers:
  Bad Name: {}
  mine:
    dialekt: openai
    priority: high
    models: {a: b}
    api_key: sk-1
    api_key_env: MY_KEY
  other: 5
  last: {api_key_env: "sk-canary-in-the-wrong-place", base_url: "http://x"}
`)
	_, err := config.Load([]string{"--config", path}, []string{home})
	want := []string{
		`line 2, key heart_beat: is not known`,
		`line 3, key max-streams: is not known; it is written "max_streams"`,
		`line 4, key node: its items must be plain values`,
		`line 5, key node: stands there twice`,
		`line 7, key providers.Bad Name: a provider's name is lower-case letters, digits, ".", "_" and "-", and not "auto"`,
		`line 9, key providers.mine.dialekt: is not known; known are dialect, base_url, api_key, api_key_env, api_key_file, keys, headers, models, priority, weight, ` +
			`protocol, background, features, limits, hedge_after, timeouts, min_rate, connections`,
		`line 10, key providers.mine.priority: must be a whole number`,
		`line 11, key providers.mine.models.a: is not known; known are id, context_tokens, max_output_tokens, price`,
		`line 11, key providers.mine.models: has no id`,
		`line 8, key providers.mine: has both api_key and api_key_env; one of them is enough`,
		`line 14, key providers.other: must be a map of keys to values`,
		`line 15, key providers.last.api_key_env: must be the name of a variable`,
		`line 8, key providers.mine: the variable MY_KEY that api_key_env names is not set; set it, or use another`,
	}
	for i, w := range want {
		want[i] = path + ", " + w
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got:\n%v\nwant:\n%s", err, strings.Join(want, "\n"))
	}
}

func TestAValueThatDoesNotFitIsToldWithItsPlace(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"\nheartbeat: 15\n", `line 2, key heartbeat: `},
		{"max_streams: many\n", `line 1, key max_streams: `},
		{"feed_bytes: 4 parsecs\n", `line 1, key feed_bytes: "4 parsecs" is not a size`},
		{"log_level: loud\n", `line 1, key log_level: is "loud"; it must be one of trace, debug, info, warn, error, off`},
		{"node: a\n---\nnode: b\n", `has something after its first YAML document`},
		{"node: [\n", `line 1`},
		{"- a\n", `must be a map of keys to values`},
	} {
		if _, err := load(t, c.yaml, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.yaml, err, c.want)
		}
	}
	if _, err := config.Load([]string{"--config", filepath.Join(t.TempDir(), "none")}, []string{home}); err == nil || !strings.Contains(err.Error(), "read configuration: ") {
		t.Errorf("a missing file: %v", err)
	}
	if s, err := load(t, "# nothing\n", nil); err != nil || s.Node != "athena" {
		t.Errorf("an empty file: %v", err)
	}
}

func TestEverythingWrongIsToldAtOnceWithWhereItStands(t *testing.T) {
	path := write(t, `max_streams: many
max_connections: -5
heartbeat: 1y
log_level: loud
feeds_bytes: 2MiB
listen: 0.0.0.0:80
api_key: {a: b}
transports: [sse, sse]
no_such: 1
providers:
  mine: {priority: high}
  openai: {weight: 2, base_url: "ftp://x"}
`)
	_, err := config.Load([]string{"--config", path, "--max-analyses=0"}, []string{home,
		"ATHENA_BREAKER_BACKOFF=random", "ATHENA_CPU_LIMIT=0", "ATHENA_IDLE_TIMEOUT=long", "ANTHROPIC_BASE_URL=ftp://x", "ATHENA_HISTORY_BYTES=0"})
	want := []string{
		path + `, line 7, key api_key: must be a plain value or a list of them`,
		path + `, line 9, key no_such: is not known`,
		path + `, line 11, key providers.mine.priority: must be a whole number`,
		path + `, line 4, key log_level: is "loud"; it must be one of trace, debug, info, warn, error, off`,
		path + `, line 3, key heartbeat: expected duration but got "1y": time: unknown unit "y" in duration "1y"`,
		path + `, line 1, key max_streams: expected a valid 64 bit int but got "many"`,
		`variable ATHENA_IDLE_TIMEOUT: expected duration but got "long": time: invalid duration "long"`,
		`variable ATHENA_BREAKER_BACKOFF: is "random"; it must be one of linear, exponential, fibonacci`,
		`provider claude, from ANTHROPIC_BASE_URL: base_url must be an address such as https://api.example.com/v1`,
		path + `, line 12, key providers.openai: base_url must be an address such as https://api.example.com/v1`,
		path + `, line 8, key transports: sse is named twice`,
		`variable ATHENA_HISTORY_BYTES: is 0; it must be from 1MiB to 1024TiB`,
		path + `, line 2, key max_connections: is -5; it must be from 1 to 10000000`,
		`max_analyses: is 0; it must be from 1 to 1000000`,
		`variable ATHENA_CPU_LIMIT: is 0; it must be from 1 to 100000`,
		path + `, line 5, key feeds_bytes: feed_bytes: is 4MiB, more than feeds_bytes (2MiB); one stream must fit into the memory for all`,
		`variable ATHENA_HISTORY_BYTES: history_stream_bytes: is 64MiB, more than history_bytes (0)`,
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got:\n%v\nwant:\n%s", err, strings.Join(want, "\n"))
	}
}

func TestAFileThatCannotBeReadIsToldWithWhatElseIsWrong(t *testing.T) {
	_, err := load(t, "node: [\n", []string{"ATHENA_HEARTBEAT=1y"}, "--listen=0.0.0.0:80")
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "athena.yaml: yaml: line 1") || !strings.Contains(err.Error(), "variable ATHENA_HEARTBEAT: ") {
		t.Errorf("got %v; want the two mistakes, and nothing of the keys that the file may have", err)
	}
}

func TestVariablesThatMeanNothingAreKnown(t *testing.T) {
	got := config.UnknownVariables([]string{
		"ATHENA_API_KEYS=0123456789abcdef", "ATHENA_HEARTBEET=1s", "ATHENA_FLUX=1", "ATHENA_PORT=8080",
		"ATHENA_API_KEY=0123456789abcdef", "ATHENA_CONFIG=x", "ATHENA_SERVER=x", "ATHENA_TEST_X=1", "ATHENA_EMPTY=", "HOME=/", "XATHENA_Y=1", "ATHENA=1",
		"ATHENA_SERVICE_HOST=10.0.0.1", "ATHENA_SERVICE_PORT_HTTP=80", "ATHENA_PORT_80_TCP_ADDR=10.0.0.1",
	}, "ATHENA_SERVER", "ATHENA_TEST_")
	want := []config.UnknownVariable{{"ATHENA_API_KEYS", "ATHENA_API_KEY"}, {"ATHENA_FLUX", ""}, {"ATHENA_HEARTBEET", "ATHENA_HEARTBEAT"}, {"ATHENA_PORT", ""}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := config.UnknownVariables([]string{"ATHENA_PORT=tcp://10.0.0.1:80"}); got != nil {
		t.Errorf("a link of Kubernetes is %v", got)
	}
}

func TestProvidersComeFromVariablesAndEntriesOverrideThem(t *testing.T) {
	const yaml = `
providers:
  openai:
    models: [big, small]
    headers: {X-Org: acme}
  claude: {api_key_env: OTHER_KEY, priority: 99}
  ollama: {dialect: openai, base_url: "http://127.0.0.1:11434/v1", models: qwen}
`
	env := []string{"OPENAI_API_KEY=sk-o", "OPENAI_BASE_URL=http://127.0.0.1:9/v1", "DEEPSEEK_BASE_URL=http://127.0.0.1:8", "ANTHROPIC_API_KEY=sk-a", "OTHER_KEY=sk-b"}
	s, err := load(t, yaml, env)
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Provider{
		usual(config.Provider{Name: "openai", Dialect: "openai", BaseURL: "http://127.0.0.1:9/v1", APIKey: "sk-o", Models: []config.Model{{ID: "big"}, {ID: "small"}}, Priority: 20, Headers: map[string]config.Secret{"X-Org": "acme"}}),
		usual(config.Provider{Name: "deepseek", Dialect: "deepseek", BaseURL: "http://127.0.0.1:8", Priority: 30}),
		usual(config.Provider{Name: "ollama", Dialect: "openai", BaseURL: "http://127.0.0.1:11434/v1", Models: []config.Model{{ID: "qwen"}}, Priority: 50}),
		usual(config.Provider{Name: "claude", Dialect: "claude", APIKey: "sk-b", Priority: 99}),
		usual(config.Provider{Name: "local", Dialect: "local", Priority: 1000}),
	}
	if !reflect.DeepEqual(s.Providers, want) {
		t.Errorf("got  %#v\nwant %#v", s.Providers, want)
	}
	if s, err := load(t, "providers: {local: {priority: -1}}\n", []string{"ANTHROPIC_API_KEY=sk-a"}); err != nil || s.Providers[0].Name != "local" {
		t.Errorf("local first by its priority: %v, %v", s, err)
	}
}

func TestEveryWrongSettingIsToldAtOnce(t *testing.T) {
	const canary = "canary-of-a-key"
	_, err := load(t, `
providers:
  mine: {dialect: openai}
  odd: {dialect: gemini}
  url: {dialect: openai, base_url: "https://u:canary-of-a-key@x/"}
  local: {api_key: canary-of-a-key}
  env: {dialect: claude, base_url: "http://x", api_key_env: NOT_SET}
  head: {dialect: openai, base_url: "ftp://x", headers: {"a b": canary-of-a-key}}
`, nil, "--listen=0.0.0.0:80", "--node=a b", "--heartbeat=1ms", "--transports=sse,sse,ipx", "--max-streams=65", "--message-bytes=1",
		"--feed-bytes=1GiB", "--history-stream-bytes=5GiB", "--allowed-origin=https://x/path", "--allowed-origin=null", "--allowed-origin=https://*.com")
	if err == nil {
		t.Fatal("no error")
	}
	wants := []string{
		"listen: 0.0.0.0:80 can be reached from other machines, and there is no API key; give one with --api-key or --api-key-file, or say --insecure",
		"key providers.mine: has no key; give api_key or api_key_env, or the base_url of a server that needs none",
		`key providers.odd: dialect is "gemini"; it must be one of claude, deepseek, local, openai, openai-chat, openai-responses`,
		"key providers.url: base_url must not hold credentials",
		"key providers.local: the dialect local runs in the server",
		"key providers.env: the variable NOT_SET that api_key_env names is not set",
		"key providers.head: base_url must be an address", "key providers.head: headers.a b is not a header",
		`node: "a b" is not`, "heartbeat: is 1ms; it must be from 1s to 1h0m0s", "transports: sse is named twice", `transports: "ipx" is none of`,
		"max_streams: is 65; it must be from 1 to 64", "message_bytes: is 1; it must be from 1KiB to 1MiB",
		"feed_bytes: is 1GiB, more than feeds_bytes (256MiB)", "history_stream_bytes: is 5GiB, more than history_bytes (4GiB)",
		`allowed_origin: "https://x/path" is not an origin`, `allowed_origin: "null" is not an origin`, `allowed_origin: "https://*.com": "*." may only`,
	}
	for _, w := range wants {
		if strings.Count(err.Error(), w) != 1 {
			t.Errorf("want once %q", w)
		}
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines != len(wants) || strings.Contains(err.Error(), canary) {
		t.Errorf("%d lines, want %d:\n%v", lines, len(wants), err)
	}
}

func TestAnAddressBeyondLoopbackNeedsAKeyOrInsecure(t *testing.T) {
	for _, c := range []struct {
		args []string
		ok   bool
	}{
		{[]string{"--listen=127.0.0.1:0"}, true}, {[]string{"--listen=127.9.9.9:80"}, true}, {[]string{"--listen=[::1]:80"}, true},
		{[]string{"--listen=localhost:80"}, true}, {[]string{"--listen=[::ffff:127.0.0.1]:80"}, true},
		{[]string{"--listen=:8080"}, false}, {[]string{"--listen=[::]:8080"}, false}, {[]string{"--listen=192.0.2.1:80"}, false},
		{[]string{"--listen=localhost.evil.example:80"}, false},
		{[]string{"--listen=:8080", "--insecure"}, true}, {[]string{"--listen=:8080", "--api-key=0123456789abcdef"}, true},
		{[]string{"--listen=:8080", "--api-key=short"}, false}, {[]string{"--listen=8080"}, false}, {[]string{"--listen=127.0.0.1:http"}, false},
	} {
		if _, err := load(t, "", nil, c.args...); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.args, err)
		}
	}
}

func TestKeysHaveNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte("# ours\n\nci=cccccccccccccccc\r\ndddddddddddddddd==\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := load(t, "", nil, "--api-key=aaaaaaaaaaaaaaaa", "--api-key=ada=bbbbbbbbbbbbbbbb", "--api-key-file", path)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := s.Keys()
	want := []config.Key{{"key-1", "aaaaaaaaaaaaaaaa"}, {"ada", "bbbbbbbbbbbbbbbb"}, {"ci", "cccccccccccccccc"}, {"key-4", "dddddddddddddddd=="}}
	if err != nil || !reflect.DeepEqual(keys, want) {
		t.Errorf("%v, %v", keys, err)
	}
	if out := fmt.Sprintf("%v %+v %#v %s", s, s, s, keys); strings.Contains(out, "aaaa") || strings.Contains(out, "bbbb") {
		t.Errorf("a key is shown: %s", out)
	}
	for _, args := range [][]string{
		{"--api-key=aaaaaaaaaaaaaaaa", "--api-key=aaaaaaaaaaaaaaaa"}, {"--api-key=a=aaaaaaaaaaaaaaaa", "--api-key=a=bbbbbbbbbbbbbbbb"},
		{"--api-key=with a space in it"}, {"--api-key-file", filepath.Join(t.TempDir(), "none")}, {"--api-key-file", write(t, "# none\n")},
	} {
		if _, err := load(t, "", nil, args...); err == nil || strings.Contains(err.Error(), "aaaa") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestTheDataDirectoryFollowsTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		env, args []string
		want      string
	}{
		{[]string{"XDG_DATA_HOME=/data", home}, nil, "/data/athena"},
		{[]string{"XDG_DATA_HOME=relative", home}, nil, "/home/ada/.local/share/athena"},
		{[]string{home}, []string{"--data-dir=~/x"}, "/home/ada/x"},
		{nil, []string{"--data-dir=d"}, "d"},
	} {
		if s, err := config.Load(c.args, c.env); err != nil || s.DataDir != c.want {
			t.Errorf("%v %v: %+v, %v", c.env, c.args, s, err)
		}
	}
	if _, err := config.Load(nil, nil); err == nil || !strings.Contains(err.Error(), "data_dir: neither XDG_DATA_HOME nor HOME") {
		t.Errorf("no home: %v", err)
	}
}

func TestSizesAreReadAndWritten(t *testing.T) {
	for _, c := range []struct {
		text string
		want config.Bytes
		back string
	}{{"0", 0, "0"}, {"31KiB", 31 << 10, "31KiB"}, {" 4 GiB ", 4 << 30, "4GiB"}, {"1kB", 1000, "1000"}, {"2TB", 2e12, "1953125000KiB"}, {"1025", 1025, "1025"}, {"7B", 7, "7"}} {
		var b config.Bytes
		if err := b.UnmarshalText([]byte(c.text)); err != nil || b != c.want || b.String() != c.back {
			t.Errorf("%q: %d %s, %v", c.text, b, b, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1.5MiB", "9000000000TiB", "1 KiB KiB"} {
		if err := new(config.Bytes).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestTheTableHasEverySettingAndDefault(t *testing.T) {
	table := config.Table()
	for _, row := range []string{
		"| `--listen` | `ATHENA_LISTEN` | `listen` | `127.0.0.1:8080` | Address to listen on",
		"| `--config` | `ATHENA_CONFIG` |  |  | YAML file",
		"| `--insecure` | `ATHENA_INSECURE` | `insecure` | `false` |",
		"| `ANTHROPIC_API_KEY` | `claude` | its API key |",
		`https://\*.example.com`, "Default: $XDG_DATA_HOME/athena",
	} {
		if !strings.Contains(table, row) {
			t.Errorf("no %q in\n%s", row, table)
		}
	}
	want := -1 // Providers
	for _, f := range reflect.VisibleFields(reflect.TypeFor[config.Serve]()) {
		if !f.Anonymous {
			want++
		}
	}
	if n := strings.Count(table, "| `--"); n != want {
		t.Errorf("%d rows, want %d", n, want)
	}
}

func FuzzAFileIsReadOrRefused(f *testing.F) {
	f.Add("node: x\nproviders: {a: {models: [b]}}\n")
	f.Add("a: &a [*a]\n")
	f.Add("? {a: b}\n: c\n")
	f.Add("limit_tenant: {acme: requests:600 bytes:1MiB, b: [x]}\n")
	f.Add("recovery: {timeout: fail}\nproviders: {a: {dialect: openai, base_url: \"http://x\", models: [{id: b, price: {input: 1}}, c], hedge_after: off, limits: {queue: 0}}}\n")
	f.Add("providers: {a: {models: &a [*a], timeouts: &t {idle: 1s}, connections: *t, features: {prefill: }}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := config.Load([]string{"--config", path}, []string{home})
		if (s == nil) == (err == nil) {
			t.Errorf("%v, %v", s, err)
		}
	})
}
