package claude

import (
	"bytes"
	"context"
	"io"
	"testing"
	"unicode/utf8"

	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// A frame is what one event of text really looks like.
const frame = "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" function"}}` + "\n\n"

func stream(r io.Reader) *upstream.Stream {
	return upstream.NewStream(context.Background(), func() {}, "x", "", io.NopCloser(r), newDecoder("m"))
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		frame, frame + "event: message_stop\n" + `data: {"type":"message_stop"}` + "\n\n", "event: message_stop\ndata: {}\n\n",
		`data: {"type":"message_start","message":{"model":"m","usage":{"input_tokens":3}}}` + "\r\n\r\n",
		`data: {"type":"message_delta","delta":{"stop_reason":"refusal"},"usage":{"output_tokens":3}}` + "\n\n",
		`data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}` + "\n\n",
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
		marked := bytes.Contains(in, []byte("message_stop")) || bytes.Contains(in, []byte(`\u`))
		o := s.Outcome()
		if o.State == providers.StateComplete && !marked {
			t.Fatalf("%q is complete without message_stop", in)
		}
		if (o.State == providers.StateComplete) != (o.Err == nil) {
			t.Fatalf("state %d has the error %v", o.State, o.Err)
		}
	})
}

// repeat gives the same frame with each read, as a network gives events.
type repeat []byte

func (r repeat) Read(p []byte) (int, error) { return copy(p, r), nil }

func next(tb testing.TB, s *upstream.Stream) {
	if c, err := s.Next(); err != nil || c.Text != " function" || c.Type != providers.ChunkText {
		tb.Fatalf("%+v, %v", c, err)
	}
}

func BenchmarkDecodeChunk(b *testing.B) {
	s := stream(repeat(frame))
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		next(b, s)
	}
}

func TestAChunkCostsOneAllocation(t *testing.T) {
	s := stream(repeat(frame))
	if n := testing.AllocsPerRun(1000, func() { next(t, s) }); n > 1 {
		t.Errorf("a chunk costs %v allocations, want the one copy of its text", n)
	}
}
