package tokencheck

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/source"
)

var shapeRules = []rules.Rule{
	{ID: "any/long-function", Severity: low, Kinds: rev, Message: "The function is long.", Suggestion: "Look for the second idea inside and give it a name."},
	{ID: "any/complex-function", Severity: low, Kinds: rev | bugs, Message: "The function has many ways through it.", Suggestion: "Split it, or replace branches by a table."},
	{ID: "any/deep-nesting", Severity: low, Kinds: rev, Message: "The blocks are nested deeply.", Suggestion: "Return early, or move the inner part out."},
	{ID: "any/many-parameters", Severity: info, Kinds: rev, Message: "The function has many parameters.", Suggestion: "Group those that belong together."},
	{ID: "any/long-file", Severity: info, Kinds: rev, Message: "The file is long.", Suggestion: "Split it by idea."},
}

// CheckShapes reports functions and files beyond the sizes of package rules.
func CheckShapes(functions []rules.Function, text *source.Text, want func(*rules.Rule) bool, emit rules.Emit) {
	say := func(i int, f rules.Function, over bool, format string, args ...any) bool {
		r := &shapeRules[i]
		if !over || !want(r) {
			return true
		}
		line := text.LineOf(f.Start)
		end := min(f.End, text.LineStart(line)+len(text.Line(line)))
		return emit(rules.Hit{Rule: r, Start: f.Start, End: max(end, f.Start), Message: fmt.Sprintf(format, args...)})
	}
	for _, f := range functions {
		name := f.Name
		if name == "" {
			name = "a function without a name"
		}
		if !say(0, f, f.Lines > rules.MaxFunctionLines, "%s has %d lines, more than %d.", name, f.Lines, rules.MaxFunctionLines) ||
			!say(1, f, f.Complexity > rules.MaxComplexity, "%s has a cyclomatic complexity of %d, more than %d.", name, f.Complexity, rules.MaxComplexity) ||
			!say(2, f, f.Depth > rules.MaxDepth, "%s nests blocks %d deep, more than %d.", name, f.Depth, rules.MaxDepth) ||
			!say(3, f, f.Params > rules.MaxParams, "%s has %d parameters, more than %d.", name, f.Params, rules.MaxParams) {
			return
		}
	}
	first := rules.Function{End: len(text.Line(1))}
	say(4, first, text.Lines() > rules.MaxFileLines, "The file has %d lines, more than %d.", text.Lines(), rules.MaxFileLines)
}

var branches = map[string]bool{"if": true, "for": true, "while": true, "case": true, "catch": true, "&&": true, "||": true, "?": true, "elif": true,
	"foreach": true, "except": true, "unless": true, "until": true, "elsif": true, "when": true, "and": true, "or": true, "rescue": true, "??": true}

var control = map[string]bool{"if": true, "for": true, "while": true, "switch": true, "catch": true, "foreach": true, "match": true, "using": true,
	"lock": true, "synchronized": true, "else": true, "elif": true, "elseif": true, "when": true, "return": true, "fixed": true, "with": true}

// measure finds the functions and the outline.
func measure(ctx context.Context, c *tokens, text *source.Text) ([]rules.Function, []rules.Symbol) {
	var m measurer
	m.c, m.text = c, text
	switch c.language {
	case "python", "ruby":
		m.indented(ctx)
	case "sql", "html":
	default:
		m.braced(ctx)
	}
	m.outline(ctx)
	return m.functions, m.symbols
}

type measurer struct {
	c         *tokens
	text      *source.Text
	functions []rules.Function
	symbols   []rules.Symbol
}

type frame struct {
	base       int // depth of blocks outside it
	indent     int
	start      int
	name       string
	params     int
	complexity int
	depth      int
}

func (m *measurer) finish(f *frame, end int) {
	if len(m.functions) >= rules.MaxFunctions {
		return
	}
	m.functions = append(m.functions, rules.Function{Name: f.name, Start: f.start, End: end, Params: f.params,
		Lines: m.text.LineOf(end) - m.text.LineOf(f.start) + 1, Complexity: f.complexity, Depth: f.depth})
}

// braced follows the brackets. A '{' opens a function if what stands before
// it ends in ')' or '=>' and no control word is in front of the brackets.
func (m *measurer) braced(ctx context.Context) {
	c := m.c
	var stack []bool // of '{': whether each is a function's
	var frames []frame
	parens := []int(nil)
	opening, lastClose := make(map[int]int), -1
	depth := 0
	for i := range c.all {
		if i%1024 == 0 && ctx.Err() != nil {
			return
		}
		t := &c.all[i]
		if t.kind != code {
			continue
		}
		switch t.text {
		case "(":
			parens = append(parens, i)
		case ")":
			if n := len(parens); n > 0 {
				opening[i] = parens[n-1]
				parens = parens[:n-1]
				lastClose = i
			}
		case "{", "${":
			f, ok := m.function(i, lastClose, opening)
			if ok {
				f.base = depth
				frames = append(frames, f)
			}
			stack = append(stack, ok)
			depth++
			if n := len(frames); n > 0 {
				frames[n-1].depth = max(frames[n-1].depth, depth-frames[n-1].base-1)
			}
		case "}":
			n := len(stack)
			if n == 0 {
				continue
			}
			if stack[n-1] {
				m.finish(&frames[len(frames)-1], t.end())
				frames = frames[:len(frames)-1]
			}
			stack = stack[:n-1]
			depth--
		default:
			if n := len(frames); n > 0 && branches[t.text] {
				frames[n-1].complexity++
			}
		}
	}
}

func (m *measurer) function(i, lastClose int, opening map[int]int) (frame, bool) {
	c := m.c
	arrow := c.is(i-1, "=>")
	// Between ')' and '{' only a return type and the like may stand.
	if lastClose < 0 || i-lastClose > 24 {
		return frame{}, false
	}
	for j := lastClose + 1; j < i; j++ {
		if c.oneOf(j, ";", "{", "}", "=") || c.at(j).kind != code {
			return frame{}, false
		}
	}
	open := opening[lastClose]
	name := c.at(open - 1)
	if control[name.text] && name.kind == code && !arrow || !arrow && !name.word || c.is(open-2, "new") {
		return frame{}, false
	}
	f := frame{name: name.text, start: name.start, complexity: 1}
	if name.text == "function" || arrow {
		f.name, f.start = "", c.at(open).start
		at := open - 1
		for c.oneOf(at, "function", "async") {
			f.start = c.at(at).start
			at--
		}
		if c.oneOf(at, "=", ":") && c.at(at-1).word {
			f.name, f.start = c.at(at-1).text, c.at(at-1).start
		}
	}
	f.params = m.params(open, lastClose)
	return f, true
}

func (m *measurer) params(open, closing int) int {
	if closing <= open+1 {
		return 0
	}
	n, depth := 1, 0
	for j := open + 1; j < closing && j < open+maxOperand; j++ {
		switch {
		case m.c.oneOf(j, "(", "[", "{", "<"):
			depth++
		case m.c.oneOf(j, ")", "]", "}", ">"):
			depth--
		case depth == 0 && m.c.is(j, ",") && j+1 < closing:
			n++
		}
	}
	return n
}

// indented follows the indentation of Python, and of Ruby as it is written.
func (m *measurer) indented(ctx context.Context) {
	c := m.c
	var frames []frame
	var indents []int // of the open blocks
	brackets, last := 0, 0
	for i := range c.all {
		if i%1024 == 0 && ctx.Err() != nil {
			return
		}
		t := &c.all[i]
		if t.first && brackets == 0 && !(t.kind == code && t.text == "end" && c.language == "ruby") {
			for len(indents) > 0 && indents[len(indents)-1] >= t.indent {
				indents = indents[:len(indents)-1]
			}
			for n := len(frames); n > 0 && frames[n-1].indent >= t.indent; n-- {
				m.finish(&frames[n-1], last)
				frames = frames[:n-1]
			}
			indents = append(indents, t.indent)
			if n := len(frames); n > 0 {
				frames[n-1].depth = max(frames[n-1].depth, len(indents)-frames[n-1].base-2)
			}
		}
		last = t.end()
		if t.kind != code {
			continue
		}
		switch t.text {
		case "(", "[", "{":
			brackets++
		case ")", "]", "}":
			brackets = max(brackets-1, 0)
		case "def":
			if !c.at(i + 1).word {
				continue
			}
			f := frame{name: c.at(i + 1).text, start: t.start, indent: t.indent, base: len(indents) - 1, complexity: 1}
			if args, _, ok := c.args(i + 2); ok {
				f.params = len(args)
			}
			frames = append(frames, f)
		default:
			if n := len(frames); n > 0 && branches[t.text] {
				frames[n-1].complexity++
			}
		}
	}
	for n := len(frames); n > 0; n-- {
		m.finish(&frames[n-1], last)
	}
}

// outline lists imports and types by their words, and the functions found.
func (m *measurer) outline(ctx context.Context) {
	c := m.c
	add := func(kind string, at int, name string) {
		if name != "" && len(m.symbols) < rules.MaxSymbols {
			m.symbols = append(m.symbols, rules.Symbol{Kind: kind, Name: name, Start: at})
		}
	}
	for i := range c.all {
		if i%4096 == 0 && ctx.Err() != nil {
			return
		}
		t := &c.all[i]
		if t.kind != code {
			continue
		}
		next := c.at(i + 1)
		switch t.text {
		case "import", "from", "use", "require", "include", "using":
			if t.first && !next.first {
				s := c.line(i)
				text := c.text(span{i, min(s.to, i+24)})
				add("import", t.start, strings.ToValidUTF8(text[:min(len(text), 120)], ""))
			}
		case "class", "interface", "struct", "enum", "trait", "record":
			if next.word && !c.member(i) {
				add(t.text, t.start, next.text)
			}
		case "module", "namespace":
			if t.first && next.word {
				add(t.text, t.start, next.text)
			}
		case "CREATE", "create":
			if c.language == "sql" && next.word {
				add("create", t.start, c.text(span{i, min(i+4, len(c.all))}))
			}
		}
	}
	for _, f := range m.functions {
		add("function", f.Start, f.Name)
	}
	slices.SortStableFunc(m.symbols, func(a, b rules.Symbol) int { return a.Start - b.Start })
}
