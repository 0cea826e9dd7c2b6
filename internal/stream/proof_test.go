package stream_test

import (
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

func TestAnEndThatCouldNotBeStoredIsForgottenByThoseWhoFollowedIt(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	text := say(t, w, 1, 4, "stored")
	a.logged(w.ID(), 5)
	early := watches(t, w.ID())
	early.reaches(c, 5)
	a.bus.away.Store(true)
	text += say(t, w, 1, 4, "unstored")
	complete(t, w)
	early.ends(c, text) // it is whole, and can be believed

	again := resume(t, b.takeOver(w.ID()), 2)
	anew := say(t, again, 2, 3, "anew")
	complete(t, again)
	eventually(t, "who comes later gets the end that the log has", func() bool {
		v := watches(t, w.ID())
		if _, refused := v.poll(c, time.Second); refused != nil {
			t.Fatalf("refused: %v", refused)
		}
		return v.tr.Terminal() != nil && v.tr.Terminal().Seq > covered
	})
	watches(t, w.ID()).ends(c, anew)
}

func TestAnEndThatCouldNotBeStoredIsForgottenByWhoAskedForIt(t *testing.T) {
	o := fast
	o.CheckInterval = time.Hour // it is the client's cursor that makes c ask
	ps := peers(t, o, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	text := say(t, w, 1, 4, "stored")
	a.logged(w.ID(), 5)
	watches(t, w.ID()).reaches(c, 5)
	early := watches(t, w.ID())
	subscribed := c.bus.subscribe.Load()
	c.bus.deaf.Store(true)
	a.bus.away.Store(true)
	text += say(t, w, 1, 4, "unstored")
	early.reaches(a, 9)
	complete(t, w)
	early.ends(c, text)

	eventually(t, "a stream that has ended is not subscribed to", func() bool { return c.bus.subscribe.Load() < subscribed })
	again := resume(t, b.takeOver(w.ID()), 2)
	anew := say(t, again, 2, 3, "anew")
	complete(t, again)
	eventually(t, "who comes later gets the end that the log has", func() bool {
		v := watches(t, w.ID())
		if _, refused := v.poll(c, time.Second); refused != nil {
			t.Fatalf("refused: %v", refused)
		}
		return v.tr.Terminal() != nil && v.tr.Terminal().Seq > covered
	})
	watches(t, w.ID()).ends(c, anew)
}

func TestACursorIsNotRefusedOnTheWordOfAReplicaThatLags(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	running, over := a.create(), a.create()
	start(t, running)
	start(t, over)
	say(t, running, 1, 4, "stored")
	a.logged(running.ID(), 5)
	a.logged(over.ID(), 1)
	record, err := a.bus.Backbone.RunningRecord(t.Context(), running.ID())
	must(t, err)
	// a and c have been cut off from b, and see what there was before.
	a.bus.lag.Store(&record)
	a.bus.tail.Store(&tails{running.ID(): 5, over.ID(): 1})
	c.bus.tail.Store(&tails{running.ID(): 5, over.ID(): 1})
	seen := watches(t, running.ID())
	again := resume(t, b.takeOver(running.ID()), 2)
	say(t, again, 2, 3, "anew")
	seen.reaches(b, covered+5)
	for _, p := range []*peer{a, c} {
		if _, refused := seen.poll(p, 50*time.Millisecond); refused != nil && refused.Code == protocol.CodeInvalidCursor {
			t.Errorf("%s refuses a cursor of the newest owner's: %v", p.name, refused)
		}
	}
	a.bus.lag.Store(nil)
	if _, refused := watches(t, over.ID()).ask(a, 7, 50*time.Millisecond); refused == nil || refused.Code != protocol.CodeInvalidCursor {
		t.Errorf("a cursor that nobody has given is answered with %v", refused)
	}
}

// tails are what a replica shows of logs: the last seq by stream.
type tails map[string]uint64
