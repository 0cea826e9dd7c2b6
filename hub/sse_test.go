package hub_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

func TestAnEventStreamBeginsWithRetryPaddingAndWelcome(t *testing.T) {
	w := newWorld(t, hub.Options{Node: "n7"}, hub.FeedLimits{})
	p := w.publish().start()
	p.chunks(3)
	c := w.sse("single=1&stream="+p.id, "2")
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no",
	} {
		if got := c.resp.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	f, err := c.frame()
	if err != nil {
		t.Fatal(err)
	}
	retry, err := strconv.Atoi(f.retry)
	if err != nil || retry < 1000 || retry > 3000 || len(f.comment) < 2048 || f.event != "welcome" || f.id != "2" || !strings.Contains(f.data, `"node":"n7"`) {
		t.Fatalf("the first frame is retry %q, comment of %d, event %q, id %q, data %s", f.retry, len(f.comment), f.event, f.id, f.data)
	}
	f, err = c.frame()
	if err != nil || f.id != "4" || f.event != "" || !strings.Contains(f.data, `"first":3`) {
		t.Fatalf("the second frame is %+v, %v; want the rest, merged, with id 4", f, err)
	}
	p.complete()
	if f, err = c.frame(); err != nil || f.id != "5" {
		t.Fatalf("the third frame is %+v, %v; want completed", f, err)
	}
	if _, err = c.frame(); err == nil {
		t.Fatal("the response goes on after the terminal event")
	}
}

func TestAnEventSourceThatReconnectsAtTheEndIsStopped(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	p.complete()
	if c := w.sse("single=1&stream="+p.id, "2"); c.resp.StatusCode != http.StatusNoContent {
		t.Fatalf("status is %d, want 204", c.resp.StatusCode)
	}
	if n, _ := p.feed.Watchers(); n != 0 {
		t.Fatalf("the feed still has %d watchers", n)
	}
}

func TestSSEErrorsAreProblemsBeforeTheFirstByte(t *testing.T) {
	w := newWorld(t, hub.Options{MaxStreams: 2}, hub.FeedLimits{})
	p := w.publish().start()
	unknown := protocol.NewStreamID()
	for name, tc := range map[string]struct {
		query  string
		status int
	}{
		"unknown":       {"single=1&stream=" + unknown, 404},
		"one of two":    {"stream=" + p.id + "&stream=" + unknown, 404},
		"twice":         {"stream=" + p.id + "&stream=" + p.id, 400},
		"too many":      {"stream=a&stream=b&stream=c", 400},
		"none":          {"", 400},
		"ahead of head": {"single=1&after=9&stream=" + p.id, 400},
	} {
		c := w.sse(tc.query, "")
		if c.resp.StatusCode != tc.status || c.resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: status %d, %s; want a problem with %d", name, c.resp.StatusCode, c.resp.Header.Get("Content-Type"), tc.status)
		}
	}
	if n, _ := p.feed.Watchers(); n != 0 {
		t.Fatalf("the feed still has %d watchers", n)
	}
}

func TestSeveralStreamsOverOneSSEResumeWithACombinedID(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	a, b := w.publish().start(), w.publish().start()
	query := "stream=" + a.id + "&stream=" + b.id
	trs := map[string]*protocol.Transcript{}
	id := ""
	finished := func() bool {
		return trs[a.id] != nil && trs[a.id].Terminal() != nil && trs[b.id] != nil && trs[b.id].Terminal() != nil
	}
	for round := 0; !finished(); round++ {
		if round > 100 {
			t.Fatal("no end after 100 connections")
		}
		if round < 20 {
			a.chunk(fmt.Sprint("a", round))
			b.chunk(fmt.Sprint("b", round))
		} else if round == 20 {
			a.complete()
			b.complete()
		}
		c := w.sse(query, id)
		n := 0
		caughtUp := func() bool {
			return trs[a.id] != nil && trs[a.id].Cursor() == a.seq && trs[b.id] != nil && trs[b.id].Cursor() == b.seq
		}
		c.events(trs, func() bool { n++; return n > round%4 || caughtUp() }) // cut after some frames
		id = c.id
		_ = c.resp.Body.Close()
	}
	a.check(trs[a.id])
	b.check(trs[b.id])
	if c := w.sse(query, id); c.resp.StatusCode != http.StatusNoContent {
		t.Fatalf("status at the end of both is %d, want 204", c.resp.StatusCode)
	}
}

func TestAnIdleEventStreamGetsCommentsOfOneLine(t *testing.T) {
	w := newWorld(t, hub.Options{Heartbeat: 40 * time.Millisecond}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.sse("single=1&stream="+p.id, "")
	for range 2 { // welcome, started
		if _, err := c.frame(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if line, err := c.r.ReadString('\n'); err != nil || line != ":\n" {
			t.Fatalf("idle line is %q, %v; want a comment", line, err)
		}
	}
	p.complete()
	trs := map[string]*protocol.Transcript{p.id: new(protocol.Transcript)}
	w.apply(trs[p.id], p.id, 1)
	c.events(trs, nil)
	p.check(trs[p.id])
}

func TestAnSSEClientThatLeavesIsForgotten(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.sse("single=1&stream="+p.id, "")
	if _, err := c.frame(); err != nil {
		t.Fatal(err)
	}
	_ = c.resp.Body.Close()
	eventually(t, "nobody watches", func() bool { n, _ := p.feed.Watchers(); return n == 0 && w.hub.Connections() == 0 })
	if n := w.metrics.closedFor("client_gone"); n != 1 {
		t.Fatalf("%d sessions closed as client_gone, want 1", n)
	}
}
