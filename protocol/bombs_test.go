package protocol_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
)

// bombBytes is about the most that a client may send , less (gateway.MaxRequestBytes): costs that grow faster than the text show here, too.
const bombBytes = 256 << 10

// bombs are texts that cost some parsers far more than their length.
func bombs() map[string]string {
	fill := func(s string) string { return strings.Repeat(s, bombBytes/len(s)) }
	return map[string]string{
		"deep arrays":             fill("["),
		"deep arrays, closed":     strings.Repeat("[", bombBytes/2) + strings.Repeat("]", bombBytes/2),
		"deep objects":            fill(`{"code":`),
		"deep unknown fields":     `{"x":` + fill("["),
		"deep in a known field":   `{"code":"x","options":` + fill(`{"temperature":`),
		"deep in a request":       `{"type":"analyze","id":"1","request":` + fill("["),
		"a number":                `{"code":` + fill("9") + `}`,
		"an exponent":             `{"code":"x","options":{"max_tokens":1e` + fill("9") + `}}`,
		"a fraction":              `{"type":"subscribe","id":"1","stream":"x","after":0.` + fill("0") + `1}`,
		"a field again and again": `{` + fill(`"code":"x",`) + `"code":"y"}`,
		"many unknown fields":     `{` + fill(`"a":1,`) + `"code":"y"}`,
		"a long name":             `{"` + fill("a") + `":1}`,
		"a name of escapes":       `{"` + fill(`\u0061`) + `":1}`,
		"broken escapes":          `{"code":"` + fill(`\ud800`) + `","x":1}`,
		"a long type":             `{"type":"` + fill("a") + `","id":"1"}`,
		"a long id":               `{"type":"ping","id":"` + fill("a") + `"}`,
		"a long stream":           `{"type":"cancel","id":"1","stream":"` + fill("a") + `"}`,
		"spaces":                  fill(" "),
		"no UTF-8":                `{"code":"` + fill("\xff") + `"}`,
		"commas":                  `{"code":"x"` + fill(",") + `}`,
		"many values":             fill("{}"),
	}
}

func TestTextsThatAreMadeToCostMuchAreRefusedAtLittleCost(t *testing.T) {
	for name, text := range bombs() {
		for parser, parse := range map[string]func([]byte) error{
			"ParseRequest": func(b []byte) error { _, err := protocol.ParseRequest(b); return err },
			"ParseCommand": func(b []byte) error { _, _, err := protocol.ParseCommand(b); return err },
			"ParseCursors": func(b []byte) error { _, err := protocol.ParseCursors(string(b)); return err },
			"ParseSeq":     func(b []byte) error { _, err := protocol.ParseSeq(string(b)); return err },
		} {
			input := []byte(text)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := parse(input)
			runtime.ReadMemStats(&after)
			e, ok := errors.AsType[*protocol.Error](err)
			if !ok || len(e.Detail) > 1000 {
				t.Errorf("%s takes %s: %.200v", parser, name, err)
			}
			// Buffers that double add up to a dozen times the text.
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 12*uint64(len(input))+64<<10 {
				t.Errorf("%s spends %d bytes on %d bytes of %s", parser, spent, len(input), name)
			}
		}
	}
}
