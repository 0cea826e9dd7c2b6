package tokencheck

import (
	"regexp"
	"slices"
)

var trustAll = regexp.MustCompile(`^NoopHostnameVerifier$`)

var javaRules = []tokenRule{
	sqlRule("java", "java kotlin scala"),
	rule("java/command-injection", high, sec, "java kotlin scala", "exec", shellMessage, "Use ProcessBuilder with a list of arguments and no shell.",
		call(func(c *tokens, i int, args []span) bool {
			return c.member(i) && (c.is(i-4, "getRuntime", "(", ")") || c.oneOf(i-2, "runtime", "rt")) && firstDynamic(c, i, args)
		})),
	rule("java/deserialization", high, sec, "java kotlin scala", "readObject readUnshared", "Reading objects from a stream makes any class that the data names.",
		"Use a data format such as JSON, or set an ObjectInputFilter.", func(c *tokens, i int) (span, bool) {
			if c.member(i) && c.is(i+1, "(", ")") {
				return span{i, i + 3}, true
			}
			return none()
		}),
	rule("java/weak-hash", medium, sec, "java kotlin scala", "getInstance", hashMessage, hashSuggestion, call(on(firstString(weakHashName), "MessageDigest"))),
	rule("java/weak-cipher", high, sec, "java kotlin scala", "getInstance", cipherMessage, cipherSuggestion, call(on(firstString(weakCipherName), "Cipher", "KeyGenerator"))),
	rule("java/weak-random", high, sec, "java kotlin scala", "Random", randMessage, "Use java.security.SecureRandom.",
		func(c *tokens, i int) (span, bool) {
			if c.language == "java" && !c.is(i-1, "new") || !c.is(i+1, "(") {
				return none()
			}
			return nearSecret(c, i)
		}),
	rule("java/string-identity", medium, bugs, "java", anyString, "== compares whether strings are the same object, not whether they are equal.",
		"Use equals.", func(c *tokens, i int) (span, bool) {
			if content(c.at(i).text) == c.at(i).text || c.at(i).text[0] == '\'' {
				return none()
			}
			if c.oneOf(i-1, "==", "!=") && !c.is(i-2, "null") {
				return span{i - 1, i + 1}, true
			}
			if c.oneOf(i+1, "==", "!=") && !c.is(i+2, "null") {
				return span{i, i + 2}, true
			}
			return none()
		}),
	rule("java/tls-verify-off", high, sec, "java kotlin scala", "checkServerTrusted NoopHostnameVerifier ALLOW_ALL_HOSTNAME_VERIFIER", tlsMessage, tlsSuggestion,
		func(c *tokens, i int) (span, bool) {
			if trustAll.MatchString(c.at(i).text) || c.at(i).text == "ALLOW_ALL_HOSTNAME_VERIFIER" {
				if c.oneOf(i-1, ".", "import") && !c.is(i-1, "import") && !c.oneOf(i-2, "ssl", "conn") || c.is(i-1, "new") {
					return one(i)
				}
				return none()
			}
			_, end, ok := c.args(i + 1)
			if !ok {
				return none()
			}
			for j := end + 1; j < end+6; j++ {
				if c.is(j, "{", "}") {
					return span{i, j + 2}, true
				}
			}
			return none()
		}),
	rule("java/print-stack-trace", low, rev|bugs, "java kotlin scala", "printStackTrace", "The error goes to a console that nobody may read, and the program goes on.",
		"Log it, or pass it on.", func(c *tokens, i int) (span, bool) {
			if c.member(i) && c.is(i+1, "(", ")") {
				return span{i, i + 3}, true
			}
			return none()
		}),
	rule("java/xxe", medium, sec, "java kotlin scala", "newInstance", "An XML parser made with its defaults reads files and addresses that the document names.",
		"Turn on disallow-doctype-decl or FEATURE_SECURE_PROCESSING.", call(on(func(c *tokens, i int, args []span) bool {
			return !c.has(span{i, i + 80}, "setFeature", "setProperty", "setAttribute", "setExpandEntityReferences")
		}, "DocumentBuilderFactory", "SAXParserFactory", "XMLInputFactory"))),
}

var csharpRules = []tokenRule{
	sqlRule("cs", "csharp"),
	rule("cs/command-injection", high, sec, "csharp", "Start", shellMessage, "Use ProcessStartInfo with ArgumentList, and no shell.",
		call(on(func(c *tokens, i int, args []span) bool {
			return slices.ContainsFunc(args, c.built)
		}, "Process"))),
	rule("cs/deserialization", high, sec, "csharp", "BinaryFormatter LosFormatter NetDataContractSerializer SoapFormatter",
		"This formatter makes any type that the data names.", "Use System.Text.Json.", func(c *tokens, i int) (span, bool) {
			if c.is(i-1, "new") {
				return one(i)
			}
			return none()
		}),
	rule("cs/weak-hash", medium, sec, "csharp", "MD5 SHA1 MD5CryptoServiceProvider SHA1Managed", hashMessage, hashSuggestion,
		func(c *tokens, i int) (span, bool) {
			if c.is(i-1, "new") || c.is(i+1, ".") && c.oneOf(i+2, "Create", "HashData") {
				return one(i)
			}
			return none()
		}),
	rule("cs/weak-cipher", high, sec, "csharp", "DES TripleDES RC2 DESCryptoServiceProvider ECB", cipherMessage, cipherSuggestion,
		func(c *tokens, i int) (span, bool) {
			if c.is(i-1, "new") || c.is(i+1, ".", "Create") || c.is(i-2, "CipherMode", ".") {
				return one(i)
			}
			return none()
		}),
	rule("cs/tls-verify-off", high, sec, "csharp", "ServerCertificateValidationCallback ServerCertificateCustomValidationCallback", tlsMessage, tlsSuggestion,
		func(c *tokens, i int) (span, bool) {
			for j := i + 1; j < i+24 && !c.is(j, ";"); j++ {
				if c.is(j, "=>", "true") || c.is(j, "return", "true") || c.is(j, "DangerousAcceptAnyServerCertificateValidator") {
					return span{i, j + 1}, true
				}
			}
			return none()
		}),
	rule("cs/weak-random", high, sec, "csharp", "Random", randMessage, "Use RandomNumberGenerator.", func(c *tokens, i int) (span, bool) {
		if !c.is(i-1, "new") && !c.is(i+1, ".", "Shared") {
			return none()
		}
		return nearSecret(c, i)
	}),
	rule("cs/raw-html", medium, sec, "csharp", "Raw", "A value is put into the page unescaped.", "Let Razor escape it.", call(on(firstDynamic, "Html"))),
	rule("cs/async-void", medium, bugs, "csharp", "async", "An exception in an async void method ends the process, and nobody can await it.",
		"Return Task.", func(c *tokens, i int) (span, bool) {
			if c.is(i+1, "void") && !c.has(span{i, i + 10}, "EventArgs") {
				return span{i, i + 2}, true
			}
			return none()
		}),
	rule("cs/blocking-wait", low, perf|bugs, "csharp", "Wait GetResult", "Waiting for a task on the thread that it needs can stop both.",
		"Use await.", func(c *tokens, i int) (span, bool) {
			if c.at(i).text == "GetResult" && c.is(i-4, "GetAwaiter", "(", ")", ".") || c.at(i).text == "Wait" && c.is(i-1, ".") && c.is(i+1, "(", ")") && c.is(i-2, ")") {
				return span{i, i + 2}, true
			}
			return none()
		}),
}
