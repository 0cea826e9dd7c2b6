package openai_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

var withPrefill = providers.FeatureOverrides{Prefill: new(true)}

func TestACompatibleServerWithPrefillPassesTheContract(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, openai.NewChat, providers.Config{BaseURL: url, Features: withPrefill})
	}, providertest.OpenAI)
}

func TestDeepSeekWithPrefillPassesTheContract(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, openai.NewDeepSeek, providers.Config{BaseURL: url, Features: withPrefill})
	}, providertest.OpenAI)
}

func TestAPartialAnswerIsContinuedAsTheServerAllows(t *testing.T) {
	user := providertest.Turn{Role: "user", Text: "p"}
	prefilled := []providertest.Turn{user, {Role: "assistant", Text: "It is\n"}}
	goOn := append(slices.Clone(prefilled), providertest.Turn{Role: "user", Text: providers.ContinuePrompt})
	for _, tc := range []struct {
		name                string
		new                 providers.Factory
		base, reasoning     string
		features            providers.FeatureOverrides
		path                string
		turns               []providertest.Turn
		prefix, add, resume string // what is said of the last message
		thinking            string
	}{
		{name: "any server", new: openai.NewChat, path: "/v1/chat/completions", turns: goOn},
		{name: "a server with prefill", new: openai.NewChat, features: withPrefill, path: "/v1/chat/completions", turns: prefilled, add: "false", resume: "true"},
		{name: "DeepSeek", new: openai.NewDeepSeek, path: "/chat/completions", turns: goOn},
		{name: "DeepSeek's beta", new: openai.NewDeepSeek, features: withPrefill, path: "/beta/chat/completions", turns: prefilled, prefix: "true", thinking: "disabled"},
		{name: "DeepSeek's beta behind /v1", new: openai.NewDeepSeek, base: "/v1", features: withPrefill, path: "/beta/chat/completions", turns: prefilled, prefix: "true", thinking: "disabled"},
		{name: "DeepSeek's beta as the base", new: openai.NewDeepSeek, base: "/beta", features: withPrefill, path: "/beta/chat/completions", turns: prefilled, prefix: "true", thinking: "disabled"},
		{name: "DeepSeek, thinking", new: openai.NewDeepSeek, features: withPrefill, reasoning: "high", path: "/chat/completions", turns: goOn, thinking: "enabled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("so")})
			p := must(t, tc.new, providers.Config{BaseURL: up.URL + tc.base, Features: tc.features})
			collect(t, p, &providers.Request{Model: "m", System: "sys", Prompt: "p", Partial: "It is\n",
				Analysis: &protocol.Request{Options: protocol.RequestOptions{Reasoning: tc.reasoning}}})
			call := up.Calls()[0]
			if turns := call.Turns(); !slices.Equal(turns, tc.turns) || call.Path != tc.path {
				t.Errorf("the conversation at %s is %q, want %q at %s", call.Path, turns, tc.turns, tc.path)
			}
			for path, want := range map[string]string{"messages.@reverse.0.prefix": tc.prefix, "add_generation_prompt": tc.add,
				"continue_final_message": tc.resume, "thinking.type": tc.thinking} {
				if got := gjson.GetBytes(call.Body, path).String(); got != want {
					t.Errorf("%s is %q, want %q", path, got, want)
				}
			}
		})
	}
}

func TestEachErrorOfTheServersIsWhatItIsCalledHere(t *testing.T) {
	body := func(message, kind, code string) string {
		return `{"error":{"message":"` + message + `","type":"` + kind + `","param":null,"code":"` + code + `"}}`
	}
	for _, tc := range []struct {
		name      string
		new       providers.Factory
		status    int
		body      string
		header    http.Header
		code      protocol.Code
		retryable bool
		afterMS   int64
	}{
		{name: "a wrong request", status: 400, body: body("Unsupported parameter", "invalid_request_error", "unsupported_parameter"), code: protocol.CodeInvalidRequest},
		{name: "a refused prefill", status: 400, body: body("This model does not support assistant message prefill. The conversation must end with a user message.", "invalid_request_error", ""), code: protocol.CodeInvalidRequest},
		{name: "a prompt too long", status: 400, body: body("This model's maximum context length is 128000 tokens", "invalid_request_error", "context_length_exceeded"), code: protocol.CodeContextTooLong},
		{name: "filtered", status: 400, body: body("filtered", "invalid_request_error", "content_filter"), code: protocol.CodeContentFiltered},
		{name: "a wrong key", status: 401, body: body("Incorrect API key provided", "invalid_request_error", "invalid_api_key"), code: protocol.CodeUnauthorized},
		{name: "a country", status: 403, body: body("Country not supported", "request_forbidden", "unsupported_country_region_territory"), code: protocol.CodeForbidden},
		{name: "no such model", status: 404, body: body("The model does not exist", "invalid_request_error", "model_not_found"), code: protocol.CodeInvalidRequest},
		{name: "a body too large", status: 413, code: protocol.CodeContextTooLong},
		{name: "too many requests", status: 429, body: body("Rate limit reached", "requests", "rate_limit_exceeded"), code: protocol.CodeRateLimited, retryable: true},
		{name: "too many requests, and how long", status: 429, body: body("Rate limit reached", "tokens", "rate_limit_exceeded"),
			header: http.Header{"Retry-After": {"2"}, "Retry-After-Ms": {"1620"}}, code: protocol.CodeRateLimited, retryable: true, afterMS: 1620},
		{name: "no quota", status: 429, body: body("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), header: http.Header{"Retry-After": {"2"}}, code: protocol.CodeQuotaExceeded},
		{name: "an internal error", status: 500, body: body("The server had an error", "server_error", ""), code: protocol.CodeServiceUnavailable, retryable: true},
		{name: "not to be retried", status: 500, body: body("The server had an error", "server_error", ""), header: http.Header{"X-Should-Retry": {"false"}}, code: protocol.CodeServiceUnavailable},
		{name: "overloaded", status: 503, body: body("The engine is overloaded", "service_unavailable_error", ""), header: http.Header{"Retry-After": {"1"}}, code: protocol.CodeServiceUnavailable, retryable: true, afterMS: 1000},
		{name: "too late", status: 504, body: "<html>Gateway timeout</html>", code: protocol.CodeTimeout, retryable: true},
		{name: "DeepSeek: a wrong request", new: openai.NewDeepSeek, status: 400, body: body("messages is empty", "invalid_request_error", "invalid_request_error"), code: protocol.CodeInvalidRequest},
		{name: "DeepSeek: a wrong key", new: openai.NewDeepSeek, status: 401, body: body("Authentication Fails", "authentication_error", "invalid_request_error"), code: protocol.CodeUnauthorized},
		{name: "DeepSeek: no balance", new: openai.NewDeepSeek, status: 402, body: body("Insufficient Balance", "unknown_error", "invalid_request_error"), code: protocol.CodeQuotaExceeded},
		{name: "DeepSeek: wrong parameters", new: openai.NewDeepSeek, status: 422, body: `{"detail":"max_tokens must be positive"}`, code: protocol.CodeInvalidRequest},
		{name: "DeepSeek: too many requests", new: openai.NewDeepSeek, status: 429, body: body("Rate limit reached", "rate_limit_error", ""), code: protocol.CodeRateLimited, retryable: true},
		{name: "DeepSeek: an internal error", new: openai.NewDeepSeek, status: 500, code: protocol.CodeServiceUnavailable, retryable: true},
		{name: "DeepSeek: overloaded", new: openai.NewDeepSeek, status: 503, code: protocol.CodeServiceUnavailable, retryable: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.new == nil {
				tc.new = openai.NewChat
			}
			up := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: tc.status, Body: tc.body, Header: tc.header}})
			_, err := must(t, tc.new, providers.Config{Name: "x", BaseURL: up.URL}).Stream(t.Context(), &providers.Request{Model: "m", Prompt: "p"})
			if e := protocol.AsError(err); e.Code != tc.code || e.Retryable != tc.retryable || e.RetryAfterMS != tc.afterMS || e.Provider != "x" {
				t.Errorf("the error is %+v, want %s, retryable %v after %d ms", e, tc.code, tc.retryable, tc.afterMS)
			}
		})
	}
}

func TestUsageOfAChatIsWhatWasSaidLast(t *testing.T) {
	const text, end = `data: {"choices":[{"delta":{"content":"b"}}]}` + "\n\n", `data: {"choices":[{"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	tail := func(usage string) string { return `data: {"choices":[],"usage":` + usage + "}\n\n" }
	const done = "data: [DONE]\n\n"
	for _, tc := range []struct {
		name, body string
		want       *protocol.Usage
	}{
		{"none", text + end + done, nil},
		{"null", text + end + tail("null") + done, nil},
		{"late", text + end + tail(`{"prompt_tokens":5,"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}`) + done,
			&protocol.Usage{InputTokens: 5, OutputTokens: 6, CachedTokens: 4, ReasoningTokens: 2}},
		{"repeated", text + end + tail(`{"prompt_tokens":5,"completion_tokens":6}`) + tail(`{"prompt_tokens":5,"completion_tokens":6}`) + done, &protocol.Usage{InputTokens: 5, OutputTokens: 6}},
		{"in parts", text + tail(`{"prompt_tokens":5,"prompt_cache_hit_tokens":3}`) + end + tail(`{"completion_tokens":6}`) + done, &protocol.Usage{InputTokens: 5, OutputTokens: 6, CachedTokens: 3}},
		{"null and negative", text + tail(`{"prompt_tokens":5,"completion_tokens":6}`) + end + tail(`{"prompt_tokens":null,"completion_tokens":-1}`) + done, &protocol.Usage{InputTokens: 5}},
		{"of an answer that broke off", `data: {"choices":[{"delta":{"content":"b"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}` + "\n\n", &protocol.Usage{InputTokens: 5, OutputTokens: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := collect(t, serve(t, tc.body), &providers.Request{Model: "m", Prompt: "p"}).Outcome.Usage
			if (got == nil) != (tc.want == nil) || got != nil && *got != *tc.want {
				t.Errorf("the usage is %+v, want %+v", got, tc.want)
			}
		})
	}
}
