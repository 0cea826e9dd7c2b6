package providers_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// endless is a provider, and a stream that never ends by itself.
type endless struct {
	chunk  providers.Chunk
	closed bool
}

func (e *endless) Name() string                 { return "endless" }
func (e *endless) Features() providers.Features { return providers.Features{} }
func (e *endless) Outcome() providers.Outcome   { return providers.Outcome{} }

func (e *endless) Stream(context.Context, *providers.Request) (providers.Stream, error) {
	return e, nil
}

func (e *endless) Next() (providers.Chunk, error) {
	if e.chunk.Type == 0 {
		return providers.Chunk{}, io.EOF
	}
	return e.chunk, nil
}

func (e *endless) Close() error {
	e.closed = true
	return nil
}

func TestAnAnswerIsBoundedInMemory(t *testing.T) {
	for name, c := range map[string]providers.Chunk{
		"text":     {Type: providers.ChunkText, Text: strings.Repeat("x", 64<<10)},
		"findings": {Type: providers.ChunkFinding, Finding: &protocol.Finding{Message: strings.Repeat("x", 8<<10)}},
	} {
		p := &endless{chunk: c}
		a, err := providers.Analyze(t.Context(), p, &providers.Request{})
		if !errors.Is(err, &protocol.Error{Code: protocol.CodeInvalidResponse}) || !p.closed {
			t.Errorf("%s: the error is %v, closed %v; want invalid_response, closed", name, err, p.closed)
		}
		if n := len(a.Text); n > providers.MaxAnswerBytes+len(c.Text) {
			t.Errorf("%s: %d bytes were kept", name, n)
		}
	}
}

func TestAnAnswerThatDoesNotSayItIsWholeIsNot(t *testing.T) {
	_, err := providers.Analyze(t.Context(), &endless{}, &providers.Request{})
	if !errors.Is(err, &protocol.Error{Code: protocol.CodeStreamInterrupted}) || protocol.AsError(err).Provider != "endless" {
		t.Errorf("the error is %v, want stream_interrupted of the provider", err)
	}
}

func TestReadingEndsWithTheErrorOfTheOneWhoLooks(t *testing.T) {
	want := errors.New("enough")
	p := &endless{chunk: providers.Chunk{Type: providers.ChunkText, Text: "x"}}
	n := 0
	a, err := providers.Read(p, func(*providers.Chunk) error {
		if n++; n == 3 {
			return want
		}
		return nil
	})
	if err != want || a.Text != "xx" || !p.closed {
		t.Errorf("%q, %v, closed %v; want what was read before, the error, closed", a.Text, err, p.closed)
	}
}

func TestAConfigurationChangesFeatures(t *testing.T) {
	f := providers.Features{Models: []string{"a"}, Protocols: []providers.Protocol{providers.ProtocolSSE}, Streaming: true}
	got, err := f.With(providers.Config{Models: []string{"b"}, Protocol: providers.ProtocolSSE,
		Features: providers.FeatureOverrides{Streaming: new(false), Prefill: new(true)}})
	if err != nil || got.DefaultModel() != "b" || got.Streaming || !got.Prefill || got.Batching {
		t.Errorf("the features are %+v, %v", got, err)
	}
	if _, err := f.With(providers.Config{Protocol: providers.ProtocolWebSocket}); err == nil || !strings.HasPrefix(err.Error(), "protocol") {
		t.Errorf("a protocol that the dialect doesn't have gave %v", err)
	}
}
