package openai_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

// TestAServerThatStreamsNothingThoughItIsAskedToGivesOneChunk: some servers know
// no "stream", or have it turned off, and answer with one object.
func TestAServerThatStreamsNothingThoughItIsAskedToGivesOneChunk(t *testing.T) {
	for body, want := range map[string]struct {
		text string
		code protocol.Code
	}{
		`{"id":"1","object":"chat.completion","model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":"Grüße"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}`: {text: "Grüße"},
		`{"choices":[{"message":{"role":"assistant","content":"half"},"finish_reason":null}]}`:                                                                                                                  {text: "half", code: protocol.CodeStreamInterrupted},
		`{"error":{"message":"slow down","type":"rate_limit_error"}}`:                                                                                                                                           {code: protocol.CodeRateLimited},
		`{"hello":"world"}`: {code: protocol.CodeInvalidResponse},
		`{"choices":[{"me`:  {code: protocol.CodeInvalidResponse},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		}))
		defer server.Close()
		p, err := openai.NewChat(providers.Config{Name: "p", BaseURL: server.URL, Models: []string{"m"}})
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Stream(t.Context(), &providers.Request{Model: "m", Prompt: "x"})
		var a providertest.Answer
		if err == nil {
			a, err = providertest.Collect(s)
			if err != nil {
				t.Fatal(err)
			}
			if err = a.Err; err == nil && a.Outcome.Err != nil {
				err = a.Outcome.Err
			}
		}
		var e *protocol.Error
		errors.As(err, &e)
		switch {
		case want.code == "" && (err != nil || a.Text != want.text || a.Outcome.State != providers.StateComplete || a.Outcome.Model != "m-1" || a.Outcome.Usage == nil):
			t.Errorf("%s: %+v, %v", body, a, err)
		case want.code != "" && (e == nil || e.Code != want.code || a.Text != want.text || a.Outcome.State == providers.StateComplete):
			t.Errorf("%s: %+v, %v", body, a, err)
		}
	}
}
