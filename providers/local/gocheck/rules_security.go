package gocheck

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/go/ast/inspector"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/local/rules"
)

const (
	critical = protocol.SeverityCritical
	high     = protocol.SeverityHigh
	medium   = protocol.SeverityMedium
	low      = protocol.SeverityLow
	info     = protocol.SeverityInfo
)

const (
	sec  = rules.Security
	bugs = rules.Bugs
	perf = rules.Performance
	rev  = rules.Review
)

func rule(id string, severity protocol.Severity, kinds rules.Kinds, message, suggestion string, check func(p *pass)) astRule {
	return astRule{rules.Rule{ID: "go/" + id, Severity: severity, Kinds: kinds, Languages: []string{"go"}, Message: message, Suggestion: suggestion}, check}
}

var (
	sqlText   = regexp.MustCompile(`(?is)^\s*(?:select|insert|update|delete|replace|create|drop|alter|with)\s`)
	sqlMethod = map[string]int{"Query": 0, "QueryRow": 0, "Exec": 0, "Prepare": 0, "Raw": 0, "QueryContext": 1, "QueryRowContext": 1, "ExecContext": 1, "PrepareContext": 1}
)

var securityRules = []astRule{
	rule("sql-injection", high, sec, "SQL is put together from text and a value, so the value can change the statement.",
		"Use placeholders and pass the value as an argument.", func(p *pass) {
			for c, call := range all[*ast.CallExpr](p) {
				_, name := method(call)
				i, ok := sqlMethod[name]
				if !ok || p.name(call.Fun) != "" {
					continue
				}
				if i == 0 && len(call.Args) > 1 && (ident(call.Args[0]) == "ctx" || strings.HasPrefix(p.nameOfCall(call.Args[0]), "context.")) {
					i = 1 // pgx
				}
				if i < len(call.Args) && p.builtSQL(c, call.Args[i], true) {
					p.report(call.Args[i])
				}
			}
		}),
	rule("command-injection", high, sec, "A shell runs a command that is put together from values, so a value can add commands.",
		"Run the program itself, with its arguments one by one.", func(p *pass) {
			for _, call := range p.calls("os/exec.Command", "os/exec.CommandContext") {
				args := commandArgs(p, call)
				if len(args) < 3 {
					continue
				}
				shell, _ := text(args[0])
				flag, _ := text(args[1])
				base := strings.TrimSuffix(shell[strings.LastIndexByte(shell, '/')+1:], ".exe")
				if slices.Contains([]string{"sh", "bash", "zsh", "dash", "cmd", "powershell"}, base) && slices.Contains([]string{"-c", "/c", "/C", "-Command"}, flag) && !p.constant(args[2]) {
					p.report(args[2])
				}
			}
		}),
	rule("exec-variable", medium, sec, "Which program runs is decided by a value.", "Choose among known programs.", func(p *pass) {
		for _, call := range p.calls("os/exec.Command", "os/exec.CommandContext") {
			if args := commandArgs(p, call); len(args) > 0 && !p.constant(args[0]) {
				p.report(args[0])
			}
		}
	}),
	rule("path-traversal", high, sec, "A path comes from the request; \"..\" in it leaves the folder.", "Open it through os.Root, or check it with filepath.IsLocal.", func(p *pass) {
		for c, call := range p.calls("os.Open", "os.OpenFile", "os.ReadFile", "os.WriteFile", "os.Create", "os.Remove", "os.RemoveAll", "net/http.ServeFile", "io/ioutil.ReadFile") {
			if a := call.Args; len(a) > 0 && tainted(c, a[len(a)-1]) || len(a) > 0 && tainted(c, a[0]) {
				if _, body := function(c); body == nil || !mentions(body, "IsLocal", "Base", "OpenRoot") {
					p.report(call)
				}
			}
		}
	}),
	rule("request-forgery", high, sec, "The server calls an address that the client chose, its own network's too.", "Allow known hosts only.", func(p *pass) {
		for c, call := range p.calls("net/http.Get", "net/http.Head", "net/http.Post", "net/http.PostForm") {
			if len(call.Args) > 0 && tainted(c, call.Args[0]) {
				p.report(call)
			}
		}
	}),
	rule("open-redirect", medium, sec, "The client chooses where it is redirected to.", "Redirect to known paths only.", func(p *pass) {
		for c, call := range p.calls("net/http.Redirect") {
			if len(call.Args) > 2 && tainted(c, call.Args[2]) {
				p.report(call.Args[2])
			}
		}
	}),
	rule("response-xss", high, sec, "What the client sent is written into the page unescaped.", "Use html/template, or html.EscapeString.", func(p *pass) {
		for c, call := range p.calls("fmt.Fprintf", "fmt.Fprint", "fmt.Fprintln", "io.WriteString") {
			if len(call.Args) < 2 || !slices.Contains([]string{"w", "rw", "writer", "res"}, ident(call.Args[0])) {
				continue
			}
			for _, a := range call.Args[1:] {
				if tainted(c, a) && !mentions(a, "EscapeString", "HTMLEscapeString", "QueryEscape", "Quote") {
					p.report(a)
					break
				}
			}
		}
	}),
	rule("template-unescaped", high, sec, "The template's escaping is passed by for a value.", "Pass the value as a string.", func(p *pass) {
		for _, call := range p.calls("html/template.HTML", "html/template.JS", "html/template.URL", "html/template.CSS", "html/template.HTMLAttr", "html/template.JSStr") {
			if len(call.Args) == 1 && !p.constant(call.Args[0]) {
				p.report(call)
			}
		}
	}),
	rule("world-writable", medium, sec, "Every user of the machine may change this.", "Use 0o600 for files and 0o750 for folders, or what is needed.", func(p *pass) {
		for _, call := range p.calls("os.Chmod", "os.OpenFile", "os.WriteFile", "os.Mkdir", "os.MkdirAll", "io/ioutil.WriteFile") {
			if len(call.Args) == 0 {
				continue
			}
			mode, ok := ast.Unparen(call.Args[len(call.Args)-1]).(*ast.BasicLit)
			if !ok || mode.Kind != token.INT {
				continue
			}
			if n, err := strconv.ParseUint(mode.Value, 0, 32); err == nil && n&0o002 != 0 {
				p.report(mode)
			}
		}
	}),
	rule("server-without-timeouts", medium, sec|bugs, "The server waits for slow clients for ever.", "Set ReadHeaderTimeout and IdleTimeout on an http.Server.", func(p *pass) {
		for _, lit := range all[*ast.CompositeLit](p) {
			if lit.Type == nil || p.name(lit.Type) != "net/http.Server" {
				continue
			}
			if !hasField(lit, "ReadTimeout") && !hasField(lit, "ReadHeaderTimeout") && !mentions(p.file, "ReadHeaderTimeout", "ReadTimeout") {
				p.report(lit.Type)
			}
		}
		for _, call := range p.calls("net/http.ListenAndServe", "net/http.ListenAndServeTLS", "net/http.Serve") {
			p.report(call.Fun)
		}
	}),
	rule("unbounded-body", low, sec|perf, "A request's body is read whole, however long it is.", "Wrap it in http.MaxBytesReader.", func(p *pass) {
		for c, call := range p.calls("io.ReadAll", "io/ioutil.ReadAll") {
			if len(call.Args) != 1 {
				continue
			}
			body := path(call.Args[0])
			if _, block := function(c); (body == "r.Body" || body == "req.Body" || body == "request.Body") && block != nil && !mentions(block, "MaxBytesReader", "LimitReader") {
				p.report(call)
			}
		}
	}),
	rule("pprof-exposed", medium, sec, "The import adds the profiler's pages to the default server.", "Serve them on a port of their own.", func(p *pass) {
		for _, s := range p.file.Imports {
			if s.Path.Value == `"net/http/pprof"` && s.Name != nil && s.Name.Name == "_" {
				p.report(s)
			}
		}
	}),
	rule("archive-traversal", high, sec, "An archive's entry names where it is written; \"..\" in it leaves the folder.", "Check the name with filepath.IsLocal, or write through os.Root.", func(p *pass) {
		archive := false
		for _, s := range p.file.Imports {
			archive = archive || s.Path.Value == `"archive/zip"` || s.Path.Value == `"archive/tar"`
		}
		if !archive {
			return
		}
		for c, call := range p.calls("path/filepath.Join", "path.Join") {
			if _, body := function(c); body != nil && mentions(body, "IsLocal", "HasPrefix", "OpenRoot", "Contains") {
				continue
			}
			for _, a := range call.Args {
				if x, ok := a.(*ast.SelectorExpr); ok && x.Sel.Name == "Name" {
					p.report(call)
				}
			}
		}
	}),
	rule("unsafe", info, sec|rev, "Package unsafe passes by the types.", "Say above each use why it is sound.", func(p *pass) {
		for _, s := range p.file.Imports {
			if s.Path.Value == `"unsafe"` {
				p.report(s)
			}
		}
	}),
}

func (p *pass) nameOfCall(e ast.Expr) string {
	if c, ok := ast.Unparen(e).(*ast.CallExpr); ok {
		return p.name(c.Fun)
	}
	return ""
}

func commandArgs(p *pass, call *ast.CallExpr) []ast.Expr {
	if p.name(call.Fun) == "os/exec.CommandContext" {
		return call.Args[min(1, len(call.Args)):]
	}
	return call.Args
}

// builtSQL reports whether e is SQL put together from a value, or where follow
// is true, a variable that was given such.
func (p *pass) builtSQL(c inspector.Cursor, e ast.Expr, follow bool) bool {
	switch e := ast.Unparen(e).(type) {
	case *ast.BinaryExpr:
		return e.Op == token.ADD && sqlText.MatchString(leading(e)) && !p.constant(e)
	case *ast.CallExpr:
		if n := p.name(e.Fun); (n == "fmt.Sprintf" || n == "fmt.Sprint") && len(e.Args) > 1 {
			if !sqlText.MatchString(leading(e.Args[0])) {
				return false
			}
			for _, a := range e.Args[1:] {
				if !p.constant(a) {
					return true
				}
			}
		}
	case *ast.Ident:
		if v := assigned(c, e.Name, e.Pos()); follow && v != nil {
			return p.builtSQL(c, v, false)
		}
	}
	return false
}

// leading returns the literal that e's text begins with.
func leading(e ast.Expr) string {
	for range MaxTreeDepth {
		b, ok := ast.Unparen(e).(*ast.BinaryExpr)
		if !ok {
			break
		}
		e = b.X
	}
	s, _ := text(e)
	return s + " "
}
