package claude_test

import (
	"net/http"
	"reflect"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/claude"
	"github.com/athena-hub/athena/providers/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, cfg providers.Config) providers.Provider {
	t.Helper()
	if cfg.APIKey == "" {
		cfg.APIKey = "test-key-0123456789"
	}
	p, err := claude.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestClaudePassesTheContract(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, providers.Config{BaseURL: url})
	}, providertest.Claude)
}

func collect(t *testing.T, p providers.Provider, req *providers.Request) providertest.Answer {
	t.Helper()
	s, err := p.Stream(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	a, err := providertest.Collect(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTheRequestIsWhatTheAPIDemands(t *testing.T) {
	hot := 1.7
	ask := func(model, reasoning string, max int) *providers.Request {
		return &providers.Request{Analysis: &protocol.Request{Options: protocol.RequestOptions{Temperature: &hot, Reasoning: reasoning}},
			Model: model, Prompt: "p", MaxTokens: max}
	}
	const rest = `"stream":true,"messages":[{"role":"user","content":"p"}]`
	for _, tc := range []struct {
		name string
		req  *providers.Request
		want string
	}{
		{"the defaults", &providers.Request{System: "sys", Prompt: "p"},
			`{"model":"claude-opus-5-5","max_tokens":16000,"stream":true,"system":"sys","messages":[{"role":"user","content":"p"}]}`},
		{"a temperature above the wire's", ask("m", "", 10), `{"model":"m","max_tokens":10,` + rest + `,"temperature":1}`},
		{"reasoning off", ask("m", "off", 10), `{"model":"m","max_tokens":10,` + rest + `,"temperature":1,"thinking":{"type":"disabled"}}`},
		{"reasoning", ask("claude-opus-5-5", "high", 10),
			`{"model":"claude-opus-5-5","max_tokens":10,` + rest + `,"thinking":{"type":"adaptive","display":"summarized"},"output_config":{"effort":"high"}}`},
		{"reasoning with a budget", ask("claude-haiku-4-5", "medium", 64000),
			`{"model":"claude-haiku-4-5","max_tokens":64000,` + rest + `,"thinking":{"type":"enabled","budget_tokens":8192}}`},
		{"an answer too short for a budget", ask("claude-haiku-4-5", "medium", 2000), `{"model":"claude-haiku-4-5","max_tokens":2000,` + rest + `,"temperature":1}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("ok")})
			collect(t, must(t, providers.Config{BaseURL: up.URL}), tc.req)
			call := up.Calls()[0]
			if string(call.Body) != tc.want {
				t.Errorf("the body is\n%s\nwant\n%s", call.Body, tc.want)
			}
			if h := call.Header; h.Get("X-Api-Key") != "test-key-0123456789" || h.Get("Anthropic-Version") != "2023-06-01" || h.Get("Authorization") != "" {
				t.Errorf("the headers are %v", h)
			}
		})
	}
}

func TestABaseURLIsUnderstoodWithAndWithoutV1(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("ok")})
	for base, path := range map[string]string{"": "/v1/messages", "/": "/v1/messages", "/v1": "/v1/messages", "/v1/": "/v1/messages",
		"/anthropic": "/anthropic/v1/messages", "/v1/messages": "/v1/messages"} {
		collect(t, must(t, providers.Config{BaseURL: up.URL + base}), &providers.Request{Model: "m", Prompt: "p"})
		calls := up.Calls()
		if got := calls[len(calls)-1].Path; got != path {
			t.Errorf("base %q is called at %q, want %q", base, got, path)
		}
	}
}

func TestRateLimitsAreReadFromTheHeaders(t *testing.T) {
	reset := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	up := providertest.NewUpstream(t, providertest.Script{Header: http.Header{
		"Anthropic-Ratelimit-Requests-Limit": {"50"}, "Anthropic-Ratelimit-Requests-Remaining": {"0"},
		"Anthropic-Ratelimit-Requests-Reset": {reset.Format(time.RFC3339)}, "Anthropic-Ratelimit-Tokens-Limit": {"80000"},
	}})
	p := must(t, providers.Config{BaseURL: up.URL}).(*claude.Provider)
	collect(t, p, &providers.Request{Model: "m", Prompt: "p"})
	l, ok := p.RateLimits()
	want := providers.RateLimits{RequestsLimit: 50, RequestsRemaining: 0, RequestsReset: reset, TokensLimit: 80000, TokensRemaining: -1, At: l.At}
	if !ok || l != want {
		t.Errorf("the limits are %+v, want %+v", l, want)
	}
}

const start = `event: message_start
data: {"type":"message_start","message":{"id":"msg_1","model":"m","usage":{"input_tokens":10,"cache_creation_input_tokens":5,"cache_read_input_tokens":100,"output_tokens":1}}}

`

const stop = `event: message_stop
data: {"type":"message_stop"}

`

func serve(t *testing.T, body string) providertest.Answer {
	t.Helper()
	up := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 200, Body: body,
		Header: http.Header{"Content-Type": {"text/event-stream"}}}})
	return collect(t, must(t, providers.Config{Name: "x", BaseURL: up.URL}), &providers.Request{Model: "m", Prompt: "p"})
}

func TestUsageIsCumulativeAndThePromptIsWhole(t *testing.T) {
	a := serve(t, start+`event: message_delta
data: {"type":"message_delta","delta":{},"usage":{"output_tokens":20}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":33,"output_tokens_details":{"thinking_tokens":12}}}

`+stop)
	want := &protocol.Usage{InputTokens: 115, OutputTokens: 33, CachedTokens: 100, ReasoningTokens: 12}
	if !reflect.DeepEqual(a.Outcome.Usage, want) || !reflect.DeepEqual(a.Usage, want) || a.Outcome.State != providers.StateComplete {
		t.Errorf("the usage is %+v and %+v, want %+v", a.Outcome.Usage, a.Usage, want)
	}
}

func TestWhatIsNotTheAnswerIsIgnored(t *testing.T) {
	a := serve(t, start+`event: ping
data: {"type": "ping"}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"redacted_thinking","data":"xyz"}}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":"A"}}

event: brand_new_event
data: {"type":"brand_new_event","text":"no"}

data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"B"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"citations_delta","citation":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"brand_new_delta","text":"no"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}

`+stop)
	if a.Text != "AB" || a.Reasoning != "" || a.Outcome.State != providers.StateComplete || a.Err != nil {
		t.Errorf("the answer is %+v", a)
	}
}

func TestAnEndWithoutAReasonIsNone(t *testing.T) {
	a := serve(t, start+`event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"half"}}

`+stop)
	if a.Text != "half" || a.Outcome.State != providers.StateTruncated || a.Outcome.Err == nil || a.Outcome.Err.Code != protocol.CodeStreamInterrupted {
		t.Errorf("the answer is %+v", a)
	}
}

func TestARefusalSaysWhy(t *testing.T) {
	a := serve(t, start+`event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"type":"refusal","category":"cyber","explanation":"It looks like an attack."}},"usage":{"output_tokens":3}}

`+stop)
	want := "content_filtered (x): the provider refused to go on: It looks like an attack."
	if a.Err == nil || a.Err.Error() != want || a.Outcome.FinishReason != "refusal" || a.Outcome.Usage.OutputTokens != 3 {
		t.Errorf("the answer is %+v, want the error %q", a, want)
	}
}
