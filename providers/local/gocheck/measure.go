package gocheck

import (
	"go/ast"
	"go/token"
	"strings"

	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/source"
)

// measure fills in the functions and the outline.
func (p *pass) measure(r *Result, text *source.Text) {
	add := func(kind, name string, n ast.Node) {
		if len(r.Symbols) < rules.MaxSymbols {
			r.Symbols = append(r.Symbols, rules.Symbol{Kind: kind, Name: clip(name, 160), Start: max(p.offset(n.Pos())-p.shift, 0)})
		}
	}
	for _, d := range p.file.Decls {
		switch d := d.(type) {
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.ImportSpec:
					add("import", s.Path.Value, s)
				case *ast.TypeSpec:
					kind := "type"
					switch s.Type.(type) {
					case *ast.StructType:
						kind = "struct"
					case *ast.InterfaceType:
						kind = "interface"
					}
					add(kind, s.Name.Name, s)
				case *ast.ValueSpec:
					kind := "var"
					if d.Tok == token.CONST {
						kind = "const"
					}
					for _, n := range s.Names {
						add(kind, n.Name, n)
					}
				}
			}
		case *ast.FuncDecl:
			name, kind := d.Name.Name, "func"
			if d.Recv != nil && len(d.Recv.List) > 0 {
				kind = "method"
				name = receiver(d.Recv.List[0].Type) + "." + name
			}
			if name == "_" && p.fragment {
				continue
			}
			add(kind, name, d)
			if d.Body != nil && len(r.Functions) < rules.MaxFunctions {
				r.Functions = append(r.Functions, p.function(name, d, text))
			}
		}
	}
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	}
	return ident(e)
}

func (p *pass) function(name string, d *ast.FuncDecl, text *source.Text) rules.Function {
	f := rules.Function{Name: name, Complexity: 1,
		Start: max(p.offset(d.Pos())-p.shift, 0), End: min(max(p.offset(d.End())-p.shift, 0), p.size)}
	f.Lines = text.LineOf(f.End) - text.LineOf(f.Start) + 1
	for _, param := range d.Type.Params.List {
		f.Params += max(len(param.Names), 1)
	}
	depth := 0
	var nodes []bool // whether each open node is a block inside another
	ast.Inspect(d.Body, func(n ast.Node) bool {
		if n == nil {
			if nodes[len(nodes)-1] {
				depth--
			}
			nodes = nodes[:len(nodes)-1]
			return true
		}
		nested := false
		switch n := n.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			f.Complexity++
		case *ast.CaseClause:
			if n.List != nil {
				f.Complexity++
			}
		case *ast.CommClause:
			if n.Comm != nil {
				f.Complexity++
			}
		case *ast.BinaryExpr:
			if n.Op == token.LAND || n.Op == token.LOR {
				f.Complexity++
			}
		case *ast.BlockStmt:
			nested = n != d.Body
		}
		if nested {
			depth++
			f.Depth = max(f.Depth, depth)
		}
		nodes = append(nodes, nested)
		return true
	})
	f.Name = strings.TrimPrefix(f.Name, ".")
	return f
}
