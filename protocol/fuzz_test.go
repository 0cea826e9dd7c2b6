package protocol_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/athena-hub/athena/protocol"
)

// seeds gives f the inputs of the vectors, found under the names json, text and
// in lists of text.
func seeds(f *testing.F, data []byte) {
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			f.Add([]byte(v))
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for k, x := range v {
				if _, text := x.(string); !text || k == "json" || k == "text" {
					walk(x)
				}
			}
		}
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		f.Fatal(err)
	}
	walk(v)
}

func vectorFile(f *testing.F, file string) []byte {
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// isError checks that err is the wire's, with one of codes and a detail.
func isError(t *testing.T, err error, codes ...protocol.Code) {
	t.Helper()
	e, ok := errors.AsType[*protocol.Error](err)
	if !ok || e.Detail == "" || !errors.Is(err, protocol.ErrValidation) {
		t.Fatalf("error %#v", err)
	}
	if !slices.Contains(codes, e.Code) {
		t.Fatalf("error %v, want %v", err, codes)
	}
}

func FuzzParse(f *testing.F) {
	seeds(f, vectorFile(f, "events.json"))
	seeds(f, vectorFile(f, "merges.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := protocol.Parse(b)
		if err != nil {
			return
		}
		if e.Seq == 0 || e.First == 0 || e.First > e.Seq || e.Seq > protocol.MaxSeq || bytes.ContainsAny(e.JSON, "\r\n") {
			t.Fatalf("parsed as %+v", e)
		}
		ev, err := e.Event()
		if err != nil {
			t.Fatalf("parsed but not decoded: %v", err)
		}
		first, seq := ev.Covers()
		if first != e.First || seq != e.Seq || ev.Type != e.Type {
			t.Fatalf("parsed as %+v, decoded as %+v", e, ev)
		}
		checkAgainstEncodingJSON(t, b, e, ev)
		if e.Type != protocol.TypeChunk {
			return
		}
		var c protocol.Chunk
		if err := ev.Decode(&c); err != nil {
			t.Fatalf("parsed but not decoded: %v", err)
		}
		if c.Kind != e.Kind() {
			t.Fatalf("kind %q parsed, %q decoded", e.Kind(), c.Kind)
		}
		if e.Seq == protocol.MaxSeq {
			return
		}
		// Merging with another keeps the text, wherever it stood.
		next := protocol.EncodeChunk(ev.Stream, 0, e.Seq+1, noon, c.Kind, c.Attempt, "\"next\\")
		if !e.Mergeable(&next) {
			return // it has fields of a later version
		}
		for _, run := range [][]protocol.Encoded{{e, next}, {e, next, protocol.EncodeChunk(ev.Stream, 0, e.Seq+2, noon, c.Kind, c.Attempt, c.Text)}} {
			if run[len(run)-1].Seq > protocol.MaxSeq {
				continue
			}
			want := c.Text + "\"next\\"
			if len(run) == 3 {
				want += c.Text
			}
			m := protocol.Merge(ev.Stream, run)
			p, err := protocol.Parse(m.JSON)
			if len(m.JSON) > protocol.MaxEventBytes {
				continue
			}
			if err != nil || !reflect.DeepEqual(p, m) {
				t.Fatalf("merged to %+v, parsed as %+v, %v", m, p, err)
			}
			if got := text(t, p); got != want || p.First != e.First {
				t.Fatalf("merged to %s, want text %q", m.JSON, want)
			}
		}
	})
}

// checkAgainstEncodingJSON checks what Parse found against encoding/json, which
// matches the keys of a map exactly, the last of two equal ones.
func checkAgainstEncodingJSON(t *testing.T, b []byte, e protocol.Encoded, ev protocol.Event) {
	t.Helper()
	field := func(m map[string]json.RawMessage, name string, v any) {
		if err := json.Unmarshal(m[name], v); err != nil {
			t.Fatalf("%s: field %q: %v", b, name, err)
		}
	}
	var event, data map[string]json.RawMessage
	if err := json.Unmarshal(b, &event); err != nil {
		t.Fatalf("parsed, but not by encoding/json: %v", err)
	}
	var stream, typ string
	var seq uint64
	field(event, "stream", &stream)
	field(event, "seq", &seq)
	field(event, "type", &typ)
	field(event, "data", &data)
	if stream != ev.Stream || seq != e.Seq || typ != string(e.Type) || !bytes.Equal(event["data"], ev.Data) {
		t.Fatalf("parsed as %+v, by encoding/json as %q, %d, %q, %s", ev, stream, seq, typ, event["data"])
	}
	if e.Type != protocol.TypeChunk {
		return
	}
	var s, kind string
	field(data, "text", &s)
	field(data, "kind", &kind)
	if kind != string(e.Kind()) || s != text(t, e) || len(data["text"])-2 != e.TextLen() {
		t.Fatalf("chunk parsed as %+v, by encoding/json as %q, %q", e, kind, s)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add(stream, uint64(1), uint64(3), "text", 1, "a\"\\é\u2028\xff", 4)
	f.Add("", uint64(0), uint64(0), "", -1, "", 0)
	f.Add("\x80", uint64(9), uint64(1<<60), "\x00", 1<<31, strings.Repeat("\x80", 20), 5)
	f.Fuzz(func(t *testing.T, stream string, first, seq uint64, kind string, attempt int, s string, size int) {
		checkEscaped(t, s)
		checkSplit(t, s, size)
		e, err := protocol.Encode(stream, first, seq, protocol.TypeChunk, noon, &protocol.Chunk{Kind: protocol.ChunkKind(kind), Attempt: attempt, Text: s})
		if err != nil || stream == "" || kind == "" || int(int32(attempt)) != attempt {
			return
		}
		p, err := protocol.Parse(e.JSON)
		if err != nil {
			t.Fatalf("%s: %v", e.JSON, err)
		}
		p2, e2 := p, e
		if valid := string([]rune(kind)); valid != kind { // the kind came back repaired
			if p.Kind() != protocol.ChunkKind(valid) {
				t.Fatalf("kind %q came back as %q", kind, p.Kind())
			}
			p2, e2 = protocol.Encoded{JSON: p.JSON}, protocol.Encoded{JSON: e.JSON}
		}
		if !reflect.DeepEqual(p2, e2) || text(t, p) != string([]rune(s)) {
			t.Fatalf("encoded as %+v, parsed as %+v", e, p)
		}
		if !json.Valid(protocol.AppendSSE(nil, nil, "", e.JSON)[len("data: "):]) || bytes.Count(protocol.AppendSSE(nil, []byte("1"), "", e.JSON), []byte("\n")) != 3 {
			t.Fatalf("%s is not one SSE frame", e.JSON)
		}
	})
}

func FuzzParseCommand(f *testing.F) {
	seeds(f, vectorFile(f, "commands.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, fatal, err := protocol.ParseCommand(b)
		if err != nil {
			isError(t, err, protocol.CodeInvalidRequest, protocol.CodeInvalidCursor)
			if !reflect.DeepEqual(c, protocol.Command{ID: c.ID}) || len(c.ID) > protocol.MaxCommandIDBytes || fatal && c.ID != "" {
				t.Fatalf("%+v came with the error %v, fatal %v", c, err, fatal)
			}
			var object map[string]any
			if isObject := utf8.Valid(b) && json.Unmarshal(b, &object) == nil && object != nil; isObject && fatal {
				t.Fatalf("an object is fatal: %v", err)
			}
			return
		}
		if fatal || c.ID == "" && c.Type != protocol.CommandPing || c.After > protocol.MaxSeq {
			t.Fatalf("%+v, fatal %v", c, fatal)
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		back, _, err := protocol.ParseCommand(again)
		if err != nil || back.Type != c.Type || back.ID != c.ID || back.Stream != c.Stream || back.After != c.After || back.Token != c.Token {
			t.Fatalf("%s came back as %+v, %v", again, back, err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	seeds(f, vectorFile(f, "requests.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := protocol.ParseRequest(b)
		if err != nil {
			isError(t, err, protocol.CodeInvalidRequest)
			if r != nil {
				t.Fatalf("%+v came with the error", r)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := protocol.ParseRequest(again)
		if err != nil || !reflect.DeepEqual(back, r) {
			t.Fatalf("%s came back as %+v, %v; want %+v", again, back, err, r)
		}
	})
}

func FuzzParseSeq(f *testing.F) {
	seeds(f, vectorFile(f, "cursors.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := protocol.ParseSeq(string(b))
		if err != nil {
			isError(t, err, protocol.CodeInvalidCursor)
			return
		}
		// One number has one form.
		id := protocol.AppendCursors(nil, []protocol.Cursor{{Stream: stream, After: n}})
		if string(id) != stream+":"+string(b) || n > protocol.MaxSeq {
			t.Fatalf("%q was read as %d", b, n)
		}
	})
}

func FuzzParseCursors(f *testing.F) {
	seeds(f, vectorFile(f, "cursors.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cs, err := protocol.ParseCursors(string(b))
		if err != nil {
			isError(t, err, protocol.CodeInvalidCursor)
			return
		}
		seen := make(map[string]bool)
		for _, c := range cs {
			if seen[c.Stream] || !protocol.ValidStreamID(c.Stream) || c.After > protocol.MaxSeq {
				t.Fatalf("%q was read as %+v", b, cs)
			}
			seen[c.Stream] = true
		}
		if got := protocol.AppendCursors(nil, cs); len(cs) == 0 || !bytes.Equal(got, b) {
			t.Fatalf("%q was read as %+v, written as %q", b, cs, got)
		}
	})
}

// FuzzTranscriptApply applies any sequence of events: one per line, as the wire
// has it, except for those that begin with "!", whose numbers and data are
// taken as they are, past what Parse would let through.
func FuzzTranscriptApply(f *testing.F) {
	var transcripts []struct{ Events []json.RawMessage }
	if err := json.Unmarshal(vectorFile(f, "transcripts.json"), &transcripts); err != nil {
		f.Fatal(err)
	}
	for _, tr := range transcripts {
		var lines [][]byte
		for _, ev := range tr.Events {
			var line bytes.Buffer
			if err := json.Compact(&line, ev); err != nil {
				f.Fatal(err)
			}
			lines = append(lines, line.Bytes())
		}
		f.Add(bytes.Join(lines, []byte("\n")))
	}
	f.Add([]byte("!{\"Seq\":18446744073709551615,\"First\":1,\"Type\":\"failed\",\"Data\":{}}\n!{\"Seq\":0,\"Type\":\"x\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var tr protocol.Transcript
		for line := range bytes.SplitSeq(b, []byte("\n")) {
			var ev protocol.Event
			if raw, ok := bytes.CutPrefix(line, []byte("!")); ok {
				var loose struct {
					Seq, First uint64
					Type       protocol.Type
					Data       json.RawMessage
				}
				if json.Unmarshal(raw, &loose) != nil {
					continue
				}
				ev = protocol.Event{Seq: loose.Seq, First: loose.First, Type: loose.Type, Data: loose.Data}
			} else if json.Unmarshal(line, &ev) != nil {
				continue
			}
			before, cursor, ended := state(&tr), tr.Cursor(), tr.Terminal() != nil
			err := tr.Apply(&ev)
			switch {
			case err != nil && state(&tr) != before:
				t.Fatalf("%v changed %s to %s", err, before, state(&tr))
			case err == nil && (ended || tr.Cursor() != ev.Seq || tr.Cursor() <= cursor):
				t.Fatalf("%s became %s by %+v", before, state(&tr), ev)
			case err == nil && ev.Type.Terminal() != (tr.Terminal() != nil):
				t.Fatalf("after %s the terminal event is %v", ev.Type, tr.Terminal())
			}
		}
	})
}

// A request that is written and read again is equal to itself, and its form
// begins with what tells it from later ones.
func FuzzCacheKey(f *testing.F) {
	f.Add([]byte(`{"code":"x","options":{"temperature":1e-7,"hedge":false}}`))
	f.Add([]byte(`{"code":"\ud800","analysis":"custom","prompt":"why","cache":"bypass","orphan_timeout":"3s"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := protocol.ParseRequest(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		s, err := protocol.ParseRequest(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if x, y := protocol.Canonical(r), protocol.Canonical(s); !bytes.Equal(x, y) || !bytes.HasPrefix(x, []byte("athena.v1\n")) {
			t.Fatalf("%q, and written and read again %q", x, y)
		}
	})
}
