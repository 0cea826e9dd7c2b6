// Package gocheck analyses Go on its syntax tree: rules of its own, and those
// passes of go vet that need neither a build nor the types of other packages.
//
// The file is all there is: imports can't be resolved. Passes that need the
// types of imported packages (printf, copylocks, lostcancel, httpresponse)
// would therefore find nothing and are not run; rules of this package cover
// the commonest of what they find by names. Code without a package clause, or
// without even a function around it, is given one. Code that doesn't parse is
// analysed as far as the parser recovered it.
package gocheck

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"strconv"
	"strings"

	"golang.org/x/tools/go/ast/inspector"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/source"
)

// Bounds. Neither the parser nor the type checker can be interrupted, so what
// they get is small enough to take less than about 100 ms.
const (
	MaxParseBytes = 1 << 20
	MaxTypeBytes  = 256 << 10
	// MaxTreeDepth bounds the recursion of everything that walks the tree; the
	// parser's own bound is 100,000.
	MaxTreeDepth = 1000
	maxErrors    = 10 // of syntax that are reported
)

var (
	syntaxRule = rules.Rule{ID: "go/syntax", Severity: protocol.SeverityHigh, Kinds: rules.Security | rules.Bugs | rules.Performance | rules.Review,
		Message: "The code does not parse.", Suggestion: "Correct the syntax; what follows was analysed as far as it could be read."}
	depthRule = rules.Rule{ID: "go/too-deep", Severity: protocol.SeverityMedium, Kinds: rules.Security | rules.Bugs | rules.Performance | rules.Review,
		Message: "The code is nested too deeply to be analysed.", Suggestion: "No person writes such code; find out what made it."}
)

// An astRule looks at a whole file.
type astRule struct {
	rules.Rule
	check func(p *pass)
}

var tables = [][]astRule{securityRules, cryptoRules, bugRules, concurrencyRules, performanceRules}

// An InternalError is a rule that failed; the others went on without it.
type InternalError struct {
	Rule  string
	Cause any
}

func (e *InternalError) Error() string { return fmt.Sprintf("rule %s: %v", e.Rule, e.Cause) }

// A Result is what is known of the file after its tree was read.
type Result struct {
	Package   string
	Comments  int
	Functions []rules.Function
	Symbols   []rules.Symbol
	// Truncated says why rules were left out; "" if all ran.
	Truncated string
	Broken    []*InternalError
}

// A pass is one run over one file.
type pass struct {
	ctx      context.Context
	fset     *token.FileSet
	file     *ast.File
	base     int // of the file in fset
	shift    int // bytes that were put before the code
	size     int
	root     inspector.Cursor
	imports  map[string]string // name in the file to path
	fragment bool

	rule *rules.Rule
	emit rules.Emit
	done bool
}

// Check runs the rules that want selects.
func Check(ctx context.Context, text *source.Text, want func(*rules.Rule) bool, emit rules.Emit) (*Result, error) {
	r := &Result{}
	if len(text.Code()) > MaxParseBytes {
		r.Truncated = fmt.Sprintf("the code is longer than %d KiB, so its syntax tree was not made", MaxParseBytes>>10)
		return r, nil
	}
	p, err := parse(ctx, text.Code())
	p.emit = emit
	if err != nil && want(&syntaxRule) {
		p.syntax(err)
	}
	if p.file == nil || ctx.Err() != nil {
		return r, ctx.Err()
	}
	if depth(p.file) > MaxTreeDepth {
		r.Truncated = "the code is nested too deeply"
		if want(&depthRule) {
			p.rule = &depthRule
			p.at(p.shift, p.shift+1, "")
		}
		return r, nil
	}
	if !p.fragment {
		r.Package = p.file.Name.Name
	}
	for _, g := range p.file.Comments {
		r.Comments += len(g.List)
	}
	p.root = inspector.New([]*ast.File{p.file}).Root()
	p.readImports()
	for _, table := range tables {
		for i := range table {
			if p.done || ctx.Err() != nil {
				return r, ctx.Err()
			}
			if !want(&table[i].Rule) {
				continue
			}
			p.rule = &table[i].Rule
			if e := guard(p.rule.ID, func() { table[i].check(p) }); e != nil {
				r.Broken = append(r.Broken, e)
			}
		}
	}
	if reason := p.vet(want, r, err == nil); reason != "" {
		r.Truncated = reason
	}
	if !p.done && ctx.Err() == nil {
		if e := guard("outline", func() { p.measure(r, text) }); e != nil {
			r.Broken = append(r.Broken, e)
		}
	}
	return r, ctx.Err()
}

func guard(rule string, f func()) (err *InternalError) {
	defer func() {
		if c := recover(); c != nil {
			err = &InternalError{rule, c}
		}
	}()
	f()
	return nil
}

// parse reads code as a file, as declarations or as statements, whichever it
// looks like. The pass has whatever tree there is, also beside an error.
func parse(ctx context.Context, code string) (*pass, error) {
	prefixes := []string{""}
	if !hasPackage(code) {
		prefixes = []string{"package p;", "package p;func _(){"}
	}
	var best *pass
	var bestErr error
	for i, prefix := range prefixes {
		if ctx.Err() != nil {
			break
		}
		src := prefix + code
		if i == 1 {
			src += "\n}"
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "code.go", src, parser.ParseComments|parser.SkipObjectResolution|parser.AllErrors)
		p := &pass{ctx: ctx, fset: fset, file: file, base: 1, shift: len(prefix), size: len(code), fragment: prefix != ""}
		if best == nil || errorsIn(err) < errorsIn(bestErr) {
			best, bestErr = p, err
		}
		if err == nil {
			break
		}
	}
	if best == nil {
		best = &pass{ctx: ctx}
	}
	return best, bestErr
}

func errorsIn(err error) int {
	if list, ok := err.(scanner.ErrorList); ok { //nolint:errorlint // the parser returns the list itself
		return len(list)
	}
	if err != nil {
		return 1
	}
	return 0
}

// hasPackage reports whether the first token is "package".
func hasPackage(code string) bool {
	var s scanner.Scanner
	fset := token.NewFileSet()
	s.Init(fset.AddFile("", fset.Base(), len(code)), []byte(code), nil, 0)
	_, tok, _ := s.Scan()
	return tok == token.PACKAGE
}

// depth returns how deep the tree is, or a little more than MaxTreeDepth.
func depth(file *ast.File) int {
	now, most := 0, 0
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			now--
			return false
		}
		most = max(most, now+1)
		if most > MaxTreeDepth {
			return false
		}
		now++
		return true
	})
	return most
}

func (p *pass) syntax(err error) {
	list, ok := err.(scanner.ErrorList) //nolint:errorlint // the parser returns the list itself
	if !ok {
		return
	}
	p.rule = &syntaxRule
	for i, e := range list {
		if i == maxErrors || p.done {
			return
		}
		p.at(e.Pos.Offset, e.Pos.Offset+1, "The code does not parse: "+clip(e.Msg, 200)+".")
	}
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// at reports offsets of the parsed text.
func (p *pass) at(start, end int, message string) {
	if p.done {
		return
	}
	start = min(max(start-p.shift, 0), p.size)
	end = min(max(end-p.shift, start), p.size)
	p.done = !p.emit(rules.Hit{Rule: p.rule, Start: start, End: end, Message: message})
}

func (p *pass) offset(pos token.Pos) int { return int(pos) - p.base }

// report reports a node.
func (p *pass) report(n ast.Node) { p.reportf(n, "") }

func (p *pass) reportf(n ast.Node, format string, args ...any) {
	if format != "" {
		format = fmt.Sprintf(format, args...)
	}
	p.at(p.offset(n.Pos()), p.offset(n.End()), format)
}

// standard are the packages that a fragment without imports may name.
var standard = map[string]string{"exec": "os/exec", "http": "net/http", "rand": "math/rand", "md5": "crypto/md5", "sha1": "crypto/sha1",
	"des": "crypto/des", "rc4": "crypto/rc4", "tls": "crypto/tls", "json": "encoding/json", "filepath": "path/filepath", "template": "html/template",
	"rsa": "crypto/rsa", "ssh": "golang.org/x/crypto/ssh", "os": "os", "io": "io", "fmt": "fmt", "strconv": "strconv", "strings": "strings", "time": "time",
	"context": "context", "sync": "sync", "regexp": "regexp", "cipher": "crypto/cipher", "ioutil": "io/ioutil", "errors": "errors", "url": "net/url", "zip": "archive/zip"}

func (p *pass) readImports() {
	p.imports = make(map[string]string)
	for _, s := range p.file.Imports {
		path, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			continue
		}
		parts := strings.Split(path, "/")
		name := parts[len(parts)-1]
		if len(parts) > 1 && len(name) > 1 && name[0] == 'v' && name[1] >= '0' && name[1] <= '9' {
			name = parts[len(parts)-2]
		}
		if s.Name != nil {
			name = s.Name.Name
		}
		p.imports[name] = path
	}
	if p.fragment && len(p.imports) == 0 {
		p.imports = standard
	}
}

// name returns the path and name of a package's member, as in net/http.Get,
// or "".
func (p *pass) name(e ast.Expr) string {
	s, ok := ast.Unparen(e).(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return ""
	}
	path, ok := p.imports[x.Name]
	if !ok {
		return ""
	}
	return strings.TrimSuffix(path, "/v2") + "." + s.Sel.Name
}
