package openai

import (
	"hash/maphash"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// A track is a kind of text that an answer has, in the order of its output.
type track uint8

const (
	trackText track = iota // with refusals
	trackSummary
	trackThought
	trackTool
	tracks
)

var trackChunk = [tracks]providers.ChunkType{providers.ChunkText, providers.ChunkReasoning, providers.ChunkReasoning, providers.ChunkTool}

// A responsesDecoder reads the events of one answer of the Responses dialect,
// or the whole answer as a JSON object, which it takes for the last event.
//
// The last event repeats the whole answer. What was not told before is taken
// from there: all of it where nothing was streamed, the rest where a cut stream
// could only be asked for its end.
type responsesDecoder struct {
	outcome   providers.Outcome
	started   bool
	refused   bool
	called    bool // a tool
	delivered [tracks]int
	digest    [tracks]maphash.Hash // of what was delivered
}

func newResponsesDecoder(model string) *responsesDecoder {
	return &responsesDecoder{outcome: providers.Outcome{Model: model}}
}

// Literal is what some servers send behind the last event. It means nothing.
func (d *responsesDecoder) Literal() string { return done }

func (d *responsesDecoder) Outcome() providers.Outcome { return d.outcome }

// Decode takes one event:
//
//	{"type":"response.output_text.delta","sequence_number":…,"delta":…}
//	{"type":"response.completed","sequence_number":…,"response":{"status":…,"model":…,"output":[…],"usage":…}}
//
// The text is copied once, and every string of it is a piece of that copy.
func (d *responsesDecoder) Decode(ev upstream.Event, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	if string(ev.Data) == done {
		return out, upstream.More, nil
	}
	text := string(ev.Data)
	var kind, delta, response, item, failure gjson.Result
	var object string
	gjson.Parse(text).ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "type":
			kind = v
		case "delta":
			delta = v
		case "response":
			response = v
		case "item":
			item = v
		case "error":
			failure = v
		case "object":
			object = v.Str
		}
		return true
	})
	switch kind.Str {
	case "response.output_text.delta":
		return d.delta(trackText, delta, out)
	case "response.refusal.delta":
		d.refused = true
		return d.delta(trackText, delta, out)
	case "response.reasoning_summary_text.delta":
		return d.delta(trackSummary, delta, out)
	case "response.reasoning_text.delta":
		return d.delta(trackThought, delta, out)
	case "response.function_call_arguments.delta", "response.custom_tool_call_input.delta", "response.mcp_call_arguments.delta":
		d.called = true
		return d.delta(trackTool, delta, out)
	case "response.output_item.added":
		d.called = d.called || isCall(item)
	case "response.created", "response.in_progress", "response.queued",
		"response.completed", "response.incomplete", "response.failed", "response.cancelled":
		return d.response(response, strings.TrimPrefix(kind.Str, "response."), out)
	case "error":
		return out, upstream.More, upstream.ParseFailure(0, ev.Data).Error(d.outcome.Model)
	case "":
		if object == "response" {
			return d.response(gjson.Parse(text), "", out)
		}
		if failure.Exists() && failure.Type != gjson.Null {
			return out, upstream.More, upstream.ParseFailure(0, ev.Data).Error(d.outcome.Model)
		}
	}
	return out, upstream.More, nil
}

func isCall(item gjson.Result) bool {
	switch item.Get("type").Str {
	case "function_call", "custom_tool_call", "mcp_call":
		return true
	}
	return false
}

func (d *responsesDecoder) delta(t track, v gjson.Result, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	if v.Type != gjson.String {
		return out, upstream.More, protocol.Errorf(protocol.CodeInvalidResponse, "a chunk of the answer has content that is not text")
	}
	return d.piece(t, v.Str, out), upstream.More, nil
}

func (d *responsesDecoder) piece(t track, text string, out []providers.Chunk) []providers.Chunk {
	if text == "" {
		return out
	}
	d.delivered[t] += len(text)
	_, _ = d.digest[t].WriteString(text) // it doesn't fail
	return append(out, providers.Chunk{Type: trackChunk[t], Text: text})
}

// response takes a response object, as it is now. status stands for its own
// where it has none.
func (d *responsesDecoder) response(r gjson.Result, status string, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	if s := r.Get("status"); s.Type == gjson.String && s.Str != "" && (status == "" || status == "completed") {
		status = s.Str
	}
	if m := r.Get("model"); m.Type == gjson.String && m.Str != "" {
		d.outcome.Model = m.Str
		if !d.started {
			d.started = true
			out = append(out, providers.Chunk{Type: providers.ChunkStarted, Text: m.Str})
		}
	}
	switch status {
	case "completed", "incomplete", "failed", "cancelled":
	default: // created, queued, in_progress
		return out, upstream.More, nil
	}
	var err *protocol.Error
	if status != "failed" && status != "cancelled" {
		if out, err = d.rest(r.Get("output"), out); err != nil {
			return out, upstream.More, err
		}
	}
	if u := r.Get("usage"); u.IsObject() {
		d.outcome.Usage = readResponsesUsage(u)
		out = append(out, providers.Chunk{Type: providers.ChunkUsage, Usage: d.outcome.Usage})
	}
	return d.finish(r, status, out)
}

// finish says what the end of an answer means.
func (d *responsesDecoder) finish(r gjson.Result, status string, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	switch status {
	case "completed":
		d.outcome.FinishReason = "stop"
		switch {
		case d.refused:
			d.outcome.FinishReason = "refusal"
		case d.called:
			d.outcome.FinishReason = "tool"
		}
		return out, upstream.Last, nil
	case "incomplete":
		switch reason := r.Get("incomplete_details.reason").String(); reason {
		case "max_output_tokens", "max_tokens":
			d.outcome.FinishReason = "length"
			return out, upstream.Last, nil
		case "content_filter":
			d.outcome.FinishReason = reason
			return out, upstream.More, protocol.Errorf(protocol.CodeContentFiltered, "the provider's content filter ended the answer")
		default:
			return out, upstream.More, protocol.Errorf(protocol.CodeStreamInterrupted, "the provider left the answer incomplete: %.100q", reason)
		}
	case "cancelled":
		return out, upstream.More, protocol.Errorf(protocol.CodeStreamInterrupted, "the answer was cancelled at the provider")
	}
	said := `{"error":` + r.Get("error").Raw + `}`
	return out, upstream.More, upstream.ParseFailure(0, []byte(said)).Error(d.outcome.Model)
}

// rest appends what output has behind what was delivered. That must be the
// beginning of output then: where a delta was lost on the way, the rest would
// not fit to it.
func (d *responsesDecoder) rest(output gjson.Result, out []providers.Chunk) ([]providers.Chunk, *protocol.Error) {
	skip := d.delivered
	var err *protocol.Error
	var skipped [tracks]maphash.Hash
	var fits [tracks]bool
	tell := func(t track, v gjson.Result) {
		text := v.Str
		if n := min(skip[t], len(text)); n > 0 {
			if skip[t] == d.delivered[t] {
				skipped[t].SetSeed(d.digest[t].Seed())
			}
			_, _ = skipped[t].WriteString(text[:n]) // it doesn't fail
			skip[t] -= n
			text = text[n:]
		}
		if text == "" || err != nil {
			return
		}
		fits[t] = fits[t] || d.delivered[t] == 0 || skipped[t].Sum64() == d.digest[t].Sum64()
		if !fits[t] || !utf8.RuneStart(text[0]) {
			err = protocol.Errorf(protocol.CodeInvalidResponse, "the end of the answer doesn't fit to its beginning")
			return
		}
		out = d.piece(t, text, out)
	}
	output.ForEach(func(_, item gjson.Result) bool {
		switch item.Get("type").Str {
		case "message":
			item.Get("content").ForEach(func(_, part gjson.Result) bool {
				if refusal := part.Get("refusal"); refusal.Type == gjson.String {
					d.refused = true
					tell(trackText, refusal)
				} else {
					tell(trackText, part.Get("text"))
				}
				return true
			})
		case "reasoning":
			item.Get("summary").ForEach(func(_, part gjson.Result) bool {
				tell(trackSummary, part.Get("text"))
				return true
			})
			item.Get("content").ForEach(func(_, part gjson.Result) bool {
				tell(trackThought, part.Get("text"))
				return true
			})
		case "function_call", "mcp_call":
			d.called = true
			tell(trackTool, item.Get("arguments"))
		case "custom_tool_call":
			d.called = true
			tell(trackTool, item.Get("input"))
		}
		return err == nil
	})
	return out, err
}

func readResponsesUsage(u gjson.Result) *protocol.Usage {
	count := func(path string) int64 { return max(u.Get(path).Int(), 0) }
	return &protocol.Usage{
		InputTokens:     count("input_tokens"),
		OutputTokens:    count("output_tokens"),
		CachedTokens:    count("input_tokens_details.cached_tokens"),
		ReasoningTokens: count("output_tokens_details.reasoning_tokens"),
	}
}
