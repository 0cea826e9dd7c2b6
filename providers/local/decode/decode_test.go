package decode_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/athena-hub/athena/providers/local/decode"
)

func TestLiteralsAreDecodedLayerByLayer(t *testing.T) {
	for _, tt := range []struct{ in, layers, text string }{
		{`"\x61\x6c\x65\x72\x74"`, "escapes", "alert"},
		{`'\u{1F600}\u0041'`, "escapes", "😀A"},
		{`"\ud83d\ude00"`, "escapes", "😀"},
		{`"YWxlcnQoJ2hlbGxvJyk="`, "base64", "alert('hello')"},
		{`"616c657274282768692729"`, "hexadecimal", "alert('hi')"},
		{`"%61%6c%65%72%74"`, "percent", "alert"},
		{`"\x59\x57\x78\x6c\x63\x6e\x51\x6f\x4a\x32\x68\x6c\x62\x47\x78\x76\x4a\x79\x6b\x3d"`, "escapes, base64", "alert('hello')"},
		{`String.fromCharCode(97, 0x6c, 101)`, "character codes", "ale"},
		{`[97,108,101,114,116,40]`, "character codes", "alert("},
		{`"plain words"`, "", ""},
		{`"function"`, "", ""},
		{`"AAAAAAAAAAAAAAAAAAAA"`, "", ""},
	} {
		var layers, texts []string
		decode.All(t.Context(), "x = "+tt.in+";", func(f decode.Found) bool {
			if got := ("x = " + tt.in + ";")[f.Start:f.End]; !strings.Contains(tt.in, got) {
				t.Errorf("%s: covers %q", tt.in, got)
			}
			layers, texts = append(layers, strings.Join(f.Layers, ", ")), append(texts, f.Text)
			return true
		})
		want, wantText := []string{tt.layers}, []string{tt.text}
		if tt.layers == "" {
			want, wantText = nil, nil
		}
		if !slices.Equal(layers, want) || !slices.Equal(texts, wantText) {
			t.Errorf("%s: %q %q, want %q %q", tt.in, layers, texts, want, wantText)
		}
	}
}
