package analysis_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// start starts a job and returns its stream.
func start(t testing.TB, s *analysis.Service, ss *streams, r protocol.Request, o analysis.StartOptions) *writer {
	t.Helper()
	id, _, err := s.Start(context.Background(), &r, o)
	if err != nil {
		t.Fatal(err)
	}
	return ss.get(id)
}

func checkStory(t testing.TB, w *writer, want ...string) {
	t.Helper()
	w.check(t)
	if got := w.story(); !reflect.DeepEqual(got, want) {
		t.Errorf("events:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// slowly is a turn whose answer takes d.
func slowly(d time.Duration) turn { return turn{steps: []step{wait(d), say("yes")}, end: whole()} }

func TestAJobWaitsForAPlaceAndSaysWhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		a.turns = []turn{slowly(5 * time.Second), slowly(5 * time.Second), slowly(5 * time.Second)}
		o, ss, obs := plain(a), &streams{}, &observer{}
		o.Providers[0].Concurrency, o.Providers[0].Queue = 1, 2
		o.Streams, o.Observer, o.HedgeAfter = ss, obs, -1
		s := analysis.New(o)
		one := func(owner string) *writer {
			w := start(t, s, ss, request, analysis.StartOptions{Owner: owner})
			synctest.Wait() // until it is where it can be
			return w
		}
		first, second, gone := one("x"), one("x"), one("x")
		if got := s.Providers()[0].Bulkhead; got.Busy != 1 || got.Queued != 2 {
			t.Errorf("bulkhead %+v", got)
		}
		full := one("x")
		<-full.ended
		checkStory(t, full, "failed overloaded a: 2 analyses wait for the provider, which is the limit")

		if err := s.Cancel(t.Context(), second.id, protocol.CancelClient); err != nil {
			t.Fatal(err)
		}
		<-second.ended
		last := one("x") // a place in the queue is free at once
		<-first.ended
		<-gone.ended
		<-last.ended
		checkStory(t, first, "started 1 a/m", `text 1 "yes"`, "completed a")
		checkStory(t, second, "queued 1 concurrency 0ms", "cancelled client")
		checkStory(t, gone, "queued 2 concurrency 0ms", "queued 1 concurrency 0ms", "started 1 a/m", `text 1 "yes"`, "completed a")
		checkStory(t, last, "queued 2 concurrency 0ms", "queued 1 concurrency 0ms", "started 1 a/m", `text 1 "yes"`, "completed a")
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		checkFree(t, s, a)
	})
}

func TestABusyProviderIsLeftForOneOfTheSameRank(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		a.turns, b.turns = []turn{slowly(time.Second)}, []turn{slowly(time.Second)}
		o, ss := plain(a, b), &streams{}
		for i := range o.Providers {
			o.Providers[i].Priority, o.Providers[i].Concurrency = 0, 1
		}
		o.Streams = ss
		s := analysis.New(o)
		one := start(t, s, ss, request, analysis.StartOptions{})
		synctest.Wait()
		two := start(t, s, ss, request, analysis.StartOptions{})
		<-one.ended
		<-two.ended
		checkStory(t, one, "started 1 a/m", `text 1 "yes"`, "completed a")
		checkStory(t, two, "started 1 b/m", `text 1 "yes"`, "completed b")
	})
}

func TestOneProvidersRequestsAMinuteAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		o, ss := plain(a, b), &streams{}
		o.Providers[0].Limits = accounting.Limits{RequestsPerMinute: 6}
		o.Streams = ss
		s := analysis.New(o)
		began := time.Now()
		var ended []time.Duration
		named := request
		named.Provider = "a"
		for range 8 {
			w := start(t, s, ss, named, analysis.StartOptions{})
			<-w.ended
			ended = append(ended, time.Since(began))
		}
		// Six at once, and from then on one each ten seconds.
		if want := []time.Duration{0, 0, 0, 0, 0, 0, 10 * time.Second, 20 * time.Second}; !reflect.DeepEqual(ended, want) {
			t.Errorf("they ended at %v, want %v", ended, want)
		}
		if n := len(a.requests); n != 8 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestAProviderThatCannotBeCalledNowIsLeftForOneThatCan(t *testing.T) {
	for name, limit := range map[string]func(*analysis.Entry){
		"its places are taken":     func(e *analysis.Entry) { e.Concurrency = 2 },
		"its requests are used up": func(e *analysis.Entry) { e.Limits.RequestsPerMinute = 2 },
		"its tokens are used up":   func(e *analysis.Entry) { e.Limits.TokensPerMinute = 4000 }, // a call reserves some 1,900
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := model("a", "m"), model("b", "m")
				a.steps, b.steps = []step{wait(time.Second), say("x")}, []step{wait(time.Second), say("x")}
				o, ss := plain(a, b), &streams{}
				o.Streams = ss
				limit(&o.Providers[0])
				s := analysis.New(o)
				began := time.Now()
				var all []*writer
				for range 3 {
					all = append(all, start(t, s, ss, request, analysis.StartOptions{}))
					synctest.Wait()
				}
				for _, w := range all {
					<-w.ended
				}
				if len(a.requests) != 2 || len(b.requests) != 1 || time.Since(began) != time.Second {
					t.Errorf("a was asked %d times, b %d times, within %v", len(a.requests), len(b.requests), time.Since(began))
				}
			})
		})
	}
}

func TestABreakerKeepsCallsAwayAndLetsThemBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		down := fails(protocol.CodeServiceUnavailable)
		a.turns = []turn{down, down, down, down, says("back")}
		b.end = whole()
		obs := &observer{}
		o, ss := plain(a, b), &streams{}
		o.Streams, o.Observer = ss, obs
		o.Breaker = resilience.BreakerOptions{Failures: 3, Backoff: resilience.Backoff{Growth: resilience.Exponential, Base: time.Second, Max: 4 * time.Second, Jitter: -1}}
		s := analysis.New(o)
		var answered []string
		ask := func() {
			w := start(t, s, ss, request, analysis.StartOptions{})
			<-w.ended
			events := w.story()
			answered = append(answered, events[len(events)-1])
		}
		for range 5 {
			ask() // three failures open it; then a is not asked
		}
		if n := len(a.requests); n != 3 {
			t.Errorf("%d calls of a, want 3", n)
		}
		if st := s.Providers()[0].Models[0].Breaker; st.State != resilience.Open || !strings.Contains(st.Why, "service_unavailable") || time.Until(st.NextProbe) != time.Second {
			t.Errorf("breaker %+v", st)
		}
		time.Sleep(time.Second)
		ask() // the probe, which fails
		ask()
		if n := len(a.requests); n != 4 {
			t.Errorf("%d calls of a, want 4", n)
		}
		time.Sleep(2 * time.Second)
		ask()
		want := append(slicesOf("completed b", 7), "completed a")
		if !reflect.DeepEqual(answered, want) {
			t.Errorf("answered by %q", answered)
		}
		// Who insists on a provider whose breaker is open learns when to come back.
		a.turns = []turn{down, down, down}
		for range 3 {
			ask()
		}
		named := request
		named.Provider = "a"
		w := start(t, s, ss, named, analysis.StartOptions{})
		<-w.ended
		if e := w.transcript.Terminal(); !strings.Contains(string(e.Data), `"code":"service_unavailable"`) || !strings.Contains(string(e.Data), `"retry_after_ms":`) {
			t.Errorf("got %s", e.Data)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		checkFree(t, s, a, b)
	})
}

func slicesOf(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

func TestACancelledProbeSaysNothingAboutTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		a.turns = []turn{fails(protocol.CodeServiceUnavailable), silent(), says("yes")}
		o, ss := plain(a), &streams{}
		o.Streams, o.MaxRetries = ss, -1
		o.Breaker = resilience.BreakerOptions{Failures: 1, Backoff: resilience.Backoff{Base: time.Second, Jitter: -1}}
		s := analysis.New(o)
		<-start(t, s, ss, request, analysis.StartOptions{}).ended
		time.Sleep(time.Second)
		probe := start(t, s, ss, request, analysis.StartOptions{})
		synctest.Wait()
		if err := s.Cancel(t.Context(), probe.id, protocol.CancelClient); err != nil {
			t.Fatal(err)
		}
		<-probe.ended
		next := start(t, s, ss, request, analysis.StartOptions{})
		<-next.ended
		checkStory(t, next, "started 1 a/m", `text 1 "yes"`, "completed a")
	})
}

func TestCodeThatIsTooLongGoesToALargerModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "small", "large", "tiny"), model("b", "other")
		a.turns = []turn{fails(protocol.CodeContextTooLong), says("yes")}
		o, ss := plain(a, b), &streams{}
		o.Providers[0].Models = map[string]providers.ModelInfo{"small": {ContextTokens: 100_000}, "large": {ContextTokens: 200_000}, "tiny": {ContextTokens: 50_000}}
		o.Providers[1].Models = map[string]providers.ModelInfo{"other": {ContextTokens: 64_000}}
		o.Streams = ss
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/small", "failover 2 a>a context_too_long", "started 2 a/large", `text 2 "yes"`, "completed a")

		// Nothing larger: the provider's own error, and no offline answer.
		a.turns = []turn{fails(protocol.CodeContextTooLong), fails(protocol.CodeContextTooLong)}
		w = start(t, s, ss, request, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "started 1 a/small", "failover 2 a>a context_too_long", "started 2 a/large", "failed context_too_long a: no")
		checkFree(t, s, a, b)
	})
}

func TestCodeThatCannotFitStartsWithALargerContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		o, ss := plain(a, b), &streams{}
		o.Providers[0].Models = map[string]providers.ModelInfo{"m": {ContextTokens: 8000}}
		o.Streams = ss
		s := analysis.New(o)
		long := request
		long.Code = strings.Repeat("func f() {}\n", 10_000)
		w := start(t, s, ss, long, analysis.StartOptions{})
		<-w.ended
		if p := w.transcript.Started().Provider; p != "b" {
			t.Errorf("%s was asked first", p)
		}
	})
}

func TestAProviderThatWantsNoRetryGetsNone(t *testing.T) {
	for _, code := range []protocol.Code{protocol.CodeRateLimited, protocol.CodeTimeout, protocol.CodeServiceUnavailable} {
		synctest.Test(t, func(t *testing.T) {
			a := model("a", "m")
			e := protocol.Errorf(code, "go away")
			e.Retryable = false // x-should-retry: false
			a.turns = []turn{{connect: breaks(e)}}
			o, ss := plain(a), &streams{}
			o.Streams = ss
			s := analysis.New(o)
			w := start(t, s, ss, request, analysis.StartOptions{})
			<-w.ended
			checkStory(t, w, "started 1 a/m", "failed "+string(code)+" a: go away")
			checkFree(t, s, a)
		})
	}
}

func TestWeightsAndHealthShareTheTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		o, ss := plain(a, b), &streams{}
		o.Random = nil
		o.Streams = ss
		for i := range o.Providers {
			o.Providers[i].Priority = 0
		}
		o.Providers[0].Weight = 3
		s := analysis.New(o)
		const n = 400
		for range n {
			<-start(t, s, ss, request, analysis.StartOptions{}).ended
		}
		// 300 of 400, with a standard deviation of 8.7.
		if got := len(a.requests); got < 250 || got > 350 {
			t.Errorf("a had %d of %d, and should have about three quarters", got, n)
		}
		// Ten times slower: it gets a tenth of its share.
		a.steps = []step{wait(time.Second), say("x")}
		b.steps = []step{wait(100 * time.Millisecond), say("x")}
		for range 50 {
			<-start(t, s, ss, request, analysis.StartOptions{}).ended
		}
		before := len(a.requests)
		for range n {
			<-start(t, s, ss, request, analysis.StartOptions{}).ended
		}
		if got := len(a.requests) - before; got < 40 || got > 160 {
			t.Errorf("a had %d of %d, and should have about a quarter", got, n)
		}
	})
}

func TestAProviderWhoseAnswersBreakOffLosesItsTurnForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		for range 5 {
			a.turns = append(a.turns, cut("half"))
		}
		o, ss := plain(a, b), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		for range 10 {
			<-start(t, s, ss, request, analysis.StartOptions{}).ended
		}
		// Four of five count as most: 1 - 0.8^4 is 0.59.
		if n := len(a.requests); n != 4 {
			t.Errorf("a was asked %d times, want 4", n)
		}
		if st := s.Providers()[0].Models[0]; st.Calls != 4 || st.ErrorRate < 0.58 || st.ErrorRate > 0.6 || st.Breaker.State != resilience.Closed {
			t.Errorf("status %+v", st)
		}
		time.Sleep(15 * time.Second)
		<-start(t, s, ss, request, analysis.StartOptions{}).ended
		if n := len(a.requests); n != 5 {
			t.Errorf("a was asked %d times, want 5", n)
		}
	})
}

func TestNothingIsChargedForWhatAProviderRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		a.turns = []turn{fails(protocol.CodeServiceUnavailable)}
		o, ss := plain(a, b), &streams{}
		o.Streams = ss
		o.Providers[1].Models = map[string]providers.ModelInfo{"m": {Price: providers.Price{Input: 2, Output: 10}}}
		b.end.Usage = usage(1_000_000, 100_000)
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{Owner: "me"})
		<-w.ended
		want := []accounting.Total{{Key: accounting.Key{Provider: "a", Model: "m", Tenant: "me"}, Calls: 1}}
		if got := s.Providers()[0].Usage; !reflect.DeepEqual(got, want) {
			t.Errorf("a's usage %+v", got)
		}
		want = []accounting.Total{{Key: accounting.Key{Provider: "b", Model: "m", Tenant: "me"}, Calls: 1, InputTokens: 1_000_000, OutputTokens: 100_000, CostUSD: 3}}
		if got := s.Providers()[1].Usage; !reflect.DeepEqual(got, want) {
			t.Errorf("b's usage %+v", got)
		}
		if u := w.transcript.Usage(); u == nil || u.CostUSD == nil || *u.CostUSD != 3 || u.Estimated {
			t.Errorf("the client saw %+v", u)
		}
	})
}

func TestWhoWaitsForAPlaceKeepsTheTimeThatTheProviderNamedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		limited := turn{connect: func(ctx context.Context, s *fakeStream) (providers.Chunk, bool, error) {
			if c, ok, err := wait(time.Second)(ctx, s); err != nil {
				return c, ok, err
			}
			return retryAfter(10*time.Second).connect(ctx, s)
		}}
		a.turns = []turn{limited, says("yes"), says("yes"), says("yes")}
		o, ss := plain(a), &streams{}
		o.Providers[0].Concurrency = 1
		o.Streams = ss
		s := analysis.New(o)
		began := time.Now()
		var all []*writer
		for range 3 {
			all = append(all, start(t, s, ss, request, analysis.StartOptions{}))
			synctest.Wait()
		}
		for _, w := range all {
			<-w.ended
			w.check(t)
			if w.transcript.Terminal().Type != protocol.TypeCompleted {
				t.Errorf("events: %s", strings.Join(w.story(), "\n"))
			}
		}
		for i, at := range a.at[1:] {
			if after := at.Sub(began); after < 11*time.Second {
				t.Errorf("call %d came after %v, though the provider had said at 1s to come back in 10s", i+2, after)
			}
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		checkFree(t, s, a)
	})
}

func TestJobsThatWaitForALimitDontFloodTheirStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		o, ss := plain(a), &streams{}
		o.Providers[0].Limits = accounting.Limits{RequestsPerMinute: 600} // one in 100 ms
		o.Streams, o.MaxJobs = ss, 1000
		s := analysis.New(o)
		var all []*writer
		for range 800 {
			all = append(all, start(t, s, ss, request, analysis.StartOptions{}))
		}
		most := 0
		for _, w := range all {
			<-w.ended
			n := 0
			for _, e := range w.story() {
				if strings.HasPrefix(e, "queued") {
					n++
				}
			}
			most = max(most, n)
		}
		if most > 31 { // one a second of the longest wait
			t.Errorf("a job told %d times that it waits", most)
		}
	})
}

func TestAProviderThatIsSilentAndAlwaysOutrunIsNotWaitedForForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		a.steps, b.steps = []step{wait(time.Hour)}, []step{say("yes")}
		o, ss := plain(a, b), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		began := time.Now()
		var all []*writer
		for range 6 {
			all = append(all, start(t, s, ss, request, analysis.StartOptions{}))
		}
		for _, w := range all {
			<-w.ended
		}
		if took := time.Since(began); took != 8*time.Second {
			t.Errorf("the first answers took %v, want the soft target of 8s", took)
		}
		synctest.Wait()
		if st := s.Providers()[0].Models[0].Breaker; st.State != resilience.Open || !strings.Contains(st.Why, "nothing of an answer came within 8s") {
			t.Errorf("breaker %+v", st)
		}
		began = time.Now()
		<-start(t, s, ss, request, analysis.StartOptions{}).ended
		if took := time.Since(began); took != 0 {
			t.Errorf("the next answer took %v", took)
		}
		if st := s.Providers()[1].Models[0].Breaker; st.Failures != 0 {
			t.Errorf("b's breaker %+v", st)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		checkFree(t, s, a, b)
	})
}

func TestACallThatIsEndedBeforeItsHeadersIsAccountedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		a.turns = []turn{{connect: wait(time.Hour)}} // as where an answer comes in one piece
		b.turns = []turn{says("yes")}
		o, ss := plain(a, b), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		<-start(t, s, ss, request, analysis.StartOptions{}).ended
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		for _, p := range s.Providers() {
			if len(p.Usage) != 1 || p.Usage[0].Calls != 1 || p.Usage[0].EstimatedCalls != 1 || p.Usage[0].InputTokens == 0 {
				t.Errorf("%s: %+v", p.Name, p.Usage)
			}
		}
		checkFree(t, s, a, b)
	})
}
