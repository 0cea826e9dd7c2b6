package gateway_test

import (
	"context"
	"strings"
	"testing"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// A fullHub has no place for another connection.
type fullHub struct{ *hub.Hub }

func (fullHub) Admissible(context.Context) error {
	return protocol.Errorf(protocol.CodeOverloaded, "this node has its limit of connections")
}

// It would run, and cost, for nobody.
func TestAnAnalysisThatItsClientCouldNotWatchIsNotStarted(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.Streams = fullHub{o.Streams.(*hub.Hub)} })
	for name, a := range map[string]answer{
		"as a stream":     n.do("POST", "/v1/analyses", `{"code":"x"}`, "Accept", "text/event-stream"),
		"with its result": n.do("POST", "/v1/analyses?wait=10s", `{"code":"x"}`),
	} {
		if a.status != 503 || !strings.Contains(a.body, "overloaded") || a.header.Get("Location") != "" {
			t.Errorf("%s: %d %v %s", name, a.status, a.header, a.body)
		}
	}
	if len(n.jobs.started) != 0 {
		t.Errorf("%d analyses were started", len(n.jobs.started))
	}
	n.startJob("x") // who only wants to know its name needs no place
}

// Without its headers a page would see a failure without a reason.
func TestAPageOfAnAllowedOriginSeesWhyItsRequestWasRefused(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.MaxCodeBytes = 1000 })
	for name, a := range map[string]answer{
		"too large": n.do("POST", "/v1/analyses", `{"code":"`+strings.Repeat("x", 100_000)+`"}`, "Origin", "https://app.example.com"),
		"a body":    n.do("DELETE", "/v1/streams/"+protocol.NewStreamID(), "{}", "Origin", "https://app.example.com"),
	} {
		if a.status < 400 || a.header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
	}
}

func TestTheLogTellsStreamsFromAnswers(t *testing.T) {
	n := start(t, false)
	id := n.startJob("x")
	n.do("GET", "/v1/streams/"+id+"/events", "", "Accept", "text/event-stream")
	for line := range strings.Lines(n.log.String()) {
		streamed := strings.Contains(line, `"route":"GET /v1/streams/{id}/events"`)
		if strings.Contains(line, `"message":"request"`) && (strings.Contains(line, `"streamed":true`) != streamed || strings.Contains(line, `"took_ms"`) == streamed) {
			t.Errorf("the log says %s", line)
		}
	}
}
