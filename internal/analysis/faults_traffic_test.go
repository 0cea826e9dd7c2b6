package analysis_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// TestASlowProviderIsHedged: the first is slow with its first content, so the
// second is asked beside it, answers, and is who the client sees. The first is
// hung up on, and both are accounted for.
func TestASlowProviderIsHedged(t *testing.T) {
	for _, s := range speakers {
		for _, kind := range []providertest.FaultKind{providertest.FaultSilence, providertest.FaultMute} {
			name := s.name + "/silent"
			if kind == providertest.FaultMute {
				name = s.name + "/mute"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				a := providertest.NewUpstream(t, scriptA(providertest.Fault{Kind: kind}))
				b := providertest.NewUpstream(t, scriptB(piecesB...))
				o := patient(analysis.Entry{Provider: s.provider(t, "a", a)}, analysis.Entry{Provider: s.other().provider(t, "b", b)})
				o.HedgeAfter = 20 * time.Millisecond
				r := newRig(t, o)
				began := time.Now()
				w := r.start(request)
				r.end(w, 20*time.Second)
				wantTale(t, w, []string{"started 1 a/model-a", "progress asking b, too", "failover 2 a>b hedged", "started 2 b/model-b", `text 2 "` + textB + `"`, "completed b"})
				wantCompleted(t, w, "b", "model-b-2026", usageB)
				released(t, a, b)
				wantCalls(t, a, s, 1, 0)
				wantCalls(t, b, s.other(), 1, 0)
				lost, won := a.Calls()[0], b.Calls()[0]
				if waited := won.Arrived.Sub(began); waited < o.HedgeAfter {
					t.Errorf("the second was asked after %v, too soon", waited)
				}
				wantHungUp(t, lost)
				if !won.HungUpAt().IsZero() {
					t.Error("the one that answered was hung up on")
				}
				r.drain()
				wantAccounts(t, r, map[string]int{"a": 1, "b": 1})
			})
		}
	}
}

// wantHungUp waits until the upstream notices that its client has left.
func wantHungUp(t *testing.T, c *providertest.Call) {
	t.Helper()
	select {
	case <-c.HungUp():
	case <-time.After(5 * time.Second):
		t.Error("nobody hung up on the call that was not needed")
	}
}

// TestWhoIsFirstAfterAllKeepsTheFloor: the one that was asked beside it is hung
// up on, and the client sees nothing of that.
func TestWhoIsFirstAfterAllKeepsTheFloor(t *testing.T) {
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			slow := scriptA(providertest.Fault{})
			slow.HeaderDelay = 300 * time.Millisecond
			a := providertest.NewUpstream(t, slow)
			b := providertest.NewUpstream(t, scriptA(providertest.Fault{Kind: providertest.FaultMute}))
			o := patient(analysis.Entry{Provider: s.provider(t, "a", a)}, analysis.Entry{Provider: s.other().provider(t, "b", b)})
			o.HedgeAfter = 10 * time.Millisecond
			r := newRig(t, o)
			w := r.start(request)
			r.end(w, 20*time.Second)
			wantTale(t, w, []string{"started 1 a/model-a", "progress asking b, too", `text 1 "` + textA + `"`, "completed a"})
			wantCompleted(t, w, "a", "model-a-2026", usageA)
			released(t, a, b)
			wantHungUp(t, b.Calls()[0])
		})
	}
}

// TestATimeThatAProviderNamedIsKeptByAll: one job was told to come back later,
// and no other asks before.
func TestATimeThatAProviderNamedIsKeptByAll(t *testing.T) {
	const wait = 300 * time.Millisecond
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			a, b := providertest.NewUpstream(t, scriptA(providertest.Fault{})), providertest.NewUpstream(t, scriptB(piecesB...))
			a.Enqueue(scriptA(status(429, http.Header{"Retry-After-Ms": {"300"}})))
			o := patient(analysis.Entry{Provider: s.provider(t, "a", a)}, analysis.Entry{Provider: s.other().provider(t, "b", b)})
			o.RateLimitWait = wait / 2
			r := newRig(t, o)
			first := r.start(request)
			r.end(first, 20*time.Second)
			refused := a.Calls()[0].Arrived
			for by := ""; by != "a"; {
				began := time.Now()
				w := r.start(request)
				r.end(w, 20*time.Second)
				var c protocol.Completed
				w.last(t, &c)
				if by = c.Provider; by != "a" && began.Sub(refused) > wait+2*time.Second {
					t.Fatalf("an answer came from %s, asked for after %v", by, began.Sub(refused))
				}
			}
			released(t, a, b)
			if calls := a.Calls(); len(calls) < 2 || calls[1].Arrived.Sub(refused) < wait {
				t.Errorf("%d calls, the second too soon", len(calls))
			}
		})
	}
}

// TestRetriesDoNotMultiplyAnOutage: without a breaker and another provider,
// each job would ask three times; the budget lets through a fifth more than
// there are jobs, and its reserve.
func TestRetriesDoNotMultiplyAnOutage(t *testing.T) {
	const jobs, reserve = 40, 4
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			a := providertest.NewUpstream(t, scriptA(status(503, nil)))
			o := patient(analysis.Entry{Provider: s.provider(t, "a", a)})
			o.Breaker.Failures = 10_000
			o.RetryBackoff = resilience.Backoff{Base: time.Millisecond, Max: 2 * time.Millisecond}
			o.RetryBudget = resilience.BudgetOptions{Ratio: 0.2, Reserve: reserve}
			began := time.Now()
			r := newRig(t, o)
			for range jobs {
				w := r.start(request)
				r.end(w, 20*time.Second)
				var failed protocol.Failed
				w.last(t, &failed)
				if failed.Error.Code != protocol.CodeServiceUnavailable || failed.Error.Provider != "a" {
					t.Errorf("failed with %+v", failed.Error)
				}
			}
			refill := int(time.Since(began)/time.Second) + 1 // one a second
			if n, most := a.Count(), jobs+jobs/5+reserve+refill; n > most || n <= jobs {
				t.Errorf("%d calls for %d jobs, want more, and %d at most", n, jobs, most)
			}
		})
	}
}
