package analysis_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// TestADrainHandsOverWhatDoesNotEndInTime drains after 3 s a node whose job has
// said a line and begun a finding, which is held back.
func TestADrainHandsOverWhatDoesNotEndInTime(t *testing.T) {
	given := []string{"started 1 a/m", `text 1 "one\n"`}
	cancelled := append(given[:2:2], `text 1 "@finding {\"rule\":\"x\",\"sev"`, "cancelled drain")
	const cutShort = "drain cancelled 1 jobs: context deadline exceeded"
	for _, c := range []struct {
		name  string
		setup func(*analysis.Options, *streams, *requestStore)
		// beside is called while the writer hands over.
		beside func(s *analysis.Service, id string) error
		want   []string
		end    string // that metrics are told
		err    string // of the drain
		kept   bool   // the request is, afterwards
		takes  time.Duration
	}{
		{name: "it is handed over, and half a finding is not said", want: given, end: "job left 3s handed over=true", kept: true, takes: 3 * time.Second},
		{
			name: "when its request is kept", want: given, end: "job left 4s handed over=true", kept: true, takes: 4 * time.Second,
			setup: func(_ *analysis.Options, _ *streams, r *requestStore) {
				r.fail = func(op string) error {
					if op == "keep" {
						time.Sleep(4 * time.Second)
					}
					return nil
				}
			},
		},
		{
			name: "its request can't be kept", want: cancelled, end: "job ended a/m 3s cancelled error=<nil> cancelled=\"drain\"", err: cutShort, takes: 3 * time.Second,
			setup: func(_ *analysis.Options, _ *streams, r *requestStore) {
				r.fail = func(op string) error {
					if op == "keep" {
						return errors.New("no quorum")
					}
					return nil
				}
			},
		},
		{
			name: "its writer can't", want: cancelled, end: "job ended a/m 3s cancelled error=<nil> cancelled=\"drain\"", err: cutShort, takes: 3 * time.Second,
			setup: func(_ *analysis.Options, ss *streams, _ *requestStore) {
				ss.give = func(*writer) error { return errors.New("no quorum") }
			},
		},
		{
			name: "its writer never does", want: cancelled, end: "job ended a/m 3s cancelled error=<nil> cancelled=\"drain\"", err: cutShort, takes: 3 * time.Second,
			setup: func(_ *analysis.Options, ss *streams, _ *requestStore) { ss.give = nil },
		},
		{
			name: "nobody wants it", want: cancelled, end: "job ended a/m 3s cancelled error=<nil> cancelled=\"drain\"", err: cutShort, takes: 3 * time.Second,
			setup: func(o *analysis.Options, _ *streams, _ *requestStore) { o.HandOver = false },
		},
		{
			name: "another node took it meanwhile", want: given, end: "job left 3s handed over=false taken over=true", kept: true, takes: 3 * time.Second,
			setup: func(_ *analysis.Options, ss *streams, _ *requestStore) {
				ss.give = func(*writer) error { return fmt.Errorf("hand over: %w", fencedError{}) }
			},
		},
		{
			name: "a client that cancels while it is handed over is sent to the next node", want: given,
			end: "job left 3s handed over=true", kept: true, takes: 3 * time.Second,
			beside: func(s *analysis.Service, id string) error {
				if err := s.Cancel(context.Background(), id, protocol.CancelClient); !errors.Is(err, analysis.ErrNotRunning) {
					return fmt.Errorf("cancel: %w", err)
				}
				return nil
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, obs, store := model("a", "m"), &observer{}, &requestStore{}
				a.turns = []turn{{steps: []step{say("one\n@finding {\"ru"), say(`le":"x","sev`), wait(time.Hour)}}}
				o, ss := plain(a), &streams{}
				ss.give = func(*writer) error { return nil }
				o.Streams, o.Requests, o.Observer, o.HandOver, o.IdleTimeout = ss, store, obs, true, -1
				if c.setup != nil {
					c.setup(&o, ss, store)
				}
				s := analysis.New(o)
				if c.beside != nil {
					ss.give = func(w *writer) error { return c.beside(s, w.id) }
				}
				w := start(t, s, ss, request, analysis.StartOptions{})
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if err := s.Drain(ctx); c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
					t.Errorf("drain: %v", err)
				}
				if took := time.Since(began); took != c.takes {
					t.Errorf("it took %v, want %v", took, c.takes)
				}
				if got := strings.Join(w.story(), "; "); got != strings.Join(c.want, "; ") {
					t.Errorf("events: %s\nwant: %s", got, strings.Join(c.want, "; "))
				}
				if got := obs.said[len(obs.said)-1]; !strings.HasPrefix(got, c.end) {
					t.Errorf("metrics are told %s, want %s", got, c.end)
				}
				if got := store.get(w.id) != nil; got != c.kept {
					t.Errorf("the request is kept: %v, want %v", got, c.kept)
				}
				if len(w.late) > 0 || a.open != 0 {
					t.Errorf("%d late writes, %d open calls", len(w.late), a.open)
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Errorf("drained again: %v", err)
				}
			})
		})
	}
}

// A job that waits for its turn is handed over as well, and one that ends in
// time, or is cancelled by its client, just ends.
func TestADrainHandsOverOnlyWhatStillRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := model("a", "m"), &requestStore{}
		a.turns = []turn{slowly(time.Second), silent(), silent(), silent(), silent()}
		o, ss := plain(a), &streams{give: func(*writer) error { return nil }}
		o.Streams, o.Requests, o.HandOver, o.FirstContentTimeout, o.HeaderTimeout = ss, store, true, -1, -1
		o.Providers[0].Concurrency = 3
		s := analysis.New(o)
		var ws []*writer
		for range 6 {
			ws = append(ws, start(t, s, ss, request, analysis.StartOptions{}))
			synctest.Wait()
		}
		ctx, stop := context.WithCancel(t.Context())
		drained := make(chan error)
		go func() { drained <- s.Drain(ctx) }()
		<-ws[0].ended
		if err := s.Cancel(t.Context(), ws[1].id, protocol.CancelClient); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		stop()
		if err := <-drained; err != nil {
			t.Error(err)
		}
		checkStory(t, ws[0], "started 1 a/m", `text 1 "yes"`, "completed a")
		checkStory(t, ws[1], "started 1 a/m", "cancelled client")
		for i, want := range []string{"started 1 a/m", "queued 1 concurrency 0ms; started 1 a/m",
			"queued 2 concurrency 0ms; queued 1 concurrency 0ms; started 1 a/m", "queued 3 concurrency 0ms; queued 2 concurrency 0ms"} {
			if got := strings.Join(ws[2+i].story(), "; "); got != want {
				t.Errorf("events: %s\nwant: %s", got, want)
			}
			if store.get(ws[2+i].id) == nil {
				t.Error("a job was handed over without its request")
			}
		}
	})
}

// A client's cancel that comes before the job is handed over ends it, although
// its calls were ended for another reason; and how many are interested goes with
// the job.
func TestWhoIsInterestedInAJobGoesWithIt(t *testing.T) {
	for _, c := range []struct {
		name            string
		joined, cancels int
		want            string
		kept            string
	}{
		{"nobody has joined", 0, 0, "started 1 a/m", `"interest":1`},
		{"two have joined", 2, 0, "started 1 a/m", `"interest":3`},
		{"two have joined and one has left", 2, 1, "started 1 a/m", `"interest":2`},
		{"the last one leaves", 0, 1, "started 1 a/m; cancelled client", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, store := model("a", "m"), &requestStore{}
				// It takes a second to end its call, in which the client may cancel.
				a.turns = []turn{{steps: []step{func(ctx context.Context, s *fakeStream) (chunk providers.Chunk, ok bool, err error) {
					<-ctx.Done()
					time.Sleep(time.Second)
					return providers.Chunk{}, false, ctx.Err()
				}}}}
				o, ss := plain(a), &streams{give: func(*writer) error { return nil }}
				o.Streams, o.Requests, o.HandOver, o.FirstContentTimeout, o.HeaderTimeout = ss, store, true, -1, -1
				s := analysis.New(o)
				same := request
				same.Cache = protocol.CacheUse
				w := start(t, s, ss, same, analysis.StartOptions{})
				synctest.Wait()
				for range c.joined {
					if other := start(t, s, ss, same, analysis.StartOptions{}); other != w {
						t.Fatal("it did not join")
					}
				}
				ctx, stop := context.WithCancel(t.Context())
				stop()
				drained := make(chan error)
				go func() { drained <- s.Drain(ctx) }()
				synctest.Wait()
				for range c.cancels {
					if err := s.Cancel(t.Context(), w.id, protocol.CancelClient); err != nil {
						t.Error(err)
					}
				}
				if err := <-drained; err != nil {
					t.Error(err)
				}
				if got := strings.Join(w.story(), "; "); got != c.want {
					t.Errorf("events: %s\nwant: %s", got, c.want)
				}
				if b := string(store.get(w.id)); c.kept == "" && b != "" || !strings.Contains(b, c.kept) {
					t.Errorf("kept is %s, want %s", b, c.kept)
				}
			})
		})
	}
}

// TestAWriterThatIsFencedEndsItsJobQuietly lets another node take the stream
// over at every kind of write.
func TestAWriterThatIsFencedEndsItsJobQuietly(t *testing.T) {
	for _, at := range []protocol.Type{protocol.TypeStarted, protocol.TypeChunk, protocol.TypeFinding, protocol.TypeUsage, protocol.TypeRetrying,
		protocol.TypeFailover, protocol.TypeProgress, protocol.TypeCompleted, "TakenOver"} {
		t.Run(string(at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, obs, store := model("a", "m"), model("b", "m"), &observer{}, &requestStore{}
				a.turns = []turn{fails(protocol.CodeConnectionFailed), fails(protocol.CodeConnectionFailed)}
				b.turns = []turn{{connect: wait(time.Second), steps: []step{say("x\n@finding " + `{"rule":"r","severity":"low","message":"m","line":1}` + "\n"),
					chunk(providers.Chunk{Type: providers.ChunkUsage, Usage: usage(1, 2)}),
					chunk(providers.Chunk{Type: providers.ChunkProgress, Progress: &protocol.Progress{Stage: "s"}}), say("y"), wait(time.Second)}, end: whole()}}
				var asked int
				ss := &streams{make: func(w *writer) {
					w.refuse = func(is protocol.Type) error {
						if asked > 0 {
							asked++
						}
						if is == at {
							asked = 1
						}
						if asked > 0 {
							return fmt.Errorf("append: %w", fencedError{})
						}
						return nil
					}
				}}
				o := plain(a, b)
				o.Streams, o.Observer, o.Requests = ss, obs, store
				s := analysis.New(o)
				w := start(t, s, ss, request, analysis.StartOptions{})
				if at == "TakenOver" {
					time.Sleep(1500 * time.Millisecond) // b is being asked
					s.TakenOver(w.id)
					s.TakenOver("unknown")
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				if asked > 1 {
					t.Errorf("it wrote %d times more", asked-1)
				}
				if w.transcript.Terminal() != nil || a.open+b.open > 0 {
					t.Errorf("the end is %v, %d calls are open", w.transcript.Terminal(), a.open+b.open)
				}
				if got := obs.told(); !strings.Contains(got, "handed over=false taken over=true") || strings.Contains(got, "job ended") {
					t.Errorf("metrics are told %s", got)
				}
				if strings.Contains(store.said(), "drop") {
					t.Error("the request was dropped that another node needs")
				}
				for _, p := range s.Providers() {
					if p.Bulkhead.Busy > 0 {
						t.Errorf("%s holds a place", p.Name)
					}
				}
			})
		})
	}
}
