package analysis_test

import (
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// openings records when a breaker opened.
type openings struct {
	observer

	opened sync.Mutex
	since  []time.Time // guarded by opened
}

func (o *openings) BreakerChanged(provider, _ string, s resilience.BreakerState) {
	if provider != "a" || s.State != resilience.Open {
		return
	}
	o.opened.Lock()
	defer o.opened.Unlock()
	o.since = append(o.since, s.Since)
}

// TestAFlappingProviderIsLeftAloneAndUsedAgain sends pairs of requests at once
// through an outage of the preferred provider. The breaker's times are a
// twelfth of the default's.
func TestAFlappingProviderIsLeftAloneAndUsedAgain(t *testing.T) {
	const (
		pairs = 10
		pause = 150 * time.Millisecond
		most  = 800 * time.Millisecond
	)
	for _, outage := range []struct {
		name  string
		fault providertest.Fault
	}{{"503", status(503, nil)}, {"reset", providertest.Fault{Kind: providertest.FaultReset}}} {
		for _, s := range []speaker{claudeSpeaker, chatSpeaker, deepSeekSpeaker, responsesSpeaker} {
			t.Run(outage.name+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				a, b := providertest.NewUpstream(t, scriptA(providertest.Fault{})), providertest.NewUpstream(t, scriptB(piecesB...))
				o := patient(analysis.Entry{Provider: s.provider(t, "a", a)}, analysis.Entry{Provider: s.other().provider(t, "b", b)})
				o.Breaker = resilience.BreakerOptions{Failures: 3, Window: 10 * time.Second,
					Backoff: resilience.Backoff{Growth: resilience.Exponential, Base: 200 * time.Millisecond, Max: most, Jitter: 0.2}}
				changes := &openings{}
				o.Observer = changes
				r := newRig(t, o)
				// ask makes n requests at once and returns who answered.
				ask := func(n int) (by []string) {
					var running []*writer
					for range n {
						running = append(running, r.start(request))
					}
					for _, w := range running {
						r.end(w, 20*time.Second)
						var c protocol.Completed
						w.last(t, &c)
						if want := map[string]string{"a": textA, "b": textB}[c.Provider]; w.text() != want || want == "" {
							t.Errorf("%q answered %q", c.Provider, w.text())
						}
						by = append(by, c.Provider)
					}
					return by
				}
				if by := ask(1); by[0] != "a" {
					t.Errorf("%s answered before the outage", by[0])
				}

				a.SetScript(scriptA(outage.fault))
				tick := time.NewTicker(pause)
				defer tick.Stop()
				for range pairs {
					<-tick.C
					for _, by := range ask(2) {
						if by != "b" {
							t.Errorf("%s answered in the outage", by)
						}
					}
				}
				windows(t, changes.since, a.Calls())

				a.SetScript(scriptA(providertest.Fault{}))
				recovered := time.Now()
				probe := r.s.Providers()[0].Models[0].Breaker.NextProbe
				if wait := probe.Sub(recovered); wait > most {
					t.Errorf("the next probe is %v away, more than the longest window", wait)
				}
				by := ""
				for by != "a" {
					began := time.Now()
					by = ask(1)[0]
					if by != "a" && began.After(probe) {
						t.Fatalf("%s answered a request that began %v after the probe was due", by, began.Sub(probe))
					}
				}
				t.Logf("used again %v after it recovered", time.Since(recovered))
				for _, by := range ask(4) {
					if by != "a" {
						t.Errorf("%s answered after the recovery", by)
					}
				}
			})
		}
	}
}

// windows checks how many calls reached the upstream in each window of its
// breaker, which begins as it opens and ends as the probe's failure opens it
// again.
func windows(t *testing.T, opened []time.Time, calls []*providertest.Call) {
	t.Helper()
	if len(opened) < 2 {
		t.Fatalf("the breaker opened %d times: the outage was too short to see a window", len(opened))
	}
	n := make([]int, len(opened))
	for _, c := range calls {
		for i := len(opened) - 1; i >= 0; i-- {
			if !c.Arrived.Before(opened[i]) {
				n[i]++
				break
			}
		}
	}
	t.Logf("calls in the windows: %v", n)
	for i, calls := range n {
		if calls > 2 {
			t.Errorf("%d calls in window %d", calls, i+1)
		}
	}
}
