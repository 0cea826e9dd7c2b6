package analysis

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// Streams makes the log that a job writes to.
type Streams interface {
	// Create makes an empty stream. Ending ctx afterwards doesn't end it.
	Create(ctx context.Context, id string) (Writer, error)
}

// StreamsFunc makes a function Streams.
type StreamsFunc func(ctx context.Context, id string) (Writer, error)

// Create calls f.
func (f StreamsFunc) Create(ctx context.Context, id string) (Writer, error) { return f(ctx, id) }

// A Writer writes one stream. A job calls its writing methods one at a time,
// from whichever of its goroutines; Watchers may be called beside them. None
// of them waits for clients, or longer than memory allows.
//
// A write that returns an error has written nothing. After a terminal event
// all fail. An error that has, or wraps one that has, a method TakenOver() bool
// which returns true says that another node writes the stream now: the job ends
// at once, without a terminal event of its own.
//
// A Writer may also have the method HandOver(context.Context) error, which
// stores all that was written and lets any other node go on with the stream.
// Once it has returned nil all writes fail; after an error nothing has changed.
// It is called when no write is under way.
type Writer interface {
	ID() string
	// Append writes an event of any type but chunk; a terminal one ends the
	// stream. Data is of the type that protocol.DataFor names. For Completed,
	// the writer fills Events, Bytes and SHA256 itself.
	Append(t protocol.Type, data any) error
	// Chunk writes a piece of the answer, which may be of any length; the
	// writer may split it, or merge it with its neighbours.
	Chunk(kind protocol.ChunkKind, attempt int, text string) error
	// Watchers tells how many clients watch now and, where none does, since
	// when. The zero time means that none ever has. It may ask other nodes, and
	// take a part of a second for that.
	Watchers() (n int, idleSince time.Time)
}

// An Entry is a provider that jobs may use, and how. For durations and sizes,
// zero stands for the Options' own or the default.
type Entry struct {
	Provider providers.Provider
	// Priority orders providers for "auto": lower numbers first.
	Priority int
	// Weight is the provider's share among those of the same priority; 1 by
	// default.
	Weight int
	// Models is what is known of the provider's models, by id.
	Models map[string]providers.ModelInfo
	// Limits are what may be asked of it within a minute.
	Limits accounting.Limits
	// Concurrency is how many calls may run at once, Queue how many jobs may
	// wait for one to end; 20 and 100 by default.
	Concurrency, Queue int
	// Class is the resource that calls use up; the network by default, the CPU
	// for one without models.
	Class resilience.Class
	// HedgeAfter is how long it may be silent before another one is asked too;
	// never where it is negative.
	HedgeAfter time.Duration
	// HeaderTimeout, FirstContentTimeout, IdleTimeout and MinRate override the
	// Options'.
	HeaderTimeout, FirstContentTimeout, IdleTimeout time.Duration
	MinRate                                         int64
}

// Options configure a Service. For durations and sizes, zero stands for the
// default; deadlines and the orphan timeout are off where they are negative.
type Options struct {
	// Providers are the configured ones. Their names must differ. One without
	// models analyses by itself (the local one): "auto" takes it only if there
	// is no other.
	Providers []Entry
	// Streams is required.
	Streams Streams

	// Requests keeps the requests of running jobs, so that other nodes can go on
	// with them; nil where there are none.
	Requests RequestStore
	// Sharing lets equal requests on different nodes share a job; nil for those on
	// this node alone.
	Sharing Sharing
	// HandOver has Drain hand over what doesn't end in time. It needs Requests, and
	// writers with a method HandOver.
	HandOver bool
	// HintTTL is how long it is heeded what another node says of its breakers; 5 s
	// by default.
	HintTTL time.Duration

	// MaxJobs bounds the jobs that run at once; 256 by default.
	MaxJobs int
	// OverloadRetryAfter is when a client that met this bound, or a server that
	// drains, is told to come back; 2 s by default.
	OverloadRetryAfter time.Duration
	// MaxCodeBytes bounds the code of a request; 1 MiB by default.
	MaxCodeBytes int
	// MaxOutputBytes bounds an answer with everything in it: text, reasoning,
	// tool calls and findings. A job whose answer would be larger is cancelled
	// by "limit". 4 MiB by default.
	MaxOutputBytes int64
	// MaxFindingBytes bounds the line of a finding in a model's text; 16 KiB by
	// default. Longer lines stay text.
	MaxFindingBytes int
	// MaxFindings bounds how many findings are taken from a model's text; 2000
	// by default. Further ones stay text.
	MaxFindings int

	// HeaderTimeout is how long a provider may take, from the call to accepting
	// it; 1 min by default. One whose answers come in one piece accepts a call
	// with the answer: only FirstContentTimeout is for it.
	HeaderTimeout time.Duration
	// FirstContentTimeout is how long a provider may take, from the call to
	// the first piece of the answer; 2 min by default, since some models
	// think long without a word.
	FirstContentTimeout time.Duration
	// IdleTimeout is how long a provider may be silent between two pieces of
	// the answer; 1 min by default.
	IdleTimeout time.Duration
	// MinRate is how many bytes of the answer must come per second, measured
	// over RateWindow; 0 for no such bound. It counts what a model thinks, too.
	MinRate int64
	// RateWindow is how long MinRate is measured over; 10 s by default.
	RateWindow time.Duration
	// TotalTimeout is how long a job may take; 15 min by default.
	TotalTimeout time.Duration
	// ResumeTime is how long a job may take at least that was resumed after its
	// node was lost, whatever TotalTimeout has left; 1 min by default.
	ResumeTime time.Duration
	// OrphanTimeout is how long a job goes on while nobody watches; 2 min by
	// default. A request may ask for less.
	OrphanTimeout time.Duration
	// AbortGrace is how long a provider may take to return after its context
	// has ended, before the job ends without it; 5 s by default.
	AbortGrace time.Duration

	// IdempotencyTTL is how long an Idempotency-Key is remembered; 24 h by
	// default.
	IdempotencyTTL time.Duration
	// MaxIdempotencyKeys bounds how many are, in this node's memory; 10,000 by
	// default. The oldest are forgotten first.
	MaxIdempotencyKeys int
	// Keys keeps them beyond this node's memory; nil for memory alone.
	Keys KeyStore

	// AfterContent says what follows when an answer breaks off after a part of
	// it was sent; AfterContentRestart by default.
	AfterContent AfterContent
	// Recovery says what follows a failure, by its code, where it is not what
	// DefaultRecovery says.
	Recovery map[protocol.Code]Strategy
	// Cache keeps whole answers, to give one again, marked as stale, when no
	// provider can be reached; none are kept where it is nil.
	Cache Cache
	// CacheGeneration names the answers that are good now, those that are being
	// given included: a request joins no job of another one. nil for always the
	// same. It returns at once.
	CacheGeneration func() string
	// Degrade lets the offline analyser answer when no provider does and the
	// request named none. A request's own word goes before this.
	Degrade bool
	// HedgeAfter is how long a provider may be silent before another one is
	// asked too; 8 s by default, never where it is negative. If the other one
	// answers first, the silent one's breaker counts a failure.
	HedgeAfter time.Duration
	// MaxAttempts bounds the calls for one job, those that were lost with a node
	// included; 6 by default. Each node that goes on with a job makes at least one.
	MaxAttempts int
	// MaxRetries bounds how often one provider is asked again for one job after
	// a failure; 2 by default, none where it is negative. While there is another
	// provider to turn to it is asked again once at most.
	MaxRetries int
	// RetryBackoff is what is waited for before that; exponential from 250 ms
	// to 10 s by default.
	RetryBackoff resilience.Backoff
	// RetryBudget bounds the retries of each provider over all jobs.
	RetryBudget resilience.BudgetOptions
	// RateLimitWait is the longest wait for the time that a provider names, or
	// until a limit of our own allows the call; a longer one fails over. 15 s
	// by default, none where it is negative.
	RateLimitWait time.Duration
	// Breaker configures the breakers, one for each provider and model. Its
	// OnChange is not used.
	Breaker resilience.BreakerOptions
	// Pool bounds what all calls use up together, by class.
	Pool resilience.PoolLimits
	// TenantLimits are what each owner may use within a minute.
	TenantLimits accounting.Limits
	// SharedLimits hold tenants and credentials to limits on several nodes
	// together; nil for none.
	SharedLimits accounting.Shared
	// CredentialLimits are what each credential of theirs may.
	CredentialLimits accounting.Limits
	// Random orders providers of the same priority: it returns numbers from 0
	// to 1. math/rand's by default.
	Random func() float64

	// Logger gets a line for each job that ends.
	Logger zerolog.Logger
	// Observer is told what metrics need; none where it is nil.
	Observer Observer
}

// withDefaults returns o with its zero values replaced.
func (o Options) withDefaults() Options {
	if o.CacheGeneration == nil {
		o.CacheGeneration = func() string { return "" }
	}
	o.MaxJobs = cmp.Or(o.MaxJobs, 256)
	o.OverloadRetryAfter = cmp.Or(o.OverloadRetryAfter, 2*time.Second)
	o.MaxCodeBytes = cmp.Or(o.MaxCodeBytes, 1<<20)
	o.MaxOutputBytes = cmp.Or(o.MaxOutputBytes, 4<<20)
	o.MaxFindingBytes = cmp.Or(o.MaxFindingBytes, 16<<10)
	o.MaxFindings = cmp.Or(o.MaxFindings, 2000)
	o.HeaderTimeout = cmp.Or(o.HeaderTimeout, time.Minute)
	o.FirstContentTimeout = cmp.Or(o.FirstContentTimeout, 2*time.Minute)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Minute)
	o.RateWindow = cmp.Or(o.RateWindow, 10*time.Second)
	o.TotalTimeout = cmp.Or(o.TotalTimeout, 15*time.Minute)
	o.ResumeTime = cmp.Or(o.ResumeTime, time.Minute)
	o.HintTTL = cmp.Or(o.HintTTL, 5*time.Second)
	o.OrphanTimeout = cmp.Or(o.OrphanTimeout, 2*time.Minute)
	o.AbortGrace = cmp.Or(o.AbortGrace, 5*time.Second)
	o.IdempotencyTTL = cmp.Or(o.IdempotencyTTL, 24*time.Hour)
	o.MaxIdempotencyKeys = cmp.Or(o.MaxIdempotencyKeys, 10_000)
	o.AfterContent = cmp.Or(o.AfterContent, AfterContentRestart)
	o.HedgeAfter = cmp.Or(o.HedgeAfter, 8*time.Second)
	o.MaxAttempts = cmp.Or(o.MaxAttempts, 6)
	o.MaxRetries = max(cmp.Or(o.MaxRetries, 2), 0)
	if o.RetryBackoff == (resilience.Backoff{}) {
		o.RetryBackoff = resilience.Backoff{Growth: resilience.Exponential, Base: 250 * time.Millisecond, Max: 10 * time.Second, Jitter: 0.2}
	}
	o.RateLimitWait = max(cmp.Or(o.RateLimitWait, 15*time.Second), 0)
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	return o
}

// An Observer is told what happens, for metrics. Its methods are called from
// the jobs' goroutines, concurrently, and must return quickly.
type Observer interface {
	// CallStarted: a provider is asked now.
	CallStarted(provider, model string)
	// FirstContent: its first piece of the answer came this long after.
	FirstContent(provider, model string, after time.Duration)
	// CallEnded follows each CallStarted.
	CallEnded(CallEnd)
	// JobEnded: a job's stream has its terminal event, or belongs to another node.
	JobEnded(JobEnd)
	// Retried: the same provider is asked again, because of code.
	Retried(provider string, code protocol.Code)
	// FailedOver: another provider is asked, or the same one for a new answer
	// in the place of one that broke off. reason is a code, or protocol.ReasonHedged.
	// For a job that was resumed it is the Resumption's.
	FailedOver(from, to, reason string)
	// Hedged: provider was asked beside a slow one, and answered first or not.
	Hedged(provider string, won bool)
	// Waited: a job has waited for a place (protocol.ReasonConcurrency) or until a rate
	// limit allowed its call (protocol.ReasonRateLimit).
	Waited(provider, reason string, d time.Duration)
	// Joined: a request was given the stream of an equal one that runs, here or on
	// another node.
	Joined()
	// BreakerChanged: the breaker of a provider's model is in another state.
	BreakerChanged(provider, model string, state resilience.BreakerState)
}

// AfterContent says what follows when an answer breaks off after a part of it
// was sent.
type AfterContent string

const (
	// AfterContentRestart means that a new answer replaces it.
	AfterContentRestart AfterContent = "restart"
	// AfterContentContinue means that the next call gets what was said, and goes on
	// behind it.
	AfterContentContinue AfterContent = "continue"
)

// A CallEnd tells how one call of a provider ended.
type CallEnd struct {
	Provider, Model string
	Took            time.Duration
	// Error is nil if the answer was whole, the job was cancelled or the call
	// was outrun.
	Error *protocol.Error
	// Cancelled is set if the job was cancelled: to the stream's reason, or to
	// "handed_over" or "taken_over" where another node goes on with it.
	Cancelled protocol.CancelReason
	// Outrun says that another provider, asked beside this one, answered first.
	Outrun bool
	// Usage is marked as estimated where the provider said nothing of it. It is
	// nil for a provider without models.
	Usage *protocol.Usage
	// Stuck says that the provider had not returned when the job went on.
	Stuck bool
}

// A JobEnd tells how a job ended.
type JobEnd struct {
	Info
	// Took is since its start, on whichever node that was.
	Took time.Duration
	// Type is that of the terminal event; "" where the stream goes on.
	Type protocol.Type
	// HandedOver says that it was handed over to another node, TakenOver that
	// another one writes its stream since this one was believed to be dead. The
	// node that goes on with it tells of its end.
	HandedOver, TakenOver bool
	// Attempts is how many calls of providers were made, on all nodes.
	Attempts int
	// Degraded says that the offline analyser answered in a provider's place.
	Degraded bool
	// Usage adds up what its calls on this node have used, those that failed or
	// were outrun too; CostUSD is nil where the price of none is known.
	Usage protocol.Usage
	// Error is set for TypeFailed, Cancelled for TypeCancelled.
	Error     *protocol.Error
	Cancelled protocol.CancelReason
}

type nobody struct{}

func (nobody) CallStarted(string, string)                             {}
func (nobody) FirstContent(string, string, time.Duration)             {}
func (nobody) CallEnded(CallEnd)                                      {}
func (nobody) JobEnded(JobEnd)                                        {}
func (nobody) Retried(string, protocol.Code)                          {}
func (nobody) FailedOver(string, string, string)                      {}
func (nobody) Hedged(string, bool)                                    {}
func (nobody) Waited(string, string, time.Duration)                   {}
func (nobody) Joined()                                                {}
func (nobody) BreakerChanged(string, string, resilience.BreakerState) {}
