// Package local is the provider that needs no key and no network: a static
// analyser. It is rules, not a model, and its report says so in its first
// line. Its parts:
//
//   - secrets: credentials in text of any language. A set of well-known
//     formats with entropy checks, not gitleaks' library, which adds 10 MB to
//     the binary, 60 modules to the build and 73 ms to the first analysis.
//   - gocheck: Go, on its syntax tree, with those passes of go vet that need
//     no build.
//   - tokencheck: other languages, on the tokens of chroma's lexers.
//   - decode: what encoded literals hold, for the deobfuscate analysis.
//   - source, rules: positions in code, and what a rule is.
//
// An analysis streams as it is made: findings as they are found, each with its
// part of a Markdown report. It reads the whole text in bounded time and
// memory: see MaxBytes, MaxFindings and the bounds in the parts.
package local

import (
	"context"
	"errors"

	"github.com/athena-hub/athena/providers"
)

// Model is what the provider calls itself where others name their model.
const Model = "athena-rules"

// Bounds of one analysis.
const (
	// MaxBytes is how much of the code is analysed; the report says where more
	// was left out.
	MaxBytes = 2 << 20
	// MaxFindings is how many findings are reported.
	MaxFindings = 500
)

// Local is the provider. Its methods may be called concurrently.
type Local struct{ name string }

var (
	_ providers.Provider      = (*Local)(nil)
	_ providers.HealthChecker = (*Local)(nil)
)

// New makes the provider. Of the configuration only the name is used, "local"
// where it is empty; models, protocols and features make no sense for it, and
// are an error.
func New(c providers.Config) (providers.Provider, error) {
	switch {
	case len(c.Models) > 0:
		return nil, errors.New(`field "models": the local analyser has no models`)
	case c.Protocol != "":
		return nil, errors.New(`field "protocol": the local analyser is asked without one`)
	case c.Features != providers.FeatureOverrides{}:
		return nil, errors.New(`field "features": the local analyser's can't be changed`)
	}
	if c.Name == "" {
		c.Name = "local"
	}
	return &Local{c.Name}, nil
}

// Name returns the name in the configuration.
func (l *Local) Name() string { return l.name }

// Features says that the provider makes findings as it goes, goes on behind a
// partial answer, and has neither models nor a wire, and therefore none of what
// belongs to those.
func (l *Local) Features() providers.Features {
	return providers.Features{Findings: true, Streaming: true, Prefill: true}
}

// Health returns nil: there is nothing that could be away.
func (l *Local) Health(context.Context) error { return nil }
