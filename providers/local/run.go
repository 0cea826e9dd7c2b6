package local

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/local/decode"
	"github.com/athena-hub/athena/providers/local/gocheck"
	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/secrets"
	"github.com/athena-hub/athena/providers/local/source"
	"github.com/athena-hub/athena/providers/local/tokencheck"
)

type place struct {
	rule       string
	start, end int
}

// A run is one analysis, in the stream's goroutine.
type run struct {
	ctx      context.Context
	request  *protocol.Request
	language string
	text     *source.Text
	left     int // bytes of the code that are not analysed
	send     func(providers.Chunk) bool
	resume   resumption

	stopped bool // nobody wants more
	seen    map[place]bool
	hidden  []place // secrets, sorted by start
	counts  map[protocol.Severity]int
	found   int
	over    bool // MaxFindings was reached

	notes     []string
	comments  int
	tokens    int
	functions []rules.Function
	symbols   []rules.Symbol
}

func newRun(ctx context.Context, request *protocol.Request, partial string, send func(providers.Chunk) bool) *run {
	return &run{ctx: ctx, request: request, send: send, resume: resumption{partial: partial}, seen: make(map[place]bool), counts: make(map[protocol.Severity]int)}
}

func (r *run) analyse() {
	code := r.request.Code
	if len(code) > MaxBytes {
		n := MaxBytes
		for n > MaxBytes-utf8.UTFMax && !utf8.RuneStart(code[n]) {
			n--
		}
		r.left = len(code) - n
		code = code[:n]
	}
	r.language = detect(r.request.Language, r.request.Filename, code)
	r.head()
	r.progress("secrets", 5)
	r.text = source.New(code)
	if r.left > 0 {
		r.notes = append(r.notes, fmt.Sprintf("Only the first %d MiB were analysed; %d bytes were left out.", MaxBytes>>20, r.left))
	}
	if r.request.Analysis == protocol.AnalysisExplain {
		r.syntax(func(*rules.Rule) bool { return false })
		r.outline()
		r.metrics()
		r.progress("done", 100)
		return
	}
	r.say("## Findings\n\n")
	r.secrets()
	r.progress("lines", 15)
	if !r.finished() {
		tokencheck.CheckText(r.ctx, r.text, r.want, r.hit)
	}
	r.progress("syntax", 25)
	if !r.finished() {
		r.syntax(r.want)
	}
	if r.stopped || r.ctx.Err() != nil {
		return
	}
	r.summary()
	if r.request.Analysis == protocol.AnalysisDeobfuscate {
		r.progress("decode", 80)
		r.decoded()
	}
	r.progress("metrics", 95)
	r.metrics()
	r.progress("done", 100)
}

func (r *run) finished() bool { return r.stopped || r.over || r.ctx.Err() != nil }

func (r *run) want(rule *rules.Rule) bool { return rule.Kinds.Serves(r.request.Analysis) }

// secrets finds them whatever the kind of analysis, since no excerpt in the
// report may repeat one, and reports them where the kind asks for them.
func (r *run) secrets() {
	var hits []rules.Hit
	secrets.Check(r.ctx, r.text, func(h rules.Hit) bool {
		hits = append(hits, h)
		return true
	})
	for _, h := range hits {
		end := h.End
		if i := strings.Index(r.text.Code()[end:], "-----END"); i >= 0 && h.Rule.ID == "secret/private-key" {
			end += i // the key itself is on the lines between
		}
		r.hidden = append(r.hidden, place{start: h.Start, end: end})
	}
	sort.Slice(r.hidden, func(i, j int) bool { return r.hidden[i].start < r.hidden[j].start })
	for _, h := range hits {
		if r.want(h.Rule) && !r.hit(h) {
			return
		}
	}
}

func (r *run) syntax(want func(*rules.Rule) bool) {
	if r.language == "go" {
		res, err := gocheck.Check(r.ctx, r.text, want, r.hit)
		r.comments, r.functions, r.symbols = res.Comments, res.Functions, res.Symbols
		if res.Truncated != "" {
			r.notes = append(r.notes, "Some rules were left out: "+res.Truncated+".")
		}
		for _, e := range res.Broken {
			r.broken(e.Rule)
		}
		if err == nil && !r.finished() {
			tokencheck.CheckShapes(r.functions, r.text, want, r.hit)
		}
		return
	}
	if !tokencheck.Lexer(r.language) {
		r.notes = append(r.notes, "The language is not known, so only rules for any text were run.")
		return
	}
	res, _ := tokencheck.Check(r.ctx, r.language, r.text, want, r.hit) // its error is ctx's, which the caller looks at
	r.comments, r.tokens, r.functions, r.symbols = res.Comments, res.Tokens, res.Functions, res.Symbols
	if res.Truncated != "" {
		r.notes = append(r.notes, "The rules saw only the beginning of the code: "+string(res.Truncated)+".")
	}
	for _, e := range res.Broken {
		r.broken(e.Rule)
	}
}

func (r *run) broken(rule string) {
	r.notes = append(r.notes, fmt.Sprintf("An internal error stopped the rule `%s`.", rule))
}

// hit reports one finding, once.
func (r *run) hit(h rules.Hit) bool {
	if r.finished() {
		return false
	}
	p := place{h.Rule.ID, h.Start, h.End}
	if r.seen[p] {
		return true
	}
	if r.found == MaxFindings {
		r.over = true
		return false
	}
	r.seen[p] = true
	r.found++
	r.counts[h.Rule.Severity]++
	message := h.Message
	if message == "" {
		message = h.Rule.Message
	}
	f := &protocol.Finding{Rule: h.Rule.ID, Severity: h.Rule.Severity, Message: message,
		Range: r.text.Range(h.Start, h.End), Suggestion: h.Rule.Suggestion}
	if !r.chunk(providers.Chunk{Type: providers.ChunkFinding, Finding: f}) {
		return false
	}
	r.finding(f, h)
	return !r.stopped
}

func (r *run) chunk(c providers.Chunk) bool {
	if !r.stopped {
		r.stopped = !r.send(c)
	}
	return !r.stopped
}

func (r *run) say(text string) {
	if text = r.resume.text(text); text != "" {
		r.chunk(providers.Chunk{Type: providers.ChunkText, Text: text})
	}
}

func (r *run) progress(stage string, percent float64) {
	r.chunk(providers.Chunk{Type: providers.ChunkProgress, Progress: &protocol.Progress{Stage: stage, Percent: &percent}})
}

// decoded shows what the literals hold.
func (r *run) decoded() {
	n := 0
	r.say("## Decoded\n\n")
	decode.All(r.ctx, r.text.Code(), func(f decode.Found) bool {
		n++
		pos := r.text.Position(f.Start)
		r.say(fmt.Sprintf("Line %d, column %d, %s:\n\n%s\n", pos.Line, pos.Column, strings.Join(f.Layers, ", then "), fence(clip(f.Text, maxDecoded))))
		return !r.stopped
	})
	if n == 0 {
		r.say("No literal could be decoded.\n\n")
	}
	r.say("Nothing was run: what only the code itself can compute stays hidden.\n\n")
}
