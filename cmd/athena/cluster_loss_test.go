//go:build unix

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// words100 is an answer that takes a second and a half.
var words100 = strings.SplitAfter(strings.Repeat("Wörter ", 100), " ")

// TestStreamsOfALostNodeGoOn kills a node with the lease as it is by default.
func TestStreamsOfALostNodeGoOn(t *testing.T) {
	t.Parallel()
	const within = 10 * time.Second
	g := together(t, abc)
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	var streams []*roaming
	var codes []string
	for i := range 3 {
		code := fmt.Sprintf("code-killed-%d", i)
		g.answers(code, held("never ", "finished"), answer(5*time.Millisecond, words100...))
		id := a.beginCode(code)
		// Those of the last stream are all on the node that is lost.
		others := []*server{b, c}
		first := []*server{b, c, a}[i]
		if first == a {
			others = append(others, a)
		}
		streams, codes = append(streams, g.roam(id, "never finished", first, others...)), append(codes, code)
	}
	killed := time.Now()
	a.kill()
	for i, s := range streams {
		tr := s.wait()
		wantEnd(t, tr, protocol.TypeCompleted, `"finish_reason":"stop"`)
		if got := tr.Text(); got != strings.Join(words100, "") {
			t.Errorf("stream %d says %q", i, got)
		}
		for _, r := range s.roamers {
			list := failovers(t, r.events)
			if len(list) != 1 || list[0].Reason != "owner_lost" || !list[0].Discard || list[0].Attempt != 2 {
				t.Errorf("stream %d over %s: failovers %+v, want one for the owner that was lost", i, r.transport, list)
			}
		}
		for _, e := range s.roamers[0].events {
			if e.Type == protocol.TypeFailover {
				if took := e.event.Time.Sub(killed); took > within {
					t.Errorf("stream %d was taken over %v after its node was killed, want within %v", i, took, within)
				} else {
					t.Logf("stream %d was taken over %v after its node was killed", i, took.Round(time.Millisecond))
				}
			}
		}
		if calls := g.callers(codes[i]); len(calls) != 2 || calls[0] != "a" || calls[1] == "a" {
			t.Errorf("stream %d: the upstream was asked by %v, want a and one other", i, calls)
		}
		// Late readers get the same from each of the others.
		for _, n := range []*server{b, c} {
			if late := n.read(protocol.TransportLongPoll, s.roamers[0].id); late.Text() != tr.Text() || late.Cursor() != tr.Cursor() {
				t.Errorf("stream %d, late: %q up to %d, want %d", i, late.Text(), late.Cursor(), tr.Cursor())
			}
		}
	}
	g.start(a)
	g.wait(a, b, c)
	if late := a.read(protocol.TransportSSE, streams[0].roamers[0].id); late.Text() != strings.Join(words100, "") {
		t.Errorf("on the node that came back: %q", late.Text())
	}
}

func TestStreamsOfALostNodeFailWhereNobodyTakesOver(t *testing.T) {
	t.Parallel()
	g := together(t, abc, "--no-takeover", "--cluster-lease", "1s")
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	g.answers("code-lost", held("so far"))
	id := a.beginCode("code-lost")
	all := g.roam(id, "so far", a, b, c)
	killed := time.Now()
	a.kill()
	tr := all.wait()
	wantEnd(t, tr, protocol.TypeFailed, `"code":"owner_lost"`)
	took := tr.Terminal().Time.Sub(killed)
	if t.Logf("the stream failed %v after its node was killed", took.Round(time.Millisecond)); took > 10*time.Second {
		t.Error("too late")
	}
	for _, n := range []*server{b, c} {
		wantEnd(t, n.read(protocol.TransportSSE, id), protocol.TypeFailed, `"code":"owner_lost"`)
	}
	if calls := g.callers("code-lost"); len(calls) != 1 {
		t.Errorf("the upstream was asked by %v, want a once", calls)
	}
}

func TestANodeThatWakesUpWritesNothingMore(t *testing.T) {
	t.Parallel()
	g := together(t, abc, "--cluster-lease", "1s")
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	// The first answer goes on for as long as the node sleeps, and after.
	slow := answer(50*time.Millisecond, strings.SplitAfter(strings.Repeat("old ", 400), " ")...)
	g.answers("code-sleep", slow, answer(5*time.Millisecond, words100...))
	id := a.beginCode("code-sleep")
	here := g.roam(id, "old old ", a) // all the time on the node that sleeps
	there := g.roam(id, "old old ", b, c)
	a.signal(syscall.SIGSTOP)
	tr := there.wait()
	wantEnd(t, tr, protocol.TypeCompleted, `"finish_reason":"stop"`)
	if got := tr.Text(); got != strings.Join(words100, "") {
		t.Errorf("the others say %q", got)
	}
	if calls := g.callers("code-sleep"); len(calls) != 2 || calls[0] != "a" || calls[1] == "a" {
		t.Errorf("the upstream was asked by %v, want a and one other", calls)
	}
	a.signal(syscall.SIGCONT)
	if woken := here.wait(); woken.Cursor() != tr.Cursor() || woken.Text() != tr.Text() {
		t.Errorf("on the node that woke up the stream says %q up to %d, elsewhere up to %d", woken.Text(), woken.Cursor(), tr.Cursor())
	}
	g.wait(a, b, c)
	for _, n := range g.nodes {
		if late := n.read(protocol.TransportSSE, id); late.Cursor() != tr.Cursor() || late.Text() != tr.Text() {
			t.Errorf("late, on %s: %q up to %d, want up to %d", n.flag("--node-name"), late.Text(), late.Cursor(), tr.Cursor())
		}
	}
}

// TestANodeThatLeavesHandsOverWhatItRuns ends a node as an administrator does,
// while one of its analyses is soon done, and the other would take for ever.
func TestANodeThatLeavesHandsOverWhatItRuns(t *testing.T) {
	t.Parallel()
	g := together(t, abc, "--drain-timeout", "4s")
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	g.answers("code-short", answer(5*time.Millisecond, words100...))
	g.answers("code-endless", held("never ", "finished"), answer(time.Millisecond, words100...))
	short, endless := a.beginCode("code-short"), a.beginCode("code-endless")
	all := []*roaming{g.roam(short, "W", a, b, c), g.roam(short, "W", b, c), g.roam(endless, "never finished", a, b, c), g.roam(endless, "never finished", c, b)}
	a.stop()
	for i, s := range all {
		tr := s.wait()
		wantEnd(t, tr, protocol.TypeCompleted, `"finish_reason":"stop"`)
		if got := tr.Text(); got != strings.Join(words100, "") {
			t.Errorf("%d: text %q", i, got)
		}
		for _, r := range s.roamers {
			for _, f := range failovers(t, r.events) {
				if f.Reason != "draining" {
					t.Errorf("%d: failover %+v, want a reason of draining", i, f)
				}
			}
			// A node that has gone is no answer; any other is none of its business.
			if len(r.refusals) > 0 {
				t.Errorf("%d over %s: refused with %v", i, r.transport, r.refusals)
			}
		}
	}
	if calls := g.callers("code-endless"); len(calls) != 2 || calls[0] != "a" || calls[1] == "a" {
		t.Errorf("the upstream was asked by %v, want a and one other", calls)
	}
	if calls := g.callers("code-short"); calls[0] != "a" {
		t.Errorf("the upstream was asked by %v, want a first", calls)
	}
	g.wait(b, c)
}

// TestWhatANodeThatLeavesGivesToOthersCountsForItsOwnerThere ends a node that runs
// an analysis and is asked for another one meanwhile, where each caller may have
// two.
func TestWhatANodeThatLeavesGivesToOthersCountsForItsOwnerThere(t *testing.T) {
	t.Parallel()
	g := together(t, abc, "--drain-timeout", "4s", "--limit-key-streams", "2")
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	for _, code := range []string{"code-full", "code-given", "code-handed"} {
		g.answers(code, held("so far"))
	}
	full := b.beginCode("code-full")
	b.beginCode("code-full")
	a.beginCode("code-handed")
	a.signal(syscall.SIGTERM)
	for a.do("GET", "/readyz", "").status == http.StatusOK {
	}
	for { // a node that has just come may not be heard of yet
		r := a.do("POST", "/v1/analyses", request("code-given"))
		if r.status == http.StatusCreated {
			break
		}
		wantProblem(t, r, http.StatusServiceUnavailable, protocol.CodeDraining)
	}
	if calls := g.callers("code-given"); slices.ContainsFunc(calls, func(node string) bool { return node != "c" }) {
		t.Fatalf("the upstream was asked by %v, want c, since b has all that it may", calls)
	}
	for deadline := time.Now().Add(patience); len(g.callers("code-handed")) < 2; {
		if time.Now().After(deadline) {
			t.Fatal("the analysis was not handed over")
		}
	}
	other := c
	if g.callers("code-handed")[1] == "b" {
		other = b
		if r := b.do("DELETE", "/v1/streams/"+full, ""); r.status != http.StatusAccepted {
			t.Fatalf("%d %s", r.status, r.body)
		}
		b.watch(protocol.TransportSSE, full, 0).until(ended)
	}
	wantLimited(t, other.do("POST", "/v1/analyses", request("code-full")), "analyses running")
}

func TestHistoryOutlivesEveryNode(t *testing.T) {
	t.Parallel()
	g := together(t, abc, "--cluster-lease", "1s", "--cluster-forget-after", "1s", "--drain-timeout", "2s")
	g.answers("code-old", answer(time.Millisecond, words100...))
	id := g.nodes[0].beginCode("code-old")
	tr := g.nodes[0].read(protocol.TransportSSE, id)
	for i, name := range []string{"d", "e", "f"} {
		old := g.nodes[i]
		g.nodes = append(g.nodes, g.member(name))
		g.start(g.nodes[len(g.nodes)-1])
		g.wait(g.nodes[i:]...)
		old.stop()
		g.wait(g.nodes[i+1:]...)
	}
	g.nodes = g.nodes[3:]
	for _, n := range g.nodes {
		if late := n.read(protocol.TransportLongPoll, id); late.Text() != tr.Text() || late.Cursor() != tr.Cursor() {
			t.Errorf("on %s: %q up to %d, want up to %d", n.flag("--node-name"), late.Text(), late.Cursor(), tr.Cursor())
		}
	}
	g.answers("code-new", answer(0, "new"))
	id = g.nodes[0].beginCode("code-new")
	if tr := g.nodes[1].read(protocol.TransportSSE, id); tr.Text() != "new" {
		t.Errorf("a new stream says %q", tr.Text())
	}
}

func TestWithoutAMajorityStreamsGoOnAndAreStoredLater(t *testing.T) {
	t.Parallel()
	g := together(t, abc, "--cluster-lease", "1s")
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	g.answers("code-live", answer(40*time.Millisecond, words100...))
	g.answers("code-fresh", answer(5*time.Millisecond, words100...))
	live := a.beginCode("code-live")
	before := g.roam(live, "W", a)
	b.kill()
	c.kill()
	fresh := a.beginCode("code-fresh")
	during := g.roam(fresh, "", a)
	// A resume is served from memory.
	for _, s := range []*roaming{during, before} {
		tr := s.wait()
		wantEnd(t, tr, protocol.TypeCompleted, `"finish_reason":"stop"`)
		if late := a.read(protocol.TransportSSE, s.roamers[0].id); late.Text() != strings.Join(words100, "") || late.Cursor() != tr.Cursor() {
			t.Errorf("late: %q", late.Text())
		}
	}
	ready := reply{}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); rest(t.Context(), 50*time.Millisecond) {
		if ready = a.do("GET", "/readyz", ""); strings.Contains(ready.body, `"history":"degraded"`) {
			break
		}
	}
	if ready.status != http.StatusOK || !strings.Contains(ready.body, `"history":"degraded"`) {
		t.Errorf("readyz: %d %s", ready.status, ready.body)
	}
	g.start(b, c)
	g.wait(a, b, c)
	// What was said meanwhile is in the history.
	a.stop()
	for _, s := range []*roaming{before, during} {
		want := s.roamers[0].transcript
		for _, n := range []*server{b, c} {
			if late := n.read(protocol.TransportSSE, s.roamers[0].id); late.Text() != want.Text() || late.Cursor() != want.Cursor() {
				t.Errorf("on %s the history says %q up to %d, want up to %d", n.flag("--node-name"), late.Text(), late.Cursor(), want.Cursor())
			}
		}
	}
	if calls := slices.Concat(g.callers("code-live"), g.callers("code-fresh")); !slices.Equal(calls, []string{"a", "a"}) {
		t.Errorf("the upstream was asked by %v, want a for each", calls)
	}
}

// TestNobodySeesARollingRestart restarts every node behind a balancer, while
// analyses start, run and are watched. No request may be answered with an error.
func TestNobodySeesARollingRestart(t *testing.T) {
	t.Parallel()
	// As long as the balancer needs to see that a node is not ready any more.
	g := together(t, abc, "--cluster-lease", "1s", "--drain-timeout", "5s", "--drain-delay", "2s")
	g.answers("code-rolling", answer(10*time.Millisecond, words100...))
	var addresses []string
	for _, n := range g.nodes {
		addresses = append(addresses, n.addr)
	}
	front := &server{t: t, url: balance(t, rand.Uint64(), addresses).url}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	restarted := make(chan struct{})
	t.Cleanup(func() { <-restarted })
	go func() {
		defer close(restarted)
		for _, n := range g.nodes {
			if err := n.process.interrupt(); err != nil {
				t.Error(err)
				return
			}
			p, _, err := launch(n.variables, n.args...)
			if err != nil {
				t.Error(err)
				return
			}
			n.process = p
		}
	}()
	var all []*roaming
	for !closed(restarted) && ctx.Err() == nil && len(all) < 100 {
		all = append(all, g.roam(front.beginCode("code-rolling"), "W", front))
		rest(ctx, 100*time.Millisecond)
	}
	<-restarted
	moves := 0
	for i, s := range all {
		tr := s.wait()
		wantEnd(t, tr, protocol.TypeCompleted, `"finish_reason":"stop"`)
		if got := tr.Text(); got != strings.Join(words100, "") {
			t.Errorf("stream %d says %q", i, got)
		}
		for _, r := range s.roamers {
			moves += r.moves
			if len(r.refusals) > 0 {
				t.Errorf("stream %d over %s: refused with %v", i, r.transport, r.refusals)
			}
		}
	}
	if len(all) < 5 || moves == 0 {
		t.Errorf("%d streams were watched and %d clients moved: too few to show anything", len(all), moves)
	}
	g.wait(g.nodes...)
	t.Logf("%d streams, %d clients were asked to move", len(all), moves)
}
