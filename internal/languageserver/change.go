package languageserver

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// apply returns the text that a change makes of text. A place that is not there
// counts as the end of its line, or of the text, as LSP 3.17 has it ("Position");
// a range from its end to its start is that range.
//
// Editors count UTF-16 code units, and may cut a surrogate pair in two: each
// half that is left becomes U+FFFD here, as it does on the way through JSON, so
// that both sides go on to count alike.
func (c *contentChange) apply(text string) string {
	if c.Range == nil {
		return c.Text
	}
	from, cutFrom := offset(text, c.Range.Start)
	to, cutTo := offset(text, c.Range.End)
	if to < from || to == from && cutFrom && !cutTo {
		from, cutFrom, to, cutTo = to, cutTo, from, cutFrom
	}
	var b strings.Builder
	b.Grow(from + len(c.Text) + len(text) - to + 2*utf8.UTFMax)
	b.WriteString(text[:from])
	var high, low rune
	if cutFrom {
		r, _ := utf8.DecodeRuneInString(text[from:])
		high, _ = utf16.EncodeRune(r)
	}
	if cutTo {
		r, n := utf8.DecodeRuneInString(text[to:])
		_, low = utf16.EncodeRune(r)
		to += n
	}
	if whole := utf16.DecodeRune(high, low); c.Text == "" && whole != utf8.RuneError {
		b.WriteRune(whole) // the halves of two pairs have met
	} else {
		if cutFrom {
			b.WriteRune(utf8.RuneError)
		}
		b.WriteString(c.Text)
		if cutTo {
			b.WriteRune(utf8.RuneError)
		}
	}
	b.WriteString(text[to:])
	return b.String()
}

// offset is where a place of the editor's is in text, in bytes; cut says that
// it is in the middle of the character there.
func offset(text string, p position) (at int, cut bool) {
	for range p.Line {
		n := strings.IndexAny(text[at:], "\r\n")
		if n < 0 {
			return len(text), false
		}
		at += n + 1
		if strings.HasSuffix(text[:at], "\r") && strings.HasPrefix(text[at:], "\n") {
			at++
		}
	}
	for left := p.Character; left > 0 && at < len(text) && text[at] != '\r' && text[at] != '\n'; {
		r, n := utf8.DecodeRuneInString(text[at:])
		units := max(1, utf16.RuneLen(r))
		if left < units {
			return at, true
		}
		left -= units
		at += n
	}
	return at, false
}
