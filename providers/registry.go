package providers

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/protocol"
)

// A Config is one provider's entry in the configuration.
type Config struct {
	// Name is the provider's name, unique in a server.
	Name string
	// Dialect names the kind: "openai", "deepseek", "claude" or "local".
	Dialect string
	// BaseURL is the address that paths are appended to; the dialect's own
	// where it is empty.
	BaseURL string
	// APIKey may be empty for servers that need none.
	APIKey string
	// Keys are what calls are made with in the place of APIKey, by turns, and
	// may change at any time. nil for APIKey alone.
	Keys *secrets.Ring
	// NeedsKey says that the server is not to be called without a key: there are
	// sources of keys, though none may have one at the moment.
	NeedsKey bool
	// Models are the ids to offer, the default first; the dialect's own where
	// it is empty (see ModelGuesser).
	Models []string
	// ModelInfo is what is known of models, by id; a model need not be in it.
	ModelInfo map[string]ModelInfo
	// Protocol is the way in which answers should come; "" for the best that
	// works, in the order of the dialect's Features.Protocols. One that the
	// dialect doesn't have is an error.
	Protocol Protocol
	// Background has the vendor make answers in the background, and store them
	// meanwhile: one whose connection breaks is read on from there, and none is
	// asked for twice. Without it, and without Protocol polling, the vendor is
	// told to store nothing. For OpenAI's Responses dialect only.
	Background bool
	// Features override what the dialect says of itself, for servers that
	// speak it with less or more.
	Features FeatureOverrides
	// Headers are sent with each call.
	Headers map[string]string
	// Client makes the calls; http.DefaultClient where it is nil. It must not
	// have a Timeout, which would cut long answers.
	Client *http.Client
}

// FeatureOverrides are the Features that a configuration may set; nil leaves
// the dialect's own.
type FeatureOverrides struct {
	Streaming, Batching, FunctionCalling, Prefill *bool
}

// Apply puts what is set into f.
func (o FeatureOverrides) Apply(f *Features) {
	for _, v := range []struct {
		to   *bool
		from *bool
	}{{&f.Streaming, o.Streaming}, {&f.Batching, o.Batching}, {&f.FunctionCalling, o.FunctionCalling}, {&f.Prefill, o.Prefill}} {
		if v.from != nil {
			*v.to = *v.from
		}
	}
}

// With returns f with what c says of models and features instead. Its error
// says which field of c is wrong.
func (f Features) With(c Config) (Features, error) {
	if len(c.Models) > 0 {
		f.Models = c.Models
	}
	c.Features.Apply(&f)
	if c.Protocol != "" && !slices.Contains(f.Protocols, c.Protocol) {
		return f, fmt.Errorf("protocol must be one of %q, and not %q", f.Protocols, c.Protocol)
	}
	return f, nil
}

// ModelGuesser is implemented by providers whose Features.Models may be a guess.
// The server's own list then knows better: whoever makes the provider asks for
// it and makes the provider again, with Config.Models.
type ModelGuesser interface {
	ModelLister
	// GuessesModels reports whether the Features.Models are the vendor's,
	// since Config.Models was empty, but the server is somebody else's.
	GuessesModels() bool
}

// ModelInfo is what is known of a model. Zero stands for what is not.
type ModelInfo struct {
	// ContextTokens bounds the prompt and the answer together.
	ContextTokens int
	// MaxOutputTokens bounds the answer.
	MaxOutputTokens int
	// Price is what tokens cost.
	Price Price
}

// A Price is in US dollars per million tokens.
type Price struct {
	Input, Output float64
	// CachedInput is the price of that part of the prompt which the provider
	// had cached; Input where it is 0.
	CachedInput float64
}

// IsZero reports whether no price is known.
func (p Price) IsZero() bool { return p == Price{} }

// Cost is what u costs, in US dollars.
func (p Price) Cost(u *protocol.Usage) float64 {
	cached := p.CachedInput
	if cached == 0 {
		cached = p.Input
	}
	n := min(u.CachedTokens, u.InputTokens)
	return (float64(u.InputTokens-n)*p.Input + float64(n)*cached + float64(u.OutputTokens)*p.Output) / 1e6
}

// A Factory makes a provider of one kind. It doesn't call the upstream. Its
// errors say which field of the configuration is wrong.
type Factory func(Config) (Provider, error)

// A Registry holds the kinds of providers by dialect. It is filled once, at
// start, and then only read.
type Registry struct {
	factories map[string]Factory
}

// Register adds a kind. Registering one twice panics, since it is a mistake in
// the program.
func (r *Registry) Register(dialect string, f Factory) {
	if r.factories == nil {
		r.factories = make(map[string]Factory)
	}
	if _, ok := r.factories[dialect]; ok {
		panic("providers: dialect " + dialect + " registered twice")
	}
	r.factories[dialect] = f
}

// Dialects lists the kinds, sorted.
func (r *Registry) Dialects() []string {
	return slices.Sorted(maps.Keys(r.factories))
}

// New makes the provider that c describes.
func (r *Registry) New(c Config) (Provider, error) {
	f, ok := r.factories[c.Dialect]
	if !ok {
		return nil, fmt.Errorf("provider %q: dialect %q is not known; it must be one of %s",
			c.Name, c.Dialect, strings.Join(r.Dialects(), ", "))
	}
	p, err := f(c)
	if err != nil {
		return nil, fmt.Errorf("provider %q: %w", c.Name, err)
	}
	return p, nil
}
