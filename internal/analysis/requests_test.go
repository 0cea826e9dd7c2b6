package analysis_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
)

// A requestStore is a RequestStore in memory.
type requestStore struct {
	fail func(op string) error // called without mu, where it is set

	mu   sync.Mutex
	kept map[string][]byte
	ops  []string
}

func (r *requestStore) do(ctx context.Context, op string, f func()) error {
	r.mu.Lock()
	r.ops = append(r.ops, op)
	r.mu.Unlock()
	if r.fail != nil {
		if err := r.fail(op); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil {
		r.kept = make(map[string][]byte)
	}
	f()
	return nil
}

func (r *requestStore) Keep(ctx context.Context, id string, data []byte) error {
	return r.do(ctx, "keep", func() { r.kept[id] = bytes.Clone(data) })
}

func (r *requestStore) Drop(ctx context.Context, id string) error {
	return r.do(ctx, "drop", func() { delete(r.kept, id) })
}

func (r *requestStore) get(id string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept[id]
}

func (r *requestStore) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.ops, " ")
}

func TestARequestIsKeptWhileItsJobRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		a.turns = []turn{slowly(time.Second)}
		o, ss, store := plain(a), &streams{}, &requestStore{}
		o.Streams, o.Requests = ss, store
		s := analysis.New(o)
		w := start(t, s, ss, request, analysis.StartOptions{Owner: "who", Credential: "key:k", RequestID: "r1"})
		synctest.Wait()
		began := time.Now().Format(time.RFC3339Nano)
		want := `{"version":1,"request":{"code":"package main\n\nfunc main() {}\n","filename":"main.go","analysis":"review","provider":"auto",` +
			`"cache":"bypass"},"owner":"who","credential":"key:k","request_id":"r1","started":"` + began + `","interest":1}`
		if got := string(store.get(w.id)); got != want {
			t.Errorf("kept is\n%s\nwant\n%s", got, want)
		}
		<-w.ended
		synctest.Wait()
		if b := store.get(w.id); b != nil {
			t.Errorf("kept behind the end: %s", b)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if got := store.said(); got != "keep drop" {
			t.Errorf("the store was asked to %s", got)
		}
	})
}

// A store that fails, hangs or refuses must not be felt by a job, and be told of
// once.
func TestAStoreThatDoesNotKeepRequestsHoldsUpNoJob(t *testing.T) {
	for _, c := range []struct {
		name  string
		fail  func() func(op string) error
		log   []string // messages
		ops   string
		drain time.Duration // takes so long
	}{
		{
			name: "it fails", fail: func() func(string) error { return func(string) error { return errors.New("no quorum") } },
			log: []string{"can't be kept"}, ops: "keep keep keep drop drop keep keep keep drop drop",
		},
		{
			name: "it comes back", fail: func() func(string) error {
				n := 0
				return func(string) error {
					if n++; n <= 2 {
						return errors.New("no quorum")
					}
					return nil
				}
			},
			log: []string{"can't be kept", "are kept again"}, ops: "keep keep keep drop keep drop",
		},
		{
			name: "the request is too large", fail: func() func(string) error {
				return func(op string) error {
					if op == "keep" {
						return fmt.Errorf("keep: %w", analysis.ErrRequestTooLarge)
					}
					return nil
				}
			},
			ops: "keep drop keep drop",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := model("a", "m")
				a.turns = []turn{slowly(5 * time.Second), slowly(5 * time.Second)}
				store := &requestStore{fail: c.fail()}
				var log bytes.Buffer
				o, ss := plain(a), &streams{}
				o.Streams, o.Requests, o.Logger = ss, store, zerolog.New(zerolog.SyncWriter(&log)).Level(zerolog.InfoLevel)
				s := analysis.New(o)
				for range 2 {
					began := time.Now()
					w := start(t, s, ss, request, analysis.StartOptions{})
					<-w.ended
					if took := time.Since(began); took != 5*time.Second {
						t.Errorf("the job took %v", took)
					}
					checkStory(t, w, "started 1 a/m", `text 1 "yes"`, "completed a")
					synctest.Wait()
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Error(err)
				}
				if got := store.said(); got != c.ops {
					t.Errorf("the store was asked to %s, want %s", got, c.ops)
				}
				var got []string
				for l := range strings.Lines(log.String()) {
					if strings.Contains(l, "kept") {
						got = append(got, l)
					}
				}
				if len(got) != len(c.log) {
					t.Fatalf("the log has %q, want %q", got, c.log)
				}
				for i := range got {
					if !strings.Contains(got[i], c.log[i]) {
						t.Errorf("the log has %q, want %q", got[i], c.log[i])
					}
				}
			})
		})
	}
}

func TestADrainWaitsForRequestsToBeDroppedButNotForEver(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes time.Duration
		err   string
		after time.Duration
	}{
		{"a slow store", time.Second, "", time.Second},
		{"a store that hangs", time.Hour, "the store of requests did not return, with 1 of them", 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := model("a", "m")
				store := &requestStore{fail: func(op string) error {
					if op == "drop" {
						time.Sleep(c.takes)
					}
					return nil
				}}
				o, ss := plain(a), &streams{}
				o.Streams, o.Requests = ss, store
				s := analysis.New(o)
				<-start(t, s, ss, request, analysis.StartOptions{}).ended
				began := time.Now()
				if err := s.Drain(t.Context()); c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
					t.Errorf("drain: %v", err)
				}
				if took := time.Since(began); took != c.after {
					t.Errorf("it took %v, want %v", took, c.after)
				}
				time.Sleep(2 * time.Hour) // until it has returned
			})
		})
	}
}

// kept is a request as a node keeps it that started it then.
func kept(r protocol.Request, started time.Time, more string) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return fmt.Appendf(nil, `{"version":1,"request":%s,"started":%q%s}`, b, started.Format(time.RFC3339Nano), more)
}
