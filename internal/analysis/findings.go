package analysis

import (
	"encoding/json"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// findingMarker begins a line that is a finding. What follows, behind optional
// blanks, is one JSON object:
//
//	@finding {"rule":"sql-injection","severity":"high","message":"…","line":12}
//
// Lines, because a model keeps to a form per line while it writes prose around
// it, and because a line is known to be whole as soon as the next one begins.
const findingMarker = "@finding"

// A findingParser takes a model's text as it grows, in deltas split anywhere,
// and gives on text and findings in their order. The result doesn't depend on
// how the text was split.
//
// A well-formed finding line, with its line end, becomes a finding; every
// other byte is given on as text, unchanged and in order. A line that begins
// with the marker stays text if its JSON is malformed, lacks rule, message or
// line, has an unknown severity or a line outside the code, is longer than
// maxLine, or comes after as many findings as left allowed. It also stays text
// inside a fenced code block (CommonMark 4.5, at any indentation, since
// blocks in lists are indented): there it is an example, or quoted code.
//
// Text is held back only while the line may still become a finding. All other
// text is given on as parts of the delta, without copying.
//
// A findingParser is for one goroutine, and useless after an error, which is
// always one that text or found returned.
type findingParser struct {
	// Set by the owner, then read-only.
	src     *source
	maxLine int // bytes of a marker line, without its line end
	text    func(string) error
	found   func(*protocol.Finding) error

	left int // findings that are still accepted

	state lineState
	// held is the marker line so far, as far as earlier deltas brought it.
	held    []byte
	matched int  // bytes of the marker seen
	body    bool // the "{" was seen
	length  int  // bytes of the marker line seen

	// The line of fence characters being read.
	tick  byte
	ticks int
	blank bool // nothing but blanks behind them
	plain bool // no backtick behind them

	// The open code block; fenceLen is 0 outside of any.
	fence    byte
	fenceLen int
}

type lineState uint8

const (
	lineStart  lineState = iota
	lineIndent           // only blanks so far
	lineTicks            // blanks, then fence characters
	lineInfo             // behind three or more fence characters
	lineMarker           // may still become a finding
	lineRest             // plain text to the line's end
)

type verdict uint8

const (
	undecided verdict = iota
	rejected
	whole
)

// feed takes the next piece of text.
func (p *findingParser) feed(delta string) error {
	var (
		start  int // of the text in delta not given on yet
		lineAt int // of the marker line in delta; 0 if it began in an earlier one
	)
	for i := 0; i < len(delta); {
		switch p.state {
		case lineRest:
			n := strings.IndexByte(delta[i:], '\n')
			if n < 0 {
				i = len(delta)
				break
			}
			i += n + 1
			p.state = lineStart
		case lineMarker:
			n, v := p.match(delta[i:])
			i += n
			switch v {
			case undecided:
			case rejected:
				p.state = lineRest
				if err := p.release(); err != nil {
					return err
				}
			case whole:
				p.state = lineStart
				line := delta[lineAt:i]
				if len(p.held) > 0 {
					line = string(append(p.held, line...))
				}
				f := p.parse(line)
				if f == nil {
					if err := p.release(); err != nil {
						return err
					}
					break
				}
				p.held = p.held[:0]
				if lineAt > start {
					if err := p.text(delta[start:lineAt]); err != nil {
						return err
					}
				}
				if err := p.found(f); err != nil {
					return err
				}
				start = i
			}
		case lineStart:
			if delta[i] == '@' && p.fenceLen == 0 && p.left > 0 {
				p.state, lineAt = lineMarker, i
				p.matched, p.body, p.length = 0, false, 0
				break
			}
			i += p.scanFence(delta[i])
		default:
			i += p.scanFence(delta[i])
		}
	}
	end := len(delta)
	if p.state == lineMarker {
		end = lineAt
		p.held = append(p.held, delta[lineAt:]...)
	}
	if end > start {
		return p.text(delta[start:end])
	}
	return nil
}

// skip takes text that was given on already, with so many findings: what
// follows is read as it would be behind them. It returns how many bytes at its
// end would have been held back; they are not taken. There are some only if the
// answer was given up there (see flush).
func (p *findingParser) skip(text string, findings int) (held int) {
	give, found, left := p.text, p.found, max(p.left-findings, 0)
	defer func() { p.text, p.found, p.left = give, found, left }()
	p.text = func(string) error { return nil }
	p.found = func(*protocol.Finding) error { return nil }
	p.left = left
	_ = p.feed(text) // which can't fail
	if p.state != lineMarker {
		return 0
	}
	held = len(p.held)
	p.state, p.held = lineStart, p.held[:0]
	return held
}

// flush takes the end of the answer, which ends the last line too.
func (p *findingParser) flush() error {
	if p.state != lineMarker {
		return nil
	}
	p.state = lineRest
	if p.body {
		if f := p.parse(string(p.held)); f != nil {
			p.held = p.held[:0]
			return p.found(f)
		}
	}
	return p.release()
}

// release gives on the held text.
func (p *findingParser) release() error {
	if len(p.held) == 0 {
		return nil
	}
	t := string(p.held)
	p.held = p.held[:0]
	return p.text(t)
}

// match reads on in a marker line and says how many bytes of s it took. Where
// it rejects the line at a byte, that one is not among them, since it may be
// the line's end.
func (p *findingParser) match(s string) (n int, v verdict) {
	for ; n < len(s) && !p.body; n++ {
		c := s[n]
		switch {
		case p.length == p.maxLine:
			return n, rejected
		case p.matched < len(findingMarker):
			if c != findingMarker[p.matched] {
				return n, rejected
			}
			p.matched++
		case c == '{':
			p.body = true
		case c != ' ' && c != '\t':
			return n, rejected
		}
		p.length++
	}
	if n == len(s) {
		return n, undecided
	}
	rest, v, end := s[n:], undecided, 0
	if k := strings.IndexByte(rest, '\n'); k >= 0 {
		rest, v, end = rest[:k], whole, 1
	}
	p.length += len(rest)
	n += len(rest)
	if p.length > p.maxLine {
		return n, rejected
	}
	return n + end, v
}

// scanFence reads byte c of a line that may be a code fence, and says how many
// bytes it took: 0 where another state has to look at c again.
func (p *findingParser) scanFence(c byte) int {
	switch p.state {
	case lineStart, lineIndent:
		switch c {
		case ' ', '\t':
			p.state = lineIndent
		case '`', '~':
			p.state, p.tick, p.ticks = lineTicks, c, 1
		default:
			p.state = lineRest
			return 0
		}
	case lineTicks:
		if c == p.tick {
			p.ticks++
			break
		}
		p.state = lineRest
		if p.ticks >= 3 {
			p.state, p.blank, p.plain = lineInfo, true, true
		}
		return 0
	case lineInfo:
		switch c {
		case '\n':
			p.endFenceLine()
			p.state = lineStart
		case ' ', '\t', '\r':
		default:
			p.blank = false
			if c == '`' {
				p.plain = false
			}
		}
	}
	return 1
}

func (p *findingParser) endFenceLine() {
	switch {
	case p.fenceLen > 0:
		if p.tick == p.fence && p.ticks >= p.fenceLen && p.blank {
			p.fenceLen = 0
		}
	case p.tick == '~' || p.plain: // ```a``` is code in a line, not a fence
		p.fence, p.fenceLen = p.tick, p.ticks
	}
}

// parse returns the finding that a marker line holds, nil if it is not well
// formed. Fields that a finding doesn't have are ignored: models add some.
func (p *findingParser) parse(line string) *protocol.Finding {
	var w struct {
		Rule        string `json:"rule"`
		Severity    string `json:"severity"`
		Message     string `json:"message"`
		Line        int    `json:"line"`
		Column      int    `json:"column"`
		EndLine     int    `json:"end_line"`
		EndColumn   int    `json:"end_column"`
		Suggestion  string `json:"suggestion"`
		Replacement any    `json:"replacement"` // no reason to lose a finding, where it is no text
	}
	if json.Unmarshal([]byte(line[len(findingMarker):]), &w) != nil {
		return nil
	}
	f := &protocol.Finding{
		Rule:       strings.TrimSpace(w.Rule),
		Severity:   protocol.Severity(strings.ToLower(w.Severity)),
		Message:    strings.TrimSpace(w.Message),
		Suggestion: w.Suggestion,
	}
	if f.Rule == "" || f.Message == "" || !f.Severity.Valid() {
		return nil
	}
	var ok bool
	if f.Range, ok = p.src.place(w.Line, w.Column, w.EndLine, w.EndColumn); !ok {
		return nil
	}
	// What replaces lines that aren't there was meant for others.
	if code, ok := w.Replacement.(string); ok && (w.EndLine == 0 || w.EndLine == f.Range.End.Line) {
		f.Replacement = p.src.replacement(code, f.Range)
	}
	p.left--
	return f
}

// findingAsLine returns a marker line that a model could have written for f.
func findingAsLine(f *protocol.Finding) string {
	var b strings.Builder
	b.WriteString(findingMarker + " ")
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	// Strings and numbers encode, and a strings.Builder takes everything.
	_ = e.Encode(struct {
		Rule        string            `json:"rule"`
		Severity    protocol.Severity `json:"severity"`
		Message     string            `json:"message"`
		Line        int               `json:"line"`
		Column      int               `json:"column"`
		EndLine     int               `json:"end_line"`
		EndColumn   int               `json:"end_column"`
		Suggestion  string            `json:"suggestion,omitempty"`
		Replacement *string           `json:"replacement,omitempty"`
	}{f.Rule, f.Severity, f.Message, f.Range.Start.Line, f.Range.Start.Column, f.Range.End.Line, f.Range.End.Column, f.Suggestion, f.Replacement})
	return b.String() // with the line's end
}
