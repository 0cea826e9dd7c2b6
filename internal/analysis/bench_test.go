package analysis_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// A counter is a provider, its stream and a log in one, which cost nothing:
// what is left is the job.
type counter struct {
	chunks, written int
	ended           chan struct{}
}

func (c *counter) Name() string                 { return "p" }
func (c *counter) Features() providers.Features { return providers.Features{Models: []string{"m"}} }
func (c *counter) Stream(context.Context, *providers.Request) (providers.Stream, error) {
	return c, nil
}
func (c *counter) Next() (providers.Chunk, error) {
	if c.chunks == 0 {
		return providers.Chunk{}, io.EOF
	}
	c.chunks--
	return providers.Chunk{Type: providers.ChunkText, Text: " a piece of text"}, nil
}
func (c *counter) Outcome() providers.Outcome { return whole() }
func (c *counter) Close() error               { return nil }

func (c *counter) Create(context.Context, string) (analysis.Writer, error) { return c, nil }
func (c *counter) ID() string                                              { return "" }
func (c *counter) Append(t protocol.Type, _ any) error {
	if t.Terminal() {
		close(c.ended)
	}
	return nil
}
func (c *counter) Chunk(protocol.ChunkKind, int, string) error { c.written++; return nil }
func (c *counter) Watchers() (int, time.Time)                  { return 1, time.Time{} }

// BenchmarkJobPerChunk is what a job adds to each chunk between the provider's
// Next and the writer's Chunk.
func BenchmarkJobPerChunk(b *testing.B) {
	c := &counter{chunks: b.N, ended: make(chan struct{})}
	s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: c}}, Streams: c, MaxOutputBytes: 1 << 60})
	b.ReportAllocs()
	b.ResetTimer()
	if _, _, err := s.Start(b.Context(), &request, analysis.StartOptions{}); err != nil {
		b.Fatal(err)
	}
	<-c.ended
	b.StopTimer()
	if c.written != b.N {
		b.Fatalf("%d of %d chunks written", c.written, b.N)
	}
	if err := s.Drain(b.Context()); err != nil {
		b.Fatal(err)
	}
}
