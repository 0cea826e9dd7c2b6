package analysis_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// streams records what jobs write.
type streams struct {
	fail func(id string) error // of Create, where it is set
	make func(*writer)         // sets up a new writer, where it is set
	give func(*writer) error   // makes writers that can hand over, where it is set

	mu  sync.Mutex
	all map[string]*writer
}

func (s *streams) Create(ctx context.Context, id string) (analysis.Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.fail != nil {
		if err := s.fail(id); err != nil {
			return nil, err
		}
	}
	w := &writer{id: id, ended: make(chan struct{})}
	if s.make != nil {
		s.make(w)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[string]*writer)
	}
	s.all[id] = w
	if s.give != nil {
		return &giver{w, s.give}, nil
	}
	return w, nil
}

// A giver is a writer that can be handed over.
type giver struct {
	*writer
	give func(*writer) error
}

func (g *giver) HandOver(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := g.give(g.writer); err != nil {
		return err
	}
	g.close(errGiven)
	return nil
}

var errGiven = errors.New("the stream was handed over")

// A fencedError is what a writer says that another node has taken over.
type fencedError struct{}

func (fencedError) Error() string   { return "another node writes" }
func (fencedError) TakenOver() bool { return true }

// resumed makes the writer of a node that takes a stream over: it holds what is
// stored, and then f, which covers some more.
func (s *streams) resumed(id string, stored []protocol.Event, f *protocol.Failover) (analysis.Writer, error) {
	w := &writer{id: id, ended: make(chan struct{}), watchers: 1}
	if s.make != nil {
		s.make(w)
	}
	var last uint64
	for i := range stored {
		e := stored[i]
		if err := w.transcript.Apply(&e); err != nil {
			return nil, err
		}
		last = e.Seq
	}
	w.events = append(w.events, stored...)
	b, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	e := protocol.Event{Stream: id, First: last + 1, Seq: last + covers, Type: protocol.TypeFailover, Time: time.Now(), Data: b}
	if err := w.transcript.Apply(&e); err != nil {
		return nil, err
	}
	w.events = append(w.events, e)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[string]*writer)
	}
	s.all[id] = w
	if s.give != nil {
		return &giver{w, s.give}, nil
	}
	return w, nil
}

// covers is how many events a failover covers that follows a loss.
const covers = 1000

// log returns the events so far.
func (w *writer) log() []protocol.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// close makes all further writes fail.
func (w *writer) close(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = func(protocol.Type) error { return err }
}

func (s *streams) get(id string) *writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id]
}

// A writer is a recording Writer that checks what it is given as a client
// would.
type writer struct {
	id    string
	ended chan struct{}
	// refuse fails writes, where it is set.
	refuse func(t protocol.Type) error

	mu         sync.Mutex
	events     []protocol.Event
	transcript protocol.Transcript
	digest     protocol.Digest
	late       []protocol.Type // writes after the terminal event
	broken     error
	watchers   int
	since      time.Time
	asked      int
}

func (w *writer) ID() string { return w.id }

func (w *writer) Append(t protocol.Type, data any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.transcript.Terminal() != nil {
		w.late = append(w.late, t)
		return errors.New("the stream has ended")
	}
	if w.refuse != nil {
		if err := w.refuse(t); err != nil {
			return err
		}
	}
	seq := uint64(1)
	if n := len(w.events); n > 0 {
		seq += w.events[n-1].Seq
	}
	if c, ok := data.(*protocol.Completed); ok {
		own := *c
		own.Events = seq
		own.Bytes, own.SHA256 = w.digest.Sum()
		data = &own
	}
	if f, ok := data.(*protocol.Failover); ok && f.Discard {
		w.digest.Reset()
	}
	if c, ok := data.(*protocol.Chunk); ok && c.Kind == protocol.KindText {
		w.digest.Add(c.Text)
	}
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	e := protocol.Event{Stream: w.id, Seq: seq, Type: t, Time: time.Now(), Data: b}
	w.events = append(w.events, e)
	if err := w.transcript.Apply(&e); err != nil {
		w.broken = err
	}
	if t.Terminal() {
		close(w.ended)
	}
	return nil
}

func (w *writer) Chunk(kind protocol.ChunkKind, attempt int, text string) error {
	if text == "" {
		return errors.New("empty chunk")
	}
	return w.Append(protocol.TypeChunk, &protocol.Chunk{Kind: kind, Attempt: attempt, Text: text})
}

func (w *writer) Watchers() (int, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	return w.watchers, w.since
}

// watch sets how many clients watch from now on.
func (w *writer) watch(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watchers, w.since = n, time.Time{}
	if n == 0 {
		w.since = time.Now()
	}
}

// lines returns the events, each as its type and data.
func (w *writer) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var l []string
	for _, e := range w.events {
		l = append(l, string(e.Type)+" "+string(e.Data))
	}
	return l
}

// check fails the test unless the stream is one that a client accepts, with
// one terminal event and no write after it.
func (w *writer) check(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		t.Error(w.broken)
	}
	if w.transcript.Terminal() == nil {
		t.Errorf("stream %s has no terminal event", w.id)
	}
	if len(w.late) > 0 {
		t.Errorf("written after the terminal event: %v", w.late)
	}
}

// A step is one thing that a fake stream does in Next.
type step func(ctx context.Context, s *fakeStream) (chunk providers.Chunk, ok bool, err error)

func say(text string) step {
	return func(context.Context, *fakeStream) (providers.Chunk, bool, error) {
		return providers.Chunk{Type: providers.ChunkText, Text: text}, true, nil
	}
}

func chunk(c providers.Chunk) step {
	return func(context.Context, *fakeStream) (providers.Chunk, bool, error) { return c, true, nil }
}

// wait waits, as a provider does: no longer than its context.
func wait(d time.Duration) step {
	return func(ctx context.Context, _ *fakeStream) (providers.Chunk, bool, error) {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return providers.Chunk{}, false, nil
		case <-ctx.Done():
			return providers.Chunk{}, false, fmt.Errorf("read: %w", ctx.Err())
		}
	}
}

// until waits for a channel and for nothing else, as a provider must not.
func until(c <-chan struct{}) step {
	return func(context.Context, *fakeStream) (providers.Chunk, bool, error) {
		<-c
		return providers.Chunk{}, false, nil
	}
}

// untilClosed waits for Close only.
func untilClosed(_ context.Context, s *fakeStream) (providers.Chunk, bool, error) {
	<-s.closed
	return providers.Chunk{}, false, errors.New("use of closed connection")
}

func breaks(err error) step {
	return func(context.Context, *fakeStream) (providers.Chunk, bool, error) {
		return providers.Chunk{}, false, err
	}
}

func panics(context.Context, *fakeStream) (providers.Chunk, bool, error) { panic("provider bug") }

// A fake is a scripted provider.
type fake struct {
	name     string
	features providers.Features
	connect  step // before Stream returns, where it is set
	steps    []step
	end      providers.Outcome
	// turns come first, one for each call, in the place of the three above.
	turns []turn

	mu       sync.Mutex
	requests []*providers.Request
	at       []time.Time // of the requests
	open     int         // streams not closed yet
}

// A turn is how a fake answers one call.
type turn struct {
	connect step
	steps   []step
	end     providers.Outcome
}

// fails is a turn that is refused with an error of code.
func fails(code protocol.Code) turn { return turn{connect: breaks(protocol.Errorf(code, "no"))} }

// says is a turn with a whole answer.
func says(texts ...string) turn {
	t := turn{end: whole()}
	for _, text := range texts {
		t.steps = append(t.steps, say(text))
	}
	return t
}

// cut is a turn whose answer breaks off.
func cut(texts ...string) turn {
	t := says(texts...)
	t.end = providers.Outcome{}
	return t
}

// silent is a turn in which nothing comes.
func silent() turn { return turn{steps: []step{wait(time.Hour)}} }

func (f *fake) Name() string { return f.name }

func (f *fake) Features() providers.Features { return f.features }

func (f *fake) Stream(ctx context.Context, r *providers.Request) (providers.Stream, error) {
	f.mu.Lock()
	f.requests = append(f.requests, r)
	f.at = append(f.at, time.Now())
	now := turn{f.connect, f.steps, f.end}
	if len(f.turns) > 0 {
		now, f.turns = f.turns[0], f.turns[1:]
	}
	f.mu.Unlock()
	s := &fakeStream{f: f, ctx: ctx, steps: now.steps, end: now.end, closed: make(chan struct{})}
	if now.connect != nil {
		if _, _, err := now.connect(ctx, s); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	f.open++
	f.mu.Unlock()
	return s, nil
}

type fakeStream struct {
	f      *fake
	ctx    context.Context
	steps  []step
	end    providers.Outcome
	err    error
	once   sync.Once
	closed chan struct{}
}

func (s *fakeStream) Next() (providers.Chunk, error) {
	for s.err == nil && len(s.steps) > 0 {
		next := s.steps[0]
		s.steps = s.steps[1:]
		c, ok, err := next(s.ctx, s)
		if err != nil {
			s.err = err
		} else if ok {
			return c, nil
		}
	}
	if s.err == nil {
		s.err = io.EOF
	}
	return providers.Chunk{}, s.err
}

func (s *fakeStream) Outcome() providers.Outcome { return s.end }

func (s *fakeStream) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.f.mu.Lock()
		s.f.open--
		s.f.mu.Unlock()
	})
	return nil
}

// observer records what metrics are told, without times.
type observer struct {
	mu   sync.Mutex
	said []string
}

func (o *observer) say(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said = append(o.said, fmt.Sprintf(format, args...))
}

// told returns all of it, a line each.
func (o *observer) told() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.said, "\n")
}

func (o *observer) CallStarted(p, m string) { o.say("call %s/%s", p, m) }
func (o *observer) FirstContent(p, m string, after time.Duration) {
	o.say("first content %s/%s %v", p, m, after)
}
func (o *observer) CallEnded(e analysis.CallEnd) {
	o.say("call ended %s/%s %v error=%v cancelled=%q stuck=%v", e.Provider, e.Model, e.Took, e.Error, e.Cancelled, e.Stuck)
}
func (o *observer) JobEnded(e analysis.JobEnd) {
	if e.HandedOver || e.TakenOver {
		o.say("job left %v handed over=%v taken over=%v attempts=%d", e.Took, e.HandedOver, e.TakenOver, e.Attempts)
		return
	}
	o.say("job ended %s/%s %v %s error=%v cancelled=%q", e.Provider, e.Model, e.Took, e.Type, e.Error, e.Cancelled)
}
func (o *observer) AttemptLost(p, m string, u *protocol.Usage) {
	o.say("lost %s/%s in=%v out=%d estimated=%v", p, m, u.InputTokens > 0, u.OutputTokens, u.Estimated)
}

func (o *observer) Retried(p string, code protocol.Code) { o.say("retried %s %s", p, code) }
func (o *observer) FailedOver(from, to, reason string) {
	o.say("failed over %s to %s: %s", from, to, reason)
}
func (o *observer) Hedged(p string, won bool) { o.say("hedged %s won=%v", p, won) }
func (o *observer) Waited(p, reason string, d time.Duration) {
	o.say("waited %s %s %v", p, reason, d)
}
func (o *observer) Joined() { o.say("joined") }
func (o *observer) BreakerChanged(p, m string, s resilience.BreakerState) {
	o.say("breaker %s/%s %s", p, m, s.State)
}
