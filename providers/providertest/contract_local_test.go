package providertest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/providertest"
)

// countdown is the smallest provider that keeps the contract.
type countdown struct{}

func (countdown) Name() string                 { return "countdown" }
func (countdown) Features() providers.Features { return providers.Features{} }

func (countdown) Stream(ctx context.Context, req *providers.Request) (providers.Stream, error) {
	return &counting{ctx: ctx, left: req.MaxTokens}, nil
}

type counting struct {
	ctx     context.Context
	left    int
	err     error
	outcome providers.Outcome
	closed  atomic.Bool
}

func (c *counting) Next() (providers.Chunk, error) {
	switch {
	case c.err != nil:
	case c.ctx.Err() != nil:
		c.err = protocol.Errorf(protocol.CodeStreamInterrupted, "stopped: %w", c.ctx.Err())
	case c.closed.Load():
		c.err = net.ErrClosed
	case c.left == 0:
		c.err = io.EOF
		c.outcome = providers.Outcome{State: providers.StateComplete, FinishReason: "stop"}
	default:
		c.left--
		return providers.Chunk{Type: providers.ChunkText, Text: "tick "}, nil
	}
	return providers.Chunk{}, c.err
}

func (c *counting) Outcome() providers.Outcome { return c.outcome }

func (c *counting) Close() error {
	c.closed.Store(true)
	return nil
}

func TestAProviderWithoutANetworkCanPassTheContract(t *testing.T) {
	providertest.ContractLocal(t, func() providers.Provider { return countdown{} }, func() *providers.Request {
		return &providers.Request{MaxTokens: 3}
	})
}

// broken are streams that don't keep the contract.
type broken struct {
	chunk providers.Chunk
	ends  []error
}

func (b *broken) Next() (providers.Chunk, error) {
	if b.chunk.Type != 0 {
		c := b.chunk
		b.chunk.Type = 0
		return c, nil
	}
	err := b.ends[0]
	if len(b.ends) > 1 {
		b.ends = b.ends[1:]
	}
	return providers.Chunk{}, err
}

func (b *broken) Outcome() providers.Outcome { return providers.Outcome{} }
func (b *broken) Close() error               { return nil }

func TestCollectNoticesAStreamThatBreaksItsContract(t *testing.T) {
	for name, s := range map[string]*broken{
		"empty text":       {providers.Chunk{Type: providers.ChunkText}, []error{io.EOF}},
		"half a character": {providers.Chunk{Type: providers.ChunkReasoning, Text: "\xc3"}, []error{io.EOF}},
		"no finding":       {providers.Chunk{Type: providers.ChunkFinding}, []error{io.EOF}},
		"no usage":         {providers.Chunk{Type: providers.ChunkUsage}, []error{io.EOF}},
		"no progress":      {providers.Chunk{Type: providers.ChunkProgress}, []error{io.EOF}},
		"an unknown type":  {providers.Chunk{Type: 99}, []error{io.EOF}},
		"another end":      {providers.Chunk{}, []error{errors.New("a"), io.EOF}},
	} {
		if _, err := providertest.Collect(s); err == nil {
			t.Errorf("%s: Collect noticed nothing", name)
		}
	}
}
