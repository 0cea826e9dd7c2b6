// Package openai speaks OpenAI's two dialects: Chat Completions, as Ollama,
// vLLM, llama.cpp, LM Studio, OpenRouter and others serve it, and DeepSeek with
// its differences; and Responses, which OpenAI prefers for its own models, over
// WebSocket, server-sent events and polling.
//
// Servers that speak it nearly are the rule. An answer is whole when a
// finish_reason was seen; [DONE] and usage may follow, and are waited for only
// briefly (upstream.TailWait). A server that sends no finish_reason but [DONE] after
// content has ended its answer too. Anything else is a truncated answer.
package openai

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// The addresses that are called where the configuration has none.
const (
	DefaultBaseURL         = "https://api.openai.com/v1"
	DefaultDeepSeekBaseURL = "https://api.deepseek.com"
)

// The models that are offered where the configuration has none, the default
// first.
var (
	defaultModels         = []string{"gpt-6-astra", "gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-luna"}
	defaultDeepSeekModels = []string{"deepseek-flash", "deepseek-v4-pro"}
)

// A flavour is a way in which servers of the dialect differ.
type flavour uint8

const (
	compatible flavour = iota // any server
	official                  // OpenAI's own, or Azure's
	deepSeek
)

// A Provider asks one server. It implements providers.Provider,
// HealthChecker, KeyValidator, ModelGuesser and RateLimiter.
type Provider struct {
	*upstream.Client
	flavour  flavour
	features providers.Features
	// responses is nil where Chat Completions are spoken.
	responses *responses
	// whole says that Chat Completions are asked for in one piece.
	whole bool
	// guesses says that the models are the vendor's, and the server is not.
	guesses bool
}

var (
	_ providers.Provider      = (*Provider)(nil)
	_ providers.HealthChecker = (*Provider)(nil)
	_ providers.KeyValidator  = (*Provider)(nil)
	_ providers.ModelGuesser  = (*Provider)(nil)
	_ providers.RateLimiter   = (*Provider)(nil)
	_ providers.Factory       = New
	_ providers.Factory       = NewDeepSeek
	_ providers.Factory       = NewChat
	_ providers.Factory       = NewResponses
)

// A dialect is which of OpenAI's to speak.
type dialect uint8

const (
	anyDialect dialect = iota // Responses with OpenAI and Azure, else Chat Completions
	chatDialect
	responsesDialect
)

// New returns a provider for any server that is compatible with OpenAI: it
// speaks Chat Completions, which all of them know, and Responses with OpenAI's
// own API and Azure's. A base URL without a path gets /v1, where all of them
// serve it; one with a path is taken as it is.
func New(cfg providers.Config) (providers.Provider, error) {
	return newProvider(cfg, compatible, anyDialect, "openai", DefaultBaseURL, defaultModels)
}

// NewChat is New for Chat Completions with every server.
func NewChat(cfg providers.Config) (providers.Provider, error) {
	return newProvider(cfg, compatible, chatDialect, "openai", DefaultBaseURL, defaultModels)
}

// NewResponses is New for Responses with every server.
func NewResponses(cfg providers.Config) (providers.Provider, error) {
	return newProvider(cfg, compatible, responsesDialect, "openai", DefaultBaseURL, defaultModels)
}

// NewDeepSeek returns a provider for DeepSeek's own API.
func NewDeepSeek(cfg providers.Config) (providers.Provider, error) {
	return newProvider(cfg, deepSeek, chatDialect, "deepseek", DefaultDeepSeekBaseURL, defaultDeepSeekModels)
}

func newProvider(cfg providers.Config, f flavour, d dialect, name, baseURL string, models []string) (providers.Provider, error) {
	client, err := upstream.NewClient(cfg, upstream.Dialect{
		Name:    name,
		BaseURL: baseURL,
		Path: func(path string) string {
			// The whole resource is often pasted as the base.
			path = strings.TrimSuffix(strings.TrimSuffix(path, chatPath), responsesPath)
			if f == deepSeek && cfg.Features.Prefill != nil && *cfg.Features.Prefill {
				// The beta is at the root: see betaPath.
				path = strings.TrimSuffix(strings.TrimSuffix(path, "/v1"), "/beta")
			}
			if path == "" && f != deepSeek {
				return "/v1"
			}
			return path
		},
		Models:    "/models",
		Authorize: func(h http.Header, key string) { h.Set("Authorization", "Bearer "+key) },
		RequestID: "X-Request-Id",
		Limits: func(h http.Header, now time.Time) (providers.RateLimits, bool) {
			return limitHeaders.Read(h, now)
		},
	})
	if err != nil {
		return nil, err
	}
	if f == compatible && isOfficial(client.Host()) {
		f = official
	}
	if len(cfg.Models) > 0 {
		models = cfg.Models
	}
	p := &Provider{Client: client, flavour: f, features: providers.Features{
		Models: models, Version: apiVersion, Reasoning: true, Streaming: true, Batching: f == official, FunctionCalling: true,
	}}
	p.guesses = len(cfg.Models) == 0 && !vendors(client.Host())
	cfg.Features.Apply(&p.features)
	// Azure serves Responses only at addresses that don't name a deployment.
	if d == responsesDialect || d == anyDialect && f == official && !strings.Contains(cfg.BaseURL, "/deployments/") {
		p.responses = &responses{client: client, official: f == official, waits: socketWaits, times: defaultBackgroundWaits}
		if p.responses.ways.list, err = responsesWays(cfg, f == official, p.features.Streaming); err != nil {
			return nil, err
		}
		p.features.Protocols = p.responses.ways.protocols()
		p.features.Prefill = false // the dialect has none
		return p, nil
	}
	way, err := chatWay(cfg, p.features.Streaming)
	p.features.Protocols = []providers.Protocol{way.protocol()}
	p.whole = way == wayWhole
	return p, err
}

var limitHeaders = upstream.LimitHeaders{
	RequestsLimit: "X-Ratelimit-Limit-Requests", RequestsRemaining: "X-Ratelimit-Remaining-Requests", RequestsReset: "X-Ratelimit-Reset-Requests",
	TokensLimit: "X-Ratelimit-Limit-Tokens", TokensRemaining: "X-Ratelimit-Remaining-Tokens", TokensReset: "X-Ratelimit-Reset-Tokens",
}

// vendors reports whether host is of a vendor whose models are known here:
// OpenAI's lists have a hundred for other purposes, and Azure's have what could
// be deployed, and not what is.
func vendors(host string) bool {
	return isOfficial(host) || strings.HasSuffix(host, ".openai.com") || strings.HasSuffix(host, ".azure.com") || host == "api.deepseek.com"
}

// GuessesModels implements providers.ModelGuesser.
func (p *Provider) GuessesModels() bool { return p.guesses }

// Features implements providers.Provider.
func (p *Provider) Features() providers.Features { return p.features }

// Stream implements providers.Provider.
func (p *Provider) Stream(ctx context.Context, req *providers.Request) (providers.Stream, error) {
	model := cmp.Or(req.Model, p.features.DefaultModel())
	if p.responses != nil {
		return p.responses.stream(ctx, req, model)
	}
	return p.chat(ctx, req, model)
}
