package claude_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/providertest"
)

func TestEachErrorOfTheAPIIsWhatItIsCalledHere(t *testing.T) {
	body := func(kind, message string) string {
		return `{"type":"error","error":{"type":"` + kind + `","message":"` + message + `"},"request_id":"req_1"}`
	}
	for _, tc := range []struct {
		name      string
		status    int
		body      string
		header    http.Header
		code      protocol.Code
		retryable bool
		afterMS   int64
	}{
		{name: "a wrong request", status: 400, body: body("invalid_request_error", "max_tokens: must be positive"), code: protocol.CodeInvalidRequest},
		{name: "a refused prefill", status: 400, body: body("invalid_request_error", "This model does not support assistant message prefill. The conversation must end with a user message."),
			code: protocol.CodeInvalidRequest},
		{name: "white space behind a prefill", status: 400, body: body("invalid_request_error", "messages: final assistant content cannot end with trailing whitespace"), code: protocol.CodeInvalidRequest},
		{name: "a prompt too long", status: 400, body: body("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), code: protocol.CodeContextTooLong},
		{name: "prompt and answer too long", status: 400, body: body("invalid_request_error", "input length and `max_tokens` exceed context limit: 190000 + 64000 > 200000"), code: protocol.CodeContextTooLong},
		{name: "no credit", status: 400, body: body("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), code: protocol.CodeQuotaExceeded},
		{name: "a wrong key", status: 401, body: body("authentication_error", "invalid x-api-key"), code: protocol.CodeUnauthorized},
		{name: "billing", status: 402, body: body("billing_error", "payment required"), code: protocol.CodeQuotaExceeded},
		{name: "not allowed", status: 403, body: body("permission_error", "no access to this model"), code: protocol.CodeForbidden},
		{name: "no such model", status: 404, body: body("not_found_error", "model: claude-9"), code: protocol.CodeInvalidRequest},
		{name: "a body too large", status: 413, body: body("request_too_large", "Request exceeds the maximum size"), code: protocol.CodeContextTooLong},
		{name: "a request that can't be processed", status: 422, body: body("invalid_request_error", "no"), code: protocol.CodeInvalidRequest},
		{name: "too many requests", status: 429, body: body("rate_limit_error", "slow down"), code: protocol.CodeRateLimited, retryable: true},
		{name: "too many requests, and how long", status: 429, body: body("rate_limit_error", "slow down"), header: http.Header{"Retry-After": {"7"}, "X-Should-Retry": {"true"}},
			code: protocol.CodeRateLimited, retryable: true, afterMS: 7000},
		{name: "an enforced spend limit", status: 429, body: `{"type":"error","error":{"type":"rate_limit_error","message":"limited","details":{"reason":"spend_limit"}}}`, code: protocol.CodeQuotaExceeded},
		{name: "an internal error", status: 500, body: body("api_error", "Internal server error"), code: protocol.CodeServiceUnavailable, retryable: true},
		{name: "not to be retried", status: 500, body: body("api_error", "Internal server error"), header: http.Header{"X-Should-Retry": {"false"}, "Retry-After": {"2"}}, code: protocol.CodeServiceUnavailable},
		{name: "to be retried", status: 409, body: body("invalid_request_error", "busy"), header: http.Header{"X-Should-Retry": {"true"}}, code: protocol.CodeServiceUnavailable, retryable: true},
		{name: "to be retried against its kind, and when", status: 400, body: body("invalid_request_error", "try again"), header: http.Header{"X-Should-Retry": {"true"}, "Retry-After": {"3"}},
			code: protocol.CodeInvalidRequest, retryable: true, afterMS: 3000},
		{name: "away", status: 503, body: body("api_error", "away"), header: http.Header{"Retry-After-Ms": {"1500"}}, code: protocol.CodeServiceUnavailable, retryable: true, afterMS: 1500},
		{name: "too late", status: 504, body: body("timeout_error", "timed out"), code: protocol.CodeTimeout, retryable: true},
		{name: "overloaded", status: 529, body: body("overloaded_error", "Overloaded"), code: protocol.CodeServiceUnavailable, retryable: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: tc.status, Body: tc.body, Header: tc.header}})
			_, err := must(t, providers.Config{BaseURL: up.URL}).Stream(t.Context(), &providers.Request{Model: "m", Prompt: "p"})
			e := protocol.AsError(err)
			if e.Code != tc.code || e.Retryable != tc.retryable || e.RetryAfterMS != tc.afterMS || e.Provider != "claude" {
				t.Errorf("the error is %+v, want %s, retryable %v after %d ms", e, tc.code, tc.retryable, tc.afterMS)
			}
			if errors.Is(err, providers.ErrInternal) != (tc.status == 500) {
				t.Errorf("whether %v is an internal error is said wrongly", err)
			}
		})
	}
}

func TestUsageIsWhatWasSaidLast(t *testing.T) {
	delta := func(rest string) string {
		return "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}" + rest + "}\n\n"
	}
	begin := func(usage string) string {
		return "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\"" + usage + "}}\n\n"
	}
	const prompt = `,"usage":{"input_tokens":10,"cache_creation_input_tokens":5,"cache_read_input_tokens":100,"output_tokens":1}`
	for _, tc := range []struct {
		name, body string
		want       *protocol.Usage
	}{
		{"none", begin("") + delta("") + stop, nil},
		{"of the prompt alone", begin(prompt) + delta("") + stop, &protocol.Usage{InputTokens: 115, OutputTokens: 1, CachedTokens: 100}},
		{"late", begin("") + delta(`,"usage":{"input_tokens":4,"output_tokens":9}`) + stop, &protocol.Usage{InputTokens: 4, OutputTokens: 9}},
		{"repeated as totals", begin(prompt) + delta(`,"usage":{"output_tokens":9}`) + delta(`,"usage":{"output_tokens":9}`) + stop,
			&protocol.Usage{InputTokens: 115, OutputTokens: 9, CachedTokens: 100}},
		{"the prompt again", begin(prompt) + delta(`,"usage":{"input_tokens":12,"cache_creation_input_tokens":0,"cache_read_input_tokens":100,"output_tokens":9}`) + stop,
			&protocol.Usage{InputTokens: 112, OutputTokens: 9, CachedTokens: 100}},
		{"null and negative", begin(prompt) + delta(`,"usage":{"input_tokens":null,"output_tokens":-4}`) + stop, &protocol.Usage{InputTokens: 115, CachedTokens: 100}},
		{"of no known form", begin(`,"usage":[1]`) + delta(`,"usage":"much"`) + stop, nil},
		{"of an answer that broke off", begin(prompt), &protocol.Usage{InputTokens: 115, OutputTokens: 1, CachedTokens: 100}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := serve(t, tc.body)
			got := a.Outcome.Usage
			if (got == nil) != (tc.want == nil) || got != nil && *got != *tc.want {
				t.Errorf("the usage is %+v, want %+v", got, tc.want)
			}
		})
	}
}
