package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Type names what an event tells. Clients ignore types that they don't know.
type Type string

// The types of events. The last three are terminal: each stream ends with
// exactly one of them.
const (
	TypeStarted   Type = "started"
	TypeQueued    Type = "queued"
	TypeRetrying  Type = "retrying"
	TypeFailover  Type = "failover"
	TypeChunk     Type = "chunk"
	TypeFinding   Type = "finding"
	TypeProgress  Type = "progress"
	TypeUsage     Type = "usage"
	TypeCompleted Type = "completed"
	TypeFailed    Type = "failed"
	TypeCancelled Type = "cancelled"
)

// Terminal reports whether an event of this type ends its stream.
func (t Type) Terminal() bool {
	return t == TypeCompleted || t == TypeFailed || t == TypeCancelled
}

// An Event is one entry of a stream.
type Event struct {
	Stream string `json:"stream"`
	// Seq is the event's place in its stream: 1, 2, 3 … without holes.
	Seq uint64 `json:"seq"`
	// First is the first place that the event covers, left out (0) where it
	// equals Seq.
	First uint64          `json:"first,omitempty"`
	Type  Type            `json:"type"`
	Time  time.Time       `json:"time"`
	Data  json.RawMessage `json:"data"`
}

// Covers returns the first and last place in the stream that e covers.
func (e *Event) Covers() (first, last uint64) {
	if e.First == 0 {
		return e.Seq, e.Seq
	}
	return e.First, e.Seq
}

// Decode stores e's data in the value that v points to, which should be of
// the type that belongs to e.Type: *Chunk for a chunk, and so on.
// Fields that v's type doesn't have are ignored, names are matched exactly.
func (e *Event) Decode(v any) error {
	b := bytes.TrimLeft(e.Data, " \t\r\n")
	if len(b) == 0 || b[0] != '{' {
		return fmt.Errorf("decode %s event %d: data is no JSON object: %.60q", e.Type, e.Seq, b)
	}
	if t := reflect.TypeOf(v); t != nil && t.Kind() == reflect.Pointer && json.Valid(b) {
		b = dropMisnamed(b, t.Elem())
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s event %d: %w", e.Type, e.Seq, err)
	}
	return nil
}

// A ChunkKind says what a chunk is a piece of.
type ChunkKind string

// The kinds of chunks. Each kind is concatenated by itself.
const (
	KindText      ChunkKind = "text"
	KindReasoning ChunkKind = "reasoning"
	KindTool      ChunkKind = "tool"
)

// Started is the data of a started event: an attempt at a provider begins.
type Started struct {
	Provider string `json:"provider"`
	Model    string `json:"model"`
	Analysis string `json:"analysis"`
	Language string `json:"language,omitempty"`
	// Attempt counts from 1, and rises with each failover.
	Attempt int `json:"attempt"`
}

// The reasons of queued events, and the one of failover events that is no
// error's code.
const (
	ReasonConcurrency = "concurrency" // a place among the provider's calls
	ReasonRateLimit   = "rate_limit"  // the time at which the next call is allowed
	ReasonHedged      = "hedged"      // the first provider was slow
)

// Queued is the data of a queued event: the analysis waits.
type Queued struct {
	Position     int    `json:"position"`
	Reason       string `json:"reason"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
}

// Retrying is the data of a retrying event: the same provider is asked again.
type Retrying struct {
	Provider string `json:"provider"`
	Attempt  int    `json:"attempt"`
	AfterMS  int64  `json:"after_ms"`
	Error    *Error `json:"error"`
}

// Failover is the data of a failover event: another provider takes over.
type Failover struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Attempt int    `json:"attempt"`
	Reason  string `json:"reason"`
	// Discard tells clients to drop what earlier attempts said: text,
	// reasoning, tool pieces and findings. Where it is false the next
	// provider continues them.
	Discard bool `json:"discard"`
}

// Chunk is the data of a chunk event: a piece of the answer.
type Chunk struct {
	Kind    ChunkKind `json:"kind"`
	Attempt int       `json:"attempt"`
	// Text is a delta; it never splits a character.
	Text string `json:"text"`
}

// A Position is a place in the analysed code. Lines count from 1; columns
// count UTF-16 code units from 1, as editors do.
type Position struct {
	Line   int `json:"line"`
	Column int `json:"column"`
}

// A Range is a stretch of the analysed code; End is exclusive.
type Range struct {
	Start Position `json:"start"`
	End   Position `json:"end"`
}

// A Severity orders findings.
type Severity string

// The severities, gravest first.
const (
	SeverityCritical Severity = "critical"
	SeverityHigh     Severity = "high"
	SeverityMedium   Severity = "medium"
	SeverityLow      Severity = "low"
	SeverityInfo     Severity = "info"
)

// Valid reports whether s is one of the severities.
func (s Severity) Valid() bool {
	switch s {
	case SeverityCritical, SeverityHigh, SeverityMedium, SeverityLow, SeverityInfo:
		return true
	}
	return false
}

// Finding is the data of a finding event: one thing found in the code.
type Finding struct {
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
	Range    Range    `json:"range"`
	// Suggestion says in words what to do, "" for nothing.
	Suggestion string `json:"suggestion,omitempty"`
	// Replacement is code in place of the whole lines from the range's first to
	// its last; empty takes them out, and nil says that there is none.
	Replacement *string `json:"replacement,omitempty"`
}

// Bytes is how many bytes the finding's texts have.
func (f *Finding) Bytes() int {
	n := len(f.Rule) + len(f.Message) + len(f.Suggestion)
	if f.Replacement != nil {
		n += len(*f.Replacement)
	}
	return n
}

// Progress is the data of a progress event.
type Progress struct {
	Stage string `json:"stage"`
	// Percent is from 0 to 100, nil where it is not known.
	Percent *float64 `json:"percent,omitempty"`
}

// Usage is the data of a usage event: totals so far, in tokens. A later one
// replaces an earlier one.
type Usage struct {
	// InputTokens is the whole prompt, cached parts included.
	InputTokens     int64    `json:"input_tokens"`
	OutputTokens    int64    `json:"output_tokens"`
	CachedTokens    int64    `json:"cached_tokens,omitempty"`
	ReasoningTokens int64    `json:"reasoning_tokens,omitempty"`
	CostUSD         *float64 `json:"cost_usd,omitempty"`
	// Estimated says that the provider didn't tell, and the numbers are
	// estimated from the lengths of the texts.
	Estimated bool `json:"estimated,omitempty"`
}

// Completed is the data of a completed event: the whole answer was sent.
// Events, Bytes and SHA256 prove it (P5).
type Completed struct {
	FinishReason string `json:"finish_reason"`
	Provider     string `json:"provider"`
	Model        string `json:"model"`
	Cached       bool   `json:"cached"`
	Degraded     bool   `json:"degraded"`
	// Stale says that the answer is an earlier one to an equal request, since
	// no provider could be reached.
	Stale bool   `json:"stale,omitempty"`
	Usage *Usage `json:"usage,omitempty"`
	// Events is the event's own seq.
	Events uint64 `json:"events"`
	// Bytes is the length of the text in UTF-8.
	Bytes int64 `json:"bytes"`
	// SHA256 is the digest of the text in hexadecimal.
	SHA256 string `json:"sha256"`
}

// Failed is the data of a failed event.
type Failed struct {
	Error *Error `json:"error"`
}

// A CancelReason says who cancelled a stream.
type CancelReason string

// Who cancels.
const (
	CancelClient   CancelReason = "client"
	CancelOrphaned CancelReason = "orphaned"
	CancelDrain    CancelReason = "drain"
	CancelLimit    CancelReason = "limit"
)

// Cancelled is the data of a cancelled event.
type Cancelled struct {
	By CancelReason `json:"by"`
}

// timeLayout is RFC 3339 in UTC with milliseconds, as every event carries it.
const timeLayout = "2006-01-02T15:04:05.000Z"

// DataFor returns a new value of the type that the data of an event of type t
// has, or nil for a type that this version doesn't know.
func DataFor(t Type) any {
	switch t {
	case TypeStarted:
		return new(Started)
	case TypeQueued:
		return new(Queued)
	case TypeRetrying:
		return new(Retrying)
	case TypeFailover:
		return new(Failover)
	case TypeChunk:
		return new(Chunk)
	case TypeFinding:
		return new(Finding)
	case TypeProgress:
		return new(Progress)
	case TypeUsage:
		return new(Usage)
	case TypeCompleted:
		return new(Completed)
	case TypeFailed:
		return new(Failed)
	case TypeCancelled:
		return new(Cancelled)
	}
	return nil
}
