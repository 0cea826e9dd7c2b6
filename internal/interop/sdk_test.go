package interop_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/claude"
	ouropenai "github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

const key = "test-key-0123456789"

// read is what a decoder made of an answer, in words that all have.
type read struct {
	Text, Reasoning, Tool string
	Model, Stop           string
	Usage                 protocol.Usage
	// Failed says that the decoder reported an error.
	Failed bool
}

// scripts are answers that every decoder must read alike.
func scripts(dialect providertest.Dialect) map[string]providertest.Script {
	long := providertest.Texts("Grüße, ", "世界 🙂 ", "\"quoted\" \\ </b>\n\u2028 ", "data: [DONE]\n\n", "end")
	usage := &protocol.Usage{InputTokens: 100, OutputTokens: 42, CachedTokens: 64, ReasoningTokens: 7}
	length := "length"
	switch dialect {
	case providertest.Claude:
		length = "max_tokens"
	case providertest.Responses:
		length = "max_output_tokens"
	}
	mixed := append([]providertest.Piece{{Kind: providertest.PieceReasoning, Text: "Let me "}, {Kind: providertest.PieceReasoning, Text: "think."}}, long...)
	tool := []providertest.Piece{{Text: "Calling. "}, {Kind: providertest.PieceTool, Text: `{"li`}, {Kind: providertest.PieceTool, Text: `ne":7}`}}
	toolUse := "tool_calls"
	switch dialect {
	case providertest.Claude:
		toolUse = "tool_use"
	case providertest.Responses:
		toolUse = "completed"
	}
	return map[string]providertest.Script{
		"text":                 {Pieces: long, Usage: usage, Model: "model-a-2026"},
		"reasoning":            {Pieces: mixed, Usage: usage},
		"tool call":            {Pieces: tool, Finish: toolUse, Usage: usage},
		"length":               {Pieces: long[:1], Finish: length, Usage: usage},
		"empty":                {Usage: &protocol.Usage{InputTokens: 3}},
		"CRLF":                 {Pieces: mixed, Usage: usage, Framing: providertest.Framing{CRLF: true}},
		"byte by byte":         {Pieces: long[:2], Usage: usage, Framing: providertest.Framing{Split: 1}},
		"pings":                {Pieces: long, Usage: usage, Framing: providertest.Framing{Pings: true}},
		"error before content": {Pieces: long, Fault: providertest.Fault{Kind: providertest.FaultError}},
		"error after content":  {Pieces: long, Fault: providertest.Fault{Kind: providertest.FaultError, After: 2}},
		"cut":                  {Pieces: long, Fault: providertest.Fault{Kind: providertest.FaultCut, After: 2}},
		"malformed":            {Pieces: long, Fault: providertest.Fault{Kind: providertest.FaultMalformed, After: 2}},
		"429":                  {Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 429}},
		"529":                  {Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 529}},
	}
}

// ours is what our provider makes of an answer.
func ours(t *testing.T, factory providers.Factory, url string) read {
	t.Helper()
	p, err := factory(providers.Config{Name: "x", BaseURL: url, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Stream(t.Context(), &providers.Request{Model: "model-a", System: "sys", Prompt: "p", MaxTokens: 100})
	if err != nil {
		return read{Failed: true}
	}
	a, err := providertest.Collect(s)
	if err != nil {
		t.Fatal(err)
	}
	r := read{Text: a.Text, Reasoning: a.Reasoning, Tool: a.Tool, Model: a.Outcome.Model, Stop: a.Outcome.FinishReason, Failed: a.Err != nil}
	if a.Outcome.Usage != nil {
		r.Usage = *a.Outcome.Usage
	}
	return r
}

// compare runs each script through both decoders.
func compare(t *testing.T, dialect providertest.Dialect, factory providers.Factory, theirs func(ctx context.Context, url string) read) {
	for name, script := range scripts(dialect) {
		t.Run(name, func(t *testing.T) {
			up := providertest.NewUpstream(t, script)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			want, got := theirs(ctx, up.URL), ours(t, factory, up.URL)
			if want.Failed && got.Failed {
				// How much of a broken answer is known differs by when an error is
				// noticed; its text must not.
				want, got = read{Text: want.Text}, read{Text: got.Text}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("our provider read\n%+v\nthe vendor's SDK\n%+v", got, want)
			}
			if script.Fault.Kind == providertest.FaultNone && want.Text != providertest.Joined(script.Pieces, providertest.PieceText) {
				t.Errorf("the SDK read %q, which is not what was sent", want.Text)
			}
		})
	}
}

func TestOurClaudeReadsWhatAnthropicsSDKReads(t *testing.T) {
	stops := map[anthropic.StopReason]string{"end_turn": "stop", "max_tokens": "length", "tool_use": "tool"}
	compare(t, providertest.Claude, claude.New, func(ctx context.Context, url string) (r read) {
		client := anthropic.NewClient(anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey(key), anthropicoption.WithMaxRetries(0))
		stream := client.Messages.NewStreaming(ctx, anthropic.MessageNewParams{
			Model: "model-a", MaxTokens: 100, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("p"))},
		})
		defer func() { _ = stream.Close() }()
		var m anthropic.Message
		for stream.Next() {
			ev := stream.Current()
			if err := m.Accumulate(ev); err != nil {
				r.Failed = true
				return r
			}
			switch d := ev.AsAny().(type) {
			case anthropic.ContentBlockDeltaEvent:
				r.Text += d.Delta.Text
				r.Reasoning += d.Delta.Thinking
				r.Tool += d.Delta.PartialJSON
			case anthropic.MessageDeltaEvent:
				r.Usage.ReasoningTokens = d.Usage.OutputTokensDetails.ThinkingTokens
			}
		}
		if stream.Err() != nil {
			r.Failed = true
			return r
		}
		r.Model, r.Stop = m.Model, stops[m.StopReason]
		r.Usage.InputTokens = m.Usage.InputTokens + m.Usage.CacheCreationInputTokens + m.Usage.CacheReadInputTokens
		r.Usage.OutputTokens, r.Usage.CachedTokens = m.Usage.OutputTokens, m.Usage.CacheReadInputTokens
		return r
	})
}

func TestOurOpenAIReadsWhatOpenAIsSDKReads(t *testing.T) {
	stops := map[string]string{"stop": "stop", "length": "length", "tool_calls": "tool"}
	compare(t, providertest.OpenAI, ouropenai.New, func(ctx context.Context, url string) (r read) {
		client := openai.NewClient(openaioption.WithBaseURL(url+"/v1"), openaioption.WithAPIKey(key), openaioption.WithMaxRetries(0))
		stream := client.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
			Model: "model-a", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("p")},
			StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
		})
		defer func() { _ = stream.Close() }()
		for stream.Next() {
			c := stream.Current()
			r.Model = c.Model
			if c.JSON.Usage.Valid() {
				r.Usage = protocol.Usage{InputTokens: c.Usage.PromptTokens, OutputTokens: c.Usage.CompletionTokens,
					CachedTokens: c.Usage.PromptTokensDetails.CachedTokens, ReasoningTokens: c.Usage.CompletionTokensDetails.ReasoningTokens}
			}
			for _, choice := range c.Choices {
				r.Text += choice.Delta.Content
				for _, call := range choice.Delta.ToolCalls {
					r.Tool += call.Function.Arguments
				}
				if f, ok := choice.Delta.JSON.ExtraFields["reasoning_content"]; ok {
					r.Reasoning += unquote(f.Raw())
				}
				if choice.FinishReason != "" {
					r.Stop = stops[choice.FinishReason]
				}
			}
		}
		r.Failed = stream.Err() != nil
		return r
	})
}

// The SDKs take an answer that ends without its end marker, by a proxy's
// doing, for whole. Ours must not.
func TestAnAnswerWithoutItsEndMarkerIsTruncatedWhereTheSDKsSeeNothing(t *testing.T) {
	for dialect, factory := range map[providertest.Dialect]providers.Factory{providertest.OpenAI: ouropenai.New, providertest.Claude: claude.New} {
		up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("a", "b"), Fault: providertest.Fault{Kind: providertest.FaultEnd, After: 1}})
		p, err := factory(providers.Config{BaseURL: up.URL, APIKey: key})
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Stream(t.Context(), &providers.Request{Model: "m", Prompt: "p"})
		if err != nil {
			t.Fatal(err)
		}
		a, err := providertest.Collect(s)
		if err != nil || a.Outcome.State != providers.StateTruncated || !errors.Is(a.Outcome.Err, protocol.ErrProvider) {
			t.Errorf("%s: %+v, %v", dialect, a, err)
		}
	}
}
