package providertest

import (
	"strings"
	"unicode"

	"github.com/tidwall/gjson"
)

// What Anthropic's API answers, with 400, to a last message that is the
// assistant's: to any from Claude 4.6 on, and to one that ends in white space
// before.
const (
	refusedPrefill = "This model does not support assistant message prefill. The conversation must end with a user message."
	refusedSpace   = "messages: final assistant content cannot end with trailing whitespace"
)

// A Turn is one message of a conversation that an Upstream was asked to go on
// with.
type Turn struct{ Role, Text string }

// Turns returns the conversation in the call's body, of whichever dialect,
// without the system prompt.
func (c *Call) Turns() []Turn {
	var turns []Turn
	messages := gjson.GetBytes(c.Body, "messages")
	if !messages.IsArray() {
		messages = gjson.GetBytes(c.Body, "input") // of Responses
		if messages.Type == gjson.String {
			return []Turn{{"user", messages.Str}}
		}
	}
	messages.ForEach(func(_, m gjson.Result) bool {
		content := m.Get("content")
		text := content.Str
		if content.IsArray() {
			content.ForEach(func(_, part gjson.Result) bool {
				text += part.Get("text").Str
				return true
			})
		}
		if role := m.Get("role").Str; role != "system" && role != "developer" {
			turns = append(turns, Turn{role, text})
		}
		return true
	})
	return turns
}

// refusal returns why the API would refuse the call's conversation, "" if it
// would not.
func (c *Call) refusal(s *Script) string {
	turns := c.Turns()
	if len(turns) == 0 || turns[len(turns)-1].Role != "assistant" {
		return ""
	}
	text := turns[len(turns)-1].Text
	switch {
	case s.NoPrefill:
		return refusedPrefill
	case c.Dialect == Claude && strings.TrimRightFunc(text, unicode.IsSpace) != text:
		return refusedSpace
	}
	return ""
}
