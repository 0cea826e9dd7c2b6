package openai_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

// official returns a provider for OpenAI's own host, which up stands in for.
func official(t *testing.T, up *providertest.Upstream, cfg providers.Config) providers.Provider {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, up.URL[len("http://"):])
	}}
	t.Cleanup(transport.CloseIdleConnections)
	cfg.BaseURL, cfg.Client = "http://api.openai.com/v1", &http.Client{Transport: transport}
	return must(t, openai.New, cfg)
}

// protocols lists how the calls of up were made.
func protocols(up *providertest.Upstream) []providers.Protocol {
	var list []providers.Protocol
	for _, c := range up.Calls() {
		list = append(list, c.Protocol)
	}
	return list
}

func TestOpenAIItselfIsAskedByResponsesAndOthersByChat(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("ok")})
	collect(t, official(t, up, providers.Config{}), &providers.Request{Model: "m", Prompt: "p", RequestID: "req-1"})
	collect(t, must(t, openai.New, providers.Config{BaseURL: up.URL}), question)
	collect(t, must(t, openai.NewDeepSeek, providers.Config{BaseURL: up.URL}), question)
	var dialects []providertest.Dialect
	for _, c := range up.Calls() {
		dialects = append(dialects, c.Dialect)
	}
	if !slices.Equal(dialects, []providertest.Dialect{providertest.Responses, providertest.OpenAI, providertest.OpenAI}) ||
		up.Calls()[0].Header.Get("X-Client-Request-Id") != "req-1" {
		t.Errorf("the calls came in %q, the first with %v", dialects, up.Calls()[0].Header)
	}
	all := []providers.Protocol{providers.ProtocolWebSocket, providers.ProtocolSSE, providers.ProtocolPolling}
	for _, tc := range []struct {
		new       providers.Factory
		url       string
		protocols []providers.Protocol
		batching  bool
	}{
		{openai.New, "", all, true},
		{openai.New, "https://name.openai.azure.com/openai/v1", all, true},
		{openai.New, "https://name.openai.azure.com/openai/deployments/gpt?api-version=2024-10-21", all[1:2], true},
		{openai.New, "http://localhost:11434", all[1:2], false},
		{openai.NewResponses, "http://localhost:11434", all[1:], false},
		{openai.NewChat, "", all[1:2], true},
	} {
		f := must(t, tc.new, providers.Config{BaseURL: tc.url}).Features()
		if !slices.Equal(f.Protocols, tc.protocols) || f.Version != "v1" || !f.Streaming || f.Batching != tc.batching || !f.FunctionCalling || tc.batching && f.Prefill {
			t.Errorf("%q: the features are %+v", tc.url, f)
		}
	}
}

func TestAWebSocketThatCannotBeHadIsReplacedAndRemembered(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: mixed, Usage: usage})
	for _, status := range []int{200, 400, 403, 404, 405, 426, 501, 502} {
		p := official(t, up, providers.Config{})
		up.RefuseUpgrades(status)
		before := up.Refused()
		for range 3 {
			whole(t, "over SSE", collect(t, p, question), providertest.Script{Pieces: mixed, Usage: usage})
		}
		if n := up.Refused() - before; n != 1 {
			t.Errorf("%d: a WebSocket was tried %d times, want once", status, n)
		}
	}
	if slices.Contains(protocols(up), providers.ProtocolWebSocket) {
		t.Errorf("the calls were %q", protocols(up))
	}
	up.RefuseUpgrades(0)
	n := up.Count()
	whole(t, "over a WebSocket", collect(t, official(t, up, providers.Config{}), question), providertest.Script{Pieces: mixed, Usage: usage})
	if got := protocols(up)[n:]; !slices.Equal(got, []providers.Protocol{providers.ProtocolWebSocket}) {
		t.Errorf("the calls were %q", got)
	}
}

func TestAWebSocketWithoutAFirstEventIsLeft(t *testing.T) {
	for _, kind := range []providertest.FaultKind{providertest.FaultSilence, providertest.FaultCut, providertest.FaultReset} {
		up := providertest.NewUpstream(t, providertest.Script{Pieces: mixed, Usage: usage})
		p := openai.SocketWaits(official(t, up, providers.Config{}), 20*time.Second, 200*time.Millisecond)
		fault := providertest.Fault{Kind: kind}
		if kind == providertest.FaultCut {
			fault = providertest.Fault{Kind: providertest.FaultMute}
		}
		up.Enqueue(providertest.Script{Fault: fault})
		whole(t, "the second try", collect(t, p, question), providertest.Script{Pieces: mixed, Usage: usage})
		if got := protocols(up); !slices.Equal(got, []providers.Protocol{providers.ProtocolWebSocket, providers.ProtocolSSE}) {
			t.Errorf("fault %d: the calls were %q", kind, got)
		}
		if kind != providertest.FaultReset {
			<-up.Calls()[0].HungUp() // what nobody waits for any more must not run on
		}
	}
}

// A second call would cost as much as the first, which may still be answered.
func TestAWebSocketThatHasWorkedAndIsSilentIsNotReplaced(t *testing.T) {
	script := providertest.Script{Pieces: mixed, Usage: usage}
	up := providertest.NewUpstream(t, script)
	p := openai.SocketWaits(official(t, up, providers.Config{}), 20*time.Second, 50*time.Millisecond)
	whole(t, "the first call", collect(t, p, question), script)
	up.Enqueue(providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultSilence}})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := p.Stream(ctx, question); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v, want the caller's deadline", err)
	}
	if got := protocols(up); !slices.Equal(got, []providers.Protocol{providers.ProtocolWebSocket, providers.ProtocolWebSocket}) {
		t.Errorf("the calls were %q", got)
	}
}

// Its headers come with it, which the deadline for those must know.
func TestAnAnswerInOnePieceIsToldBeforeItIsWaitedFor(t *testing.T) {
	script := providertest.Script{Pieces: mixed, Usage: usage}
	no := false
	for name, tc := range map[string]struct {
		new    providers.Factory
		cfg    providers.Config
		refuse bool
		want   int
	}{
		"a server that streams":              {openai.NewResponses, providers.Config{}, false, 0},
		"one that refuses to":                {openai.NewResponses, providers.Config{}, true, 1},
		"one that is configured not to":      {openai.NewChat, providers.Config{Features: providers.FeatureOverrides{Streaming: &no}}, false, 1},
		"chat with a server that streams":    {openai.NewChat, providers.Config{}, false, 0},
		"responses configured not to either": {openai.NewResponses, providers.Config{Features: providers.FeatureOverrides{Streaming: &no}}, false, 1},
	} {
		up := providertest.NewUpstream(t, script)
		up.RefuseStreams(tc.refuse)
		tc.cfg.BaseURL = up.URL
		told := 0
		asked := *question
		asked.InOnePiece = func() { told++ }
		whole(t, name, collect(t, must(t, tc.new, tc.cfg), &asked), script)
		if told != tc.want {
			t.Errorf("%s: it was told %d times, want %d", name, told, tc.want)
		}
	}
}

func TestAnOrdinaryErrorIsNoReasonToAskInAnotherWay(t *testing.T) {
	for _, status := range []int{401, 429, 500, 503} {
		up := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: status}})
		_, err := official(t, up, providers.Config{}).Stream(t.Context(), question)
		var e *protocol.Error
		if !errors.As(err, &e) || up.Count() != 1 {
			t.Errorf("%d: %v after %d calls", status, err, up.Count())
		}
		up.SetScript(providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: status}})
		if _, err := must(t, openai.NewResponses, providers.Config{BaseURL: up.URL}).Stream(t.Context(), question); err == nil || up.Count() != 2 {
			t.Errorf("%d over SSE: %v after %d calls", status, err, up.Count())
		}
	}
}

func TestAServerThatIsDownTeachesNothing(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultReset}})
	p := official(t, up, providers.Config{})
	if _, err := p.Stream(t.Context(), question); err == nil {
		t.Fatal("a server that is down answered")
	}
	up.SetScript(providertest.Script{Pieces: mixed, Usage: usage})
	n := up.Count()
	collect(t, p, question)
	if got := protocols(up)[n:]; !slices.Equal(got, []providers.Protocol{providers.ProtocolWebSocket}) {
		t.Errorf("afterwards the calls were %q", got)
	}
}

func TestAServerWithoutStreamsIsAskedForTheWhole(t *testing.T) {
	script := providertest.Script{Pieces: mixed, Usage: usage}
	up := providertest.NewUpstream(t, script)
	up.RefuseStreams(true)
	up.RefuseUpgrades(404)
	p := official(t, up, providers.Config{})
	for range 2 {
		whole(t, "whole", collect(t, p, question), script)
	}
	if got := protocols(up); !slices.Equal(got, []providers.Protocol{providers.ProtocolPolling, providers.ProtocolPolling}) || up.Refused() != 2 {
		t.Errorf("the calls were %q, %d were refused", got, up.Refused())
	}
}

func TestAServerThatIsSaidToStreamNothingAnswersInOnePiece(t *testing.T) {
	no := false
	for name, factory := range map[string]providers.Factory{"chat": openai.NewChat, "responses": openai.NewResponses, "deepseek": openai.NewDeepSeek} {
		script := providertest.Script{Pieces: mixed, Usage: usage}
		up := providertest.NewUpstream(t, script)
		p := must(t, factory, providers.Config{Name: "x", BaseURL: up.URL, Features: providers.FeatureOverrides{Streaming: &no}})
		a := collect(t, p, question)
		const want = 5 // started, reasoning, text, tool, usage
		if a.Chunks != want {
			t.Errorf("%s: the answer has %d chunks, want %d", name, a.Chunks, want)
		}
		whole(t, name, a, script)
		if f := p.Features(); f.Streaming || !reflect.DeepEqual(f.Protocols, []providers.Protocol{providers.ProtocolPolling}) {
			t.Errorf("%s: the features are %+v", name, f)
		}
		for fault, code := range map[providertest.FaultKind]protocol.Code{
			providertest.FaultCut: protocol.CodeStreamInterrupted, providertest.FaultEnd: protocol.CodeInvalidResponse, providertest.FaultMalformed: protocol.CodeInvalidResponse,
		} {
			up.SetScript(providertest.Script{Pieces: mixed, Fault: providertest.Fault{Kind: fault}})
			if a := collect(t, p, question); a.Outcome.State == providers.StateComplete || a.Outcome.Err == nil || a.Outcome.Err.Code != code || a.Text != "" {
				t.Errorf("%s: fault %d gave %+v", name, fault, a)
			}
		}
	}
}
