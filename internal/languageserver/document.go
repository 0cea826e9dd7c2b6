package languageserver

import (
	"crypto/sha256"
	"net/url"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"unicode/utf16"

	"github.com/athena-hub/athena/protocol"
)

// A document is a text that the editor has open.
type document struct {
	uri      string
	language string // the editor's name for it
	version  int
	text     string

	stop     func()            // ends what is analysed or about to be; nil for nothing
	running  bool              // it is analysed, and not about to be
	analysed [sha256.Size]byte // of the text that was last analysed to its end
	// findings belong to the text of that version.
	findings     []protocol.Finding
	foundIn      int
	explanations []explanation
}

// An explanation is what a hover says of some lines.
type explanation struct {
	version int
	where   lspRange
	text    string
}

// units is how many UTF-16 code units s has.
func units(s string) int {
	n := 0
	for _, r := range s {
		n += max(1, utf16.RuneLen(r))
	}
	return n
}

// lines splits a text as editors do. The server is sent code that has "\n" between
// them, so that it counts the same lines: for it, "\r" alone ends none.
func lines(text string) []string {
	return strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), "\n")
}

// place returns where a finding is in a text: the whole of its first line where
// its range is empty, and nothing that is not there.
func place(text []string, r protocol.Range) lspRange {
	at := func(p protocol.Position) position {
		line := p.Line - 1
		switch {
		case line < 0:
			return position{}
		case line >= len(text):
			return position{len(text) - 1, units(text[len(text)-1])}
		}
		return position{line, min(max(p.Column-1, 0), units(text[line]))}
	}
	got := lspRange{at(r.Start), at(r.End)}
	if !got.Start.before(got.End) {
		line := text[got.Start.Line]
		if got.Start.Character >= units(line) || r.Start.Column < 1 {
			got.Start.Character = units(line[:len(line)-len(strings.TrimLeft(line, " \t"))])
		}
		got.End = position{got.Start.Line, units(line)}
	}
	return got
}

// severity is the editor's word for a finding's.
func severity(s protocol.Severity) int {
	switch s {
	case protocol.SeverityCritical, protocol.SeverityHigh:
		return 1 // error
	case protocol.SeverityMedium:
		return 2 // warning
	case protocol.SeverityLow:
		return 3 // information
	}
	return 4 // hint
}

func diagnosticOf(text []string, f *protocol.Finding) diagnostic {
	return diagnostic{Range: place(text, f.Range), Severity: severity(f.Severity), Code: f.Rule, Source: "athena", Message: f.Message}
}

// comment is a line of comment, ok false where the language has none that this
// package knows.
func comment(language, words string) (line string, ok bool) {
	words = strings.Join(strings.Fields(words), " ")
	switch language {
	case "python", "ruby", "shellscript", "sh", "bash", "yaml", "toml", "perl", "r", "dockerfile", "makefile", "elixir", "terraform":
		return "# " + words, true
	case "lua", "sql", "haskell":
		return "-- " + words, true
	case "html", "xml", "markdown", "vue", "svelte":
		return "<!-- " + strings.ReplaceAll(words, "--", "- -") + " -->", true
	case "css":
		return "/* " + strings.ReplaceAll(words, "*/", "* /") + " */", true
	case "c", "cpp", "csharp", "go", "java", "javascript", "javascriptreact", "typescript", "typescriptreact", "rust", "swift", "kotlin",
		"scala", "php", "dart", "zig", "groovy", "scss", "less", "objective-c", "objective-cpp":
		return "// " + words, true
	}
	return "", false
}

// extensions are the files that a workspace is searched for.
var extensions = map[string]bool{
	".go": true, ".py": true, ".js": true, ".jsx": true, ".mjs": true, ".cjs": true, ".ts": true, ".tsx": true, ".java": true, ".kt": true,
	".c": true, ".h": true, ".cc": true, ".cpp": true, ".hpp": true, ".cs": true, ".rs": true, ".rb": true, ".php": true, ".swift": true,
	".scala": true, ".sh": true, ".bash": true, ".lua": true, ".sql": true, ".pl": true, ".ex": true, ".dart": true, ".zig": true,
}

// filePath is the path of a file: URI, "" for another.
func filePath(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "file" {
		return ""
	}
	p := u.Path
	if runtime.GOOS == "windows" {
		p = strings.TrimPrefix(p, "/")
	}
	return filepath.FromSlash(p)
}

func fileURI(file string) string {
	p := filepath.ToSlash(file)
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return (&url.URL{Scheme: "file", Path: p}).String()
}

// filename is what the server is told of a document's name: where it is in the
// workspace, and nothing of what lies above.
func filename(root, uri string) string {
	file := filePath(uri)
	if file == "" {
		return ""
	}
	if root != "" {
		if rel, err := filepath.Rel(root, file); err == nil && filepath.IsLocal(rel) && len(rel) <= protocol.MaxFilenameBytes {
			return filepath.ToSlash(rel)
		}
	}
	return path.Base(filepath.ToSlash(file))
}
