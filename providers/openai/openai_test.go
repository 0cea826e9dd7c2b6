package openai_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, f providers.Factory, cfg providers.Config) providers.Provider {
	t.Helper()
	if cfg.APIKey == "" {
		cfg.APIKey = "test-key-0123456789"
	}
	p, err := f(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOpenAIPassesTheContract(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, openai.New, providers.Config{Name: "gpt", BaseURL: url})
	}, providertest.OpenAI)
}

func TestDeepSeekPassesTheContract(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, openai.NewDeepSeek, providers.Config{BaseURL: url + "/v1/"})
	}, providertest.OpenAI)
}

// collect asks p and returns the whole answer.
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

func TestTheRequestIsWhatTheServerUnderstands(t *testing.T) {
	warm := 0.25
	options := func(o protocol.RequestOptions) *providers.Request {
		return &providers.Request{Analysis: &protocol.Request{Options: o}, Model: "m", System: "sys", Prompt: "p"}
	}
	for _, tc := range []struct {
		name string
		new  providers.Factory
		req  *providers.Request
		want string
	}{
		{"nothing asked for", openai.New, &providers.Request{Model: "m", Prompt: "p"},
			`{"model":"m","messages":[{"role":"user","content":"p"}],"stream":true,"stream_options":{"include_usage":true}}`},
		{"the default model", openai.New, &providers.Request{Prompt: "p"},
			`{"model":"gpt-6-astra","messages":[{"role":"user","content":"p"}],"stream":true,"stream_options":{"include_usage":true}}`},
		{"options", openai.New, func() *providers.Request {
			r := options(protocol.RequestOptions{Temperature: &warm, Reasoning: "low"})
			r.MaxTokens = 50
			return r
		}(), `{"model":"m","messages":[{"role":"system","content":"sys"},{"role":"user","content":"p"}],"stream":true,"stream_options":{"include_usage":true},` +
			`"temperature":0.25,"max_tokens":50,"reasoning_effort":"low"}`},
		{"no reasoning", openai.New, options(protocol.RequestOptions{Reasoning: "off"}),
			`{"model":"m","messages":[{"role":"system","content":"sys"},{"role":"user","content":"p"}],"stream":true,"stream_options":{"include_usage":true},"reasoning_effort":"none"}`},
		{"DeepSeek without thinking", openai.NewDeepSeek, options(protocol.RequestOptions{Reasoning: "off"}),
			`{"model":"m","messages":[{"role":"system","content":"sys"},{"role":"user","content":"p"}],"stream":true,"stream_options":{"include_usage":true},"thinking":{"type":"disabled"}}`},
		{"DeepSeek with thinking", openai.NewDeepSeek, options(protocol.RequestOptions{Reasoning: "high"}),
			`{"model":"m","messages":[{"role":"system","content":"sys"},{"role":"user","content":"p"}],"stream":true,"stream_options":{"include_usage":true},"thinking":{"type":"enabled"}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("ok")})
			collect(t, must(t, tc.new, providers.Config{BaseURL: up.URL, Headers: map[string]string{"X-Title": "Athena tests"}}), tc.req)
			call := up.Calls()[0]
			if string(call.Body) != tc.want {
				t.Errorf("the body is\n%s\nwant\n%s", call.Body, tc.want)
			}
			if got := call.Header; got.Get("Authorization") != "Bearer test-key-0123456789" || got.Get("X-Title") != "Athena tests" ||
				got.Get("Content-Type") != "application/json" || got.Get("Accept") != "text/event-stream" {
				t.Errorf("the headers are %v", got)
			}
		})
	}
}

func TestABaseURLIsUnderstoodWithAndWithoutItsPath(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("ok")})
	for _, tc := range []struct {
		new        providers.Factory
		base, path string
	}{
		{openai.New, "", "/v1/chat/completions"},
		{openai.New, "/", "/v1/chat/completions"},
		{openai.New, "/v1", "/v1/chat/completions"},
		{openai.New, "/v1/", "/v1/chat/completions"},
		{openai.New, "/api/v1", "/api/v1/chat/completions"},
		{openai.New, "/v1/chat/completions", "/v1/chat/completions"},
		{openai.New, "/openai?api-version=1", "/openai/chat/completions"},
		{openai.NewDeepSeek, "", "/chat/completions"},
		{openai.NewDeepSeek, "/v1", "/v1/chat/completions"},
	} {
		collect(t, must(t, tc.new, providers.Config{BaseURL: up.URL + tc.base}), &providers.Request{Model: "m", Prompt: "p"})
		calls := up.Calls()
		if got := calls[len(calls)-1].Path; got != tc.path {
			t.Errorf("base %q is called at %q, want %q", tc.base, got, tc.path)
		}
	}
}

func TestAWrongConfigurationIsSaidWithItsField(t *testing.T) {
	for want, cfg := range map[string]providers.Config{
		"base_url must begin with http:// or https:// and a host":                        {BaseURL: "localhost:11434"},
		"base_url is not a URL":                                                          {BaseURL: "http://[::1:secret"},
		"base_url must not contain a user or password; put them into api_key or headers": {BaseURL: "https://u:secret@host/v1"},
		"api_key contains a space or another character that no key has":                  {APIKey: "sec\nret"},
		"headers: X-A is not a valid header":                                             {Headers: map[string]string{"X-A": "sec\r\nret"}},
		"client: a Timeout would cut long answers":                                       {Client: &http.Client{Timeout: time.Second}},
	} {
		if _, err := openai.New(cfg); err == nil || err.Error() != want {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
}

func TestTheDefaultsAreTheVendors(t *testing.T) {
	for name, p := range map[string]providers.Provider{
		"openai":   must(t, openai.New, providers.Config{}),
		"deepseek": must(t, openai.NewDeepSeek, providers.Config{}),
	} {
		if p.Name() != name || len(p.Features().Models) == 0 || !p.Features().Reasoning {
			t.Errorf("%s: %q, %+v", name, p.Name(), p.Features())
		}
	}
	p := must(t, openai.New, providers.Config{Models: []string{"llama"}})
	if got := p.Features().Models; !slices.Equal(got, []string{"llama"}) {
		t.Errorf("the configured models became %q", got)
	}
}

func TestRateLimitsAreReadFromTheHeaders(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Header: http.Header{
		"X-Ratelimit-Limit-Requests": {"60"}, "X-Ratelimit-Remaining-Requests": {"59"}, "X-Ratelimit-Reset-Requests": {"6m0s"},
		"X-Ratelimit-Remaining-Tokens": {"149984"}, "X-Ratelimit-Reset-Tokens": {"20ms"},
	}})
	p := must(t, openai.New, providers.Config{BaseURL: up.URL}).(*openai.Provider)
	if l, ok := p.RateLimits(); ok {
		t.Errorf("before the first answer the limits are %+v", l)
	}
	collect(t, p, &providers.Request{Model: "m", Prompt: "p"})
	l, ok := p.RateLimits()
	want := providers.RateLimits{RequestsLimit: 60, RequestsRemaining: 59, TokensLimit: -1, TokensRemaining: 149984, At: l.At,
		RequestsReset: l.At.Add(6 * time.Minute), TokensReset: l.At.Add(20 * time.Millisecond)}
	if !ok || l != want || time.Since(l.At) > time.Minute {
		t.Errorf("the limits are %+v, want %+v", l, want)
	}
}

// serve answers with body as an event stream.
func serve(t *testing.T, body string) providers.Provider {
	t.Helper()
	up := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 200, Body: body,
		Header: http.Header{"Content-Type": {"text/event-stream"}}}})
	return must(t, openai.New, providers.Config{Name: "x", BaseURL: up.URL})
}

func TestWhatServersOfTheDialectReallySend(t *testing.T) {
	complete := func(text, reasoning, finish string, u *protocol.Usage) providertest.Answer {
		return providertest.Answer{Text: text, Reasoning: reasoning, Usage: u,
			Outcome: providers.Outcome{State: providers.StateComplete, FinishReason: finish, Model: "m", Usage: u}}
	}
	fails := func(text string, code protocol.Code) providertest.Answer {
		return providertest.Answer{Text: text, Outcome: providers.Outcome{State: providers.StateError, Model: "m", Err: &protocol.Error{Code: code}}}
	}
	for _, tc := range []struct {
		name, body string
		want       providertest.Answer
	}{
		{"DeepSeek: thinking, keep-alive comments, usage with the finish",
			": keep-alive\n\n" + `data: {"choices":[{"index":0,"delta":{"content":null,"reasoning_content":"hm"},"finish_reason":null}]}` + "\n\n: keep-alive\n\n" +
				`data: {"choices":[{"index":0,"delta":{"content":"hi","reasoning_content":null},"finish_reason":null}]}` + "\n\n" +
				`data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_cache_hit_tokens":8}}` + "\n\ndata: [DONE]\n\n",
			complete("hi", "hm", "stop", &protocol.Usage{InputTokens: 9, OutputTokens: 2, CachedTokens: 8})},
		{"OpenRouter: comments, reasoning under two names",
			": OPENROUTER PROCESSING\n\n" + `data: {"choices":[{"delta":{"reasoning":"a","reasoning_content":"a"}}]}` + "\n\n" +
				`data: {"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}` + "\n\n",
			complete("b", "a", "stop", nil)},
		{"a server without finish_reason", `data: {"choices":[{"delta":{"content":"b"}}]}` + "\n\ndata: [DONE]\n\n", complete("b", "", "stop", nil)},
		{"a server with usage in each chunk",
			`data: {"choices":[{"delta":{"content":"b"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}` + "\n\n" +
				`data: {"choices":[{"delta":{},"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}` + "\n\n",
			complete("b", "", "length", &protocol.Usage{InputTokens: 1, OutputTokens: 2})},
		{"no space after the colon, data in several lines", "data:{\"choices\":\ndata:[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}]}\n\n", complete("b", "", "stop", nil)},
		{"a byte order mark", "\xef\xbb\xbfdata: {\"choices\":[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}]}\n\n", complete("b", "", "stop", nil)},
		{"a refusal", `data: {"choices":[{"delta":{"refusal":"I can't"}}]}` + "\n\n" + `data: {"choices":[{"delta":{},"finish_reason":"stop"}]}` + "\n\n", complete("I can't", "", "refusal", nil)},
		{"[DONE] after nothing", "data: [DONE]\n\n", providertest.Answer{Outcome: providers.Outcome{Model: "m", Err: &protocol.Error{Code: protocol.CodeStreamInterrupted}}}},
		{"a last event without its blank line", `data: {"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}` + "\n",
			providertest.Answer{Outcome: providers.Outcome{Model: "m", Err: &protocol.Error{Code: protocol.CodeStreamInterrupted}}}},
		{"an error with a status for its code", `data: {"error":{"code":429,"message":"slow down"},"choices":[]}` + "\n\n", fails("", protocol.CodeRateLimited)},
		{"an error as text", `data: {"error":"model runner has stopped"}` + "\n\n", fails("", protocol.CodeServiceUnavailable)},
		{"an error in the choice", `data: {"choices":[{"delta":{"content":"b"},"finish_reason":"error","error":{"code":502,"message":"gone"}}]}` + "\n\n", fails("b", protocol.CodeServiceUnavailable)},
		{"out of resources", `data: {"choices":[{"delta":{"content":"b"},"finish_reason":"insufficient_system_resource"}]}` + "\n\n", fails("b", protocol.CodeServiceUnavailable)},
		{"content that is no text", `data: {"choices":[{"delta":{"content":{"a":1}}}]}` + "\n\n", fails("", protocol.CodeInvalidResponse)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := collect(t, serve(t, tc.body), &providers.Request{Model: "m", Prompt: "p"})
			if want := tc.want.Outcome.Err; want != nil {
				if a.Outcome.Err == nil || a.Outcome.Err.Code != want.Code || a.Outcome.Err.Provider != "x" {
					t.Errorf("the error is %v, want %s", a.Outcome.Err, want.Code)
				}
				if tc.want.Outcome.State == providers.StateError && a.Err != error(a.Outcome.Err) {
					t.Errorf("Next ended with %v", a.Err)
				}
				if tc.name == "out of resources" || tc.name == "an error in the choice" {
					a.Outcome.FinishReason = ""
				}
				a.Outcome.Err, tc.want.Outcome.Err, a.Err = nil, nil, nil
			}
			a.Chunks = 0
			if !reflect.DeepEqual(a, tc.want) {
				t.Errorf("the answer is\n%+v\nwant\n%+v", a, tc.want)
			}
		})
	}
}

// Vendors that always say why an answer ends have broken off one that doesn't:
// a proxy between may still have ended it politely.
func TestDoneWithoutAReasonIsNoEndAtTheVendors(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, `data: {"choices":[{"delta":{"content":"half"}}]}`+"\n\ndata: [DONE]\n\n")
	}))
	defer srv.Close()
	for name, tc := range map[string]struct {
		new  providers.Factory
		want providers.State
	}{"deepseek": {openai.NewDeepSeek, providers.StateTruncated}, "compatible": {openai.NewChat, providers.StateComplete}} {
		a := collect(t, must(t, tc.new, providers.Config{Name: "x", BaseURL: srv.URL}), question)
		if a.Text != "half" || a.Outcome.State != tc.want {
			t.Errorf("%s: the answer is %+v, want state %v", name, a, tc.want)
		}
	}
}

func TestAJSONAnswerWithAnErrorIsThatError(t *testing.T) {
	body, err := json.Marshal(map[string]any{"error": map[string]any{"message": "busy", "type": "overloaded_error"}})
	if err != nil {
		t.Fatal(err)
	}
	up := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 200, Body: string(body)}})
	_, err = must(t, openai.New, providers.Config{Name: "x", BaseURL: up.URL}).Stream(t.Context(), &providers.Request{Model: "m"})
	if e := protocol.AsError(err); e.Code != protocol.CodeServiceUnavailable || e.Provider != "x" {
		t.Errorf("the error is %v", err)
	}
}
