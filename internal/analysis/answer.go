package analysis

import (
	"strings"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// An answer is what the clients have been told and not been told to drop. Calls
// of providers add to it, one at a time: the one that has the floor (see
// race). It has no lock: who has the floor, and the job's goroutine when nobody
// has, use it alone.
type answer struct {
	// Set by newAnswer, then read-only.
	w        Writer
	maxBytes int64
	keepRaw  bool // the text may have to be given to another provider
	thinks   bool // models are asked to think, beside which most know no prefill

	attempt int            // which call adds to it
	parser  *findingParser // nil if the provider makes findings itself
	seam    *providers.Seam
	said    transcript      // for the cache
	raw     strings.Builder // what the model said, findings included, if keepRaw
	size    int64           // bytes of everything said
	content bool            // the clients were told something
}

// newAnswer returns an empty answer that t is going to give.
func (j *job) newAnswer(t *target) *answer {
	a := &answer{w: j.w, maxBytes: j.s.opts.MaxOutputBytes, keepRaw: j.s.opts.AfterContent == AfterContentContinue && !t.local(),
		thinks: j.req.Options.Reasoning != "" && j.req.Options.Reasoning != "off"}
	a.said.on = j.s.opts.Cache != nil && j.cacheKey != (shareKey{}) && !t.local()
	if !t.features.Findings {
		a.parser = &findingParser{src: j.src, maxLine: j.s.opts.MaxFindingBytes, left: j.s.opts.MaxFindings,
			text: a.writeText, found: a.writeFinding}
	}
	return a
}

// begin lets attempt n add to the answer, behind what is there. prefilled says
// that the model takes that for its own beginning, and so won't repeat it, if it
// isn't to think.
func (a *answer) begin(n int, prefilled bool) {
	a.attempt = n
	a.seam = nil
	if a.raw.Len() > 0 && (!prefilled || a.thinks) {
		a.seam = providers.NewSeam(a.raw.String())
	}
}

// add takes a piece of content.
func (a *answer) add(chunk *providers.Chunk) error {
	a.size += int64(len(chunk.Text))
	if f := chunk.Finding; f != nil {
		a.size += int64(f.Bytes())
	}
	if a.size > a.maxBytes {
		return cancelled{protocol.CancelLimit}
	}
	switch chunk.Type {
	case providers.ChunkReasoning:
		return a.write(protocol.KindReasoning, chunk.Text)
	case providers.ChunkTool:
		return a.write(protocol.KindTool, chunk.Text)
	case providers.ChunkFinding:
		return a.writeFinding(chunk.Finding)
	}
	if a.seam == nil {
		return a.say(chunk.Text)
	}
	return a.say(a.seam.Feed(chunk.Text))
}

// say takes text that belongs behind what was said.
func (a *answer) say(text string) error {
	if text == "" {
		return nil
	}
	if a.keepRaw {
		a.raw.WriteString(text)
	}
	if a.parser != nil {
		return a.parser.feed(text)
	}
	return a.writeText(text)
}

// breakOff ends an attempt's adding to an answer that another may continue.
// What the seam holds back is dropped, since it stands in the answer already and
// may have been the beginning of a repetition: who continues goes on behind the
// partial answer, which doesn't have it twice.
func (a *answer) breakOff() { a.seam = nil }

// finish ends the answer, and says what was held back as a possible finding:
// nothing follows any more that could make it one. whole says that the last
// attempt did not break off: then what the seam holds back is no repetition.
func (a *answer) finish(whole bool) error {
	if a.seam != nil && whole {
		if err := a.say(a.seam.Flush()); err != nil {
			return err
		}
	}
	a.breakOff()
	if a.parser != nil {
		return a.parser.flush()
	}
	return nil
}

// replay says again, as attempt n, what was said elsewhere. Where the findings
// stood between the text is not known any more, so they come before it, and so
// they do in what another provider is to continue. Half a finding at the end is
// left out, as it is when it was held back: it is said again then.
func (a *answer) replay(s *said, n int) error {
	a.attempt = n
	a.size = s.size()
	if s.reasoning != "" {
		if err := a.write(protocol.KindReasoning, s.reasoning); err != nil {
			return err
		}
	}
	for i := range s.findings {
		a.raw.WriteString(findingAsLine(&s.findings[i]))
		if err := a.writeFinding(&s.findings[i]); err != nil {
			return err
		}
	}
	text := s.text
	if a.parser != nil {
		text = text[:len(text)-a.parser.skip(text, len(s.findings))]
	}
	a.raw.WriteString(text)
	if text == "" {
		return nil
	}
	return a.writeText(text)
}

// partial is what another provider may continue, "" where there is nothing.
func (a *answer) partial() string { return a.raw.String() }

func (a *answer) writeText(text string) error { return a.write(protocol.KindText, text) }

func (a *answer) write(kind protocol.ChunkKind, text string) error {
	a.content = true
	a.said.chunk(kind, text)
	return wrote(a.w.Chunk(kind, a.attempt, text))
}

func (a *answer) writeFinding(f *protocol.Finding) error {
	a.content = true
	a.said.finding(f)
	return wrote(a.w.Append(protocol.TypeFinding, f))
}

// A writeError is the stream's own failure, which no other provider can mend.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// wrote marks the error of a write. That another node writes the stream now is
// no failure, but how the job ends.
func wrote(err error) error {
	if err == nil {
		return nil
	}
	if isTakenOver(err) {
		return cancelled{leftTakenOver}
	}
	return writeError{err}
}
