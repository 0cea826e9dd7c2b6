package tokencheck

import (
	"regexp"
)

const cc = "c cpp"

var (
	unboundedString = regexp.MustCompile(`%s|%\[`)
	shellFlag       = regexp.MustCompile(`^(?:-c|/C)$`)
)

// assigned holds where a condition is an assignment: if (x = y).
func assigned(c *tokens, i int) (span, bool) {
	_, end, ok := c.args(i + 1)
	if !ok {
		return none()
	}
	depth := 0
	for j := i + 1; j < end; j++ {
		switch {
		case c.is(j, "("):
			depth++
		case c.is(j, ")"):
			depth--
		case c.oneOf(j, ";", "{", "lambda"):
			return none()
		case depth == 1 && c.is(j, "=") && j == i+3 && c.at(j-1).word:
			return span{i, end + 1}, true
		}
	}
	return none()
}

var cRules = []tokenRule{
	rule("c/gets", critical, sec|bugs, cc, "gets", "gets can't know how long its buffer is.", "Use fgets with the buffer's size.", call(plain(nil))),
	rule("c/unbounded-copy", high, sec|bugs, cc, "strcpy strcat stpcpy wcscpy wcscat lstrcpy", "The copy does not look at the size of its target.",
		"Use snprintf or strlcpy with the target's size.", call(plain(func(c *tokens, i int, args []span) bool {
			// A literal's length is known to who wrote it.
			return len(args) == 2 && c.dynamic(args[1])
		}))),
	rule("c/unbounded-format", high, sec|bugs, cc, "sprintf vsprintf", "The formatted text may be longer than its target.",
		"Use snprintf with the target's size.", call(plain(func(c *tokens, i int, args []span) bool {
			return c.at(i).text == "vsprintf" || len(args) > 1 && (c.hasString(args[1], unboundedString) || c.dynamic(args[1]))
		}))),
	rule("c/format-string", high, sec, cc, "printf fprintf syslog snprintf err warn", "A value is used as a format; %n and %s in it read and write memory.",
		`Pass "%s" as the format and the value after it.`, call(plain(func(c *tokens, i int, args []span) bool {
			at := map[string]int{"printf": 0, "fprintf": 1, "syslog": 1, "snprintf": 2, "err": 1, "warn": 0}[c.at(i).text]
			if len(args) != at+1 {
				return false
			}
			a := args[at]
			return c.dynamic(a) && c.at(a.from).word && !c.is(a.from+1, "(")
		}))),
	rule("c/system", high, sec, cc, "system popen", shellMessage, "Use execve with a list of arguments.", call(plain(firstDynamic))),
	rule("c/scanf-unbounded", high, sec|bugs, cc, "scanf fscanf sscanf", "%s without a width writes past its buffer.", "Give a width, such as %31s.",
		call(plain(func(c *tokens, i int, args []span) bool {
			for _, a := range args[:min(2, len(args))] {
				if c.hasString(a, unboundedString) {
					return true
				}
			}
			return false
		}))),
	rule("c/temp-name", medium, sec, cc, "mktemp tmpnam tempnam", "Between the name and the file another program can take the place.",
		"Use mkstemp.", call(plain(nil))),
	rule("c/weak-random", high, sec, cc, "rand random drand48", randMessage, "Use getrandom or arc4random.", func(c *tokens, i int) (span, bool) {
		if c.member(i) || !c.is(i+1, "(", ")") {
			return none()
		}
		return nearSecret(c, i)
	}),
	rule("c/assigned-condition", medium, bugs, "c cpp", "if while", "The condition assigns; was a comparison meant?",
		"Write ==, or put the assignment in brackets of its own.", assigned),
	rule("c/alloca", low, sec|bugs|perf, cc, "alloca", "alloca has no way to fail but to overrun the stack.", "Use a fixed buffer or the heap.", call(plain(firstDynamic))),
	rule("c/realloc-lost", medium, bugs, cc, "realloc", "When realloc fails, the only pointer to the old block is lost.",
		"Assign the result to another pointer first.", call(plain(func(c *tokens, i int, args []span) bool {
			return len(args) == 2 && c.is(i-1, "=") && c.at(i-2).word && args[0].to == args[0].from+1 && c.at(args[0].from).text == c.at(i-2).text && !c.member(i-2)
		}))),
	rule("c/weak-hash", medium, sec, cc, "MD5 SHA1 MD5_Init SHA1_Init EVP_md5 EVP_sha1", hashMessage, hashSuggestion, call(plain(nil))),
	rule("c/tls-verify-off", high, sec, cc, "CURLOPT_SSL_VERIFYPEER CURLOPT_SSL_VERIFYHOST SSL_VERIFY_NONE", tlsMessage, tlsSuggestion,
		func(c *tokens, i int) (span, bool) {
			if c.at(i).text == "SSL_VERIFY_NONE" {
				return one(i)
			}
			if t := c.at(i + 2); c.is(i+1, ",") && (t.text == "0" || t.text == "0L" || t.text == "false") {
				return span{i, i + 3}, true
			}
			return none()
		}),
}

var rustRules = []tokenRule{
	sqlRule("rust", "rust"),
	rule("rust/unsafe", low, sec|rev, "rust", "unsafe", "The compiler checks less in here.", "Keep it small, and say above it why it is sound.",
		func(c *tokens, i int) (span, bool) {
			if c.is(i+1, "{") {
				return one(i)
			}
			return none()
		}),
	rule("rust/transmute", medium, sec|bugs, "rust", "transmute", "transmute reads the bytes of one type as another without any check.",
		"Use a conversion, from_ne_bytes or bytemuck.", func(c *tokens, i int) (span, bool) {
			if c.oneOf(i+1, "(", "::") && !c.defined(i) {
				return one(i)
			}
			return none()
		}),
	rule("rust/unwrap", info, bugs|rev, "rust", "unwrap", "unwrap ends the thread where there is no value.", "Use ?, or expect with the reason why it holds.",
		func(c *tokens, i int) (span, bool) {
			if c.is(i-1, ".") && c.is(i+1, "(", ")") {
				return span{i, i + 3}, true
			}
			return none()
		}),
	rule("rust/tls-verify-off", high, sec, "rust", "danger_accept_invalid_certs danger_accept_invalid_hostnames", tlsMessage, tlsSuggestion, set("true")),
	rule("rust/command-injection", high, sec, "rust", "arg", shellMessage, "Call the program itself with arguments.", call(func(c *tokens, i int, args []span) bool {
		return c.member(i) && len(args) == 1 && c.has(args[0], "format") && c.hasString(span{i - 14, i}, shellFlag)
	})),
	rule("rust/weak-hash", medium, sec, "rust", "Md5 Sha1", hashMessage, hashSuggestion, func(c *tokens, i int) (span, bool) {
		if c.is(i+1, "::") && c.oneOf(i+2, "new", "digest") {
			return span{i, i + 3}, true
		}
		return none()
	}),
	rule("rust/forget", low, bugs|perf, "rust", "forget", "The value's destructor never runs.", "Use ManuallyDrop, or let it drop.", call(on(nil, "mem"))),
}
