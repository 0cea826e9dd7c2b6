package providertest

import (
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// An Answer is all that a stream gave.
type Answer struct {
	Text, Reasoning, Tool string
	Findings              []protocol.Finding
	Progress              []protocol.Progress
	// Started are the models that were told to answer, in order.
	Started []string
	// Usage is the newest that a chunk told.
	Usage   *protocol.Usage
	Chunks  int
	Outcome providers.Outcome
	// Err is what Next ended with, nil for io.EOF.
	Err error
}

// Collect reads s to its end and closes it. An error means that s broke the
// interface's contract, not that the answer failed.
func Collect(s providers.Stream) (Answer, error) {
	var a Answer
	var broken error
	whole, err := providers.Read(s, func(c *providers.Chunk) error {
		a.Chunks++
		broken = a.note(c)
		return broken
	})
	if broken != nil {
		return a, err
	}
	a.Text, a.Reasoning, a.Tool, a.Findings, a.Outcome, a.Err = whole.Text, whole.Reasoning, whole.Tool, whole.Findings, whole.Outcome, err
	if err == nil {
		err = io.EOF
	}
	for range 2 {
		if _, again := s.Next(); again != err {
			return a, fmt.Errorf("after its end with %v, Next returned %v", err, again)
		}
	}
	return a, nil
}

// note checks c, and takes of it what providers.Answer leaves out.
func (a *Answer) note(c *providers.Chunk) error {
	switch c.Type {
	case providers.ChunkText, providers.ChunkReasoning, providers.ChunkTool, providers.ChunkStarted:
		if c.Text == "" || !utf8.ValidString(c.Text) {
			return fmt.Errorf("chunk %d of type %d has the text %q: empty, or split inside a character", a.Chunks, c.Type, c.Text)
		}
		if c.Type == providers.ChunkStarted {
			a.Started = append(a.Started, c.Text)
		}
	case providers.ChunkFinding:
		if c.Finding == nil {
			return fmt.Errorf("chunk %d is a finding without one", a.Chunks)
		}
	case providers.ChunkProgress:
		if c.Progress == nil {
			return fmt.Errorf("chunk %d is progress without any", a.Chunks)
		}
		a.Progress = append(a.Progress, *c.Progress)
	case providers.ChunkUsage:
		if c.Usage == nil {
			return fmt.Errorf("chunk %d is usage without any", a.Chunks)
		}
		a.Usage = c.Usage
	default:
		return fmt.Errorf("chunk %d has the unknown type %d", a.Chunks, c.Type)
	}
	return nil
}
