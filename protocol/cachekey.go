package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// CacheKey returns what equal requests have in common: 64 hexadecimal digits, the
// SHA-256 of r's canonical form, which README.md describes under "Cache keys". r
// should be valid; a default says the same as leaving it out. Whose request it is,
// is not in it: whoever keeps answers adds that.
func CacheKey(r *Request) string {
	sum := sha256.Sum256(canonical(r))
	return hex.EncodeToString(sum[:])
}

// canonical writes the fields that make a request what it is, in a fixed order:
// each as its name, its length in bytes, and its value, so that no two requests
// have one form.
func canonical(r *Request) []byte {
	b := []byte("athena.v1\n")
	field := func(name, value, byDefault string) {
		if value == byDefault || value == "" {
			return
		}
		b = append(append(b, name...), ' ')
		b = append(strconv.AppendInt(b, int64(len(value)), 10), ' ')
		b = append(append(b, value...), '\n')
	}
	truth := func(name string, v *bool) {
		if v != nil {
			field(name, strconv.FormatBool(*v), "")
		}
	}
	field("code", r.Code, "")
	field("language", r.Language, "")
	field("filename", r.Filename, "")
	field("analysis", string(r.Analysis), string(AnalysisReview))
	field("prompt", r.Prompt, "")
	field("provider", r.Provider, ProviderAuto)
	field("model", r.Model, "")
	o := &r.Options
	if o.Temperature != nil {
		// As ECMAScript writes numbers, which encoding/json does too. Without the
		// sign of a negative zero.
		number, err := json.Marshal(*o.Temperature + 0)
		if err != nil {
			number = []byte("NaN") // no valid request has it
		}
		field("options.temperature", string(number), "")
	}
	field("options.max_tokens", strconv.Itoa(o.MaxTokens), "0")
	field("options.reasoning", o.Reasoning, "")
	truth("options.hedge", o.Hedge)
	truth("options.degrade", o.Degrade)
	return b
}
