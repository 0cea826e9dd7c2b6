package tokencheck

import (
	"context"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/secrets"
	"github.com/athena-hub/athena/providers/local/source"
)

const braced = "javascript typescript java c cpp csharp php rust kotlin swift scala"

// Sizes from which a literal or line counts as packed.
const (
	minBlob       = 200  // characters of one base64 or hexadecimal literal
	minPackedLine = 1000 // characters of one line of a script
	minCharCodes  = 8
	minEscapes    = 8
)

var (
	base64Blob = regexp.MustCompile(`^[A-Za-z0-9+/_-]+={0,2}$`)
	hexEscapes = regexp.MustCompile(`(?:\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}){8,}`)
)

var sharedRules = []tokenRule{
	rule("any/empty-catch", low, bugs|rev, braced, "catch", "The error is thrown away without a word.", "Handle it, or log it with its reason.",
		func(c *tokens, i int) (span, bool) {
			j := i + 1
			if _, end, ok := c.args(j); ok {
				j = end + 1
			}
			if c.is(j, "{", "}") && !strings.ContainsAny(c.src[c.at(j).start:c.at(j+1).start], "/") {
				return span{i, j + 2}, true
			}
			return none()
		}),
	rule("any/self-compare", medium, bugs, "javascript typescript java c cpp csharp php python ruby rust kotlin swift", "== != === !==",
		"Both sides of the comparison are the same.", "Compare with what was meant, or leave the test out.", func(c *tokens, i int) (span, bool) {
			a, b := c.at(i-1), c.at(i+1)
			if !a.word || a.text != b.text || c.member(i-1) || c.oneOf(i+2, ".", "(", "[", "->", "::", "?.", "+", "-", "*", "/", "%") ||
				c.oneOf(i-2, "+", "-", "*", "/", "%", "!") {
				return none()
			}
			return span{i - 1, i + 2}, true
		}),
	rule("any/decoded-code", critical, sec|deob, "javascript typescript php python ruby", "eval exec Function", "Hidden text is decoded and run as code.",
		"Find out what it does before anything runs it; the deobfuscate analysis shows what can be decoded.",
		call(func(c *tokens, i int, args []span) bool {
			return len(args) > 0 && c.has(args[0], "atob", "unescape", "fromCharCode", "base64_decode", "gzinflate", "str_rot13", "b64decode", "fromhex",
				"decode64", "unhexlify", "decompress")
		})),
	rule("any/char-codes", medium, sec|deob, js, "fromCharCode fromCodePoint", "Text is spelled in character codes, which hides it.",
		"Write the text as it is.", call(func(c *tokens, i int, args []span) bool {
			numbers := 0
			for _, a := range args {
				if a.to == a.from+1 && c.at(a.from).kind == number {
					numbers++
				}
			}
			return numbers >= minCharCodes
		})),
	rule("any/packed-blob", low, sec|deob, "", anyString, "A long encoded literal hides what it holds.", "Keep data in a file, and say what it is.",
		func(c *tokens, i int) (span, bool) {
			s := content(c.at(i).text)
			if len(s) < minBlob || !base64Blob.MatchString(s) || secrets.Entropy(s[:minBlob]) < 3 {
				return none()
			}
			return one(i)
		}),
	rule("any/escaped-text", low, sec|deob, "", anyString, "Text is written in escapes, which hides it.", "Write the characters themselves.",
		func(c *tokens, i int) (span, bool) {
			if t := c.at(i).text; len(t) < minEscapes*4 || !hexEscapes.MatchString(t) {
				return none()
			}
			return one(i)
		}),
	rule("any/mangled-names", low, deob|sec, js, anyString, "Names like _0x1a2b and an array of strings are an obfuscator's work.",
		"Ask for the source, or decode the array.", func(c *tokens, i int) (span, bool) {
			if !c.is(i-2, "=", "[") || !strings.HasPrefix(c.at(i-3).text, "_0x") {
				return none()
			}
			return span{i - 3, i + 1}, true
		}),
}

// textRules look at the text itself, in any language, Go too.
var textRules = []struct {
	rules.Rule
	// check returns the stretch of the line that is meant.
	check func(line string) (from, to int, ok bool)
}{
	{rules.Rule{ID: "any/bidi-control", Severity: high, Kinds: sec | deob | bugs,
		Message:    "A character that turns the direction of writing makes the code look other than it is.",
		Suggestion: "Remove it, or write it as an escape."}, func(line string) (int, int, bool) {
		// The characters of CVE-2021-42574.
		i := strings.IndexAny(line, "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
		if i < 0 {
			return 0, 0, false
		}
		_, n := utf8.DecodeRuneInString(line[i:])
		return i, i + n, true
	}},
	{rules.Rule{ID: "any/merge-conflict", Severity: medium, Kinds: bugs | rev, Message: "A merge was left unfinished here.",
		Suggestion: "Choose a side and remove the marks."}, func(line string) (int, int, bool) {
		ok := strings.HasPrefix(line, "<<<<<<< ") || strings.HasPrefix(line, ">>>>>>> ")
		return 0, 7, ok
	}},
	{rules.Rule{ID: "any/packed-line", Severity: low, Kinds: deob | sec | rev, Message: "A very long line holds what nobody can review.",
		Suggestion: "Review the source that it was made from."}, func(line string) (int, int, bool) {
		return 0, len(line), len(line) >= minPackedLine && strings.Count(line, " ") < len(line)/10
	}},
	{rules.Rule{ID: "any/unfinished", Severity: info, Kinds: rev, Message: "The code says that it is unfinished.",
		Suggestion: "Finish it, or keep it as an issue."}, func(line string) (int, int, bool) {
		m := unfinished.FindStringSubmatchIndex(line[:min(len(line), minPackedLine)])
		if m == nil {
			return 0, 0, false
		}
		return m[2], m[3], true
	}},
}

var unfinished = regexp.MustCompile(`(?://|#|/\*|--|\*)\s*(TODO|FIXME|XXX|HACK)\b`)

// CheckText runs the rules that look at lines rather than tokens.
func CheckText(ctx context.Context, text *source.Text, want func(*rules.Rule) bool, emit rules.Emit) {
	for n := 1; n <= text.Lines(); n++ {
		if n%256 == 0 && ctx.Err() != nil {
			return
		}
		line, start := text.Line(n), text.LineStart(n)
		for i := range textRules {
			r := &textRules[i]
			if !want(&r.Rule) {
				continue
			}
			if from, to, ok := r.check(line); ok && !emit(rules.Hit{Rule: &r.Rule, Start: start + from, End: start + to}) {
				return
			}
		}
	}
}
