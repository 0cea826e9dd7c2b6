package local

import "strings"

// A resumption puts a report behind the beginning of an answer. Where that is
// the report's own, as after a cut, the report goes on behind it. Behind
// another's, such as a model's that broke off, the whole report follows as a
// paragraph of its own: rules can't finish a model's sentence.
type resumption struct {
	partial string // the rest of it is what the report hasn't said yet
	said    int    // how many of its bytes the report has said so far
	done    bool
}

// text returns what to say for the report's next piece.
func (r *resumption) text(piece string) string {
	rest := r.partial[r.said:]
	switch {
	case r.done:
		return piece
	case strings.HasPrefix(rest, piece):
		r.said += len(piece)
		return ""
	}
	r.done = true
	if more, ok := strings.CutPrefix(piece, rest); ok {
		return more
	}
	return paragraph(r.partial) + r.partial[:r.said] + piece
}

// paragraph returns what ends text's last paragraph, and a block of code that
// it is in.
func paragraph(text string) string {
	var end strings.Builder
	fence := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		mark := line[:len(line)-len(strings.TrimLeft(line, "`"))]
		switch {
		case fence == "" && len(mark) >= 3:
			fence = mark
		case fence != "" && line == mark && len(mark) >= len(fence):
			fence = ""
		}
	}
	if !strings.HasSuffix(text, "\n") {
		end.WriteString("\n")
	}
	if fence != "" {
		end.WriteString(fence + "\n")
	}
	if fence != "" || !strings.HasSuffix(text, "\n\n") {
		end.WriteString("\n")
	}
	return end.String()
}
