package analysis

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/cache"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// A Cache keeps whole answers by the requests that they are to. Its methods may
// be called concurrently, and return at once.
type Cache interface {
	Get(cache.Key) (*cache.Answer, bool)
	Put(cache.Key, *cache.Answer)
}

// CacheName is whom clients see answering when a cached answer takes the place
// of providers that can't be reached.
const CacheName = "cache"

// What the bulkhead before cached answers allows: giving one is quick.
const cacheWorkers, cacheQueue = 30, 200

// mayRecall reports whether an earlier answer is a help after e: where the
// providers could not be reached, or had no time; not where they, or the
// request, were at fault.
func mayRecall(e *protocol.Error) bool {
	switch e.Code {
	case protocol.CodeServiceUnavailable, protocol.CodeStreamInterrupted, protocol.CodeRateLimited, protocol.CodeOverloaded:
		return true
	}
	return errors.Is(e, protocol.ErrNetwork)
}

// recall returns what gives the cached answer, if there is one and it was not
// given yet.
func (d *drive) recall() *target {
	j := d.j
	if d.recalled || j.s.recaller == nil || j.key == (shareKey{}) || !d.any(mayRecall) {
		return nil
	}
	a, ok := j.s.opts.Cache.Get(cache.Key(j.key))
	if !ok {
		return nil
	}
	d.recalled = true
	return j.s.recaller.target(a)
}

// finishLength is the reason of an answer that reached its limit of tokens.
const finishLength = "length"

// keep puts a whole answer of a provider into the cache: none that was cut by a
// limit, since asking again may give more.
func (j *job) keep(d *drive, completed *protocol.Completed) {
	if !d.answer.said.on || completed.Cached || completed.Degraded || completed.FinishReason == finishLength {
		return
	}
	j.s.opts.Cache.Put(cache.Key(j.cacheKey), &cache.Answer{
		Parts: d.answer.said.end(), FinishReason: completed.FinishReason, Provider: completed.Provider, Model: completed.Model,
		Usage: completed.Usage, Began: j.info.Started, At: time.Now(),
	})
}

// A transcript is what an answer said, for the cache. The zero value keeps
// nothing.
type transcript struct {
	on    bool
	parts []cache.Part
	kind  protocol.ChunkKind // of text
	text  strings.Builder    // not in parts yet
}

func (t *transcript) chunk(kind protocol.ChunkKind, text string) {
	if !t.on {
		return
	}
	if kind != t.kind {
		t.flush()
		t.kind = kind
	}
	t.text.WriteString(text)
}

func (t *transcript) finding(f *protocol.Finding) {
	if t.on {
		t.flush()
		own := *f
		t.parts = append(t.parts, cache.Part{Finding: &own})
	}
}

func (t *transcript) flush() {
	if t.text.Len() > 0 {
		t.parts = append(t.parts, cache.Part{Kind: t.kind, Text: t.text.String()})
		t.text.Reset()
	}
}

// end returns everything that was said.
func (t *transcript) end() []cache.Part {
	t.flush()
	return slices.Clip(t.parts)
}

// A recaller makes targets that give cached answers: to the rest of a job they
// are providers like others.
type recaller struct{ like *candidate }

func newRecaller(o *Options, pool *resilience.Pool) *recaller {
	if o.Cache == nil {
		return nil
	}
	return &recaller{newCandidate(Entry{Provider: &recalled{}, Concurrency: cacheWorkers, Queue: cacheQueue, Class: resilience.ClassNetwork}, o, pool)}
}

func (r *recaller) target(a *cache.Answer) *target {
	return &target{breaker: r.like.targets[0].breaker, candidate: &candidate{
		Provider: &recalled{a}, entry: r.like.entry, features: r.like.features, bulkhead: r.like.bulkhead, budget: r.like.budget}}
}

// recalled is a provider that gives one answer.
type recalled struct{ answer *cache.Answer }

var _ providers.Provider = (*recalled)(nil)

func (*recalled) Name() string                 { return CacheName }
func (*recalled) Features() providers.Features { return providers.Features{Findings: true} }

func (r *recalled) Stream(ctx context.Context, _ *providers.Request) (providers.Stream, error) {
	return &recalledStream{ctx: ctx, answer: r.answer, left: r.answer.Parts}, nil
}

type recalledStream struct {
	ctx    context.Context
	answer *cache.Answer
	left   []cache.Part
}

func (s *recalledStream) Next() (providers.Chunk, error) {
	if err := s.ctx.Err(); err != nil {
		return providers.Chunk{}, err
	}
	if len(s.left) == 0 {
		return providers.Chunk{}, io.EOF
	}
	p := s.left[0]
	s.left = s.left[1:]
	switch {
	case p.Finding != nil:
		return providers.Chunk{Type: providers.ChunkFinding, Finding: p.Finding}, nil
	case p.Kind == protocol.KindReasoning:
		return providers.Chunk{Type: providers.ChunkReasoning, Text: p.Text}, nil
	case p.Kind == protocol.KindTool:
		return providers.Chunk{Type: providers.ChunkTool, Text: p.Text}, nil
	}
	return providers.Chunk{Type: providers.ChunkText, Text: p.Text}, nil
}

func (s *recalledStream) Outcome() providers.Outcome {
	if len(s.left) > 0 {
		return providers.Outcome{}
	}
	return providers.Outcome{State: providers.StateComplete, FinishReason: s.answer.FinishReason, Model: s.answer.Model}
}

func (*recalledStream) Close() error { return nil }
