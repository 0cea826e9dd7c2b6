package analysis

import (
	"path"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// byExtension names the languages of common file names.
var byExtension = map[string]string{
	".bash": "shell", ".c": "c", ".cc": "cpp", ".cjs": "javascript", ".clj": "clojure", ".cpp": "cpp", ".cs": "csharp",
	".css": "css", ".cxx": "cpp", ".dart": "dart", ".ex": "elixir", ".exs": "elixir", ".go": "go", ".h": "c",
	".hpp": "cpp", ".hs": "haskell", ".htm": "html", ".html": "html", ".java": "java", ".js": "javascript",
	".json": "json", ".jsx": "javascript", ".kt": "kotlin", ".kts": "kotlin", ".lua": "lua", ".m": "objective-c",
	".md": "markdown", ".mjs": "javascript", ".php": "php", ".pl": "perl", ".pm": "perl", ".ps1": "powershell",
	".py": "python", ".pyw": "python", ".r": "r", ".rb": "ruby", ".rs": "rust", ".scala": "scala", ".sh": "shell",
	".sol": "solidity", ".sql": "sql", ".swift": "swift", ".tf": "terraform", ".toml": "toml", ".ts": "typescript",
	".tsx": "typescript", ".vb": "vb", ".xml": "xml", ".yaml": "yaml", ".yml": "yaml", ".zig": "zig", ".zsh": "shell",
}

// byName names the languages of files that have no extension.
var byName = map[string]string{
	"dockerfile": "dockerfile", "containerfile": "dockerfile", "makefile": "makefile", "gnumakefile": "makefile",
	"jenkinsfile": "groovy", "rakefile": "ruby", "gemfile": "ruby",
}

// aliases are other names that clients use.
var aliases = map[string]string{
	"golang": "go", "js": "javascript", "node": "javascript", "jsx": "javascript", "ts": "typescript", "tsx": "typescript",
	"py": "python", "python3": "python", "c++": "cpp", "cxx": "cpp", "c#": "csharp", "cs": "csharp", "sh": "shell",
	"bash": "shell", "zsh": "shell", "rs": "rust", "rb": "ruby", "kt": "kotlin", "postgresql": "sql", "mysql": "sql",
}

// language returns what the client called the language, else what the file's
// name tells, else "".
func language(r *protocol.Request) string {
	if l := strings.TrimSpace(r.Language); l != "" {
		return l
	}
	name := strings.ToLower(path.Base(strings.ReplaceAll(r.Filename, `\`, "/")))
	if l, ok := byName[name]; ok {
		return l
	}
	return byExtension[path.Ext(name)]
}

// canonical returns the name under which the prompts know a language.
func canonical(language string) string {
	l := strings.ToLower(language)
	if a, ok := aliases[l]; ok {
		return a
	}
	return l
}
