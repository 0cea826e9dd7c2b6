package interop_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"github.com/athena-hub/athena/protocol"
)

// A viewer checks what a foreign client receives of an answer, and meanwhile
// cuts the client's connection: once in the first part, as soon as any text has
// come, and again in the second, which comes after the client has returned.
type viewer struct {
	answer     *answer
	cut        func(then func())
	cuts       int
	transcript protocol.Transcript
}

// event takes the JSON of an event. The transcript refuses one that repeats or
// leaves out anything.
func (v *viewer) event(raw []byte) (e protocol.Event, err error) {
	if err := json.Unmarshal(raw, &e); err != nil {
		return e, fmt.Errorf("event %q: %w", raw, err)
	}
	if err := v.transcript.Apply(&e); err != nil {
		return e, fmt.Errorf("event %q: %w", raw, err)
	}
	text := len(v.transcript.Text())
	if v.cuts == 0 && text > 0 || v.cuts == 1 && text > v.answer.upTo(1) {
		v.cuts++
		next := v.cuts + 1
		v.cut(func() { v.answer.goOn(next) })
	}
	return e, nil
}

// done reports whether the stream has ended.
func (v *viewer) done() bool { return v.transcript.Terminal() != nil }

// check checks the whole outcome.
func (v *viewer) check(t *testing.T, c *cutter) {
	t.Helper()
	if end := v.transcript.Terminal(); end == nil || end.Type != protocol.TypeCompleted {
		t.Fatalf("the stream ended with %+v, after text %q", end, v.transcript.Text())
	}
	if got := v.transcript.Text(); got != v.answer.text {
		t.Errorf("text\n got %q\nwant %q", got, v.answer.text)
	}
	if got := c.broken(); got != 2 || v.cuts != 2 {
		t.Errorf("%d of %d cuts broke a connection, want 2 of 2", got, v.cuts)
	}
}

// A report is what the clients in foreign/ tell.
type report struct {
	Event   *string
	Welcome *protocol.Message
	ID      *string
	Lost    bool
	End     bool
	Code    int
	Text    string
	Error   *protocol.Error
}

// A reported follows the reports of such a client.
type reported struct {
	viewer
	welcomes, lost int
	end            *report
}

// line takes a line that the client reported.
func (v *reported) line(line string) error {
	var r report
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return fmt.Errorf("report %q: %w", line, err)
	}
	switch {
	case v.end != nil:
		return fmt.Errorf("report %q after the end", line)
	case r.Event != nil:
		e, err := v.event([]byte(*r.Event))
		if err != nil {
			return err
		}
		if r.ID != nil && *r.ID != strconv.FormatUint(e.Seq, 10) {
			return fmt.Errorf("event %d has the id %q", e.Seq, *r.ID)
		}
	case r.Welcome != nil:
		v.welcomes++
		if want := strconv.FormatUint(v.transcript.Cursor(), 10); r.ID != nil && *r.ID != want {
			return fmt.Errorf("a welcome at %s has the id %q", want, *r.ID)
		}
	case r.Lost:
		v.lost++
	case r.End:
		v.end = &r
	default:
		return fmt.Errorf("report %q", line)
	}
	return nil
}
