package analysis_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
)

// A keptWriter knows whether its end is stored.
type keptWriter struct {
	analysis.Writer
	stored, lost <-chan struct{}
}

func (w keptWriter) AwaitStored(ctx context.Context) bool {
	select {
	case <-w.stored:
		return true
	case <-w.lost:
	case <-ctx.Done():
	}
	return false
}

// A node that was cut off finishes its job, and can't store that. The one that
// takes the job over needs the request.
func TestARequestIsKeptUntilTheStreamsEndIsStored(t *testing.T) {
	for _, c := range []struct {
		name string
		then func(store, lose func())
		ops  string
	}{
		{"stored at last", func(store, _ func()) { store() }, "keep drop"},
		{"taken over", func(_, lose func()) { lose() }, "keep"},
		{"neither, for long", func(_, _ func()) { time.Sleep(time.Hour) }, "keep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stored, lost := make(chan struct{}), make(chan struct{})
				a, store, ss := model("a", "m"), &requestStore{}, &streams{}
				a.turns = []turn{slowly(time.Second)}
				o := plain(a)
				o.Requests = store
				o.Streams = analysis.StreamsFunc(func(ctx context.Context, id string) (analysis.Writer, error) {
					w, err := ss.Create(ctx, id)
					return keptWriter{w, stored, lost}, err
				})
				s := analysis.New(o)
				w := start(t, s, ss, request, analysis.StartOptions{})
				<-w.ended
				time.Sleep(30 * time.Second)
				if store.get(w.id) == nil {
					t.Error("the request was dropped although another node may need it")
				}
				began := time.Now()
				if err := s.Drain(t.Context()); err != nil || time.Since(began) > 0 {
					t.Errorf("a drain waits for what the store doesn't take: %v, %v", time.Since(began), err)
				}
				c.then(func() { close(stored) }, func() { close(lost) })
				synctest.Wait()
				if got := store.said(); got != c.ops {
					t.Errorf("the store was asked to %s, want %s", got, c.ops)
				}
			})
		})
	}
}
