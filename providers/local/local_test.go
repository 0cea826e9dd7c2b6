package local_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/local"
)

func TestMain(m *testing.M) {
	// The clock of the lexers' time-outs ends by itself, some time after the
	// last one.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/dlclark/regexp2/v2.runClock"))
}

func start(t testing.TB, ctx context.Context, r *protocol.Request) providers.Stream {
	t.Helper()
	p, err := local.New(providers.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := p.Stream(ctx, &providers.Request{Analysis: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

type answer struct {
	text     string
	findings []protocol.Finding
	percents []float64
	first    time.Duration
}

func read(t testing.TB, s providers.Stream) answer {
	t.Helper()
	var a answer
	began := time.Now()
	for {
		c, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if a.first == 0 {
			a.first = time.Since(began)
		}
		switch c.Type {
		case providers.ChunkText:
			if c.Text == "" || !utf8.ValidString(c.Text) {
				t.Errorf("a chunk of text is %q", c.Text)
			}
			a.text += c.Text
		case providers.ChunkFinding:
			a.findings = append(a.findings, *c.Finding)
		case providers.ChunkProgress:
			a.percents = append(a.percents, *c.Progress.Percent)
		default:
			t.Errorf("a chunk of type %d", c.Type)
		}
	}
	want := providers.Outcome{State: providers.StateComplete, FinishReason: "stop", Model: local.Model}
	if got := s.Outcome(); got != want {
		t.Errorf("outcome %+v, want %+v", got, want)
	}
	if !slices.IsSorted(a.percents) {
		t.Errorf("progress went back: %v", a.percents)
	}
	return a
}

func TestAWholeAnswerHasItsFindingsAndAReport(t *testing.T) {
	s := start(t, t.Context(), &protocol.Request{Language: "js", Code: "// 😀\r\n\tlet 𝒳 = '😀'; eval(𝒳);\r\n"})
	a := read(t, s)
	want := []protocol.Finding{{Rule: "js/eval", Severity: protocol.SeverityHigh,
		Message: "Text is run as code; whoever controls the text controls the program.", Suggestion: "Use JSON.parse for data, or a table of functions.",
		Range: protocol.Range{Start: protocol.Position{Line: 2, Column: 17}, End: protocol.Position{Line: 2, Column: 25}}}}
	if !slices.Equal(a.findings, want) {
		t.Errorf("found %+v, want %+v", a.findings, want)
	}
	first, _, _ := strings.Cut(a.text, "\n")
	if !strings.Contains(first, "not a model") {
		t.Errorf("the first line is %q", first)
	}
	for _, part := range []string{"## Findings", "### High, line 2: `js/eval`", "## Summary\n\n1 finding: 1 high.", "## Metrics", "| lines | 2, of them 0 blank |"} {
		if !strings.Contains(a.text, part) {
			t.Errorf("the report lacks %q:\n%s", part, a.text)
		}
	}
	for range 2 {
		if _, err := s.Next(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if got := s.Outcome().State; got != providers.StateComplete {
		t.Errorf("after Close the outcome is %d", got)
	}
}

func TestTheReportNeverRepeatsASecret(t *testing.T) {
	secret := "ghp_" + "q7Zr2Xk9Vb4Nm8Lc1Wd6Hf3Jg5Ts0Py7Ru2E"
	for _, kind := range protocol.AnalysisKinds {
		r := &protocol.Request{Language: "js", Analysis: kind, Code: "debugger; eval(x); f('" + secret + "') == y"}
		if kind == protocol.AnalysisCustom {
			r.Prompt = "why?"
		}
		a := read(t, start(t, t.Context(), r))
		if strings.Contains(a.text, secret) {
			t.Errorf("%s: %s", kind, a.text)
		}
		for _, f := range a.findings {
			if strings.Contains(f.Message+f.Suggestion, secret) {
				t.Errorf("%s: %+v", kind, f)
			}
		}
		if got := slices.ContainsFunc(a.findings, func(f protocol.Finding) bool { return f.Rule == "secret/github-token" }); got !=
			(kind == protocol.AnalysisSecurity || kind == protocol.AnalysisReview || kind == protocol.AnalysisCustom) {
			t.Errorf("%s: the secret's finding: %v", kind, got)
		}
	}
}

func TestEachKindOfAnalysisSaysWhatItDoes(t *testing.T) {
	const code = "package p\nimport \"fmt\"\ntype T struct{}\nfunc (T) M() { fmt.Println() }\n"
	if a := read(t, start(t, t.Context(), &protocol.Request{Code: code, Analysis: protocol.AnalysisExplain})); !strings.Contains(a.text, "- line 4: method T.M\n") || len(a.findings) > 0 {
		t.Errorf("explain: %s", a.text)
	}
	if a := read(t, start(t, t.Context(), &protocol.Request{Code: code, Analysis: protocol.AnalysisCustom, Prompt: "Why?"})); !strings.Contains(a.text, "Rules can't answer prompts") {
		t.Errorf("custom: %s", a.text)
	}
	a := read(t, start(t, t.Context(), &protocol.Request{Code: `eval(atob("YWxlcnQoJ2hlbGxvJyk="))`, Language: "javascript", Analysis: protocol.AnalysisDeobfuscate}))
	if !strings.Contains(a.text, "base64:\n\n```\nalert('hello')\n```") || !strings.Contains(a.text, "any/decoded-code") {
		t.Errorf("deobfuscate: %s", a.text)
	}
}

func TestTheLanguageIsToldByNameFileOrCode(t *testing.T) {
	for _, tt := range []struct{ language, filename, code, want string }{
		{"Golang", "x.py", "x", "Go code"}, {"", `C:\a\b.PY`, "x", "Python code"}, {"", "", "#!/usr/bin/env python3\nx", "Python code"},
		{"", "", "#!/bin/sh\nx", "shell code"}, {"", "", "package main\n\nfunc main() {\n}", "Go code"}, {"", "", "<?php echo 1;", "PHP code"},
		{"", "", "fn main() {\n}\n", "Rust code"}, {"", "", "SELECT a FROM b", "SQL code"}, {"", "", "public class A { }", "Java code"},
		{"", "", "#include <stdio.h>\nint main(void) {\n}", "C code"}, {"", "", "const a = 1", "JavaScript code"}, {"brainfuck", "", "+++", "not recognised"},
		{"", "", "def f(x):\n  return 1", "Python code"}, {"", "", "nothing at all", "not recognised"},
	} {
		a := read(t, start(t, t.Context(), &protocol.Request{Language: tt.language, Filename: tt.filename, Code: tt.code}))
		if first, _, _ := strings.Cut(a.text, "\n"); !strings.Contains(first, tt.want) {
			t.Errorf("%+v: %s", tt, first)
		}
	}
}

func TestFindingsEndAtTheCapAndTheReportSaysSo(t *testing.T) {
	a := read(t, start(t, t.Context(), &protocol.Request{Language: "js", Code: strings.Repeat("eval(x);\n", local.MaxFindings+10)}))
	if len(a.findings) != local.MaxFindings || !strings.Contains(a.text, "There are more: the report ends at 500 findings") {
		t.Errorf("%d findings", len(a.findings))
	}
	seen := make(map[protocol.Finding]bool)
	for _, f := range a.findings {
		if seen[f] {
			t.Fatalf("twice: %+v", f)
		}
		seen[f] = true
	}
}

func TestAnEndedContextEndsTheStreamAtOnce(t *testing.T) {
	for _, code := range []string{strings.Repeat("[({", 300_000), strings.Repeat("a ", 100_000), strings.Repeat("eval(x);\n", 50_000)} {
		for _, language := range []string{"js", "java", "go", "python"} {
			ctx, cancel := context.WithCancel(t.Context())
			s := start(t, ctx, &protocol.Request{Language: language, Code: code})
			if _, err := s.Next(); err != nil {
				t.Fatal(err)
			}
			cancel()
			began := time.Now()
			_, err := s.Next()
			for range 2 {
				if _, again := s.Next(); !errors.Is(err, context.Canceled) || again != err { // the very same error
					t.Errorf("Next: %v, then %v", err, again)
				}
			}
			if d := time.Since(began); d > 2*time.Second { // on a busy machine; the whole analysis takes far longer
				t.Errorf("%s: Next took %s", language, d)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if got := s.Outcome(); got.State != providers.StateTruncated {
				t.Errorf("outcome %+v", got)
			}
		}
	}
}

func TestCloseFromElsewhereEndsTheAnswer(t *testing.T) {
	s := start(t, t.Context(), &protocol.Request{Language: "js", Code: strings.Repeat("eval(x);\n", 50_000)})
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Close() })
	var err error
	for err == nil {
		_, err = s.Next()
	}
	wg.Wait()
	if err == io.EOF || s.Outcome().State != providers.StateTruncated {
		t.Errorf("%v, %+v", err, s.Outcome())
	}
}

func TestAContextThatHasEndedStartsNothing(t *testing.T) {
	p, _ := local.New(providers.Config{Name: "l"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := p.Stream(ctx, &providers.Request{Analysis: &protocol.Request{Code: "x"}}); s != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := p.Stream(t.Context(), &providers.Request{}); !errors.Is(err, protocol.ErrValidation) {
		t.Errorf("without code: %v", err)
	}
	if f := p.Features(); !f.Findings || f.DefaultModel() != "" || p.Name() != "l" {
		t.Errorf("%+v", f)
	}
	if _, err := local.New(providers.Config{Models: []string{"m"}}); err == nil {
		t.Error("a model was taken")
	}
}

func TestStreamsRunConcurrently(t *testing.T) {
	p, _ := local.New(providers.Config{})
	var wg sync.WaitGroup
	texts := make([]string, 8)
	for i := range texts {
		wg.Go(func() {
			r := &protocol.Request{Language: []string{"go", "js"}[i%2], Code: "package p\nfunc f() { eval(x) }\n"}
			s, err := p.Stream(t.Context(), &providers.Request{Analysis: r})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close() //nolint:errcheck // it returns nil
			for {
				c, err := s.Next()
				if err != nil {
					return
				}
				texts[i] += c.Text
			}
		})
	}
	wg.Wait()
	for i := 2; i < len(texts); i++ {
		if texts[i] != texts[i-2] || texts[i] == "" {
			t.Errorf("answers differ:\n%s\n%s", texts[i], texts[i-2])
		}
	}
}

func TestAnyTextIsReadInBoundedTime(t *testing.T) {
	for name, code := range map[string]string{
		"binary": strings.Repeat("\x00\xff\x80\x1b", 20_000), "line": strings.Repeat("a+", 60_000), "brackets": strings.Repeat("[", 1<<20),
		"words": strings.Repeat("a ", 200_000), "beyond": strings.Repeat("x\n", local.MaxBytes/2+10),
	} {
		for _, language := range []string{"go", "java", ""} {
			if name == "beyond" && language != "" {
				continue // the limit comes before the language
			}
			began := time.Now()
			a := read(t, start(t, t.Context(), &protocol.Request{Language: language, Code: code}))
			if d := time.Since(began); d > time.Minute { // on a busy machine
				t.Errorf("%s as %q took %s", name, language, d)
			}
			if name == "beyond" && !strings.Contains(a.text, "20 bytes were left out") {
				t.Errorf("what was left out is not said:\n%s", a.text[max(0, len(a.text)-300):])
			}
		}
	}
}

func FuzzAnalyse(f *testing.F) {
	for _, seed := range []string{"package p\nfunc f() { x := 1; x = x }", "eval(`a${b}`)", "<?php echo \"$x\";", "def f(a=[]):\n\tpass", "<script>eval(x)</script>", "😀\r\n'\\ud83d'", "rm -rf $a/"} {
		for i := range 14 {
			f.Add(seed, uint8(i), uint8(i))
		}
	}
	languages := []string{"go", "javascript", "typescript", "python", "java", "c", "cpp", "csharp", "php", "ruby", "rust", "shell", "sql", "html"}
	f.Fuzz(func(t *testing.T, code string, language, kind uint8) {
		r := &protocol.Request{Code: code, Language: languages[int(language)%len(languages)], Analysis: protocol.AnalysisKinds[int(kind)%len(protocol.AnalysisKinds)]}
		if r.Analysis == protocol.AnalysisCustom {
			r.Prompt = "?"
		}
		if strings.TrimSpace(code) == "" || r.Validate() != nil {
			return
		}
		a := read(t, start(t, t.Context(), r))
		if strings.Contains(a.text, "An internal error stopped the rule") {
			t.Errorf("%s: %s", r.Language, a.text)
		}
		for _, f := range a.findings {
			s, e := f.Range.Start, f.Range.End
			if s.Line < 1 || s.Column < 1 || e.Line < s.Line || e.Line == s.Line && e.Column < s.Column {
				t.Errorf("%s covers %+v", f.Rule, f.Range)
			}
		}
	})
}

func BenchmarkAnalyse(b *testing.B) {
	for language, code := range map[string]string{
		"go":     "package p\n" + strings.Repeat("func f(a int, b string) error {\n\tif a > 1 {\n\t\treturn g(b, a+1)\n\t}\n\treturn nil\n}\n\n", 400),
		"js":     strings.Repeat("function f(a, b) {\n  if (a > 1) {\n    return g(b, `x${a}`);\n  }\n  return null;\n}\n\n", 400),
		"python": strings.Repeat("def f(a, b):\n    if a > 1:\n        return g(b, f\"x{a}\")\n    return None\n\n", 400),
	} {
		b.Run(language, func(b *testing.B) {
			b.SetBytes(int64(len(code)))
			var first time.Duration
			for b.Loop() {
				a := read(b, start(b, b.Context(), &protocol.Request{Code: code, Language: language, Analysis: protocol.AnalysisSecurity}))
				if !strings.Contains(a.text, "| functions | 400 |") {
					b.Fatal(a.text)
				}
				first += a.first
			}
			b.ReportMetric(float64(first.Microseconds())/float64(b.N), "µs-to-first")
		})
	}
}
