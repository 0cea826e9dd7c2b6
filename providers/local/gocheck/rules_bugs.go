package gocheck

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"

	"golang.org/x/tools/go/ast/inspector"
)

// failing are functions whose error should not be thrown away.
var failing = []string{"encoding/json.Unmarshal", "os.WriteFile", "os.Remove", "os.RemoveAll", "os.Mkdir", "os.MkdirAll", "os.Rename", "os.Chdir", "os.Chmod", "os.Setenv",
	"os.Truncate", "os.Symlink", "io.Copy", "net/http.ListenAndServe", "net/http.Serve", "encoding/json.Marshal"}

// yielding are functions with a value and an error.
var yielding = []string{"strconv.Atoi", "strconv.ParseInt", "strconv.ParseFloat", "strconv.ParseBool", "strconv.ParseUint", "os.Open", "os.ReadFile", "os.Create",
	"os.OpenFile", "io.ReadAll", "encoding/json.Marshal", "net/http.Get", "net/http.Post", "net/http.NewRequest", "net/http.NewRequestWithContext", "net/url.Parse",
	"time.Parse", "regexp.Compile", "os.Getwd"}

var bugRules = []astRule{
	rule("ignored-error", medium, bugs|rev, "The error is thrown away, so a failure goes on unnoticed.", "Return it or handle it.", func(p *pass) {
		for _, s := range all[*ast.ExprStmt](p) {
			if call, ok := s.X.(*ast.CallExpr); ok && slices.Contains(failing, p.name(call.Fun)) {
				p.report(call)
			}
		}
		for _, a := range all[*ast.AssignStmt](p) {
			if len(a.Lhs) == 2 && len(a.Rhs) == 1 && ident(a.Lhs[1]) == "_" {
				if call, ok := a.Rhs[0].(*ast.CallExpr); ok && slices.Contains(yielding, p.name(call.Fun)) {
					p.report(a)
				}
			}
		}
	}),
	rule("empty-error-branch", medium, bugs|rev, "The error is looked at and nothing is done.", "Return it or handle it.", func(p *pass) {
		for _, s := range all[*ast.IfStmt](p) {
			b, ok := s.Cond.(*ast.BinaryExpr)
			if ok && b.Op == token.NEQ && strings.HasPrefix(strings.ToLower(ident(b.X)), "err") && ident(b.Y) == "nil" && s.Else == nil && len(s.Body.List) == 0 && !p.commented(s.Body) {
				p.report(b)
			}
		}
	}),
	rule("error-text", low, bugs|rev, "Errors are told apart by their text, which may change.", "Use errors.Is or errors.As.", func(p *pass) {
		isText := func(e ast.Expr) bool {
			c, ok := ast.Unparen(e).(*ast.CallExpr)
			if !ok {
				return false
			}
			x, name := method(c)
			return name == "Error" && len(c.Args) == 0 && strings.HasPrefix(strings.ToLower(ident(x)), "err")
		}
		for _, b := range all[*ast.BinaryExpr](p) {
			if (b.Op == token.EQL || b.Op == token.NEQ) && (isText(b.X) || isText(b.Y)) {
				p.report(b)
			}
		}
		for _, call := range p.calls("strings.Contains", "strings.HasPrefix") {
			if len(call.Args) == 2 && isText(call.Args[0]) {
				p.report(call)
			}
		}
	}),
	rule("defer-in-loop", medium, bugs|perf, "The deferred call waits for the function's end, not the turn's; they pile up.", "Move the body of the loop into a function.", func(p *pass) {
		for c, d := range all[*ast.DeferStmt](p) {
			if inLoop(c) {
				p.report(d)
			}
		}
	}),
	rule("body-not-closed", medium, bugs|perf, "The response's body is not closed, which keeps its connection.", "Write defer resp.Body.Close() after the check of the error.", func(p *pass) {
		for c, a := range all[*ast.AssignStmt](p) {
			if len(a.Lhs) != 2 || len(a.Rhs) != 1 {
				continue
			}
			call, ok := a.Rhs[0].(*ast.CallExpr)
			if !ok {
				continue
			}
			recv, name := method(call)
			client := name == "Do" && len(call.Args) == 1 && strings.Contains(strings.ToLower(path(recv)), "client")
			if !client && !slices.Contains([]string{"net/http.Get", "net/http.Post", "net/http.Head", "net/http.PostForm"}, p.name(call.Fun)) {
				continue
			}
			resp := ident(a.Lhs[0])
			_, body := function(c)
			if resp == "" || resp == "_" || body == nil || closes(body, resp) {
				continue
			}
			p.report(call)
		}
	}),
	rule("context-leak", high, bugs|perf, "The cancel function is thrown away, so the context's timer and children stay.", "Keep it, and defer cancel().", func(p *pass) {
		for _, a := range all[*ast.AssignStmt](p) {
			if len(a.Lhs) == 2 && len(a.Rhs) == 1 && ident(a.Lhs[1]) == "_" {
				if n := p.nameOfCall(a.Rhs[0]); n == "context.WithCancel" || n == "context.WithTimeout" || n == "context.WithDeadline" || n == "context.WithCancelCause" {
					p.report(a)
				}
			}
		}
	}),
	rule("nil-map-write", high, bugs, "The map is nil: writing to it panics.", "Make it first.", func(p *pass) {
		for c, block := range all[*ast.BlockStmt](p) {
			_ = c
			for i, s := range block.List {
				if name := nilMap(s); name != "" {
					if w := writeBeforeMake(block.List[i+1:], name); w != nil {
						p.report(w)
					}
				}
			}
		}
	}),
	rule("constant-condition", low, bugs|rev, "The condition is always the same.", "Remove the test, or write what was meant.", func(p *pass) {
		for _, s := range all[*ast.IfStmt](p) {
			if n := ident(s.Cond); n == "true" || n == "false" {
				p.report(s.Cond)
			}
		}
	}),
	rule("defer-after-nothing", medium, bugs, "The file is closed before its error was looked at.", "Check the error first, then defer.", func(p *pass) {
		for _, block := range all[*ast.BlockStmt](p) {
			for i, s := range block.List[:max(len(block.List)-1, 0)] {
				a, ok := s.(*ast.AssignStmt)
				if !ok || len(a.Lhs) != 2 || len(a.Rhs) != 1 || ident(a.Lhs[1]) == "_" {
					continue
				}
				n := p.nameOfCall(a.Rhs[0])
				d, ok := block.List[i+1].(*ast.DeferStmt)
				if !ok || !slices.Contains([]string{"os.Open", "os.Create", "os.OpenFile", "net/http.Get", "net/http.Post"}, n) {
					continue
				}
				if x, name := method(d.Call); name == "Close" && strings.HasPrefix(path(x)+".", ident(a.Lhs[0])+".") {
					p.report(d)
				}
			}
		}
	}),
	rule("exit-skips-defer", low, bugs, "os.Exit and log.Fatal skip the deferred calls of this function.", "Return an error, and exit in main.", func(p *pass) {
		for c, call := range p.calls("os.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln") {
			f, body := function(c)
			if body == nil {
				continue
			}
			for d := range f.Preorder((*ast.DeferStmt)(nil)) {
				if _, b := function(d); b == body && d.Node().Pos() < call.Pos() {
					p.report(call)
					break
				}
			}
		}
	}),
}

func (p *pass) commented(b *ast.BlockStmt) bool {
	for _, g := range p.file.Comments {
		if g.Pos() > b.Lbrace && g.End() <= b.Rbrace {
			return true
		}
	}
	return false
}

// closes reports whether the response's body is closed in body, or the
// response leaves it.
func closes(body *ast.BlockStmt, resp string) bool {
	found := false
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if n.Sel.Name == "Close" && strings.HasPrefix(path(n.X), resp+".Body") {
				found = true
			}
		case *ast.ReturnStmt:
			for _, r := range n.Results {
				found = found || ident(r) == resp
			}
		case *ast.CallExpr:
			for _, a := range n.Args {
				found = found || ident(a) == resp
			}
		case *ast.CompositeLit:
			found = found || mentions(n, resp)
		case *ast.AssignStmt:
			for _, r := range n.Rhs {
				found = found || ident(r) == resp || path(r) == resp+".Body"
			}
		}
		return !found
	})
	return found
}

func nilMap(s ast.Stmt) string {
	d, ok := s.(*ast.DeclStmt)
	if !ok {
		return ""
	}
	g, ok := d.Decl.(*ast.GenDecl)
	if !ok || g.Tok != token.VAR || len(g.Specs) != 1 {
		return ""
	}
	v, ok := g.Specs[0].(*ast.ValueSpec)
	if !ok || len(v.Names) != 1 || len(v.Values) > 0 {
		return ""
	}
	if _, ok := v.Type.(*ast.MapType); !ok {
		return ""
	}
	return v.Names[0].Name
}

// writeBeforeMake returns the first write to the map, where nothing that
// comes before could have made it.
func writeBeforeMake(list []ast.Stmt, name string) ast.Node {
	for _, s := range list {
		if a, ok := s.(*ast.AssignStmt); ok {
			for _, l := range a.Lhs {
				if x, ok := l.(*ast.IndexExpr); ok && ident(x.X) == name {
					return x
				}
			}
		}
		if mentions(s, name) {
			return nil
		}
	}
	return nil
}

var concurrencyRules = []astRule{
	rule("empty-critical-section", medium, bugs, "The lock is given back at once, so it guards nothing.", "Write defer mu.Unlock(), or lock around what needs it.", func(p *pass) {
		for _, block := range all[*ast.BlockStmt](p) {
			for i := range max(len(block.List)-1, 0) {
				x, lock := stmtMethod(block.List[i])
				y, unlock := stmtMethod(block.List[i+1])
				if x != "" && x == y && (lock == "Lock" && unlock == "Unlock" || lock == "RLock" && unlock == "RUnlock") {
					p.report(block.List[i])
				}
			}
		}
	}),
	rule("deferred-lock", high, bugs, "The lock is taken at the function's end and never given back.", "Write defer mu.Unlock().", func(p *pass) {
		for _, d := range all[*ast.DeferStmt](p) {
			if x, name := method(d.Call); (name == "Lock" || name == "RLock") && len(d.Call.Args) == 0 && path(x) != "" {
				p.report(d)
			}
		}
	}),
	rule("waitgroup-add-inside", medium, bugs, "Wait may run before the goroutine has added itself.", "Call Add before go, or use WaitGroup.Go.", func(p *pass) {
		for _, g := range all[*ast.GoStmt](p) {
			lit, ok := g.Call.Fun.(*ast.FuncLit)
			if !ok {
				continue
			}
			for _, s := range lit.Body.List {
				if e, ok := s.(*ast.ExprStmt); ok {
					if call, ok := e.X.(*ast.CallExpr); ok {
						if x, name := method(call); name == "Add" && strings.Contains(strings.ToLower(path(x)), "wg") {
							p.report(call)
						}
					}
				}
			}
		}
	}),
	rule("copied-lock", high, bugs, "The lock is copied, so each copy guards nothing of the others.", "Pass a pointer.", func(p *pass) {
		for _, f := range all[*ast.FuncType](p) {
			if f.Params == nil {
				continue
			}
			for _, param := range f.Params.List {
				if n := p.name(param.Type); n == "sync.Mutex" || n == "sync.RWMutex" || n == "sync.WaitGroup" || n == "sync.Once" {
					p.report(param)
				}
			}
		}
	}),
	rule("busy-wait", medium, perf|bugs, "The loop with an empty default keeps a processor busy.", "Leave the default out, so that select waits.", func(p *pass) {
		for c, s := range all[*ast.SelectStmt](p) {
			if !loopBody(c) {
				continue
			}
			for _, x := range s.Body.List {
				if cc, ok := x.(*ast.CommClause); ok && cc.Comm == nil && len(cc.Body) == 0 {
					p.report(s)
				}
			}
		}
	}),
	rule("unbuffered-signal", medium, bugs, "signal.Notify does not wait: a signal is lost when nobody receives at that moment.", "Make the channel with room for one.", func(p *pass) {
		for c, call := range p.calls("os/signal.Notify") {
			if len(call.Args) == 0 {
				continue
			}
			if m, ok := assigned(c, ident(call.Args[0]), call.Pos()).(*ast.CallExpr); ok && ident(m.Fun) == "make" && len(m.Args) == 1 {
				p.report(call)
			}
		}
	}),
}

// loopBody reports whether the select is all that a for without a condition does.
func loopBody(c inspector.Cursor) bool {
	block, ok := c.Parent().Node().(*ast.BlockStmt)
	if !ok || len(block.List) != 1 {
		return false
	}
	f, ok := c.Parent().Parent().Node().(*ast.ForStmt)
	return ok && f.Cond == nil
}

func stmtMethod(s ast.Stmt) (recv, name string) {
	e, ok := s.(*ast.ExprStmt)
	if !ok {
		return "", ""
	}
	call, ok := e.X.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return "", ""
	}
	x, name := method(call)
	if x == nil {
		return "", ""
	}
	return path(x), name
}

var performanceRules = []astRule{
	rule("regexp-in-loop", medium, perf, "The expression is compiled again in each turn.", "Compile it once, in a variable of the package.", func(p *pass) {
		for c, call := range p.calls("regexp.MustCompile", "regexp.Compile", "regexp.MatchString") {
			if inLoop(c) && len(call.Args) > 0 && (p.constant(call.Args[0])) {
				p.report(call)
			}
		}
	}),
	rule("concat-in-loop", low, perf, "Each turn copies the whole text so far.", "Use strings.Builder.", func(p *pass) {
		for c, a := range all[*ast.AssignStmt](p) {
			if a.Tok != token.ADD_ASSIGN || len(a.Rhs) != 1 || !inLoop(c) {
				continue
			}
			stringy := false
			ast.Inspect(a.Rhs[0], func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					stringy = stringy || p.name(n.Fun) == "fmt.Sprintf" || ident(n.Fun) == "string"
					return false
				case *ast.BasicLit:
					stringy = stringy || n.Kind == token.STRING
				}
				return true
			})
			if stringy {
				p.report(a)
			}
		}
	}),
	rule("client-without-timeout", low, bugs|perf, "The client waits for ever for a server that does not answer.", "Set Timeout, or use contexts with deadlines.", func(p *pass) {
		if mentions(p.file, "NewRequestWithContext") {
			return
		}
		for _, lit := range all[*ast.CompositeLit](p) {
			if lit.Type == nil || p.name(lit.Type) != "net/http.Client" {
				continue
			}
			if !hasField(lit, "Timeout") {
				p.report(lit.Type)
			}
		}
	}),
	rule("timer-in-loop", low, perf, "Each turn makes a timer; before Go 1.23 it stays until it fires.", "Make one timer before the loop and reset it.", func(p *pass) {
		for c, call := range p.calls("time.After", "time.Tick") {
			if inLoop(c) {
				p.report(call)
			}
		}
	}),
	rule("sprint-of-number", info, perf, "fmt takes longer than strconv for a single number.", "Use strconv.Itoa or strconv.FormatInt.", func(p *pass) {
		for c, call := range p.calls("fmt.Sprintf") {
			if len(call.Args) == 2 && inLoop(c) {
				if s, _ := text(call.Args[0]); s == "%d" {
					p.report(call)
				}
			}
		}
	}),
}
