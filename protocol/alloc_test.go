package protocol_test

import (
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
)

// token is a chunk's text as providers send it.
const token = " the query is built from user input,\n"

func thousand() []protocol.Encoded {
	run := make([]protocol.Encoded, 1000)
	for i := range run {
		run[i] = protocol.EncodeChunk(stream, 0, uint64(i+1), noon, protocol.KindText, 1, token)
	}
	return run
}

// The hot paths' allocations: a chunk is encoded and merged into one buffer,
// and parsing one copies its JSON once.
func TestHotPathsAllocateOnce(t *testing.T) {
	run := thousand()
	cursors := []protocol.Cursor{{Stream: stream, After: 17}, {Stream: stream, After: 3}}
	buf := make([]byte, 0, 4096)
	for _, c := range []struct {
		name string
		max  float64
		f    func()
	}{
		{"EncodeChunk", 1, func() { protocol.EncodeChunk(stream, 0, 1, noon, protocol.KindText, 1, token) }},
		{"Merge of 1000 chunks", 1, func() { protocol.Merge(stream, run) }},
		{"Mergeable", 0, func() { run[0].Mergeable(&run[1]) }},
		{"AppendSSE", 0, func() { protocol.AppendSSE(buf, nil, "", run[0].JSON) }},
		{"AppendCursors", 0, func() { protocol.AppendCursors(buf, cursors) }},
		{"AppendString", 0, func() { protocol.AppendString(buf, token) }},
		{"Parse of a chunk", 1, func() {
			if _, err := protocol.Parse(run[0].JSON); err != nil {
				t.Error(err)
			}
		}},
	} {
		if got := testing.AllocsPerRun(100, c.f); got > c.max {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.max)
		}
	}
}

func BenchmarkEncodeChunk(b *testing.B) {
	b.ReportAllocs()
	var e protocol.Encoded
	for b.Loop() {
		e = protocol.EncodeChunk(stream, 0, 17, noon, protocol.KindText, 1, token)
	}
	if text(b, e) != token {
		b.Errorf("encoded %s", e.JSON)
	}
}

func BenchmarkMerge1000(b *testing.B) {
	run := thousand()
	b.ReportAllocs()
	var m protocol.Encoded
	for b.Loop() {
		m = protocol.Merge(stream, run)
	}
	if text(b, m) != strings.Repeat(token, len(run)) {
		b.Errorf("merged to %d bytes", len(m.JSON))
	}
}

func BenchmarkParseChunk(b *testing.B) {
	chunk := protocol.EncodeChunk(stream, 0, 17, noon, protocol.KindText, 1, token)
	b.ReportAllocs()
	b.SetBytes(int64(len(chunk.JSON)))
	var e protocol.Encoded
	for b.Loop() {
		var err error
		if e, err = protocol.Parse(chunk.JSON); err != nil {
			b.Fatal(err)
		}
	}
	if text(b, e) != token {
		b.Errorf("parsed as %+v", e)
	}
}

func BenchmarkTranscriptApply(b *testing.B) {
	chunk := protocol.EncodeChunk(stream, 0, 1, noon, protocol.KindText, 1, token)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		ev, err := chunk.Event()
		if err != nil {
			b.Fatal(err)
		}
		var tr protocol.Transcript
		if err := tr.Apply(&ev); err != nil {
			b.Fatal(err)
		}
		n += len(tr.Text())
	}
	if n == 0 || n%len(token) != 0 {
		b.Errorf("%d bytes of text", n)
	}
}
