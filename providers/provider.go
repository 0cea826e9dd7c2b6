// Package providers declares what Athena asks of an AI provider, and holds the
// registry of the kinds it knows. Each kind (a dialect of the wire, or the
// offline analyser) is a package of its own below this one, and passes the
// contract in providertest.
//
// A provider translates, once, in each direction: a Request into its own
// wire's, and the answer into Chunks. It doesn't retry, doesn't wait for rate
// limits and keeps no state between calls: order, failover, breakers and
// deadlines over a whole analysis belong to the callers.
package providers

import (
	"context"
	"errors"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A Request is what a provider is asked: the analysis, and the prompts made
// for it.
type Request struct {
	// Analysis is the client's request, validated. A provider that analyses by
	// itself (local) reads this.
	Analysis *protocol.Request
	// Model is the model to ask; never empty for a provider that has models.
	Model string
	// System and Prompt are what to tell a model.
	System, Prompt string
	// MaxTokens bounds the answer; 0 leaves the provider's default, or where
	// the wire demands a number, the model's.
	MaxTokens int
	// Partial is the beginning of the answer, which another call gave before it
	// broke off; "" for a new answer. The answer goes on behind its last
	// character. A provider with Features.Prefill sends it as the beginning of the
	// model's own answer; the others as what the model has said, followed by a
	// user's turn that asks it to go on (see ContinuePrompt).
	Partial string
	// RequestID goes to the upstream where its wire has a place for it.
	RequestID string
	// InOnePiece, where it is not nil, is called by Stream when the answer will
	// come in one piece: the upstream may be silent until it is whole, also
	// with its headers.
	InOnePiece func()
}

// A Provider answers requests. Its methods may be called concurrently.
type Provider interface {
	// Name is the provider's name in the configuration, such as "claude".
	Name() string
	// Features says what the provider can do. It does not change.
	Features() Features
	// Stream asks for an answer. It returns when the upstream has accepted the
	// request (its headers have come), or with an error, an *protocol.Error
	// with the provider's name wherever it is the upstream's or the network's.
	// Ending ctx ends the stream too, and closes the upstream connection at
	// once; ctx's error is in the tree of what is returned then.
	Stream(ctx context.Context, req *Request) (Stream, error)
}

// Features says what a provider can do.
type Features struct {
	// Models are the ids it is known to have, the default first. Empty for a
	// provider that has no models.
	Models []string
	// Version is the version of the wire that is spoken, as its vendor names
	// it, such as "2023-06-01"; "" where it has none.
	Version string
	// Protocols are the ways in which answers can come (see Protocol), in the
	// order in which they are tried. Empty for a provider without a wire.
	Protocols []Protocol
	// Findings says that the provider makes findings itself (ChunkFinding), so
	// they need not be looked for in its text.
	Findings bool
	// Reasoning says that it can send reasoning chunks.
	Reasoning bool
	// Streaming says that answers come piece by piece; without it, an answer is
	// one piece.
	Streaming bool
	// Batching says that the vendor takes several requests as one job.
	Batching bool
	// FunctionCalling says that models can call tools.
	FunctionCalling bool
	// Prefill says that the beginning of an answer can be given (see
	// Request.Partial). It can depend on the model: see Prefiller.
	Prefill bool
}

// A Protocol is a way in which answers come from an upstream.
type Protocol string

// The protocols, in the order of preference.
const (
	ProtocolWebSocket Protocol = "websocket"
	ProtocolSSE       Protocol = "sse"
	// ProtocolPolling asks again and again for an answer that is being made,
	// or, of a server that knows no streams, once for the whole.
	ProtocolPolling Protocol = "polling"
)

// DefaultModel is the first model, or "".
func (f Features) DefaultModel() string {
	if len(f.Models) == 0 {
		return ""
	}
	return f.Models[0]
}

// ErrInternal is in the tree of a provider's error that says that something
// went wrong in the provider (status 500), and not that it is overloaded or
// away: asking again at once often helps.
var ErrInternal = errors.New("internal error of the provider")

// ContinuePrompt is the user's turn that asks a model without prefill to go on
// behind what it has said.
const ContinuePrompt = "Your answer was cut off where your last message ends. Go on from exactly there: " +
	"begin with the very next character, repeat nothing of what you have written, and say nothing about the interruption."

// Prefiller is implemented by providers where prefill depends on the model.
type Prefiller interface {
	// Prefill reports whether the beginning of model's answer can be given.
	Prefill(model string) bool
}

// A Stream is one answer, pulled chunk by chunk. It is for one goroutine;
// only Close may be called from others.
type Stream interface {
	// Next returns the next chunk. The error is io.EOF at the end of the
	// answer, whether it was whole or not: Outcome tells. Any other error is as
	// Provider.Stream's; the answer so far is truncated then. After an error
	// Next returns the same error again.
	Next() (Chunk, error)
	// Outcome says how the answer ended. It is valid once Next has returned an
	// error.
	Outcome() Outcome
	// Close releases the connection, and aborts the answer if it still runs.
	// It may be called more than once.
	Close() error
}

// A ChunkType says which of a Chunk's fields are set.
type ChunkType uint8

// The types of chunks.
const (
	// ChunkText is a piece of the answer, in Text.
	ChunkText ChunkType = iota + 1
	// ChunkReasoning is a piece of what the model thinks aloud, in Text.
	ChunkReasoning
	// ChunkTool is a piece of a tool call's JSON, in Text.
	ChunkTool
	// ChunkFinding is something found, in Finding.
	ChunkFinding
	// ChunkProgress is how far the analysis is, in Progress.
	ChunkProgress
	// ChunkUsage is the usage so far, in Usage.
	ChunkUsage
	// ChunkStarted tells the model that really answers, in Text.
	ChunkStarted
)

// A Chunk is one piece of an answer. Text may be split anywhere between
// characters, never inside one, and is never empty in a chunk of text.
type Chunk struct {
	Type     ChunkType
	Text     string
	Finding  *protocol.Finding
	Progress *protocol.Progress
	Usage    *protocol.Usage
}

// Content reports whether c is part of the answer itself, and not only news
// about it: what a deadline for the first content waits for.
func (c *Chunk) Content() bool {
	return c.Type == ChunkText || c.Type == ChunkReasoning || c.Type == ChunkTool || c.Type == ChunkFinding
}

// A State says how an answer ended.
type State uint8

// The states. The zero value is StateTruncated, so that an answer whose end
// nobody saw is never taken for a whole one.
const (
	// StateTruncated: it broke off before its end, or Close ended it.
	StateTruncated State = iota
	// StateComplete: the provider said that it was whole. A limit on the
	// answer's length that the request asked for is such an end.
	StateComplete
	// StateError: the provider ended it with an error, in Outcome.Err.
	StateError
)

// An Outcome says how an answer ended and who gave it.
type Outcome struct {
	State State
	// FinishReason is "stop", "length", "refusal", "tool" or, where the
	// provider gave another, its own word.
	FinishReason string
	// Model is the model that answered, as the provider names it.
	Model string
	// Usage is nil where the provider said nothing of it.
	Usage *protocol.Usage
	// Err is set for StateError, and for StateTruncated by a broken connection.
	Err *protocol.Error
	// RequestID is the upstream's name for the call, for logs.
	RequestID string
}

// HealthChecker is implemented by providers that can be asked whether they
// work, cheaply.
type HealthChecker interface {
	// Health returns nil if the provider answers and takes the key.
	Health(ctx context.Context) error
}

// KeyValidator is implemented by providers whose key can be checked without
// being charged for it.
type KeyValidator interface {
	// ValidateKey returns nil if key is accepted, and an error for which
	// errors.Is(err, protocol.ErrAuthentication) holds if it is refused.
	ValidateKey(ctx context.Context, key string) error
}

// KeyHolder is implemented by providers whose keys may come and go while the
// server runs.
type KeyHolder interface {
	// HasKey reports whether a call can be made at all. A provider for which it
	// can't is left out where the caller has a choice.
	HasKey() bool
}

// KeyChecker is implemented by providers with several keys.
type KeyChecker interface {
	// CheckKey asks the provider, by a call that costs nothing, whether it takes
	// the key of this id (see secrets.Ring), and tells the ring what it says.
	CheckKey(ctx context.Context, id string) error
}

// ModelLister is implemented by providers that can list their models.
type ModelLister interface {
	ListModels(ctx context.Context) ([]string, error)
}

// RateLimiter is implemented by providers that tell their limits.
type RateLimiter interface {
	// RateLimits returns what the newest answer's headers said; ok is false
	// before the first.
	RateLimits() (limits RateLimits, ok bool)
}

// RateLimits is what a provider says of its limits. Numbers are -1 where it
// says nothing.
type RateLimits struct {
	RequestsLimit, RequestsRemaining int64
	TokensLimit, TokensRemaining     int64
	RequestsReset, TokensReset       time.Time
	// At is when it said so.
	At time.Time
}
