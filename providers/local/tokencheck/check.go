// Package tokencheck holds the rules for languages other than Go. They work on
// tokens, so that comments and strings are not mistaken for code, and know
// neither types nor the flow of data: a rule holds where the code has the
// shape of a mistake.
package tokencheck

import (
	"context"
	"fmt"
	"slices"

	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/source"
)

// A tokenRule is a rule that looks at the places where one of the words or
// signs in on stands; "\"" stands for any string literal.
type tokenRule struct {
	rules.Rule
	on []string
	// match looks at token i and returns the tokens that the finding covers.
	match func(c *tokens, i int) (s span, ok bool)
}

const anyString = `"`

var tables = [][]tokenRule{scriptRules, pythonRules, javaRules, cRules, csharpRules, phpRules, rubyRules, rustRules, shellRules,
	sqlRules, htmlRules, sharedRules}

// An InternalError is a rule that failed; the others went on without it.
type InternalError struct {
	Rule  string
	Cause any
}

func (e *InternalError) Error() string { return fmt.Sprintf("rule %s: %v", e.Rule, e.Cause) }

// A Result is what is known of the text after its tokens were read.
type Result struct {
	Tokens, Comments int
	Functions        []rules.Function
	Symbols          []rules.Symbol
	// Truncated says why the rules saw only the beginning; "" if they saw all.
	Truncated Truncation
	Broken    []*InternalError
}

// Check runs the rules for language that want selects, and measures the
// functions. It returns early when ctx ends or emit returns false.
func Check(ctx context.Context, language string, text *source.Text, want func(*rules.Rule) bool, emit rules.Emit) (*Result, error) {
	r := &Result{}
	byWord := make(map[string][]*tokenRule)
	for _, table := range tables {
		for i := range table {
			rule := &table[i]
			if want(&rule.Rule) && speaks(rule.Languages, language) {
				for _, w := range rule.on {
					byWord[w] = append(byWord[w], rule)
				}
			}
		}
	}
	c := &tokens{language: language, src: text.Code()}
	broken := make(map[string]bool)
	next := 0
	more := true
	run := func(until int) {
		for ; next < until && more && ctx.Err() == nil; next++ {
			t := &c.all[next]
			word := t.text
			if t.kind == str {
				word = anyString
			} else if t.kind != code {
				continue
			}
			for _, rule := range byWord[word] {
				if broken[rule.ID] {
					continue
				}
				s, ok, err := guarded(rule, c, next)
				if err != nil {
					broken[rule.ID] = true
					r.Broken = append(r.Broken, err)
				}
				if ok && more {
					more = emit(rules.Hit{Rule: &rule.Rule, Start: c.at(s.from).start, End: c.at(s.to - 1).end()})
				}
			}
		}
	}
	truncated, err := lex(ctx, language, text, func(t token) bool {
		if t.kind == comment {
			r.Comments++
			return true
		}
		c.all = append(c.all, t)
		if len(c.all)-next >= 2*lookahead {
			run(len(c.all) - lookahead)
		}
		return more
	})
	if err != nil {
		return r, err
	}
	run(len(c.all))
	r.Truncated = truncated
	r.Tokens = len(c.all)
	if more && ctx.Err() == nil {
		r.Functions, r.Symbols = measure(ctx, c, text)
		CheckShapes(r.Functions, text, want, emit)
	}
	return r, ctx.Err()
}

// speaks reports whether a rule for languages applies to one of them. A page
// of HTML has scripts in it.
func speaks(languages []string, language string) bool {
	return len(languages) == 0 || slices.Contains(languages, language) ||
		language == "html" && slices.Contains(languages, "javascript")
}

func guarded(rule *tokenRule, c *tokens, i int) (s span, ok bool, err *InternalError) {
	defer func() {
		if p := recover(); p != nil {
			s, ok, err = span{}, false, &InternalError{rule.ID, p}
		}
	}()
	s, ok = rule.match(c, i)
	if ok && (s.from < 0 || s.to > len(c.all) || s.empty()) {
		panic(fmt.Sprintf("span %d to %d of %d tokens", s.from, s.to, len(c.all)))
	}
	return s, ok, nil
}
