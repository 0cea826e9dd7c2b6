package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// A responsesFrame is what one event really looks like, with its obfuscation.
const responsesFrame = `event: response.output_text.delta` + "\n" + `data: {"type":"response.output_text.delta","sequence_number":27,"item_id":"msg_67ccd3acc8d48190a77525dc6de64b4104becb25c45c1d4",` +
	`"output_index":0,"content_index":0,"delta":" function","logprobs":[],"obfuscation":"mT4kP0w1Zq"}` + "\n\n"

func responsesStream(r io.Reader) *upstream.Stream {
	return upstream.NewStream(context.Background(), func() {}, "x", "", io.NopCloser(r), newResponsesDecoder("m"))
}

func FuzzDecodeResponses(f *testing.F) {
	for _, s := range []string{
		responsesFrame,
		responsesFrame + `data: {"type":"response.completed","response":{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":" function and more"}]}],"usage":{"input_tokens":1}}}` + "\n\n",
		`data: {"type":"error","code":"server_error","message":"x","param":null,"sequence_number":3}` + "\n\n",
		`data: {"object":"response","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[{"type":"function_call","arguments":"{}"}]}` + "\n\n",
		`data: {"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"x"}}}` + "\n\ndata: [DONE]\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := responsesStream(bytes.NewReader(in))
		for {
			c, err := s.Next()
			if err != nil {
				break
			}
			if c.Type != providers.ChunkUsage && (c.Text == "" || !utf8.ValidString(c.Text)) {
				t.Fatalf("a chunk of type %d has the text %q", c.Type, c.Text)
			}
		}
		o := s.Outcome()
		marked := bytes.Contains(in, []byte("completed")) || bytes.Contains(in, []byte("incomplete")) || bytes.Contains(in, []byte(`\u`))
		if o.State == providers.StateComplete && !marked {
			t.Fatalf("%q is complete without its last event", in)
		}
		if (o.State == providers.StateComplete) != (o.Err == nil) {
			t.Fatalf("state %d has the error %v", o.State, o.Err)
		}
	})
}

// What the last event repeats must be what the deltas told, however an answer
// was split: nothing of it comes twice, and what was missing comes.
func FuzzTheLastEventTellsOnlyWhatIsMissing(f *testing.F) {
	f.Add("Grüße 世界", 4, 2)
	f.Add("🙂🙂", 4, 8)
	f.Fuzz(func(t *testing.T, text string, at, item int) {
		if !utf8.ValidString(text) {
			t.Skip()
		}
		at, item = min(max(at, 0), len(text)), min(max(item, 0), len(text))
		for at > 0 && at < len(text) && !utf8.RuneStart(text[at]) {
			at--
		}
		for item > 0 && item < len(text) && !utf8.RuneStart(text[item]) {
			item--
		}
		var in bytes.Buffer
		event := func(v any) {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			in.WriteString("data: " + string(b) + "\n\n")
		}
		part := func(s string) map[string]any {
			return map[string]any{"type": "message", "content": []any{map[string]any{"type": "output_text", "text": s}}}
		}
		event(map[string]any{"type": "response.output_text.delta", "delta": text[:at]})
		event(map[string]any{"type": "response.completed", "response": map[string]any{"status": "completed", "output": []any{part(text[:item]), part(text[item:])}}})
		got := ""
		s := responsesStream(&in)
		for {
			c, err := s.Next()
			if err != nil {
				break
			}
			got += c.Text
		}
		if got != text || s.Outcome().State != providers.StateComplete {
			t.Errorf("%q, of which %d bytes were streamed, became %q (%+v)", text, at, got, s.Outcome())
		}
	})
}

func BenchmarkDecodeResponsesEvent(b *testing.B) {
	s := responsesStream(repeat(responsesFrame))
	b.ReportAllocs()
	b.SetBytes(int64(len(responsesFrame)))
	for b.Loop() {
		next(b, s)
	}
}

func TestAnEventOfResponsesCostsOneAllocation(t *testing.T) {
	s := responsesStream(repeat(responsesFrame))
	if n := testing.AllocsPerRun(1000, func() { next(t, s) }); n > 1 {
		t.Errorf("an event costs %v allocations, want the one copy of its text", n)
	}
}

func TestALastEventThatDoesNotFitTheDeltasIsNoRest(t *testing.T) {
	delta := func(text string) string {
		return `data: {"type":"response.output_text.delta","delta":"` + text + `"}` + "\n\n"
	}
	completed := func(parts ...string) string {
		var content []string
		for _, p := range parts {
			content = append(content, `{"type":"output_text","text":"`+p+`"}`)
		}
		return `data: {"type":"response.completed","response":{"status":"completed","output":[{"type":"message","content":[` + strings.Join(content, ",") + `]}]}}` + "\n\n"
	}
	for _, tc := range []struct {
		name, in, text string
		state          providers.State
	}{
		{"nothing was told", completed("ab", "cd"), "abcd", providers.StateComplete},
		{"a part was told", delta("a") + completed("ab", "cd"), "abcd", providers.StateComplete},
		{"the first parts were told", delta("ab") + delta("c") + completed("ab", "c", "d"), "abcd", providers.StateComplete},
		{"everything was told", delta("abcd") + completed("abcd"), "abcd", providers.StateComplete},
		{"the server tidies the end up", delta("abcd ") + completed("abcd"), "abcd ", providers.StateComplete},
		{"a delta was lost", delta("ab") + delta("ef") + completed("abcdef"), "abef", providers.StateError},
		{"a delta was lost at the end of a part", delta("a") + delta("cd") + completed("ab", "c", "d"), "acd", providers.StateError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, text := responsesStream(strings.NewReader(tc.in)), ""
			for {
				c, err := s.Next()
				if err != nil {
					break
				}
				text += c.Text
			}
			if o := s.Outcome(); text != tc.text || o.State != tc.state || (o.Err != nil) != (tc.state == providers.StateError) {
				t.Errorf("%q, state %d, error %v; want %q and state %d", text, o.State, o.Err, tc.text, tc.state)
			}
		})
	}
}
