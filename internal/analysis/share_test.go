package analysis_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
)

func TestEqualRequestsShareOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		a.steps = []step{say("half "), wait(5 * time.Second), say("whole")}
		o, ss, obs := plain(a), &streams{}, &observer{}
		o.Streams, o.Observer = ss, obs
		generation := "one"
		o.CacheGeneration = func() string { return generation }
		s := analysis.New(o)
		same := request
		same.Cache = protocol.CacheUse
		first, created, err := s.Start(t.Context(), &same, analysis.StartOptions{Owner: "x"})
		if err != nil || !created {
			t.Fatal(created, err)
		}
		synctest.Wait()
		for name, c := range map[string]struct {
			change func(*protocol.Request)
			owner  string
			joins  bool
		}{
			"an equal one":                    {func(*protocol.Request) {}, "x", true},
			"another orphan timeout":          {func(r *protocol.Request) { r.OrphanTimeout = protocol.Duration(time.Second) }, "x", true},
			"defaults written out":            {func(r *protocol.Request) { r.Provider, r.Analysis = "auto", protocol.AnalysisReview }, "x", true},
			"another owner":                   {func(*protocol.Request) {}, "y", false},
			"another code":                    {func(r *protocol.Request) { r.Code += " " }, "x", false},
			"another analysis":                {func(r *protocol.Request) { r.Analysis = protocol.AnalysisBugs }, "x", false},
			"another option":                  {func(r *protocol.Request) { r.Options.MaxTokens = 5 }, "x", false},
			"another provider":                {func(r *protocol.Request) { r.Provider = "a" }, "x", false},
			"one that wants no cached answer": {func(r *protocol.Request) { r.Cache = protocol.CacheBypass }, "x", false},
			"one that wants a new answer":     {func(r *protocol.Request) { r.Cache = protocol.CacheRefresh }, "x", false},
		} {
			r := same
			c.change(&r)
			id, created, err := s.Start(t.Context(), &r, analysis.StartOptions{Owner: c.owner})
			if err != nil || created == c.joins || (id == first) != c.joins {
				t.Errorf("%s: %s, %v, %v", name, id, created, err)
			}
		}
		generation = "two" // the answer that is being given is one of those that are no longer good
		if id, created, err := s.Start(t.Context(), &same, analysis.StartOptions{Owner: "x"}); err != nil || !created || id == first {
			t.Errorf("after the cache was cleared: %s, %v, %v", id, created, err)
		}
		generation = "one"
		w := ss.get(first)
		<-w.ended
		checkStory(t, w, "started 1 a/m", `text 1 "half "`, `text 1 "whole"`, "completed a")
		if id, created, err := s.Start(t.Context(), &same, analysis.StartOptions{Owner: "x"}); err != nil || !created || id == first {
			t.Errorf("after its end: %v, %v", created, err)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestTheLastInterestedClientCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := hanging()
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: a}}, Streams: ss})
		same := request
		same.Cache = protocol.CacheUse
		w := start(t, s, ss, same, analysis.StartOptions{})
		for range 2 {
			start(t, s, ss, same, analysis.StartOptions{})
		}
		for range 2 {
			if err := s.Cancel(t.Context(), w.id, protocol.CancelClient); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		select {
		case <-w.ended:
			t.Fatal("it was cancelled though one is interested")
		default:
		}
		if err := s.Cancel(t.Context(), w.id, protocol.CancelClient); err != nil {
			t.Fatal(err)
		}
		// From now on nobody joins it.
		other := start(t, s, ss, same, analysis.StartOptions{})
		if other == w {
			t.Error("a request joined a job that is being cancelled")
		}
		<-w.ended
		checkStory(t, w, "started 1 p/m1", "cancelled client")
		synctest.Wait() // until it has called
		if err := s.Cancel(t.Context(), other.id, protocol.CancelClient); err != nil {
			t.Fatal(err)
		}
		<-other.ended
		if len(a.requests) != 2 {
			t.Errorf("%d calls", len(a.requests))
		}
	})
}

func TestRequestsAtOnceShareOneCallToo(t *testing.T) {
	a := hanging()
	ss := &streams{}
	s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: a}}, Streams: ss})
	same := request
	same.Cache = protocol.CacheUse
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := make(map[string]int)
	for range 50 {
		wg.Go(func() {
			r := same
			id, _, err := s.Start(t.Context(), &r, analysis.StartOptions{})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[id]++
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Errorf("%d streams: %v", len(ids), ids)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(a.requests) > 1 {
		t.Errorf("%d calls", len(a.requests))
	}
}

func TestARequestThatWaitedForAFailedStartStartsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		down := true
		ss := &streams{fail: func(string) error {
			if down {
				time.Sleep(time.Second) // while the others wait
				down = false
				return errors.New("no stream")
			}
			return nil
		}}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: a}}, Streams: ss})
		same := request
		same.Cache = protocol.CacheUse
		var wg sync.WaitGroup
		var failed, ok int
		var mu sync.Mutex
		for range 5 {
			wg.Go(func() {
				r := same
				_, _, err := s.Start(t.Context(), &r, analysis.StartOptions{})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
				} else {
					ok++
				}
			})
		}
		wg.Wait()
		if failed != 1 || ok != 4 {
			t.Errorf("%d failed and %d started", failed, ok)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestARequestThatGoesAwayWhileItJoinsHasNoSayInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, hold := hanging(), make(chan struct{})
		ss := &streams{make: func(*writer) { <-hold }}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: a}}, Streams: ss, OrphanTimeout: -1})
		same := request
		same.Cache = protocol.CacheUse
		var id string
		started := make(chan struct{})
		go func() {
			defer close(started)
			r := same
			var err error
			if id, _, err = s.Start(context.Background(), &r, analysis.StartOptions{}); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		ctx, leave := context.WithCancel(context.Background())
		left := make(chan error)
		go func() {
			r := same
			_, _, err := s.Start(ctx, &r, analysis.StartOptions{})
			left <- err
		}()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		close(hold)
		<-started
		if err := s.Cancel(t.Context(), id, protocol.CancelClient); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-ss.get(id).ended:
		default:
			t.Error("the only client has cancelled, and the job goes on")
		}
		if err := s.Cancel(t.Context(), id, protocol.CancelOrphaned); err != nil && !errors.Is(err, analysis.ErrNotRunning) {
			t.Error(err)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAJobWaitsForWhoHasJoinedItAsLongAsThatOneAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: hanging()}}, Streams: ss, OrphanTimeout: 2 * time.Minute})
		began := time.Now()
		same := request
		same.Cache, same.OrphanTimeout = protocol.CacheUse, protocol.Duration(time.Second)
		w := start(t, s, ss, same, analysis.StartOptions{})
		time.Sleep(900 * time.Millisecond)
		same.OrphanTimeout = protocol.Duration(time.Minute)
		start(t, s, ss, same, analysis.StartOptions{})
		<-w.ended
		if took := time.Since(began); took != time.Minute+900*time.Millisecond {
			t.Errorf("it ended after %v", took)
		}
		checkStory(t, w, "started 1 p/m1", "cancelled orphaned")
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
