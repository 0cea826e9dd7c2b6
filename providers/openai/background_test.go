package openai_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

// inBackground returns a provider whose answers the vendor makes in the
// background.
func inBackground(t *testing.T, up *providertest.Upstream) providers.Provider {
	t.Helper()
	return openai.Hasten(must(t, openai.NewResponses, providers.Config{Name: "x", BaseURL: up.URL, Protocol: providers.ProtocolPolling}))
}

// mixed has all kinds of pieces, and characters of one to four bytes.
var mixed = append([]providertest.Piece{{Kind: providertest.PieceReasoning, Text: "Hm, "}, {Kind: providertest.PieceReasoning, Text: "so."}},
	append(providertest.Texts("Grüße ", "世界 ", "🙂"), providertest.Piece{Kind: providertest.PieceTool, Text: `{"a":`}, providertest.Piece{Kind: providertest.PieceTool, Text: `1}`})...)

// whole checks that a is the answer of script, each of its pieces once.
func whole(t *testing.T, what string, a providertest.Answer, script providertest.Script) {
	t.Helper()
	want := providertest.Answer{
		Text: providertest.Joined(script.Pieces, providertest.PieceText), Reasoning: providertest.Joined(script.Pieces, providertest.PieceReasoning),
		Tool: providertest.Joined(script.Pieces, providertest.PieceTool), Started: []string{"m"}, Usage: script.Usage,
		Outcome: providers.Outcome{State: providers.StateComplete, FinishReason: a.Outcome.FinishReason, Model: "m", Usage: script.Usage},
	}
	a.Chunks = 0
	if !reflect.DeepEqual(a, want) {
		t.Errorf("%s: the answer is\n%+v\nwant\n%+v", what, a, want)
	}
}

var usage = &protocol.Usage{InputTokens: 9, OutputTokens: 8, CachedTokens: 7, ReasoningTokens: 6}

var question = &providers.Request{Model: "m", Prompt: "p", RequestID: "req-7"}

func TestABackgroundAnswerThatIsCutIsReadOnFromThere(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{})
	p := inBackground(t, up)
	script := providertest.Script{Pieces: mixed, Usage: usage}
	for _, kind := range []providertest.FaultKind{providertest.FaultCut, providertest.FaultEnd} {
		for after := range len(mixed) + 1 {
			for again := after; again <= len(mixed); again += 3 {
				script.Fault = providertest.Fault{Kind: kind, After: after}
				script.Resume = []providertest.Fault{{Kind: kind, After: again}, {Kind: providertest.FaultReset}}
				up.SetScript(script)
				whole(t, fmt.Sprintf("fault %d after %d and %d", kind, after, again), collect(t, p, question), script)
			}
		}
	}
	for _, call := range up.Calls() {
		if call.Path != "/v1/responses" || call.Protocol != providers.ProtocolPolling {
			t.Fatalf("the answer was asked for at %s by %s", call.Path, call.Protocol)
		}
		select {
		case <-call.Cancelled():
			t.Fatal("an answer that came to its end was cancelled")
		default:
		}
	}
}

// The cuts come at each byte that a step of a prime number finds, so that they
// come at each place of events over the answer's length.
func TestABackgroundAnswerMayBeCutAtAnyByte(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{})
	p := inBackground(t, up)
	script := providertest.Script{Pieces: mixed, Usage: usage}
	step := 7
	if testing.Short() {
		step = 61
	}
	begun := 0
	for at := 1; ; at += step {
		script.Fault = providertest.Fault{Kind: providertest.FaultCut, Bytes: at}
		up.SetScript(script)
		reads := len(up.Reads())
		a := collect(t, p, question)
		if len(up.Reads()) == reads && a.Outcome.State == providers.StateComplete {
			break // the cut lies behind the end
		}
		if len(up.Reads()) == reads {
			begun++ // before the answer's id was told
			if a.Outcome.State != providers.StateTruncated || a.Text != "" {
				t.Fatalf("cut at byte %d: %+v", at, a)
			}
			continue
		}
		whole(t, fmt.Sprintf("cut at byte %d", at), a, script)
	}
	if len(up.Reads()) < 60 || begun == 0 {
		t.Errorf("%d answers were read on, and %d could not be: the cuts missed them", len(up.Reads()), begun)
	}
}

func TestReadingOnAsksForWhatFollowsTheLastEvent(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: mixed, Fault: providertest.Fault{Kind: providertest.FaultCut, After: 1}})
	collect(t, inBackground(t, up), question)
	reads := up.Reads()
	if len(reads) != 1 {
		t.Fatalf("the answer was read on %d times, want once", len(reads))
	}
	// response.created 0, in_progress 1, output_item.added 2, reasoning_summary_part.added 3, the first piece 4.
	if q := reads[0].Query; q.Get("starting_after") != "4" || q.Get("stream") != "true" || !strings.HasPrefix(reads[0].Path, "/v1/responses/resp_") {
		t.Errorf("the answer was read on at %s?%s", reads[0].Path, q.Encode())
	}
	if up.Count() != 1 {
		t.Errorf("%d answers were begun, want one", up.Count())
	}
}

func TestABackgroundAnswerIsAskedForAgainOnlySoOften(t *testing.T) {
	resets := make([]providertest.Fault, 50)
	for i := range resets {
		resets[i] = providertest.Fault{Kind: providertest.FaultStatus, Status: 503}
	}
	up := providertest.NewUpstream(t, providertest.Script{Pieces: mixed, Fault: providertest.Fault{Kind: providertest.FaultCut, After: 3}, Resume: resets})
	a := collect(t, inBackground(t, up), question)
	if a.Outcome.State != providers.StateTruncated || a.Text != "Grüße " || len(up.Reads()) != 5 {
		t.Errorf("after %d tries the answer is %+v, want it truncated after 5", len(up.Reads()), a)
	}
	select {
	case <-up.Calls()[0].Cancelled():
	default:
		t.Error("the answer that was given up was not cancelled")
	}
}

func TestABackgroundAnswerWithoutStreamsIsAskedForUntilItIsThere(t *testing.T) {
	script := providertest.Script{Pieces: mixed, Usage: usage, Polls: 3}
	up := providertest.NewUpstream(t, script)
	up.RefuseStreams(true)
	p := inBackground(t, up)
	whole(t, "polled", collect(t, p, question), script)
	if n := len(up.Reads()); n != 3 && n != 4 {
		t.Errorf("the answer was asked for %d times", n)
	}
	if up.Refused() != 1 {
		t.Errorf("a stream was asked for %d times, want once", up.Refused())
	}
	collect(t, p, question)
	if up.Refused() != 1 {
		t.Error("the second answer was asked for as a stream, too")
	}

	// A stream that breaks where no other is to be had: the rest comes from the
	// whole.
	up = providertest.NewUpstream(t, script)
	for after := range len(mixed) + 1 {
		script.Fault = providertest.Fault{Kind: providertest.FaultCut, After: after}
		script.Resume = []providertest.Fault{{Kind: providertest.FaultStatus, Status: 400}}
		up.SetScript(script)
		whole(t, fmt.Sprintf("cut after %d, and then polled", after), collect(t, inBackground(t, up), question), script)
	}
}

func TestAServerWithoutBackgroundIsAskedForTheWhole(t *testing.T) {
	script := providertest.Script{Pieces: mixed, Usage: usage}
	up := providertest.NewUpstream(t, script)
	up.RefuseBackground(true)
	whole(t, "whole", collect(t, inBackground(t, up), question), script)
	if body := string(up.Calls()[0].Body); !strings.Contains(body, `"store":false`) || strings.Contains(body, "background") {
		t.Errorf("the body is %s", body)
	}
}

func TestAPolledAnswerThatFailsIsItsError(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Polls: 1, Fault: providertest.Fault{Kind: providertest.FaultError, Code: "rate_limit_exceeded", Body: "slow down"}})
	up.RefuseStreams(true)
	s, err := inBackground(t, up).Stream(t.Context(), question)
	if err == nil {
		var a providertest.Answer
		if a, err = providertest.Collect(s); err != nil {
			t.Fatal(err)
		}
		err = a.Err
	}
	if e := protocol.AsError(err); e.Code != protocol.CodeServiceUnavailable && e.Code != protocol.CodeRateLimited {
		t.Errorf("the error is %v", err)
	}
}

func TestALeftBackgroundAnswerIsCancelledAtTheVendor(t *testing.T) {
	stall := providertest.Script{Pieces: mixed, Fault: providertest.Fault{Kind: providertest.FaultStall, After: 3}}
	for name, tc := range map[string]struct {
		script  providertest.Script
		streams bool
		leave   func(cancel context.CancelFunc, s providers.Stream)
	}{
		"by its context":          {stall, true, func(cancel context.CancelFunc, _ providers.Stream) { cancel() }},
		"by Close":                {stall, true, func(_ context.CancelFunc, s providers.Stream) { _ = s.Close() }},
		"while it is polled":      {providertest.Script{Polls: 1 << 30}, false, func(cancel context.CancelFunc, _ providers.Stream) { cancel() }},
		"while polled, by Close ": {providertest.Script{Polls: 1 << 30}, false, func(_ context.CancelFunc, s providers.Stream) { _ = s.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			up := providertest.NewUpstream(t, tc.script)
			up.RefuseStreams(!tc.streams)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := inBackground(t, up).Stream(ctx, question)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan providertest.Answer, 1)
			go func() {
				a, err := providertest.Collect(s)
				if err != nil {
					t.Error(err)
				}
				ended <- a
			}()
			call := up.Calls()[0]
			if err := call.WaitPieces(t.Context(), tc.script.Fault.After); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			tc.leave(cancel, s)
			select {
			case <-call.Cancelled():
			case <-time.After(20 * time.Second):
				t.Fatal("the vendor was not told")
			}
			if d := time.Since(begin); d > providertest.CancelWithin {
				t.Errorf("the vendor was told after %v", d)
			}
			if a := <-ended; a.Outcome.State != providers.StateTruncated || a.Err == nil {
				t.Errorf("the answer is %+v", a)
			}
		})
	}
}

func TestACancelledBackgroundAnswerTellsTheContextsError(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Polls: 1 << 30})
	up.RefuseStreams(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s, err := inBackground(t, up).Stream(ctx, question)
	if err == nil {
		var a providertest.Answer
		if a, err = providertest.Collect(s); err != nil {
			t.Fatal(err)
		}
		err = a.Err
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v", err)
	}
}

func TestWhatIsStoredAtTheVendorIsOnlyWhatTheConfigurationWants(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg    providers.Config
		stored bool
	}{
		"by default":   {providers.Config{}, false},
		"SSE":          {providers.Config{Protocol: providers.ProtocolSSE}, false},
		"WebSocket":    {providers.Config{Protocol: providers.ProtocolWebSocket}, false},
		"polling":      {providers.Config{Protocol: providers.ProtocolPolling}, true},
		"background":   {providers.Config{Background: true}, true},
		"SSE and both": {providers.Config{Background: true, Protocol: providers.ProtocolSSE}, true},
	} {
		up := providertest.NewUpstream(t, providertest.Script{Pieces: mixed})
		tc.cfg.BaseURL = up.URL
		collect(t, must(t, openai.NewResponses, tc.cfg), question)
		body := string(up.Calls()[0].Body)
		if strings.Contains(body, `"store":true`) != tc.stored || strings.Contains(body, `"background":true`) != tc.stored ||
			strings.Contains(body, `"metadata":{"request_id":"req-7"}`) != tc.stored {
			t.Errorf("%s: the body is %s", name, body)
		}
	}
	if _, err := openai.NewChat(providers.Config{Background: true}); err == nil {
		t.Error("Chat Completions took answers in the background")
	}
}
