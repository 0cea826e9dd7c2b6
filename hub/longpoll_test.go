package hub_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

func TestALongPollAnswersAsSoonAsThereIsSomething(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	got, _ := w.poll("single=1&wait=30s&stream=" + p.id)
	if got.Cursor != "1" || got.Done || len(got.Events) != 1 {
		t.Fatalf("answer is %+v, want the first event", got)
	}
	answer := make(chan protocol.Poll)
	go func() { g, _ := w.poll("single=1&after=1&wait=30s&stream=" + p.id); answer <- g }()
	eventually(t, "the poll watches", func() bool { n, _ := p.feed.Watchers(); return n == 1 })
	p.chunk("x")
	if got := <-answer; got.Cursor != "2" || len(got.Events) != 1 {
		t.Fatalf("answer is %+v, want the second event", got)
	}
}

func TestALongPollThatWaitsInVainReturnsItsCursor(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	for _, wait := range []string{"0s", "30ms", "-5s"} {
		got, e := w.poll("single=1&after=1&wait=" + wait + "&stream=" + p.id)
		if e != nil || got.Cursor != "1" || got.Done || got.Events == nil || len(got.Events) != 0 {
			t.Fatalf("wait %s: answer is %+v, %v; want no events and cursor 1", wait, got, e)
		}
	}
}

func TestALongPollLingersForABurst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hub.Options{PollLinger: 2 * time.Second}, hub.FeedLimits{})
	p := w.publish().start()
	answer := make(chan protocol.Poll)
	go func() { g, _ := w.poll("single=1&after=1&wait=30s&stream=" + p.id); answer <- g }()
	eventually(t, "the poll watches", func() bool { n, _ := p.feed.Watchers(); return n == 1 })
	p.chunks(5)
	if got := <-answer; got.Cursor != "6" {
		t.Fatalf("answer ends at %s, want 6: the burst in one answer", got.Cursor)
	}
}

func TestPollsOfSeveralStreamsLoseNothing(t *testing.T) {
	w := newWorld(t, hub.Options{PollBytes: 300}, hub.FeedLimits{FeedBytes: 2 << 10})
	a, b := w.publish().start(), w.publish().start()
	a.chunks(30)
	b.chunks(30)
	a.complete()
	b.complete()
	query := "wait=5s&stream=" + a.id + "&stream=" + b.id
	ta, tb := new(protocol.Transcript), new(protocol.Transcript)
	after := ""
	for round := 0; ; round++ {
		if round > 200 {
			t.Fatal("no end after 200 polls")
		}
		p, e := w.poll(query + "&after=" + after)
		if e != nil {
			t.Fatal(e)
		}
		if round%3 == 1 {
			continue // this answer was lost: the same is asked again
		}
		for _, raw := range p.Events {
			one := protocol.Poll{Events: []jsonRaw{raw}}
			if contains(raw, a.id) {
				applyAll(t, ta, one)
			} else {
				applyAll(t, tb, one)
			}
		}
		after = p.Cursor
		if p.Done {
			break
		}
	}
	a.check(ta)
	b.check(tb)
}

func TestLongPollErrorsAreProblems(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	for query, code := range map[string]protocol.Code{
		"single=1&stream=" + protocol.NewStreamID(): protocol.CodeStreamNotFound,
		"single=1&stream=x":                         protocol.CodeStreamNotFound,
		"":                                          protocol.CodeInvalidRequest,
		fmt.Sprintf("single=1&after=77&stream=%s", p.id): protocol.CodeInvalidCursor,
	} {
		if _, e := w.poll(query); e == nil || e.Code != code {
			t.Errorf("%q: error is %v, want %s", query, e, code)
		}
	}
}
