package analysis

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// source is analysed code seen as lines, the way findings point into it. A
// line ends with "\n" or "\r\n"; an empty last line, behind the final line
// end, is not counted. It is read-only once made.
type source struct {
	code   string
	starts []int // offset of each line in code
}

func newSource(code string) *source {
	s := &source{code: code, starts: make([]int, 1, 1+strings.Count(code, "\n"))}
	for i := 0; ; {
		n := strings.IndexByte(code[i:], '\n')
		if n < 0 {
			return s
		}
		i += n + 1
		if i == len(code) {
			return s
		}
		s.starts = append(s.starts, i)
	}
}

// lines returns how many lines there are, at least 1.
func (s *source) lines() int { return len(s.starts) }

// line returns line n, counted from 1, without its end.
func (s *source) line(n int) string {
	to := len(s.code)
	if n < len(s.starts) {
		to = s.starts[n]
	}
	l := strings.TrimSuffix(s.code[s.starts[n-1]:to], "\n")
	return strings.TrimSuffix(l, "\r")
}

// endColumn returns the column behind the last character of line n, in UTF-16
// code units from 1.
func (s *source) endColumn(n int) int {
	col := 1
	for _, r := range s.line(n) {
		col++
		if r >= 0x10000 {
			col++
		}
	}
	return col
}

// place returns the range that a model means with what it gave, 0 standing
// for what it left out. Models count lines well, since lines are numbered for
// them, and columns badly:
//
//   - A line outside the code has no range (ok is false): moving it to a line
//     that the model didn't name would be a false statement.
//   - An end line behind the code is the last line; one before the start is
//     the start's.
//   - A column outside its line counts as left out.
//   - A start column left out is 1, an end column left out is the line's end,
//     so a line alone means the whole line. An end not behind the start, where
//     the start is not at its line's end already, is the line's end too.
func (s *source) place(line, column, endLine, endColumn int) (r protocol.Range, ok bool) {
	if line < 1 || line > s.lines() {
		return protocol.Range{}, false
	}
	if endLine < line {
		endLine = line
	}
	endLine = min(endLine, s.lines())
	startMax := s.endColumn(line)
	endMax := startMax
	if endLine != line {
		endMax = s.endColumn(endLine)
	}
	if column < 1 || column > startMax {
		column = 1
	}
	if endColumn < 1 || endColumn > endMax || (endLine == line && endColumn <= column) {
		endColumn = endMax
	}
	return protocol.Range{
		Start: protocol.Position{Line: line, Column: column},
		End:   protocol.Position{Line: endLine, Column: endColumn},
	}, true
}

// replacement returns the code that a model means to put in place of the lines
// of r: without the fence and the numbers that models add though they are asked
// not to, and without the end of its last line. It is nil where nothing would
// change.
func (s *source) replacement(code string, r protocol.Range) *string {
	code = strings.TrimSuffix(strings.ReplaceAll(code, "\r\n", "\n"), "\n")
	if open, rest, ok := strings.Cut(code, "\n"); ok && strings.HasPrefix(open, "```") && !strings.HasPrefix(s.line(r.Start.Line), "```") {
		if inside, ok := strings.CutSuffix(rest, "```"); ok {
			code = strings.TrimSuffix(inside, "\n")
		}
	}
	if code == "" {
		return &code
	}
	code = withoutNumbers(code, r.Start.Line)
	was := make([]string, 0, r.End.Line-r.Start.Line+1)
	for n := r.Start.Line; n <= r.End.Line; n++ {
		was = append(was, s.line(n))
	}
	if code == strings.Join(was, "\n") {
		return nil
	}
	return &code
}

// numbered is how lines begin in what models are shown (see prompts).
var numbered = regexp.MustCompile(`^ *([0-9]+) \| ?`)

// withoutNumbers returns code without the numbers of its lines, if it has those
// of all lines from first on: others are code, such as "1 | 2 =>".
func withoutNumbers(code string, first int) string {
	lines := strings.Split(code, "\n")
	for i, line := range lines {
		m := numbered.FindStringSubmatch(line)
		if m == nil || m[1] != strconv.Itoa(first+i) {
			return code
		}
		lines[i] = line[len(m[0]):]
	}
	return strings.Join(lines, "\n")
}
