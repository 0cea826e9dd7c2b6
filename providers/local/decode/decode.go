// Package decode shows what encoded literals hold: escapes, base64,
// hexadecimal, percent signs and lists of character codes, several layers deep
// where one hides in another. It runs nothing: what only the code itself can
// compute stays hidden, and the report says so.
package decode

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of one text.
const (
	MaxFound   = 200
	maxLayers  = 5
	maxLiteral = 256 << 10
)

// A Found is one literal, or list of codes, and what it holds.
type Found struct {
	Start, End int // offsets
	// Layers names the encodings from the outside to the inside.
	Layers []string
	Text   string
}

var (
	literal   = regexp.MustCompile(`"((?:[^"\\\r\n]|\\.)*)"|'((?:[^'\\\r\n]|\\.)*)'|` + "`((?:[^`\\\\]|\\\\.)*)`")
	codeList  = regexp.MustCompile(`(?:fromCharCode|fromCodePoint)\s*\(\s*((?:0[xX][0-9a-fA-F]+|\d+)(?:\s*,\s*(?:0[xX][0-9a-fA-F]+|\d+))*)\s*\)|\[\s*((?:0[xX][0-9a-fA-F]{2}|\d{2,3})(?:\s*,\s*(?:0[xX][0-9a-fA-F]{1,2}|\d{1,3})){5,})\s*\]`)
	escape    = regexp.MustCompile(`\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|([0-7]{3}))`)
	percent   = regexp.MustCompile(`(?:%[0-9a-fA-F]{2}){3,}`)
	hexText   = regexp.MustCompile(`^(?:0[xX])?(?:[0-9a-fA-F]{2}){6,}$`)
	base64Txt = regexp.MustCompile(`^[A-Za-z0-9+/_-]{8,}={0,2}$`)
)

// All calls yield for each literal in code that could be decoded, in order
// within literals and then within lists of codes.
func All(ctx context.Context, code string, yield func(Found) bool) {
	found := 0
	scan := func(re *regexp.Regexp, f func(s string) ([]string, string)) bool {
		for at := 0; at < len(code) && found < MaxFound; {
			if ctx.Err() != nil {
				return false
			}
			// A window bounds how long one search can go on.
			window := code[at:min(at+maxLiteral, len(code))]
			m := re.FindStringSubmatchIndex(window)
			if m == nil {
				at += max(len(window)-256, 256)
				continue
			}
			var inner string
			for g := 2; g < len(m); g += 2 {
				if m[g] >= 0 {
					inner = window[m[g]:m[g+1]]
				}
			}
			if layers, text := f(inner); len(layers) > 0 {
				found++
				if !yield(Found{at + m[0], at + m[1], layers, text}) {
					return false
				}
			}
			at += max(m[1], 1)
		}
		return true
	}
	if scan(literal, String) {
		scan(codeList, func(s string) ([]string, string) {
			text := codes(s)
			if !readable(text) {
				return nil, ""
			}
			layers, inner := String(text)
			if len(layers) == 0 {
				inner = text
			}
			return append([]string{"character codes"}, layers...), inner
		})
	}
}

// String decodes the content of a literal, layer by layer. It returns no
// layers where there is nothing to decode.
func String(s string) (layers []string, text string) {
	text = s
	for range maxLayers {
		name, next := layer(text)
		if name == "" {
			break
		}
		layers, text = append(layers, name), next
	}
	return layers, text
}

func layer(s string) (name, text string) {
	if escape.MatchString(s) {
		if t := unescape(s); t != s && readable(t) {
			return "escapes", t
		}
	}
	if percent.MatchString(s) {
		if t, err := url.PathUnescape(s); err == nil && t != s && readable(t) {
			return "percent", t
		}
	}
	if hexText.MatchString(s) {
		if b, err := hex.DecodeString(strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")); err == nil && readable(string(b)) {
			return "hexadecimal", string(b)
		}
	}
	if base64Txt.MatchString(s) {
		t := strings.TrimRight(s, "=")
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			if b, err := enc.DecodeString(t); err == nil && len(b) >= 5 && readable(string(b)) && (len(b) >= 12 || strings.HasSuffix(s, "=")) {
				return "base64", string(b)
			}
		}
	}
	return "", ""
}

// unescape replaces the escapes of JavaScript and its relatives. Two escapes
// for the halves of a character outside the basic plane become that one.
func unescape(s string) string {
	var b strings.Builder
	var half rune
	last := 0
	for _, m := range escape.FindAllStringSubmatchIndex(s, -1) {
		digits, base := "", 16
		for g := 2; g < len(m); g += 2 {
			if m[g] >= 0 {
				digits = s[m[g]:m[g+1]]
				if g == 8 {
					base = 8
				}
			}
		}
		n, err := strconv.ParseInt(digits, base, 32)
		if err != nil || n > unicode.MaxRune {
			continue
		}
		if m[0] != last {
			half = 0
		}
		b.WriteString(s[last:m[0]])
		last = m[1]
		r := rune(n)
		switch {
		case r >= 0xd800 && r < 0xdc00:
			half = r
		case half != 0 && r >= 0xdc00 && r < 0xe000:
			b.WriteRune((half-0xd800)<<10 | (r - 0xdc00) + 0x10000)
			half = 0
		default:
			b.WriteRune(r)
		}
	}
	b.WriteString(s[last:])
	return b.String()
}

func codes(s string) string {
	var b strings.Builder
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(field), 0, 32)
		if err != nil || n > unicode.MaxRune {
			return ""
		}
		b.WriteRune(rune(n))
	}
	return b.String()
}

// readable reports whether s is text: UTF-8, and hardly any control signs.
func readable(s string) bool {
	if s == "" || !utf8.ValidString(s) {
		return false
	}
	odd, n := 0, 0
	for _, r := range s {
		n++
		if r == utf8.RuneError || !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' {
			odd++
		}
	}
	return odd*20 <= n
}
