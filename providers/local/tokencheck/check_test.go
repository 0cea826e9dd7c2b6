package tokencheck

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/source"
)

type example struct{ language, hit, miss string }

func found(t *testing.T, language, code string) []string {
	t.Helper()
	var ids []string
	text := source.New(code)
	everything := func(*rules.Rule) bool { return true }
	emit := func(h rules.Hit) bool {
		if h.Start < 0 || h.End < h.Start || h.End > len(code) {
			t.Errorf("%s covers %d to %d of %d bytes", h.Rule.ID, h.Start, h.End, len(code))
		}
		ids = append(ids, h.Rule.ID)
		return true
	}
	CheckText(t.Context(), text, everything, emit)
	r, err := Check(t.Context(), language, text, everything, emit)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Broken) > 0 {
		t.Errorf("rules failed: %v", r.Broken[0])
	}
	return ids
}

func TestEveryRuleHasAHitAndANearMiss(t *testing.T) {
	known := make(map[string]bool)
	for _, r := range ruleList() {
		if known[r.ID] {
			t.Errorf("rule %s is there twice", r.ID)
		}
		known[r.ID] = true
		if !r.Severity.Valid() || r.Message == "" || r.Suggestion == "" || r.Kinds == 0 {
			t.Errorf("rule %s is incomplete: %+v", r.ID, r)
		}
		e, ok := examples[r.ID]
		if !ok || e.hit == "" || e.miss == "" {
			t.Errorf("rule %s has no hit and near miss", r.ID)
			continue
		}
		t.Run(r.ID, func(t *testing.T) {
			if got := found(t, e.language, e.hit); !slices.Contains(got, r.ID) {
				t.Errorf("in %q found %q", e.hit, got)
			}
			if got := found(t, e.language, e.miss); slices.Contains(got, r.ID) {
				t.Errorf("in the near miss %q found %q", e.miss, got)
			}
		})
	}
	for id := range examples {
		if !known[id] {
			t.Errorf("there is an example of %s, but no such rule", id)
		}
	}
	if len(known) < 30 {
		t.Errorf("there are only %d rules", len(known))
	}
}

func TestCommentsAndStringsAreNotCode(t *testing.T) {
	for language, code := range map[string]string{
		"javascript": "// eval(x)\nconst s = 'eval(x)'; /* document.write(x) */",
		"python":     "# eval(x)\ns = 'eval(x)'\n\"\"\"os.system(x)\"\"\"\n",
		"c":          "/* gets(b) */ const char *s = \"gets(b)\";",
		"shell":      "# curl x | sh\necho 'eval $x'\n",
		"html":       "<p>eval(x) and document.write(x)</p><!-- <script>eval(x)</script> -->",
	} {
		if got := found(t, language, code); len(got) > 0 {
			t.Errorf("%s: found %q", language, got)
		}
	}
}

func TestTokensLieWhereTheirTextIs(t *testing.T) {
	code := "<?php\r\n$x = \"a $b {$c['d']}\\\"\" . 'é😀';\r\n/* c */ f(`ls $x`, <<<A\nq $x\nA\n);"
	for language := range chromaNames {
		last := 0
		_, err := lex(t.Context(), language, source.New(code), func(tok token) bool {
			if tok.start < last || code[tok.start:tok.end()] != tok.text {
				t.Errorf("%s: token %q at %d", language, tok.text, tok.start)
			}
			last = tok.end()
			return true
		})
		if err != nil {
			t.Errorf("%s: %v", language, err)
		}
	}
}

func TestARuleThatFailsIsReportedAndTheOthersGoOn(t *testing.T) {
	saved := tables
	defer func() { tables = saved }()
	tables = append(slices.Clone(tables), []tokenRule{rule("any/broken", low, sec, "", "eval", "m", "s", func(*tokens, int) (span, bool) { panic("no") })})
	var ids []string
	r, err := Check(t.Context(), "javascript", source.New("eval(x); eval(y)"), func(*rules.Rule) bool { return true }, func(h rules.Hit) bool {
		ids = append(ids, h.Rule.ID)
		return true
	})
	if err != nil || len(r.Broken) != 1 || r.Broken[0].Rule != "any/broken" {
		t.Fatalf("%v, broken: %v", err, r.Broken)
	}
	if _, ok := errors.AsType[*InternalError](r.Broken[0]); !ok || !slices.Equal(ids, []string{"js/eval", "js/eval"}) {
		t.Errorf("found %q", ids)
	}
}

func TestFunctionsAreMeasured(t *testing.T) {
	for language, tt := range map[string]struct {
		code string
		want []rules.Function
	}{
		"javascript": {"function f(a, b) {\n if (a && b) { for (;;) { g() } }\n}\nconst h = (x) => {\n return x ? 1 : 2\n}", []rules.Function{
			{Name: "f", Lines: 3, Complexity: 4, Depth: 2, Params: 2}, {Name: "h", Lines: 3, Complexity: 2, Params: 1}}},
		"python": {"def f(a, b):\n    if a:\n        for x in b:\n            pass\n    return 1\n\ndef g():\n    return 2\n", []rules.Function{
			{Name: "f", Lines: 5, Complexity: 3, Depth: 2, Params: 2}, {Name: "g", Lines: 2, Complexity: 1}}},
		"java": {"class A { int f(int a) throws X { while (a > 0) { a--; } return a; } }", []rules.Function{
			{Name: "f", Lines: 1, Complexity: 2, Depth: 1, Params: 1}}},
	} {
		c := &tokens{language: language, src: tt.code}
		text := source.New(tt.code)
		if _, err := lex(t.Context(), language, text, func(tok token) bool { c.all = append(c.all, tok); return true }); err != nil {
			t.Fatal(err)
		}
		got, _ := measure(t.Context(), c, text)
		for i := range got {
			got[i].Start, got[i].End = 0, 0
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", language, got, tt.want)
		}
	}
}

func lines(n int, line string) string { return strings.Repeat(line+"\n", n) }

// ruleList lists the package's rules.
func ruleList() []*rules.Rule {
	var all []*rules.Rule
	for _, table := range tables {
		for i := range table {
			all = append(all, &table[i].Rule)
		}
	}
	for i := range shapeRules {
		all = append(all, &shapeRules[i])
	}
	for i := range textRules {
		all = append(all, &textRules[i].Rule)
	}
	return all
}
