package analysis_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// run analyses request with o's providers, and returns what the client got.
func run(t *testing.T, o analysis.Options) *writer {
	t.Helper()
	ss := &streams{}
	o.Streams, o.Degrade = ss, false
	s := analysis.New(o)
	w := start(t, s, ss, request, analysis.StartOptions{})
	<-w.ended
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	return w
}

// The code fits into a, which is away for a moment: that b is too small for it
// is not the news.
func TestASmallerModelElsewhereDoesNotHideThatAProviderIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		a.turns = []turn{fails(protocol.CodeServiceUnavailable)}
		b.turns = []turn{fails(protocol.CodeContextTooLong)}
		w := run(t, plain(a, b))
		var f protocol.Failed
		if err := json.Unmarshal(w.transcript.Terminal().Data, &f); err != nil {
			t.Fatal(err)
		}
		if f.Error.Code != protocol.CodeServiceUnavailable || !f.Error.Retryable {
			t.Errorf("the client is told %+v", f.Error)
		}
	})
}

func TestAContinuationThatIsTooLongBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m"), model("b", "m")
		a.turns = []turn{cut("half ")}
		b.turns = []turn{fails(protocol.CodeContextTooLong), says("whole")}
		o := plain(a, b)
		o.AfterContent = analysis.AfterContentContinue
		wantEnd(t, run(t, o), `text 3 "whole"; completed b`)
	})
}

// wantEnd fails the test unless the stream's story ends so.
func wantEnd(t *testing.T, w *writer, end string) {
	t.Helper()
	if story := strings.Join(w.story(), "; "); !strings.HasSuffix(story, end) {
		t.Errorf("the story is %s\nwant its end to be %s", story, end)
	}
}

// Who was outrun has not failed, whatever follows an internal error.
func TestALoserOfARaceIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := model("a", "m"), model("b", "m"), model("c", "m")
		a.turns = []turn{silent()}
		b.turns = []turn{{steps: []step{wait(time.Second), say("half"), wait(time.Second)}}}
		c.turns = []turn{says("whole")}
		o := plain(a, b, c)
		o.Recovery = map[protocol.Code]analysis.Strategy{protocol.CodeInternal: analysis.StrategyFail}
		wantEnd(t, run(t, o), `text 3 "whole"; completed c`)
	})
}

// A larger model of the same provider has the same key.
func TestARefusedKeyIsNotTriedWithALargerModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := model("a", "m", "larger"), model("b", "m")
		a.turns = []turn{fails(protocol.CodeUnauthorized)}
		b.turns = []turn{fails(protocol.CodeContextTooLong)}
		w := run(t, plain(a, b))
		if n := len(a.requests); n != 1 {
			t.Errorf("%d calls with the key that was refused: %s", n, strings.Join(w.story(), "; "))
		}
	})
}

// inOnePiece is a connection whose headers come with the whole answer.
func inOnePiece(f *fake, takes time.Duration) step {
	return func(ctx context.Context, s *fakeStream) (providers.Chunk, bool, error) {
		f.mu.Lock()
		r := f.requests[len(f.requests)-1]
		f.mu.Unlock()
		r.InOnePiece()
		return wait(takes)(ctx, s)
	}
}

func TestAnAnswerInOnePieceHasTheTimeOfAFirstContent(t *testing.T) {
	for name, tc := range map[string]struct {
		takes time.Duration
		want  string
	}{
		"longer than headers may take": {time.Minute, "completed a"},
		"longer than any may take":     {time.Hour, "failed timeout a: nothing of the answer came within 2m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := model("a", "m")
				a.turns = []turn{says("whole")}
				a.turns[0].connect = inOnePiece(a, tc.takes)
				o := plain(a)
				o.HeaderTimeout, o.FirstContentTimeout, o.MaxRetries = 10*time.Second, 2*time.Minute, -1
				wantEnd(t, run(t, o), tc.want)
			})
		})
	}
}

func TestThoughtsMayPauseAsLongAsAFirstContent(t *testing.T) {
	think := chunk(providers.Chunk{Type: providers.ChunkReasoning, Text: "hm"})
	for name, tc := range map[string]struct {
		steps []step
		want  string
	}{
		"between thoughts and text":  {[]step{think, wait(90 * time.Second), say("so")}, "completed a"},
		"within the text":            {[]step{think, say("so"), wait(90 * time.Second), say("on")}, "failed timeout a: the answer stalled: nothing more of it came for 1m0s"},
		"between thoughts, too long": {[]step{think, wait(time.Hour), say("so")}, "failed timeout a: the answer stalled: nothing more of it came for 2m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := model("a", "m")
				a.turns = []turn{{steps: tc.steps, end: whole()}}
				o := plain(a)
				o.IdleTimeout, o.FirstContentTimeout, o.MaxRetries = time.Minute, 2*time.Minute, -1
				wantEnd(t, run(t, o), tc.want)
			})
		})
	}
}

// An event has a limit of bytes, which a provider's words must not use up.
func TestLongNamesOfAProviderAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		long := strings.Repeat("n", 2<<20)
		a.turns = []turn{{steps: []step{chunk(providers.Chunk{Type: providers.ChunkStarted, Text: long}), say("x")},
			end: providers.Outcome{State: providers.StateComplete, Model: long, FinishReason: long}}}
		w := run(t, plain(a))
		var c protocol.Completed
		if err := json.Unmarshal(w.transcript.Terminal().Data, &c); err != nil {
			t.Fatal(err)
		}
		if w.transcript.Terminal().Type != protocol.TypeCompleted || len(c.Model) != 256 || len(c.FinishReason) != 256 {
			t.Errorf("the end is %.300s", w.transcript.Terminal().Data)
		}
	})
}
