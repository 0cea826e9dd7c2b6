package analysis_test

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
)

func open(provider string) analysis.BreakerHint {
	return analysis.BreakerHint{Provider: provider, Model: "m", Open: true, Why: "it fails"}
}

// TestOtherNodesBreakersAreHeededButForbidNothing starts a job after what other
// nodes have said a while ago: who is asked first?
func TestOtherNodesBreakersAreHeededButForbidNothing(t *testing.T) {
	type said struct {
		node  string
		hints []analysis.BreakerHint
		wait  time.Duration // afterwards
	}
	for _, c := range []struct {
		name  string
		said  []said
		named string // by the request
		shut  bool   // a's breaker is open here
		want  string
	}{
		{name: "nothing is said", want: "a"},
		{name: "one is open", said: []said{{"n1", []analysis.BreakerHint{open("a")}, 0}}, want: "b"},
		{name: "it is said again and again", said: []said{{"n1", []analysis.BreakerHint{open("a")}, 4 * time.Second}, {"n1", []analysis.BreakerHint{open("a")}, 4 * time.Second}}, want: "b"},
		{name: "it is not said again", said: []said{{"n1", []analysis.BreakerHint{open("a")}, 5*time.Second + 1}}, want: "a"},
		{name: "it has closed", said: []said{{"n1", []analysis.BreakerHint{open("a")}, 0}, {"n1", nil, 0}}, want: "a"},
		{name: "it has closed on one node", said: []said{{"n1", []analysis.BreakerHint{open("a")}, 0}, {"n2", []analysis.BreakerHint{open("a")}, 0}, {"n1", nil, 0}}, want: "b"},
		{name: "it probes", said: []said{{"n1", []analysis.BreakerHint{{Provider: "a", Model: "m"}}, 0}}, want: "a"},
		{name: "all are open", said: []said{{"n1", []analysis.BreakerHint{open("a"), open("b")}, 0}}, want: "a"},
		{name: "one is open elsewhere, the other one here", said: []said{{"n1", []analysis.BreakerHint{open("b")}, 0}}, shut: true, want: "b"},
		{name: "what isn't known here doesn't matter", said: []said{{"n1", []analysis.BreakerHint{open("x"), {Provider: "a", Model: "other", Open: true}, {Provider: "a", Open: true}}, 0}}, want: "a"},
		{name: "who is named is asked", said: []said{{"n1", []analysis.BreakerHint{open("a")}, 0}}, named: "a", want: "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := model("a", "m"), model("b", "m")
				o, ss := plain(a, b), &streams{}
				o.Streams, o.Breaker.Failures, o.Breaker.Backoff.Base = ss, 1, time.Hour
				s := analysis.New(o)
				if c.shut {
					a.turns = []turn{fails(protocol.CodeServiceUnavailable)}
					<-start(t, s, ss, request, analysis.StartOptions{}).ended
				}
				for _, said := range c.said {
					s.Hinted(said.node, said.hints)
					time.Sleep(said.wait)
				}
				r := request
				r.Provider = c.named
				w := start(t, s, ss, r, analysis.StartOptions{})
				<-w.ended
				if got := w.transcript.Started().Provider; got != c.want {
					t.Errorf("%s was asked first, want %s", got, c.want)
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestANodeTellsOfItsBreakersWhileTheyKeepCallsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		a.turns = []turn{fails(protocol.CodeServiceUnavailable)}
		o, ss := plain(a, b), &streams{}
		o.Streams, o.Breaker.Failures, o.Breaker.Backoff.Base, o.Breaker.Backoff.Jitter = ss, 1, 10*time.Second, -1
		s, other := analysis.New(o), analysis.New(o)
		if got := s.BreakerHints(); len(got) != 0 {
			t.Errorf("it tells %+v", got)
		}
		<-start(t, s, ss, request, analysis.StartOptions{}).ended
		until := time.Now().Add(10 * time.Second)
		want := []analysis.BreakerHint{{Provider: "a", Model: "m", Open: true, Until: until,
			Why: s.Providers()[0].Models[0].Breaker.Why}}
		if got := s.BreakerHints(); !reflect.DeepEqual(got, want) {
			t.Errorf("it tells %+v, want %+v", got, want)
		}
		other.Hinted("n1", want)
		other.Hinted("n0", want)
		if got := other.Providers()[0].Models[0].Elsewhere; !reflect.DeepEqual(got, []analysis.NodeHint{{"n0", want[0]}, {"n1", want[0]}}) {
			t.Errorf("the other one shows %+v", got)
		}
		if got := other.Providers()[1].Models[0].Elsewhere; got != nil {
			t.Errorf("the other one shows %+v of b", got)
		}
		// Without calls nobody would ever close it: from now on it keeps none away.
		time.Sleep(10 * time.Second)
		want[0].Open = false
		if got := s.BreakerHints(); !reflect.DeepEqual(got, want) {
			t.Errorf("it tells %+v, want %+v", got, want)
		}
		for _, s := range []*analysis.Service{s, other} {
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// Who was answering is preferred only where nobody has heard ill of it.
func TestAResumedJobIsNotGivenToWhoIsInTroubleElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, ss := plain(model("a", "m"), model("b", "m")), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		s.Hinted("n1", []analysis.BreakerHint{open("b")})
		p := newTape().started(1, "b")
		if err := s.Resume(t.Context(), p.resumption(ss, request)); err != nil {
			t.Fatal(err)
		}
		w := ss.get("s")
		<-w.ended
		checkStory(t, w, "started 1 b/m", "failover 2 b>a owner_lost discard", "started 2 a/m", "completed a")
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
