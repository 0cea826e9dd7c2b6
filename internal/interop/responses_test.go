package interop_test

import (
	"context"
	"encoding/json"
	"maps"
	"testing"

	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	ouropenai "github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

// note adds to r what an event of the Responses dialect says, and reports
// whether it was the last.
func (r *read) note(kind, delta string, response func() responses.Response) bool {
	switch kind {
	case "response.output_text.delta":
		r.Text += delta
	case "response.reasoning_summary_text.delta":
		r.Reasoning += delta
	case "response.function_call_arguments.delta":
		r.Tool += delta
	case "response.completed", "response.incomplete":
		final := response()
		r.Model = final.Model
		r.Usage = protocol.Usage{InputTokens: final.Usage.InputTokens, OutputTokens: final.Usage.OutputTokens,
			CachedTokens: final.Usage.InputTokensDetails.CachedTokens, ReasoningTokens: final.Usage.OutputTokensDetails.ReasoningTokens}
		switch {
		case final.IncompleteDetails.Reason == "max_output_tokens":
			r.Stop = "length"
		case r.Tool != "":
			r.Stop = "tool"
		default:
			r.Stop = "stop"
		}
		return true
	case "response.failed", "error":
		r.Failed = true
		return true
	}
	return false
}

func sdk(url string) openai.Client {
	return openai.NewClient(openaioption.WithBaseURL(url+"/v1"), openaioption.WithAPIKey(key), openaioption.WithMaxRetries(0))
}

func TestOurResponsesReadWhatOpenAIsSDKReads(t *testing.T) {
	compare(t, providertest.Responses, ouropenai.NewResponses, func(ctx context.Context, url string) (r read) {
		client := sdk(url)
		stream := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
			Model: "model-a", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("p")},
		})
		defer func() { _ = stream.Close() }()
		last := false
		for stream.Next() {
			ev := stream.Current()
			last = r.note(ev.Type, ev.Delta, func() responses.Response { return ev.Response }) || last
		}
		r.Failed = r.Failed || stream.Err() != nil || !last
		return r
	})
}

func TestOurResponsesOverWebSocketReadWhatOpenAIsSDKReads(t *testing.T) {
	overWebSocket := func(cfg providers.Config) (providers.Provider, error) {
		cfg.Protocol = providers.ProtocolWebSocket
		return ouropenai.NewResponses(cfg)
	}
	compare(t, providertest.Responses, overWebSocket, func(ctx context.Context, url string) (r read) {
		client := sdk(url)
		conn, err := client.Responses.Connect(ctx, responses.ResponseConnectionOptions{}, openaioption.WithHeader("X-Test", "sdk"))
		if err != nil {
			return read{Failed: true}
		}
		defer conn.Abort()
		if err := conn.Create(ctx, responses.ResponsesClientEventResponseCreateParam{
			Model: "model-a", Input: responses.ResponsesClientEventResponseCreateInputUnionParam{OfString: openai.String("p")},
		}); err != nil {
			return read{Failed: true}
		}
		for {
			raw, err := conn.RecvRaw(ctx)
			if err != nil {
				r.Failed = true
				return r
			}
			var ev responses.ResponseStreamEventUnion
			if err := ev.UnmarshalJSON(raw); err != nil {
				r.Failed = true
				return r
			}
			if r.note(ev.Type, ev.Delta, func() responses.Response { return ev.Response }) {
				return r
			}
		}
	})
}

// What we send must be what the SDK sends for the same request.
func TestOurRequestsOfResponsesAreTheSDKs(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("ok")})
	warm := 0.5
	p, err := ouropenai.NewResponses(providers.Config{BaseURL: up.URL, APIKey: key, Background: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := providers.Analyze(t.Context(), p, &providers.Request{Model: "model-a", System: "sys", Prompt: "p", MaxTokens: 50, RequestID: "req-1",
		Analysis: &protocol.Request{Options: protocol.RequestOptions{Temperature: &warm, Reasoning: "low"}}}); err != nil {
		t.Fatal(err)
	}
	client := sdk(up.URL)
	stream := client.Responses.NewStreaming(t.Context(), responses.ResponseNewParams{
		Model: "model-a", Instructions: openai.String("sys"), Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("p")},
		MaxOutputTokens: openai.Int(50), Temperature: openai.Float(warm), Store: openai.Bool(true), Background: openai.Bool(true),
		Reasoning: shared.ReasoningParam{Effort: "low", Summary: "auto"}, Metadata: shared.Metadata{"request_id": "req-1"},
	})
	for stream.Next() {
		_ = stream.Current()
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	ours, theirs := object(t, up.Calls()[0].Body), object(t, up.Calls()[1].Body)
	if !maps.Equal(ours, theirs) {
		t.Errorf("we send\n%v\nthe SDK\n%v", ours, theirs)
	}
}

// object returns the fields of a JSON object, with the JSON of their values.
func object(t *testing.T, data []byte) map[string]string {
	t.Helper()
	var raw map[string]any
	if err := json.Unmarshal(data, &raw); err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]string, len(raw))
	for name, v := range raw {
		b, err := json.Marshal(v) // with its keys sorted
		if err != nil {
			t.Fatal(err)
		}
		fields[name] = string(b)
	}
	return fields
}
