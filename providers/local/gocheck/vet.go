package gocheck

import (
	"errors"
	"go/ast"
	"go/token"
	"go/types"
	"math"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/assign"
	"golang.org/x/tools/go/analysis/passes/bools"
	"golang.org/x/tools/go/analysis/passes/directive"
	"golang.org/x/tools/go/analysis/passes/ifaceassert"
	"golang.org/x/tools/go/analysis/passes/nilfunc"
	"golang.org/x/tools/go/analysis/passes/stdmethods"
	"golang.org/x/tools/go/analysis/passes/stringintconv"
	"golang.org/x/tools/go/analysis/passes/structtag"
	"golang.org/x/tools/go/analysis/passes/unreachable"
	"golang.org/x/tools/go/ast/inspector"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/local/rules"
)

// A vetRule is one pass of go vet.
type vetRule struct {
	rules.Rule
	analyzer *analysis.Analyzer
	types    bool // it needs them, if only those of this file
}

func vet(a *analysis.Analyzer, needsTypes bool, severity protocol.Severity, message, suggestion string) vetRule {
	return vetRule{rules.Rule{ID: "go/vet-" + a.Name, Severity: severity, Kinds: bugs | rev, Languages: []string{"go"},
		Message: message, Suggestion: suggestion}, a, needsTypes}
}

var vetRules = []vetRule{
	vet(unreachable.Analyzer, false, low, "This code is never reached.", "Remove it, or the statement before it."),
	vet(directive.Analyzer, false, low, "A directive of the go command is misplaced.", "Move it to where the go command reads it."),
	vet(assign.Analyzer, true, medium, "A value is assigned to itself.", "Assign what was meant."),
	vet(bools.Analyzer, true, medium, "A condition says the same thing twice, or can't hold.", "Test what was meant."),
	vet(ifaceassert.Analyzer, true, medium, "The type assertion can't succeed.", "Assert a type that can be there."),
	vet(nilfunc.Analyzer, true, medium, "A function is compared with nil, which it never is.", "Call it, or compare the variable that was meant."),
	vet(stdmethods.Analyzer, true, medium, "A method has a well-known name and other types than that name promises.", "Use the well-known types or another name."),
	vet(stringintconv.Analyzer, true, medium, "string(n) is the character with that number, not its digits.", "Use strconv.Itoa, or string(rune(n))."),
	vet(structtag.Analyzer, true, medium, "A struct's tag is not well formed, so it is ignored.", `Write key:"value" pairs with spaces between.`),
}

// vet runs the passes. It returns why some did not run.
func (p *pass) vet(want func(*rules.Rule) bool, r *Result, whole bool) string {
	var info *types.Info
	var pkg *types.Package
	for i := range vetRules {
		v := &vetRules[i]
		if p.done || p.ctx.Err() != nil {
			return ""
		}
		if !want(&v.Rule) || !whole && v.analyzer == directive.Analyzer { // which needs a whole file
			continue
		}
		if v.types && info == nil {
			if p.size > MaxTypeBytes || !whole || constantGrowth(p.file) > maxConstant {
				return "" // no more than the passes that need types are lost
			}
			if e := guard("go/types", func() { pkg, info = p.check() }); e != nil {
				r.Broken = append(r.Broken, e)
				return "the types could not be found out"
			}
		}
		p.rule = &v.Rule
		if e := guard(v.ID, func() { p.run(v, pkg, info) }); e != nil {
			r.Broken = append(r.Broken, e)
		}
	}
	return ""
}

func (p *pass) run(v *vetRule, pkg *types.Package, info *types.Info) {
	if pkg == nil {
		pkg, info = types.NewPackage("p", "p"), newInfo()
	}
	run := &analysis.Pass{
		Analyzer: v.analyzer, Fset: p.fset, Files: []*ast.File{p.file}, Pkg: pkg, TypesInfo: info,
		TypesSizes: types.SizesFor("gc", "amd64"),
		ResultOf:   map[*analysis.Analyzer]any{},
		ReadFile:   func(string) ([]byte, error) { return nil, errors.New("there is only this file") },
		Report: func(d analysis.Diagnostic) {
			end := d.End
			if end <= d.Pos {
				end = d.Pos + 1
			}
			p.at(p.offset(d.Pos), p.offset(end), v.Message+" ("+clip(d.Message, 160)+")")
		},
	}
	for _, need := range v.analyzer.Requires {
		run.ResultOf[need] = inspector.New(run.Files) // all of these need only the inspector
	}
	_, err := v.analyzer.Run(run)
	if err != nil {
		panic(err)
	}
}

func newInfo() *types.Info {
	return &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
		Selections: map[*ast.SelectorExpr]*types.Selection{}, Implicits: map[ast.Node]types.Object{}, Scopes: map[ast.Node]*types.Scope{},
		Instances: map[*ast.Ident]types.Instance{}, FileVersions: map[*ast.File]string{}}
}

// noImports fails for every package; the checker then treats what comes from
// it as of unknown type and stays silent about it.
type noImports struct{}

func (noImports) Import(string) (*types.Package, error) { return nil, errors.New("not loaded") }

func (p *pass) check() (*types.Package, *types.Info) {
	info := newInfo()
	conf := types.Config{Importer: noImports{}, Error: func(error) {}, FakeImportC: true, Sizes: types.SizesFor("gc", "amd64")}
	pkg, _ := conf.Check("p", p.fset, []*ast.File{p.file}, info) // errors of missing types are expected
	return pkg, info
}

// maxConstant bounds the bytes of string constants that the type checker may
// make: 24 constants that each double the one before took it 9 s and 1.3 GB.
const maxConstant = 16 << 20

// constantGrowth returns an upper bound of the bytes of string constants.
func constantGrowth(file *ast.File) float64 {
	literals, growth := 1.0, 1.0
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				literals += float64(len(n.Value))
			}
		case *ast.GenDecl:
			if n.Tok != token.CONST {
				return true
			}
			for _, s := range n.Specs {
				names := 0.0
				if v, ok := s.(*ast.ValueSpec); ok {
					for _, x := range v.Values {
						ast.Inspect(x, func(n ast.Node) bool {
							if b, ok := n.(*ast.BinaryExpr); ok && b.Op == token.ADD {
								if _, lit := b.Y.(*ast.BasicLit); !lit {
									names++
								}
							}
							return true
						})
					}
				}
				growth = math.Min(growth*(names+1), math.MaxFloat64/1e9)
			}
		}
		return true
	})
	if growth == 1 {
		return 0 // literals alone are no longer than the file
	}
	return literals * growth
}
