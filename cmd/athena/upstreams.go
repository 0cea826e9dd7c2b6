package main

import (
	"fmt"
	"time"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/connections"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/claude"
	"github.com/athena-hub/athena/providers/local"
	"github.com/athena-hub/athena/providers/openai"
)

// dialects are the kinds of providers. Adding one is a package and a line here,
// and its name in config.Dialects.
func dialects() *providers.Registry {
	r := new(providers.Registry)
	r.Register("claude", claude.New)
	r.Register("deepseek", openai.NewDeepSeek)
	r.Register("openai", openai.New)
	r.Register("openai-chat", openai.NewChat)
	r.Register("openai-responses", openai.NewResponses)
	r.Register("local", local.New)
	return r
}

// upstreams are the configured providers, and the connections to them.
type upstreams struct {
	entries []analysis.Entry // best first
	// pools are by the provider's name. A provider that runs here has none.
	pools map[string]*connections.Pool
	// guesses are what the entries were made from whose models are a guess, by
	// their place among the entries: see learnModels.
	guesses map[int]providers.Config
	// rings are the keys of each provider that takes any, by its name.
	rings map[string]*secrets.Ring
	// told hears when a key begins to rest, and when it works again. It is set
	// before the first call.
	told func(secrets.Change)
}

// newUpstreams makes the configured providers. It calls none of them.
func newUpstreams(cfg *config.Serve) (*upstreams, error) {
	u := &upstreams{pools: make(map[string]*connections.Pool), guesses: make(map[int]providers.Config),
		rings: make(map[string]*secrets.Ring), told: func(secrets.Change) {}}
	registry := dialects()
	for _, p := range cfg.Providers {
		pool := upstreamPool(p, cfg.AllowMetadataAddresses)
		c := providerConfig(p)
		if err := u.addRing(p, &c); err != nil {
			return nil, &exitError{exitUsage, err}
		}
		if pool != nil {
			u.pools[p.Name] = pool
			c.Client = pool.Client()
		}
		provider, err := registry.New(c)
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		if g, ok := provider.(providers.ModelGuesser); ok && g.GuessesModels() {
			u.guesses[len(u.entries)] = c
		}
		e := entry(p)
		e.Provider, e.Models = provider, c.ModelInfo
		u.entries = append(u.entries, e)
	}
	return u, nil
}

// close ends the connections that carry no call: once the analyses have ended,
// all of them.
func (u *upstreams) close() {
	for _, p := range u.pools {
		p.CloseIdleConnections()
	}
}

// addRing gives c a ring with those keys of p that the configuration holds
// itself.
func (u *upstreams) addRing(p config.Provider, c *providers.Config) error {
	if p.Connections == (config.Connections{}) {
		return nil // it runs here
	}
	ring := secrets.NewRing(p.Name, func(change secrets.Change) { u.told(change) })
	u.rings[p.Name] = ring
	c.Keys, c.NeedsKey = ring, p.BaseURL == "" || len(p.Keys) > 0
	own := p.Keys
	if p.APIKey != "" {
		own = append([]config.ProviderKey{{ID: "config:api_key", Weight: 1, Text: p.APIKey}}, own...)
	}
	for _, k := range own {
		if k.Text == "" {
			continue
		}
		key, err := secrets.NewKey([]byte(k.Text.Reveal()))
		if err == nil {
			err = ring.Set(k.ID, []secrets.Entry{{ID: k.ID, Weight: k.Weight, Key: key}})
		}
		if err != nil {
			return fmt.Errorf("provider %s, key %s: %w", p.Name, k.ID, err)
		}
	}
	return nil
}

// upstreamPool is for the connections to p; nil for one that needs none.
func upstreamPool(p config.Provider, metadata bool) *connections.Pool {
	c := p.Connections
	if c == (config.Connections{}) {
		return nil
	}
	idle := c.Idle
	if idle == 0 {
		idle = -1
	}
	return connections.New(connections.Options{
		Max: c.Max, Idle: idle, IdleTimeout: c.IdleTimeout, NoHTTP2: !c.HTTP2, ConnectTimeout: p.ConnectTimeout,
		AllowMetadata: metadata,
	})
}

// providerConfig is what a provider has to know of its entry.
func providerConfig(p config.Provider) providers.Config {
	c := providers.Config{
		Name: p.Name, Dialect: p.Dialect, BaseURL: p.BaseURL, Headers: make(map[string]string, len(p.Headers)),
		ModelInfo: make(map[string]providers.ModelInfo, len(p.Models)), Protocol: providers.Protocol(p.Protocol), Background: p.Background,
		Features: providers.FeatureOverrides(p.Features),
	}
	for name, value := range p.Headers {
		c.Headers[name] = value.Reveal()
	}
	for _, m := range p.Models {
		c.Models = append(c.Models, m.ID)
		info := providers.ModelInfo{ContextTokens: m.ContextTokens, MaxOutputTokens: m.MaxOutputTokens, Price: providers.Price(m.Price)}
		if info != (providers.ModelInfo{}) {
			c.ModelInfo[m.ID] = info
		}
	}
	return c
}

// entry is what the analyses have to know of p, apart from the provider
// itself and its models.
func entry(p config.Provider) analysis.Entry {
	e := analysis.Entry{
		Priority: p.Priority, Weight: p.Weight,
		Limits:      accounting.Limits{RequestsPerMinute: p.RequestsPerMinute, TokensPerMinute: p.TokensPerMinute},
		Concurrency: p.Concurrency, Queue: orNever(p.Queue), Class: resilience.ClassNetwork,
		HedgeAfter: orNever(p.HedgeAfter), HeaderTimeout: p.HeaderTimeout, FirstContentTimeout: p.FirstContentTimeout,
		IdleTimeout: p.IdleTimeout, MinRate: orNever(int64(p.MinRate)),
	}
	if p.Connections == (config.Connections{}) {
		e.Class = resilience.ClassCPU // it runs here
	}
	return e
}

// orNever says in the analyses' words what the configuration means by 0, which
// is a default there.
func orNever[T int | int64 | float64 | time.Duration](n T) T {
	if n == 0 {
		return -1
	}
	return n
}
