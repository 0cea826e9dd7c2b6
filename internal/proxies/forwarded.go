package proxies

import (
	"errors"
	"strings"
)

// An Element is what one proxy wrote into a Forwarded header, unquoted; ""
// for what it didn't write.
type Element struct {
	For, By, Host, Proto string
}

var errForwarded = errors.New("not a Forwarded header as RFC 7239 has it")

// ParseForwarded reads a Forwarded header (RFC 7239, section 4), whose lines
// are joined by commas. It is strict, since a proxy adds its element behind
// what its client sent: with a quote left open there, the proxy's own element
// would be part of the client's. Then nothing is to be believed.
func ParseForwarded(s string) ([]Element, error) {
	var elements []Element
	var e Element
	given := make(map[string]bool, 4)
	end := func() {
		if len(given) > 0 { // lists may have empty items (RFC 9110, section 5.6.1)
			elements = append(elements, e)
		}
		e = Element{}
		clear(given)
	}
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" {
			end()
			return elements, nil
		}
		switch s[0] {
		case ',':
			end()
			s = s[1:]
			continue
		case ';':
			s = s[1:]
			continue
		}
		name, rest := token(s)
		if name == "" || !strings.HasPrefix(rest, "=") {
			return nil, errForwarded
		}
		value, rest, ok := value(rest[1:])
		if !ok {
			return nil, errForwarded
		}
		rest = strings.TrimLeft(rest, " \t")
		if rest != "" && rest[0] != ',' && rest[0] != ';' {
			return nil, errForwarded
		}
		s = rest
		if name = strings.ToLower(name); given[name] {
			return nil, errForwarded
		}
		given[name] = true
		switch name {
		case "for":
			e.For = value
		case "by":
			e.By = value
		case "host":
			e.Host = value
		case "proto":
			e.Proto = value
		}
	}
}

// value reads a token or a quoted string (RFC 9110, section 5.6.4).
func value(s string) (v, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		v, rest = token(s)
		return v, rest, v != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s) && printable(s[i+1]):
			i++
			b.WriteByte(s[i])
		case c == '\\' || !printable(c):
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

func printable(c byte) bool { return c == '\t' || c >= ' ' && c != 0x7f }

// token cuts a token (RFC 9110, section 5.6.2) from the front of s. ":" and
// brackets, which must be quoted, are taken too, since proxies forget it.
func token(s string) (t, rest string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' ||
		strings.IndexByte("!#$%&'*+-.^_`|~:[]", s[i]) >= 0) {
		i++
	}
	return s[:i], s[i:]
}
