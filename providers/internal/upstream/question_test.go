package upstream

import (
	"slices"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

func TestAPrefillsLastWhiteSpaceIsCut(t *testing.T) {
	for partial, want := range map[string]string{
		"": "", "so": "so", "so \n\t": "so", " \n": "", "é\u00a0\u3000\u2028": "é", "a\x1c\x1f": "a", "  a": "  a", "a\u200b": "a\u200b",
	} {
		text, space := CutSpace(partial)
		if text != want || text+space != partial {
			t.Errorf("%q was cut into %q and %q", partial, text, space)
		}
		if Continues(&providers.Request{Partial: partial}) != (want != "") {
			t.Errorf("whether %q is a beginning is said wrongly", partial)
		}
	}
}

// pieces is a Decoder that gives each event's data as chunks of text, reasoning
// between them.
type pieces struct{ marks }

func (pieces) Decode(ev Event, out []providers.Chunk) ([]providers.Chunk, Mark, *protocol.Error) {
	return append(out, providers.Chunk{Type: providers.ChunkReasoning, Text: "\n"},
		providers.Chunk{Type: providers.ChunkText, Text: string(ev.Data)}), More, nil
}

func TestCutWhiteSpaceIsThereOnce(t *testing.T) {
	for _, tc := range []struct {
		space string
		in    []string
		want  []string // each event's text
	}{
		{"", []string{"\n", "a"}, []string{"\n", "a"}},
		{"\n\n", []string{"\n\nNext"}, []string{"Next"}},
		{"\n\n", []string{"\n", "\n", "Next"}, []string{"", "", "Next"}},
		{"\n", []string{"\n\nNext"}, []string{"\nNext"}},
		{"  ", []string{"    return", "  "}, []string{"  return", "  "}}, // the indent is four, as the model has it
		{"\n\n", []string{"\n", "- a", "\n"}, []string{"", "- a", "\n"}},
		{" ", []string{"Next", " "}, []string{"Next", " "}},
		{"\u3000 ", []string{"\u3000", "\u3000x"}, []string{"", "\u3000x"}},
		{"\u2028", []string{"\u2029x"}, []string{"\u2029x"}}, // begins with the same bytes
		{"\n", []string{"\n", "\n", "x"}, []string{"", "\n", "x"}},
	} {
		d := Resumed(pieces{}, tc.space)
		var got []string
		for _, in := range tc.in {
			out, _, _ := d.Decode(Event{Data: []byte(in)}, []providers.Chunk{{Type: providers.ChunkText, Text: "before"}})
			if out[0].Text != "before" || out[1].Type != providers.ChunkReasoning || out[1].Text != "\n" {
				t.Fatalf("behind %q, what is no text of the answer became %+v", tc.space, out)
			}
			text := ""
			for _, c := range out[2:] {
				if c.Text == "" {
					t.Errorf("behind %q there is an empty chunk", tc.space)
				}
				text += c.Text
			}
			got = append(got, text)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("behind %q, %q became %q, want %q", tc.space, tc.in, got, tc.want)
		}
	}
}
