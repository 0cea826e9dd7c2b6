package analysis_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// letters are the names of the providers, and begin the words of their answers.
const letters = "abc"

// A reply is a provider's whole answer: words, each of which says who said it
// and where it belongs, so that nothing can be lost, repeated or put elsewhere
// unseen; and findings between them, on lines of their own.
type reply struct {
	raw      string // what the model says
	text     string // what of it is left for the client as text
	findings []int  // where in text they belong
}

// findingLine is the n-th finding as a model writes it.
func findingLine(n int) string {
	return fmt.Sprintf(`@finding {"rule":"f%d","severity":"high","message":"found","line":1}`+"\n", n)
}

// reply returns a provider's answer. All are alike but for the letter.
func (p *plan) reply(provider string) (r reply) {
	var raw, text strings.Builder
	for i := range p.words {
		word := fmt.Sprintf("%s%05dé ", provider, i)
		if (i+1)%p.every == 0 {
			word += "\n"
		}
		raw.WriteString(word)
		text.WriteString(word)
		if (i+1)%p.every == 0 {
			raw.WriteString(findingLine(len(r.findings)))
			r.findings = append(r.findings, text.Len())
		}
	}
	r.raw, r.text = raw.String()+".", text.String()+"."
	return r
}

// A plan is what is to happen to one job, drawn before it starts.
type plan struct {
	job    int
	words  int           // of the answer
	every  int           // how many of them come before a finding
	cancel time.Duration // when it is cancelled; never where it is negative
	hedge  *bool
	// scripts are what each provider does with its calls for this job; from the
	// last on, as with that. Their pieces are made when it is known what is asked.
	scripts [len(letters)][]act
	// usageLast says who tells usage behind the end of the answer.
	usageLast [len(letters)]bool
}

// An act is how one call is answered.
type act struct {
	fault   providertest.Fault
	framing providertest.Framing
	delay   time.Duration // of the headers
	thinks  bool          // before it answers
	repeats int           // how many words a continuation says again
	seed    uint64        // of the pieces' lengths and pauses
}

// draw makes a plan.
func draw(rng *rand.Rand, job int) *plan {
	p := &plan{job: job, words: 2 + rng.IntN(20), every: 2 + rng.IntN(10), cancel: -1}
	if rng.IntN(12) == 0 {
		p.cancel = time.Duration(rng.IntN(80)) * time.Millisecond
	}
	if rng.IntN(4) == 0 {
		p.hedge = new(rng.IntN(2) == 0)
	}
	bad := 0.2 + 0.6*rng.Float64() // the part of its calls that go wrong
	for i := range p.scripts {
		for range 6 {
			s := act{seed: rng.Uint64(), repeats: rng.IntN(4), thinks: rng.IntN(4) == 0}
			if rng.Float64() < bad {
				s.fault = drawFault(rng)
			}
			if rng.IntN(8) == 0 {
				s.delay = time.Duration(rng.IntN(30)) * time.Millisecond
			}
			s.framing = providertest.Framing{CRLF: rng.IntN(4) == 0, Comments: rng.IntN(3), Pings: rng.IntN(4) == 0}
			if rng.IntN(4) == 0 {
				s.framing.Split = 1 + rng.IntN(60)
			}
			if rng.IntN(2) == 0 {
				s.framing.KeepAlive = 5 * time.Millisecond
			}
			p.scripts[i] = append(p.scripts[i], s)
		}
	}
	return p
}

// garbage are malformed chunks; "" is a piece of the dialect's JSON that breaks
// off.
var garbage = []string{"", "", "garb", `{"x":`, "[1,2", `{"choices":[{"index":0,"delta":{"content":7}}]}`, "\xff\xfe", "}{", "null"}

// rest is what follows what was said of r, where the findings may have been moved
// to its beginning and written anew, and the white space at its end left out.
func (r *reply) rest(said string) string {
	found, text, half := 0, 0, 0
	for line := range strings.Lines(said) {
		switch {
		case !strings.HasPrefix(line, "@"):
			text += len(line)
		case strings.HasSuffix(line, "}\n"):
			found++
		case strings.HasSuffix(line, "}"): // and its end is left out
			half = len(findingLine(found)) - 1
		default:
			half = len(line)
		}
	}
	space := ""
	if found > 0 && text < r.findings[found-1] {
		space = r.text[text:r.findings[found-1]]
	}
	at := text + len(space) + half
	for n := range found {
		at += len(findingLine(n))
	}
	return space + r.raw[min(at, len(r.raw)):]
}

func drawFault(rng *rand.Rand) providertest.Fault {
	f := providertest.Fault{After: rng.IntN(8)}
	switch rng.IntN(14) {
	case 0, 1:
		f = status([]int{500, 502, 503, 529, 429, 401, 400, 413}[rng.IntN(8)], nil)
	case 2:
		f = status(429, http.Header{"Retry-After-Ms": {strconv.Itoa(1 + rng.IntN(60))}})
	case 3:
		f.Kind = providertest.FaultReset
	case 4:
		f.Kind = providertest.FaultSilence
	case 5:
		f.Kind = providertest.FaultMute
	case 6:
		f.Kind = providertest.FaultCut
	case 7:
		f.Kind, f.Bytes = providertest.FaultCut, 1+rng.IntN(2000)
	case 8:
		f.Kind = providertest.FaultEnd
	case 9:
		f.Kind = providertest.FaultStall
	case 10:
		f.Kind, f.Interval = providertest.FaultCrawl, time.Duration(5+rng.IntN(60))*time.Millisecond
	case 11:
		f.Kind, f.Body = providertest.FaultMalformed, garbage[rng.IntN(len(garbage))]
	case 12:
		f.Kind = []providertest.FaultKind{providertest.FaultNoEnd, providertest.FaultNoFinish}[rng.IntN(2)]
	case 13:
		f.Kind, f.Code = providertest.FaultError, []string{"overloaded_error", "api_error", "server_error", "rate_limit_error"}[rng.IntN(4)]
	}
	return f
}

// marked finds the job in the code that is asked about.
var marked = regexp.MustCompile(`job_(\d+)_`)

func (p *plan) code() string {
	return fmt.Sprintf("package main\n\n// job_%d_\nfunc main() {}\n", p.job)
}

// script answers the n-th call, from 0, of provider i for the job: from the
// beginning, or with exactly the rest of what the call says was said.
func (p *plan) script(i, n int, c *providertest.Call) providertest.Script {
	act := p.scripts[i][min(n, len(p.scripts[i])-1)]
	rng := rand.New(rand.NewPCG(act.seed, uint64(n)))
	provider := letters[i : i+1]
	reply := p.reply(provider)
	answer := reply.raw
	s := providertest.Script{Model: "model-" + provider, HeaderDelay: act.delay, Fault: act.fault, Framing: act.framing,
		Usage: p.usage(i)}
	if act.thinks {
		s.Pieces = append(s.Pieces, providertest.Piece{Kind: providertest.PieceReasoning, Text: "hm"})
	}
	turns := c.Turns()
	if len(turns) > 1 {
		said := turns[1].Text
		answer = reply.rest(said)
		// Models that can't take a beginning as theirs like to repeat its end. Two
		// words are the least that is taken for that.
		if at := len(said) - act.repeats*len("a00000é "); len(turns) > 2 && act.repeats > 1 && at > 0 {
			for !utf8.RuneStart(said[at]) {
				at--
			}
			answer = said[at:] + answer
		}
	}
	for answer != "" {
		piece := providertest.Piece{Text: protocol.SplitText(answer, 1+rng.IntN(24))[0]}
		if rng.IntN(8) == 0 {
			piece.After = time.Duration(rng.IntN(4)) * time.Millisecond
		}
		answer = answer[len(piece.Text):]
		s.Pieces = append(s.Pieces, piece)
	}
	return s
}

// check returns what is wrong with a stream that has come to its end: every
// piece of text must stand at its place and be of the provider whose attempt it
// is, every finding must come once and between its words, and only the whole
// answer may be called completed.
func (p *plan) check(events []protocol.Event) error {
	by := make(map[int]string)
	at, found, floor, attempts := 0, 0, "", 0
	broken := false // an answer that broke off inside a finding ends with what there was of it
	for i := range events {
		e := &events[i]
		data := protocol.DataFor(e.Type)
		if err := e.Decode(data); err != nil {
			return err
		}
		whole := p.reply(floor)
		if broken && e.Type != protocol.TypeFailed && e.Type != protocol.TypeCancelled {
			return fmt.Errorf("event %d: %s behind a finding that broke off", e.Seq, e.Type)
		}
		switch d := data.(type) {
		case *protocol.Started:
			attempts++
			by[d.Attempt] = d.Provider
			if attempts == 1 {
				floor = d.Provider
			}
		case *protocol.Failover:
			floor = d.To
			if d.Discard {
				at, found = 0, 0
			}
		case *protocol.Finding:
			if found >= len(whole.findings) || d.Rule != fmt.Sprintf("f%d", found) || at != whole.findings[found] {
				return fmt.Errorf("event %d: finding %q at byte %d, after %d others", e.Seq, d.Rule, at, found)
			}
			found++
		case *protocol.Chunk:
			if d.Kind == protocol.KindText && d.Text[0] == '@' && strings.HasPrefix(findingLine(found), d.Text) {
				broken = true
				continue
			}
			if by[d.Attempt] != floor {
				return fmt.Errorf("event %d: attempt %d, of %q, speaks, and %q has the floor", e.Seq, d.Attempt, by[d.Attempt], floor)
			}
			if d.Kind != protocol.KindText {
				continue
			}
			if !strings.HasPrefix(whole.text[at:], d.Text) {
				return fmt.Errorf("event %d: attempt %d, of %q, says %q at byte %d of %d", e.Seq, d.Attempt, floor, d.Text, at, len(whole.text))
			}
			at += len(d.Text)
		case *protocol.Completed:
			switch {
			case at != len(whole.text) || found != len(whole.findings):
				return fmt.Errorf("completed with %d of %d bytes and %d of %d findings", at, len(whole.text), found, len(whole.findings))
			case d.Provider != floor || d.Model != "model-"+floor:
				return fmt.Errorf("completed by %s's %s, and %q has the floor", d.Provider, d.Model, floor)
			}
			if err := p.checkUsage(strings.Index(letters, floor), d.Usage); err != nil {
				return err
			}
		case *protocol.Failed:
			if d.Error.Provider == "" || d.Error.Code == protocol.CodeInternal || d.Error.Detail == "" {
				return fmt.Errorf("failed with %+v", d.Error)
			}
		case *protocol.Cancelled:
			if p.cancel < 0 || d.By != protocol.CancelClient {
				return fmt.Errorf("cancelled by %s", d.By)
			}
		}
	}
	if attempts > 6 {
		return fmt.Errorf("%d attempts", attempts)
	}
	return nil
}

// usage is what provider i says of its cost.
func (p *plan) usage(i int) *protocol.Usage {
	return &protocol.Usage{InputTokens: int64(101 + i), OutputTokens: int64(1000 + p.words)}
}

// checkUsage returns what is wrong with u as provider i's. It may be estimated
// only where a provider tells it behind the end of the answer: the connection, or
// a deadline, can come between.
func (p *plan) checkUsage(i int, u *protocol.Usage) error {
	if u == nil || *u != *p.usage(i) && (!u.Estimated || !p.usageLast[i]) {
		return fmt.Errorf("completed by %q with the usage %+v", letters[i:i+1], u)
	}
	return nil
}
