package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// Ask is Stream for a call whose body is the JSON of question.
func (c *Client) Ask(ctx context.Context, question any, call Call) (providers.Stream, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("encode the request to %s: %w", c.name, err)
	}
	call.Body = body
	return c.Stream(ctx, call)
}

// A Message is one turn of a conversation, as each dialect of chat has it.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
	// Prefix is DeepSeek's word for a prefill.
	Prefix bool `json:"prefix,omitempty"`
}

// Turns returns the conversation that asks req's question, without its system
// prompt. A partial answer is what the model has said: with prefill it stands
// last and the model goes on behind it, otherwise a user's turn asks for that.
// White space alone is no beginning, and refused by some: the question is
// asked anew then.
func Turns(req *providers.Request, prefill bool) []Message {
	turns := []Message{{Role: "user", Content: req.Prompt}}
	if !Continues(req) {
		return turns
	}
	turns = append(turns, Message{Role: "assistant", Content: req.Partial})
	if !prefill {
		turns = append(turns, Message{Role: "user", Content: providers.ContinuePrompt})
	}
	return turns
}

// Continues reports whether req asks for the rest of an answer that has begun.
func Continues(req *providers.Request) bool { return strings.TrimLeftFunc(req.Partial, isSpace) != "" }

// CutSpace takes the white space from the end of a prefill, which some servers
// refuse there. See Resumed for what becomes of it.
func CutSpace(partial string) (text, space string) {
	text = strings.TrimRightFunc(partial, isSpace)
	return text, partial[len(text):]
}

// isSpace is unicode.IsSpace, and what Python's str.strip takes for white space
// beside that.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// Resumed returns d for an answer that goes on behind a prefill whose last
// white space was cut off (CutSpace), though the client has it. The model
// writes that white space first, or other: as much of the text's beginning as
// equals it is left out, so that it is there once. Where the model writes
// other white space, the client's stays and the rest of the model's follows.
func Resumed(d Decoder, space string) Decoder {
	if space == "" {
		return d
	}
	return &resumed{Decoder: d, space: space}
}

type resumed struct {
	Decoder
	space string // what may still be repeated
}

func (d *resumed) Decode(ev Event, out []providers.Chunk) ([]providers.Chunk, Mark, *protocol.Error) {
	n := len(out)
	out, mark, err := d.Decoder.Decode(ev, out)
	if d.space == "" {
		return out, mark, err
	}
	kept := out[:n]
	for _, c := range out[n:] {
		if c.Type == providers.ChunkText {
			if c.Text = d.cut(c.Text); c.Text == "" {
				continue
			}
		}
		kept = append(kept, c)
	}
	return kept, mark, err
}

// cut takes from text's beginning what it has in common with d.space.
func (d *resumed) cut(text string) string {
	n := 0
	for i, r := range text {
		if !strings.HasPrefix(d.space[i:], string(r)) {
			break
		}
		n = i + len(string(r))
	}
	if n < len(text) {
		d.space = ""
	} else {
		d.space = d.space[n:]
	}
	return text[n:]
}
