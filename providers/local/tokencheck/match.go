package tokencheck

import (
	"regexp"
	"strings"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/local/rules"
)

// The severities, for tables that fit the width of a page.
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
	deob = rules.Deobfuscate
)

type match = func(c *tokens, i int) (span, bool)

func rule(id string, severity protocol.Severity, kinds rules.Kinds, languages, on, message, suggestion string, m match) tokenRule {
	return tokenRule{rules.Rule{ID: id, Severity: severity, Kinds: kinds, Languages: strings.Fields(languages),
		Message: message, Suggestion: suggestion}, strings.Fields(on), m}
}

// one covers the token itself.
func one(i int) (span, bool) { return span{i, i + 1}, true }

func none() (span, bool) { return span{}, false }

// member reports whether token i is used through something: a.b, a->b, A::b.
func (c *tokens) member(i int) bool { return c.oneOf(i-1, ".", "->", "::", "?.") }

// defined reports whether token i names what is being defined here, rather
// than used.
func (c *tokens) defined(i int) bool {
	return c.oneOf(i-1, "function", "def", "fn", "func", "class", "fun")
}

// call holds for calls of the word for which when holds; nil asks for no more.
func call(when func(c *tokens, i int, args []span) bool) match {
	return func(c *tokens, i int) (span, bool) {
		args, end, ok := c.args(i + 1)
		if !ok || c.defined(i) || when != nil && !when(c, i, args) {
			return none()
		}
		return span{i, end + 1}, true
	}
}

// firstDynamic holds for calls whose first argument is not a literal.
func firstDynamic(c *tokens, i int, args []span) bool {
	return len(args) > 0 && c.dynamic(args[0])
}

// plain restricts a condition to calls of a free function.
func plain(when func(c *tokens, i int, args []span) bool) func(c *tokens, i int, args []span) bool {
	return func(c *tokens, i int, args []span) bool {
		return !c.member(i) && (when == nil || when(c, i, args))
	}
}

// on restricts a condition to members of one of the named things.
func on(when func(c *tokens, i int, args []span) bool, owners ...string) func(c *tokens, i int, args []span) bool {
	return func(c *tokens, i int, args []span) bool {
		return c.member(i) && c.oneOf(i-2, owners...) && (when == nil || when(c, i, args))
	}
}

// firstString holds for calls whose first argument has a string that matches.
func firstString(re *regexp.Regexp) func(c *tokens, i int, args []span) bool {
	return func(c *tokens, i int, args []span) bool { return len(args) > 0 && c.hasString(args[0], re) }
}

// set holds where the word is given one of the values, by '=' or ':'.
func set(values ...string) match {
	return func(c *tokens, i int) (span, bool) {
		if c.oneOf(i+1, "=", ":", "=>", "(", ",") && c.oneOf(i+2, values...) {
			return span{i, i + 3}, true
		}
		return none()
	}
}

// dotted holds where the word follows the given ones, as in a.b.word.
func dotted(before ...string) match {
	return func(c *tokens, i int) (span, bool) {
		if c.is(i-len(before), before...) {
			return span{i - len(before), i + 1}, true
		}
		return none()
	}
}

var sqlWords = regexp.MustCompile(`(?is)^\s*(?:select\s.+\sfrom\s|select\s.*\swhere\s|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s|drop\s+table\s|select\s+\*)`)

// sqlBuilt holds for a literal that begins as SQL and goes on with a value
// that is not a literal.
func sqlBuilt(c *tokens, i int) (span, bool) {
	t := c.at(i)
	text := content(t.text)
	if len(text) > 4096 {
		text = text[:4096]
	}
	if !sqlWords.MatchString(text + " ") {
		return none()
	}
	if t.interp {
		return one(i)
	}
	// "…" + x, "…" % x, "…" . $x, "…".format(x), and String.format("…%s", x).
	for j := i + 1; j < i+12; j += 2 {
		joined := c.oneOf(j, "+", "%", "||") || c.language == "php" && c.is(j, ".")
		if !joined {
			break
		}
		if next := c.at(j + 1); next.kind == str && next.interp || next.kind == code && (next.word || next.text == "(") && !constantWord[next.text] {
			return span{i, j + 2}, true
		}
	}
	if c.is(i+1, ".", "format", "(") {
		return span{i, i + 3}, true
	}
	if c.is(i-1, "(") && c.oneOf(i-2, "format", "sprintf", "Format") && c.is(i+1, ",") && strings.ContainsAny(text, "%{") {
		return span{i - 2, i + 1}, true
	}
	return none()
}

const (
	sqlMessage    = "SQL is put together from text and a value, so the value can change the statement."
	sqlSuggestion = "Use placeholders and pass the value as a parameter."
)

func sqlRule(prefix, languages string) tokenRule {
	return rule(prefix+"/sql-injection", high, sec, languages, anyString, sqlMessage, sqlSuggestion, sqlBuilt)
}

var (
	weakHashName   = regexp.MustCompile(`(?i)^(?:md[245]|sha-?1)$`)
	weakCipherName = regexp.MustCompile(`(?i)^(?:des|desede|3des|rc[24]|arcfour|blowfish|idea|tripledes)(?:[-/]|$)|ecb`)
	secretName     = regexp.MustCompile(`(?i)token|secret|passw|session|nonce|salt|otp|csrf|apikey|api_key`)
)

const (
	hashMessage      = "MD5 and SHA-1 are broken: collisions can be made, and passwords under them are guessed quickly."
	hashSuggestion   = "Use SHA-256 or better for digests, and bcrypt, scrypt or Argon2 for passwords."
	cipherMessage    = "This cipher or mode is weak: its keys are too short, or equal blocks stay equal."
	cipherSuggestion = "Use AES-GCM or ChaCha20-Poly1305."
	randMessage      = "A predictable random number becomes a secret."
	evalMessage      = "Text is run as code; whoever controls the text controls the program."
	evalSuggestion   = "Parse the input as data, or choose among known functions."
	shellMessage     = "A shell command is put together from values, so a value can add commands."
	tlsMessage       = "Certificates are not checked, so anyone on the way can read and change the traffic."
	tlsSuggestion    = "Leave the check on; give the client the private authority's certificate if there is one."
)

// nearSecret holds where the statement around the word names a secret.
func nearSecret(c *tokens, i int) (span, bool) {
	s := c.statement(i)
	for j := s.from; j < s.to; j++ {
		if t := c.at(j); j != i && t.kind == code && t.word && secretName.MatchString(t.text) {
			return one(i)
		}
	}
	return none()
}
