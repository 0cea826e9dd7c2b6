package providers_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// A Bard asks a server of an imaginary wire: POST /v1/sing with {"model":…,
// "turns":[…]} is answered with server-sent events {"verse":"…"} and a last
// {"end":true}. Connections, errors, key checks and rate limits are upstream's.
type Bard struct {
	*upstream.Client
	features providers.Features
}

// NewBard is the Factory of the kind.
func NewBard(cfg providers.Config) (providers.Provider, error) {
	client, err := upstream.NewClient(cfg, upstream.Dialect{
		Name: "bard", BaseURL: "https://api.bard.example/v1", Models: "/models",
		Path:      func(path string) string { return path },
		Authorize: func(h http.Header, key string) { h.Set("Authorization", "Bearer "+key) },
		Limits: func(http.Header, time.Time) (providers.RateLimits, bool) {
			return providers.RateLimits{}, false // tells none
		},
	})
	if err != nil {
		return nil, err
	}
	features, err := providers.Features{Models: []string{"homer-1"}, Version: "v1", Streaming: true,
		Protocols: []providers.Protocol{providers.ProtocolSSE}}.With(cfg)
	return &Bard{client, features}, err
}

func (b *Bard) Features() providers.Features { return b.features }

func (b *Bard) Stream(ctx context.Context, req *providers.Request) (providers.Stream, error) {
	question := map[string]any{"model": req.Model, "turns": upstream.Turns(req, b.features.Prefill)}
	return b.Ask(ctx, question, upstream.Call{Path: "/sing", Model: req.Model, Decoder: &verses{}})
}

// verses decodes one answer.
type verses struct{ outcome providers.Outcome }

func (*verses) Literal() string              { return "" }
func (v *verses) Outcome() providers.Outcome { return v.outcome }

func (v *verses) Decode(ev upstream.Event, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	event := gjson.Parse(string(ev.Data)) // a copy: the chunk's text is part of it
	if event.Get("end").Bool() {
		v.outcome.FinishReason = "stop"
		return out, upstream.Last, nil
	}
	if verse := event.Get("verse").Str; verse != "" {
		out = append(out, providers.Chunk{Type: providers.ChunkText, Text: verse})
	}
	return out, upstream.More, nil
}

// Adding a provider takes a package of its own, here Bard, and one line that
// registers it.
func Example() {
	var registry providers.Registry
	registry.Register("bard", NewBard)

	// The second answer breaks off, the third is refused.
	answers := []string{"data: {\"verse\":\"Sing, \"}\n\ndata: {\"verse\":\"goddess\"}\n\ndata: {\"end\":true}\n\n", "data: {\"verse\":\"Sing\"}\n\n"}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if len(answers) == 0 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte(answers[0]))
		answers = answers[1:]
	}))
	defer server.Close()

	bard, err := registry.New(providers.Config{Name: "greek", Dialect: "bard", BaseURL: server.URL, APIKey: "secret-key"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		answer, err := providers.Analyze(context.Background(), bard, &providers.Request{Model: "homer-1", Prompt: "Sing."})
		if answer != nil {
			fmt.Printf("%q, %q\n", answer.Text, answer.Outcome.FinishReason)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// "Sing, goddess", "stop"
	// "Sing", ""
	// read the answer of greek: stream_interrupted (greek): the answer ended without its end marker
	// ask greek: rate_limited (greek): the provider answered 429
}
