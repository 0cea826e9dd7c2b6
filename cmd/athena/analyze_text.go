package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// printable returns text from elsewhere without what a terminal would obey or
// be misled by (CWE-150): control characters but for newline and tab become
// visible, as in ^[ for ESC, and so do those that turn the direction of writing.
// Carriage returns are dropped.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // invalid UTF-8 comes as U+FFFD
		switch {
		case !unprintable(r):
			b.WriteRune(r)
		case r == '\r':
		case r < ' ' || r == 0x7f:
			b.WriteByte('^')
			b.WriteByte(byte(r) ^ 0x40)
		default:
			fmt.Fprintf(&b, "<U+%04X>", r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case r < ' ', r >= 0x7f && r < 0xa0: // C0, DEL, C1
		return true
	}
	return misleading(r)
}

// misleading reports whether r changes the order or the lines of what is read
// ("Trojan source", CVE-2021-42574).
func misleading(r rune) bool {
	return r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 ||
		r == 0x200e || r == 0x200f || r == 0x061c
}

// oneLine is printable on one line.
func oneLine(s string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(printable(s))
}

// printableJSON is JSON that means the same and that a terminal can be given:
// what JSON may hold unescaped, it holds in strings only.
func printableJSON(line []byte) []byte {
	var b []byte
	for _, r := range string(line) {
		if unprintable(r) {
			b = fmt.Appendf(b, `\u%04x`, r)
		} else {
			b = utf8.AppendRune(b, r)
		}
	}
	return b
}

// columns is about how many columns of a terminal a character takes, rather
// too many than too few.
func columns(r rune) int {
	if r < 0x300 || r >= 0x2000 && r < 0x2e80 {
		return 1
	}
	return 2
}

// clip cuts s to at most width columns.
func clip(s string, width int) string {
	for i, r := range s {
		if width -= columns(r); width < 0 {
			return s[:i]
		}
	}
	return s
}

// What a terminal obeys (ECMA-48).
const (
	styleBold  = "\x1b[1m"
	styleDim   = "\x1b[2m"
	styleReset = "\x1b[0m"
	clearLine  = "\r\x1b[K"
)

// headings makes the headings of Markdown bold, in text that comes piece by
// piece.
type headings struct {
	// held is the beginning of a line that may become a heading or a fence.
	held    string
	inside  bool // of the line's text: its beginning was decided on
	heading bool // the line is a heading
	fenced  bool // the line is code
}

// style returns the next piece, as far as it is decided on.
func (h *headings) style(text string) string {
	var b strings.Builder
	for _, r := range text {
		if !h.inside {
			if (r == '#' && strings.Trim(h.held, "#") == "" && len(h.held) < 6) ||
				(r == '`' && strings.Trim(h.held, "`") == "" && len(h.held) < 3) {
				h.held += string(r)
				continue
			}
			h.inside = true
			switch {
			case h.held == "```":
				h.fenced = !h.fenced
			case strings.HasPrefix(h.held, "#") && r == ' ' && !h.fenced:
				h.heading = true
				b.WriteString(styleBold)
			}
			b.WriteString(h.held)
			h.held = ""
		}
		if r == '\n' {
			b.WriteString(h.end())
		}
		b.WriteRune(r)
	}
	return b.String()
}

// end returns what the line still lacks, and is ready for another.
func (h *headings) end() string {
	rest := h.held
	if h.heading {
		rest += styleReset
	}
	h.held, h.inside, h.heading = "", false, false
	return rest
}
