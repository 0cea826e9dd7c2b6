package tokencheck

var pythonRules = []tokenRule{
	rule("py/eval", high, sec|deob, "python", "eval exec", evalMessage, "Use ast.literal_eval for literals, json for data.",
		call(plain(firstDynamic))),
	rule("py/pickle", high, sec, "python", "loads load", "Unpickling runs code that the data names.",
		"Use json, or sign the data and check the signature first.", call(on(nil, "pickle", "cPickle", "dill", "marshal", "shelve", "joblib"))),
	rule("py/yaml-load", high, sec, "python", "load load_all", "yaml.load makes any Python object that the document names.",
		"Use yaml.safe_load.", call(on(func(c *tokens, i int, args []span) bool {
			for _, a := range args {
				if c.has(a, "SafeLoader", "CSafeLoader", "BaseLoader") {
					return false
				}
			}
			return true
		}, "yaml"))),
	rule("py/shell-true", high, sec, "python", "run call Popen check_output check_call", shellMessage,
		"Pass a list of arguments, without shell=True.", call(func(c *tokens, i int, args []span) bool {
			for _, a := range args[min(1, len(args)):] {
				if c.is(a.from, "shell", "=", "True") {
					return c.dynamic(args[0])
				}
			}
			return false
		})),
	rule("py/os-system", high, sec, "python", "system popen", shellMessage, "Use subprocess.run with a list of arguments.",
		call(on(firstDynamic, "os"))),
	sqlRule("py", "python"),
	rule("py/weak-hash", medium, sec, "python", "md5 sha1", hashMessage, hashSuggestion, call(on(func(c *tokens, i int, args []span) bool {
		for _, a := range args {
			if c.is(a.from, "usedforsecurity", "=", "False") {
				return false
			}
		}
		return true
	}, "hashlib"))),
	rule("py/weak-cipher", high, sec, "python", "MODE_ECB DES ARC4 DES3", cipherMessage, cipherSuggestion, func(c *tokens, i int) (span, bool) {
		if c.at(i).text == "MODE_ECB" && c.member(i) || c.is(i+1, ".", "new") {
			return one(i)
		}
		return none()
	}),
	rule("py/tls-verify-off", high, sec, "python", "verify _create_unverified_context CERT_NONE check_hostname", tlsMessage, tlsSuggestion,
		func(c *tokens, i int) (span, bool) {
			switch c.at(i).text {
			case "verify", "check_hostname":
				return set("False")(c, i)
			}
			return dotted("ssl", ".")(c, i)
		}),
	rule("py/weak-random", high, sec, "python", "random randint choice choices randrange", randMessage, "Use the secrets module.",
		func(c *tokens, i int) (span, bool) {
			if !c.is(i-2, "random", ".") {
				return none()
			}
			return nearSecret(c, i)
		}),
	rule("py/mutable-default", medium, bugs, "python", "def", "A default that can be changed is shared by all calls.",
		"Use None, and make the value inside.", func(c *tokens, i int) (span, bool) {
			args, _, ok := c.args(i + 2)
			if !ok {
				return none()
			}
			for _, a := range args {
				for j := a.from; j < a.to; j++ {
					if c.is(j, "=", "[", "]") || c.is(j, "=", "{", "}") || c.is(j, "=", "set", "(", ")") || c.is(j, "=", "dict", "(", ")") || c.is(j, "=", "list", "(", ")") {
						return a, true
					}
				}
			}
			return none()
		}),
	rule("py/bare-except", low, bugs|rev, "python", "except", "A bare except also catches the interrupt and the exit.",
		"Name the exceptions, or write except Exception.", func(c *tokens, i int) (span, bool) {
			if c.is(i+1, ":") {
				return one(i)
			}
			return none()
		}),
	rule("py/silent-except", low, bugs|rev, "python", "except", "The exception is thrown away without a word.",
		"Handle it, or log it with its reason.", func(c *tokens, i int) (span, bool) {
			for j := i + 1; j < i+24; j++ {
				if c.is(j, ":", "pass") {
					return span{i, j + 2}, true
				}
				if c.at(j).first {
					break
				}
			}
			return none()
		}),
	rule("py/debug-on", high, sec, "python", "debug DEBUG", "Debug mode shows a console that runs code, and the source, to visitors.",
		"Turn it on by the environment, in development only.", func(c *tokens, i int) (span, bool) {
			if !c.is(i+1, "=", "True") || c.at(i).text == "debug" && !c.oneOf(i-1, "(", ",", ".") || c.at(i).text == "DEBUG" && !c.at(i).first {
				return none()
			}
			return span{i, i + 3}, true
		}),
	rule("py/temp-name", medium, sec|bugs, "python", "mktemp", "Between the name and the file another program can take the place.",
		"Use tempfile.mkstemp or NamedTemporaryFile.", call(on(nil, "tempfile"))),
	rule("py/is-literal", medium, bugs, "python", "is", "is compares identity; whether equal literals are identical is an accident.",
		"Use ==.", func(c *tokens, i int) (span, bool) {
			j := i + 1
			if c.is(j, "not") {
				j++
			}
			if t := c.at(j); t.kind == str || t.kind == number {
				return span{i, j + 1}, true
			}
			return none()
		}),
	rule("py/autoescape-off", high, sec, "python", "autoescape", "Templates without escaping let values insert scripts.",
		"Use autoescape=True or select_autoescape().", set("False")),
	rule("py/assert-tuple", medium, bugs, "python", "assert", "An assertion of a tuple is always true.",
		"Leave the brackets out.", func(c *tokens, i int) (span, bool) {
			args, end, ok := c.args(i + 1)
			if ok && len(args) > 1 && (end+1 >= len(c.all) || c.at(end+1).first) {
				return span{i, end + 1}, true
			}
			return none()
		}),
	rule("py/range-len", info, perf|rev, "python", "range", "The loop counts indexes only to look items up.",
		"Use enumerate, or iterate over the sequence itself.", func(c *tokens, i int) (span, bool) {
			if c.is(i-1, "in") && c.is(i+1, "(", "len", "(") {
				return span{i, i + 3}, true
			}
			return none()
		}),
}
