package tokencheck

import (
	"regexp"
	"strings"
)

// line returns the tokens of the line that token i is on.
func (c *tokens) line(i int) span {
	from := i
	for from > 0 && i-from < 100 && !c.at(from).first {
		from--
	}
	to := i + 1
	for to < len(c.all) && to-i < 100 && !c.at(to).first {
		to++
	}
	return span{from, to}
}

// text returns the code of s as it stands.
func (c *tokens) text(s span) string {
	if s.empty() {
		return ""
	}
	t := c.src[c.at(s.from).start:c.at(s.to-1).end()]
	return t[:min(len(t), 4096)]
}

// command holds where the word stands as a command and the rest of its line
// matches.
func command(re *regexp.Regexp) match {
	return func(c *tokens, i int) (span, bool) {
		if !c.at(i).first && !c.oneOf(i-1, ";", "|", "&&", "||", "(", "$(", "{", "then", "do", "else", "sudo", "!") {
			return none()
		}
		s := span{i, c.line(i).to}
		m := re.FindStringIndex(c.text(s))
		if m == nil {
			return none()
		}
		limit := c.at(i).start + m[1]
		for s.to > i+1 && c.at(s.to-1).start >= limit {
			s.to--
		}
		return s, true
	}
}

func re(s string) *regexp.Regexp { return regexp.MustCompile(s) }

var (
	sharedTemp   = re(`^>>?\s*/tmp/[A-Za-z0-9_.-]+`)
	decodedShell = re(`^base64\s+(?:-d|-D|--decode)[^;\n]*\|\s*(?:sudo\s+)?(?:ba|z|da|k)?sh\b`)
	deleteFrom   = re(`^delete\s+from\b`)
	updateSet    = re(`^update\s+\S+\s+set\b`)
	grantAll     = re(`^grant\s+all\b`)
	dynamicSQL   = re(`^exec(?:ute)?\s*(?:immediate\b.*\|\||\(.*(?:\+|@))`)
)

var shellRules = []tokenRule{
	rule("sh/eval", high, sec|deob, "shell", "eval", evalMessage, "Call the command itself, with its arguments in an array.", command(re(`^eval\s+[^;]*[$`+"`"+`]`))),
	rule("sh/pipe-to-shell", high, sec, "shell", "curl wget", "What the network sends is run at once, unseen.", "Download it, check its signature or digest, then run it.",
		command(re(`^(?:curl|wget)\s[^;\n]*\|\s*(?:sudo\s+)?(?:ba|z|da|k)?sh\b`))),
	rule("sh/rm-variable", high, bugs|sec, "shell", "rm", "With an empty variable this removes from the root.", `Write "${dir:?}/…".`,
		command(re(`^rm\s+-[a-zA-Z]*[rR][a-zA-Z]*\s[^;|&]*"?\$\{?[A-Za-z_]+\}?"?/`))),
	rule("sh/world-writable", medium, sec, "shell", "chmod", "Every user of the machine may change this.", "Give the rights that are needed, such as 750.",
		command(re(`^chmod\s+(?:-[a-zA-Z]+\s+)*(?:0?777|0?666|a\+[rx]*w|o\+[rx]*w)`))),
	rule("sh/tls-verify-off", high, sec, "shell", "curl wget git", tlsMessage, tlsSuggestion,
		command(re(`^curl\s(?:[^|;\n]*\s)?(?:-[a-zA-Z]*k\b|--insecure)|^wget\s[^|;\n]*--no-check-certificate|^git\s[^|;\n]*http\.sslVerify[ =]false`))),
	rule("sh/cd-unchecked", low, bugs, "shell", "cd", "If cd fails, the next commands run in the wrong folder.", "Write cd … || exit.",
		func(c *tokens, i int) (span, bool) {
			l := c.line(i)
			if !c.at(i).first || c.at(i).indent > 0 || c.has(l, "||", "&&") || strings.Contains(c.src[:min(len(c.src), 2048)], "set -e") || !strings.Contains(c.text(l), "$") {
				return none()
			}
			return l, true
		}),
	rule("sh/password-argument", medium, sec, "shell", "mysql curl sshpass mysqldump", "Other users see the arguments of commands, and so the password.", "Use a file or the environment.",
		command(re(`^(?:mysql(?:dump)?\s[^|;\n]*\s?-p[^\s$"'][^\s]*|curl\s(?:[^|;\n]*\s)?(?:-u|--user)\s+["']?[^\s:"'$]+:[^\s"'$]+|sshpass\s+-p)`))),
	rule("sh/temp-name", low, sec, "shell", "> >>", "A fixed name in /tmp can be put there first, as a link, by another user.", "Use mktemp.",
		func(c *tokens, i int) (span, bool) {
			if t := c.text(span{i, c.line(i).to}); sharedTemp.MatchString(t) && !strings.Contains(t[:min(len(t), 40)], "$") {
				return one(i)
			}
			return none()
		}),
	rule("sh/echo-decode", high, sec|deob, "shell", "base64", "Hidden text is decoded and run.", "Put the commands there as they are.",
		func(c *tokens, i int) (span, bool) {
			s := span{i, c.line(i).to}
			if decodedShell.MatchString(c.text(s)) {
				return s, true
			}
			return none()
		}),
}

// sqlStatement holds where a statement begins with the word.
func sqlStatement(when func(text string) bool) match {
	return func(c *tokens, i int) (span, bool) {
		if i > 0 && !c.oneOf(i-1, ";", "BEGIN", "begin", "THEN", "then", "AS", "as") {
			return none()
		}
		to := i + 1
		for to < len(c.all) && to-i < maxOperand && !c.is(to, ";") {
			to++
		}
		s := span{i, to}
		if !when(strings.ToLower(c.text(s))) {
			return none()
		}
		return s, true
	}
}

var sqlRules = []tokenRule{
	rule("sql/no-where", high, bugs, "sql", "DELETE delete Delete UPDATE update Update", "Without WHERE this changes every row.", "Add a WHERE, or use TRUNCATE where all is meant.",
		sqlStatement(func(t string) bool {
			return (deleteFrom.MatchString(t) || updateSet.MatchString(t)) && !strings.Contains(t, "where")
		})),
	rule("sql/grant-all", medium, sec, "sql", "GRANT grant Grant", "All rights are more than an application needs.", "Grant the rights that are used.",
		sqlStatement(func(t string) bool { return grantAll.MatchString(t) })),
	rule("sql/select-star", info, perf|rev, "sql", "SELECT select Select", "All columns are read, those added later too.", "Name the columns.",
		func(c *tokens, i int) (span, bool) {
			if c.is(i+1, "*") {
				return span{i, i + 2}, true
			}
			return none()
		}),
	rule("sql/dynamic", high, sec, "sql", "EXEC exec EXECUTE execute", "Text put together at run time is executed as SQL.", "Use sp_executesql or USING with parameters.",
		sqlStatement(func(t string) bool {
			return dynamicSQL.MatchString(t)
		})),
	rule("sql/leading-wildcard", low, perf, "sql", anyString, "A pattern that begins with a wildcard can't use an index.", "Use a full-text or trigram index.",
		func(c *tokens, i int) (span, bool) {
			if c.oneOf(i-1, "LIKE", "like", "Like", "ILIKE", "ilike") && strings.HasPrefix(content(c.at(i).text), "%") {
				return span{i - 1, i + 1}, true
			}
			return none()
		}),
	rule("sql/null-compare", medium, bugs, "sql", "NULL null", "Nothing is equal to NULL; the comparison is never true.", "Use IS NULL or IS NOT NULL.",
		func(c *tokens, i int) (span, bool) {
			if c.oneOf(i-1, "!=", "<>") || c.is(i-2, "<", ">") || c.is(i-1, "=") && c.afterWhere(i) {
				return span{i - 1, i + 1}, true
			}
			return none()
		}),
}

// afterWhere reports whether token i is in a condition rather than in a SET.
func (c *tokens) afterWhere(i int) bool {
	for j := i - 1; j >= 0 && j > i-60 && !c.is(j, ";"); j-- {
		if c.oneOf(j, "WHERE", "where", "Where", "ON", "on", "HAVING", "having") {
			return true
		}
		if c.oneOf(j, "SET", "set", "Set") {
			return false
		}
	}
	return false
}
