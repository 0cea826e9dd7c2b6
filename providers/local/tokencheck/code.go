package tokencheck

import (
	"regexp"
	"slices"
	"strings"
)

// tokens are the tokens so far, as matchers see them. Comments are not among
// them. Every look ahead is bounded by lookahead.
type tokens struct {
	language string
	all      []token
	src      string
}

var nothing token

// at returns token i, or an empty one where there is none.
func (c *tokens) at(i int) *token {
	if i < 0 || i >= len(c.all) {
		return &nothing
	}
	return &c.all[i]
}

// is reports whether the tokens from i on are these words and signs.
func (c *tokens) is(i int, texts ...string) bool {
	for k, want := range texts {
		if t := c.at(i + k); t.kind != code || t.text != want {
			return false
		}
	}
	return true
}

// oneOf reports whether token i is one of these words or signs.
func (c *tokens) oneOf(i int, texts ...string) bool {
	t := c.at(i)
	return t.kind == code && t.text != "" && slices.Contains(texts, t.text)
}

// A span is tokens from up to, not including, to.
type span struct{ from, to int }

func (s span) empty() bool { return s.to <= s.from }

// closing returns the index of the bracket that closes the one at i, or -1
// where it is further than maxOperand tokens away.
func (c *tokens) closing(i int) int {
	depth := 0
	for j := i; j < len(c.all) && j < i+maxOperand; j++ {
		t := &c.all[j]
		if t.kind != code {
			continue
		}
		switch t.text {
		case "(", "[", "{", "${", "$(", "#{":
			depth++
		case ")", "]", "}":
			if depth--; depth == 0 {
				return j
			}
		}
	}
	return -1
}

// args returns the arguments of the call whose opening bracket is at i, and
// the index of the closing one.
func (c *tokens) args(i int) (list []span, end int, ok bool) {
	if !c.is(i, "(") {
		return nil, 0, false
	}
	end = c.closing(i)
	if end < 0 {
		return nil, 0, false
	}
	from, depth := i+1, 0
	for j := i + 1; j < end; j++ {
		if c.all[j].kind != code {
			continue
		}
		switch c.all[j].text {
		case "(", "[", "{":
			depth++
		case ")", "]", "}":
			depth--
		case ",":
			if depth == 0 {
				list = append(list, span{from, j})
				from = j + 1
			}
		}
	}
	if from < end {
		list = append(list, span{from, end})
	}
	return list, end, true
}

// dynamic reports whether s is anything but literals: it has a name in it or
// a string with an expression.
func (c *tokens) dynamic(s span) bool {
	for j := s.from; j < s.to; j++ {
		t := c.at(j)
		switch {
		case t.kind == str && t.interp:
			return true
		case t.kind == code && t.word && !constantWord[t.text]:
			return true
		}
	}
	return false
}

var constantWord = map[string]bool{"true": true, "false": true, "null": true, "None": true, "nil": true, "True": true, "False": true,
	"undefined": true, "new": true, "void": true}

// built reports whether s is text put together from a literal and something
// else: the shape of an injection.
func (c *tokens) built(s span) bool {
	literal, joined := false, false
	for j := s.from; j < s.to; j++ {
		t := c.at(j)
		switch {
		case t.kind == str && t.interp:
			return true
		case t.kind == str:
			literal = true
		case c.oneOf(j, "+", "%", ".") && (c.at(j-1).kind == str || c.at(j+1).kind == str), c.oneOf(j, "format", "sprintf", "Format"):
			joined = true
		}
	}
	return literal && joined && c.dynamic(s)
}

// has reports whether one of the words or signs is in s.
func (c *tokens) has(s span, texts ...string) bool {
	for j := s.from; j < s.to; j++ {
		if c.oneOf(j, texts...) {
			return true
		}
	}
	return false
}

// hasString reports whether a string in s matches re.
func (c *tokens) hasString(s span, re *regexp.Regexp) bool {
	for j := s.from; j < s.to; j++ {
		if t := c.at(j); t.kind == str && re.MatchString(content(t.text)) {
			return true
		}
	}
	return false
}

// statement returns the tokens around i up to the next ';', '{' or '}' on
// each side, or for languages that end statements with lines, its line.
func (c *tokens) statement(i int) span {
	const far = 60
	lines := c.language == "python" || c.language == "ruby" || c.language == "shell"
	from := i
	for from > 0 && i-from < far && !c.oneOf(from-1, ";", "{", "}") && (!lines || !c.at(from).first) {
		from--
	}
	to := i + 1
	for to < len(c.all) && to-i < far && !c.oneOf(to, ";", "{", "}") && (!lines || !c.at(to).first) {
		to++
	}
	return span{from, to}
}

// content returns what is between the quotes of a literal.
func content(s string) string {
	q := opener(s)
	if q == "" {
		return s
	}
	i := strings.Index(s, q) + len(q)
	return strings.TrimSuffix(s[i:], q)
}
