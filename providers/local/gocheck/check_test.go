package gocheck

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/source"
)

func found(t *testing.T, code string) ([]string, []rules.Hit) {
	t.Helper()
	var ids []string
	var hits []rules.Hit
	r, err := Check(t.Context(), source.New(code), func(*rules.Rule) bool { return true }, func(h rules.Hit) bool {
		if h.Start < 0 || h.End < h.Start || h.End > len(code) {
			t.Errorf("%s covers %d to %d of %d bytes", h.Rule.ID, h.Start, h.End, len(code))
		}
		ids, hits = append(ids, h.Rule.ID), append(hits, h)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Broken) > 0 {
		t.Errorf("rules failed: %v", r.Broken[0])
	}
	return ids, hits
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
			if got, _ := found(t, e.hit); !slices.Contains(got, r.ID) {
				t.Errorf("in %q found %q", e.hit, got)
			}
			got, _ := found(t, e.miss)
			if slices.Contains(got, r.ID) {
				t.Errorf("in the near miss %q found %q", e.miss, got)
			}
			if slices.Contains(got, "go/syntax") && r.ID != "go/syntax" {
				t.Errorf("the near miss %q does not parse", e.miss)
			}
		})
	}
	for id := range examples {
		if !known[id] {
			t.Errorf("there is an example of %s, but no such rule", id)
		}
	}
}

func TestTheSamePlaceIsFoundInAFileADeclarationAndAStatement(t *testing.T) {
	const statement = `exec.Command("sh", "-c", x)`
	for name, around := range map[string]string{
		"file":        "package p\nimport \"os/exec\"\nfunc f(x string) { @ }\n",
		"declaration": "func f(x string) {\n @\n}",
		"statement":   "x := y\n@\n",
	} {
		code := strings.Replace(around, "@", statement, 1)
		_, hits := found(t, code)
		i := slices.IndexFunc(hits, func(h rules.Hit) bool { return h.Rule.ID == "go/command-injection" })
		if i < 0 || code[hits[i].Start:hits[i].End] != "x" {
			t.Errorf("%s: found %+v", name, hits)
		}
	}
}

func TestCodeThatDoesNotParseIsAnalysedAsFarAsItCanBeRead(t *testing.T) {
	ids, _ := found(t, "package p\nimport \"crypto/md5\"\nfunc f() { md5.New() }\nfunc g( {\n")
	if !slices.Contains(ids, "go/syntax") || !slices.Contains(ids, "go/weak-hash") {
		t.Errorf("found %q", ids)
	}
}

func TestHostileCodeIsReadInBoundedTime(t *testing.T) {
	var doubling strings.Builder
	doubling.WriteString("package p\nconst a0 = \"xxxxxxxxxxxxxxxx\"\n")
	for i := range 40 {
		doubling.WriteString("const a" + string(rune('A'+i)) + " = b + b\n")
	}
	for name, code := range map[string]string{
		"brackets": "package p\nvar x = " + strings.Repeat("(", MaxParseBytes-30),
		"mixed":    strings.Repeat("([{", MaxParseBytes/3),
		"else":     "package p\nfunc f() { if x {}" + strings.Repeat(" else if x {}", 60000) + "}",
		"sum":      "package p\nvar x = 1" + strings.Repeat("+1", 400000),
		"shallow":  "package p\nvar x = 1" + strings.Repeat("+1", 40000),
		"doubling": doubling.String() + "var q [len(aZ)]int\n",
		"calls":    "package p\nvar x = f" + strings.Repeat("(a)", 90000),
		"strings":  "package p\nfunc f() { db.Query(\"SELECT \"" + strings.Repeat("+\"a\"", 900) + "+x) }",
	} {
		start := time.Now()
		found(t, code)
		// Half a second at most by itself; a machine whose cores are taken, with
		// the race detector on, has needed eight times as long. What is not
		// bounded takes minutes here.
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("%s took %s", name, d)
		}
	}
}

func TestFunctionsAndTheOutlineAreRead(t *testing.T) {
	code := "package p\nimport \"fmt\"\ntype T struct{}\nfunc (t *T) F(a, b int) {\n\tif a > 0 && b > 0 {\n\t\tfor {\n\t\t\tfmt.Println()\n\t\t}\n\t}\n}\n"
	r, err := Check(t.Context(), source.New(code), func(*rules.Rule) bool { return false }, func(rules.Hit) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	want := rules.Function{Name: "T.F", Start: 39, End: 116, Lines: 7, Complexity: 4, Depth: 2, Params: 2}
	want.Start, want.End = strings.Index(code, "func"), len(code)-1
	if len(r.Functions) != 1 || r.Functions[0] != want {
		t.Errorf("functions %+v, want %+v", r.Functions, want)
	}
	var names []string
	for _, s := range r.Symbols {
		names = append(names, s.Kind+" "+s.Name)
	}
	if !slices.Equal(names, []string{`import "fmt"`, "struct T", "method T.F"}) {
		t.Errorf("outline %q", names)
	}
}

// ruleList lists the package's rules.
func ruleList() []*rules.Rule {
	all := []*rules.Rule{&syntaxRule, &depthRule}
	for _, table := range tables {
		for i := range table {
			all = append(all, &table[i].Rule)
		}
	}
	for i := range vetRules {
		all = append(all, &vetRules[i].Rule)
	}
	return all
}
