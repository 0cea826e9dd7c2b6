// Package rules declares what a rule of the offline analyser is and what it
// reports. The rules themselves are tables in the packages beside this one.
package rules

import (
	"github.com/athena-hub/athena/protocol"
)

// Kinds is a set of the kinds of analysis that a rule serves.
type Kinds uint8

// The members of Kinds. A review runs every rule, so it has no bit.
const (
	Security Kinds = 1 << iota
	Bugs
	Performance
	Review
	Deobfuscate
)

// Serves reports whether a rule of these kinds runs in an analysis of the
// given kind. A custom analysis runs what a review does; explain runs none,
// since it outlines the code instead.
func (k Kinds) Serves(kind protocol.AnalysisKind) bool {
	switch kind {
	case protocol.AnalysisSecurity:
		return k&Security != 0
	case protocol.AnalysisBugs:
		return k&Bugs != 0
	case protocol.AnalysisPerformance:
		return k&Performance != 0
	case protocol.AnalysisDeobfuscate:
		return k&Deobfuscate != 0
	case protocol.AnalysisReview, protocol.AnalysisCustom:
		return true
	}
	return false
}

// A Rule says what one check looks for and what to tell about it.
type Rule struct {
	// ID is stable: clients may filter by it.
	ID       string
	Severity protocol.Severity
	// Message says in one sentence what is there and why it matters.
	Message string
	// Suggestion says what to do instead.
	Suggestion string
	// Languages are those the rule runs for; empty for every one.
	Languages []string
	Kinds     Kinds
}

// A Hit is one place where a rule holds, in byte offsets; End is exclusive.
type Hit struct {
	Rule       *Rule
	Start, End int
	// Message replaces the rule's where it is not empty.
	Message string
	// Secret says that the place holds a credential, which must not be
	// repeated in any report.
	Secret bool
}

// An Emit takes a hit and reports whether more are wanted.
type Emit func(Hit) bool

// A Function is what the metrics keep of one function.
type Function struct {
	Name       string
	Start, End int // offsets
	Lines      int
	Complexity int // cyclomatic: 1 and one for each branch
	Depth      int // of nested blocks inside it
	Params     int
}

// A Symbol is one entry of the outline: an import, a type or a function.
type Symbol struct {
	Kind, Name string
	Start      int // offset
	Depth      int // nesting in the outline
	Detail     string
}

// Bounds of what an outline and the metrics keep of one file.
const (
	MaxSymbols   = 1000
	MaxFunctions = 10000
)

// The sizes from which the rules about size speak.
const (
	MaxFunctionLines = 80
	MaxComplexity    = 15
	MaxDepth         = 5
	MaxParams        = 7
	MaxFileLines     = 1000
)
