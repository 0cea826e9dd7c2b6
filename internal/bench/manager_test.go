//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

// What the manager of calls (breakers, bulkheads, deadlines, hedging, accounts
// and findings) may add to a loop over the provider's stream.
const (
	mostAddedToFirst = 250 * time.Microsecond
	mostAddedToChunk = 5 * time.Microsecond
)

// The models of the scripted upstream.
const (
	shortModel = "short" // a few chunks at once
	pacedModel = "paced" // many, at a pace
	pacedEvery = 5 * time.Millisecond
)

// A scripted is an upstream in a process of its own, so that its CPU time is
// not counted.
type scripted struct{ *providertest.Upstream }

func newScripted(chunks int) (*scripted, error) {
	u, err := providertest.StartUpstream(providertest.Script{})
	if err != nil {
		return nil, err
	}
	u.SetReply(func(c *providertest.Call) providertest.Script {
		s := providertest.Script{Usage: &protocol.Usage{InputTokens: 100, OutputTokens: 100},
			Steady: providertest.Steady{Chunks: 20, Bytes: chunkBytes}}
		if gjson.GetBytes(c.Body, "model").Str == pacedModel {
			s.Steady.Chunks, s.Steady.Interval = chunks, pacedEvery
		}
		return s
	})
	return &scripted{u}, nil
}

var errScripted = errors.New("an upstream has no streams of its own")

func (s *scripted) create(context.Context) (string, error) { return "", errScripted }
func (s *scripted) publish(string, string) error           { return errScripted }
func (s *scripted) end(string) error                       { return errScripted }

func (s *scripted) close() error {
	s.Close()
	return nil
}

// A tape is a stream's log that costs nothing.
type tape struct {
	id     string
	ended  chan protocol.Type
	first  time.Time
	chunks int
}

func (t *tape) ID() string { return t.id }

func (t *tape) Append(kind protocol.Type, _ any) error {
	if kind.Terminal() {
		t.ended <- kind
	}
	return nil
}

func (t *tape) Chunk(protocol.ChunkKind, int, string) error {
	if t.chunks++; t.chunks == 1 {
		t.first = time.Now()
	}
	return nil
}

func (t *tape) Watchers() (int, time.Time) { return 1, time.Time{} }

// tapes makes them, and keeps each until it is asked for.
type tapes struct{ all sync.Map }

func (t *tapes) Create(_ context.Context, id string) (analysis.Writer, error) {
	one := &tape{id: id, ended: make(chan protocol.Type, 1)}
	t.all.Store(id, one)
	return one, nil
}

// A managed is a provider that is called directly and by a manager.
type managed struct {
	tb     testing.TB
	chunks int // of a paced answer
	p      providers.Provider
	s      *analysis.Service
	tapes  tapes
	asked  map[string]*providers.Request // by model: what the manager asks
}

// everything are options with all that the manager can do turned on.
func everything(o analysis.Options, p, other providers.Provider) analysis.Options {
	info := providers.ModelInfo{ContextTokens: 200_000, MaxOutputTokens: 64_000, Price: providers.Price{Input: 3, Output: 15}}
	limits := accounting.Limits{RequestsPerMinute: 1e9, TokensPerMinute: 1e12}
	for i, one := range []providers.Provider{p, other} {
		o.Providers = append(o.Providers, analysis.Entry{Provider: one, Priority: i, Concurrency: 1000, Limits: limits, HedgeAfter: 30 * time.Second,
			MinRate: 1, Models: map[string]providers.ModelInfo{shortModel: info, pacedModel: info}})
	}
	o.TenantLimits, o.Pool = limits, resilience.PoolLimits{Network: 1000}
	o.AfterContent = analysis.AfterContentContinue
	o.Breaker = resilience.BreakerOptions{SlowAfter: time.Minute}
	o.MaxJobs = 1000
	return o
}

func manage(tb testing.TB, chunks int) *managed {
	tb.Helper()
	up := startChild(tb, spec{Role: "upstream", Chunks: chunks})
	connections := &http.Transport{MaxIdleConnsPerHost: 1000}
	tb.Cleanup(connections.CloseIdleConnections)
	provider := func(name string) providers.Provider {
		p, err := openai.NewChat(providers.Config{Name: name, Dialect: "openai", BaseURL: "http://" + up.addr + "/v1", APIKey: "key-of-the-bench",
			Models: []string{shortModel, pacedModel}, Client: &http.Client{Transport: connections}})
		if err != nil {
			tb.Fatal(err)
		}
		return p
	}
	m := &managed{tb: tb, chunks: chunks, p: provider("a"), asked: make(map[string]*providers.Request)}
	m.s = analysis.New(everything(analysis.Options{Streams: &m.tapes}, m.p, provider("b")))
	tb.Cleanup(func() {
		if err := m.s.Drain(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	// What the manager asks is found out once, so that both ask the same.
	listener := &questions{Provider: m.p}
	s := analysis.New(everything(analysis.Options{Streams: &m.tapes}, listener, provider("b")))
	for _, model := range []string{shortModel, pacedModel} {
		m.job(s, model)
		m.asked[model] = listener.last
	}
	if err := s.Drain(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return m
}

// questions keeps the newest request.
type questions struct {
	providers.Provider

	last *providers.Request
}

func (q *questions) Stream(ctx context.Context, r *providers.Request) (providers.Stream, error) {
	q.last = r
	return q.Provider.Stream(ctx, r)
}

// job asks through a manager, and returns how long the first content took and
// how many chunks came.
func (m *managed) job(s *analysis.Service, model string) (first time.Duration, chunks int) {
	began := time.Now()
	id, _, err := s.Start(context.Background(), &protocol.Request{Code: "package main\n\nfunc main() {}\n", Language: "go", Model: model,
		Cache: protocol.CacheBypass}, analysis.StartOptions{Owner: "tenant"})
	if err != nil {
		m.tb.Error(err)
		return 0, 0
	}
	log, _ := m.tapes.all.LoadAndDelete(id)
	t := log.(*tape) //nolint:forcetypeassert // there is nothing else in it
	if kind := <-t.ended; kind != protocol.TypeCompleted {
		m.tb.Errorf("an answer ended %s", kind)
	}
	return t.first.Sub(began), t.chunks
}

// direct asks without a manager.
func (m *managed) direct(model string) (first time.Duration, chunks int) {
	began := time.Now()
	s, err := m.p.Stream(context.Background(), m.asked[model])
	if err != nil {
		m.tb.Error(err)
		return 0, 0
	}
	defer func() { _ = s.Close() }() // read to its end
	for {
		c, err := s.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) || s.Outcome().State != providers.StateComplete {
				m.tb.Errorf("an answer ended with %v, %+v", err, s.Outcome())
			}
			return first, chunks
		}
		if c.Content() {
			if chunks++; chunks == 1 {
				first = time.Since(began)
			}
		}
	}
}

func (m *managed) through(model string) (time.Duration, int) { return m.job(m.s, model) }

// firsts times first contents, one call after the other, in turns.
func (m *managed) firsts(n int) (direct, through []time.Duration) {
	for range n {
		d, _ := m.direct(shortModel)
		t, _ := m.through(shortModel)
		direct, through = append(direct, d), append(through, t)
	}
	return direct, through
}

// perChunk returns the CPU time in microseconds of each chunk of some answers
// that come at once, with all that belongs to a call.
func (m *managed) perChunk(answers int, ask func(string) (time.Duration, int)) float64 {
	m.tb.Helper()
	before, err := ownCPU()
	if err != nil {
		m.tb.Fatal(err)
	}
	var wg sync.WaitGroup
	for range answers {
		wg.Go(func() {
			if _, n := ask(pacedModel); n != m.chunks {
				m.tb.Errorf("%d of %d chunks came", n, m.chunks)
			}
		})
	}
	wg.Wait()
	after, err := ownCPU()
	if err != nil {
		m.tb.Fatal(err)
	}
	return (after - before).Seconds() * 1e6 / float64(answers*m.chunks)
}

// costs compares the CPU time of turns.
func (m *managed) costs(answers, rounds int) (c comparison) {
	for range rounds {
		c.floor = append(c.floor, m.perChunk(answers, m.direct))
		c.athena = append(c.athena, m.perChunk(answers, m.through))
	}
	return c
}

// added returns how much more each of through is than its neighbour.
func added[T float64 | time.Duration](direct, through []T) []T {
	more := make([]T, len(direct))
	for i := range more {
		more[i] = through[i] - direct[i]
	}
	return more
}

func TestTheManagerIsTimedBesideADirectCall(t *testing.T) {
	m := manage(t, 20)
	direct, through := m.firsts(5)
	for _, d := range slices.Concat(direct, through) {
		if d <= 0 || d > time.Minute {
			t.Errorf("a first content took %v", d)
		}
	}
	m.costs(5, 1).check(t)
}

// BenchmarkManager fails where the manager adds more than it may.
func BenchmarkManager(b *testing.B) {
	m := manage(b, 200)
	m.firsts(20) // connections, and what is done only once
	m.costs(100, 1)
	for range b.N {
		direct, through := m.firsts(500)
		more := added(direct, through)
		first := quantile(more, 0.5)
		table.add(row{measure: "first content, added by the manager to a direct call, median", floor: quantile(direct, 0.5).Round(time.Microsecond).String(),
			athena: quantile(through, 0.5).Round(time.Microsecond).String(), ratio: fmt.Sprintf("+%v (p90 +%v)", first.Round(time.Microsecond), quantile(more, 0.9).Round(time.Microsecond)),
			target: fmt.Sprintf("≤ +%v", mostAddedToFirst), reached: first <= mostAddedToFirst})
		b.ReportMetric(float64(first.Nanoseconds())/1e6, "added-first-ms")
		if first > mostAddedToFirst {
			b.Errorf("the manager adds %v to the first content, more than %v", first, mostAddedToFirst)
		}

		c := m.costs(100, *rounds)
		each := added(c.floor, c.athena)
		micros, most := quantile(each, 0.5), float64(mostAddedToChunk.Nanoseconds())/1e3
		table.add(row{measure: "CPU of a chunk, added by the manager to a direct loop, 100 answers", floor: fmt.Sprintf("%.2f µs/chunk", quantile(c.floor, 0.5)),
			athena: fmt.Sprintf("%.2f µs/chunk", quantile(c.athena, 0.5)), ratio: fmt.Sprintf("%+.2f µs (%+.2f to %+.2f)", micros, slices.Min(each), slices.Max(each)),
			target: fmt.Sprintf("≤ +%v", mostAddedToChunk), reached: micros <= most})
		b.ReportMetric(micros, "added-µs/chunk")
		if micros > most {
			b.Errorf("the manager adds %.2f µs of CPU to a chunk, more than %v", micros, mostAddedToChunk)
		}
	}
	b.ReportMetric(0, "ns/op") // how long the harness took says nothing
}
