package openai_test

import (
	"net/http"
	"reflect"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

func TestResponsesPassTheContractOverServerSentEvents(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, openai.NewResponses, providers.Config{Name: "gpt", BaseURL: url})
	}, providertest.Responses)
}

func TestResponsesPassTheContractOverWebSocket(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, openai.NewResponses, providers.Config{Name: "gpt", BaseURL: url, Protocol: providers.ProtocolWebSocket})
	}, providertest.Responses)
}

func TestResponsesPassTheContractInTheBackground(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, openai.NewResponses, providers.Config{Name: "gpt", BaseURL: url, Protocol: providers.ProtocolPolling})
	}, providertest.Responses,
		// An answer that breaks off is read on, and whole.
		"AnAnswerThatBreaksOffIsNeverComplete", "AWholeAnswerWithoutItsLastWordEndsAsTheDialectSays", "AnalyzeGivesAWholeAnswerOrAnError")
}

// serveResponses answers with events, whose data are given, by server-sent
// events.
func serveResponses(t *testing.T, data ...string) providers.Provider {
	t.Helper()
	body := ""
	for _, d := range data {
		body += "data: " + d + "\n\n"
	}
	up := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 200, Body: body,
		Header: http.Header{"Content-Type": {"text/event-stream"}}}})
	return must(t, openai.NewResponses, providers.Config{Name: "x", BaseURL: up.URL})
}

func TestWhatServersOfResponsesReallySend(t *testing.T) {
	const (
		created = `{"type":"response.created","sequence_number":0,"response":{"id":"r","object":"response","status":"in_progress","model":"gpt-6-astra-2026-10-01","output":[],"usage":null,"error":null}}`
		hi      = `{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"hi","logprobs":[]}`
		cost    = `"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":8},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":6},"total_tokens":16}`
	)
	told := &protocol.Usage{InputTokens: 9, OutputTokens: 7, CachedTokens: 8, ReasoningTokens: 6}
	for _, tc := range []struct {
		name                  string
		data                  []string
		text, reasoning, tool string
		state                 providers.State
		finish                string
		usage                 *protocol.Usage
		code                  protocol.Code
	}{
		{name: "a whole answer", data: []string{created, hi, `{"type":"response.completed","response":{"status":"completed",` + cost + `}}`},
			text: "hi", state: providers.StateComplete, finish: "stop", usage: told},
		{name: "no last event", data: []string{created, hi}, text: "hi", code: protocol.CodeStreamInterrupted},
		{name: "[DONE] in its place", data: []string{created, hi, "[DONE]"}, text: "hi", code: protocol.CodeStreamInterrupted},
		{name: "[DONE] behind it", data: []string{created, hi, `{"type":"response.completed","response":{}}`, "[DONE]"}, text: "hi", state: providers.StateComplete, finish: "stop"},
		{name: "both kinds of reasoning, unknown events", data: []string{created, `{"type":"response.reasoning_text.delta","delta":"a"}`, `{"type":"keepalive","sequence_number":2}`,
			`{"type":"response.reasoning_summary_text.delta","delta":"b"}`, `{"type":"response.web_search_call.searching","item_id":"x"}`, hi,
			`{"type":"response.completed","response":{"output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"b"}],"content":[{"type":"reasoning_text","text":"a"}]},` +
				`{"type":"message","content":[{"type":"output_text","text":"hi"}]}]}}`},
			text: "hi", reasoning: "ab", state: providers.StateComplete, finish: "stop"},
		{name: "a refusal", data: []string{created, `{"type":"response.refusal.delta","delta":"I "}`, `{"type":"response.refusal.delta","delta":"can't"}`,
			`{"type":"response.completed","response":{"output":[{"type":"message","content":[{"type":"refusal","refusal":"I can't"}]}]}}`},
			text: "I can't", state: providers.StateComplete, finish: "refusal"},
		{name: "a tool call", data: []string{created, `{"type":"response.output_item.added","item":{"type":"function_call","name":"f","arguments":""}}`,
			`{"type":"response.function_call_arguments.delta","delta":"{\"a\":"}`, `{"type":"response.function_call_arguments.delta","delta":"1}"}`,
			`{"type":"response.function_call_arguments.done","arguments":"{\"a\":1}"}`, `{"type":"response.completed","response":{"status":"completed"}}`},
			tool: `{"a":1}`, state: providers.StateComplete, finish: "tool"},
		{name: "too long", data: []string{created, hi, `{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},` + cost + `}}`},
			text: "hi", state: providers.StateComplete, finish: "length", usage: told},
		{name: "filtered", data: []string{created, hi, `{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"content_filter"}}}`},
			text: "hi", state: providers.StateError, finish: "content_filter", code: protocol.CodeContentFiltered},
		{name: "incomplete for no known reason", data: []string{created, hi, `{"type":"response.incomplete","response":{}}`},
			text: "hi", state: providers.StateError, code: protocol.CodeStreamInterrupted},
		{name: "failed", data: []string{created, `{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"sorry"},` + cost + `}}`},
			state: providers.StateError, usage: told, code: protocol.CodeServiceUnavailable},
		{name: "failed by a limit", data: []string{created, hi, `{"type":"response.failed","response":{"status":"failed","error":{"code":"rate_limit_exceeded","message":"slow down"}}}`},
			text: "hi", state: providers.StateError, code: protocol.CodeRateLimited},
		{name: "a prompt that is refused", data: []string{created, `{"type":"response.failed","response":{"error":{"code":"invalid_prompt","message":"flagged"}}}`},
			state: providers.StateError, code: protocol.CodeContentFiltered},
		{name: "an error event", data: []string{created, `{"type":"error","sequence_number":2,"code":"insufficient_quota","message":"pay","param":null}`},
			state: providers.StateError, code: protocol.CodeQuotaExceeded},
		{name: "an error as WebSockets have it", data: []string{`{"type":"error","status":429,"error":{"type":"too_many_requests","code":"rate_limit_exceeded","message":"slow","headers":{"retry-after":"3"}}}`},
			state: providers.StateError, code: protocol.CodeRateLimited},
		{name: "an error without a type", data: []string{`{"error":{"message":"gone","code":502}}`}, state: providers.StateError, code: protocol.CodeServiceUnavailable},
		{name: "cancelled at the vendor", data: []string{created, hi, `{"type":"response.cancelled","response":{"status":"cancelled"}}`},
			text: "hi", state: providers.StateError, code: protocol.CodeStreamInterrupted},
		{name: "only the last event", data: []string{`{"type":"response.completed","response":{"status":"completed","output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}]},` +
			`{"type":"message","content":[{"type":"output_text","text":"hi"}]},{"type":"function_call","arguments":"{}"}],` + cost + `}}`},
			text: "hi", reasoning: "hm", tool: "{}", state: providers.StateComplete, finish: "tool", usage: told},
		{name: "a delta that is no text", data: []string{created, `{"type":"response.output_text.delta","delta":{"a":1}}`}, state: providers.StateError, code: protocol.CodeInvalidResponse},
		{name: "a last event that doesn't fit", data: []string{`{"type":"response.output_text.delta","delta":"ab"}`,
			`{"type":"response.completed","response":{"output":[{"type":"message","content":[{"type":"output_text","text":"aéé"}]}]}}`},
			text: "ab", state: providers.StateError, code: protocol.CodeInvalidResponse},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := collect(t, serveResponses(t, tc.data...), &providers.Request{Model: "m", Prompt: "p"})
			if a.Text != tc.text || a.Reasoning != tc.reasoning || a.Tool != tc.tool || a.Outcome.State != tc.state ||
				a.Outcome.FinishReason != tc.finish || !reflect.DeepEqual(a.Outcome.Usage, tc.usage) || !reflect.DeepEqual(a.Usage, tc.usage) {
				t.Errorf("the answer is %+v", a)
			}
			if tc.code == "" {
				if a.Outcome.Err != nil || a.Err != nil {
					t.Errorf("the error is %v", a.Err)
				}
				return
			}
			if a.Outcome.Err == nil || a.Outcome.Err.Code != tc.code || a.Outcome.Err.Provider != "x" {
				t.Errorf("the error is %v, want %s", a.Outcome.Err, tc.code)
			}
			if tc.name == "an error as WebSockets have it" && a.Outcome.Err.RetryAfterMS != 3000 {
				t.Errorf("the error is %+v, want it retried after 3 s", a.Outcome.Err)
			}
		})
	}
}

func TestTheRequestOfResponsesIsWhatTheVendorUnderstands(t *testing.T) {
	warm := 0.25
	asked := func(reasoning string) *providers.Request {
		return &providers.Request{Analysis: &protocol.Request{Options: protocol.RequestOptions{Temperature: &warm, Reasoning: reasoning}},
			Model: "m", System: "sys", Prompt: "p", MaxTokens: 50}
	}
	for _, tc := range []struct {
		name string
		cfg  providers.Config
		req  *providers.Request
		want string
	}{
		{"nothing asked for", providers.Config{}, &providers.Request{Model: "m", Prompt: "p"}, `{"model":"m","input":"p","stream":true,"store":false}`},
		{"the default model", providers.Config{}, &providers.Request{Prompt: "p"}, `{"model":"gpt-6-astra","input":"p","stream":true,"store":false}`},
		{"options", providers.Config{}, asked("low"),
			`{"model":"m","instructions":"sys","input":"p","stream":true,"store":false,"max_output_tokens":50,"temperature":0.25,"reasoning":{"effort":"low","summary":"auto"}}`},
		{"no reasoning", providers.Config{}, asked("off"),
			`{"model":"m","instructions":"sys","input":"p","stream":true,"store":false,"max_output_tokens":50,"temperature":0.25,"reasoning":{"effort":"none"}}`},
		{"over a WebSocket", providers.Config{Protocol: providers.ProtocolWebSocket}, &providers.Request{Model: "m", Prompt: "p"},
			`{"type":"response.create","model":"m","input":"p","store":false}`},
		{"in one piece", providers.Config{Features: providers.FeatureOverrides{Streaming: new(bool)}}, &providers.Request{Model: "m", Prompt: "p"},
			`{"model":"m","input":"p","store":false}`},
		{"the rest of an answer", providers.Config{}, &providers.Request{Model: "m", Prompt: "p", Partial: "so far "},
			`{"model":"m","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"p"}]},` +
				`{"type":"message","role":"assistant","content":[{"type":"output_text","text":"so far "}]},` +
				`{"type":"message","role":"user","content":[{"type":"input_text","text":"` + providers.ContinuePrompt + `"}]}],"stream":true,"store":false}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("ok")})
			tc.cfg.BaseURL = up.URL
			if a := collect(t, must(t, openai.NewResponses, tc.cfg), tc.req); a.Text != "ok" {
				t.Errorf("the answer is %+v", a)
			}
			call := up.Calls()[0]
			if string(call.Body) != tc.want {
				t.Errorf("the body is\n%s\nwant\n%s", call.Body, tc.want)
			}
			if call.Header.Get("Authorization") != "Bearer test-key-0123456789" || call.Path != "/v1/responses" {
				t.Errorf("%s was called with %v", call.Path, call.Header)
			}
		})
	}
}
