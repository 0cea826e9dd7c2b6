package tokencheck

import (
	"regexp"
	"strings"
)

var (
	allowedClasses = regexp.MustCompile("^allowed_classes$")
	displayErrors  = regexp.MustCompile("^display_errors$")
	switchedOn     = regexp.MustCompile("(?i)^(1|on)$")
	blankTarget    = regexp.MustCompile("(?i)^_blank$")
)

// requestData are PHP's variables that a visitor fills.
var requestData = []string{"$_GET", "$_POST", "$_REQUEST", "$_COOKIE", "$_SERVER"}

var phpRules = []tokenRule{
	rule("php/eval", high, sec|deob, "php", "eval assert create_function", evalMessage, evalSuggestion, call(plain(func(c *tokens, i int, args []span) bool {
		return firstDynamic(c, i, args) && (c.at(i).text != "assert" || len(args) > 0 && args[0].to == args[0].from+1)
	}))),
	rule("php/command-injection", high, sec, "php", "system exec shell_exec passthru popen proc_open", shellMessage, "Use escapeshellarg on each value.",
		call(plain(func(c *tokens, i int, args []span) bool {
			return firstDynamic(c, i, args) && !c.has(args[0], "escapeshellarg", "escapeshellcmd")
		}))),
	sqlRule("php", "php"),
	rule("php/xss", high, sec, "php", "echo print", "What a visitor sent is printed unescaped; a script in it runs.", "Use htmlspecialchars.",
		func(c *tokens, i int) (span, bool) {
			s := c.statement(i)
			s.from = i
			if !c.has(s, requestData...) || c.has(s, "htmlspecialchars", "htmlentities", "intval", "strip_tags", "json_encode", "urlencode") {
				return none()
			}
			return s, true
		}),
	rule("php/include-variable", high, sec, "php", "include require include_once require_once", "Which file runs is decided by a value.",
		"Choose among known files.", func(c *tokens, i int) (span, bool) {
			s := c.statement(i)
			s.from = i
			for j := i + 1; j < s.to; j++ {
				if t := c.at(j); strings.HasPrefix(t.text, "$") && t.kind == code || t.interp {
					return s, true
				}
			}
			return none()
		}),
	rule("php/unserialize", high, sec, "php", "unserialize", "Unserialising makes objects that the data names, whose methods then run.", "Use json_decode.",
		call(plain(func(c *tokens, i int, args []span) bool {
			return firstDynamic(c, i, args) && (len(args) < 2 || !c.hasString(args[1], allowedClasses))
		}))),
	rule("php/weak-hash", medium, sec, "php", "md5 sha1", hashMessage, "Use password_hash for passwords and hash('sha256', …) for digests.", call(plain(firstDynamic))),
	rule("php/show-errors", low, sec, "php", "ini_set", "Errors are shown to visitors, with paths and queries in them.", "Log them instead.",
		call(func(c *tokens, i int, args []span) bool {
			return len(args) == 2 && c.hasString(args[0], displayErrors) &&
				(c.has(args[1], "true", "TRUE") || c.at(args[1].from).text == "1" || c.hasString(args[1], switchedOn))
		})),
	rule("php/tls-verify-off", high, sec, "php", "CURLOPT_SSL_VERIFYPEER CURLOPT_SSL_VERIFYHOST", tlsMessage, tlsSuggestion, func(c *tokens, i int) (span, bool) {
		if t := c.at(i + 2); c.oneOf(i+1, ",", "=>") && (strings.EqualFold(t.text, "false") || t.text == "0") {
			return span{i, i + 3}, true
		}
		return none()
	}),
	rule("php/extract", high, sec, "php", "extract", "A visitor can set any variable.", "Read the fields by name.", call(plain(func(c *tokens, i int, args []span) bool {
		return len(args) > 0 && c.has(args[0], requestData...)
	}))),
}

var rubyRules = []tokenRule{
	rule("ruby/eval", high, sec|deob, "ruby", "eval instance_eval class_eval", evalMessage, evalSuggestion, func(c *tokens, i int) (span, bool) {
		if s, ok := call(firstDynamic)(c, i); ok {
			return s, true
		}
		if t := c.at(i + 1); !c.defined(i) && !t.first && t.kind == code && t.word && t.text != "do" {
			return span{i, i + 2}, true
		}
		return none()
	}),
	rule("ruby/command-injection", high, sec, "ruby", "system exec spawn", shellMessage, "Pass the arguments one by one.", func(c *tokens, i int) (span, bool) {
		j := i + 1
		if c.is(j, "(") {
			j++
		}
		if t := c.at(j); !c.member(i) && t.kind == str && t.interp {
			return span{i, j + 1}, true
		}
		return none()
	}),
	sqlRule("ruby", "ruby"),
	rule("ruby/where-text", high, sec, "ruby", "where find_by_sql order having", "A condition is put together from text and a value.", sqlSuggestion,
		func(c *tokens, i int) (span, bool) {
			j := i + 1
			if c.is(j, "(") {
				j++
			}
			if t := c.at(j); c.member(i) && t.kind == str && t.interp {
				return span{i, j + 1}, true
			}
			return none()
		}),
	rule("ruby/yaml-load", high, sec, "ruby", "load", "YAML.load makes any object that the document names.", "Use YAML.safe_load.", call(on(firstDynamic, "YAML", "Psych"))),
	rule("ruby/marshal-load", high, sec, "ruby", "load restore", "Marshal makes any object that the data names.", "Use JSON.", call(on(firstDynamic, "Marshal"))),
	rule("ruby/tls-verify-off", high, sec, "ruby", "VERIFY_NONE", tlsMessage, tlsSuggestion, func(c *tokens, i int) (span, bool) {
		if c.member(i) {
			return one(i)
		}
		return none()
	}),
	rule("ruby/raw-html", medium, sec, "ruby", "html_safe raw", "A value is put into the page unescaped.", "Let the template escape it, or use sanitize.",
		func(c *tokens, i int) (span, bool) {
			if c.at(i).text == "html_safe" && c.is(i-1, ".") && (c.at(i-2).kind != str || c.at(i-2).interp) {
				return one(i)
			}
			if c.at(i).text == "raw" && !c.member(i) {
				return call(firstDynamic)(c, i)
			}
			return none()
		}),
	rule("ruby/weak-hash", medium, sec, "ruby", "MD5 SHA1", hashMessage, hashSuggestion, dotted("Digest", "::")),
	rule("ruby/rescue-all", low, bugs|rev, "ruby", "Exception", "Rescuing Exception also catches the interrupt and the exit.", "Rescue StandardError.", dotted("rescue")),
}

var (
	httpScript    = regexp.MustCompile(`(?i)^http://`)
	javascriptURL = regexp.MustCompile(`(?i)^\s*javascript:`)
)

// tag returns the tokens of the tag that token i is in.
func (c *tokens) tag(i int) span {
	from := i
	for from > 0 && i-from < 100 && !c.is(from, "<") {
		from--
	}
	to := i
	for to < len(c.all) && to-i < 100 && !c.is(to, ">") {
		to++
	}
	return span{from, to}
}

func attribute(owner string, re *regexp.Regexp) match {
	return func(c *tokens, i int) (span, bool) {
		if t := c.at(i + 2); !c.is(i+1, "=") || t.kind != str || !re.MatchString(content(t.text)) {
			return none()
		}
		if s := c.tag(i); owner != "" && !strings.EqualFold(c.at(s.from+1).text, owner) {
			return none()
		}
		return span{i, i + 3}, true
	}
}

var htmlRules = []tokenRule{
	rule("html/blank-target", low, sec, "html", "target", "The opened page can steer this one through window.opener, in older browsers.",
		`Add rel="noopener".`, func(c *tokens, i int) (span, bool) {
			s, ok := attribute("a", blankTarget)(c, i)
			if !ok || c.has(c.tag(i), "rel") {
				return none()
			}
			return s, true
		}),
	rule("html/http-script", high, sec, "html", "src", "A script is loaded without encryption; anyone on the way can replace it.", "Use https.", attribute("script", httpScript)),
	rule("html/javascript-url", medium, sec, "html", "href src action", "A script hides in an address.", "Use an event listener.", attribute("", javascriptURL)),
	rule("html/http-form", high, sec, "html", "action", "The form is sent without encryption.", "Use https.", attribute("form", httpScript)),
	rule("html/frame-unsandboxed", low, sec, "html", "iframe", "A framed page may open windows, download and navigate this one.", "Add sandbox.",
		func(c *tokens, i int) (span, bool) {
			if !c.is(i-1, "<") || c.has(c.tag(i), "sandbox") {
				return none()
			}
			return one(i)
		}),
}
