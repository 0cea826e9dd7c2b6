package protocol

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// An AnalysisKind says what an analysis looks for.
type AnalysisKind string

// The kinds of analyses.
const (
	AnalysisSecurity    AnalysisKind = "security"
	AnalysisBugs        AnalysisKind = "bugs"
	AnalysisPerformance AnalysisKind = "performance"
	AnalysisReview      AnalysisKind = "review"
	AnalysisExplain     AnalysisKind = "explain"
	AnalysisDeobfuscate AnalysisKind = "deobfuscate"
	AnalysisCustom      AnalysisKind = "custom"
)

// AnalysisKinds lists the kinds in the order in which help should show them.
var AnalysisKinds = []AnalysisKind{AnalysisSecurity, AnalysisBugs, AnalysisPerformance, AnalysisReview,
	AnalysisExplain, AnalysisDeobfuscate, AnalysisCustom}

// A CacheMode says how a request uses cached answers.
type CacheMode string

// The cache modes: use one if there is one, replace it, or neither read nor
// write.
const (
	CacheUse     CacheMode = "use"
	CacheRefresh CacheMode = "refresh"
	CacheBypass  CacheMode = "bypass"
)

// ProviderAuto lets the server choose the provider.
const ProviderAuto = "auto"

// A Request asks for an analysis. Only Code is required.
type Request struct {
	Code     string `json:"code"`
	Language string `json:"language,omitempty"`
	Filename string `json:"filename,omitempty"`
	// Analysis is AnalysisReview where it is empty.
	Analysis AnalysisKind `json:"analysis,omitempty"`
	// Prompt is the question of an AnalysisCustom, and must be empty otherwise.
	Prompt string `json:"prompt,omitempty"`
	// Provider is ProviderAuto where it is empty.
	Provider string         `json:"provider,omitempty"`
	Model    string         `json:"model,omitempty"`
	Options  RequestOptions `json:"options,omitzero"`
	// Cache is CacheUse where it is empty.
	Cache CacheMode `json:"cache,omitempty"`
	// OrphanTimeout is how long the analysis goes on without viewers; the
	// server's own where it is zero, and never longer than that.
	OrphanTimeout Duration `json:"orphan_timeout,omitzero"`
}

// RequestOptions tune the model and how hard the server tries. Zero values
// leave the provider's and the server's defaults.
type RequestOptions struct {
	// Temperature is from 0 to 2.
	Temperature *float64 `json:"temperature,omitempty"`
	// MaxTokens bounds the answer.
	MaxTokens int `json:"max_tokens,omitempty"`
	// Reasoning is "", "off", "low", "medium" or "high".
	Reasoning string `json:"reasoning,omitempty"`
	// Hedge says whether a second provider may be asked while the first is
	// slow; the server's setting where it is nil.
	Hedge *bool `json:"hedge,omitempty"`
	// Degrade says whether the offline analyser may answer, marked as degraded,
	// when no provider does; the server's setting where it is nil.
	Degrade *bool `json:"degrade,omitempty"`
}

// Limits of a Request, apart from the code's, which is configuration.
const (
	MaxPromptBytes   = 16 << 10
	MaxNameBytes     = 256 // of a language, provider or model
	MaxFilenameBytes = 1024
	MaxOutputTokens  = 1 << 20
)

// ParseRequest decodes and checks a request. Every error is an *Error with
// CodeInvalidRequest that says what was wrong and what would be right.
func ParseRequest(b []byte) (*Request, error) {
	r := new(Request)
	if err := unmarshalStrict(b, "request", r); err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return r, nil
}

// Validate checks r and puts the defaults in the place of empty fields.
func (r *Request) Validate() error {
	if strings.TrimSpace(r.Code) == "" {
		return Errorf(CodeInvalidRequest, `field "code" is missing or empty; it must be the text to analyse`)
	}
	if r.Analysis == "" {
		r.Analysis = AnalysisReview
	}
	if !slices.Contains(AnalysisKinds, r.Analysis) {
		return Errorf(CodeInvalidRequest, `field "analysis" is %.60q; it must be one of %s`, r.Analysis, list(AnalysisKinds))
	}
	if r.Analysis == AnalysisCustom && strings.TrimSpace(r.Prompt) == "" {
		return Errorf(CodeInvalidRequest, `field "prompt" is missing; the analysis "custom" needs it`)
	}
	if r.Analysis != AnalysisCustom && r.Prompt != "" {
		return Errorf(CodeInvalidRequest, `field "prompt" is only for the analysis "custom"; this one is %q`, r.Analysis)
	}
	if len(r.Prompt) > MaxPromptBytes {
		return Errorf(CodeInvalidRequest, `field "prompt" has %d bytes, more than the limit of %d`, len(r.Prompt), MaxPromptBytes)
	}
	for _, f := range []struct {
		name, value string
		max         int
	}{
		{"language", r.Language, MaxNameBytes}, {"filename", r.Filename, MaxFilenameBytes},
		{"provider", r.Provider, MaxNameBytes}, {"model", r.Model, MaxNameBytes},
	} {
		if len(f.value) > f.max {
			return Errorf(CodeInvalidRequest, "field %q has %d bytes, more than the limit of %d", f.name, len(f.value), f.max)
		}
		if strings.ContainsFunc(f.value, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
			return Errorf(CodeInvalidRequest, "field %q has a control character in it", f.name)
		}
	}
	if r.Provider == "" {
		r.Provider = ProviderAuto
	}
	if t := r.Options.Temperature; t != nil && (*t < 0 || *t > 2) {
		return Errorf(CodeInvalidRequest, `field "options.temperature" is %v; it must be from 0 to 2`, *t)
	}
	if n := r.Options.MaxTokens; n < 0 || n > MaxOutputTokens {
		return Errorf(CodeInvalidRequest, `field "options.max_tokens" is %d; it must be from 1 to %d`, n, MaxOutputTokens)
	}
	if !slices.Contains([]string{"", "off", "low", "medium", "high"}, r.Options.Reasoning) {
		return Errorf(CodeInvalidRequest, `field "options.reasoning" is %.60q; it must be off, low, medium or high`, r.Options.Reasoning)
	}
	if r.Cache == "" {
		r.Cache = CacheUse
	}
	if !slices.Contains([]CacheMode{CacheUse, CacheRefresh, CacheBypass}, r.Cache) {
		return Errorf(CodeInvalidRequest, `field "cache" is %.60q; it must be use, refresh or bypass`, r.Cache)
	}
	if r.OrphanTimeout < 0 {
		return Errorf(CodeInvalidRequest, `field "orphan_timeout" is %s; it must not be negative`, time.Duration(r.OrphanTimeout))
	}
	return nil
}

func list[S ~string](names []S) string {
	s := make([]string, len(names))
	for i, n := range names {
		s[i] = string(n)
	}
	return strings.Join(s, ", ")
}

// A Duration is a time.Duration that is written as text, such as "90s".
type Duration time.Duration

// MarshalText writes d as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(time.Duration(d).String()), nil
}

// UnmarshalJSON reads a duration such as "90s" or "2m". A null changes nothing.
func (d *Duration) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return Errorf(CodeInvalidRequest, `%.40s is not a duration; write it as text with a unit, such as "90s"`, b)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return Errorf(CodeInvalidRequest, `%.40q is not a duration, such as "90s" or "2m"`, s)
	}
	*d = Duration(v)
	return nil
}
