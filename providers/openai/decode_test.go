package openai

import (
	"bytes"
	"context"
	"io"
	"testing"
	"unicode/utf8"

	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// A frame is what one chunk really looks like.
const frame = `data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1795384800,"model":"gpt-6-astra",` +
	`"service_tier":"default","system_fingerprint":"fp_f33640a400","choices":[{"index":0,"delta":{"content":" function"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n"

func stream(r io.Reader) *upstream.Stream {
	return upstream.NewStream(context.Background(), func() {}, "x", "", io.NopCloser(r), newDecoder("m", false))
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		frame, frame + `data: {"choices":[{"delta":{},"finish_reason":"stop"}]}` + "\n\n" + `data: {"choices":[],"usage":{"prompt_tokens":1}}` + "\n\ndata: [DONE]\n\n",
		"data: [DONE]\n\n", `data: {"error":{"code":500}}` + "\n\n", ": x\r\n\r\n" + `data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}]}` + "\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := stream(bytes.NewReader(in))
		for {
			c, err := s.Next()
			if err != nil {
				break
			}
			if c.Type != providers.ChunkUsage && (c.Text == "" || !utf8.ValidString(c.Text)) {
				t.Fatalf("a chunk of type %d has the text %q", c.Type, c.Text)
			}
		}
		marked := bytes.Contains(in, []byte("finish_reason")) || bytes.Contains(in, []byte(done)) || bytes.Contains(in, []byte(`\u`))
		o := s.Outcome()
		if o.State == providers.StateComplete && !marked {
			t.Fatalf("%q is complete without an end marker", in)
		}
		if (o.State == providers.StateComplete) != (o.Err == nil) {
			t.Fatalf("state %d has the error %v", o.State, o.Err)
		}
	})
}

// repeat gives the same frame with each read, as a network gives chunks.
type repeat []byte

func (r repeat) Read(p []byte) (int, error) { return copy(p, r), nil }

func next(tb testing.TB, s *upstream.Stream) {
	if c, err := s.Next(); err != nil || c.Text != " function" || c.Type != providers.ChunkText {
		tb.Fatalf("%+v, %v", c, err)
	}
}

func BenchmarkDecodeChunk(b *testing.B) {
	s := stream(repeat(frame))
	if _, err := s.Next(); err != nil { // ChunkStarted
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		next(b, s)
	}
}

func TestAChunkCostsOneAllocation(t *testing.T) {
	s := stream(repeat(frame))
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() { next(t, s) }); n > 1 {
		t.Errorf("a chunk costs %v allocations, want the one copy of its text", n)
	}
}
