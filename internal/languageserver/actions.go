package languageserver

import (
	"fmt"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// hover says what is known of a place.
func (s *server) hover(p *documentParams) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.documents[p.TextDocument.URI]
	if d == nil {
		return nil, nil
	}
	at := lspRange{p.Position, p.Position}
	var parts []string
	var where lspRange
	text := lines(d.text)
	for i := range d.findings {
		f := &d.findings[i]
		if r := place(text, f.Range); d.foundIn == d.version && r.touches(at) {
			where = r
			parts = append(parts, about(f))
		}
	}
	for _, e := range d.explanations {
		if e.version == d.version && e.where.touches(at) {
			if len(parts) == 0 {
				where = e.where
			}
			parts = append(parts, e.text)
		}
	}
	if len(parts) == 0 {
		return nil, nil
	}
	return hover{markup{"markdown", strings.Join(parts, "\n\n---\n\n")}, where}, nil
}

// about is a finding in Markdown.
func about(f *protocol.Finding) string {
	s := fmt.Sprintf("**%s** `%s`\n\n%s", f.Severity, strings.ReplaceAll(f.Rule, "`", "'"), f.Message)
	if f.Suggestion != "" {
		s += "\n\n*Suggestion:* " + f.Suggestion
	}
	return s
}

// codeActions are what can be done about the findings of a place: put the code
// in that was suggested, note a suggestion in words as a comment, or have it
// explained.
func (s *server) codeActions(p *codeActionParams) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	actions := []codeAction{}
	d := s.documents[p.TextDocument.URI]
	if d == nil {
		return actions, nil
	}
	text := lines(d.text)
	for i := range d.findings {
		f := &d.findings[i]
		if d.foundIn != d.version || !place(text, f.Range).touches(p.Range) {
			continue
		}
		diag := diagnosticOf(text, f)
		if f.Replacement != nil {
			actions = append(actions, codeAction{Title: "Athena: put the suggested code here (" + f.Rule + ")", Kind: "quickfix",
				Diagnostics: []diagnostic{diag}, Preferred: true, Edit: s.edit(d, replacing(text, diag.Range, *f.Replacement))})
		}
		if words, ok := noted(d, text, f, diag.Range.Start.Line); ok {
			actions = append(actions, codeAction{Title: "Athena: note the suggestion as a comment (" + f.Rule + ")", Kind: "quickfix",
				Diagnostics: []diagnostic{diag}, Edit: s.edit(d, words)})
		}
		actions = append(actions, codeAction{Title: "Athena: explain this code (" + f.Rule + ")", Kind: "quickfix", Diagnostics: []diagnostic{diag},
			Command: &command{"Explain", commandExplain, []any{d.uri, diag.Range}}})
	}
	return actions, nil
}

// replacing puts code in place of the whole lines of a range. Without code they
// go, and what ends them.
func replacing(text []string, where lspRange, code string) textEdit {
	first, last := where.Start.Line, where.End.Line
	whole := lspRange{position{Line: first}, position{last, units(text[last])}}
	switch {
	case code != "":
	case last+1 < len(text):
		whole.End = position{Line: last + 1}
	case first > 0:
		whole.Start = position{first - 1, units(text[first-1])}
	}
	return textEdit{whole, code}
}

// noted puts a suggestion above a line, as a comment.
func noted(d *document, text []string, f *protocol.Finding, line int) (edit textEdit, ok bool) {
	if f.Suggestion == "" {
		return textEdit{}, false
	}
	indent := text[line][:len(text[line])-len(strings.TrimLeft(text[line], " \t"))]
	words, ok := comment(d.language, "TODO: "+f.Suggestion)
	at := position{Line: line}
	return textEdit{lspRange{at, at}, indent + words + "\n"}, ok
}

// edit is an edit of d's text as it is now.
func (s *server) edit(d *document, edit textEdit) *workspaceEdit {
	if !s.versioned {
		return &workspaceEdit{Changes: map[string][]textEdit{d.uri: {edit}}}
	}
	var e documentEdit
	e.TextDocument.URI, e.TextDocument.Version, e.Edits = d.uri, d.version, []textEdit{edit}
	return &workspaceEdit{DocumentChanges: []documentEdit{e}}
}
