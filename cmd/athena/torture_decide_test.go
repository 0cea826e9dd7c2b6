package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/providers/providertest"
)

// Every random decision of the torture comes from here, and from its seed and
// a number only: never from what happened. So a seed repeats what each client
// wants, though not the moments at which the machine lets it.

// The parts of the torture that decide, as the second half of a seed.
const (
	decidesClient uint64 = 1 << (32 + iota)
	decidesScript
	decidesNode
	decidesFaults
)

func decisions(seed, part uint64, number int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, part+uint64(number)))
}

// A cut is a way to end a connection.
type cut uint8

const (
	cutClean cut = iota // as the transport is ended
	cutReset            // by a TCP reset
	cutGone             // by leaving in the middle of whatever it does
)

// A round is what a client does with one connection.
type round struct {
	transport string
	// streams is how many it watches at least; picks choose those that it has
	// not been watching.
	streams int
	picks   []uint64
	// fresh prefers the newest streams.
	fresh bool
	// rewind goes back to an old cursor with a fresh transcript, to the
	// beginning where the place, a part of what it has, is 0.
	rewind      bool
	rewindPlace float64
	// After so many events, or after so long, the connection is cut.
	cut       cut
	cutEvents int
	cutAfter  time.Duration
	// slow is the pause after each message, which receive makes felt.
	slow    time.Duration
	receive int
	// pause is a long one, once, after so many events.
	pause       time.Duration
	pauseEvents int
	// resubscribe is after how many events a WebSocket ends a subscription, to
	// subscribe again; never where it is 0.
	resubscribe int
	// drops is which of the first 64 answers to long-polls are lost.
	drops uint64
	// rest is how long it waits before the next connection.
	rest time.Duration
}

// nextRound decides on a round. It draws the same numbers whatever comes out.
func nextRound(r *rand.Rand) round {
	d := round{
		transport:   transports[r.IntN(len(transports))],
		streams:     1 + r.IntN(4)*r.IntN(2),
		picks:       []uint64{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()},
		fresh:       r.IntN(4) > 0,
		rewind:      r.IntN(6) == 0,
		rewindPlace: max(0, r.Float64()*1.3-0.3),
		cut:         cut(r.IntN(3)),
		cutEvents:   1 + r.IntN(10+r.IntN(140)),
		cutAfter:    time.Duration(20+r.IntN(2000)) * time.Millisecond,
		rest:        time.Duration(r.IntN(60)) * time.Millisecond,
		pauseEvents: 1 + r.IntN(30),
		drops:       r.Uint64() & r.Uint64(),
	}
	if n := r.IntN(40); r.IntN(3) == 0 {
		d.resubscribe = 1 + n
	}
	slow, pause := r.IntN(100), r.IntN(700)
	switch r.IntN(8) {
	case 0:
		d.slow, d.receive = time.Duration(1+slow)*time.Millisecond, 2048
	case 1:
		d.pause, d.receive = time.Duration(100+pause)*time.Millisecond, 2048
	}
	return d
}

// longestJob bounds how long the upstream talks in one job.
const longestJob = 4 * time.Second

// A tortureJob is one analysis: what the upstream says, and what happens to it.
type tortureJob struct {
	number int
	script providertest.Script
	// faults are how the first calls for it go wrong, one after the other.
	faults []providertest.Fault
	// text, reasoning and findings are what clients have to receive of it.
	text, reasoning string
	findings        int
	// cancelAfter is when a client cancels it; never where it is 0.
	cancelAfter time.Duration
	// pause is how long the starter waits before the next.
	pause time.Duration
}

var words = []string{"stream", "Größe", "naïve", "Ἀθηνᾶ", "разбор", "分析", "コード", "🦉", "👩‍💻", "\"quoted\"", "back\\slash", "<b>&amp;</b>", "\u2028", "tab\t", "é", "\u0000", "0123456789"}

// findingLine is a finding as models write it; no other text of a job holds
// its first character.
const findingLine = `@finding {"rule":"torture","severity":"low","message":"Nr. %d «Ж»","line":1}`

// longPiece bounds the longest pieces of an answer, in repetitions of a few
// bytes.
const longPiece = 3000

// makeJob decides on the job of this number, with long pieces of so many
// repetitions. Its text begins with the number, so that a client's text says
// which job it is.
func makeJob(seed uint64, number, long int) *tortureJob {
	r := decisions(seed, decidesScript, number)
	j := &tortureJob{number: number, pause: time.Duration(30+r.IntN(200)) * time.Millisecond}
	pieces, interval := 20+r.IntN(150), time.Duration(1+r.IntN(25))*time.Millisecond
	switch r.IntN(8) {
	case 0: // all at once
		interval = 0
	case 1: // long
		pieces *= 3
	}
	interval = min(interval, longestJob/time.Duration(pieces))
	if r.IntN(12) == 0 {
		j.cancelAfter = time.Duration(r.IntN(1200)) * time.Millisecond
	}
	var b strings.Builder
	piece := func(kind providertest.PieceKind, text string) {
		j.script.Pieces = append(j.script.Pieces, providertest.Piece{Kind: kind, Text: text, After: interval})
	}
	if r.IntN(3) == 0 {
		for range 1 + r.IntN(30) {
			text := words[r.IntN(len(words))] + " … "
			j.reasoning += text
			piece(providertest.PieceReasoning, text)
		}
	}
	finds := r.IntN(3) == 0
	b.WriteString(jobHead(number))
	piece(providertest.PieceText, jobHead(number))
	for range pieces {
		if finds && r.IntN(15) == 0 {
			line := fmt.Sprintf(findingLine, j.findings)
			half := r.IntN(len(line)/2) + 1
			b.WriteString("\n")
			piece(providertest.PieceText, "\n"+line[:half])
			piece(providertest.PieceText, line[half:]+"\n")
			j.findings++
			continue
		}
		var text strings.Builder
		for range 1 + r.IntN(4) {
			text.WriteString(words[r.IntN(len(words))] + " ")
		}
		if r.IntN(40) == 0 {
			text.WriteString(strings.Repeat("long 長い ", r.IntN(long)))
		}
		b.WriteString(text.String())
		piece(providertest.PieceText, text.String())
	}
	j.text = b.String()
	for range max(0, r.IntN(5)-2) {
		j.faults = append(j.faults, providertest.Fault{
			Kind:   []providertest.FaultKind{providertest.FaultStatus, providertest.FaultReset, providertest.FaultCut, providertest.FaultEnd, providertest.FaultError}[r.IntN(5)],
			Status: http.StatusServiceUnavailable, After: r.IntN(len(j.script.Pieces))})
	}
	return j
}

// reply is what the upstream says to the n-th call for the job, from 1.
func (j *tortureJob) reply(n int) providertest.Script {
	s := j.script
	if n <= len(j.faults) {
		s.Fault = j.faults[n-1]
	}
	return s
}

func jobHead(number int) string { return fmt.Sprintf("job %d: ", number) }

// A blow is what happens to the node, and how long after the one before.
type blow struct {
	after time.Duration
	kill  bool
	// twice is whether the signal that asks it to end is repeated at once. A
	// kill then comes while the node drains, inDrain after it was asked to end.
	twice   bool
	inDrain time.Duration
}

// nextBlow decides on a blow. Of the first two, the next two and so on one is a
// kill.
func nextBlow(r *rand.Rand, number int, previous bool) (b blow) {
	b = blow{after: time.Duration(700+r.IntN(1300)) * time.Millisecond, kill: r.IntN(2) == 0, twice: r.IntN(3) == 0,
		inDrain: time.Duration(r.IntN(300)) * time.Millisecond}
	if number%2 == 1 {
		b.kill = !previous
	}
	return b
}

func TestASeedRepeatsEveryDecisionOfTheTorture(t *testing.T) {
	type all struct {
		rounds map[int][]round
		jobs   []*tortureJob
		blows  []blow
	}
	decide := func(seed uint64) all {
		a := all{rounds: make(map[int][]round)}
		for client := range 20 {
			r := decisions(seed, decidesClient, client)
			for range 200 {
				a.rounds[client] = append(a.rounds[client], nextRound(r))
			}
		}
		for number := range 20 {
			a.jobs = append(a.jobs, makeJob(seed, number, longPiece))
		}
		r := decisions(seed, decidesNode, 0)
		killed := false
		for number := range 40 {
			b := nextBlow(r, number, killed)
			a.blows, killed = append(a.blows, b), b.kill
		}
		return a
	}
	first, again, other := decide(7), decide(7), decide(8)
	if !reflect.DeepEqual(first, again) {
		t.Error("the same seed led to other decisions")
	}
	if reflect.DeepEqual(first.rounds, other.rounds) || reflect.DeepEqual(first.jobs, other.jobs) || reflect.DeepEqual(first.blows, other.blows) {
		t.Error("another seed led to the same decisions")
	}
	if reflect.DeepEqual(first.rounds[0], first.rounds[1]) {
		t.Error("two clients do the same")
	}
	// A job's expected text is what its pieces say without the findings.
	for _, j := range first.jobs {
		said := providertest.Joined(j.script.Pieces, providertest.PieceText)
		for i := range j.findings {
			said = strings.Replace(said, fmt.Sprintf(findingLine, i)+"\n", "", 1)
		}
		if said != j.text || strings.Contains(said, "@") || !strings.HasPrefix(said, jobHead(j.number)) {
			t.Errorf("job %d says %.200q, but %.200q is expected", j.number, said, j.text)
		}
	}
	seen := make(map[string]int)
	for _, rounds := range first.rounds {
		for _, d := range rounds {
			seen[d.transport]++
			seen[fmt.Sprint("cut", d.cut)]++
			if d.rewind {
				seen["rewind"]++
			}
			if d.slow > 0 {
				seen["slow"]++
			}
			if d.pause > 0 {
				seen["pause"]++
			}
		}
	}
	if len(seen) != 9 {
		t.Errorf("some kinds of decisions are never made: %v", seen)
	}
}
