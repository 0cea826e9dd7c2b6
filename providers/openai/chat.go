package openai

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

const (
	chatPath = "/chat/completions"
	// betaPath is where DeepSeek takes prefills. That is a beta, so it is asked
	// for only where the configuration says that the server has them.
	betaPath = "/beta" + chatPath
)

// chatWay says how Chat Completions are asked for.
func chatWay(cfg providers.Config, streaming bool) (way, error) {
	switch {
	case cfg.Background:
		return 0, errors.New("background: only the Responses dialect has answers in the background")
	case cfg.Protocol == "" && streaming, cfg.Protocol == providers.ProtocolSSE && streaming:
		return wayEvents, nil
	case cfg.Protocol == "", cfg.Protocol == providers.ProtocolPolling:
		return wayWhole, nil
	}
	return 0, fmt.Errorf("protocol: %q is not what Chat Completions come by, or its server streams nothing", cfg.Protocol)
}

// chat asks in Chat Completions.
func (p *Provider) chat(ctx context.Context, req *providers.Request, model string) (providers.Stream, error) {
	question := p.question(req, model)
	call := upstream.Call{Path: chatPath, Model: model, Decoder: newDecoder(model, p.flavour != compatible),
		Whole: p.whole, WholeHas: "choices.0.message", InOnePiece: req.InOnePiece}
	if question.Messages[len(question.Messages)-1].Prefix {
		call.Path = betaPath
	}
	if req.RequestID != "" && p.flavour == official {
		call.Header = http.Header{"X-Client-Request-Id": {req.RequestID}}
	}
	return p.Ask(ctx, question, call)
}

// chatRequest is the part of the dialect's request that is used here.
type chatRequest struct {
	Model         string             `json:"model"`
	Messages      []upstream.Message `json:"messages"`
	Stream        bool               `json:"stream"`
	StreamOptions *streamOptions     `json:"stream_options,omitempty"`
	Temperature   *float64           `json:"temperature,omitempty"`
	// OpenAI's newer models refuse max_tokens, and older servers don't know
	// max_completion_tokens.
	MaxTokens           int       `json:"max_tokens,omitempty"`
	MaxCompletionTokens int       `json:"max_completion_tokens,omitempty"`
	ReasoningEffort     string    `json:"reasoning_effort,omitempty"`
	Thinking            *thinking `json:"thinking,omitempty"` // DeepSeek's
	// What vLLM, SGLang and llama.cpp must be told to go on behind the last
	// message. Ollama and LM Studio do so unasked and ignore both.
	AddGenerationPrompt  *bool `json:"add_generation_prompt,omitempty"`
	ContinueFinalMessage bool  `json:"continue_final_message,omitempty"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type thinking struct {
	Type string `json:"type"`
}

func (p *Provider) question(req *providers.Request, model string) *chatRequest {
	r := &chatRequest{Model: model}
	if !p.whole {
		r.Stream, r.StreamOptions = true, &streamOptions{IncludeUsage: true}
	}
	if req.System != "" {
		r.Messages = append(r.Messages, upstream.Message{Role: "system", Content: req.System})
	}
	if p.flavour == official {
		r.MaxCompletionTokens = req.MaxTokens
	} else {
		r.MaxTokens = req.MaxTokens
	}
	var options protocol.RequestOptions
	if req.Analysis != nil {
		options = req.Analysis.Options
	}
	r.Temperature = options.Temperature
	switch {
	case options.Reasoning == "":
	case p.flavour == deepSeek && options.Reasoning == "off":
		r.Thinking = &thinking{"disabled"}
	case p.flavour == deepSeek: // thinks or doesn't, without levels
		r.Thinking = &thinking{"enabled"}
	case options.Reasoning == "off":
		r.ReasoningEffort = "none"
	default:
		r.ReasoningEffort = options.Reasoning
	}
	prefill := p.prefills(r)
	r.Messages = append(r.Messages, upstream.Turns(req, prefill)...)
	if prefill && upstream.Continues(req) {
		p.prefill(r)
	}
	return r
}

// prefills reports whether r's answer can be given its beginning. DeepSeek
// documents that only without thinking, as what the model thought before an
// answer that broke off is not known any more; so a request that wants
// thinking is continued by a user's turn.
func (p *Provider) prefills(r *chatRequest) bool {
	thinks := p.flavour == deepSeek && r.Thinking != nil && r.Thinking.Type == "enabled"
	return p.features.Prefill && !thinks
}

// prefill says to the server that its model goes on behind r's last message.
func (p *Provider) prefill(r *chatRequest) {
	switch p.flavour {
	case deepSeek:
		r.Messages[len(r.Messages)-1].Prefix = true
		r.Thinking = &thinking{"disabled"} // it is on by default
	case compatible:
		r.AddGenerationPrompt, r.ContinueFinalMessage = new(false), true
	}
}
