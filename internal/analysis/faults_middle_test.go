package analysis_test

import (
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/providertest"
)

// faultsAfterContent strike in the middle of a's answer.
var faultsAfterContent = []fault{
	{
		name: "cut in the middle", fault: providertest.Fault{Kind: providertest.FaultCut, After: 2},
		calls: 1, code: protocol.CodeStreamInterrupted, alone: 3, spaced: 16 * time.Millisecond,
	},
	{
		name: "ended in the middle, without an end marker", fault: providertest.Fault{Kind: providertest.FaultEnd, After: 2},
		calls: 1, code: protocol.CodeStreamInterrupted, alone: 3, spaced: 16 * time.Millisecond,
	},
	{
		name: "stalled in the middle", fault: providertest.Fault{Kind: providertest.FaultStall, After: 2},
		change: func(e *analysis.Entry) { e.IdleTimeout = soon },
		script: func(s *providertest.Script) { s.Framing.KeepAlive = soon / 6 },
		calls:  1, code: protocol.CodeTimeout, alone: 1,
	},
	{
		name: "a crawl", fault: providertest.Fault{Kind: providertest.FaultCrawl, After: 2, Interval: 5 * time.Second},
		change: func(e *analysis.Entry) { e.MinRate = 2000 },
		calls:  1, code: protocol.CodeTimeout, alone: 1,
	},
	{
		name: "a malformed chunk in the middle", fault: providertest.Fault{Kind: providertest.FaultMalformed, After: 2},
		calls: 1, code: protocol.CodeInvalidResponse, alone: 3, spaced: 16 * time.Millisecond,
	},
	{
		name: "an error inside the 200 behind content", fault: providertest.Fault{Kind: providertest.FaultError, After: 2},
		calls: 1, code: protocol.CodeServiceUnavailable, alone: 3, spaced: 16 * time.Millisecond,
	},
}

// A resumption is a way in which b takes over from a in the middle.
type resumption struct {
	name string
	mode analysis.AfterContent
	// prefill says that b is configured to take the beginning of its answer.
	prefill bool
	// script is b's for its first call, and then come whole answers.
	script func(b speaker) providertest.Script
	// events follow "failover 2 a>b CODE", and roles speak in each call of b.
	discard bool
	events  []string
	roles   []string
	text    string
}

const restOfA = "is whole again."

var resumptions = []resumption{
	{
		name: "restart", mode: analysis.AfterContentRestart, discard: true,
		script: func(speaker) providertest.Script { return scriptB(piecesB...) },
		events: []string{"started 2 b/model-b", `text 2 "` + textB + `"`, "completed b"},
		roles:  []string{"user"}, text: textB,
	},
	{
		name: "continue, with the last words again", mode: analysis.AfterContentContinue,
		script: func(speaker) providertest.Script {
			return scriptB(providertest.Texts("as it ", "should be, is", " whole again.")...)
		},
		events: []string{"started 2 b/model-b", `text 2 "` + restOfA + `"`, "completed b"},
		roles:  []string{"user assistant user"}, text: begunA + restOfA,
	},
	{
		name: "continue, behind a prefill", mode: analysis.AfterContentContinue, prefill: true,
		script: func(b speaker) providertest.Script {
			if b.wire == providertest.Claude { // the space at its end is no part of the prefill there
				return scriptB(providertest.Texts(" is whole", " again.")...)
			}
			return scriptB(providertest.Texts("is whole", " again.")...)
		},
		events: []string{"started 2 b/model-b", `text 2 "` + restOfA + `"`, "completed b"},
		roles:  []string{"user assistant"}, text: begunA + restOfA,
	},
	{
		name: "continue, and the prefill is refused", mode: analysis.AfterContentContinue, prefill: true,
		script: func(speaker) providertest.Script { return providertest.Script{NoPrefill: true} },
		events: []string{"started 2 b/model-b", "failover 3 b>b invalid_request discard", "started 3 b/model-b", `text 3 "` + textB + `"`, "completed b"},
		roles:  []string{"user assistant", "user"}, text: textB,
	},
}

func TestAnAnswerThatBreaksOffComesWhole(t *testing.T) {
	for _, s := range speakers {
		for _, f := range faultsAfterContent {
			for _, how := range resumptions {
				t.Run(s.name+"/"+f.name+"/"+how.name, func(t *testing.T) {
					t.Parallel()
					a, b := f.upstream(t), providertest.NewUpstream(t, scriptB(piecesB...))
					b.Enqueue(how.script(s.other()))
					o := patient(f.entry(s.provider(t, "a", a)), analysis.Entry{Provider: s.other().provider(t, "b", b,
						func(c *providers.Config) { c.Features.Prefill = &how.prefill })})
					o.AfterContent = how.mode
					r := newRig(t, o)
					w := r.start(request)
					r.end(w, 20*time.Second)

					failover := "failover 2 a>b " + string(f.code)
					if how.discard {
						failover += " discard"
					}
					wantTale(t, w, append([]string{"started 1 a/model-a", `text 1 "` + begunA + `"`, failover}, how.events...))
					if got := w.text(); got != how.text {
						t.Errorf("the client has %q, want %q", got, how.text)
					}
					wantCompleted(t, w, "b", "model-b-2026", usageB)
					released(t, a, b)
					wantCalls(t, a, s, f.calls, 0)
					wantCalls(t, b, s.other(), len(how.roles), 0)
					for i, c := range b.Calls() {
						if got := roles(c); got != how.roles[i] {
							t.Errorf("in call %d of b speak %q, want %q", i+1, got, how.roles[i])
						}
					}
					wantAccounts(t, r, map[string]int{"a": f.calls, "b": len(how.roles)})
				})
			}
		}
	}
}

// TestTheContinuingCallHasWhatWasSaid looks at the body of the call that is to
// go on: the beginning is the client's text to the letter, and the instruction
// follows where the model takes no prefill.
func TestTheContinuingCallHasWhatWasSaid(t *testing.T) {
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			a := providertest.NewUpstream(t, scriptB(piecesB...))
			b := providertest.NewUpstream(t, scriptB(providertest.Texts(restOfA)...))
			a.SetScript(scriptA(providertest.Fault{Kind: providertest.FaultCut, After: 2}))
			o := patient(analysis.Entry{Provider: s.other().provider(t, "a", a)}, analysis.Entry{Provider: s.provider(t, "b", b)})
			o.AfterContent = analysis.AfterContentContinue
			r := newRig(t, o)
			w := r.start(request)
			r.end(w, 20*time.Second)
			if got := w.text(); got != begunA+restOfA {
				t.Errorf("the client has %q", got)
			}
			released(t, a, b)
			first, then := a.Calls()[0].Turns(), b.Calls()[0].Turns()
			want := append(first, providertest.Turn{Role: "assistant", Text: begunA}, providertest.Turn{Role: "user", Text: providers.ContinuePrompt})
			if len(then) != len(want) {
				t.Fatalf("the call that goes on has %d turns: %q", len(then), then)
			}
			for i := range want {
				if then[i] != want[i] {
					t.Errorf("turn %d is %q, want %q", i+1, then[i], want[i])
				}
			}
		})
	}
}

// TestAContinuationThatBreaksOffInARepetitionRepeatsNothing: b is cut while it
// still says a's last words again, and then asked once more.
func TestAContinuationThatBreaksOffInARepetitionRepeatsNothing(t *testing.T) {
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			a, b := providertest.NewUpstream(t, scriptA(providertest.Fault{Kind: providertest.FaultCut, After: 2})),
				providertest.NewUpstream(t, scriptB(providertest.Texts("as it should be, ", restOfA)...))
			cut := scriptB(providertest.Texts("as it ", "should be, ", restOfA)...)
			cut.Fault = providertest.Fault{Kind: providertest.FaultCut, After: 1}
			b.Enqueue(cut)
			o := patient(analysis.Entry{Provider: s.other().provider(t, "a", a)}, analysis.Entry{Provider: s.provider(t, "b", b)})
			o.AfterContent = analysis.AfterContentContinue
			r := newRig(t, o)
			w := r.start(request)
			r.end(w, 20*time.Second)
			wantTale(t, w, []string{"started 1 a/model-a", `text 1 "` + begunA + `"`, "failover 2 a>b stream_interrupted", "started 2 b/model-b",
				"retrying 3 b stream_interrupted", "failover 3 b>b stream_interrupted", "started 3 b/model-b", `text 3 "` + restOfA + `"`, "completed b"})
			released(t, a, b)
		})
	}
}

// TestAnAnswerThatTheContentFilterEndsIsGivenUp: nobody else is asked, and what
// was said is not called whole.
func TestAnAnswerThatTheContentFilterEndsIsGivenUp(t *testing.T) {
	words := map[providertest.Dialect]string{providertest.Claude: "refusal", providertest.OpenAI: "content_filter", providertest.Responses: "content_filter"}
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			filtered := scriptA(providertest.Fault{})
			filtered.Finish = words[s.wire]
			a, b := providertest.NewUpstream(t, filtered), providertest.NewUpstream(t, scriptB(piecesB...))
			r := newRig(t, patient(analysis.Entry{Provider: s.provider(t, "a", a)}, analysis.Entry{Provider: s.other().provider(t, "b", b)}))
			w := r.start(request)
			r.end(w, 20*time.Second)
			wantTale(t, w, []string{"started 1 a/model-a", `text 1 "` + textA + `"`, "failed content_filtered a"})
			released(t, a, b)
			wantCalls(t, a, s, 1, 0)
			wantCalls(t, b, s.other(), 0, 0)
		})
	}
}

// TestAnOnlyProviderThatIsCutOnceStillGivesTheWholeAnswer asks it again.
func TestAnOnlyProviderThatIsCutOnceStillGivesTheWholeAnswer(t *testing.T) {
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			a := providertest.NewUpstream(t, scriptA(providertest.Fault{}))
			a.Enqueue(scriptA(providertest.Fault{Kind: providertest.FaultCut, After: 2}))
			r := newRig(t, patient(analysis.Entry{Provider: s.provider(t, "a", a)}))
			w := r.start(request)
			r.end(w, 20*time.Second)
			wantTale(t, w, []string{"started 1 a/model-a", `text 1 "` + begunA + `"`, "retrying 2 a stream_interrupted",
				"failover 2 a>a stream_interrupted discard", "started 2 a/model-a", `text 2 "` + textA + `"`, "completed a"})
			wantCompleted(t, w, "a", "model-a-2026", usageA)
			released(t, a)
			wantCalls(t, a, s, 2, 16*time.Millisecond)
		})
	}
}

// TestAnAnswerWithoutItsLastWordEndsAtOnce: in Chat Completions an answer is
// whole when it was said why it ended, and comes with its usage. The connection
// stays open, so only the answer itself can say that it is over.
func TestAnAnswerWithoutItsLastWordEndsAtOnce(t *testing.T) {
	for _, s := range []speaker{chatSpeaker, deepSeekSpeaker} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			script := scriptA(providertest.Fault{Kind: providertest.FaultNoEnd})
			script.Framing.HoldOpen = true
			a, b := providertest.NewUpstream(t, script), providertest.NewUpstream(t, scriptB(piecesB...))
			r := newRig(t, patient(analysis.Entry{Provider: s.provider(t, "a", a)}, analysis.Entry{Provider: s.other().provider(t, "b", b)}))
			w := r.start(request)
			r.end(w, 10*time.Second) // half of the idle deadline
			wantTale(t, w, []string{"started 1 a/model-a", `text 1 "` + textA + `"`, "completed a"})
			wantCompleted(t, w, "a", "model-a-2026", usageA)
			released(t, a, b)
			wantCalls(t, a, s, 1, 0)
			wantCalls(t, b, s.other(), 0, 0)
		})
	}
}

// TestAnAnswerIsNotTakenForWholeWithoutTheWordForIt: message_stop and
// response.completed are the words of their dialects, a finish_reason or [DONE]
// that of Chat Completions. All of the text has come in each case.
func TestAnAnswerIsNotTakenForWholeWithoutTheWordForIt(t *testing.T) {
	for _, s := range speakers {
		for kind, name := range map[providertest.FaultKind]string{providertest.FaultNoEnd: "end", providertest.FaultNoFinish: "finish"} {
			if kind == providertest.FaultNoEnd && s.wire == providertest.OpenAI {
				continue // whole: see above
			}
			t.Run(s.name+"/no "+name, func(t *testing.T) {
				t.Parallel()
				a, b := providertest.NewUpstream(t, scriptA(providertest.Fault{Kind: kind})), providertest.NewUpstream(t, scriptB(piecesB...))
				r := newRig(t, patient(analysis.Entry{Provider: s.provider(t, "a", a)}, analysis.Entry{Provider: s.other().provider(t, "b", b)}))
				w := r.start(request)
				r.end(w, 20*time.Second)
				wantTale(t, w, []string{"started 1 a/model-a", `text 1 "` + textA + `"`, "failover 2 a>b stream_interrupted discard",
					"started 2 b/model-b", `text 2 "` + textB + `"`, "completed b"})
				wantCompleted(t, w, "b", "model-b-2026", usageB)
				released(t, a, b)
				wantCalls(t, a, s, 1, 0)
			})
		}
	}
}
