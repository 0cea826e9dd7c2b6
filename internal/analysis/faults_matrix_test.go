package analysis_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/providertest"
)

var (
	piecesA = providertest.Texts("The first answer, ", "as it should be, ", "is whole.")
	piecesB = providertest.Texts("Another answer, ", "by another hand.")
	textA   = providertest.Joined(piecesA, providertest.PieceText)
	textB   = providertest.Joined(piecesB, providertest.PieceText)
	// begunA is what comes of a's answer before a fault in its middle.
	begunA = providertest.Joined(piecesA[:2], providertest.PieceText)

	usageA = protocol.Usage{InputTokens: 31, OutputTokens: 11}
	usageB = protocol.Usage{InputTokens: 37, OutputTokens: 7, CachedTokens: 5}
)

// scriptA is a's answer with a fault, scriptB is b's without.
func scriptA(f providertest.Fault) providertest.Script {
	return providertest.Script{Model: "model-a-2026", Pieces: piecesA, Usage: &usageA, Fault: f}
}

func scriptB(pieces ...providertest.Piece) providertest.Script {
	return providertest.Script{Model: "model-b-2026", Pieces: pieces, Usage: &usageB}
}

func status(code int, header http.Header) providertest.Fault {
	return providertest.Fault{Kind: providertest.FaultStatus, Status: code, Header: header}
}

// soon is how quickly a provider whose silence is tested must speak.
const soon = 120 * time.Millisecond

// A fault is one row of the table of faults, which strikes before the first
// content.
type fault struct {
	name string
	// always is what a does with each call, and once with the first only.
	fault providertest.Fault
	once  bool
	// change sets a deadline of a's.
	change func(*analysis.Entry)
	script func(*providertest.Script)
	// between are the events from a's first call to b's, where b answers.
	between []string
	// answered says that a answers in the end, refused that nobody does.
	answered, refused bool
	// handshake says that over a WebSocket it strikes the handshake, which
	// doesn't tell how a call in another way would do: each attempt asks by
	// server-sent events, too.
	handshake bool
	calls     int           // of a
	spaced    time.Duration // the least between a's calls
	code      protocol.Code // how it ends without b
	alone     int           // a's calls then
}

const retryAfterMS = 80

var faultsBeforeContent = []fault{
	{
		name:  "429 with a time to come back is waited for",
		fault: status(429, http.Header{"Retry-After-Ms": {"80"}}), once: true, answered: true,
		between: []string{"retrying 2 a rate_limited", "queued rate_limit"}, calls: 2, spaced: retryAfterMS * time.Millisecond,
	},
	{
		name:    "429 with a time to come back, again and again, is left, and never hammered",
		fault:   status(429, http.Header{"Retry-After-Ms": {"80"}}),
		between: []string{"retrying 2 a rate_limited", "queued rate_limit", "started 2 a/model-a", "failover 3 a>b rate_limited"},
		calls:   2, spaced: retryAfterMS * time.Millisecond, code: protocol.CodeRateLimited, alone: 3,
	},
	{
		name:    "429 with a time that is too far is left at once",
		fault:   status(429, http.Header{"Retry-After": {"3600"}}),
		between: []string{"failover 2 a>b rate_limited"}, calls: 1, code: protocol.CodeRateLimited, alone: 1,
	},
	{
		name:    "429 without a time, again and again, is backed off from and left",
		fault:   status(429, nil),
		between: []string{"retrying 2 a rate_limited", "queued rate_limit", "started 2 a/model-a", "failover 3 a>b rate_limited"},
		calls:   2, spaced: 16 * time.Millisecond, code: protocol.CodeRateLimited, alone: 3,
	},
	{
		name:  "500 once is retried",
		fault: status(500, nil), once: true, answered: true,
		between: []string{"retrying 2 a service_unavailable"}, calls: 2, spaced: 16 * time.Millisecond,
	},
	{
		name:    "500 again and again is retried once, and left",
		fault:   status(500, nil),
		between: []string{"retrying 2 a service_unavailable", "started 2 a/model-a", "failover 3 a>b service_unavailable"},
		calls:   2, spaced: 16 * time.Millisecond, code: protocol.CodeServiceUnavailable, alone: 3,
	},
	{
		name:    "503 again and again is left at once",
		fault:   status(503, nil),
		between: []string{"failover 2 a>b service_unavailable"}, calls: 1, spaced: 16 * time.Millisecond,
		code: protocol.CodeServiceUnavailable, alone: 3,
	},
	{
		name:    "529 is as 503",
		fault:   status(529, nil),
		between: []string{"failover 2 a>b service_unavailable"}, calls: 1, code: protocol.CodeServiceUnavailable, alone: 3,
	},
	{
		name: "a connection that is reset once is tried again", handshake: true,
		fault: providertest.Fault{Kind: providertest.FaultReset}, once: true, answered: true,
		between: []string{"retrying 2 a connection_failed"}, calls: 2, spaced: 16 * time.Millisecond,
	},
	{
		name: "a connection that is reset again and again is left", handshake: true,
		fault:   providertest.Fault{Kind: providertest.FaultReset},
		between: []string{"retrying 2 a connection_failed", "started 2 a/model-a", "failover 3 a>b connection_failed"},
		calls:   2, spaced: 16 * time.Millisecond, code: protocol.CodeConnectionFailed, alone: 3,
	},
	{
		name:    "silence has a deadline, and is not tried again",
		fault:   providertest.Fault{Kind: providertest.FaultSilence},
		change:  func(e *analysis.Entry) { e.HeaderTimeout = soon },
		between: []string{"failover 2 a>b timeout"}, calls: 1, code: protocol.CodeTimeout, alone: 1,
	},
	{
		name:    "headers with comments behind them are no first content",
		fault:   providertest.Fault{Kind: providertest.FaultMute},
		change:  func(e *analysis.Entry) { e.FirstContentTimeout = soon },
		script:  func(s *providertest.Script) { s.Framing.KeepAlive = soon / 6 },
		between: []string{"failover 2 a>b timeout"}, calls: 1, code: protocol.CodeTimeout, alone: 1,
	},
	{
		name:    "an answer that stalls before its first content is late, too",
		fault:   providertest.Fault{Kind: providertest.FaultStall},
		change:  func(e *analysis.Entry) { e.FirstContentTimeout = soon },
		script:  func(s *providertest.Script) { s.Framing.Comments, s.Framing.KeepAlive = 3, soon/6 },
		between: []string{"failover 2 a>b timeout"}, calls: 1, code: protocol.CodeTimeout, alone: 1,
	},
	{
		name:    "an answer that ends before its first content is none",
		fault:   providertest.Fault{Kind: providertest.FaultEnd},
		between: []string{"failover 2 a>b stream_interrupted"}, calls: 1, code: protocol.CodeStreamInterrupted, alone: 3,
	},
	{
		name:    "one malformed chunk before content",
		fault:   providertest.Fault{Kind: providertest.FaultMalformed},
		between: []string{"failover 2 a>b invalid_response"}, calls: 1, code: protocol.CodeInvalidResponse, alone: 3,
	},
	{
		name:    "an error inside the 200 before content is as an HTTP error",
		fault:   providertest.Fault{Kind: providertest.FaultError},
		between: []string{"failover 2 a>b service_unavailable"}, calls: 1, code: protocol.CodeServiceUnavailable, alone: 3,
	},
	{
		name: "a prompt that is too long for the model goes to another", handshake: true,
		fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 400,
			Body: `{"type":"error","error":{"type":"invalid_request_error","code":"context_length_exceeded","message":"prompt is too long: 250000 tokens > 200000 maximum"}}`},
		between: []string{"failover 2 a>b context_too_long"}, calls: 1, code: protocol.CodeContextTooLong, alone: 1,
	},
	{
		name: "a request that the content filter refuses is not tried again", handshake: true,
		fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 400,
			Body: `{"type":"error","error":{"type":"invalid_request_error","code":"content_policy_violation","message":"the prompt was flagged"}}`},
		refused: true, calls: 1, code: protocol.CodeContentFiltered, alone: 1,
	},
	{
		name:    "a key that is refused is not tried again",
		fault:   status(401, nil),
		between: []string{"failover 2 a>b unauthorized"}, calls: 1, code: protocol.CodeUnauthorized, alone: 1,
	},
	{
		name: "a quota that is used up is not tried again",
		fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 429,
			Body: `{"type":"error","error":{"type":"insufficient_quota","code":"insufficient_quota","message":"You exceeded your current quota"}}`},
		between: []string{"failover 2 a>b quota_exceeded"}, calls: 1, code: protocol.CodeQuotaExceeded, alone: 1,
	},
}

// script returns what a does with its calls.
func (f *fault) upstream(t *testing.T) *providertest.Upstream {
	bad := scriptA(f.fault)
	if f.script != nil {
		f.script(&bad)
	}
	if !f.once {
		return providertest.NewUpstream(t, bad)
	}
	up := providertest.NewUpstream(t, scriptA(providertest.Fault{}))
	up.Enqueue(bad)
	return up
}

// entry returns a's entry.
func (f *fault) entry(p providers.Provider) analysis.Entry {
	e := analysis.Entry{Provider: p}
	if f.change != nil {
		f.change(&e)
	}
	return e
}

func TestAFaultBeforeTheFirstContentIsNotSeenInTheAnswer(t *testing.T) {
	for _, s := range speakers {
		for _, f := range faultsBeforeContent {
			t.Run(s.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				a, b := f.upstream(t), providertest.NewUpstream(t, scriptB(piecesB...))
				r := newRig(t, patient(f.entry(s.provider(t, "a", a)), analysis.Entry{Provider: s.other().provider(t, "b", b)}))
				w := r.start(request)
				r.end(w, 20*time.Second)

				want := append([]string{"started 1 a/model-a"}, f.between...)
				attempts, calls, spaced := f.calls, f.calls, f.spaced
				byOther := f.handshake && s.protocol == providers.ProtocolWebSocket
				if byOther {
					calls, spaced = 2*attempts, 0
				}
				switch {
				case byOther && f.once:
					attempts, calls = 1, 2
					wantTale(t, w, []string{"started 1 a/model-a", `text 1 "` + textA + `"`, "completed a"})
					wantCompleted(t, w, "a", "model-a-2026", usageA)
				case f.refused:
					wantTale(t, w, append(want, "failed "+string(f.code)+" a"))
					var failed protocol.Failed
					if w.last(t, &failed); !strings.Contains(failed.Error.Detail, "the prompt was flagged") {
						t.Errorf("the client is told %q, and not the provider's reason", failed.Error.Detail)
					}
					if n := b.Count(); n != 0 {
						t.Errorf("%d calls of b", n)
					}
				case f.answered:
					wantTale(t, w, append(want, "started 2 a/model-a", `text 2 "`+textA+`"`, "completed a"))
					wantCompleted(t, w, "a", "model-a-2026", usageA)
				default:
					n := string('0' + rune(f.calls+1))
					wantTale(t, w, append(want, "started "+n+" b/model-b", "text "+n+` "`+textB+`"`, "completed b"))
					wantCompleted(t, w, "b", "model-b-2026", usageB)
				}
				released(t, a, b)
				wantCalls(t, a, s, calls, spaced)
				wantAccounts(t, r, map[string]int{"a": attempts, "b": b.Count()})
			})
		}
	}
}

func TestAFaultOfTheOnlyProviderEndsInItsOwnError(t *testing.T) {
	for _, s := range speakers {
		for _, f := range append(faultsBeforeContent, faultsAfterContent...) {
			if f.once {
				continue
			}
			t.Run(s.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				a := f.upstream(t)
				r := newRig(t, patient(f.entry(s.provider(t, "a", a))))
				w := r.start(request)
				r.end(w, 10*time.Second)

				tale := w.tale()
				if got, want := tale[len(tale)-1], "failed "+string(f.code)+" a"; got != want {
					t.Errorf("it ends with %q, not %q:\n%s", got, want, strings.Join(tale, "\n"))
				}
				var failed protocol.Failed
				w.last(t, &failed)
				if e := failed.Error; e.Detail == "" || e.Status < 400 {
					t.Errorf("the client is told %+v", e)
				}
				released(t, a)
				calls, spaced := f.alone, f.spaced
				if f.handshake && s.protocol == providers.ProtocolWebSocket {
					calls, spaced = 2*calls, 0
				}
				wantCalls(t, a, s, calls, spaced)
				wantAccounts(t, r, map[string]int{"a": f.alone})
			})
		}
	}
}

// wantCompleted checks who is told to have answered.
func wantCompleted(t *testing.T, w *writer, provider, model string, usage protocol.Usage) {
	t.Helper()
	var c protocol.Completed
	w.last(t, &c)
	if c.Provider != provider || c.Model != model || c.FinishReason != "stop" || c.Degraded || c.Cached {
		t.Errorf("completed %+v, want %s's %s", c, provider, model)
	}
	if c.Usage == nil || *c.Usage != usage {
		t.Errorf("its usage is %+v, want %+v", c.Usage, usage)
	}
}

// wantCalls checks how many calls an upstream got, and the time between them.
func wantCalls(t *testing.T, up *providertest.Upstream, s speaker, n int, spaced time.Duration) {
	t.Helper()
	calls := up.Calls()
	if len(calls) != n {
		t.Errorf("%d calls, want %d", len(calls), n)
	}
	for i, c := range calls {
		if c.Dialect != s.wire {
			t.Errorf("call %d is in the dialect %s", i+1, c.Dialect)
		}
		if i > 0 && c.Arrived.Sub(calls[i-1].Arrived) < spaced {
			t.Errorf("call %d came %v after the one before, want %v", i+1, c.Arrived.Sub(calls[i-1].Arrived), spaced)
		}
	}
}

// wantAccounts checks that each call was counted with its provider.
func wantAccounts(t *testing.T, r *rig, calls map[string]int) {
	t.Helper()
	for _, p := range r.s.Providers() {
		n := 0
		for _, u := range p.Usage {
			n += int(u.Calls)
		}
		if n != calls[p.Name] {
			t.Errorf("%d calls of %s are in the accounts, want %d: %+v", n, p.Name, calls[p.Name], p.Usage)
		}
	}
}

// TestAPromptThatIsTooLongGoesOnlyToAModelThatTakesMore: of two others, the one
// that is known to take less is not asked.
func TestAPromptThatIsTooLongGoesOnlyToAModelThatTakesMore(t *testing.T) {
	tooLong := faultsBeforeContent[slices.IndexFunc(faultsBeforeContent, func(f fault) bool { return f.code == protocol.CodeContextTooLong })]
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			limit := func(model string, n int) map[string]providers.ModelInfo {
				return map[string]providers.ModelInfo{model: {ContextTokens: n}}
			}
			a, b, c := tooLong.upstream(t), tooLong.upstream(t), providertest.NewUpstream(t, scriptB(piecesB...))
			r := newRig(t, patient(
				analysis.Entry{Provider: s.provider(t, "a", a), Models: limit("model-a", 200_000)},
				analysis.Entry{Provider: s.provider(t, "b", b), Models: limit("model-b", 100_000)},
				analysis.Entry{Provider: s.other().provider(t, "c", c), Models: limit("model-c", 1_000_000)}))
			w := r.start(request)
			r.end(w, 20*time.Second)
			wantTale(t, w, []string{"started 1 a/model-a", "failover 2 a>c context_too_long", "started 2 c/model-c", `text 2 "` + textB + `"`, "completed c"})
			released(t, a, b, c)
			wantCalls(t, b, s, 0, 0)
		})
	}
}
