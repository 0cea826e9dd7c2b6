package languageserver

import (
	"encoding/json"
	"slices"
	"testing"
	"unicode/utf16"
)

// changedInUnits is the specification of contentChange.apply: what an editor
// does with a text of UTF-16 code units.
func changedInUnits(text []uint16, c *contentChange) []uint16 {
	if c.Range == nil {
		return utf16.Encode([]rune(c.Text))
	}
	starts, ends := []int{0}, []int{} // of the lines, ends without what ends them
	for i := 0; i < len(text); i++ {
		if text[i] != '\r' && text[i] != '\n' {
			continue
		}
		ends = append(ends, i)
		if text[i] == '\r' && i+1 < len(text) && text[i+1] == '\n' {
			i++
		}
		starts = append(starts, i+1)
	}
	ends = append(ends, len(text))
	at := func(p position) int {
		switch {
		case p.Line < 0:
			return min(max(p.Character, 0), ends[0])
		case p.Line >= len(starts):
			return len(text)
		}
		return min(starts[p.Line]+max(p.Character, 0), ends[p.Line])
	}
	from, to := at(c.Range.Start), at(c.Range.End)
	if from > to {
		from, to = to, from
	}
	return slices.Concat(text[:from], utf16.Encode([]rune(c.Text)), text[to:])
}

func TestChangesOfRangesMakeTheTextThatTheEditorHas(t *testing.T) {
	for _, c := range []struct{ name, text, changes, want string }{
		{"the whole text", "one", `[{"text":"two"}]`, "two"},
		{"an insertion", "ab", `[{"range":{"start":{"line":0,"character":1},"end":{"line":0,"character":1}},"text":"x\ny"}]`, "ax\nyb"},
		{"lines are taken out", "a\nb\nc\n", `[{"range":{"start":{"line":1,"character":0},"end":{"line":2,"character":0}},"text":""}]`, "a\nc\n"},
		{"one after the other", "ab", `[{"range":{"start":{"line":0,"character":0},"end":{"line":0,"character":1}},"text":"xyz"},` +
			`{"range":{"start":{"line":0,"character":3},"end":{"line":0,"character":4}},"text":"!"}]`, "xyz!"},
		{"the whole text, then a range", "ab", `[{"text":"xyz"},{"range":{"start":{"line":0,"character":1},"end":{"line":0,"character":2}},"text":""}]`, "xz"},
		{"characters of two units count as two", "🦉π!\r\n", `[{"range":{"start":{"line":0,"character":2},"end":{"line":0,"character":3}},"text":"p"}]`, "🦉p!\r\n"},
		{"all ends of lines are known", "a\rb\r\nc\nd", `[{"range":{"start":{"line":3,"character":0},"end":{"line":3,"character":1}},"text":"D"},` +
			`{"range":{"start":{"line":1,"character":1},"end":{"line":2,"character":0}},"text":" "}]`, "a\rb c\nD"},
		{"beyond a line is its end", "a\r\nb", `[{"range":{"start":{"line":0,"character":9},"end":{"line":0,"character":99}},"text":"x"}]`, "ax\r\nb"},
		{"beyond the text is its end", "a\nb", `[{"range":{"start":{"line":7,"character":3},"end":{"line":9,"character":0}},"text":"x"}]`, "a\nbx"},
		{"from the end to the start", "abc", `[{"range":{"start":{"line":0,"character":3},"end":{"line":0,"character":1}},"text":"x"}]`, "ax"},
		{"half a character is one that is none", "🦉b", `[{"range":{"start":{"line":0,"character":1},"end":{"line":0,"character":3}},"text":"x"}]`, "\ufffdx"},
		{"halves that meet are a character", "🦉🦊", `[{"range":{"start":{"line":0,"character":1},"end":{"line":0,"character":3}},"text":""}]`, "🦊"},
	} {
		var changes []contentChange
		if err := json.Unmarshal([]byte(c.changes), &changes); err != nil {
			t.Fatal(err)
		}
		got, units := c.text, utf16.Encode([]rune(c.text))
		for i := range changes {
			got, units = changes[i].apply(got), changedInUnits(units, &changes[i])
		}
		if got != c.want || string(utf16.Decode(units)) != c.want {
			t.Errorf("%s: got %q, by units %q, want %q", c.name, got, string(utf16.Decode(units)), c.want)
		}
	}
}

// Whatever an editor changes, piece by piece, the server must have the text
// that the editor would have sent whole.
func FuzzChangesOfRangesAgreeWithWholeTexts(f *testing.F) {
	f.Add("a🦉\r\nb\n", "π\r", 0, 1, 1, 0, "", 0, 2, 0, 9)
	f.Add("🦉🦊", "", 0, 1, 0, 3, "x\n", 1, 0, -1, 5)
	f.Add("0", "", 0, -60, -3, 3, "0", 1, 0, -1, 5) // what no editor sends must do no harm
	f.Fuzz(func(t *testing.T, text, first string, a, b, c, d int, second string, e, f, g, h int) {
		// A text comes by JSON, in which everything is a character.
		valid := func(s string) string { return string([]rune(s)) }
		got := valid(text)
		units := utf16.Encode([]rune(got))
		for _, change := range []contentChange{
			{&lspRange{position{a, b}, position{c, d}}, valid(first)},
			{&lspRange{position{e, f}, position{g, h}}, valid(second)},
		} {
			before := got
			got, units = change.apply(got), changedInUnits(units, &change)
			whole := string(utf16.Decode(units))
			if got != whole {
				t.Fatalf("%q of %q: got %q, want %q", change.Text, before, got, whole)
			}
			units = utf16.Encode([]rune(whole)) // what JSON leaves of half a character
		}
	})
}
