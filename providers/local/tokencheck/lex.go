package tokencheck

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/chroma/v2"
	"github.com/alecthomas/chroma/v2/lexers"

	"github.com/athena-hub/athena/providers/local/source"
)

type kind uint8

const (
	code    kind = iota // an identifier, keyword or operator
	str                 // a whole string literal, interpolations included
	comment             // a comment, or a document string
	number
)

// A token is a piece of code that is not white space.
type token struct {
	kind  kind
	text  string
	start int
	// word says that the token is an identifier or keyword.
	word bool
	// interp says that a string has an expression in it.
	interp bool
	// first says that the token is the first of its line, after column columns
	// of white space.
	first  bool
	indent int
}

func (t *token) end() int { return t.start + len(t.text) }

// Bounds of one lexing. The lexers are regular expressions with backtracking:
// text made against them (a long run of words, in Java) makes each step slow,
// and only a limit on the time holds then.
const (
	MaxTokens  = 400_000
	LexBudget  = 4 * time.Second // in the lexer, without what the reader of the stream takes
	maxString  = 1 << 20
	lookahead  = 600
	maxOperand = 400 // tokens of one call's arguments that are looked at
)

// operators that stay one token; every other sign stands for itself.
var operators = []string{"===", "!==", "...", "<=>", "**=", "??=", "&&=", "||=", "==", "!=", "<=", ">=", "&&", "||", "=>", "->", "::", ":=",
	"++", "--", "+=", "-=", "*=", "/=", ".=", "%=", "|=", "&=", "??", "?.", "<<", ">>", "${", "#{", "&>", "$("}

// chromaNames are the lexers of the languages that have rules.
var chromaNames = map[string]string{
	"javascript": "javascript", "typescript": "typescript", "python": "python", "java": "java", "c": "c", "cpp": "c++", "csharp": "c#",
	"php": "php", "ruby": "ruby", "rust": "rust", "shell": "bash", "sql": "sql", "html": "html",
	"kotlin": "kotlin", "swift": "swift", "scala": "scala", "go": "go", "perl": "perl", "lua": "lua",
}

// Lexer reports whether there is a lexer for language.
func Lexer(language string) bool { _, ok := chromaNames[language]; return ok }

// Truncation says why the tokens of a text end before it does; "" where they
// do not.
type Truncation string

// lex calls yield with the tokens of text until yield returns false, ctx ends
// or a bound is reached.
func lex(ctx context.Context, language string, text *source.Text, yield func(token) bool) (Truncation, error) {
	lexer := lexers.Get(chromaNames[language])
	if lexer == nil {
		return "", nil
	}
	src := text.Code()
	if language == "php" && !strings.Contains(src, "<?") {
		// Without its opening tag all of PHP is text. The tag has the length of
		// nothing: its tokens lie before the text and are dropped.
		return lexFrom(ctx, lexer, language, "<?php ", src, yield)
	}
	return lexFrom(ctx, lexer, language, "", src, yield)
}

func lexFrom(ctx context.Context, lexer chroma.Lexer, language, prefix, src string, yield func(token) bool) (Truncation, error) {
	next, err := lexer.Tokenise(&chroma.TokeniseOptions{State: "root"}, prefix+src)
	if err != nil {
		return "", err
	}
	var spent time.Duration
	m := merger{language: language, src: src, yield: yield, newline: true}
	offset := -len(prefix)
	for {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		began := time.Now()
		t := next()
		spent += time.Since(began)
		if t == chroma.EOF {
			break
		}
		if offset >= len(src) {
			break // some lexers add a line break
		}
		value := t.Value
		if offset < 0 {
			offset += len(value)
			continue
		}
		if offset+len(value) > len(src) {
			value = value[:len(src)-offset]
		}
		if !m.add(t.Type, value, offset) {
			return "", nil
		}
		offset += len(value)
		if m.count >= MaxTokens {
			m.finish()
			return "it has more tokens than the limit", nil
		}
		if spent > LexBudget {
			m.finish()
			return "taking it apart took longer than the limit", nil
		}
	}
	m.finish()
	return "", nil
}

// A merger makes the tokens that rules see out of the lexer's, which splits
// strings into quotes, escapes and interpolations, and joins operators.
type merger struct {
	language string
	src      string
	yield    func(token) bool

	count   int
	newline bool
	indent  int

	held token // the last piece of code, which the next may belong to; empty for none

	open    bool // a string is being gathered
	from    int
	to      int
	quote   string
	depth   int // of interpolations in it
	interp  bool
	stopped bool
}

// emit yields t. Code waits for what follows, since some lexers give the signs
// of one operator, or the parts of a name, one by one.
func (m *merger) emit(t token) bool {
	if m.stopped {
		return false
	}
	t.first, t.indent = m.newline, m.indent
	m.newline = false
	if h := &m.held; h.text != "" {
		if t.kind == code && h.end() == t.start && (h.word && t.word || !h.word && !t.word && slices.Contains(operators, h.text+t.text)) {
			h.text = m.src[h.start:t.end()]
			return true
		}
		if !m.release() {
			return false
		}
	}
	if t.kind == code {
		m.held = t
		return true
	}
	m.count++
	m.stopped = !m.yield(t)
	return !m.stopped
}

func (m *merger) release() bool {
	t := m.held
	m.held = token{}
	if t.text != "" && !m.stopped {
		m.count++
		m.stopped = !m.yield(t)
	}
	return !m.stopped
}

// finish yields what is still held.
func (m *merger) finish() {
	if m.flush() {
		m.release()
	}
}

// flush ends the string that is being gathered.
func (m *merger) flush() bool {
	if !m.open {
		return !m.stopped
	}
	m.open = false
	text := m.src[m.from:m.to]
	return m.emit(token{kind: str, text: text, start: m.from, interp: m.interp || interpolates(m.language, text)})
}

func (m *merger) add(typ chroma.TokenType, value string, at int) bool {
	if m.open && m.absorb(typ, value, at) {
		return true
	}
	if !m.flush() {
		return false
	}
	switch {
	case strings.TrimSpace(value) == "", typ == chroma.Text && (m.language == "html" || m.language == "php"):
		m.space(value)
		return true
	case typ.InCategory(chroma.Comment) && typ.SubCategory() != chroma.CommentPreproc, typ == chroma.LiteralStringDoc && m.newline:
		ok := m.emit(token{kind: comment, text: value, start: at})
		m.space(value)
		return ok
	case typ.InSubCategory(chroma.LiteralString):
		m.open, m.from, m.to, m.quote, m.depth, m.interp = true, at, at+len(value), opener(value), 0, false
		return true
	case typ.InSubCategory(chroma.LiteralNumber):
		return m.emit(token{kind: number, text: value, start: at})
	}
	return m.split(value, at)
}

// absorb takes the next piece of the string that is being gathered, and
// reports whether it was one.
func (m *merger) absorb(typ chroma.TokenType, value string, at int) bool {
	if at != m.to || m.to-m.from > maxString || m.depth == 0 && closed(m.src[m.from:m.to], m.quote) {
		return false
	}
	switch {
	case typ == chroma.LiteralStringInterpol:
		switch strings.TrimSpace(value) {
		case "{", "${", "#{", "{$", "$(", "$":
			m.depth++
			m.interp = true
		case "}", ")":
			m.depth = max(m.depth-1, 0)
		}
	case m.depth > 0:
	case typ.InSubCategory(chroma.LiteralString):
		if m.quote == "" {
			m.quote = opener(m.src[m.from : at+len(value)])
		}
	case typ.InCategory(chroma.Name) && m.quote != "":
		m.interp = true
	default:
		return false
	}
	m.to = at + len(value)
	return true
}

func opener(s string) string {
	s = strings.TrimLeftFunc(s, func(r rune) bool { return unicode.IsLetter(r) || r == '$' || r == '@' || r == '#' })
	for _, q := range []string{`"""`, `'''`, `"`, `'`, "`"} {
		if strings.HasPrefix(s, q) {
			return q
		}
	}
	return ""
}

func closed(s, quote string) bool {
	if quote == "" {
		return false
	}
	i := strings.Index(s, quote)
	return len(s) >= i+2*len(quote) && strings.HasSuffix(s, quote) && (!strings.HasSuffix(s, `\`+quote) || strings.HasSuffix(s, `\\`+quote))
}

// interpolates reports whether a literal of the language has expressions in
// it, for the lexers that don't tell.
func interpolates(language, text string) bool {
	switch language {
	case "csharp":
		return (strings.HasPrefix(text, "$") || strings.HasPrefix(text, "@$")) && strings.Contains(text, "{")
	case "javascript", "typescript":
		return strings.HasPrefix(text, "`") && strings.Contains(text, "${")
	case "php":
		return strings.HasPrefix(text, `"`) && (strings.Contains(text, "{$") || dollarName(text))
	case "shell":
		return strings.HasPrefix(text, `"`) && strings.Contains(text, "$")
	case "ruby":
		return !strings.HasPrefix(text, "'") && strings.Contains(text, "#{")
	case "kotlin", "scala", "perl":
		return strings.HasPrefix(text, `"`) && dollarName(text)
	}
	return false
}

func dollarName(s string) bool {
	for i := 0; i+1 < len(s); i++ {
		if s[i] == '$' && (s[i+1] == '_' || s[i+1] >= 'a' && s[i+1] <= 'z' || s[i+1] >= 'A' && s[i+1] <= 'Z') {
			return i == 0 || s[i-1] != '\\'
		}
	}
	return false
}

func (m *merger) space(value string) {
	if i := strings.LastIndexByte(value, '\n'); i >= 0 {
		m.newline, m.indent, value = true, 0, value[i+1:]
	}
	if !m.newline {
		return
	}
	for _, c := range value {
		switch c {
		case ' ':
			m.indent++
		case '\t':
			m.indent += 8 - m.indent%8
		}
	}
}

// split yields the words and signs in value.
func (m *merger) split(value string, at int) bool {
	for i := 0; i < len(value); {
		r, n := utf8.DecodeRuneInString(value[i:])
		switch {
		case unicode.IsSpace(r):
			m.space(value[i : i+n])
			i += n
		case wordRune(r) || (r == '$' || r == '@') && i+1 < len(value) && (wordRune(rune(value[i+1]))):
			j := i + n
			for j < len(value) {
				r, n := utf8.DecodeRuneInString(value[j:])
				if !wordRune(r) && r != '$' {
					break
				}
				j += n
			}
			if !m.emit(token{kind: code, word: true, text: value[i:j], start: at + i}) {
				return false
			}
			i = j
		default:
			for _, op := range operators {
				if strings.HasPrefix(value[i:], op) {
					n = len(op)
					break
				}
			}
			if !m.emit(token{kind: code, text: value[i : i+n], start: at + i}) {
				return false
			}
			i += n
		}
	}
	return true
}

func wordRune(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
