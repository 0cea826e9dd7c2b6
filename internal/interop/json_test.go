package interop_test

import "encoding/json"

// unquote returns the text of a JSON string, and "" for anything else.
func unquote(raw string) (s string) {
	if json.Unmarshal([]byte(raw), &s) != nil {
		return ""
	}
	return s
}
