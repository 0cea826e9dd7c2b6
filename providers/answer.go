package providers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// MaxAnswerBytes bounds a whole answer in memory: its texts, and its findings
// with their texts.
const MaxAnswerBytes = 16 << 20

// findingBytes is what a finding counts beside its texts.
const findingBytes = 256

// An Answer is a whole answer.
type Answer struct {
	// Text is the answer itself; Reasoning and Tool are what the model thought
	// aloud and the JSON of its tool calls.
	Text, Reasoning, Tool string
	Findings              []protocol.Finding
	Outcome               Outcome
}

// Analyze asks p and waits for the whole answer; of a continuation
// (Request.Partial), for what it adds. It fails unless the answer is whole,
// with p's error where it gave one. What there is of a broken answer, with its
// Outcome, comes beside the error; nil if p did not begin to answer.
func Analyze(ctx context.Context, p Provider, req *Request) (*Answer, error) {
	s, err := p.Stream(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", p.Name(), err)
	}
	a, err := Read(s, nil)
	if err == nil && a.Outcome.State != StateComplete {
		// Not err = a.Outcome.Err: a nil *protocol.Error is an error.
		err = protocol.Errorf(protocol.CodeStreamInterrupted, "the answer ended before it was whole").WithProvider(p.Name())
		if a.Outcome.Err != nil {
			err = a.Outcome.Err
		}
	}
	if err != nil {
		return a, fmt.Errorf("read the answer of %s: %w", p.Name(), err)
	}
	return a, nil
}

// Read reads s to its end and closes it. Each chunk is shown to each, where it
// is not nil, before it is taken; an error of each ends the reading and is
// returned. Otherwise the error is Next's, nil for io.EOF, which says nothing
// of whether the answer is whole (see Outcome). An answer of more than
// MaxAnswerBytes is an error.
func Read(s Stream, each func(*Chunk) error) (a *Answer, err error) {
	a = &Answer{}
	var text, reasoning, tool strings.Builder
	defer func() {
		if closing := s.Close(); closing != nil {
			err = errors.Join(err, closing) // Join would wrap a single error, too
		}
		a.Text, a.Reasoning, a.Tool = text.String(), reasoning.String(), tool.String()
	}()
	size := 0
	for {
		c, err := s.Next()
		if err != nil {
			a.Outcome = s.Outcome()
			if err == io.EOF { //nolint:errorlint // the contract is io.EOF itself
				return a, nil
			}
			return a, err //nolint:wrapcheck // it says all there is to say
		}
		if each != nil {
			if err := each(&c); err != nil {
				return a, err
			}
		}
		switch c.Type {
		case ChunkText:
			text.WriteString(c.Text)
		case ChunkReasoning:
			reasoning.WriteString(c.Text)
		case ChunkTool:
			tool.WriteString(c.Text)
		case ChunkFinding:
			a.Findings = append(a.Findings, *c.Finding)
			size += findingBytes + c.Finding.Bytes()
		default:
			continue // news about the answer
		}
		if size += len(c.Text); size > MaxAnswerBytes {
			return a, protocol.Errorf(protocol.CodeInvalidResponse, "the answer has more than %d bytes", MaxAnswerBytes)
		}
	}
}
