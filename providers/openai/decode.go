package openai

import (
	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// done is what most servers send after the last chunk.
const done = "[DONE]"

// A decoder reads the chunks of one answer.
type decoder struct {
	outcome  providers.Outcome
	started  bool
	content  bool // there was some
	finished bool // a finish_reason was seen
	refused  bool // the text is a refusal
	strict   bool // the server always says why an answer ends
}

// newDecoder returns a decoder for the answer of a model. strict is for servers
// that always send a finish_reason: content without one was broken off, whatever
// ends the stream. Of others some send none.
func newDecoder(model string, strict bool) *decoder {
	return &decoder{outcome: providers.Outcome{Model: model}, strict: strict}
}

func (d *decoder) Literal() string { return done }

func (d *decoder) Outcome() providers.Outcome { return d.outcome }

// Decode takes one chunk:
//
//	{"model":…,"choices":[{"index":0,"delta":{"content":…},"finish_reason":…}],"usage":…}
//
// The text is copied once, and every string of it is a piece of that copy.
func (d *decoder) Decode(ev upstream.Event, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	if string(ev.Data) == done {
		if d.finished || d.content && !d.strict {
			if d.outcome.FinishReason == "" {
				d.outcome.FinishReason = d.reason("stop")
			}
			return out, upstream.Last, nil
		}
		return out, upstream.More, nil // the end of nothing, or of a part
	}
	var model, choices, usage, failure gjson.Result
	gjson.Parse(string(ev.Data)).ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "model":
			model = v
		case "choices":
			choices = v
		case "usage":
			usage = v
		case "error":
			failure = v
		}
		return true
	})
	if failure.Exists() && failure.Type != gjson.Null && !d.finished {
		return out, upstream.More, upstream.ParseFailure(0, ev.Data).Error(d.outcome.Model)
	}
	if !d.started && model.Type == gjson.String && model.Str != "" {
		d.started = true
		d.outcome.Model = model.Str
		out = append(out, providers.Chunk{Type: providers.ChunkStarted, Text: model.Str})
	}
	mark := upstream.More
	var err *protocol.Error
	empty := true // no choices: the chunk that only has usage
	if choices.IsArray() {
		choices.ForEach(func(_, choice gjson.Result) bool {
			empty = false
			out, mark, err = d.choice(choice, out)
			return false // there is one: n is 1
		})
	}
	if usage.IsObject() {
		d.outcome.Usage = readUsage(d.outcome.Usage, usage)
		// Some servers send the usage so far with every chunk: only the last
		// one is news.
		if d.finished || empty {
			out = append(out, providers.Chunk{Type: providers.ChunkUsage, Usage: d.outcome.Usage})
		}
		if d.finished && err == nil {
			mark = upstream.Last
		}
	}
	return out, mark, err
}

func (d *decoder) choice(choice gjson.Result, out []providers.Chunk) ([]providers.Chunk, upstream.Mark, *protocol.Error) {
	if d.finished || !choice.IsObject() {
		return out, upstream.More, nil
	}
	var delta, reason, failure gjson.Result
	choice.ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "delta", "message": // of an answer in one piece
			delta = v
		case "finish_reason":
			reason = v
		case "error":
			failure = v
		}
		return true
	})
	var err *protocol.Error
	if delta.IsObject() {
		if out, err = d.delta(delta, out); err != nil {
			return out, upstream.More, err
		}
	}
	if failure.IsObject() {
		return out, upstream.More, upstream.ParseFailure(0, []byte(choice.Raw)).Error(d.outcome.Model)
	}
	if reason.Type != gjson.String || reason.Str == "" {
		return out, upstream.More, nil
	}
	d.outcome.FinishReason = d.reason(reason.Str)
	switch reason.Str {
	case "content_filter":
		return out, upstream.More, protocol.Errorf(protocol.CodeContentFiltered, "the provider's content filter ended the answer")
	case "insufficient_system_resource", "error": // DeepSeek's and OpenRouter's
		return out, upstream.More, protocol.Errorf(protocol.CodeServiceUnavailable, "the provider broke off the answer: %s", reason.Str)
	}
	d.finished = true
	return out, upstream.Whole, nil
}

// delta appends the pieces of one delta.
func (d *decoder) delta(delta gjson.Result, out []providers.Chunk) ([]providers.Chunk, *protocol.Error) {
	var bad, thought bool
	piece := func(t providers.ChunkType, v gjson.Result) {
		switch {
		case v.Type == gjson.String && v.Str != "":
			d.content = true
			out = append(out, providers.Chunk{Type: t, Text: v.Str})
		case v.Type != gjson.String && v.Type != gjson.Null:
			bad = true
		}
	}
	delta.ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "content":
			piece(providers.ChunkText, v)
		case "reasoning_content", "reasoning":
			// DeepSeek's and vLLM's name, and OpenRouter's; some send both with
			// the same text.
			if !thought && v.Type == gjson.String {
				thought = v.Str != ""
				piece(providers.ChunkReasoning, v)
			}
		case "refusal":
			if v.Type == gjson.String && v.Str != "" {
				d.refused = true
				piece(providers.ChunkText, v)
			}
		case "tool_calls":
			v.ForEach(func(_, call gjson.Result) bool {
				piece(providers.ChunkTool, call.Get("function.arguments"))
				return true
			})
		}
		return true
	})
	if bad {
		return out, protocol.Errorf(protocol.CodeInvalidResponse, "a chunk of the answer has content that is not text")
	}
	return out, nil
}

// reason maps the dialect's finish_reason to Outcome's.
func (d *decoder) reason(word string) string {
	switch word {
	case "stop":
		if d.refused {
			return "refusal"
		}
	case "tool_calls", "function_call":
		return "tool"
	}
	return word
}

// readUsage returns old with what u says of it: its numbers are totals, and one
// that is left out stays.
func readUsage(old *protocol.Usage, u gjson.Result) *protocol.Usage {
	usage := &protocol.Usage{}
	if old != nil {
		*usage = *old
	}
	for _, f := range []struct {
		path string
		n    *int64
	}{
		{"prompt_tokens", &usage.InputTokens}, {"completion_tokens", &usage.OutputTokens},
		{"prompt_tokens_details.cached_tokens", &usage.CachedTokens},
		{"prompt_cache_hit_tokens", &usage.CachedTokens}, // DeepSeek's
		{"completion_tokens_details.reasoning_tokens", &usage.ReasoningTokens},
	} {
		if v := u.Get(f.path); v.Type == gjson.Number {
			*f.n = max(v.Int(), 0)
		}
	}
	return usage
}
