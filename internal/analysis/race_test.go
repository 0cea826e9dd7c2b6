package analysis_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/providers"
)

// A fragile provider panics when it is asked for its limits, once it is broken.
type fragile struct {
	*fake
	broken atomic.Bool
}

func (f *fragile) RateLimits() (providers.RateLimits, bool) {
	if f.broken.Load() {
		panic("provider bug")
	}
	return providers.RateLimits{}, false
}

func TestAPanicInTheMiddleOfARaceLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), &fragile{fake: model("b", "m")}
		a.turns = []turn{silent()}
		o, ss := plain(a), &streams{}
		o.Providers = append(o.Providers, analysis.Entry{Provider: b, Priority: 1})
		o.Streams = ss
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{})
		synctest.Wait()
		b.broken.Store(true) // a is being waited for; b is to be asked, too
		<-w.ended
		if story := strings.Join(w.story(), "; "); story != "started 1 a/m; failed internal : the server could not do this; its log says why" {
			t.Errorf("events: %s", story)
		}
		w.check(t)
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		b.broken.Store(false)
		checkFree(t, s, a, b.fake)
		if u := s.Providers()[0].Usage; len(u) != 1 || u[0].Calls != 1 {
			t.Errorf("the call is not settled: %+v", u)
		}
		time.Sleep(time.Minute) // what waits for the grace is over
	})
}
