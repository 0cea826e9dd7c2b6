package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

const (
	// modelsTimeout bounds how long the start waits for lists of models.
	modelsTimeout = 5 * time.Second
	// maxListedModels bounds how many models of a list are offered. Each has a
	// breaker, and its place in metrics and on the page; a server with more,
	// such as OpenRouter, is one whose models should be chosen.
	maxListedModels = 100
	// anyModel stands for the first model of a server whose list is not known
	// yet.
	anyModel = "default"
)

// nameModels is what to do about a server whose models can't be found out.
const nameModels = `name its models with "models" in its entry of the configuration file`

// learnModels asks the servers for their models where the configuration names
// none and those of the dialect are a guess (providers.ModelGuesser): the names
// of OpenAI's models mean nothing to Ollama. It comes before the analyses, which
// take a provider's models as they are then.
//
// A server that can't be asked now is asked again with each call, under the name
// anyModel. One that has no list at all is taken to know the dialect's own
// models, as proxies before a vendor do.
func (u *upstreams) learnModels(ctx context.Context, log zerolog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, modelsTimeout)
	defer cancel()
	errs := make([]error, len(u.entries))
	var asked sync.WaitGroup
	for i, cfg := range u.guesses {
		asked.Go(func() { errs[i] = u.learn(ctx, i, cfg, log.With().Str("provider", cfg.Name).Logger()) })
	}
	asked.Wait()
	return errors.Join(errs...)
}

// learn is learnModels for the entry i, which was made from cfg.
func (u *upstreams) learn(ctx context.Context, i int, cfg providers.Config, log zerolog.Logger) error {
	p := u.entries[i].Provider
	l := &unlisted{Provider: p, guesser: p.(providers.ModelGuesser), log: log}
	models, err := l.list(ctx)
	switch {
	case err == nil:
		if cfg.Models = models; len(models) > maxListedModels {
			cfg.Models = models[:maxListedModels]
			log.Warn().Int("listed", len(models)).Int("offered", maxListedModels).Msg("the provider lists more models than are offered; " + nameModels)
		}
		if u.entries[i].Provider, err = dialects().New(cfg); err != nil {
			return &exitError{exitUsage, err}
		}
		log.Info().Str("default", models[0]).Strs("models", cfg.Models).Msg("the configuration names no models of the provider; those that it lists are offered")
		return nil
	case protocol.AsError(err).Code == protocol.CodeInvalidRequest: // 404
		log.Warn().Err(err).Str("default", p.Features().DefaultModel()).
			Msg("the provider has no list of models; it is asked for those of its dialect, which it may not have: " + nameModels)
	default:
		l.waits = true
		log.Warn().Err(err).Msg("the models of the provider are not known; it is asked again with each analysis. If it goes on, " + nameModels)
	}
	u.entries[i].Provider = l
	return nil
}

// errNoModels is in the tree of the error for a list without models.
var errNoModels = errors.New("it lists no models")

// An unlisted is a provider whose models nobody has told. Its methods may be
// called concurrently.
type unlisted struct {
	// Set by learn, then read-only.
	providers.Provider
	guesser providers.ModelGuesser
	log     zerolog.Logger
	// waits says that the list may come later: anyModel is offered until then,
	// and else the dialect's own.
	waits bool

	// model is what anyModel stands for, once that is known.
	model atomic.Pointer[string]
}

var (
	_ providers.Prefiller     = (*unlisted)(nil)
	_ providers.HealthChecker = (*unlisted)(nil)
	_ providers.RateLimiter   = (*unlisted)(nil)
	_ providers.KeyHolder     = (*unlisted)(nil)
	_ providers.KeyChecker    = (*unlisted)(nil)
)

// list asks the server for its models, the best for a default first. There is
// at least one, or an error that says why not.
func (u *unlisted) list(ctx context.Context) ([]string, error) {
	listed, err := u.guesser.ListModels(ctx)
	if err != nil {
		return nil, err
	}
	models := usableModels(listed, u.Provider.Features().Models)
	if len(models) == 0 {
		// Not the request's fault, and asking again at once is of no use.
		e := protocol.Errorf(protocol.CodeServiceUnavailable, "%w; load one, or "+nameModels, errNoModels).WithProvider(u.Name())
		e.Retryable = false
		return nil, e
	}
	return models, nil
}

// find returns what anyModel stands for.
func (u *unlisted) find(ctx context.Context) (string, error) {
	if known := u.model.Load(); known != nil {
		return *known, nil
	}
	models, err := u.list(ctx)
	switch code := protocol.AsError(err).Code; {
	case err == nil:
	case code == protocol.CodeInvalidRequest || code == protocol.CodeInvalidResponse:
		// It has no list, or none that can be understood, such as Ollama's null
		// before the first model is pulled.
		return u.Provider.Features().DefaultModel(), nil
	case ctx.Err() != nil || errors.Is(err, errNoModels):
		return "", err
	default:
		return "", explain(err, `its models could not be asked for, and the configuration names none ("models" in its entry): `, "")
	}
	if u.model.CompareAndSwap(nil, &models[0]) {
		u.log.Info().Str("default", models[0]).Strs("models", models[:min(len(models), maxListedModels)]).
			Msg("the provider lists its models now, and is asked for the first; a restart offers the others, too")
	}
	return models[0], nil
}

// explain is err with words around its detail.
func explain(err error, before, after string) error {
	e, ok := errors.AsType[*protocol.Error](err)
	if !ok {
		return err
	}
	c := *e
	c.Detail = before + c.Detail + after
	return &c
}

// Features implements providers.Provider.
func (u *unlisted) Features() providers.Features {
	f := u.Provider.Features()
	if u.waits {
		f.Models = []string{anyModel}
	}
	return f
}

// Stream implements providers.Provider.
func (u *unlisted) Stream(ctx context.Context, req *providers.Request) (providers.Stream, error) {
	if u.waits {
		model, err := u.find(ctx)
		if err != nil {
			return nil, err
		}
		r := *req
		r.Model = model
		req = &r
	}
	s, err := u.Provider.Stream(ctx, req)
	if err != nil && u.model.Load() == nil && protocol.AsError(err).Code == protocol.CodeInvalidRequest {
		err = explain(err, "", "; it has no list of models: if it doesn't have this one, "+nameModels)
	}
	return s, err
}

// HasKey implements providers.KeyHolder.
func (u *unlisted) HasKey() bool {
	h, ok := u.Provider.(providers.KeyHolder)
	return !ok || h.HasKey()
}

// CheckKey implements providers.KeyChecker.
func (u *unlisted) CheckKey(ctx context.Context, id string) error {
	if c, ok := u.Provider.(providers.KeyChecker); ok {
		return c.CheckKey(ctx, id)
	}
	return nil
}

// Prefill implements providers.Prefiller.
func (u *unlisted) Prefill(model string) bool {
	p, ok := u.Provider.(providers.Prefiller)
	if !ok {
		return u.Provider.Features().Prefill
	}
	if known := u.model.Load(); u.waits && known != nil {
		model = *known
	}
	return p.Prefill(model)
}

// Health implements providers.HealthChecker. A server without a model can't
// answer, however well it is.
func (u *unlisted) Health(ctx context.Context) error {
	if u.waits && u.model.Load() == nil {
		_, err := u.find(ctx)
		return err
	}
	if h, ok := u.Provider.(providers.HealthChecker); ok {
		return h.Health(ctx)
	}
	return nil
}

// RateLimits implements providers.RateLimiter.
func (u *unlisted) RateLimits() (providers.RateLimits, bool) {
	if l, ok := u.Provider.(providers.RateLimiter); ok {
		return l.RateLimits()
	}
	return providers.RateLimits{}, false
}

// notForChat are parts of the names of models that answer nothing: they make
// embeddings, order documents or write down speech. Servers list them among the
// others.
var notForChat = []string{"embed", "rerank", "minilm", "bge-", "whisper"}

// usableModels is a server's list, the best for a default first: what the vendor
// offers, where the server is a proxy before it; then the others, as they come;
// and then those that are not for chat. What no request could name is left out.
func usableModels(listed, own []string) []string {
	var usable []string
	for _, id := range listed {
		if id != "" && len(id) <= protocol.MaxNameBytes && !strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) &&
			!slices.Contains(usable, id) {
			usable = append(usable, id)
		}
	}
	rank := func(id string) int {
		if i := slices.Index(own, id); i >= 0 {
			return i
		}
		lower := strings.ToLower(id)
		if slices.ContainsFunc(notForChat, func(part string) bool { return strings.Contains(lower, part) }) {
			return len(own) + 1
		}
		return len(own)
	}
	slices.SortStableFunc(usable, func(a, b string) int { return rank(a) - rank(b) })
	return usable
}
