package analysis_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/cache"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// remembering are options with a cache, for a provider that is reached first
// and then not.
func remembering(turns ...turn) (analysis.Options, *fake, *streams) {
	a := model("a", "m")
	a.turns = turns
	o, ss := plain(a, offline(says("offline"))), &streams{}
	o.Streams, o.Cache, o.MaxRetries = ss, cache.NewMemory(cache.Options{}), -1
	return o, a, ss
}

func TestACachedAnswerIsGivenWhenNoProviderCanBeReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := turn{end: whole(), steps: []step{
			chunk(providers.Chunk{Type: providers.ChunkReasoning, Text: "hm"}), say("So "), say("it is:\n"),
			say("@finding {\"rule\":\"r\",\"severity\":\"low\",\"message\":\"m\",\"line\":1}\n"), say("Done."),
		}}
		first.end.Usage = usage(10, 5)
		o, a, ss := remembering(first, cut("half"))
		s := analysis.New(o)
		same := request
		same.Cache = protocol.CacheUse
		w := start(t, s, ss, same, analysis.StartOptions{Owner: "x"})
		<-w.ended
		checkStory(t, w, "started 1 a/m", `reasoning 1 "hm"`, `text 1 "So "`, `text 1 "it is:\n"`, "finding r", `text 1 "Done."`, "completed a")

		again := start(t, s, ss, same, analysis.StartOptions{Owner: "x"})
		<-again.ended
		checkStory(t, again, "started 1 a/m", `text 1 "half"`, "failover 2 a>cache stream_interrupted discard", "started 2 cache",
			`reasoning 2 "hm"`, `text 2 "So it is:\n"`, "finding r", `text 2 "Done."`, "completed a")
		var c protocol.Completed
		if err := json.Unmarshal(again.transcript.Terminal().Data, &c); err != nil {
			t.Fatal(err)
		}
		if !c.Cached || !c.Stale || c.Degraded || c.Model != "m1-2026" || c.FinishReason != "stop" || c.Usage == nil || c.Usage.InputTokens != 10 {
			t.Errorf("completed %+v", c)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		checkFree(t, s, a)
	})
}

func TestACachedAnswerIsForEqualRequestsOfTheSameOwnerAndForFailuresItHelps(t *testing.T) {
	away := fails(protocol.CodeConnectionFailed)
	for name, c := range map[string]struct {
		first, second turn
		change        func(*protocol.Request)
		owner, want   string
		after         time.Duration
	}{
		"an equal request":                     {first: says("yes"), second: away, want: "completed a"},
		"no time":                              {first: says("yes"), second: turn{connect: wait(time.Hour)}, want: "completed a"},
		"another owner":                        {first: says("yes"), second: away, owner: "y", want: "completed local degraded"},
		"another code":                         {first: says("yes"), second: away, change: func(r *protocol.Request) { r.Code += " " }, want: "completed local degraded"},
		"a request that wants no cached one":   {first: says("yes"), second: away, change: func(r *protocol.Request) { r.Cache = protocol.CacheBypass }, want: "completed local degraded"},
		"a request that wants a new one":       {first: says("yes"), second: away, change: func(r *protocol.Request) { r.Cache = protocol.CacheRefresh }, want: "completed local degraded"},
		"an answer that broke off is not kept": {first: cut("half"), second: away, want: "completed local degraded"},
		"nor is one that a limit has cut":      {first: turn{steps: []step{say("cut")}, end: providers.Outcome{State: providers.StateComplete, FinishReason: "length"}}, second: away, want: "completed local degraded"},
		"a refused key is no such failure":     {first: says("yes"), second: fails(protocol.CodeUnauthorized), want: "completed local degraded"},
		"nor is filtered content":              {first: says("yes"), second: fails(protocol.CodeContentFiltered), want: "failed content_filtered a: no"},
		"an old answer is none":                {first: says("yes"), second: away, after: 25 * time.Hour, want: "completed local degraded"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, _, ss := remembering(c.first, c.second)
				s := analysis.New(o)
				r := request
				r.Cache = protocol.CacheUse
				<-start(t, s, ss, r, analysis.StartOptions{Owner: "x"}).ended
				time.Sleep(c.after)
				if c.change != nil {
					c.change(&r)
				}
				owner := c.owner
				if owner == "" {
					owner = "x"
				}
				w := start(t, s, ss, r, analysis.StartOptions{Owner: owner})
				<-w.ended
				w.check(t)
				story := w.story()
				if got := story[len(story)-1]; got != c.want {
					t.Errorf("got %s, want %s:\n%s", got, c.want, strings.Join(story, "\n"))
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestANewAnswerReplacesTheCachedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _, ss := remembering(says("old"), says("new"), fails(protocol.CodeConnectionFailed))
		s := analysis.New(o)
		r := request
		r.Cache = protocol.CacheUse
		<-start(t, s, ss, r, analysis.StartOptions{}).ended
		r.Cache = protocol.CacheRefresh
		<-start(t, s, ss, r, analysis.StartOptions{}).ended
		r.Cache = protocol.CacheUse
		w := start(t, s, ss, r, analysis.StartOptions{})
		<-w.ended
		if got := w.transcript.Text(); got != "new" {
			t.Errorf("got %q", got)
		}
		if err := s.Drain(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func TestAnAnswerOfTheOfflineAnalyserIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := offline(says("offline"), slowly(time.Minute))
		o, ss := plain(local), &streams{}
		o.Providers[0].Concurrency, o.Providers[0].Queue = 1, -1
		o.Streams, o.Cache = ss, cache.NewMemory(cache.Options{})
		s := analysis.New(o)
		r := request
		r.Cache = protocol.CacheUse
		<-start(t, s, ss, r, analysis.StartOptions{}).ended
		other := r
		other.Code += " "
		busy := start(t, s, ss, other, analysis.StartOptions{})
		synctest.Wait()
		w := start(t, s, ss, r, analysis.StartOptions{})
		<-w.ended
		checkStory(t, w, "failed overloaded local: 0 analyses wait for the provider, which is the limit")
		<-busy.ended
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
