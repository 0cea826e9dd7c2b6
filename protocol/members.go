package protocol

import (
	"iter"
	"strings"

	"github.com/tidwall/gjson"
)

// A member is one field of a JSON object, and where its value begins.
type member struct {
	name  string
	value string
	at    int
}

// members yields the fields of the object that s holds, which must be valid
// JSON. It is gjson's ForEach without the work of decoding what nobody asks
// for: a chunk's text is forwarded as it stands, and taking its escapes out
// cost two allocations.
func members(s string) iter.Seq[member] {
	return func(yield func(member) bool) {
		i := strings.IndexByte(s, '{') + 1
		for {
			i = skip(s, i, ",")
			if s[i] == '}' {
				return
			}
			name := i
			i = stringEnd(s, i)
			m := member{name: stringOf(s[name:i])}
			i = skip(s, i, ":")
			m.at = i
			i = valueEnd(s, i)
			m.value = s[m.at:i]
			if !yield(m) {
				return
			}
		}
	}
}

// skip returns the first place from i on that is neither blank nor separator.
func skip(s string, i int, separator string) int {
	for s[i] <= ' ' || s[i] == separator[0] {
		i++
	}
	return i
}

// stringEnd returns the place behind the string that begins at i.
func stringEnd(s string, i int) int {
	for i++; s[i] != '"'; i++ {
		if s[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd returns the place behind the value that begins at i.
func valueEnd(s string, i int) int {
	switch s[i] {
	case '"':
		return stringEnd(s, i)
	case '{', '[':
		depth := 0
		for {
			switch s[i] {
			case '"':
				i = stringEnd(s, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			i++
			if depth == 0 {
				return i
			}
		}
	}
	for s[i] > ' ' && s[i] != ',' && s[i] != '}' {
		i++
	}
	return i
}

// isObject and isString report what the JSON value v is.
func isObject(v string) bool { return v != "" && v[0] == '{' }
func isString(v string) bool { return v != "" && v[0] == '"' }

// stringOf returns the string that v stands for, and "" for other values.
func stringOf(v string) string {
	switch {
	case !isString(v):
		return ""
	case strings.IndexByte(v, '\\') < 0:
		return v[1 : len(v)-1]
	}
	return gjson.Parse(v).Str
}
