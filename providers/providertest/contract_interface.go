package providertest

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

func (c *contract) features(t *testing.T) {
	p := c.new("http://127.0.0.1:1")
	f := p.Features()
	if p.Name() == "" || len(f.Models) == 0 || f.Version == "" || len(f.Protocols) == 0 || !f.Streaming {
		t.Errorf("%q has the features %+v, want models, a version, protocols and streaming", p.Name(), f)
	}
	if again := p.Features(); !reflect.DeepEqual(again, f) {
		t.Errorf("the features were %+v and are %+v", f, again)
	}
	if prefill(p, f.DefaultModel()) != f.Prefill {
		t.Errorf("Features says prefill %v, but not Prefill(%q)", f.Prefill, f.DefaultModel())
	}
	for _, protocol := range f.Protocols {
		if !slices.Contains([]providers.Protocol{providers.ProtocolWebSocket, providers.ProtocolSSE, providers.ProtocolPolling}, protocol) {
			t.Errorf("the protocol %q is none", protocol)
		}
	}
}

// prefill reports whether p can be given the beginning of model's answer.
func prefill(p providers.Provider, model string) bool {
	if f, ok := p.(providers.Prefiller); ok {
		return f.Prefill(model)
	}
	return p.Features().Prefill
}

func (c *contract) analyze(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pieces := append([]Piece{{Kind: PieceReasoning, Text: "Hm."}}, sample...)
	usage := &protocol.Usage{InputTokens: 3, OutputTokens: 4}
	up := NewUpstream(t, Script{Pieces: pieces, Usage: usage})
	p := c.new(up.URL)
	a, err := providers.Analyze(ctx, p, request())
	if err != nil {
		t.Fatal(err)
	}
	if a.Text != Joined(sample, PieceText) || a.Reasoning != "Hm." || a.Outcome.State != providers.StateComplete || !reflect.DeepEqual(a.Outcome.Usage, usage) {
		t.Errorf("the answer is %+v", a)
	}
	for _, tc := range []struct {
		fault Fault
		code  protocol.Code
		text  string
	}{
		{Fault{Kind: FaultEnd, After: 2}, protocol.CodeStreamInterrupted, Joined(sample[:1], PieceText)},
		{Fault{Kind: FaultCut, After: 2}, protocol.CodeStreamInterrupted, Joined(sample[:1], PieceText)},
		{Fault{Kind: FaultError, After: 3}, protocol.CodeServiceUnavailable, Joined(sample[:2], PieceText)},
	} {
		up.SetScript(Script{Pieces: pieces, Fault: tc.fault})
		a, err := providers.Analyze(ctx, p, request())
		c.checkError(t, err, tc.code)
		if a == nil || a.Text != tc.text || a.Outcome.State == providers.StateComplete {
			t.Errorf("fault %d: what there is of the answer is %+v, want the text %q", tc.fault.Kind, a, tc.text)
		}
	}
	up.SetScript(Script{Fault: Fault{Kind: FaultStatus, Status: 429}})
	a, err = providers.Analyze(ctx, p, request())
	c.checkError(t, err, protocol.CodeRateLimited)
	if a != nil {
		t.Errorf("a refused request has the answer %+v", a)
	}
}

// continues asks for the rest of an answer. The client has the partial answer,
// and what follows it must be what the model wrote behind what it was shown.
func (c *contract) continues(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const rest = "\n\n\tand more"
	up := NewUpstream(t, Script{Pieces: Texts("\n", "\n\tand", " more")})
	p := c.new(up.URL)
	req := request()
	given := prefill(p, req.Model)
	for i, partial := range []string{"Grüße, \"世界\" 🙂", "so\n\n", " \n"} {
		req.Partial = partial
		a, err := providers.Analyze(ctx, p, req)
		if err != nil {
			t.Fatalf("behind %q: %v", partial, err)
		}
		turns := up.Calls()[i].Turns()
		want := []Turn{{"user", req.Prompt}, {"assistant", partial}, {"user", providers.ContinuePrompt}}
		switch {
		case strings.TrimSpace(partial) == "": // nothing has been said
			want = want[:1]
		case given:
			// The API refuses white space at the end; see the model's text below.
			want = want[:2]
			want[1].Text = strings.TrimSpace(partial)
			if c.dialect != Claude {
				want[1].Text = partial
			}
		}
		if !slices.Equal(turns, want) {
			t.Errorf("behind %q the conversation is %q, want %q", partial, turns, want)
		}
		shown := partial
		if len(turns) == 2 {
			shown = turns[1].Text
		}
		if partial+a.Text != shown+rest {
			t.Errorf("the whole is %q, want %q", partial+a.Text, shown+rest)
		}
	}
	req.Partial = "so"
	up.SetScript(Script{NoPrefill: true})
	_, err := providers.Analyze(ctx, p, req)
	if !given {
		if err != nil {
			t.Errorf("without a prefill the upstream refused the conversation: %v", err)
		}
		return
	}
	if e := c.errorOf(t, err, protocol.CodeInvalidRequest); e.Retryable || !strings.Contains(e.Detail, "prefill") {
		t.Errorf("a refused prefill gave %+v", e)
	}
}

func (c *contract) health(t *testing.T) {
	up := NewUpstream(t, Script{})
	up.SetModels("model-b", "model-a")
	p := c.new(up.URL)
	if l, ok := p.(providers.ModelLister); ok {
		if ids, err := l.ListModels(t.Context()); err != nil || !slices.Equal(ids, []string{"model-b", "model-a"}) {
			t.Errorf("the models are %q, %v", ids, err)
		}
	}
	if h, ok := p.(providers.HealthChecker); ok {
		if err := h.Health(t.Context()); err != nil {
			t.Errorf("a healthy upstream gave %v", err)
		}
	}
	v, ok := p.(providers.KeyValidator)
	if !ok {
		return
	}
	up.RequireKey("good-key-1234")
	if err := v.ValidateKey(t.Context(), "good-key-1234"); err != nil {
		t.Errorf("a good key was refused: %v", err)
	}
	err := v.ValidateKey(t.Context(), "bad-key-5678")
	c.checkError(t, err, protocol.CodeUnauthorized)
	if !errors.Is(err, protocol.ErrAuthentication) || strings.Contains(err.Error(), "bad-key-5678") {
		t.Errorf("the error is no authentication error, or tells the key: %v", err)
	}
	h, ok := p.(providers.HealthChecker)
	if !ok {
		return
	}
	c.checkError(t, h.Health(t.Context()), protocol.CodeUnauthorized) // with its own key
	up.Close()
	c.checkError(t, h.Health(t.Context()), protocol.CodeConnectionFailed)
	c.checkError(t, v.ValidateKey(t.Context(), "good-key-1234"), protocol.CodeConnectionFailed)
}

func (c *contract) limits(t *testing.T) {
	up := NewUpstream(t, Script{})
	p, ok := c.new(up.URL).(providers.RateLimiter)
	if !ok {
		return
	}
	if l, ok := p.RateLimits(); ok {
		t.Errorf("before the first answer the limits are %+v", l)
	}
	ask := func(s Script) {
		t.Helper()
		up.SetScript(s)
		// A refused request has limits as well.
		if a, err := providers.Analyze(t.Context(), p.(providers.Provider), request()); a == nil && s.Fault.Kind == FaultNone {
			t.Fatal(err)
		}
	}
	header := func(requests, tokens string) http.Header {
		return http.Header{
			"X-Ratelimit-Remaining-Requests": {requests}, "X-Ratelimit-Limit-Tokens": {tokens},
			"Anthropic-Ratelimit-Requests-Remaining": {requests}, "Anthropic-Ratelimit-Tokens-Limit": {tokens},
		}
	}
	check := func(requests, tokens int64) {
		t.Helper()
		l, ok := p.RateLimits()
		want := providers.RateLimits{RequestsLimit: -1, RequestsRemaining: requests, TokensLimit: tokens, TokensRemaining: -1, At: l.At}
		if !ok || l != want || time.Since(l.At) > time.Minute {
			t.Errorf("the limits are %+v, want %+v", l, want)
		}
	}
	ask(Script{Header: header("7", "1000")})
	check(7, 1000)
	ask(Script{Header: header("0", "900"), Fault: Fault{Kind: FaultStatus, Status: 429}})
	check(0, 900)
	ask(Script{}) // says nothing
	check(0, 900)
}
