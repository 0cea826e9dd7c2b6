// Package source holds the code under analysis and translates byte offsets in
// it into the positions of the protocol: lines and columns from 1, columns in
// UTF-16 code units.
package source

import (
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/athena-hub/athena/protocol"
)

// A Text is code with an index of its lines. It is not safe for concurrent
// use, because it remembers the last position it was asked for: many findings
// on one huge line would else cost its length each.
type Text struct {
	code  string
	lines []int // offset of each line's first byte

	lastLine, lastOffset, lastColumn int
}

// New indexes code. Bytes that are not UTF-8 are replaced by '?', one for one,
// so that offsets stay what they were.
func New(code string) *Text {
	if !utf8.ValidString(code) {
		code = replaceInvalid(code)
	}
	t := &Text{code: code, lines: []int{0}, lastLine: -1}
	for i := 0; i < len(code); i++ {
		switch code[i] {
		case '\r':
			if i+1 < len(code) && code[i+1] == '\n' {
				i++
			}
			t.lines = append(t.lines, i+1)
		case '\n':
			t.lines = append(t.lines, i+1)
		}
	}
	return t
}

func replaceInvalid(s string) string {
	b := []byte(s)
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			b[i] = '?'
		}
		i += n
	}
	return string(b)
}

// Code returns the whole text.
func (t *Text) Code() string { return t.code }

// Lines returns the number of lines; a line break at the very end begins no
// further line.
func (t *Text) Lines() int {
	if n := len(t.lines); n > 1 && t.lines[n-1] == len(t.code) {
		return n - 1
	}
	return len(t.lines)
}

// Line returns line n, counted from 1, without its line break.
func (t *Text) Line(n int) string {
	if n < 1 || n > len(t.lines) {
		return ""
	}
	end := len(t.code)
	if n < len(t.lines) {
		end = t.lines[n]
	}
	return strings.TrimRight(t.code[t.lines[n-1]:end], "\r\n")
}

// LineStart returns the offset of the first byte of line n, counted from 1.
func (t *Text) LineStart(n int) int {
	return t.lines[min(max(n, 1), len(t.lines))-1]
}

// LineOf returns the line, counted from 1, that offset is in.
func (t *Text) LineOf(offset int) int {
	return sort.Search(len(t.lines), func(i int) bool { return t.lines[i] > offset })
}

// Position translates a byte offset. An offset outside the text is moved to
// its nearer end, and one inside a character to the character's start.
func (t *Text) Position(offset int) protocol.Position {
	offset = min(max(offset, 0), len(t.code))
	for offset > 0 && offset < len(t.code) && !utf8.RuneStart(t.code[offset]) {
		offset--
	}
	line := t.LineOf(offset)
	from, column := t.lines[line-1], 1
	if t.lastLine == line && t.lastOffset <= offset {
		from, column = t.lastOffset, t.lastColumn
	}
	column += UTF16Len(t.code[from:offset])
	t.lastLine, t.lastOffset, t.lastColumn = line, offset, column
	return protocol.Position{Line: line, Column: column}
}

// Range translates the bytes from start up to, not including, end.
func (t *Text) Range(start, end int) protocol.Range {
	return protocol.Range{Start: t.Position(start), End: t.Position(max(start, end))}
}

// UTF16Len returns how many UTF-16 code units s has.
func UTF16Len(s string) int {
	n := 0
	for _, r := range s {
		n++
		if r > 0xffff {
			n++
		}
	}
	return n
}
