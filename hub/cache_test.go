package hub_test

import (
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

func TestClientsAreToldWhenCachedAnswersAreNoLongerGood(t *testing.T) {
	var generation atomic.Value
	generation.Store("a1")
	w := newWorld(t, hub.Options{CacheGeneration: func() string { return generation.Load().(string) }}, hub.FeedLimits{})
	p := w.publish().start()
	ws := w.dial()
	sse := w.sse("single=1&stream="+p.id, "0")
	f, err := sse.frame()
	if err != nil || f.event != "welcome" || !strings.Contains(f.data, `"cache":"a1"`) {
		t.Fatalf("the first frame is %+v, %v; want a welcome that tells the generation", f, err)
	}
	if f, err = sse.frame(); err != nil || f.id != "1" {
		t.Fatalf("the second frame is %+v, %v; want started", f, err)
	}

	generation.Store("b2")
	for range 2 { // twice: who knows it already isn't told again
		w.hub.TellCacheGeneration()
	}
	if m := ws.next(); m.Type != protocol.MessageCache || m.Cache != "b2" {
		t.Errorf("the WebSocket is told %+v", m)
	}
	if f, err = sse.frame(); err != nil || f.event != protocol.MessageCache || f.data != `{"cache":"b2"}` || f.id != "" {
		t.Errorf("the event stream is told %+v, %v", f, err)
	}
	ws.send(`{"type":"ping","id":"p"}`)
	if m := ws.next(); m.Type != protocol.MessagePong {
		t.Errorf("after that the WebSocket is told %+v", m)
	}
	p.complete()
	if f, err = sse.frame(); err != nil || f.id != "2" || f.event != "" {
		t.Errorf("after that the event stream is told %+v, %v", f, err)
	}
	if poll, problem := w.poll("single=1&after=0&stream=" + p.id); problem != nil || poll.Cache != "b2" || len(poll.Events) != 2 {
		t.Errorf("the poll is answered %+v, %v", poll, problem)
	}
}

func TestAClientThatReadsLateIsToldTheNewestGenerationOnly(t *testing.T) {
	var generation atomic.Value
	generation.Store("a")
	o := oneMessage
	o.CacheGeneration = func() string { return generation.Load().(string) }
	w := newWorld(t, o, roomyFeeds)
	c, rest := w.hang(w.huge())
	for _, g := range []string{"b", "c", "d"} {
		generation.Store(g)
		w.hub.TellCacheGeneration()
	}
	if _, err := io.Copy(io.Discard, rest); err != nil {
		t.Fatal(err)
	}
	if m := c.next(); m.Type != protocol.MessageCache || m.Cache != "d" {
		t.Errorf("the first is %+v, want that it is d", m)
	}
	c.send(`{"type":"ping","id":"p"}`)
	if m := c.next(); m.Type != protocol.MessagePong {
		t.Errorf("the next is %+v, want a pong", m)
	}
}
