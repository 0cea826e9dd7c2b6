package local

import (
	"fmt"
	"slices"
	"strings"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/local/rules"
)

// Lengths of parts of the report, in bytes.
const (
	maxExcerpt = 200
	maxDecoded = 4 << 10
	maxOutline = 200 // entries
)

var languageTitles = map[string]string{"go": "Go", "javascript": "JavaScript", "typescript": "TypeScript", "python": "Python", "java": "Java", "c": "C",
	"cpp": "C++", "csharp": "C#", "php": "PHP", "ruby": "Ruby", "rust": "Rust", "shell": "shell", "sql": "SQL", "html": "HTML", "kotlin": "Kotlin",
	"swift": "Swift", "scala": "Scala", "perl": "Perl", "lua": "Lua"}

func (r *run) head() {
	what := "code in a language that was not recognised"
	if t, ok := languageTitles[r.language]; ok {
		what = t + " code"
	}
	task := "for " + string(r.request.Analysis)
	switch r.request.Analysis {
	case protocol.AnalysisExplain:
		task = "for an outline of its structure"
	case protocol.AnalysisDeobfuscate:
		task = "for hidden code"
	case protocol.AnalysisReview, protocol.AnalysisCustom:
		task = "with every rule"
	}
	r.say(fmt.Sprintf("Fixed rules, not a model, looked through this %s %s: they know patterns, not what the code is meant to do.\n\n", what, task))
	if r.request.Analysis == protocol.AnalysisCustom {
		r.say("Rules can't answer prompts, so the question was not read. Here is a review instead.\n\n")
	}
}

func (r *run) finding(f *protocol.Finding, h rules.Hit) {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s, line %d: `%s`\n\n%s\n\n", title(string(f.Severity)), f.Range.Start.Line, f.Rule, prose(f.Message))
	if e := r.excerpt(f.Range.Start.Line, h); e != "" {
		b.WriteString(fence(e) + "\n")
	}
	if f.Suggestion != "" {
		b.WriteString(f.Suggestion + "\n\n")
	}
	r.say(b.String())
}

// excerpt returns the line that a finding is on, near the finding if the line
// is long, with every secret in it covered.
func (r *run) excerpt(line int, h rules.Hit) string {
	start := r.text.LineStart(line)
	end := start + len(r.text.Line(line))
	from, to := start, end
	if to-from > maxExcerpt {
		from = max(start, min(h.Start-maxExcerpt/4, end-maxExcerpt))
		to = min(end, from+maxExcerpt)
	}
	var b strings.Builder
	code := r.text.Code()
	// The first secret that ends after from.
	i, _ := slices.BinarySearchFunc(r.hidden, from, func(p place, at int) int {
		if p.end <= at {
			return -1
		}
		return 1
	})
	at := from
	for ; i < len(r.hidden) && r.hidden[i].start < to; i++ {
		s := r.hidden[i]
		if s.start > at {
			b.WriteString(code[at:s.start])
		}
		if s.end > at {
			b.WriteString("••••••••")
			at = s.end
		}
	}
	if at < to {
		b.WriteString(code[at:to])
	}
	return strings.TrimSpace(strings.Map(visible, strings.ToValidUTF8(b.String(), "")))
}

// visible replaces what would change how the report is read: control signs,
// and those that turn the direction of writing.
func visible(c rune) rune {
	switch {
	case c == '\t' || c == '\n':
		return c
	case c < ' ' || c == 0x7f || c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069:
		return '·'
	}
	return c
}

// fence writes a block of code with a fence that the code doesn't contain.
func fence(code string) string {
	longest, run := 2, 0
	for _, c := range code {
		if c == '`' {
			run++
			longest = max(longest, run)
		} else {
			run = 0
		}
	}
	f := strings.Repeat("`", longest+1)
	return f + "\n" + strings.Map(visible, code) + "\n" + f + "\n"
}

// prose makes text from the code harmless in Markdown.
func prose(s string) string {
	return strings.NewReplacer("<", `\<`, "`", "'", "\n", " ", "\r", " ", "|", `\|`, "[", `\[`, "*", `\*`).Replace(strings.Map(visible, s))
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (r *run) summary() {
	if r.found == 0 {
		r.say("No rule found anything. That does not prove the code right.\n\n")
		return
	}
	var parts []string
	for _, s := range []protocol.Severity{protocol.SeverityCritical, protocol.SeverityHigh, protocol.SeverityMedium, protocol.SeverityLow, protocol.SeverityInfo} {
		if n := r.counts[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	r.say(fmt.Sprintf("## Summary\n\n%s: %s.\n\n", count(r.found, "finding"), strings.Join(parts, ", ")))
	if r.over {
		r.say(fmt.Sprintf("There are more: the report ends at %d findings, and the rest of the code was not looked at.\n\n", MaxFindings))
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (r *run) outline() {
	r.say("## Structure\n\n")
	if len(r.symbols) == 0 {
		r.say("No imports, types or functions were recognised.\n\n")
		return
	}
	for i, s := range r.symbols {
		if i == maxOutline {
			r.say(fmt.Sprintf("- and %d more\n", len(r.symbols)-i))
			break
		}
		r.say(fmt.Sprintf("- line %d: %s %s\n", r.text.Position(s.Start).Line, s.Kind, prose(s.Name)))
	}
	r.say("\n")
}

func (r *run) metrics() {
	if r.stopped || r.ctx.Err() != nil {
		return
	}
	var b strings.Builder
	b.WriteString("## Metrics\n\n| measure | value |\n| --- | --- |\n")
	blank := 0
	for n := 1; n <= r.text.Lines(); n++ {
		if strings.TrimSpace(r.text.Line(n)) == "" {
			blank++
		}
	}
	fmt.Fprintf(&b, "| lines | %d, of them %d blank |\n| comments | %d |\n| functions | %d |\n", r.text.Lines(), blank, r.comments, len(r.functions))
	if len(r.functions) > 0 {
		by := func(value func(*rules.Function) int) *rules.Function {
			best := &r.functions[0]
			for i := range r.functions {
				if value(&r.functions[i]) > value(best) {
					best = &r.functions[i]
				}
			}
			return best
		}
		name := func(f *rules.Function) string {
			if f.Name == "" {
				return fmt.Sprintf("without a name, line %d", r.text.Position(f.Start).Line)
			}
			return prose(clip(f.Name, 80))
		}
		total := 0
		for i := range r.functions {
			total += r.functions[i].Complexity
		}
		long := by(func(f *rules.Function) int { return f.Lines })
		hard := by(func(f *rules.Function) int { return f.Complexity })
		deep := by(func(f *rules.Function) int { return f.Depth })
		fmt.Fprintf(&b, "| longest function | %s, %s |\n", name(long), count(long.Lines, "line"))
		fmt.Fprintf(&b, "| highest cyclomatic complexity | %d (%s); mean %.1f |\n", hard.Complexity, name(hard), float64(total)/float64(len(r.functions)))
		fmt.Fprintf(&b, "| deepest nesting | %d (%s) |\n", deep.Depth, name(deep))
	}
	b.WriteString("\n")
	for _, n := range r.notes {
		b.WriteString(n + "\n\n")
	}
	r.say(b.String())
}
