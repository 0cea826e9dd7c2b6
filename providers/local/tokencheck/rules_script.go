package tokencheck

import "regexp"

const js = "javascript typescript"

var childProcess = regexp.MustCompile(`^(?:node:)?child_process$`)

var scriptRules = []tokenRule{
	rule("js/eval", high, sec|deob, js, "eval Function execScript", evalMessage, "Use JSON.parse for data, or a table of functions.",
		func(c *tokens, i int) (span, bool) {
			if c.at(i).text == "Function" && !c.is(i-1, "new") {
				return none()
			}
			return call(func(c *tokens, i int, args []span) bool {
				return (!c.member(i) || c.oneOf(i-2, "window", "globalThis", "self")) && len(args) > 0 && c.dynamic(args[len(args)-1])
			})(c, i)
		}),
	rule("js/timer-string", medium, sec|bugs, js, "setTimeout setInterval", "A timer is given text, which it runs as code.",
		"Pass a function.", call(func(c *tokens, i int, args []span) bool {
			return len(args) > 0 && args[0].to > args[0].from && c.at(args[0].from).kind == str
		})),
	rule("js/inner-html", high, sec, js, "innerHTML outerHTML", "A value is inserted as HTML; a script in it runs.",
		"Use textContent, or sanitise the value first.", func(c *tokens, i int) (span, bool) {
			s := c.statement(i)
			if !c.member(i) || !c.oneOf(i+1, "=", "+=") || !c.dynamic(span{i + 2, s.to}) || c.has(span{i + 2, s.to}, "sanitize", "DOMPurify", "escapeHtml") {
				return none()
			}
			return span{i, min(s.to, i+3)}, true
		}),
	rule("js/insert-html", high, sec, js, "insertAdjacentHTML", "A value is inserted as HTML; a script in it runs.",
		"Use insertAdjacentText, or sanitise the value first.", call(func(c *tokens, i int, args []span) bool {
			return len(args) == 2 && c.dynamic(args[1]) && !c.has(args[1], "sanitize", "DOMPurify")
		})),
	rule("js/react-html", medium, sec, js, "dangerouslySetInnerHTML", "React's escaping is passed by.",
		"Render the value as text, or sanitise it first.", func(c *tokens, i int) (span, bool) {
			if !c.oneOf(i+1, "=", ":") || c.has(span{i, i + 16}, "sanitize", "DOMPurify") {
				return none()
			}
			return one(i)
		}),
	rule("js/document-write", medium, sec|perf, js, "write writeln", "document.write inserts HTML unescaped and blocks the page.",
		"Create elements instead.", call(on(firstDynamic, "document"))),
	rule("js/command-injection", high, sec, js, "exec execSync", shellMessage, "Use execFile or spawn with a list of arguments.",
		call(func(c *tokens, i int, args []span) bool {
			if len(args) == 0 || !c.built(args[0]) {
				return false
			}
			if !c.member(i) || c.oneOf(i-2, "child_process", "cp", "childProcess") {
				return true
			}
			return c.is(i-2, ")") && c.at(i-3).kind == str && childProcess.MatchString(content(c.at(i-3).text))
		})),
	sqlRule("js", js),
	rule("js/tls-verify-off", high, sec, js, `rejectUnauthorized NODE_TLS_REJECT_UNAUTHORIZED`, tlsMessage, tlsSuggestion,
		func(c *tokens, i int) (span, bool) {
			if s, ok := set("false")(c, i); ok {
				return s, true
			}
			for j := i + 1; j < i+4 && c.at(i).text != "rejectUnauthorized"; j++ {
				if c.is(j, "=") && c.at(j+1).text != "" && (c.at(j+1).text == "0" || content(c.at(j+1).text) == "0") {
					return span{i, j + 2}, true
				}
			}
			return none()
		}),
	rule("js/weak-random", high, sec, js, "random", randMessage, "Use crypto.getRandomValues or crypto.randomBytes.",
		func(c *tokens, i int) (span, bool) {
			if !c.is(i-2, "Math", ".") {
				return none()
			}
			return nearSecret(c, i)
		}),
	rule("js/weak-hash", medium, sec, js, "createHash createHmac", hashMessage, hashSuggestion, call(firstString(weakHashName))),
	rule("js/weak-cipher", high, sec, js, "createCipheriv createDecipheriv createCipher", cipherMessage, cipherSuggestion,
		call(func(c *tokens, i int, args []span) bool {
			return c.at(i).text == "createCipher" || firstString(weakCipherName)(c, i, args)
		})),
	rule("js/any-origin-message", medium, sec, js, "postMessage", "The message is sent to whatever page is loaded there.",
		"Name the origin that should receive it.", call(func(c *tokens, i int, args []span) bool {
			return len(args) >= 2 && args[1].to == args[1].from+1 && content(c.at(args[1].from).text) == "*"
		})),
	rule("js/debugger", low, bugs|rev, js, "debugger", "A debugger statement was left in; it stops the program when tools are open.",
		"Remove it.", func(c *tokens, i int) (span, bool) {
			if c.member(i) || c.is(i+1, ":") || c.is(i+1, "=") || !c.oneOf(i+1, ";", "}") && !c.at(i+1).first {
				return none()
			}
			return one(i)
		}),
	rule("js/loose-equality", info, bugs|rev, js, "== !=", "Loose equality converts its operands first: \"\" == 0 holds.",
		"Use === or !==.", func(c *tokens, i int) (span, bool) {
			if c.oneOf(i+1, "null", "undefined") || c.oneOf(i-1, "null", "undefined") || c.is(i-2, "typeof") {
				return none()
			}
			return one(i)
		}),
	rule("js/await-in-loop", low, perf, js, "await", "Each turn of the loop waits for the one before.",
		"Start them together and await Promise.all, if they don't depend on each other.", func(c *tokens, i int) (span, bool) {
			if c.is(i-1, "for") || !c.inLoop(i) {
				return none()
			}
			return one(i)
		}),
	rule("js/array-index-compare", medium, bugs, js, "indexOf", "indexOf returns 0 for the first place, and -1 for none; a plain test mixes them up.",
		"Use includes, or compare with -1.", func(c *tokens, i int) (span, bool) {
			_, end, ok := c.args(i + 1)
			from := i - 2
			if !ok || !c.member(i) || !c.is(end+1, ")") || !c.is(from-1, "(") || !c.oneOf(from-2, "if", "while") {
				return none()
			}
			return span{i, end + 1}, true
		}),
	rule("js/nan-compare", medium, bugs, js, "NaN", "Nothing equals NaN, not even NaN.", "Use Number.isNaN.",
		func(c *tokens, i int) (span, bool) {
			if c.oneOf(i-1, "==", "===", "!=", "!==") || c.oneOf(i+1, "==", "===", "!=", "!==") {
				return one(i)
			}
			return none()
		}),
}

// inLoop reports whether token i is in the body of a loop of its own function,
// as far as the tokens shortly before tell.
func (c *tokens) inLoop(i int) bool {
	depth := 0
	for j := i - 1; j >= 0 && j > i-lookahead; j-- {
		switch {
		case c.oneOf(j, "}"):
			depth++
		case c.oneOf(j, "{"):
			if depth > 0 {
				depth--
				continue
			}
			head := c.statementBefore(j)
			if c.oneOf(head, "for", "while") {
				return true
			}
			if c.is(j-1, "=>") || c.has(span{head, j}, "function", "async") {
				return false
			}
		}
	}
	return false
}

// statementBefore returns the first token of the statement that the '{' at j
// opens the body of; the ';' inside a for's brackets don't end it.
func (c *tokens) statementBefore(j int) int {
	depth := 0
	for k := j - 1; k >= 0 && k > j-80; k-- {
		switch {
		case c.oneOf(k, ")"):
			depth++
		case c.oneOf(k, "("):
			depth--
		case depth == 0 && c.oneOf(k, ";", "{", "}"):
			return k + 1
		}
		if k == 0 {
			return 0
		}
	}
	return j
}
