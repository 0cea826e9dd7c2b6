package analysis_test

import (
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// short is an event in the words of the tests below: what an attempt is about,
// without what other tests look at.
func short(e *protocol.Event) string {
	data := protocol.DataFor(e.Type)
	if err := e.Decode(data); err != nil {
		return err.Error()
	}
	switch d := data.(type) {
	case *protocol.Started:
		return fmt.Sprintf("started %d %s", d.Attempt, strings.TrimSuffix(d.Provider+"/"+d.Model, "/"))
	case *protocol.Chunk:
		return fmt.Sprintf("%s %d %q", d.Kind, d.Attempt, d.Text)
	case *protocol.Failover:
		s := fmt.Sprintf("failover %d %s>%s %s", d.Attempt, d.From, d.To, d.Reason)
		if d.Discard {
			s += " discard"
		}
		return s
	case *protocol.Retrying:
		return fmt.Sprintf("retrying %d %s %dms %s", d.Attempt, d.Provider, d.AfterMS, d.Error.Code)
	case *protocol.Queued:
		return fmt.Sprintf("queued %d %s %dms", d.Position, d.Reason, d.RetryAfterMS)
	case *protocol.Completed:
		s := "completed " + d.Provider
		if d.Degraded {
			s += " degraded"
		}
		return s
	case *protocol.Failed:
		return fmt.Sprintf("failed %s %s: %s", d.Error.Code, d.Error.Provider, d.Error.Detail)
	case *protocol.Finding:
		return "finding " + d.Rule
	case *protocol.Progress:
		return "progress " + d.Stage
	case *protocol.Cancelled:
		return "cancelled " + string(d.By)
	}
	return string(e.Type)
}

func (w *writer) story() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s []string
	for _, e := range w.events {
		s = append(s, short(&e))
	}
	return s
}

// plain are options under which time passes in whole numbers.
func plain(entries ...*fake) analysis.Options {
	o := analysis.Options{OrphanTimeout: -1, Degrade: true, RetryBackoff: resilience.Backoff{Growth: resilience.Exponential, Base: time.Second, Max: 10 * time.Second, Jitter: -1},
		Random: func() float64 { return 0.5 }}
	for i, f := range entries {
		o.Providers = append(o.Providers, analysis.Entry{Provider: f, Priority: i})
	}
	return o
}

func offline(turns ...turn) *fake {
	return &fake{name: "local", features: providers.Features{Findings: true}, turns: turns, end: whole()}
}

func retryAfter(d time.Duration) turn {
	return turn{connect: breaks(protocol.Errorf(protocol.CodeRateLimited, "slow down").WithRetryAfter(d))}
}

// TestAnAnswerArrivesWhenAProviderDoesNot runs a job with two providers, a and
// b, and the offline analyser, through failures: the events are compared whole,
// the time is exact.
func TestAnAnswerArrivesWhenAProviderDoesNot(t *testing.T) {
	internalError := turn{connect: breaks(protocol.Errorf(protocol.CodeServiceUnavailable, "oops").WithCause(providers.ErrInternal))}
	for _, c := range []struct {
		name   string
		a, b   []turn
		change func(*analysis.Options, *protocol.Request)
		want   []string
		at     time.Duration
	}{
		{
			name: "the first one answers",
			a:    []turn{says("yes")},
			want: []string{"started 1 a/m", `text 1 "yes"`, "completed a"},
		},
		{
			name: "a provider that is away is left for the next at once",
			a:    []turn{fails(protocol.CodeServiceUnavailable)}, b: []turn{says("yes")},
			want: []string{"started 1 a/m", "failover 2 a>b service_unavailable", "started 2 b/m", `text 2 "yes"`, "completed b"},
		},
		{
			name: "an internal error is retried once",
			a:    []turn{internalError, says("yes")},
			want: []string{"started 1 a/m", "retrying 2 a 1000ms service_unavailable", "started 2 a/m", `text 2 "yes"`, "completed a"},
			at:   time.Second,
		},
		{
			name: "and then left",
			a:    []turn{internalError, internalError}, b: []turn{says("yes")},
			want: []string{"started 1 a/m", "retrying 2 a 1000ms service_unavailable", "started 2 a/m",
				"failover 3 a>b service_unavailable", "started 3 b/m", `text 3 "yes"`, "completed b"},
			at: time.Second,
		},
		{
			name: "a connection that failed is retried once",
			a:    []turn{fails(protocol.CodeConnectionFailed), says("yes")},
			want: []string{"started 1 a/m", "retrying 2 a 1000ms connection_failed", "started 2 a/m", `text 2 "yes"`, "completed a"},
			at:   time.Second,
		},
		{
			name: "a rate limit is waited for",
			a:    []turn{retryAfter(7 * time.Second), says("yes")},
			want: []string{"started 1 a/m", "retrying 2 a 7000ms rate_limited", "queued 0 rate_limit 7000ms", "started 2 a/m", `text 2 "yes"`, "completed a"},
			at:   7 * time.Second,
		},
		{
			name: "unless that takes too long",
			a:    []turn{retryAfter(16 * time.Second)}, b: []turn{says("yes")},
			want: []string{"started 1 a/m", "failover 2 a>b rate_limited", "started 2 b/m", `text 2 "yes"`, "completed b"},
		},
		{
			name: "a rate limit without a time is backed off from, and then left",
			a:    []turn{fails(protocol.CodeRateLimited), fails(protocol.CodeRateLimited)}, b: []turn{says("yes")},
			want: []string{"started 1 a/m", "retrying 2 a 1000ms rate_limited", "queued 0 rate_limit 1000ms", "started 2 a/m",
				"failover 3 a>b rate_limited", "started 3 b/m", `text 3 "yes"`, "completed b"},
			at: time.Second,
		},
		{
			name: "silence fails over, and is not waited for again",
			a:    []turn{silent()}, b: []turn{fails(protocol.CodeServiceUnavailable), says("yes")},
			change: func(o *analysis.Options, _ *protocol.Request) { o.HedgeAfter = -1 },
			want: []string{"started 1 a/m", "failover 2 a>b timeout", "started 2 b/m", "retrying 3 b 1000ms service_unavailable", "started 3 b/m",
				`text 3 "yes"`, "completed b"},
			at: 2*time.Minute + time.Second,
		},
		{
			name: "an error inside the stream before content is one before content",
			a:    []turn{{end: providers.Outcome{State: providers.StateError, Err: protocol.Errorf(protocol.CodeServiceUnavailable, "overloaded")}}},
			b:    []turn{says("yes")},
			want: []string{"started 1 a/m", "failover 2 a>b service_unavailable", "started 2 b/m", `text 2 "yes"`, "completed b"},
		},
		{
			name: "an answer that breaks off is replaced",
			a:    []turn{cut("half an ans", "\n@find")}, b: []turn{says("yes")},
			want: []string{"started 1 a/m", `text 1 "half an ans"`, `text 1 "\n"`, "failover 2 a>b stream_interrupted discard", "started 2 b/m", `text 2 "yes"`, "completed b"},
		},
		{
			name:   "by the same provider, if there is no other",
			a:      []turn{cut("half"), says("yes")},
			change: func(o *analysis.Options, r *protocol.Request) { r.Provider = "a" },
			want: []string{"started 1 a/m", `text 1 "half"`, "retrying 2 a 1000ms stream_interrupted", "failover 2 a>a stream_interrupted discard",
				"started 2 a/m", `text 2 "yes"`, "completed a"},
			at: time.Second,
		},
		{
			name:   "or continued",
			a:      []turn{cut("The quick brown ", "fox jumps")},
			b:      []turn{says("brown fox", " jumps over", " the dog")},
			change: func(o *analysis.Options, _ *protocol.Request) { o.AfterContent = analysis.AfterContentContinue },
			want: []string{"started 1 a/m", `text 1 "The quick brown "`, `text 1 "fox jumps"`, "failover 2 a>b stream_interrupted", "started 2 b/m",
				`text 2 " over"`, `text 2 " the dog"`, "completed b"},
		},
		{
			name:   "a finding is found though the seam is in it",
			a:      []turn{cut("So:\n@finding {\"rule\":\"r\",\"sever")},
			b:      []turn{says("ity\":\"low\",\"message\":\"m\",\"line\":1}\nDone.")},
			change: func(o *analysis.Options, _ *protocol.Request) { o.AfterContent = analysis.AfterContentContinue },
			want: []string{"started 1 a/m", `text 1 "So:\n"`, "failover 2 a>b stream_interrupted", "started 2 b/m",
				"finding r", `text 2 "Done."`, "completed b"},
		},
		{
			name: "who can't continue begins anew, and the client sees no error",
			a:    []turn{cut("half")}, b: []turn{fails(protocol.CodeInvalidRequest), says("yes")},
			change: func(o *analysis.Options, _ *protocol.Request) { o.AfterContent = analysis.AfterContentContinue },
			want: []string{"started 1 a/m", `text 1 "half"`, "failover 2 a>b stream_interrupted", "started 2 b/m",
				"failover 3 b>b invalid_request discard", "started 3 b/m", `text 3 "yes"`, "completed b"},
		},
		{
			name: "what was only thought can't be continued",
			a:    []turn{{steps: []step{chunk(providers.Chunk{Type: providers.ChunkReasoning, Text: "hm"})}}}, b: []turn{says("yes")},
			change: func(o *analysis.Options, _ *protocol.Request) { o.AfterContent = analysis.AfterContentContinue },
			want:   []string{"started 1 a/m", `reasoning 1 "hm"`, "failover 2 a>b stream_interrupted discard", "started 2 b/m", `text 2 "yes"`, "completed b"},
		},
		{
			name: "content that is filtered is the answer",
			a:    []turn{fails(protocol.CodeContentFiltered)},
			want: []string{"started 1 a/m", "failed content_filtered a: no"},
		},
		{
			name: "without a provider left the offline analyser answers",
			a:    []turn{fails(protocol.CodeUnauthorized)}, b: []turn{fails(protocol.CodeQuotaExceeded)},
			want: []string{"started 1 a/m", "failover 2 a>b unauthorized", "started 2 b/m", "failover 3 b>local quota_exceeded", "started 3 local", `text 3 "offline"`, "completed local degraded"},
		},
		{
			name: "unless the request forbids it",
			a:    []turn{fails(protocol.CodeUnauthorized)}, b: []turn{fails(protocol.CodeQuotaExceeded)},
			change: func(_ *analysis.Options, r *protocol.Request) { r.Options.Degrade = new(false) },
			want:   []string{"started 1 a/m", "failover 2 a>b unauthorized", "started 2 b/m", "failed unauthorized a: no; nor did others answer (b: quota_exceeded)"},
		},
		{
			name:   "who names a provider gets its answer or its error",
			a:      []turn{fails(protocol.CodeUnauthorized)},
			change: func(_ *analysis.Options, r *protocol.Request) { r.Provider = "a" },
			want:   []string{"started 1 a/m", "failed unauthorized a: no"},
		},
		{
			name:   "unless the request lets the offline analyser answer",
			a:      []turn{cut("half"), fails(protocol.CodeUnauthorized)},
			change: func(_ *analysis.Options, r *protocol.Request) { r.Provider, r.Options.Degrade = "a", new(true) },
			want: []string{"started 1 a/m", `text 1 "half"`, "retrying 2 a 1000ms stream_interrupted", "failover 2 a>a stream_interrupted discard", "started 2 a/m",
				"failover 3 a>local unauthorized", "started 3 local", `text 3 "offline"`, "completed local degraded"},
			at: time.Second,
		},
		{
			name: "a configured strategy replaces the default",
			a:    []turn{fails(protocol.CodeServiceUnavailable)},
			change: func(o *analysis.Options, _ *protocol.Request) {
				o.Recovery = map[protocol.Code]analysis.Strategy{protocol.CodeServiceUnavailable: analysis.StrategyDegrade}
			},
			want: []string{"started 1 a/m", "failover 2 a>local service_unavailable", "started 2 local", `text 2 "offline"`, "completed local degraded"},
		},
		{
			name:   "attempts are bounded",
			a:      []turn{fails(protocol.CodeConnectionFailed)},
			change: func(o *analysis.Options, r *protocol.Request) { o.MaxAttempts, o.Degrade = 1, false },
			want:   []string{"started 1 a/m", "failed connection_failed a: no"},
		},
		{
			name: "a slow provider is asked beside the next, and the first content wins",
			a:    []turn{{steps: []step{wait(20 * time.Second), say("late")}, end: whole()}},
			b:    []turn{{steps: []step{wait(time.Second), say("yes")}, end: whole()}},
			want: []string{"started 1 a/m", "progress asking b, too", "failover 2 a>b hedged", "started 2 b/m", `text 2 "yes"`, "completed b"},
			at:   9 * time.Second,
		},
		{
			name: "the slow one may win yet",
			a:    []turn{{steps: []step{wait(9 * time.Second), say("yes")}, end: whole()}},
			b:    []turn{{steps: []step{wait(20 * time.Second), say("late")}, end: whole()}},
			want: []string{"started 1 a/m", "progress asking b, too", `text 1 "yes"`, "completed a"},
			at:   9 * time.Second,
		},
		{
			name: "when one of two fails the other goes on",
			a:    []turn{{steps: []step{wait(9 * time.Second), breaks(protocol.Errorf(protocol.CodeServiceUnavailable, "no"))}}},
			b:    []turn{{steps: []step{wait(20 * time.Second), say("yes")}, end: whole()}},
			want: []string{"started 1 a/m", "progress asking b, too", "failover 2 a>b service_unavailable", "started 2 b/m", `text 2 "yes"`, "completed b"},
			at:   28 * time.Second,
		},
		{
			name:   "a request can refuse to have two asked",
			a:      []turn{{steps: []step{wait(20 * time.Second), say("yes")}, end: whole()}},
			change: func(_ *analysis.Options, r *protocol.Request) { r.Options.Hedge = new(false) },
			want:   []string{"started 1 a/m", `text 1 "yes"`, "completed a"},
			at:     20 * time.Second,
		},
		{
			name:   "an answer that crawls is ended",
			a:      []turn{{steps: []step{say("1"), wait(4 * time.Second), say("2"), wait(4 * time.Second), say("3"), wait(4 * time.Second), say("4"), wait(time.Hour)}}},
			b:      []turn{says("yes")},
			change: func(o *analysis.Options, _ *protocol.Request) { o.MinRate = 1 },
			want:   []string{"started 1 a/m", `text 1 "1"`, `text 1 "2"`, `text 1 "3"`, "failover 2 a>b timeout discard", "started 2 b/m", `text 2 "yes"`, "completed b"},
			at:     10 * time.Second,
		},
		{
			name: "an answer that can't be accepted in time",
			a:    []turn{{connect: wait(time.Hour)}}, b: []turn{says("yes")},
			change: func(o *analysis.Options, _ *protocol.Request) { o.HedgeAfter, o.HeaderTimeout = -1, 3*time.Second },
			want:   []string{"started 1 a/m", "failover 2 a>b timeout", "started 2 b/m", `text 2 "yes"`, "completed b"},
			at:     3 * time.Second,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, local := model("a", "m"), model("b", "m"), offline(says("offline"))
				a.turns, b.turns = c.a, c.b
				o, r := plain(a, b, local), request
				if c.change != nil {
					c.change(&o, &r)
				}
				ss := &streams{}
				o.Streams = ss
				s := analysis.New(o)
				began := time.Now()
				id, _, err := s.Start(t.Context(), &r, analysis.StartOptions{})
				if err != nil {
					t.Fatal(err)
				}
				w := ss.get(id)
				<-w.ended
				if took := time.Since(began); took != c.at {
					t.Errorf("it took %v, want %v", took, c.at)
				}
				w.check(t)
				if got := w.story(); !reflect.DeepEqual(got, c.want) {
					t.Errorf("events:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Error(err)
				}
				checkFree(t, s, a, b)
			})
		})
	}
}

// checkFree fails the test if a call left something behind.
func checkFree(t testing.TB, s *analysis.Service, fakes ...*fake) {
	t.Helper()
	for _, p := range s.Providers() {
		if p.Bulkhead.Busy != 0 || p.Bulkhead.Queued != 0 {
			t.Errorf("places are still taken: %+v", p.Bulkhead)
		}
	}
	for _, f := range fakes {
		if f.open != 0 {
			t.Errorf("%s: %d upstream connections left open", f.name, f.open)
		}
		if len(f.turns) != 0 {
			t.Errorf("%s: %d calls were expected and not made", f.name, len(f.turns))
		}
	}
}

// asked is a provider that is told when somebody looks at its limits.
type asked struct {
	*fake
	look func()
}

func (p *asked) RateLimits() (providers.RateLimits, bool) {
	p.look()
	return providers.RateLimits{}, false
}

func TestAHedgeThatComesTooLateIsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		speak := make(chan struct{})
		a := model("a", "m")
		a.turns = []turn{{steps: []step{until(speak), say("half"), wait(time.Second)}}}
		b := model("b", "m")
		b.turns = []turn{says("yes")}
		var looks atomic.Int32
		o, ss := plain(a), &streams{}
		o.Providers = append(o.Providers, analysis.Entry{Priority: 1, Provider: &asked{b, func() {
			if looks.Add(1) == 2 { // the first is for the order; now it is to be hedged
				close(speak)
				time.Sleep(time.Millisecond) // and a answers just before
			}
		}}})
		o.Streams = ss
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/m", `text 1 "half"`, "failover 2 a>b stream_interrupted discard", "started 2 b/m", `text 2 "yes"`, "completed b")
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		checkFree(t, s, a, b)
	})
}

func TestOnlyTheOfflineAnalysersAnswerIsDegraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, local := model("a", "m"), model("b", "m"), offline(fails(protocol.CodeInternal))
		a.turns, b.turns = []turn{fails(protocol.CodeServiceUnavailable)}, []turn{says("yes")}
		o, ss := plain(a, b, local), &streams{}
		o.Recovery = map[protocol.Code]analysis.Strategy{protocol.CodeServiceUnavailable: analysis.StrategyDegrade}
		o.Streams = ss
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/m", "failover 2 a>local service_unavailable", "started 2 local",
			"failover 3 local>b internal", "started 3 b/m", `text 3 "yes"`, "completed b")
	})
}

func TestTheOfflineAnalyserIsNotHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		local := offline(turn{steps: []step{chunk(providers.Chunk{Type: providers.ChunkProgress, Progress: &protocol.Progress{Stage: "parse"}}),
			wait(9 * time.Second), say("offline")}, end: whole()})
		a.turns = []turn{fails(protocol.CodeServiceUnavailable)}
		o, ss := plain(a, b, local), &streams{}
		o.Recovery = map[protocol.Code]analysis.Strategy{protocol.CodeServiceUnavailable: analysis.StrategyDegrade}
		o.Streams = ss
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/m", "failover 2 a>local service_unavailable", "started 2 local", "progress parse", `text 2 "offline"`, "completed local degraded")
	})
}

func TestTheClientNeverSeesThatAContinuationWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, local := model("a", "m"), model("b", "m"), offline(says("offline"))
		a.turns, b.turns = []turn{cut("half")}, []turn{fails(protocol.CodeInvalidRequest)}
		o, ss := plain(a, b, local), &streams{}
		o.AfterContent, o.MaxAttempts, o.Streams = analysis.AfterContentContinue, 2, ss
		s := analysis.New(o)
		r := request
		r.Options.Degrade = new(false)
		w := start(t, s, ss, r, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/m", `text 1 "half"`, "failover 2 a>b stream_interrupted", "started 2 b/m",
			"failed stream_interrupted a: the answer ended before it was whole")

		a.turns, b.turns = []turn{cut("half")}, []turn{fails(protocol.CodeInvalidRequest)}
		r.Options.Degrade = new(true)
		w = start(t, s, ss, r, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/m", `text 1 "half"`, "failover 2 a>b stream_interrupted", "started 2 b/m",
			"failover 3 b>local stream_interrupted discard", "started 3 local", `text 3 "offline"`, "completed local degraded")
	})
}

func TestAFailureThatEndsTheAnalysisAsksNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := model("a", "m"), model("b", "m"), model("c", "m")
		a.turns = []turn{{steps: []step{wait(20 * time.Second), say("yes")}, end: whole()}}
		b.turns = []turn{fails(protocol.CodeContentFiltered)}
		o, ss := plain(a, b, c), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		if n := len(c.requests); n != 0 {
			t.Errorf("the content was refused, and %d others were asked about it; events: %s", n, strings.Join(w.story(), "\n"))
		}
	})
}

func TestAModelThatThinksRepeatsItselfThoughItCouldTakeABeginning(t *testing.T) {
	for reasoning, want := range map[string]string{
		"":     "fox jumps, fox jumps, over", // its own words, which is no repetition
		"off":  "fox jumps, fox jumps, over",
		"high": "fox jumps, over",
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := model("a", "m"), model("b", "m")
			b.features.Prefill = true
			a.turns, b.turns = []turn{cut("The fox jumps, ")}, []turn{says("fox jumps, ", "over")}
			o, ss := plain(a, b), &streams{}
			o.AfterContent, o.Streams = analysis.AfterContentContinue, ss
			s := analysis.New(o)
			r := request
			r.Options.Reasoning = reasoning
			w := start(t, s, ss, r, analysis.StartOptions{})
			<-w.ended
			w.check(t)
			if got := w.transcript.Text(); got != "The "+want {
				t.Errorf("with reasoning %q the answer is %q", reasoning, got)
			}
		})
	}
}

// A second provider's refusal, of a model that it doesn't have, say, is no
// reason to leave a client alone whose first provider is away.
func TestARefusalElsewhereDoesNotHideThatAProviderIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, local := model("a", "m"), model("b", "m"), offline(says("offline"))
		o, ss := plain(a, b, local), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		for degrade, want := range map[bool][]string{
			true:  {"failover 3 b>local invalid_request", "started 3 local", `text 3 "offline"`, "completed local degraded"},
			false: {"failed service_unavailable a: no; nor did others answer (b: invalid_request)"},
		} {
			a.turns, b.turns = []turn{fails(protocol.CodeServiceUnavailable)}, []turn{fails(protocol.CodeInvalidRequest)}
			r := request
			r.Options.Degrade = &degrade
			w := start(t, s, ss, r, analysis.StartOptions{})
			<-w.ended
			checkStory(t, w, append([]string{"started 1 a/m", "failover 2 a>b service_unavailable", "started 2 b/m"}, want...)...)
		}
	})
}

func TestAnAnswerInOnePieceMayTakeLongerThanHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		a.features.Protocols = []providers.Protocol{providers.ProtocolPolling}
		a.turns = []turn{{connect: wait(90 * time.Second), steps: []step{say("yes")}, end: whole()}, {connect: wait(time.Hour)}}
		o, ss := plain(a), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/m", `text 1 "yes"`, "completed a")
		began := time.Now()
		w = start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/m", "failed timeout a: nothing of the answer came within 2m0s")
		if took := time.Since(began); took != 2*time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

func TestWhoFailsBesideARefusalIsTheLastOneAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := model("a", "m"), model("b", "m"), model("c", "m")
		a.turns = []turn{{steps: []step{wait(20 * time.Second), breaks(protocol.Errorf(protocol.CodeServiceUnavailable, "oops"))}}}
		b.turns = []turn{fails(protocol.CodeContentFiltered)}
		o, ss := plain(a, b, c, offline()), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/m", "progress asking b, too", "failed content_filtered b: no; nor did others answer (a: service_unavailable)")
		checkFree(t, s, a, b, c)
	})
}
