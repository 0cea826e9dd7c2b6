package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPrintableTextHoldsNothingThatATerminalObeys(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\nπ 日本 🦉":        "plain\ttext\nπ 日本 🦉",
		"\x1b]0;owned\a\x1b[2Jx":     "^[]0;owned^G^[[2Jx",
		"a\rb\r\n":                   "ab\n",
		"nul\x00del\x7f":             "nul^@del^?",
		"c1 \u009b2J \u0085":         "c1 <U+009B>2J <U+0085>",
		"if \u202e}\u2066 // \u2069": "if <U+202E>}<U+2066> // <U+2069>",
		"line\u2028end":              "line<U+2028>end",
		"bad \x9b\xff":               "bad \uFFFD\uFFFD",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) is %q, want %q", in, got, want)
		}
	}
	if got, want := oneLine("a\n\tb\x1b"), "a  b^["; got != want {
		t.Errorf("oneLine gave %q, want %q", got, want)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31m\u009b\u202e\r\n\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if strings.ContainsFunc(got, unprintable) || !utf8.ValidString(got) || printable(got) != got {
			t.Errorf("printable(%q) is %q", s, got)
		}
		want, err := json.Marshal(strings.ToValidUTF8(s, "?"))
		if err != nil {
			t.Fatal(err)
		}
		line := printableJSON(want)
		var a, b string
		if json.Unmarshal(want, &a) != nil || json.Unmarshal(line, &b) != nil || a != b || strings.ContainsFunc(string(line), unprintable) {
			t.Errorf("%s became %s", want, line)
		}
	})
}

func TestHeadingsAreTheSameHoweverTheTextIsCut(t *testing.T) {
	const text = "# One\ntext # not\n####### seven\n#hash\n```go\n# comment\n```\n`code` line\n\n### Last `x`\nend\n## open"
	const want = styleBold + "# One" + styleReset + "\ntext # not\n####### seven\n#hash\n```go\n# comment\n```\n`code` line\n\n" +
		styleBold + "### Last `x`" + styleReset + "\nend\n" + styleBold + "## open" + styleReset
	for size := 1; size <= len(text); size++ {
		var h headings
		got := ""
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			got += h.style(rest[:n])
			rest = rest[n:]
		}
		if got += h.end(); got != want {
			t.Fatalf("in pieces of %d: %q, want %q", size, got, want)
		}
	}
}

func TestAStatusIsCutToTheTerminal(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{{"status", 6, "status"}, {"status", 5, "statu"}, {"日本語", 5, "日本"}, {"x", 0, ""}, {"x", -1, ""}} {
		if got := clip(c.text, c.width); got != c.want {
			t.Errorf("clip(%q, %d) is %q, want %q", c.text, c.width, got, c.want)
		}
	}
}
