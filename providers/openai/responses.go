package openai

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

const (
	responsesPath = "/responses"
	// apiVersion is what OpenAI calls the version of both dialects.
	apiVersion = "v1"
)

// socketWaits bound what a WebSocket that doesn't work costs before the answer
// is asked for by server-sent events. The first message only says that the
// answer has been begun, and comes at once.
var socketWaits = upstream.SocketWaits{Open: 5 * time.Second, First: 10 * time.Second}

// responses is the half of a Provider that speaks the Responses dialect.
type responses struct {
	client   *upstream.Client
	official bool
	ways     ways
	waits    upstream.SocketWaits
	times    backgroundWaits
}

// responsesWays says in which order to ask. What the vendor stores of a
// background answer is stored only where the configuration wants one.
func responsesWays(cfg providers.Config, official, streaming bool) ([]way, error) {
	background := cfg.Background || cfg.Protocol == providers.ProtocolPolling
	switch cfg.Protocol {
	case "", providers.ProtocolSSE, providers.ProtocolPolling:
	case providers.ProtocolWebSocket:
		if background || !streaming {
			return nil, fmt.Errorf("protocol: %q carries no answers in the background, or in one piece", cfg.Protocol)
		}
	default:
		return nil, fmt.Errorf("protocol: %q is not one of websocket, sse and polling", cfg.Protocol)
	}
	switch {
	case background && streaming:
		return []way{wayBackground, wayPolls, wayWhole}, nil
	case background:
		return []way{wayPolls, wayWhole}, nil
	case !streaming:
		return []way{wayWhole}, nil
	case cfg.Protocol == providers.ProtocolWebSocket, cfg.Protocol == "" && official:
		return []way{waySocket, wayEvents, wayWhole}, nil
	}
	return []way{wayEvents, wayWhole}, nil
}

// stream asks in the best way that works.
func (r *responses) stream(ctx context.Context, req *providers.Request, model string) (providers.Stream, error) {
	for i := r.ways.first(); ; i++ {
		s, other, err := r.ask(ctx, r.ways.list[i], req, model)
		if err == nil {
			r.ways.worked(i)
			return s, nil
		}
		if !other || ctx.Err() != nil || i == len(r.ways.list)-1 {
			return nil, err
		}
	}
}

// ask asks in one way. other reports whether an error says that another way
// may work.
func (r *responses) ask(ctx context.Context, w way, req *providers.Request, model string) (s providers.Stream, other bool, err error) {
	body, err := json.Marshal(r.request(w, req, model))
	if err != nil {
		return nil, false, fmt.Errorf("encode the request to %s: %w", r.client.Name(), err)
	}
	call := upstream.Call{Path: responsesPath, Header: make(http.Header), Body: body, Model: model,
		Decoder: newResponsesDecoder(model), Limit: upstream.MaxWholeBytes, Whole: w == wayWhole || w == wayPolls}
	if w == wayWhole {
		call.InOnePiece = req.InOnePiece
	}
	if req.RequestID != "" && r.official {
		call.Header.Set("X-Client-Request-Id", req.RequestID)
	}
	switch w {
	case waySocket:
		waits := r.waits
		if r.ways.proven(w) {
			waits.First = 0 // its silence is the provider's, as with any way
		}
		return r.client.Socket(ctx, call, waits)
	case wayBackground, wayPolls:
		return r.background(ctx, call)
	}
	return r.client.TryStream(ctx, call)
}

// responsesRequest is the part of the dialect's request that is used here. Over
// a WebSocket it is a message, with its type.
type responsesRequest struct {
	Type            string            `json:"type,omitempty"`
	Model           string            `json:"model"`
	Instructions    string            `json:"instructions,omitempty"`
	Input           any               `json:"input"` // a string, or []inputMessage
	Stream          bool              `json:"stream,omitempty"`
	Background      bool              `json:"background,omitempty"`
	Store           bool              `json:"store"` // the vendor stores where it is missing
	MaxOutputTokens int               `json:"max_output_tokens,omitempty"`
	Temperature     *float64          `json:"temperature,omitempty"`
	Reasoning       *reasoning        `json:"reasoning,omitempty"`
	Metadata        map[string]string `json:"metadata,omitempty"`
}

type reasoning struct {
	Effort  string `json:"effort"`
	Summary string `json:"summary,omitempty"`
}

type inputMessage struct {
	Type    string        `json:"type"`
	Role    string        `json:"role"`
	Content []contentPart `json:"content"`
}

type contentPart struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// maxMetadata is how long the vendor takes a value of metadata.
const maxMetadata = 512

func (r *responses) request(w way, req *providers.Request, model string) *responsesRequest {
	b := &responsesRequest{Model: model, Instructions: req.System, Input: req.Prompt, MaxOutputTokens: req.MaxTokens}
	switch w {
	case waySocket:
		b.Type = "response.create"
	case wayEvents:
		b.Stream = true
	case wayBackground, wayPolls:
		b.Stream, b.Background, b.Store = w == wayBackground, true, true
		// What is stored can be found there by the name it has here.
		if id := req.RequestID; id != "" && len(id) <= maxMetadata {
			b.Metadata = map[string]string{"request_id": id}
		}
	}
	if upstream.Continues(req) {
		b.Input = []inputMessage{
			{"message", "user", []contentPart{{"input_text", req.Prompt}}},
			{"message", "assistant", []contentPart{{"output_text", req.Partial}}},
			{"message", "user", []contentPart{{"input_text", providers.ContinuePrompt}}},
		}
	}
	var options protocol.RequestOptions
	if req.Analysis != nil {
		options = req.Analysis.Options
	}
	b.Temperature = options.Temperature
	switch options.Reasoning {
	case "":
	case "off":
		b.Reasoning = &reasoning{Effort: "none"}
	default:
		// Without a summary, nothing is told of the thoughts.
		b.Reasoning = &reasoning{Effort: options.Reasoning, Summary: "auto"}
	}
	return b
}

// isOfficial reports whether host is OpenAI's own, or Azure's.
func isOfficial(host string) bool {
	return host == "api.openai.com" || strings.HasSuffix(host, ".openai.azure.com")
}
