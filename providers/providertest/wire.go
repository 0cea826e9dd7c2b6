package providertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/athena-hub/athena/protocol"
)

// A wire writes one answer's events in a dialect, byte for byte as the vendor
// does. Each method appends whole events.
type wire interface {
	begin(b []byte) []byte
	piece(b []byte, p Piece) []byte
	ping(b []byte) []byte
	// finish says why the answer ended and what it cost; end is the last word.
	finish(b []byte, reason string, usage *protocol.Usage) []byte
	end(b []byte) []byte
	malformed(b []byte, data string) []byte
	failure(b []byte, code, message string) []byte
}

// quote returns s as JSON, as the vendors write it: without escaping <, > and &.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err) // a string always has JSON
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// openAIWire is Chat Completions.
type openAIWire struct {
	head  string // of every chunk, up to "choices":
	tools int    // pieces of the tool call so far
	usage bool   // the client asked for it
}

func newOpenAIWire(model string, usage bool) *openAIWire {
	return &openAIWire{usage: usage, head: `{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1795384800,"model":` +
		quote(model) + `,"service_tier":"default","system_fingerprint":"fp_f33640a400"`}
}

func (w *openAIWire) chunk(b []byte, delta, finish string) []byte {
	b = append(b, "data: "...)
	b = append(b, w.head...)
	b = append(b, `,"choices":[{"index":0,"delta":`...)
	b = append(b, delta...)
	b = append(b, `,"logprobs":null,"finish_reason":`...)
	b = append(b, finish...)
	b = append(b, "}]"...)
	if w.usage {
		b = append(b, `,"usage":null`...)
	}
	return append(b, "}\n\n"...)
}

func (w *openAIWire) begin(b []byte) []byte {
	return w.chunk(b, `{"role":"assistant","content":"","refusal":null}`, "null")
}

func (w *openAIWire) piece(b []byte, p Piece) []byte {
	switch p.Kind {
	case PieceReasoning:
		return w.chunk(b, `{"content":null,"reasoning_content":`+quote(p.Text)+`}`, "null")
	case PieceTool:
		if w.tools++; w.tools == 1 {
			b = w.chunk(b, `{"tool_calls":[{"index":0,"id":"call_1QTqT5kJHEOSYb2dq4bcUS1o","type":"function","function":{"name":"report","arguments":""}}]}`, "null")
		}
		return w.chunk(b, `{"tool_calls":[{"index":0,"function":{"arguments":`+quote(p.Text)+`}}]}`, "null")
	}
	return w.chunk(b, `{"content":`+quote(p.Text)+`}`, "null")
}

func (w *openAIWire) ping(b []byte) []byte { return b } // there is none

func (w *openAIWire) finish(b []byte, reason string, usage *protocol.Usage) []byte {
	if reason == "" {
		reason = "stop"
	}
	b = w.chunk(b, "{}", quote(reason))
	if usage == nil || !w.usage {
		return b
	}
	return fmt.Appendf(b, `data: %s,"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,`+
		`"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,`+
		`"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}`+"\n\n", w.head, usage.InputTokens, usage.OutputTokens,
		usage.InputTokens+usage.OutputTokens, usage.CachedTokens, usage.ReasoningTokens)
}

func (w *openAIWire) end(b []byte) []byte { return append(b, "data: [DONE]\n\n"...) }

func (w *openAIWire) malformed(b []byte, data string) []byte {
	if data == "" {
		data = w.head + `,"choices":[{"index":0,"delta":{"content":"garb`
	}
	return append(b, "data: "+data+"\n\n"...)
}

func (w *openAIWire) failure(b []byte, code, message string) []byte {
	return fmt.Appendf(b, `data: {"error":{"message":%s,"type":%s,"param":null,"code":null}}`+"\n\n", quote(message), quote(code))
}

// claudeWire is Messages.
type claudeWire struct {
	model string
	usage *protocol.Usage
	block int // the index of the open block, -1 before the first
	kind  PieceKind
	open  bool
}

func newClaudeWire(model string, usage *protocol.Usage) *claudeWire {
	return &claudeWire{model: model, usage: usage, block: -1}
}

func claudeEvent(b []byte, name, data string) []byte {
	b = append(b, "event: "+name+"\ndata: "...)
	b = append(b, data...)
	return append(b, "\n\n"...)
}

func (w *claudeWire) begin(b []byte) []byte {
	u := protocol.Usage{}
	if w.usage != nil {
		u = *w.usage
	}
	b = claudeEvent(b, "message_start", fmt.Sprintf(`{"type":"message_start","message":{"model":%s,"id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message",`+
		`"role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":%d,"cache_creation_input_tokens":0,`+
		`"cache_read_input_tokens":%d,"output_tokens":%d,"service_tier":"standard"}}}`, quote(w.model), u.InputTokens-u.CachedTokens, u.CachedTokens,
		min(u.OutputTokens, 1)))
	return b
}

// openBlock makes the open block one of kind.
func (w *claudeWire) openBlock(b []byte, kind PieceKind) []byte {
	if w.open && w.kind == kind {
		return b
	}
	first := w.block < 0
	b = w.closeBlock(b)
	w.block++
	w.open, w.kind = true, kind
	block := `{"type":"text","text":""}`
	switch kind {
	case PieceReasoning:
		block = `{"type":"thinking","thinking":"","signature":""}`
	case PieceTool:
		block = `{"type":"tool_use","id":"toolu_01A09q90qw90lq917835lq9","name":"report","input":{}}`
	}
	b = claudeEvent(b, "content_block_start", `{"type":"content_block_start","index":`+strconv.Itoa(w.block)+`,"content_block":`+block+`}`)
	if first {
		b = w.ping(b)
	}
	return b
}

func (w *claudeWire) closeBlock(b []byte) []byte {
	if !w.open {
		return b
	}
	if w.kind == PieceReasoning {
		b = w.delta(b, `{"type":"signature_delta","signature":"EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"}`)
	}
	w.open = false
	return claudeEvent(b, "content_block_stop", `{"type":"content_block_stop","index":`+strconv.Itoa(w.block)+`}`)
}

func (w *claudeWire) delta(b []byte, delta string) []byte {
	return claudeEvent(b, "content_block_delta", `{"type":"content_block_delta","index":`+strconv.Itoa(w.block)+`,"delta":`+delta+`}`)
}

func (w *claudeWire) piece(b []byte, p Piece) []byte {
	b = w.openBlock(b, p.Kind)
	switch p.Kind {
	case PieceReasoning:
		return w.delta(b, `{"type":"thinking_delta","thinking":`+quote(p.Text)+`}`)
	case PieceTool:
		return w.delta(b, `{"type":"input_json_delta","partial_json":`+quote(p.Text)+`}`)
	}
	return w.delta(b, `{"type":"text_delta","text":`+quote(p.Text)+`}`)
}

func (w *claudeWire) ping(b []byte) []byte { return claudeEvent(b, "ping", `{"type": "ping"}`) }

func (w *claudeWire) finish(b []byte, reason string, usage *protocol.Usage) []byte {
	if reason == "" {
		reason = "end_turn"
	}
	b = w.closeBlock(b)
	u := protocol.Usage{}
	if usage != nil {
		u = *usage
	}
	return claudeEvent(b, "message_delta", fmt.Sprintf(`{"type":"message_delta","delta":{"stop_reason":%s,"stop_sequence":null},"usage":{"input_tokens":%d,`+
		`"cache_creation_input_tokens":0,"cache_read_input_tokens":%d,"output_tokens":%d,"output_tokens_details":{"thinking_tokens":%d}}}`,
		quote(reason), u.InputTokens-u.CachedTokens, u.CachedTokens, u.OutputTokens, u.ReasoningTokens))
}

func (w *claudeWire) end(b []byte) []byte {
	return claudeEvent(b, "message_stop", `{"type":"message_stop"}`)
}

func (w *claudeWire) malformed(b []byte, data string) []byte {
	if data == "" {
		data = `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"garb`
	}
	return claudeEvent(b, "content_block_delta", data)
}

func (w *claudeWire) failure(b []byte, code, message string) []byte {
	return claudeEvent(b, "error", fmt.Sprintf(`{"type":"error","error":{"type":%s,"message":%s}}`, quote(code), quote(message)))
}

// statusBody is what a vendor answers with an HTTP error.
func statusBody(d Dialect, status int) string {
	message := "scripted failure: " + http.StatusText(status)
	kind := map[int]string{400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
		404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error"}[status]
	if kind == "" {
		kind = "api_error"
	}
	return errorBody(d, kind, message)
}

func errorBody(d Dialect, kind, message string) string {
	if d == Claude {
		return fmt.Sprintf(`{"type":"error","error":{"type":%s,"message":%s},"request_id":"req_011CSHoEeqs5C35K2UUqR7Fy"}`, quote(kind), quote(message))
	}
	return fmt.Sprintf(`{"error":{"message":%s,"type":%s,"param":null,"code":null}}`, quote(message), quote(kind))
}
