package protocol_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const stream = "01JD8Z6Q4M5N7P8R9S0T1V2W3XABCDEFGH12"

var noon = time.Date(2026, 11, 22, 21, 0, 0, 123_000_000, time.UTC)

func mustParse(t testing.TB, s string) protocol.Encoded {
	t.Helper()
	e, err := protocol.Parse([]byte(s))
	if err != nil {
		t.Fatalf("Parse(%s): %v", s, err)
	}
	return e
}

// text returns what a client reads out of a chunk.
func text(t testing.TB, e protocol.Encoded) string {
	t.Helper()
	ev, err := e.Event()
	if err != nil {
		t.Fatal(err)
	}
	var c protocol.Chunk
	if err := ev.Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c.Text
}

func TestAnEventIsEncodedAsTheWireShowsIt(t *testing.T) {
	chunk := protocol.EncodeChunk(stream, 12, 17, noon, protocol.KindText, 1, "a\"\\\n\t\r\x00\x7f<&>é😀\u2028\u2029\xff")
	want := `{"stream":"` + stream + `","seq":17,"first":12,"type":"chunk","time":"2026-11-22T21:00:00.123Z",` +
		`"data":{"kind":"text","attempt":1,"text":"a\"\\\n\t\r\u0000\u007f<&>é😀\u2028\u2029\ufffd"}}`
	if string(chunk.JSON) != want {
		t.Errorf("EncodeChunk =\n%s\nwant\n%s", chunk.JSON, want)
	}
	failed, err := protocol.Encode(stream, 3, 3, protocol.TypeFailed, noon.In(time.FixedZone("", 3600)),
		protocol.Failed{Error: protocol.Errorf(protocol.CodeTimeout, "after <60s>")})
	if err != nil {
		t.Fatal(err)
	}
	want = `{"stream":"` + stream + `","seq":3,"type":"failed","time":"2026-11-22T21:00:00.123Z","data":{"error":` +
		`{"code":"timeout","title":"The provider did not answer in time","detail":"after <60s>","status":504,"retryable":true}}}`
	if string(failed.JSON) != want {
		t.Errorf("Encode =\n%s\nwant\n%s", failed.JSON, want)
	}
}

func TestEncodeAndParseAgree(t *testing.T) {
	percent := 12.5
	for _, v := range []struct {
		t    protocol.Type
		data any
	}{
		{protocol.TypeStarted, &protocol.Started{Provider: "claude", Model: "m", Analysis: "review", Attempt: 1}},
		{protocol.TypeQueued, &protocol.Queued{Position: 2, Reason: "bulkhead", RetryAfterMS: 5}},
		{protocol.TypeRetrying, &protocol.Retrying{Provider: "claude", Attempt: 1, AfterMS: 200, Error: &protocol.Error{Code: "timeout"}}},
		{protocol.TypeFailover, &protocol.Failover{From: "a", To: "b", Attempt: 2, Reason: "timeout", Discard: true}},
		{protocol.TypeChunk, &protocol.Chunk{Kind: "text", Attempt: 1, Text: "x"}},
		{protocol.TypeChunk, protocol.Chunk{Kind: "tool", Attempt: 1, Text: "{\""}},
		{protocol.TypeChunk, json.RawMessage(`{"text":"x","kind":"audio"}`)},
		{protocol.TypeFinding, &protocol.Finding{Rule: "r", Severity: "high", Message: "m"}},
		{protocol.TypeProgress, &protocol.Progress{Stage: "lexing", Percent: &percent}},
		{protocol.TypeUsage, &protocol.Usage{InputTokens: 1}},
		{protocol.TypeCompleted, &protocol.Completed{Events: 7, Bytes: 1, SHA256: "ab"}},
		{protocol.TypeFailed, &protocol.Failed{Error: &protocol.Error{Code: "timeout"}}},
		{protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelDrain}},
		{"from-the-future", map[string]int{"n": 1}},
	} {
		for _, first := range []uint64{0, 3, 7} {
			e, err := protocol.Encode(stream, first, 7, v.t, noon, v.data)
			if err != nil {
				t.Fatal(err)
			}
			if p := mustParse(t, string(e.JSON)); !reflect.DeepEqual(e, p) {
				t.Errorf("%s: Encode made %+v, Parse %+v", v.t, e, p)
			}
			ev, err := e.Event()
			if err != nil {
				t.Fatal(err)
			}
			from, to := ev.Covers()
			if ev.Stream != stream || !ev.Time.Equal(noon) || ev.Type != v.t || from != e.First || to != 7 {
				t.Errorf("%s: Event = %+v", v.t, ev)
			}
			again, err := json.Marshal(ev)
			if err != nil {
				t.Fatal(err)
			}
			var back protocol.Event
			if err := json.Unmarshal(again, &back); err != nil || !reflect.DeepEqual(ev, back) {
				t.Errorf("%s: an Event became %+v (%v) over JSON, want %+v", v.t, back, err, ev)
			}
			if data := protocol.DataFor(v.t); data != nil {
				if err := ev.Decode(data); err != nil {
					t.Errorf("%s: %v", v.t, err)
				}
			}
		}
	}
}

func TestEncodeRefusesWhatParseWould(t *testing.T) {
	for name, err := range map[string]error{
		"no seq":           second(protocol.Encode(stream, 0, 0, protocol.TypeUsage, noon, &protocol.Usage{})),
		"first after seq":  second(protocol.Encode(stream, 8, 7, protocol.TypeUsage, noon, &protocol.Usage{})),
		"seq past 2^53":    second(protocol.Encode(stream, 1, protocol.MaxSeq+1, protocol.TypeUsage, noon, &protocol.Usage{})),
		"nil":              second(protocol.Encode(stream, 1, 1, protocol.TypeUsage, noon, nil)),
		"nil pointer":      second(protocol.Encode(stream, 1, 1, protocol.TypeUsage, noon, (*protocol.Usage)(nil))),
		"a string":         second(protocol.Encode(stream, 1, 1, protocol.TypeUsage, noon, "x")),
		"a channel":        second(protocol.Encode(stream, 1, 1, protocol.TypeUsage, noon, make(chan int))),
		"chunk of nothing": second(protocol.Encode(stream, 1, 1, protocol.TypeChunk, noon, &protocol.Usage{})),
		"too large a chunk": second(protocol.Encode(stream, 1, 1, protocol.TypeChunk, noon,
			&protocol.Chunk{Kind: protocol.KindText, Text: strings.Repeat("\x01", protocol.MaxEventBytes/6)})),
		"too large": second(protocol.Encode(stream, 1, 1, protocol.TypeProgress, noon,
			&protocol.Progress{Stage: strings.Repeat("x", protocol.MaxEventBytes)})),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestParseFindsTheTextWhereverItStands(t *testing.T) {
	for _, s := range []string{
		`{"stream":"s","seq":2,"type":"chunk","time":"2026-11-22T21:00:00.000Z","data":{"kind":"text","attempt":1,"text":"a\"é"}}`,
		`  {"data":{"text":"a\"é","kind":"text","attempt":1},"time":"2026-11-22T21:00:00Z","type":"chunk","seq":2,"stream":"s"} `,
		"\t{ \"data\" : { \"text\"\t: \"a\\\"é\" , \"attempt\" : 1 , \"kind\" : \"text\" } , \"time\" : \"2026-11-22T21:00:00+01:00\" , \"type\" : \"chunk\" , \"first\" : 1 , \"seq\" : 2 , \"stream\" : \"s\" }",
		`{"stream":"s","seq":2,"type":"chunk","time":"2026-11-22T21:00:00.000Z","data":{"text":"wrong"},"data":{"kind":"x","kind":"text","attempt":1,"text":"no","text":"a\"é"}}`,
		`{"stream":"s","seq":2,"\u0074ype":"c\u0068unk","time":"2026-11-22T21:00:00.000Z","data":{"kind":"te\u0078t","attempt":1,"t\u0065xt":"a\"é"}}`,
	} {
		e := mustParse(t, s)
		if e.Kind() != protocol.KindText || e.TextLen() != len(`a\"é`) || e.Seq != 2 || e.Type != protocol.TypeChunk {
			t.Errorf("%s: parsed as %+v", s, e)
		}
		if got := text(t, e); got != `a"é` {
			t.Errorf("%s: text %q", s, got)
		}
		next := protocol.EncodeChunk("s", 3, 3, noon, protocol.KindText, 1, "!")
		if !e.Mergeable(&next) {
			t.Fatalf("%s: not mergeable with %s", s, next.JSON)
		}
		m := protocol.Merge("s", []protocol.Encoded{e, next})
		if got := text(t, mustParse(t, string(m.JSON))); got != `a"é!` {
			t.Errorf("%s: merged text %q", s, got)
		}
	}
}

func TestParseRefusesWhatIsNoEvent(t *testing.T) {
	ev := func(old, new string) string {
		s := `{"stream":"s","seq":2,"first":1,"type":"chunk","time":"2026-11-22T21:00:00.000Z","data":{"kind":"text","attempt":1,"text":"a"}}`
		if !strings.Contains(s, old) {
			t.Fatalf("%q is not in the event", old)
		}
		return strings.Replace(s, old, new, 1)
	}
	mustParse(t, ev("", ""))
	for _, c := range []struct{ name, json, detail string }{
		{"nothing", ``, "valid JSON"},
		{"half", `{"stream":`, "valid JSON"},
		{"two", ev("", "") + ev("", ""), "valid JSON"},
		{"null", `null`, "not a JSON object"},
		{"an array", `[1]`, "not a JSON object"},
		{"a number", `7`, "not a JSON object"},
		{"several lines", ev(`"seq"`, "\n"+`"seq"`), "one line"},
		{"a carriage return", ev(`"seq"`, "\r"+`"seq"`), "one line"},
		{"bytes that are not UTF-8", ev(`"a"`, "\"\xc3\""), "UTF-8"},
		{"a raw control character", ev(`"a"`, "\"\x01\""), "valid JSON"},
		{"too many bytes", ev(`"a"`, `"`+strings.Repeat("a", protocol.MaxEventBytes)+`"`), "limit"},
		{"nesting without end", strings.Repeat("[", protocol.MaxEventBytes), "valid JSON"},
		{"no stream", ev(`"stream":"s",`, ``), `"stream"`},
		{"an empty stream", ev(`"s"`, `""`), `"stream"`},
		{"a stream that is a number", ev(`"s"`, `5`), `"stream"`},
		{"no seq", ev(`"seq":2,`, ``), `"seq"`},
		{"seq 0", ev(`"seq":2`, `"seq":0`), `"seq"`},
		{"a negative seq", ev(`"seq":2`, `"seq":-2`), `"seq"`},
		{"a broken seq", ev(`"seq":2`, `"seq":2.5`), `"seq"`},
		{"a seq with an exponent", ev(`"seq":2`, `"seq":2e0`), `"seq"`},
		{"a seq that is text", ev(`"seq":2`, `"seq":"2"`), `"seq"`},
		{"a seq past 2^53", ev(`"seq":2`, `"seq":9007199254740993`), `"seq"`},
		{"seq in capitals", ev(`"seq"`, `"SEQ"`), `"seq"`},
		{"first 0", ev(`"first":1`, `"first":0`), `"first"`},
		{"first null", ev(`"first":1`, `"first":null`), `"first"`},
		{"a first that is text", ev(`"first":1`, `"first":"1"`), `"first"`},
		{"first after seq", ev(`"first":1`, `"first":3`), `"first"`},
		{"no type", ev(`"type":"chunk",`, ``), `"type"`},
		{"a type that is a number", ev(`"chunk"`, `1`), `"type"`},
		{"no time", ev(`"time":"2026-11-22T21:00:00.000Z",`, ``), `"time"`},
		{"a time that is a number", ev(`"2026-11-22T21:00:00.000Z"`, `1`), `"time"`},
		{"a time of another form", ev(`2026-11-22T21:00:00.000Z`, `yesterday`), `"time"`},
		{"no data", ev(`,"data":{"kind":"text","attempt":1,"text":"a"}`, ``), `"data"`},
		{"data that is null", ev(`{"kind":"text","attempt":1,"text":"a"}`, `null`), `"data"`},
		{"data that is an array", ev(`{"kind":"text","attempt":1,"text":"a"}`, `[]`), `"data"`},
		{"a chunk without kind", ev(`"kind":"text",`, ``), `"kind"`},
		{"a chunk without text", ev(`,"text":"a"`, ``), `"text"`},
		{"a chunk whose text is null", ev(`"a"`, `null`), `"text"`},
		{"an attempt that is text", ev(`"attempt":1`, `"attempt":"1"`), `"attempt"`},
		{"a broken attempt", ev(`"attempt":1`, `"attempt":1.5`), `"attempt"`},
		{"a chunk that begins inside a character", ev(`"a"`, `"\ude00a"`), "splits a character"},
		{"a chunk that ends inside a character", ev(`"a"`, `"a\\\uD83D"`), "splits a character"},
	} {
		e, err := protocol.Parse([]byte(c.json))
		if err == nil || !strings.Contains(err.Error(), c.detail) {
			t.Errorf("%s: error %v, want one that says %s", c.name, err, c.detail)
		}
		if !reflect.DeepEqual(e, protocol.Encoded{}) {
			t.Errorf("%s: an event came with the error", c.name)
		}
	}
	for name, s := range map[string]string{
		"an escaped backslash before u": ev(`"a"`, `"\\ud83d"`),
		"a whole pair":                  ev(`"a"`, `"\ud83d\ude00"`),
		"a lone half inside":            ev(`"a"`, `"a\ud83d."`),
		"a chunk without attempt":       ev(`"attempt":1,`, ``),
		"much that looks nested":        ev(`"a"`, `"`+strings.Repeat("[", 20000)+`"`),
		"unknown fields":                ev(`"seq"`, `"x":[{"y":null}],"seq"`),
	} {
		if _, err := protocol.Parse([]byte(s)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEventsAreDecodedByExactNames(t *testing.T) {
	e := mustParse(t, `{"stream":"s","Stream":"S","SEQ":9,"seq":2,"type":"finding","Type":"usage","time":"2026-11-22T21:00:00.000Z","DATA":{},`+
		`"data":{"rule":"r","Rule":"R","RULE":"R","severity":"low","message":"m","new":1,"range":{"start":{"line":1,"Line":5,"column":2},"END":{"line":9}}}}`)
	ev, err := e.Event()
	if err != nil {
		t.Fatal(err)
	}
	var f protocol.Finding
	if err := ev.Decode(&f); err != nil {
		t.Fatal(err)
	}
	want := protocol.Finding{Rule: "r", Severity: "low", Message: "m", Range: protocol.Range{Start: protocol.Position{Line: 1, Column: 2}}}
	if ev.Stream != "s" || ev.Seq != 2 || ev.Type != protocol.TypeFinding || f != want {
		t.Errorf("event %+v, finding %+v, want %+v", ev, f, want)
	}
	var m map[string]any
	if err := ev.Decode(&m); err != nil || m["RULE"] != "R" {
		t.Errorf("decoded into a map: %v, %v", m, err)
	}
}

func TestDataThatIsNoObjectIsNotDecoded(t *testing.T) {
	for _, data := range []string{``, `null`, `[]`, `"x"`, `{`, `{"kind":5}`} {
		ev := protocol.Event{Seq: 4, Type: protocol.TypeChunk, Data: json.RawMessage(data)}
		err := ev.Decode(&protocol.Chunk{})
		if err == nil || !strings.Contains(err.Error(), "decode chunk event 4") {
			t.Errorf("data %q: error %v", data, err)
		}
	}
}

func TestUnmarshalTakesEventsOverSeveralLines(t *testing.T) {
	var ev protocol.Event
	if err := json.Unmarshal([]byte("{\"stream\":\"s\",\n\"seq\":1,\n\"type\":\"x\",\"time\":\"2026-11-22T21:00:00Z\",\"data\":{\n}}"), &ev); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{"seq":1}`), &ev); err == nil || ev.Stream != "s" {
		t.Errorf("half an event was taken: %+v", ev)
	}
	if _, err := new(protocol.Encoded).Event(); err == nil {
		t.Error("the zero Encoded became an event")
	}
}

func TestOnlyNeighboursOfOneKindAndAttemptMerge(t *testing.T) {
	chunk := func(first, seq uint64, kind protocol.ChunkKind, attempt int) protocol.Encoded {
		return protocol.EncodeChunk(stream, first, seq, noon, kind, attempt, "x")
	}
	base := chunk(1, 4, protocol.KindText, 1)
	usage, err := protocol.Encode(stream, 5, 5, protocol.TypeUsage, noon, &protocol.Usage{})
	if err != nil {
		t.Fatal(err)
	}
	newer := func(s string) protocol.Encoded {
		return mustParse(t, strings.Replace(`{"stream":"`+stream+`","seq":5,"type":"chunk","time":"2026-11-22T21:00:00Z","data":{"kind":"text","attempt":1,"text":"x"}}`, "{", s, 2))
	}
	for name, c := range map[string]struct {
		next protocol.Encoded
		want bool
	}{
		"the next chunk":             {chunk(5, 5, protocol.KindText, 1), true},
		"a merged chunk":             {chunk(5, 9, protocol.KindText, 1), true},
		"another kind":               {chunk(5, 5, protocol.KindReasoning, 1), false},
		"another attempt":            {chunk(5, 5, protocol.KindText, 2), false},
		"a hole":                     {chunk(6, 6, protocol.KindText, 1), false},
		"an overlap":                 {chunk(4, 5, protocol.KindText, 1), false},
		"another type":               {usage, false},
		"a field of a later version": {newer(`{"index":1,`), false},
	} {
		if got := base.Mergeable(&c.next); got != c.want {
			t.Errorf("%s: Mergeable = %v", name, got)
		}
	}
	if usage.Mergeable(&usage) {
		t.Error("a usage event is mergeable")
	}
	if m := protocol.Merge(stream, []protocol.Encoded{base}); !bytes.Equal(m.JSON, base.JSON) {
		t.Errorf("a run of one became %s", m.JSON)
	}
}

func TestAMergedChunkCoversItsParts(t *testing.T) {
	run := []protocol.Encoded{
		protocol.EncodeChunk(stream, 2, 4, noon, protocol.KindText, 3, "a\n"),
		protocol.EncodeChunk(stream, 5, 5, noon, protocol.KindText, 3, ""),
		protocol.EncodeChunk(stream, 6, 6, noon.Add(time.Second), protocol.KindText, 3, "\"é"),
	}
	m := protocol.Merge(stream, run)
	want := protocol.EncodeChunk(stream, 2, 6, noon.Add(time.Second), protocol.KindText, 3, "a\n\"é")
	if !reflect.DeepEqual(m.JSON, want.JSON) || !reflect.DeepEqual(mustParse(t, string(m.JSON)), m) {
		t.Errorf("merged to %s, want %s", m.JSON, want.JSON)
	}
	if m.Terminal() || m.First != 2 || m.Seq != 6 {
		t.Errorf("merged to %+v", m)
	}
}

func TestAppendStringWritesWhatEncodingJSONReads(t *testing.T) {
	for _, s := range []string{"", "a", "\x00\x1f\"\\/\b\f\n\r\t\x7f", "é\u2028\u2029\ufffd\ufeff😀", "\xff\xc3\xe2\x82\xed\xa0\x80\xf4\x90\x80\x80a", "<script>&"} {
		checkEscaped(t, s)
	}
}

// checkEscaped checks that s as JSON is one line and decodes to s, with U+FFFD
// for every byte that is not UTF-8.
func checkEscaped(t *testing.T, s string) {
	t.Helper()
	b := protocol.AppendString([]byte("x"), s)[1:]
	var got string
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%q became %s: %v", s, b, err)
	}
	if want := string([]rune(s)); got != want {
		t.Errorf("%q came back as %q", s, got)
	}
	if bytes.ContainsAny(b, "\n\r\u2028\u2029") {
		t.Errorf("%q became several lines: %q", s, b)
	}
}
