package protocol_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/athena-hub/athena/protocol"
)

func event(t testing.TB, first, seq uint64, typ protocol.Type, data any) *protocol.Event {
	t.Helper()
	e, err := protocol.Encode(stream, first, seq, typ, noon, data)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := e.Event()
	if err != nil {
		t.Fatal(err)
	}
	return &ev
}

func chunk(t testing.TB, seq uint64, kind protocol.ChunkKind, text string) *protocol.Event {
	t.Helper()
	return event(t, 0, seq, protocol.TypeChunk, &protocol.Chunk{Kind: kind, Attempt: 1, Text: text})
}

func TestATranscriptHoldsWhatTheEventsSay(t *testing.T) {
	var tr protocol.Transcript
	if tr.Cursor() != 0 || tr.Text() != "" || tr.Reasoning() != "" || tr.Findings() != nil || tr.Usage() != nil || tr.Terminal() != nil {
		t.Errorf("the zero Transcript is not empty: %+v", &tr)
	}
	var d protocol.Digest
	d.Add("kept é")
	n, sum := d.Sum()
	completed := event(t, 0, 11, protocol.TypeCompleted, &protocol.Completed{Events: 11, Bytes: n, SHA256: sum, Usage: &protocol.Usage{InputTokens: 9}})
	for _, ev := range []*protocol.Event{
		event(t, 0, 1, protocol.TypeStarted, &protocol.Started{Provider: "a", Attempt: 1}),
		chunk(t, 2, protocol.KindText, "dropped"),
		event(t, 0, 3, protocol.TypeFinding, &protocol.Finding{Rule: "dropped"}),
		event(t, 0, 4, protocol.TypeFailover, &protocol.Failover{From: "a", To: "b", Attempt: 2, Discard: true}),
		event(t, 0, 5, protocol.TypeStarted, &protocol.Started{Provider: "b", Attempt: 2}),
		chunk(t, 6, protocol.KindReasoning, "hm"),
		chunk(t, 7, protocol.KindText, "kept "),
		event(t, 8, 9, protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Text: "é"}),
		event(t, 0, 10, protocol.TypeFinding, &protocol.Finding{Rule: "kept"}),
		completed,
	} {
		if err := tr.Apply(ev); err != nil {
			t.Fatal(err)
		}
		if tr.Cursor() != ev.Seq {
			t.Fatalf("cursor %d after event %d", tr.Cursor(), ev.Seq)
		}
	}
	if tr.Text() != "kept é" || tr.Reasoning() != "hm" || !reflect.DeepEqual(tr.Findings(), []protocol.Finding{{Rule: "kept"}}) ||
		tr.Started() != (protocol.Started{Provider: "b", Attempt: 2}) || *tr.Usage() != (protocol.Usage{InputTokens: 9}) {
		t.Errorf("the transcript holds %+v", &tr)
	}
	want := *completed
	want.Data = append(json.RawMessage(nil), completed.Data...)
	completed.Data[0], completed.Type = 'x', "reused"
	if !reflect.DeepEqual(tr.Terminal(), &want) {
		t.Errorf("the terminal event changed with the caller's: %+v", tr.Terminal())
	}
}

// state is what a Transcript shows of itself.
func state(tr *protocol.Transcript) string {
	return fmt.Sprintf("%d %q %q %v %v %v %v", tr.Cursor(), tr.Text(), tr.Reasoning(), tr.Findings(), tr.Usage(), tr.Started(), tr.Terminal())
}

func TestAnEventThatCannotBeAppliedChangesNothing(t *testing.T) {
	failed := &protocol.Failed{Error: protocol.Errorf(protocol.CodeOwnerLost, "x")}
	for _, c := range []struct {
		name    string
		ev      *protocol.Event
		promise string // "" for an error of another kind
	}{
		{"a repeated event", chunk(t, 2, "text", "b"), "P1"},
		{"a skipped event", chunk(t, 4, "text", "d"), "P1"},
		{"a chunk over the cursor", event(t, 2, 3, "chunk", &protocol.Chunk{Kind: "text"}), "P1"},
		{"a failover over the cursor that keeps the text", event(t, 1, 3, "failover", &protocol.Failover{}), "P1"},
		{"an unknown type over the cursor", event(t, 1, 3, "new", &protocol.Failover{Discard: true}), "P1"},
		{"a completed over the cursor", event(t, 1, 3, "completed", &protocol.Completed{}), "P1"},
		{"a failed that ends before the cursor", event(t, 1, 2, "failed", failed), "P1"},
		{"a failed that begins past a hole", event(t, 4, 5, "failed", failed), "P1"},
		{"first after seq", &protocol.Event{Type: "failed", First: 4, Seq: 3, Data: json.RawMessage(`{}`)}, "P1"},
		{"a seq past 2^53", &protocol.Event{Type: "failed", First: 3, Seq: protocol.MaxSeq + 1, Data: json.RawMessage(`{}`)}, "P1"},
		{"no seq", &protocol.Event{Type: "new"}, "P1"},
		{"a completed with another text", event(t, 0, 3, "completed", &protocol.Completed{Events: 3}), "P5"},
		{"data that can't be decoded", &protocol.Event{Type: "chunk", Seq: 3, Data: json.RawMessage(`{"text":5}`)}, ""},
		{"no data", &protocol.Event{Type: "chunk", Seq: 3}, ""},
	} {
		var tr protocol.Transcript
		for _, ev := range []*protocol.Event{chunk(t, 1, "text", "a"), chunk(t, 2, "text", "b")} {
			if err := tr.Apply(ev); err != nil {
				t.Fatal(err)
			}
		}
		before := state(&tr)
		c.ev.Stream = stream
		err := tr.Apply(c.ev)
		broken, _ := errors.AsType[*protocol.PromiseError](err)
		switch {
		case err == nil:
			t.Errorf("%s: no error", c.name)
		case c.promise == "" && broken != nil, c.promise != "" && (broken == nil || broken.Promise != c.promise):
			t.Errorf("%s: error %v, want promise %q", c.name, err, c.promise)
		case broken != nil && (broken.Stream != stream || !strings.Contains(err.Error(), "breaks "+c.promise)):
			t.Errorf("%s: error %v names neither stream nor promise", c.name, err)
		}
		if after := state(&tr); after != before {
			t.Errorf("%s: %s became %s", c.name, before, after)
		}
		// The transcript goes on with the event that does follow.
		if err := tr.Apply(event(t, 1, 3, "failed", failed)); err != nil || tr.Cursor() != 3 {
			t.Errorf("%s: the failed event that follows: %v", c.name, err)
		}
		if err := tr.Apply(chunk(t, 4, "text", "x")); !isPromise(err, "P4") {
			t.Errorf("%s: an event after the terminal one: %v", c.name, err)
		}
	}
}

func isPromise(err error, promise string) bool {
	broken, ok := errors.AsType[*protocol.PromiseError](err)
	return ok && broken.Promise == promise
}

func TestADiscardingFailoverMayCoverWhatWasSeen(t *testing.T) {
	var tr protocol.Transcript
	for _, ev := range []*protocol.Event{
		chunk(t, 1, "text", "seen on a lost node"),
		event(t, 1, 5, "failover", &protocol.Failover{Discard: true}),
		chunk(t, 6, "text", "new"),
		event(t, 7, 7, "failover", &protocol.Failover{Discard: false}),
		chunk(t, 8, "text", " more"),
	} {
		if err := tr.Apply(ev); err != nil {
			t.Fatal(err)
		}
	}
	if tr.Text() != "new more" || tr.Cursor() != 8 {
		t.Errorf("text %q at %d", tr.Text(), tr.Cursor())
	}
}

func TestUnknownEventsMoveTheCursorOnly(t *testing.T) {
	var tr protocol.Transcript
	if err := tr.Apply(&protocol.Event{Stream: stream, Seq: 1, Type: "new", Data: json.RawMessage(`null`)}); err != nil || tr.Cursor() != 1 {
		t.Errorf("cursor %d, %v", tr.Cursor(), err)
	}
	if err := tr.Apply(chunk(t, 2, "audio", "x")); err != nil || tr.Text() != "" || tr.Cursor() != 2 {
		t.Errorf("an unknown kind: %s, %v", state(&tr), err)
	}
}

func TestSplitTextCutsBetweenCharacters(t *testing.T) {
	for _, c := range []struct {
		text string
		max  int
		want []string
	}{
		{"", 4, []string{""}},
		{"abcd", 4, []string{"abcd"}},
		{"abcdefghi", 4, []string{"abcd", "efgh", "i"}},
		{"aé€😀", 4, []string{"aé", "€", "😀"}},
		{"😀😀", 5, []string{"😀", "😀"}},
		{"abc😀", 4, []string{"abc", "😀"}},
		{"ab€", 1, []string{"ab", "€"}},
		{"abcde", -1, []string{"abcd", "e"}},
		{strings.Repeat("\x80", 9), 4, []string{"\x80\x80\x80\x80", "\x80\x80\x80\x80", "\x80"}},
		{"abc\xf0\x9f", 4, []string{"abc", "\xf0\x9f"}},
		{"a\xf0\x9f\x98\x80\x80\x80\x80\x80", 4, []string{"a", "😀", "\x80\x80\x80\x80"}},
	} {
		if got := protocol.SplitText(c.text, c.max); !reflect.DeepEqual(got, c.want) {
			t.Errorf("SplitText(%q, %d) = %q, want %q", c.text, c.max, got, c.want)
		}
	}
}

// checkSplit checks what SplitText promises, for any text.
func checkSplit(t *testing.T, text string, size int) {
	t.Helper()
	limit := max(size, utf8.UTFMax)
	pieces := protocol.SplitText(text, size)
	var received strings.Builder
	for i, p := range pieces {
		if len(p) > limit || (p == "" && len(pieces) > 1) {
			t.Errorf("SplitText(%q, %d): piece %d is %q", text, size, i, p)
		}
		received.WriteString(string([]rune(p)))
	}
	if strings.Join(pieces, "") != text || received.String() != string([]rune(text)) {
		t.Errorf("SplitText(%q, %d) = %q, another text", text, size, pieces)
	}
}

func TestADigestIsOverTheTextThatClientsReceive(t *testing.T) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	var d protocol.Digest
	if n, sum := d.Sum(); n != 0 || sum != empty {
		t.Errorf("of no text: %d, %s", n, sum)
	}
	d.Add("ab")
	d.Add("c")
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	for range 2 { // Sum changes nothing
		if n, sum := d.Sum(); n != 3 || sum != abc {
			t.Errorf("of abc: %d, %s", n, sum)
		}
	}
	d.Reset()
	if n, sum := d.Sum(); n != 0 || sum != empty {
		t.Errorf("after Reset: %d, %s", n, sum)
	}
	var sent protocol.Digest
	var tr protocol.Transcript
	for i, s := range []string{"\xff", "\xe2\x82", "a\xed\xa0\x80é"} {
		sent.Add(s)
		if err := tr.Apply(chunk(t, uint64(i+1), "text", s)); err != nil {
			t.Fatal(err)
		}
	}
	n, sum := sent.Sum()
	if err := tr.Apply(event(t, 0, 4, "completed", &protocol.Completed{Events: 4, Bytes: n, SHA256: sum})); err != nil {
		t.Errorf("text that is not UTF-8: %v", err)
	}
}
