package analysis_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// A moment is how far a call is when it is cancelled.
type moment struct {
	name   string
	script providertest.Script
	pieces int  // that have come
	hedged bool // another provider is asked beside it
}

var moments = []moment{
	{name: "before the headers", script: scriptA(providertest.Fault{Kind: providertest.FaultSilence})},
	{name: "before content", script: scriptA(providertest.Fault{Kind: providertest.FaultMute})},
	{name: "in the middle", pieces: 3,
		script: providertest.Script{Steady: providertest.Steady{Chunks: 10_000, Interval: 5 * time.Millisecond}}},
	{name: "while two are asked", hedged: true, script: scriptA(providertest.Fault{Kind: providertest.FaultMute})},
}

// TestACancelReachesTheUpstreamAtOnce cancels calls in each of their stages
// and looks at when the upstream sees its client hang up. The bound is the
// median's; the machine may be busy.
func TestACancelReachesTheUpstreamAtOnce(t *testing.T) {
	const bound, each = 100 * time.Millisecond, 3
	var took []time.Duration
	for _, s := range speakers {
		for _, m := range moments {
			for range each {
				took = append(took, cancelAt(t, s, m)...)
			}
		}
	}
	slices.Sort(took)
	t.Logf("from the cancel to the hang-up, %d calls: median %v, at most %v", len(took), took[len(took)/2], took[len(took)-1])
	if median := took[len(took)/2]; median > bound {
		t.Errorf("the median from the cancel to the hang-up is %v, more than %v", median, bound)
	}
}

// cancelAt cancels one job at a moment, and returns how long its upstreams took
// to notice.
func cancelAt(t *testing.T, s speaker, m moment) (took []time.Duration) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	a, b := providertest.NewUpstream(t, m.script), providertest.NewUpstream(t, m.script)
	defer a.Close()
	defer b.Close()
	o := patient(analysis.Entry{Provider: s.provider(t, "a", a)}, analysis.Entry{Provider: s.other().provider(t, "b", b)})
	asked := []*providertest.Upstream{a}
	if m.hedged {
		o.HedgeAfter = time.Millisecond
		asked = append(asked, b)
	}
	r := newRig(t, o)
	w := r.start(request)
	var calls []*providertest.Call
	for _, up := range asked {
		c, err := up.WaitCall(ctx, 1)
		if err == nil {
			err = c.WaitPieces(ctx, m.pieces)
		}
		if err != nil {
			t.Fatalf("%s, %s: %v", s.name, m.name, err)
		}
		calls = append(calls, c)
	}
	began := time.Now()
	if err := r.s.Cancel(ctx, w.id, protocol.CancelClient); err != nil {
		t.Fatal(err)
	}
	r.end(w, 10*time.Second)
	r.free()
	if tale := w.tale(); tale[len(tale)-1] != "cancelled client" {
		t.Errorf("%s, %s: it ends with %q", s.name, m.name, tale[len(tale)-1])
	}
	for _, c := range calls {
		select {
		case <-c.HungUp():
			took = append(took, c.HungUpAt().Sub(began))
		case <-ctx.Done():
			t.Fatalf("%s, %s: the upstream never saw its client hang up", s.name, m.name)
		}
	}
	released(t, asked...)
	for i, up := range []*providertest.Upstream{a, b} {
		if n := up.Count(); n > 1 || (i == 0 && n == 0) {
			t.Errorf("%s, %s: %d calls of upstream %d", s.name, m.name, n, i)
		}
	}
	return took
}
