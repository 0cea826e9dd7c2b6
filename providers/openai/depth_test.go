package openai_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/openai"
)

// TestNestingWithoutEndIsAMalformedAnswer: a parser that recurses as deep as
// its input would end the process, not the call.
func TestNestingWithoutEndIsAMalformedAnswer(t *testing.T) {
	deep := append([]byte(`{"a":`), bytes.Repeat([]byte("["), 8<<20-100)...)
	for _, kind := range []string{"text/event-stream", "application/json"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			if kind == "text/event-stream" {
				_, _ = w.Write([]byte("data: "))
			}
			_, _ = w.Write(deep)
			if kind == "text/event-stream" {
				_, _ = w.Write([]byte("\n\n"))
			}
		}))
		defer srv.Close()
		for name, factory := range map[string]providers.Factory{"chat": openai.NewChat, "responses": openai.NewResponses} {
			p := must(t, factory, providers.Config{BaseURL: srv.URL, Protocol: providers.ProtocolSSE})
			s, err := p.Stream(t.Context(), question)
			if err == nil {
				_, err = s.Next()
				_ = s.Close()
			}
			if e := protocol.AsError(err); e.Code != protocol.CodeInvalidResponse {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
		p := must(t, openai.NewChat, providers.Config{BaseURL: srv.URL})
		if _, err := p.(providers.ModelLister).ListModels(t.Context()); protocol.AsError(err).Code != protocol.CodeInvalidResponse {
			t.Errorf("the list of models: %v", err)
		}
	}
}
