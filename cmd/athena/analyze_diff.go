package main

import (
	"strings"

	"github.com/athena-hub/athena/protocol"
)

const (
	styleAdded   = "\x1b[32m"
	styleRemoved = "\x1b[31m"

	// How far suggested code is indented, and how many columns have to be left
	// for it: on a narrower terminal the lines run on by themselves.
	diffIndent   = "    "
	minDiffWidth = 20
	diffTabWidth = 4
)

// A diffLine is one of a change.
type diffLine struct {
	sign byte // '-' goes, '+' comes
	text string
}

// changed returns what a finding's code changes in the code that it is about:
// lines that go, and those that come. What begins or ends both alike is left out.
func changed(code []string, f *protocol.Finding) []diffLine {
	var put, taken []string
	if f.Replacement == nil {
		return nil
	}
	if *f.Replacement != "" {
		put = strings.Split(*f.Replacement, "\n")
	}
	first, last := f.Range.Start.Line, max(f.Range.Start.Line, f.Range.End.Line)
	if first >= 1 && last <= len(code) { // else it is the server's mistake
		taken = code[first-1 : last]
	}
	for len(put) > 0 && len(taken) > 0 && put[0] == taken[0] {
		put, taken = put[1:], taken[1:]
	}
	for len(put) > 0 && len(taken) > 0 && put[len(put)-1] == taken[len(taken)-1] {
		put, taken = put[:len(put)-1], taken[:len(taken)-1]
	}
	lines := make([]diffLine, 0, len(taken)+len(put))
	for _, text := range taken {
		lines = append(lines, diffLine{'-', text})
	}
	for _, text := range put {
		lines = append(lines, diffLine{'+', text})
	}
	return lines
}

// codeLines are the lines of code as the protocol counts them.
func codeLines(code string) []string {
	lines := strings.Split(code, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSuffix(line, "\r")
	}
	return lines
}

// change shows a finding's code below it: on a terminal in its width, elsewhere
// with whole lines and the tabs that they have.
func (s *screen) change(f *protocol.Finding) string {
	var b strings.Builder
	width := 0
	if s.live {
		width, _ = terminalWidth(s.out)
		width -= len(diffIndent) + 2
	}
	for _, l := range changed(s.code, f) {
		style := styleAdded
		if l.sign == '-' {
			style = styleRemoved
		}
		text := printable(l.text)
		if s.live {
			text = untabbed(text)
		}
		sign := string(l.sign)
		for _, part := range wrapped(text, width) {
			b.WriteString("\n" + diffIndent + s.styled(style, sign+" "+part))
			sign = " "
		}
	}
	return b.String()
}

// untabbed has spaces in place of tabs, which the sign before a line would move.
func untabbed(line string) string {
	var b strings.Builder
	column := 0
	for _, r := range line {
		if r != '\t' {
			b.WriteRune(r)
			column += columns(r)
			continue
		}
		n := diffTabWidth - column%diffTabWidth
		b.WriteString(strings.Repeat(" ", n))
		column += n
	}
	return b.String()
}

// wrapped cuts a line into parts of at most width columns, at least one; where
// there is no width to speak of, not at all.
func wrapped(line string, width int) []string {
	if width < minDiffWidth {
		return []string{line}
	}
	var parts []string
	for {
		part := clip(line, width)
		parts = append(parts, part)
		if line = line[len(part):]; line == "" {
			return parts
		}
	}
}
