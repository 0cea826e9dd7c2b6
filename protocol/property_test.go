package protocol_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A life is one stream as its owner wrote it, and what it said.
type life struct {
	events    []protocol.Encoded
	text      string // of the attempt that counted
	reasoning string
	rules     []string
}

// alphabet has what is hard for JSON, UTF-8 and SSE.
var alphabet = []string{"a", "b ", "\n", "\r\n", "\"", "\\", "\\n", "\\u", "\x00", "\x7f", "é", "☃", "😀", "e\u0301", "\u2028", "\ufeff",
	"data: ", "}}", "\xff", "\xe2\x82", "\xed\xa0\x80"}

func randomText(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(12) {
		b.WriteString(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}

// newLife writes a stream of random events: texts of several kinds split into
// chunks, failovers of both sorts, findings, and a completed at the end.
func newLife(t *testing.T, r *rand.Rand) *life {
	l := new(life)
	var digest protocol.Digest
	at := noon
	add := func(typ protocol.Type, data any) {
		at = at.Add(time.Duration(r.IntN(50)) * time.Millisecond)
		seq := uint64(len(l.events) + 1)
		e, err := protocol.Encode(stream, seq, seq, typ, at, data)
		if err != nil {
			t.Fatal(err)
		}
		l.events = append(l.events, e)
	}
	attempt := 1
	add(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: attempt})
	kinds := []protocol.ChunkKind{protocol.KindText, protocol.KindText, protocol.KindReasoning, protocol.KindTool}
	for range r.IntN(20) {
		switch r.IntN(10) {
		case 0:
			attempt++
			discard := r.IntN(2) == 0
			add(protocol.TypeFailover, &protocol.Failover{Attempt: attempt, Discard: discard})
			if discard {
				l.text, l.reasoning, l.rules = "", "", nil
				digest.Reset()
			}
			add(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: attempt})
		case 1:
			rule := fmt.Sprint("rule", len(l.events))
			l.rules = append(l.rules, rule)
			add(protocol.TypeFinding, &protocol.Finding{Rule: rule, Severity: protocol.SeverityLow})
		default:
			kind := kinds[r.IntN(len(kinds))]
			for _, piece := range protocol.SplitText(randomText(r), 4+r.IntN(20)) {
				received := string([]rune(piece))
				switch kind {
				case protocol.KindText:
					digest.Add(piece)
					l.text += received
				case protocol.KindReasoning:
					l.reasoning += received
				}
				add(protocol.TypeChunk, &protocol.Chunk{Kind: kind, Attempt: attempt, Text: piece})
			}
		}
	}
	bytes, sum := digest.Sum()
	add(protocol.TypeCompleted, &protocol.Completed{Events: uint64(len(l.events) + 1), Bytes: bytes, SHA256: sum})
	return l
}

// mergeSome merges random runs of neighbours as far as Mergeable allows, and
// sends each event through its JSON, as another node would get it.
func mergeSome(t *testing.T, r *rand.Rand, events []protocol.Encoded) []protocol.Encoded {
	var out []protocol.Encoded
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n-1].Mergeable(&events[n]) && r.IntN(4) > 0 {
			n++
		}
		m := protocol.Merge(stream, events[:n])
		if r.IntN(2) == 0 {
			m = mustParse(t, string(m.JSON))
		}
		out = append(out, m)
		events = events[n:]
	}
	return out
}

// receive applies events to what a client holds already, and checks P1 by
// itself, without Transcript.
func receive(t *testing.T, tr *protocol.Transcript, events []protocol.Encoded) {
	cursor := tr.Cursor()
	for _, e := range events {
		if e.First != cursor+1 || e.Seq < e.First {
			t.Fatalf("event %d..%d after cursor %d breaks P1", e.First, e.Seq, cursor)
		}
		cursor = e.Seq
		ev, err := e.Event()
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Apply(&ev); err != nil {
			t.Fatalf("%s: %v", e.JSON, err)
		}
	}
}

func (l *life) check(t *testing.T, tr *protocol.Transcript) {
	t.Helper()
	var rules []string
	for _, f := range tr.Findings() {
		rules = append(rules, f.Rule)
	}
	if tr.Text() != l.text || tr.Reasoning() != l.reasoning || fmt.Sprint(rules) != fmt.Sprint(l.rules) {
		t.Errorf("received %q, %q, %v; written were %q, %q, %v", tr.Text(), tr.Reasoning(), rules, l.text, l.reasoning, l.rules)
	}
	if end := tr.Terminal(); end == nil || end.Type != protocol.TypeCompleted || tr.Cursor() != uint64(len(l.events)) {
		t.Errorf("ended with %v at %d of %d", end, tr.Cursor(), len(l.events))
	}
}

// TestAnySplitAndMergeOfAStreamGivesTheSameText is P3: however a stream's text
// was split, however its chunks were merged on the way, again and again, and
// wherever a client came in, it holds the same text, sees P1 kept, and finds
// that the completed event's digest holds (Transcript checks P5).
func TestAnySplitAndMergeOfAStreamGivesTheSameText(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			l := newLife(t, r)
			for range 4 {
				// Two floors of merging: the writer's window, then a reader
				// that lags.
				var whole protocol.Transcript
				receive(t, &whole, mergeSome(t, r, mergeSome(t, r, l.events)))
				l.check(t, &whole)

				// A client that is cut off anywhere and comes back with its
				// cursor, to a node that has merged otherwise.
				var resumed protocol.Transcript
				for resumed.Terminal() == nil {
					rest := mergeSome(t, r, l.events[resumed.Cursor():])
					receive(t, &resumed, rest[:1+r.IntN(len(rest))])
				}
				l.check(t, &resumed)
			}
			// Everything merged that can be: as long as the text, not as the
			// number of tokens.
			var most []protocol.Encoded
			for rest := l.events; len(rest) > 0; {
				n := 1
				for n < len(rest) && rest[n-1].Mergeable(&rest[n]) {
					n++
				}
				most, rest = append(most, protocol.Merge(stream, rest[:n])), rest[n:]
			}
			for i := range most[1:] {
				if most[i].Mergeable(&most[i+1]) {
					t.Errorf("%s and %s were left apart", most[i].JSON, most[i+1].JSON)
				}
			}
			var tr protocol.Transcript
			receive(t, &tr, most)
			l.check(t, &tr)
		})
	}
}
