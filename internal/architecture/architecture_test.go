// Package architecture holds no code, only tests that keep the shape of the
// others: which package may import which, that each one says what it is for,
// and that no file grows past what one can read in a sitting. They read the
// sources with go/parser and build nothing.
package architecture

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module   = "github.com/athena-hub/athena"
	root     = "../.."
	maxLines = 600
)

// floors is the house, top floor first. A package may import what lies on a
// lower floor, and what belongs to its own entry; everything below an entry's
// folder belongs to it. Neighbours on one floor don't import each other,
// unless neighbours says why.
var floors = [][]string{
	{"cmd"},
	{"internal/gateway"},
	{"internal/analysis"},
	{"internal/stream"},
	{"hub"},
	{"internal/accounting", "internal/cluster"},
	{"providers", "internal/cache", "internal/backbone", "internal/auth"},
	{"internal/resilience", "internal/secrets", "internal/telemetry", "internal/audit", "internal/certificates", "internal/config", "internal/problem", "internal/connections", "internal/ratelimit", "internal/overload", "internal/languageserver", "web"},
	{"protocol", "internal/proxies"},
}

// neighbours are the imports along a floor that have a reason.
var neighbours = map[[2]string]string{}

// forbidden are imports that the floors alone would allow.
var forbidden = []struct{ from, to, why string }{
	{"hub", "providers", "a hub delivers events and doesn't know where they come from"},
	{"hub", "internal/backbone", "a hub fetches foreign feeds through an interface of its own and doesn't know NATS"},
	{"internal/analysis", "hub", "an analysis writes a stream and knows neither transports nor clients"},
	{"internal/stream", "providers", "a stream carries events and doesn't know who makes them"},
}

// pure packages compute; they reach neither network, files nor processes.
var pure = map[string]struct{ allowed []string }{
	// net/http for the numbers of the status codes.
	"protocol": {allowed: []string{"net/http"}},
}

// lean packages are for other people's programs, and bring them nothing but
// the standard library, Athena's packages that are named, and these.
var lean = map[string]struct{ allowed []string }{
	"protocol/client": {allowed: []string{module + "/protocol", "github.com/coder/websocket", "github.com/r3labs/sse/v2"}},
}

// effects are the standard library's packages that do I/O, each with those
// below it.
var effects = []string{"net", "os", "syscall", "io/ioutil", "log", "plugin", "testing", "database/sql"}

// effectless lie below effects, but only parse.
var effectless = []string{"net/url", "net/netip"}

// A goFile is one Go file of the main module.
type goFile struct {
	path   string // from the root, with slashes
	dir    string
	test   bool
	syntax *ast.File
	fset   *token.FileSet
}

// imports maps the path of each import to where it stands.
func (f goFile) imports() map[string]string {
	found := make(map[string]string, len(f.syntax.Imports))
	for _, spec := range f.syntax.Imports {
		if imported, err := strconv.Unquote(spec.Path.Value); err == nil {
			found[imported] = f.path + ":" + strconv.Itoa(f.fset.Position(spec.Pos()).Line)
		}
	}
	return found
}

func TestImportsGoDownTheFloorsAndNeverUp(t *testing.T) {
	for _, file := range goFiles(t) {
		if file.test {
			continue // tests may stand a whole server up
		}
		from, fromFloor := place(file.dir)
		if from == "" {
			// Support for tests, such as a torture driver, has no floor, but
			// then nothing that ships may import it: the case below.
			continue
		}
		for imported, at := range file.imports() {
			dir, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			to, toFloor := place(dir)
			switch {
			case to == "":
				t.Errorf("%s: %s imports %s, which stands on no floor: give it one in internal/architecture", at, from, dir)
			case to == from:
			case toFloor < fromFloor:
				t.Errorf("%s: %s imports %s, which lies on a floor above it", at, from, dir)
			case toFloor == fromFloor && neighbours[[2]string{from, to}] == "":
				t.Errorf("%s: %s imports its neighbour %s: move the shared part a floor down, pass it in through an interface, "+
					"or give the reason in internal/architecture", at, from, dir)
			}
			for _, rule := range forbidden {
				if rule.from == from && rule.to == to {
					t.Errorf("%s: %s imports %s: %s", at, from, dir, rule.why)
				}
			}
		}
	}
}

func TestPackagesThatOnlyComputeImportNoIO(t *testing.T) {
	for _, file := range goFiles(t) {
		rule, isPure := pure[file.dir]
		if !isPure || file.test {
			continue
		}
		for imported, at := range file.imports() {
			if doesIO(imported) && !slices.Contains(rule.allowed, imported) {
				t.Errorf("%s: %s imports %s, but it is meant to compute only", at, file.dir, imported)
			}
			if strings.HasPrefix(imported, module+"/") && !within(strings.TrimPrefix(imported, module+"/"), file.dir) {
				t.Errorf("%s: %s imports %s, but it stands on its own", at, file.dir, imported)
			}
		}
	}
}

func TestPackagesForOtherProgramsBringThemLittle(t *testing.T) {
	checked := 0
	for _, file := range goFiles(t) {
		rule, isLean := lean[file.dir]
		if !isLean || file.test {
			continue
		}
		checked++
		for imported, at := range file.imports() {
			standard := !strings.Contains(strings.Split(imported, "/")[0], ".")
			if !standard && !slices.Contains(rule.allowed, imported) {
				t.Errorf("%s: %s imports %s, which everybody who imports it would then have too", at, file.dir, imported)
			}
		}
	}
	if checked == 0 {
		t.Error("none of the packages is there")
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	documented := map[string]bool{}
	for _, file := range goFiles(t) {
		doc := file.syntax.Doc.Text()
		name := strings.TrimSuffix(file.syntax.Name.Name, "_test")
		says := strings.HasPrefix(doc, "Package "+name+" ") || name == "main" && strings.TrimSpace(doc) != ""
		documented[file.dir] = documented[file.dir] || says
	}
	for dir, says := range documented {
		if !says {
			t.Errorf(`%s: no file has a doc comment that begins with "Package %s "`, dir, path.Base(dir))
		}
	}
}

func TestNoFileIsTooLongToReadInOneSitting(t *testing.T) {
	walk(t, func(name string) {
		if !slices.Contains([]string{".go", ".ts", ".mjs", ".css", ".html"}, path.Ext(name)) {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text[:min(len(text), 1000)], []byte("// Code generated ")) {
			return
		}
		if lines := bytes.Count(text, []byte("\n")); lines > maxLines {
			t.Errorf("%s has %d lines, more than %d: look for the second idea inside", name, lines, maxLines)
		}
	})
}

// place returns the entry of floors that dir belongs to, and how deep it lies
// from the top; "" where it belongs to none.
func place(dir string) (entry string, floor int) {
	for floor, entries := range floors {
		for _, entry := range entries {
			if within(dir, entry) {
				return entry, floor
			}
		}
	}
	return "", 0
}

// within reports whether dir is folder or lies below it.
func within(dir, folder string) bool {
	return dir == folder || strings.HasPrefix(dir, folder+"/")
}

func doesIO(imported string) bool {
	in := func(folder string) bool { return within(imported, folder) }
	return slices.ContainsFunc(effects, in) && !slices.ContainsFunc(effectless, in)
}

// goFiles parses the imports and comments of every Go file of the main module.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	walk(t, func(name string) {
		if path.Ext(name) != ".go" {
			return
		}
		fset := token.NewFileSet()
		syntax, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Errorf("parse %s: %v", name, err)
			return
		}
		files = append(files, goFile{
			path: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), syntax: syntax, fset: fset,
		})
	})
	if len(files) == 0 {
		t.Fatalf("no Go files below %s", root)
	}
	return files
}

// walk calls visit with the path of each source file of the main module, from
// the root: not what is generated, installed, recorded or a module of its own.
func walk(t *testing.T, visit func(name string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if !entry.IsDir() {
			visit(name)
			return nil
		}
		base := path.Base(name)
		if strings.HasPrefix(base, ".") || slices.Contains([]string{"testdata", "node_modules", "bin"}, base) ||
			within(name, "web/dist") || within(name, "web/build") {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(root, name, "go.mod")); err == nil {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
