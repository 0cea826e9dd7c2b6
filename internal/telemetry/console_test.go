package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/athena-hub/athena/internal/telemetry"
)

// CWE-117, CWE-150: what comes from outside may stand in any part of a line.
func TestNothingFromOutsideReachesATerminalAsAControlSequence(t *testing.T) {
	const evil = "a\x1b[2J\n{\"level\":\"error\"}\r\u009b31m\u2028\x7f\x00\u202e"
	for _, format := range []string{telemetry.FormatConsole, telemetry.FormatJSON} {
		var b bytes.Buffer
		log, err := telemetry.NewLogger(&b, "debug", format)
		if err != nil {
			t.Fatal(err)
		}
		log.Info().Str("user_agent", evil).Strs("list", []string{evil}).Bytes("stack", []byte(evil)).Interface("any", map[string]string{evil: evil}).
			Err(errors.New(evil)).Str(evil, "x").Msg("said " + evil)
		line := strings.TrimSuffix(b.String(), "\n")
		for _, r := range line {
			if r < ' ' || r >= 0x7f && r <= 0x9f || r == '\u2028' || r == '\u202e' {
				t.Errorf("%s: %q is in %q", format, r, line)
				break
			}
		}
		if !strings.Contains(line, "said a") {
			t.Errorf("%s: %q", format, line)
		}
	}
}

func FuzzALineOfTheLogShowsNoControls(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31m", "a\\u001b", "\\", "\"", "\u009b", "\xff\xfe", "\U000e0001", "\u2066"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, format := range []string{telemetry.FormatConsole, telemetry.FormatJSON} {
			var b bytes.Buffer
			log, err := telemetry.NewLogger(&b, "debug", format)
			if err != nil {
				t.Fatal(err)
			}
			log.Info().Str("field", s).Msg(s)
			line := strings.TrimSuffix(b.String(), "\n")
			if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%s: %q at %d", format, line, i)
			}
			if format == telemetry.FormatJSON {
				var e map[string]string
				if err := json.Unmarshal(b.Bytes(), &e); err != nil || e["message"] != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) {
					t.Errorf("%q became %q, %v", s, e["message"], err)
				}
			}
		}
	})
}
