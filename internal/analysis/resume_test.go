package analysis_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
)

// A tape is what the log has of a stream whose node is gone.
type tape struct{ w *writer }

func newTape() tape { return tape{&writer{id: "s", ended: make(chan struct{})}} }

func (p tape) event(t protocol.Type, data any) tape {
	if err := p.w.Append(t, data); err != nil {
		panic(err)
	}
	return p
}

func (p tape) started(n int, provider string) tape {
	return p.event(protocol.TypeStarted, &protocol.Started{Provider: provider, Model: "m", Analysis: "review", Attempt: n})
}

func (p tape) text(n int, s string) tape {
	return p.event(protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Attempt: n, Text: s})
}

func (p tape) past() *protocol.Transcript { return &p.w.transcript }

// resumption is how a node goes on with the tape's job, to a request r that was
// made now.
func (p tape) resumption(ss *streams, r protocol.Request) analysis.Resumption {
	return analysis.Resumption{ID: "s", Kept: kept(r, time.Now(), ""), Past: p.past(), From: "node-1", Reason: "owner_lost",
		Writer: func(_ context.Context, f *protocol.Failover) (analysis.Writer, error) {
			return ss.resumed("s", p.w.log(), f)
		}}
}

// took is the story of a stream that goes on, from the failover on.
func took(w *writer) []string {
	story := w.story()
	for i, line := range slices.Backward(story) {
		if strings.HasPrefix(line, "failover") && strings.HasSuffix(line, "discard") && w.log()[i].First != 0 {
			return story[i:]
		}
	}
	return story
}

// resume goes on with the tape's job in a service with the options, and waits
// for its end.
func resume(t *testing.T, o analysis.Options, p tape, change func(*analysis.Resumption)) (*writer, *analysis.Service) {
	t.Helper()
	ss := &streams{}
	o.Streams = ss
	s := analysis.New(o)
	r := p.resumption(ss, request)
	r.Kept = kept(request, time.Now(), `,"owner":"who"`)
	if change != nil {
		change(&r)
	}
	if err := s.Resume(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w := ss.get("s")
	<-w.ended
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	w.check(t)
	return w, s
}

func TestAJobThatGoesOnElsewhereCountsForItsOwnerThereUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held, left := 0, 0
		a := model("a", "m")
		a.turns = []turn{says("yes")}
		w, _ := resume(t, plain(a), newTape().started(1, "a"), func(r *analysis.Resumption) {
			r.Kept = kept(request, time.Now(), `,"owner":"who","credential":"key:1"`)
			r.Hold = func(i analysis.Info) func() {
				if i.ID != "s" || i.Owner != "who" || i.Credential != "key:1" {
					t.Errorf("a place is held for %+v", i)
				}
				held++
				return func() { left++ }
			}
		})
		if held != 1 || left != 1 || w.transcript.Terminal().Type != protocol.TypeCompleted {
			t.Errorf("held %d times, left %d times", held, left)
		}
	})
}

// TestAnotherNodeGoesOn resumes jobs of nodes that are gone: the events that
// follow are compared whole, the time is exact.
func TestAnotherNodeGoesOn(t *testing.T) {
	finding := &protocol.Finding{Rule: "f1", Severity: "high", Message: `a "b" <c>`,
		Range: protocol.Range{Start: protocol.Position{Line: 1, Column: 1}, End: protocol.Position{Line: 1, Column: 13}}, Suggestion: "d"}
	asLine := `@finding {"rule":"f1","severity":"high","message":"a \"b\" <c>","line":1,"column":1,"end_line":1,"end_column":13,"suggestion":"d"}` + "\n"
	goOn := func(o *analysis.Options, _ *analysis.Resumption) { o.AfterContent = analysis.AfterContentContinue }
	for _, c := range []struct {
		name    string
		tape    tape
		a, b    []turn
		change  func(*analysis.Options, *analysis.Resumption)
		want    []string
		partial string // of the first call
		text    string // that the client has
		at      time.Duration
	}{
		{
			name: "anew, where nothing is known", tape: newTape(),
			change: func(_ *analysis.Options, r *analysis.Resumption) { r.Past = nil },
			a:      []turn{says("yes")}, text: "yes",
			want: []string{"failover 1 node-1>a owner_lost discard", "started 1 a/m", `text 1 "yes"`, "completed a"},
		},
		{
			name: "anew, where nobody was asked", tape: newTape().event(protocol.TypeQueued, &protocol.Queued{Position: 1, Reason: "concurrency"}),
			a: []turn{says("yes")}, text: "yes",
			want: []string{"failover 1 node-1>a owner_lost discard", "started 1 a/m", `text 1 "yes"`, "completed a"},
		},
		{
			name: "anew, by who was answering", tape: newTape().started(1, "a").started(2, "b").text(2, "half "),
			b: []turn{says("whole")}, text: "whole",
			want: []string{"failover 3 b>b owner_lost discard", "started 3 b/m", `text 3 "whole"`, "completed b"},
		},
		{
			name: "anew, handed over", tape: newTape().started(1, "b").text(1, "half "),
			change: func(_ *analysis.Options, r *analysis.Resumption) { r.Reason = "draining" },
			b:      []turn{says("whole")}, text: "whole",
			want: []string{"failover 2 b>b draining discard", "started 2 b/m", `text 2 "whole"`, "completed b"},
		},
		{
			name: "anew, by another one where who was answering is not there any more", tape: newTape().started(1, "gone").text(1, "half "),
			a: []turn{says("whole")}, text: "whole",
			want: []string{"failover 2 gone>a owner_lost discard", "started 2 a/m", `text 2 "whole"`, "completed a"},
		},
		{
			name: "anew, where a failover or a retry was under way",
			tape: newTape().started(1, "a").event(protocol.TypeRetrying, &protocol.Retrying{Provider: "a", Attempt: 2, Error: protocol.Errorf(protocol.CodeTimeout, "x")}).
				started(2, "a").event(protocol.TypeFailover, &protocol.Failover{From: "a", To: "b", Attempt: 3, Reason: "timeout"}),
			a: []turn{fails(protocol.CodeServiceUnavailable)}, b: []turn{says("yes")}, text: "yes",
			want: []string{"failover 3 a>a owner_lost discard", "started 3 a/m", "failover 4 a>b service_unavailable", "started 4 b/m", `text 4 "yes"`, "completed b"},
		},
		{
			name: "lost attempts count, and one is made at least", tape: newTape().started(6, "a"),
			a: []turn{fails(protocol.CodeServiceUnavailable)}, b: []turn{says("never asked")},
			want: []string{"failover 7 a>a owner_lost discard", "started 7 a/m", "failed service_unavailable a: no"},
		},
		{
			name: "it goes on behind what was said", tape: newTape().started(1, "b").text(1, "one two three fo").text(1, "ur "),
			change: goOn, b: []turn{says("three four five")}, text: "one two three four five", partial: "one two three four ",
			want: []string{"failover 2 b>b owner_lost discard", `text 2 "one two three four "`, "started 2 b/m", `text 2 "five"`, "completed b"},
		},
		{
			name: "it goes on with thoughts and findings",
			tape: newTape().started(1, "a").event(protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindReasoning, Attempt: 1, Text: "hm"}).
				text(1, "one\n").event(protocol.TypeFinding, finding).text(1, "two\n"),
			change: goOn, a: []turn{says("@finding " + `{"rule":"f2","severity":"low","message":"x","line":2}` + "\nthree")},
			text: "one\ntwo\nthree", partial: asLine + "one\ntwo\n",
			want: []string{"failover 2 a>a owner_lost discard", `reasoning 2 "hm"`, "finding f1", `text 2 "one\ntwo\n"`, "started 2 a/m",
				"finding f2", `text 2 "three"`, "completed a"},
		},
		{
			name: "what is read of the past is where it goes on: no finding within a code block", tape: newTape().started(1, "a").text(1, "```\nx\n"),
			change: goOn, a: []turn{says("@finding " + `{"rule":"f2","severity":"low","message":"x","line":2}` + "\n```\n")},
			text: "```\nx\n@finding " + `{"rule":"f2","severity":"low","message":"x","line":2}` + "\n```\n", partial: "```\nx\n",
			want: []string{"failover 2 a>a owner_lost discard", "text 2 \"```\\nx\\n\"", "started 2 a/m",
				`text 2 "@finding {\"rule\":\"f2\",\"severity\":\"low\",\"message\":\"x\",\"line\":2}\n` + "```" + `\n"`, "completed a"},
		},
		{
			name: "half a finding, said since the answer was given up, is said anew", tape: newTape().started(1, "a").text(1, "one\n@finding {\"ru"),
			change: goOn, a: []turn{says("@finding " + `{"rule":"f2","severity":"low","message":"x","line":2}` + "\ntwo")},
			text: "one\ntwo", partial: "one\n",
			want: []string{"failover 2 a>a owner_lost discard", `text 2 "one\n"`, "started 2 a/m", "finding f2", `text 2 "two"`, "completed a"},
		},
		{
			name: "only thoughts are nothing to go on with",
			tape: newTape().started(1, "a").event(protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindReasoning, Attempt: 1, Text: "hm"}),
			a:    []turn{says("yes")}, change: goOn, text: "yes",
			want: []string{"failover 2 a>a owner_lost discard", "started 2 a/m", `text 2 "yes"`, "completed a"},
		},
		{
			name: "nor is what the offline analyser said", tape: newTape().started(1, "local").text(1, "half"), change: goOn,
			a: []turn{says("yes")}, text: "yes",
			want: []string{"failover 2 local>a owner_lost discard", "started 2 a/m", `text 2 "yes"`, "completed a"},
		},
		{
			name: "what was said counts for how much may be", tape: newTape().started(1, "a").text(1, "0123456789"),
			change: func(o *analysis.Options, _ *analysis.Resumption) {
				o.AfterContent, o.MaxOutputBytes = analysis.AfterContentContinue, 14
			},
			a: []turn{says("abcde")}, text: "0123456789", partial: "0123456789",
			want: []string{"failover 2 a>a owner_lost discard", `text 2 "0123456789"`, "started 2 a/m", "cancelled limit"},
		},
		{
			name: "a continuation that is refused begins anew", tape: newTape().started(1, "a").text(1, "half "), change: goOn,
			a: []turn{fails(protocol.CodeContextTooLong), says("whole")}, text: "whole", partial: "half ",
			want: []string{"failover 2 a>a owner_lost discard", `text 2 "half "`, "started 2 a/m", "failover 3 a>a context_too_long discard",
				"started 3 a/m", `text 3 "whole"`, "completed a"},
		},
		{
			name: "a continuation that breaks off is continued", tape: newTape().started(1, "a").text(1, "one "), change: goOn,
			a: []turn{cut("two ")}, b: []turn{says("three")}, text: "one two three", partial: "one ",
			want: []string{"failover 2 a>a owner_lost discard", `text 2 "one "`, "started 2 a/m", `text 2 "two "`, "failover 3 a>b stream_interrupted",
				"started 3 b/m", `text 3 "three"`, "completed b"},
		},
		{
			name: "there is time for another try, although little was left", tape: newTape().started(1, "a"),
			change: func(o *analysis.Options, r *analysis.Resumption) {
				o.TotalTimeout, o.HedgeAfter = 15*time.Minute, -1
				r.Kept = kept(request, time.Now().Add(-o.TotalTimeout+time.Second), "")
			},
			a: []turn{slowly(59 * time.Second)}, text: "yes", at: 59 * time.Second,
			want: []string{"failover 2 a>a owner_lost discard", "started 2 a/m", `text 2 "yes"`, "completed a"},
		},
		{
			name: "but not more", tape: newTape().started(1, "a"),
			change: func(o *analysis.Options, r *analysis.Resumption) {
				o.TotalTimeout, o.HedgeAfter = 15*time.Minute, -1
				r.Kept = kept(request, time.Now().Add(-o.TotalTimeout+time.Second), "")
			},
			a: []turn{silent()}, at: time.Minute,
			want: []string{"failover 2 a>a owner_lost discard", "started 2 a/m", "failed timeout a: the analysis did not end within 15m0s"},
		},
		{
			name: "a node whose clock is ahead gives no more time", tape: newTape().started(1, "a"),
			change: func(o *analysis.Options, r *analysis.Resumption) {
				o.TotalTimeout, o.HedgeAfter, o.FirstContentTimeout, o.HeaderTimeout = 15*time.Minute, -1, -1, -1
				o.IdleTimeout = -1
				r.Kept = kept(request, time.Now().Add(time.Hour), "")
			},
			a: []turn{silent()}, at: 15 * time.Minute,
			want: []string{"failover 2 a>a owner_lost discard", "started 2 a/m", "failed timeout a: the analysis did not end within 15m0s"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				a, b := model("a", "m"), model("b", "m")
				a.turns, b.turns = c.a, c.b
				o := plain(a, b, offline())
				o.Degrade = false
				if c.change != nil {
					c.change(&o, new(analysis.Resumption))
				}
				w, _ := resume(t, o, c.tape, func(r *analysis.Resumption) {
					if c.change != nil {
						c.change(new(o), r)
					}
				})
				if got := took(w); !reflect.DeepEqual(got, c.want) {
					t.Errorf("events:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
				}
				if got := w.text(); got != c.text {
					t.Errorf("the client has %q, want %q", got, c.text)
				}
				if at := time.Since(began); at != c.at {
					t.Errorf("it took %v, want %v", at, c.at)
				}
				calls := append(a.requests, b.requests...)
				if len(calls) == 0 || calls[0].Partial != c.partial {
					t.Errorf("%d calls; the first one is to continue %q", len(calls), calls[0].Partial)
				}
			})
		})
	}
}

func TestFindingsThatAreSaidAgainAreTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTape().started(1, "a")
		var want []protocol.Finding
		for i, text := range []string{"x\n", "", "y\n"} {
			f := protocol.Finding{Rule: fmt.Sprint("f", i), Severity: "info", Message: "m", Range: protocol.Range{
				Start: protocol.Position{Line: i + 1, Column: 1}, End: protocol.Position{Line: 3, Column: 1 + 14*(i/2)}}}
			want = append(want, f)
			p.event(protocol.TypeFinding, &f)
			if text != "" {
				p.text(1, text)
			}
		}
		a := model("a", "m")
		a.turns = []turn{says("@finding " + `{"rule":"too many","severity":"info","message":"m","line":1}` + "\n")}
		o := plain(a)
		o.AfterContent, o.MaxFindings = analysis.AfterContentContinue, 3
		w, _ := resume(t, o, p, nil)
		if got := w.transcript.Findings(); !reflect.DeepEqual(got, want) {
			t.Errorf("findings\n%+v\nwant\n%+v", got, want)
		}
		if got := w.text(); !strings.HasPrefix(got, "x\ny\n@finding") {
			t.Errorf("text %q", got)
		}
	})
}

// The provider that the failover named can't be called by the time: whom clients
// see is who really answers, and a last resort doesn't go on with a model's text.
func TestWhoAnswersInsteadOfTheOneThatWasNamedIsSaid(t *testing.T) {
	for _, c := range []struct {
		name string
		b    bool
		want []string
	}{
		{"another model", true, []string{"failover 2 a>a owner_lost discard", `text 2 "half "`, "failover 2 a>b rate_limited",
			"started 2 b/m", `text 2 "whole"`, "completed b"}},
		{"the offline analyser", false, []string{"failover 2 a>a owner_lost discard", `text 2 "half "`, "failover 2 a>local rate_limited discard",
			"started 2 local", `text 2 "offline"`, "completed local degraded"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, local := model("a", "m"), offline(says("offline"))
				o := plain(a, local)
				if c.b {
					b := model("b", "m")
					b.turns = []turn{says("whole")}
					o = plain(a, b, local)
				}
				o.AfterContent = analysis.AfterContentContinue
				o.RateLimitWait = -1
				o.Providers[0].Limits.RequestsPerMinute = 1
				ss := &streams{}
				o.Streams = ss
				s := analysis.New(o)
				<-start(t, s, ss, request, analysis.StartOptions{}).ended // takes the minute's request
				p := newTape().started(1, "a").text(1, "half ")
				if err := s.Resume(t.Context(), p.resumption(ss, request)); err != nil {
					t.Fatal(err)
				}
				w := ss.get("s")
				<-w.ended
				w.check(t)
				if got := took(w); !reflect.DeepEqual(got, c.want) {
					t.Errorf("events:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestWhatCantBeResumedIsLeftAsItIs(t *testing.T) {
	errTaken := errors.New("taken")
	ended := newTape().event(protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient})
	for _, c := range []struct {
		name   string
		change func(*analysis.Resumption)
		setup  func(*analysis.Options)
		code   protocol.Code // or
		is     error
		detail string
	}{
		{name: "no request", change: func(r *analysis.Resumption) { r.Kept = nil }, code: protocol.CodeOwnerLost, detail: "read the kept request"},
		{name: "no JSON", change: func(r *analysis.Resumption) { r.Kept = []byte("x") }, code: protocol.CodeOwnerLost, detail: "read the kept request"},
		{name: "another version", change: func(r *analysis.Resumption) { r.Kept = []byte(`{"version":2}`) }, code: protocol.CodeOwnerLost, detail: "version 2"},
		{name: "half a record", change: func(r *analysis.Resumption) { r.Kept = []byte(`{"version":1}`) }, code: protocol.CodeOwnerLost, detail: "not whole"},
		{name: "a bad request", change: func(r *analysis.Resumption) { r.Kept = kept(protocol.Request{}, time.Now(), "") }, code: protocol.CodeOwnerLost, detail: `"code" is missing`},
		{name: "a provider that isn't there", change: func(r *analysis.Resumption) {
			q := request
			q.Provider = "gone"
			r.Kept = kept(q, time.Now(), "")
		}, code: protocol.CodeOwnerLost, detail: `field "provider" is "gone"`},
		{name: "a stream that has ended", change: func(r *analysis.Resumption) { r.Past = ended.past() }, code: protocol.CodeOwnerLost, detail: "has its end"},
		{name: "one that takes nodes down", change: func(r *analysis.Resumption) { r.Past = newTape().started(14, "a").past() }, code: protocol.CodeOwnerLost, detail: "14 attempts"},
		{name: "one whose time is over", change: func(r *analysis.Resumption) { r.Kept = kept(request, time.Now().Add(-time.Hour), "") }, code: protocol.CodeTimeout, detail: "15m0s"},
		{name: "a full node", setup: func(o *analysis.Options) { o.MaxJobs = -1 }, code: protocol.CodeOverloaded},
		{name: "another survivor", change: func(r *analysis.Resumption) {
			r.Writer = func(context.Context, *protocol.Failover) (analysis.Writer, error) { return nil, errTaken }
		}, is: errTaken},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := plain(model("a", "m"))
			o.Streams = &streams{}
			o.Requests = &requestStore{}
			if c.setup != nil {
				c.setup(&o)
			}
			s := analysis.New(o)
			r := analysis.Resumption{ID: "s", Kept: kept(request, time.Now(), ""), Reason: "owner_lost",
				Writer: func(context.Context, *protocol.Failover) (analysis.Writer, error) {
					t.Error("something was written")
					return nil, errTaken
				}}
			if c.change != nil {
				c.change(&r)
			}
			err := s.Resume(t.Context(), r)
			if c.is != nil && !errors.Is(err, c.is) || c.is == nil && (!isCode(err, c.code) || !strings.Contains(err.Error(), c.detail)) {
				t.Errorf("error %v", err)
			}
			if len(s.Jobs()) != 0 {
				t.Errorf("jobs run: %v", s.Jobs())
			}
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			if err := s.Resume(t.Context(), r); c.is != nil && !isCode(err, protocol.CodeDraining) {
				t.Errorf("drained, it says %v", err)
			}
		})
	}
}

// The stream's own usage is that of the attempt that counts, as ever; the lost
// one is in the accounts of the node that goes on, unless it was handed over by
// one that has counted it.
func TestALostAttemptIsCountedWhereTheJobGoesOn(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		tape         tape
		lost         string // what metrics are told
		calls        int    // of a, in the accounts
		output       int64
	}{
		{
			name: "with what was said of it", reason: "owner_lost", lost: "lost a/m in=true out=77 estimated=false", calls: 2, output: 77 + 5,
			tape: newTape().started(1, "a").event(protocol.TypeUsage, usage(1000, 77)).text(1, "half "),
		},
		{
			name: "estimated", reason: "owner_lost", lost: "lost a/m in=true out=20 estimated=true", calls: 2, output: 20 + 5,
			tape: newTape().started(1, "a").text(1, strings.Repeat("0123456789", 7)),
		},
		{name: "handed over", reason: "draining", tape: newTape().started(1, "a").text(1, "half "), calls: 1, output: 5},
		{name: "nobody was asked", reason: "owner_lost", tape: newTape(), calls: 1, output: 5},
		{name: "the offline analyser was", reason: "owner_lost", tape: newTape().started(1, "local"), calls: 1, output: 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, obs := model("a", "m"), &observer{}
				a.turns = []turn{says("whole")}
				a.turns[0].end.Usage = usage(10, 5)
				o := plain(a, offline())
				o.Observer = obs
				w, s := resume(t, o, c.tape, func(r *analysis.Resumption) { r.Reason = c.reason })
				var done protocol.Completed
				w.last(t, &done)
				if done.Usage == nil || done.Usage.OutputTokens != 5 || done.Usage.InputTokens != 10 {
					t.Errorf("the stream's usage is %+v", done.Usage)
				}
				var calls int
				var output int64
				for _, u := range s.Providers()[0].Usage {
					if u.Tenant != "who" || u.Model != "m" {
						t.Errorf("counted for %+v", u.Key)
					}
					calls += int(u.Calls)
					output += u.OutputTokens
				}
				if calls != c.calls || output != c.output {
					t.Errorf("%d calls and %d tokens in the accounts, want %d and %d", calls, output, c.calls, c.output)
				}
				lost := ""
				for l := range strings.SplitSeq(obs.told(), "\n") {
					if strings.HasPrefix(l, "lost") {
						lost += l
					}
				}
				if lost != c.lost {
					t.Errorf("metrics are told %q, want %q", lost, c.lost)
				}
			})
		})
	}
}

func TestAResumedJobIsAnOrphanOnlyAfterAWholeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		a.turns = []turn{silent()}
		o, ss := plain(a), &streams{}
		o.Streams, o.OrphanTimeout, o.FirstContentTimeout, o.HeaderTimeout = ss, 2*time.Minute, -1, -1
		s := analysis.New(o)
		began := time.Now()
		r := analysis.Resumption{ID: "s", Kept: kept(request, time.Now().Add(-10*time.Minute), ""), Reason: "owner_lost",
			Writer: func(_ context.Context, f *protocol.Failover) (analysis.Writer, error) {
				w, err := ss.resumed("s", nil, f)
				ss.get("s").watchers = 0
				return w, err
			}}
		if err := s.Resume(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		w := ss.get("s")
		<-w.ended
		if took := time.Since(began); took != 2*time.Minute {
			t.Errorf("it ended after %v", took)
		}
		checkStory(t, w, "failover 1 >a owner_lost discard", "started 1 a/m", "cancelled orphaned")
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestARequestIsDroppedByTheNodeThatEndsItsJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, store := model("a", "m"), &requestStore{kept: map[string][]byte{"s": nil}}
		a.turns = []turn{slowly(time.Minute)}
		o := plain(a)
		o.Requests = store
		resume(t, o, newTape(), nil)
		if got := store.said(); got != "drop" || len(store.kept) != 0 {
			t.Errorf("the store was asked to %s, and has %v", got, store.kept)
		}
	})
}

// Equal requests join a job that goes on here, and its clients can cancel it.
func TestAResumedJobIsSharedAsAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := model("a", "m")
		a.turns = []turn{silent(), says("mine")}
		o, ss := plain(a), &streams{}
		o.Streams = ss
		s := analysis.New(o)
		same := request
		same.Cache = protocol.CacheUse
		r := newTape().resumption(ss, same)
		r.Kept = kept(same, time.Now(), `,"owner":"who","interest":2`)
		if err := s.Resume(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if id, created, err := s.Start(t.Context(), &same, analysis.StartOptions{Owner: "who"}); id != "s" || created || err != nil {
			t.Fatal(id, created, err)
		}
		w := ss.get("s")
		for range 3 { // two came with it, and one has joined
			synctest.Wait()
			select {
			case <-w.ended:
				t.Fatal("it was cancelled though one is interested")
			default:
			}
			if err := s.Cancel(t.Context(), "s", protocol.CancelClient); err != nil {
				t.Fatal(err)
			}
		}
		<-w.ended
		checkStory(t, w, "failover 1 node-1>a owner_lost discard", "started 1 a/m", "cancelled client")
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAJobThatComesBackReplacesWhatHasNotNoticedThatItWasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, obs := model("a", "m"), &observer{}
		a.turns = []turn{silent(), slowly(time.Second)}
		o, ss := plain(a), &streams{}
		o.Streams, o.Observer = ss, obs
		s := analysis.New(o)
		old := start(t, s, ss, request, analysis.StartOptions{})
		synctest.Wait()
		var stored []protocol.Event
		stored = append(stored, old.log()...)
		var past protocol.Transcript
		for i := range stored {
			if err := past.Apply(&stored[i]); err != nil {
				t.Fatal(err)
			}
		}
		err := s.Resume(t.Context(), analysis.Resumption{ID: old.id, Kept: kept(request, time.Now(), ""), Past: &past, From: "other", Reason: "owner_lost",
			Writer: func(_ context.Context, f *protocol.Failover) (analysis.Writer, error) {
				old.close(fencedError{})
				return ss.resumed(old.id, stored, f)
			}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if jobs := s.Jobs(); len(jobs) != 1 {
			t.Errorf("jobs: %v", jobs)
		}
		w := ss.get(old.id)
		<-w.ended
		checkStory(t, w, "started 1 a/m", "failover 2 a>a owner_lost discard", "started 2 a/m", `text 2 "yes"`, "completed a")
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if got := obs.told(); !strings.Contains(got, "job left 0s handed over=false taken over=true") {
			t.Errorf("the observer was told %s", got)
		}
	})
}
