package providertest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// CancelWithin is how soon an upstream must notice that its caller has left.
const CancelWithin = 100 * time.Millisecond

// Patience bounds each wait of the contract.
const patience = 20 * time.Second

// sample has all that text can have: characters of one to four bytes, joined
// emoji, quotes, line ends, separators that JSON leaves and JavaScript doesn't.
var sample = Texts("Grüße, ", "世界 ", "🙂👩‍👩‍👧 ", "\"quoted\" \\ and </b> & ", "line\nnext\r\n\ttab ", "\u2028\u2029\u0000\u001f ", "data: [DONE]\n\n", "end")

type contract struct {
	new     func(upstreamURL string) providers.Provider
	dialect Dialect
}

// Contract checks what every provider that is asked over the network promises.
// newProvider returns a provider whose base URL is upstreamURL, with a key of at
// least eight characters. Contract counts goroutines, so nothing else may run
// beside it: don't call it from a parallel test. without names the parts that
// a provider keeps in another way, which its own tests show.
func Contract(t *testing.T, newProvider func(upstreamURL string) providers.Provider, dialect Dialect, without ...string) {
	c := contract{newProvider, dialect}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"AWholeAnswerIsCompleteInEveryPart", c.wholeAnswer},
		{"TheTextIsExactHoweverItsBytesArrive", c.exactText},
		{"AnAnswerThatBreaksOffIsNeverComplete", c.truncated},
		{"AWholeAnswerWithoutItsLastWordEndsAsTheDialectSays", c.noLastWord},
		{"AnErrorInsideTheStreamIsAnError", c.errorInside},
		{"AMalformedChunkIsAnInvalidResponse", c.malformed},
		{"AStatusBecomesTheRightError", c.statuses},
		{"ABrokenConnectionIsANetworkError", c.network},
		{"CancellingReachesTheUpstreamAtOnce", c.cancel},
		{"CloseEndsAnAnswerThatIsBeingRead", c.closing},
		{"NoErrorTellsTheKey", c.secrets},
		{"ARedirectIsNotFollowed", c.redirect},
		{"StreamsRunBesideEachOther", c.concurrent},
		{"TheFeaturesAreWhatIsPromised", c.features},
		{"AnalyzeGivesAWholeAnswerOrAnError", c.analyze},
		{"AnAnswerIsContinuedBehindItsLastCharacter", c.continues},
		{"TheKeyAndHealthCanBeChecked", c.health},
		{"TheLimitsAreThoseOfTheNewestAnswer", c.limits},
		{"NoGoroutineIsLeftBehind", c.leaks},
	} {
		if !slices.Contains(without, part.name) {
			t.Run(part.name, part.run)
		}
	}
}

// request is what is asked in the contract.
func request() *providers.Request {
	return &providers.Request{
		Analysis: &protocol.Request{Code: "package main", Language: "go", Analysis: protocol.AnalysisReview},
		Model:    "model-a", System: "You review code.", Prompt: "Review: package main", MaxTokens: 1000, RequestID: "req-1",
	}
}

func (c *contract) ask(t *testing.T, url string) (Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := c.new(url).Stream(ctx, request())
	if err != nil {
		return Answer{}, err
	}
	a, err := Collect(s)
	if err != nil {
		t.Fatalf("the stream broke its contract: %v", err)
	}
	return a, nil
}

// answer asks an Upstream that follows s, which must accept the call.
func (c *contract) answer(t *testing.T, s Script) Answer {
	t.Helper()
	a, err := c.ask(t, NewUpstream(t, s).URL)
	if err != nil {
		t.Fatalf("Stream failed: %v", err)
	}
	return a
}

// checkError checks what every error of a provider has.
func (c *contract) checkError(t *testing.T, err error, code protocol.Code) {
	t.Helper()
	_ = c.errorOf(t, err, code)
}

// errorOf is checkError for tests that ask for more: it returns the error.
func (c *contract) errorOf(t *testing.T, err error, code protocol.Code) *protocol.Error {
	t.Helper()
	var e *protocol.Error
	if !errors.As(err, &e) {
		t.Fatalf("the error is %v (%T), want a *protocol.Error with %s", err, err, code)
	}
	if e.Code != code || e.Provider != c.new("http://127.0.0.1:1").Name() || !errors.Is(err, code.Family()) || e.Detail == "" {
		t.Errorf("the error is %+v, want code %s, the provider's name and a detail", e, code)
	}
	return e
}

func (c *contract) wholeAnswer(t *testing.T) {
	script := Script{
		Model:     "model-a-2026-11-01",
		Pieces:    append([]Piece{{Kind: PieceReasoning, Text: "Let me "}, {Kind: PieceReasoning, Text: "think."}}, sample...),
		Usage:     &protocol.Usage{InputTokens: 100, OutputTokens: 42, CachedTokens: 64, ReasoningTokens: 7},
		RequestID: "req_up_1",
	}
	up := NewUpstream(t, script)
	a, err := c.ask(t, up.URL)
	if err != nil {
		t.Fatal(err)
	}
	want := Answer{
		Text: Joined(sample, PieceText), Reasoning: "Let me think.", Started: []string{"model-a-2026-11-01"}, Usage: script.Usage, Chunks: a.Chunks,
		Outcome: providers.Outcome{State: providers.StateComplete, FinishReason: "stop", Model: "model-a-2026-11-01", Usage: script.Usage, RequestID: "req_up_1"},
	}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("the answer is\n%+v\nwant\n%+v", a, want)
	}
	if up.Count() != 1 {
		t.Errorf("the upstream was called %d times, want once", up.Count())
	}

	words := map[string]string{"stop": "stop", "length": "length", "tool_calls": "tool"}
	switch c.dialect {
	case Responses:
		words = map[string]string{"completed": "stop", "max_output_tokens": "length"}
	case Claude:
		words = map[string]string{"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool",
			"model_context_window_exceeded": "length", "pause_turn": "pause_turn"}
	}
	for word, reason := range words {
		a := c.answer(t, Script{Pieces: Texts("a"), Finish: word})
		if a.Outcome.State != providers.StateComplete || a.Outcome.FinishReason != reason {
			t.Errorf("%s: the outcome is %+v, want complete and %q", word, a.Outcome, reason)
		}
	}

	tool := []Piece{{Kind: PieceTool, Text: `{"lin`}, {Kind: PieceTool, Text: `e":7}`}}
	if a := c.answer(t, Script{Pieces: tool}); a.Tool != `{"line":7}` || a.Text != "" || a.Outcome.State != providers.StateComplete {
		t.Errorf("the tool call is %q in %+v", a.Tool, a)
	}

	refusal := "content_filter"
	if c.dialect == Claude {
		refusal = "refusal"
	}
	a = c.answer(t, Script{Pieces: Texts("I "), Finish: refusal})
	c.checkError(t, a.Err, protocol.CodeContentFiltered)
	if a.Outcome.State != providers.StateError || a.Outcome.Err == nil || a.Text != "I " {
		t.Errorf("the refused answer is %+v, want its text and StateError", a)
	}
}

func (c *contract) exactText(t *testing.T) {
	for _, f := range []Framing{
		{}, {Split: 1}, {Split: 7}, {CRLF: true}, {CRLF: true, Split: 1}, {CR: true}, {CR: true, Split: 3},
		{Comments: 3}, {Comments: 3, CRLF: true}, {Pings: true}, {Comments: 1, Pings: true, CRLF: true, Split: 11},
	} {
		a := c.answer(t, Script{Pieces: sample, Framing: f})
		if want := Joined(sample, PieceText); a.Text != want || a.Outcome.State != providers.StateComplete || a.Err != nil {
			t.Errorf("%+v: the text is %q (%+v, %v), want %q", f, a.Text, a.Outcome, a.Err, want)
		}
	}
	slow := slices.Clone(sample)
	slow[1].After = 60 * time.Millisecond
	a := c.answer(t, Script{Pieces: slow, Framing: Framing{KeepAlive: 5 * time.Millisecond}})
	if a.Text != Joined(sample, PieceText) || a.Outcome.State != providers.StateComplete {
		t.Errorf("with comments in between the answer is %+v", a)
	}
	long := strings.Repeat("ünïcödé ", 8<<10)
	if a := c.answer(t, Script{Pieces: Texts("a", long, "b")}); a.Text != "a"+long+"b" || a.Outcome.State != providers.StateComplete {
		t.Errorf("a chunk of %d bytes: the text has %d, outcome %+v", len(long), len(a.Text), a.Outcome)
	}
}

func (c *contract) truncated(t *testing.T) {
	for _, kind := range []FaultKind{FaultCut, FaultEnd} {
		for after := range len(sample) + 1 {
			a := c.answer(t, Script{Pieces: sample, Fault: Fault{Kind: kind, After: after}})
			if want := Joined(sample[:after], PieceText); a.Text != want {
				t.Errorf("fault %d after %d: the text is %q, want %q", kind, after, a.Text, want)
			}
			if a.Outcome.State != providers.StateTruncated {
				t.Errorf("fault %d after %d: the state is %d, want truncated", kind, after, a.Outcome.State)
			}
			c.checkError(t, a.Outcome.Err, protocol.CodeStreamInterrupted)
			if kind == FaultCut {
				c.checkError(t, a.Err, protocol.CodeStreamInterrupted)
			} else if a.Err != nil {
				t.Errorf("an answer that ended without its marker gave %v, want io.EOF", a.Err)
			}
		}
	}
}

func (c *contract) noLastWord(t *testing.T) {
	usage := &protocol.Usage{InputTokens: 5, OutputTokens: 6}
	s := Script{Pieces: sample, Usage: usage, Fault: Fault{Kind: FaultNoEnd}}
	if c.dialect != OpenAI {
		if a := c.answer(t, s); a.Outcome.State != providers.StateTruncated {
			t.Errorf("without its last event the outcome is %+v, want truncated", a.Outcome)
		}
		return
	}
	s.Framing.HoldOpen = true
	begin := time.Now()
	a := c.answer(t, s)
	if a.Outcome.State != providers.StateComplete || !reflect.DeepEqual(a.Outcome.Usage, usage) || a.Text != Joined(sample, PieceText) {
		t.Errorf("without [DONE] the answer is %+v, want it complete with its usage", a)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("it took %v to see the end", d)
	}
	s.Usage = nil
	if a := c.answer(t, s); a.Outcome.State != providers.StateComplete || a.Outcome.Usage != nil {
		t.Errorf("without [DONE] and usage the answer is %+v, want it complete", a)
	}
}

func (c *contract) errorInside(t *testing.T) {
	for after := range 3 {
		for code, want := range map[string]protocol.Code{
			"overloaded_error": protocol.CodeServiceUnavailable, "api_error": protocol.CodeServiceUnavailable,
			"rate_limit_error": protocol.CodeRateLimited, "billing_error": protocol.CodeQuotaExceeded,
			"invalid_request_error": protocol.CodeInvalidRequest, "authentication_error": protocol.CodeUnauthorized,
		} {
			a := c.answer(t, Script{Pieces: sample, Fault: Fault{Kind: FaultError, After: after, Code: code, Body: "it went wrong"}})
			e := c.errorOf(t, a.Err, want)
			if a.Outcome.State != providers.StateError || a.Outcome.Err != e || a.Text != Joined(sample[:after], PieceText) {
				t.Errorf("%s after %d: the answer is %+v", code, after, a)
			}
			if want != protocol.CodeUnauthorized && !strings.Contains(e.Detail, "it went wrong") {
				t.Errorf("%s: the detail %q lacks the provider's words", code, e.Detail)
			}
		}
	}
}

func (c *contract) malformed(t *testing.T) {
	for _, data := range []string{"", "{", "nonsense", `"text"`, "[1]", "{}{}", "null", "{\"type\":\"x\xff\"}", strings.Repeat("x", 2<<20)} {
		for after := range 2 {
			a := c.answer(t, Script{Pieces: sample, Fault: Fault{Kind: FaultMalformed, After: after, Body: data}})
			c.checkError(t, a.Err, protocol.CodeInvalidResponse)
			if a.Outcome.State != providers.StateError || a.Text != Joined(sample[:after], PieceText) {
				t.Errorf("after %.20q the answer is %+v, want StateError and what came before", data, a)
			}
		}
	}
	up := NewUpstream(t, Script{Fault: Fault{Kind: FaultStatus, Status: 200, Body: "<html>", Header: http.Header{"Content-Type": {"text/html"}}}})
	_, err := c.ask(t, up.URL)
	c.checkError(t, err, protocol.CodeInvalidResponse)
}

// cancel ends the context in each state of a call.
func (c *contract) cancel(t *testing.T) {
	for name, fault := range map[string]Fault{
		"before the headers": {Kind: FaultSilence},
		"after the headers":  {Kind: FaultMute},
		"in the middle":      {Kind: FaultStall, After: 2},
		"between pieces":     {Kind: FaultCrawl, Interval: time.Hour},
	} {
		up := NewUpstream(t, Script{Pieces: sample, Fault: fault})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		var state providers.State
		go func() {
			s, err := c.new(up.URL).Stream(ctx, request())
			if err == nil {
				var a Answer
				if a, err = Collect(s); err == nil {
					state, err = a.Outcome.State, a.Err
				}
			}
			ended <- err
		}()
		wait, stop := context.WithTimeout(t.Context(), patience)
		call, err := up.WaitCall(wait, 1)
		if err == nil {
			err = call.WaitPieces(wait, fault.After)
		}
		stop()
		if err != nil {
			t.Fatalf("%s: the call did not come: %v", name, err)
		}
		at := time.Now()
		cancel()
		select {
		case <-call.HungUp():
		case <-time.After(patience):
			t.Fatalf("%s: the upstream never noticed", name)
		}
		if d := call.HungUpAt().Sub(at); d > CancelWithin {
			t.Errorf("%s: the upstream noticed after %v, want %v", name, d, CancelWithin)
		}
		err = <-ended
		if !errors.Is(err, context.Canceled) || state != providers.StateTruncated {
			t.Errorf("%s: the error is %v, state %d; want context.Canceled in its tree, and truncated", name, err, state)
		}
	}
	up := NewUpstream(t, Script{Pieces: sample, Fault: Fault{Kind: FaultSilence}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.new(up.URL).Stream(ctx, request())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after a deadline the error is %v, want context.DeadlineExceeded in its tree", err)
	}
	c.checkError(t, err, protocol.CodeTimeout)
}

func (c *contract) closing(t *testing.T) {
	up := NewUpstream(t, Script{Pieces: sample, Fault: Fault{Kind: FaultStall, After: 2}})
	s, err := c.new(up.URL).Stream(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	collected := make(chan Answer, 1)
	go func() {
		a, err := Collect(s)
		if err != nil {
			t.Error(err)
		}
		collected <- a
	}()
	call := up.Calls()[0]
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close failed: %v", err)
			}
		})
	}
	closers.Wait()
	select {
	case a := <-collected:
		if a.Outcome.State != providers.StateTruncated || a.Outcome.Err == nil {
			t.Errorf("the closed answer is %+v, want truncated", a)
		}
	case <-time.After(patience):
		t.Fatal("Next still waits after Close")
	}
	select {
	case <-call.HungUp():
	case <-time.After(patience):
		t.Error("the upstream did not notice Close")
	}
}

func (c *contract) concurrent(t *testing.T) {
	const n = 16
	up := NewUpstream(t, Script{})
	want := make([]string, n)
	for i := range n {
		pieces := Texts(slices.Repeat([]string{fmt.Sprintf("stream %d ", i)}, 50)...)
		want[i] = Joined(pieces, PieceText)
		up.Enqueue(Script{Pieces: pieces})
	}
	p := c.new(up.URL)
	got := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s, err := p.Stream(t.Context(), request())
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
				return
			}
			a, err := Collect(s)
			if err != nil || a.Outcome.State != providers.StateComplete {
				t.Errorf("stream %d: %+v, %v", i, a.Outcome, err)
			}
			got[i] = a.Text
		})
	}
	wg.Wait()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the streams mixed: got %.200q, want %.200q", got, want)
	}
}

// leaks runs a call through each kind of end, and counts goroutines.
func (c *contract) leaks(t *testing.T) {
	before := goleak.IgnoreCurrent()
	up, err := StartUpstream(Script{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []Fault{{}, {Kind: FaultCut, After: 1}, {Kind: FaultEnd, After: 1}, {Kind: FaultMalformed}, {Kind: FaultError},
		{Kind: FaultStatus, Status: 500}, {Kind: FaultReset}, {Kind: FaultSilence}, {Kind: FaultStall, After: 1}} {
		up.SetScript(Script{Pieces: sample, Fault: f})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if s, err := c.new(up.URL).Stream(ctx, request()); err == nil {
			if _, err := Collect(s); err != nil {
				t.Error(err)
			}
		}
		cancel()
	}
	up.Close()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}
