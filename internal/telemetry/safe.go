package telemetry

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// A safeWriter takes zerolog's lines of JSON, and escapes what could act on a
// terminal or hide a part of a line (CWE-150): JSON itself lets DEL, the
// controls U+0080 to U+009F, of which U+009B is ESC [ to some terminals, and the
// marks that turn the direction of text pass. Where the line is decoded before
// it is shown, as for the console, what JSON escapes is escaped once more, so
// that it is shown as its escape and not as itself.
type safeWriter struct {
	w       io.Writer
	decoded bool
}

func (s safeWriter) Write(line []byte) (int, error) {
	if out, changed := s.escape(line); changed {
		if _, err := s.w.Write(out); err != nil {
			return 0, err
		}
		return len(line), nil
	}
	return s.w.Write(line)
}

func (s safeWriter) escape(line []byte) (out []byte, changed bool) {
	plain := !s.decoded || bytes.IndexByte(line, '\\') < 0
	if plain && bytes.IndexFunc(line, dangerous) < 0 {
		return line, false
	}
	var b strings.Builder
	for i := 0; i < len(line); {
		if line[i] == '\\' && i+1 < len(line) {
			n := 2
			if line[i+1] == 'u' {
				n = 6
			}
			n = min(n, len(line)-i)
			if s.decoded && strings.IndexByte(`"\/`, line[i+1]) < 0 {
				b.WriteByte('\\')
			}
			b.Write(line[i : i+n])
			i += n
			continue
		}
		r, n := utf8.DecodeRune(line[i:])
		if dangerous(r) {
			if s.decoded {
				b.WriteByte('\\')
			}
			if hi, lo := utf16.EncodeRune(r); hi != unicode.ReplacementChar {
				fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		} else {
			b.Write(line[i : i+n])
		}
		i += n
	}
	return []byte(b.String()), true
}

// dangerous are runes that aren't to be seen, but for the line's end.
func dangerous(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
