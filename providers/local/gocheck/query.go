package gocheck

import (
	"go/ast"
	"go/token"
	"iter"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/go/ast/inspector"
)

// all yields every node of type N in the file.
func all[N ast.Node](p *pass) iter.Seq2[inspector.Cursor, N] {
	return func(yield func(inspector.Cursor, N) bool) {
		var zero N
		for c := range p.root.Preorder(zero) {
			if p.done || !yield(c, c.Node().(N)) {
				return
			}
		}
	}
}

// calls yields the calls of the named functions, such as "os/exec.Command".
func (p *pass) calls(names ...string) iter.Seq2[inspector.Cursor, *ast.CallExpr] {
	return func(yield func(inspector.Cursor, *ast.CallExpr) bool) {
		for c, call := range all[*ast.CallExpr](p) {
			if name := p.name(call.Fun); name != "" && slices.Contains(names, name) && !yield(c, call) {
				return
			}
		}
	}
}

// method returns the name and receiver of a method call, "" for another.
func method(call *ast.CallExpr) (recv ast.Expr, name string) {
	if s, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr); ok {
		return s.X, s.Sel.Name
	}
	return nil, ""
}

func ident(e ast.Expr) string {
	if i, ok := ast.Unparen(e).(*ast.Ident); ok {
		return i.Name
	}
	return ""
}

// path writes an expression of names and dots, such as s.mu; "" for others.
func path(e ast.Expr) string {
	switch e := ast.Unparen(e).(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if x := path(e.X); x != "" {
			return x + "." + e.Sel.Name
		}
	}
	return ""
}

// text returns the value of a string literal, or of literals joined by +.
func text(e ast.Expr) (string, bool) {
	switch e := ast.Unparen(e).(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			s, err := strconv.Unquote(e.Value)
			return s, err == nil
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			x, ok := text(e.X)
			y, ok2 := text(e.Y)
			return x + y, ok && ok2
		}
	}
	return "", false
}

// constant reports whether e is made of literals and of names that the file
// declares as constants.
func (p *pass) constant(e ast.Expr) bool {
	ok := true
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr, *ast.SelectorExpr, *ast.IndexExpr, *ast.FuncLit:
			ok = false
		case *ast.Ident:
			if n.Name != "true" && n.Name != "false" && n.Name != "nil" && !p.isConst(n.Name) {
				ok = false
			}
		}
		return ok
	})
	return ok
}

func (p *pass) isConst(name string) bool {
	for _, d := range all[*ast.GenDecl](p) {
		if d.Tok != token.CONST {
			continue
		}
		for _, s := range d.Specs {
			if v, ok := s.(*ast.ValueSpec); ok {
				for _, n := range v.Names {
					if n.Name == name {
						return true
					}
				}
			}
		}
	}
	return false
}

// function returns the innermost function around c and its body.
func function(c inspector.Cursor) (inspector.Cursor, *ast.BlockStmt) {
	for f := range c.Enclosing((*ast.FuncDecl)(nil), (*ast.FuncLit)(nil)) {
		switch n := f.Node().(type) {
		case *ast.FuncDecl:
			return f, n.Body
		case *ast.FuncLit:
			return f, n.Body
		}
	}
	return inspector.Cursor{}, nil
}

// inLoop reports whether c is in a loop of its own function. What runs once
// per loop (its init, its range expression) is not.
func inLoop(c inspector.Cursor) bool {
	pos := c.Node().Pos()
	for e := range c.Enclosing((*ast.ForStmt)(nil), (*ast.RangeStmt)(nil), (*ast.FuncLit)(nil), (*ast.FuncDecl)(nil)) {
		switch n := e.Node().(type) {
		case *ast.ForStmt:
			if n.Body != nil && pos >= n.Body.Pos() {
				return true
			}
		case *ast.RangeStmt:
			if n.Body != nil && pos >= n.Body.Pos() {
				return true
			}
		default:
			return false
		}
	}
	return false
}

// assigned returns what the name was last given before pos in the function
// around c; nil where that is not plain.
func assigned(c inspector.Cursor, name string, pos token.Pos) ast.Expr {
	_, body := function(c)
	if body == nil || name == "" {
		return nil
	}
	var value ast.Expr
	ast.Inspect(body, func(n ast.Node) bool {
		if n == nil || n.Pos() >= pos {
			return false
		}
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == len(a.Rhs) {
			for i, l := range a.Lhs {
				if ident(l) == name {
					value = a.Rhs[i]
				}
			}
		}
		return true
	})
	return value
}

// fromRequest reports whether e reads what a client sent, directly.
func fromRequest(e ast.Expr) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			switch s.Sel.Name {
			case "FormValue", "PostFormValue", "PathValue":
				found = true
			case "Path", "RawQuery", "Query":
				found = found || strings.HasSuffix(path(s.X), ".URL") || strings.HasPrefix(path(s.X), "r.") || strings.HasPrefix(path(s.X), "req.")
			case "Get":
				found = found || strings.HasSuffix(path(s.X), ".Header")
			}
		}
		return !found
	})
	return found
}

// tainted is fromRequest, through one variable too.
func tainted(c inspector.Cursor, e ast.Expr) bool {
	if fromRequest(e) {
		return true
	}
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		if i, ok := n.(*ast.Ident); ok && !found {
			if v := assigned(c, i.Name, e.Pos()); v != nil && fromRequest(v) {
				found = true
			}
		}
		return !found
	})
	return found
}

// hasField reports whether a composite literal sets the field called name.
func hasField(lit *ast.CompositeLit, name string) bool {
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok && ident(kv.Key) == name {
			return true
		}
	}
	return false
}

// mentions reports whether a name or member called so is in n.
func mentions(n ast.Node, names ...string) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		if i, ok := n.(*ast.Ident); ok && slices.Contains(names, i.Name) {
			found = true
		}
		return !found
	})
	return found
}
