// Package claude speaks Anthropic's Messages API, which DeepSeek and others
// serve too, under paths of their own.
//
// An answer is whole when message_stop was seen. Whatever ends without it is
// truncated, and an error event ends it in the middle of a 200.
package claude

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

const (
	// DefaultBaseURL is the address that is called where the configuration has
	// none. As with Anthropic's SDKs, /v1 is not part of it.
	DefaultBaseURL = "https://api.anthropic.com"
	// DefaultMaxTokens bounds an answer where neither the request nor what the
	// configuration knows of the model does: the wire demands a number. Every
	// model since Claude 4 allows 32,000.
	DefaultMaxTokens = 16_000

	// version is the version of the API that is spoken here.
	version = "2023-06-01"
	// minThinkingBudget is the smallest that the API accepts.
	minThinkingBudget = 1024
)

// defaultModels are offered where the configuration has none, the default
// first.
var defaultModels = []string{"claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"}

// A Provider asks one server. It implements providers.Provider,
// Prefiller, HealthChecker, KeyValidator, ModelGuesser and RateLimiter.
type Provider struct {
	*upstream.Client
	features providers.Features
	models   map[string]providers.ModelInfo
	prefill  *bool // as configured
	guesses  bool  // the models are Anthropic's, and the server is not
}

var (
	_ providers.Provider      = (*Provider)(nil)
	_ providers.Prefiller     = (*Provider)(nil)
	_ providers.HealthChecker = (*Provider)(nil)
	_ providers.KeyValidator  = (*Provider)(nil)
	_ providers.ModelGuesser  = (*Provider)(nil)
	_ providers.RateLimiter   = (*Provider)(nil)
	_ providers.Factory       = New
)

// New returns a provider for a server of the dialect. The base URL may end in
// /v1 or not.
func New(cfg providers.Config) (providers.Provider, error) {
	client, err := upstream.NewClient(cfg, upstream.Dialect{
		Name:    "claude",
		BaseURL: DefaultBaseURL,
		Path: func(path string) string {
			path = strings.TrimSuffix(path, "/messages") // the whole resource, pasted
			return strings.TrimSuffix(path, "/v1") + "/v1"
		},
		Models:    "/models?limit=1000", // the most that one page can have
		Header:    http.Header{"Anthropic-Version": {version}},
		Authorize: func(h http.Header, key string) { h.Set("X-Api-Key", key) },
		RequestID: "Request-Id",
		Limits: func(h http.Header, now time.Time) (providers.RateLimits, bool) {
			return limitHeaders.Read(h, now)
		},
	})
	if err != nil {
		return nil, err
	}
	p := &Provider{Client: client, models: cfg.ModelInfo, prefill: cfg.Features.Prefill,
		guesses: len(cfg.Models) == 0 && !strings.HasSuffix(client.Host(), ".anthropic.com")}
	p.features, err = providers.Features{
		Models: defaultModels, Version: version, Protocols: []providers.Protocol{providers.ProtocolSSE},
		Reasoning: true, Streaming: true, Batching: true, FunctionCalling: true,
	}.With(cfg)
	if err != nil {
		return nil, err
	}
	if !p.features.Streaming {
		return nil, errors.New("features: streaming is part of this dialect and can't be turned off")
	}
	p.features.Prefill = p.Prefill(p.features.DefaultModel())
	return p, nil
}

var limitHeaders = upstream.LimitHeaders{
	RequestsLimit: "Anthropic-Ratelimit-Requests-Limit", RequestsRemaining: "Anthropic-Ratelimit-Requests-Remaining", RequestsReset: "Anthropic-Ratelimit-Requests-Reset",
	TokensLimit: "Anthropic-Ratelimit-Tokens-Limit", TokensRemaining: "Anthropic-Ratelimit-Tokens-Remaining", TokensReset: "Anthropic-Ratelimit-Tokens-Reset",
}

// GuessesModels implements providers.ModelGuesser.
func (p *Provider) GuessesModels() bool { return p.guesses }

// Features implements providers.Provider.
func (p *Provider) Features() providers.Features { return p.features }

// Prefill implements providers.Prefiller: models older than Claude 4.6 go on
// behind a last message of theirs, later ones answer 400 to it. Of a model that
// is not known for an older one, a server of others included, it is assumed
// only where the configuration says so.
func (p *Provider) Prefill(model string) bool {
	if p.prefill != nil {
		return *p.prefill
	}
	return isBefore46(model)
}

// Stream implements providers.Provider. The wire has no place for the
// request's id.
func (p *Provider) Stream(ctx context.Context, req *providers.Request) (providers.Stream, error) {
	model := cmp.Or(req.Model, p.features.DefaultModel())
	question, space := p.question(req, model)
	return p.Ask(ctx, question, upstream.Call{Path: "/messages", Model: model, Decoder: upstream.Resumed(newDecoder(model), space)})
}

// messagesRequest is the part of the dialect's request that is used here.
type messagesRequest struct {
	Model        string             `json:"model"`
	MaxTokens    int                `json:"max_tokens"`
	Stream       bool               `json:"stream"`
	System       string             `json:"system,omitempty"`
	Messages     []upstream.Message `json:"messages"`
	Temperature  *float64           `json:"temperature,omitempty"`
	Thinking     *thinking          `json:"thinking,omitempty"`
	OutputConfig *outputConfig      `json:"output_config,omitempty"`
}

type thinking struct {
	Type         string `json:"type"`
	BudgetTokens int    `json:"budget_tokens,omitempty"`
	Display      string `json:"display,omitempty"`
}

type outputConfig struct {
	Effort string `json:"effort"`
}

// question returns what to ask for req, and the white space that was cut from
// the end of a prefill: "final assistant content cannot end with trailing
// whitespace" is the API's answer to that.
func (p *Provider) question(req *providers.Request, model string) (r *messagesRequest, space string) {
	r = &messagesRequest{Model: model, MaxTokens: p.maxTokens(req, model), Stream: true, System: req.System}
	p.think(r, req)
	// The API knows no prefill beside thinking.
	prefill := p.Prefill(model) && (r.Thinking == nil || r.Thinking.Type == "disabled")
	r.Messages = upstream.Turns(req, prefill)
	if last := &r.Messages[len(r.Messages)-1]; last.Role == "assistant" {
		last.Content, space = upstream.CutSpace(last.Content)
	}
	return r, space
}

// maxTokens bounds the answer by what is asked for, and by what the model can
// give, since the API refuses a larger number.
func (p *Provider) maxTokens(req *providers.Request, model string) int {
	most := p.models[model].MaxOutputTokens
	switch {
	case req.MaxTokens == 0 && most == 0:
		return DefaultMaxTokens
	case req.MaxTokens == 0:
		return most
	case most == 0:
		return req.MaxTokens
	}
	return min(req.MaxTokens, most)
}

// think puts what req says of temperature and reasoning into r.
func (p *Provider) think(r *messagesRequest, req *providers.Request) {
	var options protocol.RequestOptions
	if req.Analysis != nil {
		options = req.Analysis.Options
	}
	if t := options.Temperature; t != nil {
		r.Temperature = new(min(*t, 1)) // Athena's go to 2, this wire's to 1
	}
	switch level := options.Reasoning; {
	case level == "":
	case level == "off":
		r.Thinking = &thinking{Type: "disabled"}
	case isBefore46(r.Model):
		// The budget is part of max_tokens and must be below it; an answer too
		// short for the smallest budget goes without.
		budget := min(map[string]int{"low": 2048, "medium": 8192, "high": 16_384}[level], r.MaxTokens/2)
		if budget >= minThinkingBudget {
			r.Thinking = &thinking{Type: "enabled", BudgetTokens: budget}
			r.Temperature = nil // refused beside thinking
		}
	default:
		r.Thinking = &thinking{Type: "adaptive", Display: "summarized"}
		r.OutputConfig = &outputConfig{Effort: level}
		r.Temperature = nil
	}
}

// isBefore46 reports whether model is older than Claude 4.6, from which on the
// model itself decides how much to think, an effort is told instead of a
// budget, and a prefill is refused. Names differ by who serves the model:
// claude-sonnet-4-20250514, claude-sonnet-4@20250514, anthropic/claude-sonnet-4.5.
func isBefore46(model string) bool {
	model = strings.ReplaceAll(model, ".", "-")
	for _, old := range []string{"claude-2", "claude-3", "claude-instant", "-4-0", "-4-1", "-4-5",
		"claude-opus-4-2", "claude-sonnet-4-2", "claude-opus-4@", "claude-sonnet-4@"} {
		if strings.Contains(model, old) {
			return true
		}
	}
	return strings.HasSuffix(model, "claude-opus-4") || strings.HasSuffix(model, "claude-sonnet-4")
}
