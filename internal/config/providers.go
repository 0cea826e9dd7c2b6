package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// A preset is a provider that the configuration file need not name.
type preset struct {
	dialect        string
	keyVar, urlVar string
	priority       int
}

// dialectLocal is that of the offline analyser.
const dialectLocal = "local"

// ProviderLocal is the offline analyser, which is always there.
const ProviderLocal = "local"

// DefaultPriority is that of a provider whose entry gives none; the built-in
// ones come before it.
const DefaultPriority = 50

var presets = map[string]preset{
	"claude":      {"claude", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", 10},
	"openai":      {"openai", "OPENAI_API_KEY", "OPENAI_BASE_URL", 20},
	"deepseek":    {"deepseek", "DEEPSEEK_API_KEY", "DEEPSEEK_BASE_URL", 30},
	ProviderLocal: {dialect: dialectLocal, priority: 1000},
}

// Dialects are the kinds of providers. openai is Responses with OpenAI itself
// and Chat Completions with servers that are compatible with it; the two that
// follow it are one of these with every server.
var Dialects = []string{"claude", "deepseek", dialectLocal, "openai", "openai-chat", "openai-responses"}

// from names the variables that make the provider, for errors.
func (p preset) from(env map[string]string) string {
	var set []string
	for _, name := range []string{p.keyVar, p.urlVar} {
		if env[name] != "" {
			set = append(set, name)
		}
	}
	if len(set) == 0 {
		return ""
	}
	return ", from " + strings.Join(set, " and ")
}

// resolveProviders makes the list of providers, best first. What an entry
// leaves out it takes from s.
func resolveProviders(s *Serve, f file, env map[string]string) ([]Provider, error) {
	entries := make(map[string]entry)
	names := map[string]bool{ProviderLocal: true}
	for _, e := range f.providers {
		entries[e.name] = e
		names[e.name] = true
	}
	for name, p := range presets {
		if env[p.keyVar] != "" || env[p.urlVar] != "" || s.StoresKeys() {
			names[name] = true
		}
	}
	var all []Provider
	var errs []error
	localLast := true
	for _, name := range slices.Sorted(maps.Keys(names)) {
		pre, builtIn := presets[name]
		p := s.provider(name)
		p.Dialect, p.APIKey, p.BaseURL = pre.dialect, Secret(env[pre.keyVar]), env[pre.urlVar]
		if builtIn {
			p.Priority = pre.priority
		}
		e, ok := entries[name]
		where := "provider " + name + pre.from(env)
		if ok {
			where = fmt.Sprintf("%s, line %d, key providers.%s", f.path, e.line, name)
			if err := e.override(&p, env); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", where, err))
			}
		}
		switch {
		case p.Dialect != dialectLocal:
			p.StoredKeys = s.StoresKeys()
			p.settleConnections(e)
		case e.concurrency == nil:
			p.Concurrency = s.CPULimit // no more can run
		}
		if name == ProviderLocal {
			localLast = e.priority == nil
		}
		if !e.faulty { // else it is not known what it would have been
			for _, err := range append(p.check(), s.checkKeys(&p)...) {
				errs = append(errs, fmt.Errorf("%s: %w", where, err))
			}
		}
		all = append(all, p)
	}
	if localLast {
		i := slices.IndexFunc(all, func(p Provider) bool { return p.Name == ProviderLocal })
		for j, p := range all {
			if j != i {
				all[i].Priority = max(all[i].Priority, p.Priority+1)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Provider) int { return cmp.Compare(a.Priority, b.Priority) })
	return all, errors.Join(errs...)
}

// provider is a provider with nothing but what s says of all.
func (s *Serve) provider(name string) Provider {
	return Provider{
		Name: name, Priority: DefaultPriority, Weight: 1, Concurrency: s.ProviderConcurrency, Queue: s.ProviderQueue, HedgeAfter: s.HedgeAfter,
		ConnectTimeout: s.ConnectTimeout, HeaderTimeout: s.HeaderTimeout, FirstContentTimeout: s.FirstContentTimeout, IdleTimeout: s.IdleTimeout,
		MinRate: s.MinRate,
	}
}

// give puts what was given in the place of a default.
func give[T any](to, given *T) {
	if given != nil {
		*to = *given
	}
}

// giveInt is give for a number that the parser has bounded.
func giveInt(to *int, given *int64) {
	if given != nil {
		*to = int(*given)
	}
}

// override puts the fields of e that were given in the place of p's.
func (e *entry) override(p *Provider, env map[string]string) error {
	give(&p.Dialect, e.dialect)
	give(&p.BaseURL, e.baseURL)
	give((*string)(&p.APIKey), e.apiKey)
	p.Headers, p.Models = e.headers, e.models
	giveInt(&p.Priority, e.priority)
	giveInt(&p.Weight, e.weight)
	if give(&p.Protocol, e.protocol); p.Protocol == "auto" {
		p.Protocol = ""
	}
	give(&p.Background, e.background)
	p.Features = e.features
	give(&p.RequestsPerMinute, e.requests)
	give(&p.TokensPerMinute, e.tokens)
	giveInt(&p.Concurrency, e.concurrency)
	giveInt(&p.Queue, e.queue)
	give(&p.HedgeAfter, e.hedgeAfter)
	give(&p.ConnectTimeout, e.connect)
	give(&p.HeaderTimeout, e.headersWithin)
	give(&p.FirstContentTimeout, e.firstContent)
	give(&p.IdleTimeout, e.idleWithin)
	give(&p.MinRate, e.minRate)
	giveInt(&p.Connections.Max, e.maxConnections)
	giveInt(&p.Connections.Idle, e.idleConnections)
	give(&p.Connections.IdleTimeout, e.connectionIdle)
	give(&p.Connections.HTTP2, e.http2)
	if err := e.overrideKeys(p, env); err != nil {
		return err
	}
	if e.apiKeyEnv != nil {
		v, ok := env[*e.apiKeyEnv]
		if !ok {
			return fmt.Errorf("the variable %s that api_key_env names is not set; set it, or use another", *e.apiKeyEnv)
		}
		p.APIKey = Secret(v)
	}
	return nil
}

// settleConnections gives the pool the size that the calls need, where the
// entry says nothing: as many are kept as there may be calls, since making one
// costs several round trips; there may be twice as many, for those that are
// being closed and those that ask for health and models.
func (p *Provider) settleConnections(e entry) {
	c := &p.Connections
	if e.maxConnections == nil {
		c.Max = 2 * p.Concurrency
	}
	if e.idleConnections == nil {
		c.Idle = min(p.Concurrency, c.Max)
	}
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdleTimeout)
	c.HTTP2 = e.http2 == nil || *e.http2
}

// check returns what is wrong with p. Nothing of a key or an address is
// repeated, since either may hold credentials.
func (p *Provider) check() []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !slices.Contains(Dialects, p.Dialect) {
		fail("dialect is %.40q; it must be one of %s", p.Dialect, strings.Join(Dialects, ", "))
		return errs
	}
	if p.Dialect == dialectLocal {
		if p.BaseURL != "" || p.APIKey != "" || p.Keys != nil || p.Headers != nil || p.Protocol != "" || p.Background || p.Connections != (Connections{}) {
			fail("the dialect local runs in the server; it takes no base_url, api_key, headers, protocol, background and connections")
		}
		return errs
	}
	if p.BaseURL != "" {
		u, err := url.Parse(p.BaseURL)
		switch {
		case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
			fail("base_url must be an address such as https://api.example.com/v1")
		case u.User != nil:
			fail("base_url must not hold credentials; put them into api_key or headers")
		case u.RawQuery != "" || u.Fragment != "":
			fail("base_url must end with its path, without ? and #")
		}
	}
	if p.BaseURL == "" && p.APIKey == "" && p.Keys == nil && !p.StoredKeys {
		fail("has no key; give api_key or api_key_env, or the base_url of a server that needs none")
	}
	if strings.ContainsFunc(p.APIKey.Reveal(), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		fail("the API key has a space or another character that no key has; check how it was copied")
	}
	if p.Connections.Idle > p.Connections.Max {
		fail("connections.idle is %d, more than connections.max (%d)", p.Connections.Idle, p.Connections.Max)
	}
	for name, v := range p.Headers {
		if !headerName(name) || strings.ContainsAny(v.Reveal(), "\r\n\x00") {
			fail("headers.%s is not a header", name)
		}
	}
	return errs
}

// headerName reports whether s is a token of RFC 9110.
func headerName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}
