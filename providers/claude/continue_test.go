package claude_test

import (
	"testing"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/claude"
	"github.com/athena-hub/athena/providers/providertest"
)

func TestClaudeWithPrefillPassesTheContract(t *testing.T) {
	providertest.Contract(t, func(url string) providers.Provider {
		return must(t, providers.Config{BaseURL: url, Features: providers.FeatureOverrides{Prefill: new(true)}})
	}, providertest.Claude)
}

func TestModelsBefore46TakeAPrefill(t *testing.T) {
	p := must(t, providers.Config{}).(*claude.Provider)
	for model, want := range map[string]bool{
		"claude-3-haiku-20240307": true, "claude-3-7-sonnet-latest": true, "claude-opus-4-20250514": true, "claude-opus-4-1": true,
		"claude-sonnet-4@20250514": true, "claude-haiku-4-5-20251001": true, "anthropic/claude-sonnet-4.5": true, "anthropic/claude-opus-4": true,
		"anthropic.claude-sonnet-4-5-20250929-v1:0": true,
		"claude-opus-4-6": false, "claude-sonnet-4-6": false, "anthropic/claude-opus-4.6": false,
		"claude-opus-5-5": false, "claude-haiku-5-5": false, "deepseek-v4-pro": false, "m": false,
	} {
		if p.Prefill(model) != want {
			t.Errorf("whether %s takes a prefill is said to be %v", model, !want)
		}
	}
	no := must(t, providers.Config{Features: providers.FeatureOverrides{Prefill: new(false)}}).(*claude.Provider)
	if no.Prefill("claude-3-haiku-20240307") {
		t.Error("the configuration's no does not count")
	}
}

func TestAPartialAnswerIsContinuedAsTheModelAllows(t *testing.T) {
	ask := func(model, reasoning string) *providers.Request {
		return &providers.Request{Analysis: &protocol.Request{Options: protocol.RequestOptions{Reasoning: reasoning}}, Model: model, Prompt: "p",
			MaxTokens: 8000, Partial: "It is \n"}
	}
	user := providertest.Turn{Role: "user", Text: "p"}
	goOn := []providertest.Turn{user, {Role: "assistant", Text: "It is \n"}, {Role: "user", Text: providers.ContinuePrompt}}
	prefilled := []providertest.Turn{user, {Role: "assistant", Text: "It is"}}
	for _, tc := range []struct {
		name string
		req  *providers.Request
		want []providertest.Turn
		text string // behind " \n"
	}{
		{"an old model", ask("claude-haiku-4-5", ""), prefilled, "so"},
		{"an old model without thinking", ask("claude-haiku-4-5", "off"), prefilled, "so"},
		{"an old model that thinks", ask("claude-haiku-4-5", "low"), goOn, " \nso"},
		{"a new model", ask("claude-opus-5-5", ""), goOn, " \nso"},
		{"a new model that thinks", ask("claude-opus-5-5", "high"), goOn, " \nso"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts(" ", "\nso")})
			a := collect(t, must(t, providers.Config{BaseURL: up.URL}), tc.req)
			turns := up.Calls()[0].Turns()
			if len(turns) != len(tc.want) {
				t.Fatalf("the conversation is %q, want %q", turns, tc.want)
			}
			for i := range turns {
				if turns[i] != tc.want[i] {
					t.Errorf("turn %d is %q, want %q", i, turns[i], tc.want[i])
				}
			}
			if a.Text != tc.text {
				t.Errorf("the text is %q, want %q", a.Text, tc.text)
			}
		})
	}
}

func TestAnAnswerIsAsLongAsTheModelAllows(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{})
	p := must(t, providers.Config{BaseURL: up.URL, ModelInfo: map[string]providers.ModelInfo{"m": {MaxOutputTokens: 64_000}, "unknown": {}}})
	for i, tc := range []struct {
		model string
		asked int
		want  string
	}{{"m", 0, "64000"}, {"m", 100, "100"}, {"m", 99_000, "64000"}, {"unknown", 0, "16000"}, {"other", 99_000, "99000"}} {
		collect(t, p, &providers.Request{Model: tc.model, Prompt: "p", MaxTokens: tc.asked})
		if got := gjson.GetBytes(up.Calls()[i].Body, "max_tokens").Raw; got != tc.want {
			t.Errorf("%s, asked for %d: max_tokens is %s, want %s", tc.model, tc.asked, got, tc.want)
		}
	}
}

func TestStreamingIsPartOfTheDialect(t *testing.T) {
	if _, err := claude.New(providers.Config{Features: providers.FeatureOverrides{Streaming: new(false)}}); err == nil {
		t.Error("a server without streaming was taken")
	}
	if _, err := claude.New(providers.Config{Protocol: providers.ProtocolWebSocket}); err == nil {
		t.Error("a protocol that the dialect doesn't have was taken")
	}
}
