package protocol

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Transcript is what a client knows of one stream: where it is, what the
// answer says so far and how it ended. Apply checks the promises that a client
// can check (P1, P5 and the single terminal event of P4), so a client built on
// it notices when a server breaks one.
//
// The zero value stands before the first event. A Transcript is not safe for
// concurrent use.
type Transcript struct {
	cursor    uint64
	text      strings.Builder
	reasoning strings.Builder
	findings  []Finding
	usage     *Usage
	started   Started
	digest    Digest
	terminal  *Event
}

// A PromiseError says which promise of the protocol a stream broke.
type PromiseError struct {
	Promise string // "P1", "P4" or "P5"
	Stream  string
	Detail  string
}

func (e *PromiseError) Error() string {
	return fmt.Sprintf("stream %s breaks %s: %s", e.Stream, e.Promise, e.Detail)
}

// Apply takes the next event. A *PromiseError means that the stream can't be
// trusted any more; other errors come from data that can't be decoded. An
// event that can't be applied changes nothing.
func (t *Transcript) Apply(e *Event) error {
	broken := func(promise, format string, args ...any) error {
		return &PromiseError{promise, e.Stream, fmt.Sprintf(format, args...)}
	}
	first, last := e.Covers()
	if t.terminal != nil {
		return broken("P4", "event %d (%s) follows the terminal event %d (%s)", last, e.Type, t.terminal.Seq, t.terminal.Type)
	}
	if last > MaxSeq {
		return broken("P1", "event %d (%s) is beyond the greatest seq", last, e.Type)
	}
	if first > t.cursor+1 || last < t.cursor+1 || first > last {
		return broken("P1", "event %d..%d (%s) does not follow cursor %d", first, last, e.Type, t.cursor)
	}
	data := DataFor(e.Type)
	if data != nil {
		if err := e.Decode(data); err != nil {
			return err
		}
	}
	if first < t.cursor+1 {
		f, discards := data.(*Failover)
		if e.Type != TypeFailed && (!discards || !f.Discard) {
			return broken("P1", "event %d..%d (%s) covers cursor %d but neither ends nor replaces the text", first, last, e.Type, t.cursor)
		}
	}
	switch d := data.(type) {
	case *Started:
		t.started = *d
	case *Chunk:
		switch d.Kind {
		case KindText:
			t.text.WriteString(d.Text)
			t.digest.Add(d.Text)
		case KindReasoning:
			t.reasoning.WriteString(d.Text)
		}
	case *Failover:
		if d.Discard {
			t.text.Reset()
			t.reasoning.Reset()
			t.findings = nil
			t.digest.Reset()
		}
	case *Finding:
		t.findings = append(t.findings, *d)
	case *Usage:
		t.usage = d
	case *Completed:
		bytes, sum := t.digest.Sum()
		if d.Events != last || d.Bytes != bytes || d.SHA256 != sum {
			return broken("P5", "completed says %d events, %d bytes, sha256 %.12s…; received were %d, %d, %.12s…",
				d.Events, d.Bytes, d.SHA256, last, bytes, sum)
		}
		if d.Usage != nil {
			t.usage = d.Usage
		}
	}
	t.cursor = last
	if e.Type.Terminal() {
		ev := *e
		ev.Data = slices.Clone(e.Data)
		t.terminal = &ev
	}
	return nil
}

// Cursor returns the last seq that was applied.
func (t *Transcript) Cursor() uint64 { return t.cursor }

// Text returns the answer so far.
func (t *Transcript) Text() string { return t.text.String() }

// Reasoning returns what the model thought aloud so far.
func (t *Transcript) Reasoning() string { return t.reasoning.String() }

// Findings returns what was found so far.
func (t *Transcript) Findings() []Finding { return t.findings }

// Usage returns the newest usage, nil before the first.
func (t *Transcript) Usage() *Usage { return t.usage }

// Started returns the newest attempt.
func (t *Transcript) Started() Started { return t.started }

// Terminal returns the event that ended the stream, nil while it runs.
func (t *Transcript) Terminal() *Event { return t.terminal }

// SplitText cuts text into pieces of at most size bytes without splitting a
// character; bytes that are no character may be cut anywhere. A size below
// utf8.UTFMax counts as utf8.UTFMax. There is always a piece, if an empty one.
func SplitText(text string, size int) []string {
	size = max(size, utf8.UTFMax)
	var pieces []string
	for len(text) > size {
		n := size
		for !utf8.RuneStart(text[n]) && n > size-utf8.UTFMax+1 {
			n--
		}
		if !utf8.RuneStart(text[n]) {
			n = size // more continuation bytes than any character has
		}
		pieces = append(pieces, text[:n])
		text = text[n:]
	}
	return append(pieces, text)
}
