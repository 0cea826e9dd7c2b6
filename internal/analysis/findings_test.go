package analysis

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
)

const parsedCode = "line one\nline two 🙂 end\r\n\nline four\n"

// A parsed is what a parser gave on, neighbouring text joined.
type parsed []any // string or protocol.Finding

func (p *parsed) text(s string) error {
	if s == "" {
		panic("empty text given on")
	}
	if n := len(*p); n > 0 {
		if t, ok := (*p)[n-1].(string); ok {
			(*p)[n-1] = t + s
			return nil
		}
	}
	*p = append(*p, s)
	return nil
}

func (p *parsed) found(f *protocol.Finding) error {
	*p = append(*p, *f)
	return nil
}

func newTestParser(into *parsed, maxLine, left int) *findingParser {
	return &findingParser{src: newSource(parsedCode), maxLine: maxLine, left: left, text: into.text, found: into.found}
}

func parseSplit(t testing.TB, maxLine, left int, deltas ...string) parsed {
	t.Helper()
	var got parsed
	p := newTestParser(&got, maxLine, left)
	for _, d := range deltas {
		if err := p.feed(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.flush(); err != nil {
		t.Fatal(err)
	}
	return got
}

// parseWhole is the specification of the parser: the same on a whole text,
// line by line, without regard to speed.
func parseWhole(text string, maxLine, left int) parsed {
	var out parsed
	p := newTestParser(&out, maxLine, left)
	fence := ""
	for line := range strings.Lines(text) {
		body := strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(body, findingMarker); ok && fence == "" && len(body) <= maxLine &&
			p.left > 0 && strings.HasPrefix(strings.TrimLeft(rest, " \t"), "{") {
			if f := p.parse(line); f != nil {
				_ = out.found(f)
				continue
			}
		}
		_ = out.text(line)
		indented := strings.TrimLeft(body, " \t")
		if indented == "" || !strings.ContainsRune("`~", rune(indented[0])) || line == body {
			continue
		}
		info := strings.TrimLeft(indented, indented[:1])
		ticks := indented[:len(indented)-len(info)]
		switch {
		case len(ticks) < 3:
		case fence == "":
			if ticks[0] == '~' || !strings.Contains(info, "`") {
				fence = ticks
			}
		case strings.HasPrefix(ticks, fence) && strings.Trim(info, " \t\r") == "":
			fence = ""
		}
	}
	return out
}

func finding(rule string, line, column, endLine, endColumn int) protocol.Finding {
	return protocol.Finding{Rule: rule, Severity: protocol.SeverityHigh, Message: "m", Range: protocol.Range{
		Start: protocol.Position{Line: line, Column: column}, End: protocol.Position{Line: endLine, Column: endColumn}}}
}

const good = `@finding {"rule":"a","severity":"high","message":"m","line":1}`

var findingCases = []struct {
	name string
	text string
	want parsed
}{
	{"nothing gives nothing", "", nil},
	{"plain text passes", "Hello\n@ home\nmail a@finding.example\n", parsed{"Hello\n@ home\nmail a@finding.example\n"}},
	{"a finding leaves the text with its line end", "Before\n" + good + "\nAfter", parsed{"Before\n", finding("a", 1, 1, 1, 9), "After"}},
	{"CRLF ends a finding too", good + "\r\nAfter", parsed{finding("a", 1, 1, 1, 9), "After"}},
	{"the end of the answer ends a finding", "x\n" + good, parsed{"x\n", finding("a", 1, 1, 1, 9)}},
	{"findings in a row keep their order", good + "\n" + strings.Replace(good, `"a"`, `"b"`, 1) + "\n", parsed{finding("a", 1, 1, 1, 9), finding("b", 1, 1, 1, 9)}},
	{"no blank behind the marker is needed", "@finding" + good[9:] + "\n", parsed{finding("a", 1, 1, 1, 9)}},
	{"severity in capitals is known", strings.Replace(good, "high", "High", 1) + "\n", parsed{finding("a", 1, 1, 1, 9)}},
	{"unknown fields are ignored", strings.Replace(good, `{`, `{"cwe":[79],`, 1) + "\n", parsed{finding("a", 1, 1, 1, 9)}},
	{"null counts as left out", strings.Replace(good, `{`, `{"column":null,"suggestion":null,`, 1) + "\n", parsed{finding("a", 1, 1, 1, 9)}},

	{"not at the line's start stays text", " " + good + "\n- " + good + "\n", parsed{" " + good + "\n- " + good + "\n"}},
	{"half a marker stays text", "@find\n@\n@findings {}\n@finding: {}\n", parsed{"@find\n@\n@findings {}\n@finding: {}\n"}},
	{"a marker at the end of the answer stays text", "x\n@finding", parsed{"x\n@finding"}},
	{"a marker without JSON stays text", "@finding \n@finding x\n", parsed{"@finding \n@finding x\n"}},
	{"malformed JSON stays text", "@finding {\"rule\":\n" + good + "}\n", parsed{"@finding {\"rule\":\n" + good + "}\n"}},
	{"half a JSON at the end stays text", good[:30], parsed{good[:30]}},
	{"unknown severity stays text", strings.Replace(good, "high", "huge", 1) + "\nx", parsed{strings.Replace(good, "high", "huge", 1) + "\nx"}},
	{"no message stays text", strings.Replace(good, `"m"`, `" "`, 1), parsed{strings.Replace(good, `"m"`, `" "`, 1)}},
	{"no rule stays text", strings.Replace(good, `"a"`, `""`, 1), parsed{strings.Replace(good, `"a"`, `""`, 1)}},
	{"no line stays text", strings.Replace(good, `,"line":1`, ``, 1), parsed{strings.Replace(good, `,"line":1`, ``, 1)}},
	{"a line outside the code stays text", strings.Replace(good, `:1}`, `:5}`, 1), parsed{strings.Replace(good, `:1}`, `:5}`, 1)}},
	{"a line that is text stays text", strings.Replace(good, `:1}`, `:"1"}`, 1), parsed{strings.Replace(good, `:1}`, `:"1"}`, 1)}},
	{"too long a line stays text", "@finding {" + strings.Repeat(" ", 300) + good[10:] + "\nx", parsed{"@finding {" + strings.Repeat(" ", 300) + good[10:] + "\nx"}},

	{"in a code block it stays text", "```\n" + good + "\n```\n" + good + "\n", parsed{"```\n" + good + "\n```\n", finding("a", 1, 1, 1, 9)}},
	{"a shorter fence does not close", "````go\n```\n" + good + "\n````  \r\n" + good, parsed{"````go\n```\n" + good + "\n````  \r\n", finding("a", 1, 1, 1, 9)}},
	{"another fence does not close", "~~~\n```\n" + good + "\n~~~\n" + good, parsed{"~~~\n```\n" + good + "\n~~~\n", finding("a", 1, 1, 1, 9)}},
	{"a fence with a word does not close", "```\n``` go\n" + good + "\n", parsed{"```\n``` go\n" + good + "\n"}},
	{"an indented fence in a list is one", "1. x\n    ```\n" + good + "\n    ```\n" + good, parsed{"1. x\n    ```\n" + good + "\n    ```\n", finding("a", 1, 1, 1, 9)}},
	{"code in a line is no fence", "```x```\n" + good + "\n", parsed{"```x```\n", finding("a", 1, 1, 1, 9)}},
	{"two backticks are no fence", "``\n" + good + "\n", parsed{"``\n", finding("a", 1, 1, 1, 9)}},
}

func TestFindingsComeOutOfTheText(t *testing.T) {
	for _, c := range findingCases {
		t.Run(c.name, func(t *testing.T) {
			if got := parseSplit(t, 200, 100, c.text); !reflect.DeepEqual(got, c.want) {
				t.Errorf("whole:\n got %q\nwant %q", got, c.want)
			}
			if got := parseWhole(c.text, 200, 100); !reflect.DeepEqual(got, c.want) {
				t.Errorf("specification:\n got %q\nwant %q", got, c.want)
			}
			if got := parseSplit(t, 200, 100, strings.Split(c.text, "")...); !reflect.DeepEqual(got, c.want) {
				t.Errorf("character by character:\n got %q\nwant %q", got, c.want)
			}
			for i := range c.text {
				if got := parseSplit(t, 200, 100, c.text[:i], c.text[i:]); !reflect.DeepEqual(got, c.want) {
					t.Errorf("split at %d:\n got %q\nwant %q", i, got, c.want)
				}
			}
		})
	}
}

func TestFindingsBeyondTheLimitStayText(t *testing.T) {
	got := parseSplit(t, 200, 2, strings.Repeat(good+"\n", 3)+"x")
	want := parsed{finding("a", 1, 1, 1, 9), finding("a", 1, 1, 1, 9), good + "\nx"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnySplitGivesTheSameFindings(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		var b strings.Builder
		for range r.IntN(12) {
			c := findingCases[r.IntN(len(findingCases))].text
			if r.IntN(3) == 0 && c != "" {
				c = c[:r.IntN(len(c))]
			}
			b.WriteString(c)
			if r.IntN(2) == 0 {
				b.WriteByte('\n')
			}
		}
		text := b.String()
		maxLine, left := 50+r.IntN(100), r.IntN(6)
		if got, want := parseSplit(t, maxLine, left, split(r, text)...), parseWhole(text, maxLine, left); !reflect.DeepEqual(got, want) {
			t.Fatalf("text %q, lines of %d, %d findings:\n got %q\nwant %q", text, maxLine, left, got, want)
		}
	}
}

func split(r *rand.Rand, text string) (deltas []string) {
	for len(text) > 0 {
		n := 1 + r.IntN(min(len(text), 1+r.IntN(80)))
		deltas, text = append(deltas, text[:n]), text[n:]
	}
	return deltas
}

func FuzzFindingParser(f *testing.F) {
	for i, c := range findingCases {
		f.Add(c.text, uint64(i), uint8(200), uint8(3))
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64, maxLine, left uint8) {
		got := parseSplit(t, int(maxLine), int(left), split(rand.New(rand.NewPCG(seed, 1)), text)...)
		if want := parseWhole(text, int(maxLine), int(left)); !reflect.DeepEqual(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// FuzzAParserGoesOnBehindWhatWasSaid: a parser that skips what another one gave
// on reads what follows as that one would have, with what it held back said
// again.
func FuzzAParserGoesOnBehindWhatWasSaid(f *testing.F) {
	for _, c := range findingCases {
		for at := range len(c.text) + 1 {
			f.Add(c.text, uint16(at), uint8(200), uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, text string, at uint16, maxLine, left uint8) {
		if int(at) > len(text) {
			return
		}
		begun, rest := text[:at], text[at:]
		var said, got parsed
		p := newTestParser(&said, int(maxLine), int(left))
		q := newTestParser(&got, int(maxLine), int(left))
		if err := p.feed(begun); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		findings := 0
		for _, s := range said {
			if s, ok := s.(string); ok {
				out.WriteString(s)
				continue
			}
			findings++
		}
		if n := q.skip(out.String(), findings); n > 0 {
			t.Fatalf("%d bytes of %q would have been held back, and were not", n, out.String())
		}
		if got != nil {
			t.Fatalf("it said %q again", got)
		}
		if err := q.feed(string(p.held) + rest); err != nil {
			t.Fatal(err)
		}
		said = nil
		if err := p.feed(rest); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.flush(), q.flush()); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, said) {
			t.Errorf("got %q, want %q", got, said)
		}
	})
}

func TestAFindingAsALineIsTheSameFinding(t *testing.T) {
	src := newSource(parsedCode)
	for line := 1; line <= src.lines(); line++ {
		for column := 1; column <= src.endColumn(line); column++ {
			for end := line; end <= src.lines(); end++ {
				r, ok := src.place(line, column, end, column)
				if !ok {
					t.Fatal("no place")
				}
				f := protocol.Finding{Rule: "a", Severity: "low", Message: "<\"m\"> & \U0001F642", Suggestion: "x\ny", Replacement: new("\tb <-\n c"), Range: r}
				if got := parseWhole(findingAsLine(&f), 2000, 9); !reflect.DeepEqual(got, parsed{f}) {
					t.Errorf("%+v became %+v", f, got)
				}
			}
		}
	}
}

// What models have given as code for lines 1 and 2, or for one of them.
func TestAReplacementIsCodeForWholeLines(t *testing.T) {
	for _, c := range []struct {
		name, fields string
		want         any // nil for none, else the code
	}{
		{"as it was asked for", `"line":1,"replacement":"line 1"`, "line 1"},
		{"for several lines, beside words", `"line":1,"end_line":2,"suggestion":"Join them.","replacement":"\tline one\n\tand two"`, "\tline one\n\tand two"},
		{"the end of the last line is not its", `"line":1,"replacement":"a\r\nb\n"`, "a\nb"},
		{"nothing takes the lines out", `"line":2,"replacement":""`, ""},
		{"in a fence", `"line":1,"replacement":"` + "```go\\n\\tx()\\n```" + `"`, "\tx()"},
		{"with the lines' numbers", `"line":1,"end_line":2,"replacement":" 1 | \tx()\n 2 |"`, "\tx()\n"},
		{"with a bar of its own", `"line":1,"replacement":"1 | 2\nx"`, "1 | 2\nx"},
		{"with other numbers", `"line":1,"replacement":"  2 | 3 => x,"`, "  2 | 3 => x,"},
		{"nothing takes out an empty line, too", `"line":3,"replacement":""`, ""},
		{"that is no text", `"line":1,"replacement":["a","b"]`, nil},
		{"left out", `"line":1,"suggestion":"Don't."`, nil},
		{"null", `"line":1,"replacement":null`, nil},
		{"what is there already", `"line":1,"end_line":2,"replacement":"line one\nline two 🙂 end\n"`, nil},
		{"for lines that are not there", `"line":4,"end_line":9,"replacement":"x"`, nil},
		{"up to before its start", `"line":4,"end_line":3,"replacement":"x"`, nil},
	} {
		got := parseSplit(t, 300, 1, `@finding {"rule":"a","severity":"high","message":"m",`+c.fields+"}\n")
		f, ok := got[0].(protocol.Finding)
		if !ok {
			t.Errorf("%s: not a finding: %q", c.name, got)
			continue
		}
		var code any
		if f.Replacement != nil {
			code = *f.Replacement
		}
		if code != c.want {
			t.Errorf("%s: got %q, want %q", c.name, code, c.want)
		}
	}
}

func TestTextIsHeldOnlyWhileItMayBecomeAFinding(t *testing.T) {
	var got parsed
	p := newTestParser(&got, 200, 100)
	for _, s := range []struct{ delta, sofar string }{
		{"a", "a"}, {"\n", "a\n"}, {"@", "a\n"}, {"fin", "a\n"}, {"e", "a\n@fine"}, {" day\n@finding", "a\n@fine day\n"},
		{" ", "a\n@fine day\n"}, {"n", "a\n@fine day\n@finding n"}, {"\n```\n@finding {", "a\n@fine day\n@finding n\n```\n@finding {"},
	} {
		if err := p.feed(s.delta); err != nil {
			t.Fatal(err)
		}
		if want := (parsed{s.sofar}); !reflect.DeepEqual(got, want) {
			t.Fatalf("after %q: %q, want %q", s.delta, got, want)
		}
	}
}

func TestAFindingIsGivenOnAtItsLineEnd(t *testing.T) {
	var got parsed
	p := newTestParser(&got, 200, 100)
	if err := p.feed(good); err != nil || got != nil {
		t.Fatalf("before the line's end: %v, %v", got, err)
	}
	if err := p.feed("\n"); err != nil || len(got) != 1 {
		t.Fatalf("at the line's end: %v, %v", got, err)
	}
}

func TestPositionsAreOfTheCode(t *testing.T) {
	for _, c := range []struct {
		name   string
		fields string
		want   protocol.Finding
	}{
		{"a line alone is all of it", `"line":1`, finding("a", 1, 1, 1, 9)},
		{"columns count UTF-16 units, and CR is not counted", `"line":2`, finding("a", 2, 1, 2, 16)},
		{"an empty line is empty", `"line":3`, finding("a", 3, 1, 3, 1)},
		{"the last line", `"line":4`, finding("a", 4, 1, 4, 10)},
		{"a column goes to the line's end", `"line":1,"column":6`, finding("a", 1, 6, 1, 9)},
		{"columns are kept", `"line":1,"column":2,"end_column":4`, finding("a", 1, 2, 1, 4)},
		{"several lines", `"line":1,"column":2,"end_line":4,"end_column":3`, finding("a", 1, 2, 4, 3)},
		{"an end line goes to its end", `"line":1,"end_line":2`, finding("a", 1, 1, 2, 16)},
		{"an end line behind the code is the last", `"line":3,"end_line":99,"end_column":2`, finding("a", 3, 1, 4, 2)},
		{"an end line before the start is the start's", `"line":2,"end_line":1`, finding("a", 2, 1, 2, 16)},
		{"a column outside the line is left out", `"line":1,"column":10,"end_column":77`, finding("a", 1, 1, 1, 9)},
		{"negative numbers are left out", `"line":1,"column":-1,"end_line":-1,"end_column":-1`, finding("a", 1, 1, 1, 9)},
		{"an end before the start is the line's end", `"line":1,"column":5,"end_column":3`, finding("a", 1, 5, 1, 9)},
		{"the place behind the line is one", `"line":1,"column":9`, finding("a", 1, 9, 1, 9)},
	} {
		got := parseSplit(t, 200, 1, `@finding {"rule":"a","severity":"high","message":"m",`+c.fields+`}`)
		if !reflect.DeepEqual(got, parsed{c.want}) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func FuzzPlacesLieInTheCode(f *testing.F) {
	f.Add(parsedCode, 1, 2, 3, 4)
	f.Fuzz(func(t *testing.T, code string, line, column, endLine, endColumn int) {
		s := newSource(code)
		r, ok := s.place(line, column, endLine, endColumn)
		if !ok {
			if line >= 1 && line <= s.lines() {
				t.Fatalf("line %d of %d has no place", line, s.lines())
			}
			return
		}
		a, b := r.Start, r.End
		if a.Line != line || b.Line < a.Line || b.Line > s.lines() || a.Column < 1 || a.Column > s.endColumn(a.Line) ||
			b.Column < 1 || b.Column > s.endColumn(b.Line) || (a.Line == b.Line && b.Column < a.Column) {
			t.Fatalf("place %+v in %q", r, code)
		}
	})
}

func TestErrorsOfTheOutputStopTheParser(t *testing.T) {
	boom := fmt.Errorf("boom")
	fail := func(string) error { return boom }
	for _, deltas := range [][]string{{"x"}, {"x\n" + good + "\n"}, {"@fi", "x"}, {"@finding {", "}\n"}} {
		p := &findingParser{src: newSource(parsedCode), maxLine: 200, left: 9, text: fail,
			found: func(*protocol.Finding) error { return boom }}
		var err error
		for _, d := range deltas {
			if err = p.feed(d); err != nil {
				break
			}
		}
		if err != boom {
			t.Errorf("%q: error %v", deltas, err)
		}
	}
}

func TestOrdinaryTextIsNotCopied(t *testing.T) {
	deltas := []string{"Some text ", "of a model,\n", "with `code` and\n\n", "```go\nfunc @x\n```\n", "- a list\n", "mail@example.org "}
	p := &findingParser{src: newSource(parsedCode), maxLine: 200, left: 9,
		text: func(string) error { return nil }, found: func(*protocol.Finding) error { return nil }}
	if n := testing.AllocsPerRun(100, func() {
		for _, d := range deltas {
			_ = p.feed(d)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFindingParser(b *testing.B) {
	prose := strings.Split("The handler builds| its query| with string| concatenation,| so\n|that any| caller can| inject `SQL`|.\n\n| Use place|holders.\n", "|")
	marked := make([]string, 0, 40)
	line, err := json.Marshal(map[string]any{"rule": "sql-injection", "severity": "high", "line": 2,
		"message": "The query is built from input, so any caller can inject SQL.", "suggestion": "Use placeholders."})
	if err != nil {
		b.Fatal(err)
	}
	for rest := findingMarker + " " + string(line) + "\n"; rest != ""; {
		n := min(5, len(rest))
		marked, rest = append(marked, rest[:n]), rest[n:]
	}
	for _, c := range []struct {
		name     string
		deltas   []string
		findings int
	}{{"prose", prose, 0}, {"findings", marked, 1}} {
		b.Run(c.name, func(b *testing.B) {
			var bytes, want, found, rounds int
			for _, d := range c.deltas {
				want += len(d)
			}
			want *= 1 - c.findings
			p := &findingParser{src: newSource(parsedCode), maxLine: 16 << 10, left: 1 << 60,
				text: func(s string) error { bytes += len(s); return nil }, found: func(*protocol.Finding) error { found++; return nil }}
			b.ReportAllocs()
			for b.Loop() {
				rounds++
				for _, d := range c.deltas {
					if err := p.feed(d); err != nil {
						b.Fatal(err)
					}
				}
			}
			if bytes != rounds*want || found != rounds*c.findings {
				b.Fatalf("%d bytes and %d findings in %d rounds", bytes, found, rounds)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rounds*len(c.deltas)), "ns/delta")
		})
	}
}
