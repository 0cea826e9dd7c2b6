package claude

import (
	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// A decoder reads the events of one answer.
type decoder struct {
	outcome providers.Outcome
	usage   usage
}

// usage is what the provider said so far. message_start has the prompt's
// part, message_delta totals that replace it, and either may lack a field.
type usage struct {
	seen                                bool
	input, created, read, output, think int64
}

func newDecoder(model string) *decoder {
	return &decoder{outcome: providers.Outcome{Model: model}}
}

// Literal is empty: the dialect has no event that is not JSON.
func (d *decoder) Literal() string { return "" }

func (d *decoder) Outcome() providers.Outcome {
	o := d.outcome
	o.Usage = d.usage.total()
	return o
}

// Decode takes one event. Its type stands in the data, and again in the
// event's name, which proxies are known to lose. The text is copied once, and
// every string of it is a piece of that copy.
func (d *decoder) Decode(ev upstream.Event, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	root := gjson.Parse(string(ev.Data))
	var kind string
	// "inner" is the one member that has what the event tells.
	var inner, outer gjson.Result
	root.ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "type":
			kind = v.Str
		case "delta", "message", "content_block", "error":
			inner = v
		case "usage":
			outer = v
		}
		return true
	})
	if kind == "" {
		kind = string(ev.Name)
	}
	switch kind {
	case "content_block_delta":
		return d.delta(inner, out)
	case "content_block_start":
		return d.start(inner, out)
	case "message_start":
		if m := inner.Get("model"); m.Type == gjson.String && m.Str != "" {
			d.outcome.Model = m.Str
			out = append(out, providers.Chunk{Type: providers.ChunkStarted, Text: m.Str})
		}
		return d.tally(inner.Get("usage"), out), upstream.More, nil
	case "message_delta":
		out = d.tally(outer, out)
		return out, upstream.More, d.stop(inner)
	case "message_stop":
		if d.outcome.FinishReason == "" { // every whole answer has one; who was cut off says none
			return out, upstream.More, nil
		}
		return out, upstream.Last, nil
	case "error":
		return out, upstream.More, upstream.ParseFailure(0, ev.Data).Error(d.outcome.Model)
	}
	return out, upstream.More, nil // ping, content_block_stop, and what a later version adds
}

// delta takes the delta of a content_block_delta.
func (d *decoder) delta(delta gjson.Result, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	var kind string
	var text, thinking, tool gjson.Result
	delta.ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "type":
			kind = v.Str
		case "text":
			text = v
		case "thinking":
			thinking = v
		case "partial_json":
			tool = v
		}
		return true
	})
	switch kind {
	case "text_delta":
		return piece(providers.ChunkText, text, out)
	case "thinking_delta":
		return piece(providers.ChunkReasoning, thinking, out)
	case "input_json_delta":
		return piece(providers.ChunkTool, tool, out)
	}
	return out, upstream.More, nil // signature_delta, citations_delta, later ones
}

// start takes the block of a content_block_start, whose text is empty in
// practice but need not be.
func (d *decoder) start(block gjson.Result, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	switch block.Get("type").Str {
	case "text":
		if text := block.Get("text"); text.Exists() {
			return piece(providers.ChunkText, text, out)
		}
	case "thinking":
		if text := block.Get("thinking"); text.Exists() {
			return piece(providers.ChunkReasoning, text, out)
		}
	}
	return out, upstream.More, nil
}

func piece(t providers.ChunkType, v gjson.Result, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	switch {
	case v.Type != gjson.String:
		return out, upstream.More, protocol.Errorf(protocol.CodeInvalidResponse, "a chunk of the answer has content that is not text")
	case v.Str != "":
		out = append(out, providers.Chunk{Type: t, Text: v.Str})
	}
	return out, upstream.More, nil
}

// stop takes the delta of a message_delta: why the answer ends. It does not
// end yet; message_stop follows.
func (d *decoder) stop(delta gjson.Result) *protocol.Error {
	reason := delta.Get("stop_reason").Str
	switch reason {
	case "":
		return nil
	case "end_turn", "stop_sequence":
		d.outcome.FinishReason = "stop"
	case "max_tokens", "model_context_window_exceeded":
		d.outcome.FinishReason = "length"
	case "tool_use":
		d.outcome.FinishReason = "tool"
	case "refusal":
		d.outcome.FinishReason = "refusal"
		why := delta.Get("stop_details.explanation").Str
		if why == "" {
			why = delta.Get("stop_details.category").Str
		}
		if why == "" {
			return protocol.Errorf(protocol.CodeContentFiltered, "the provider refused to go on")
		}
		return protocol.Errorf(protocol.CodeContentFiltered, "the provider refused to go on: %.500s", why)
	default:
		d.outcome.FinishReason = reason
	}
	return nil
}

// tally overwrites the usage with what u says of it: its numbers are totals.
func (d *decoder) tally(u gjson.Result, out []providers.Chunk) []providers.Chunk {
	if !u.IsObject() {
		return out
	}
	d.usage.seen = true
	for _, f := range []struct {
		path string
		n    *int64
	}{
		{"input_tokens", &d.usage.input}, {"output_tokens", &d.usage.output},
		{"cache_creation_input_tokens", &d.usage.created}, {"cache_read_input_tokens", &d.usage.read},
		{"output_tokens_details.thinking_tokens", &d.usage.think},
	} {
		if v := u.Get(f.path); v.Type == gjson.Number {
			*f.n = max(v.Int(), 0)
		}
	}
	return append(out, providers.Chunk{Type: providers.ChunkUsage, Usage: d.usage.total()})
}

// total returns the usage in Athena's terms: the whole prompt is what was new,
// what was put into the cache and what was read from it.
func (u *usage) total() *protocol.Usage {
	if !u.seen {
		return nil
	}
	return &protocol.Usage{InputTokens: u.input + u.created + u.read, OutputTokens: u.output,
		CachedTokens: u.read, ReasoningTokens: u.think}
}
