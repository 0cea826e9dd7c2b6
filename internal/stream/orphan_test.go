package stream_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

func TestAStreamWithoutOwnerAndEndIsFollowedUntilItHasEither(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w, silent := a.create(), a.create()
	start(t, w)
	say(t, w, 1, 4, "stored")
	a.logged(w.ID(), 5)
	a.bus.away.Store(true)
	start(t, silent)
	say(t, w, 1, 4, "unstored")
	ahead := watches(t, w.ID())
	ahead.reaches(a, 9)
	onlySeen := watches(t, silent.ID())
	onlySeen.reaches(a, 1)
	a.crash()

	// Nobody has taken over yet. What is known is served, and cursors in what
	// isn't known are believed.
	fresh := watches(t, w.ID())
	fresh.reaches(c, 5)
	for _, v := range []*viewer{ahead, onlySeen, fresh} {
		if n, refused := v.poll(c, 30*time.Millisecond); n != 0 || refused != nil {
			t.Fatalf("between owners a poll after %d gives %d events, %v", v.tr.Cursor(), n, refused)
		}
	}
	m, err := c.hub.Metadata(t.Context(), w.ID())
	if err != nil || m.State != protocol.StateRunning || m.Head != 5 {
		t.Fatalf("between owners metadata are %+v, %v", m, err)
	}
	got := make(chan error, 1)
	go func() { // one that waits all the time
		tr, _, err := c.hub.Collect(t.Context(), silent.ID())
		if err == nil && (tr.Terminal() == nil || tr.Terminal().Type != protocol.TypeFailed) {
			err = errors.New("no failed event")
		}
		got <- err
	}()
	c.bus.deaf.Store(true) // what the next owner publishes is lost
	again := resume(t, b.takeOver(w.ID()), 2)
	must(t, b.takeOver(silent.ID()).Fail(t.Context(), protocol.Errorf(protocol.CodeOwnerLost, "gone")))
	must(t, <-got)
	text := say(t, again, 2, 3, "anew")
	complete(t, again)
	ahead.ends(c, text)
	fresh.ends(c, text)
	onlySeen.fails(c, protocol.CodeOwnerLost)
}

func TestReadingHistoryThatWasNeverStoredWaitsForTheNextOwner(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	a.logged(w.ID(), 1)
	a.crash()
	got := make(chan []protocol.Encoded, 1)
	go func() { // a reader at 7, whose feed has dropped what follows
		events, err := c.node.Read(t.Context(), w.ID(), 7, 1<<20)
		if err != nil {
			t.Error(err)
		}
		got <- events
	}()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.node.Read(short, w.ID(), 7, 1<<20); err == nil || !protocol.AsError(err).Retryable {
		t.Errorf("while nobody takes over a reader is told %v, want to come back", err)
	}
	resume(t, b.takeOver(w.ID()), 2)
	if events := <-got; len(events) == 0 || events[0].First != 2 || events[0].Seq != 1+covered {
		t.Errorf("the reader gets %d events, want the one that covers its cursor first", len(events))
	}
}

func TestAStreamThatHasJustBegunIsLookedForWhileNodesComeAndGo(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	a.bus.away.Store(true) // it isn't recorded
	w := a.create()
	start(t, w)
	b.bus.apart.Store(true)
	notFound := func(id string) bool {
		_, err := b.hub.Metadata(t.Context(), id)
		return protocol.AsError(err).Code == protocol.CodeStreamNotFound
	}
	if !notFound(w.ID()) {
		t.Error("where nothing happens, it is not unknown")
	}
	b.bus.unsettled.Store(true)
	if !notFound("01J" + w.ID()[3:]) {
		t.Error("one of long ago is not unknown")
	}
	before := b.bus.asked.Load()
	got := make(chan error, 1)
	go func() {
		m, err := b.hub.Metadata(t.Context(), w.ID())
		if err == nil && m.State != protocol.StateRunning {
			err = fmt.Errorf("its state is %s", m.State)
		}
		got <- err
	}()
	eventually(t, "it is looked for again and again", func() bool { return b.bus.asked.Load() > before+6 })
	b.bus.apart.Store(false)
	must(t, <-got)
	b.bus.apart.Store(true)
	began := time.Now()
	_, err := b.hub.Metadata(t.Context(), protocol.NewStreamID())
	if e := protocol.AsError(err); err == nil || !e.Retryable || e.RetryAfterMS == 0 {
		t.Errorf("one that can't be found is answered with %v, want one that says to come back", err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	complete(t, w)
}

func TestAnUnknownStreamIsNotFoundAtOnceByAnyNode(t *testing.T) {
	a := peers(t, fast, "a", "b")[0]
	began := time.Now()
	for range 20 {
		_, err := a.hub.Metadata(t.Context(), protocol.NewStreamID())
		if e := protocol.AsError(err); err == nil || e.Code != protocol.CodeStreamNotFound {
			t.Fatalf("error is %v, want stream_not_found", err)
		}
	}
	if took := time.Since(began) / 20; took > 500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	a.bus.away.Store(true) // then nobody knows
	_, err := a.hub.Metadata(t.Context(), protocol.NewStreamID())
	if e := protocol.AsError(err); err == nil || !e.Retryable {
		t.Errorf("without a store the error is %v, want one that says to come back", err)
	}
	if n := a.bus.subscribe.Load(); n != 0 {
		t.Errorf("%d live subscriptions are left", n)
	}
}

func TestACursorThatIsBeyondTheOwnersHeadIsRefused(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	w := a.create()
	start(t, w)
	for _, p := range []*peer{a, b} {
		_, refused := watchesFrom(t, w.ID(), 77).poll(p, time.Millisecond)
		if refused == nil || refused.Code != protocol.CodeInvalidCursor {
			t.Errorf("%s: %v, want invalid_cursor", p.name, refused)
		}
	}
	complete(t, w)
	a.logged(w.ID(), 2)
	for _, p := range []*peer{a, b} {
		_, refused := watchesFrom(t, w.ID(), 77).poll(p, time.Millisecond)
		if refused == nil || refused.Code != protocol.CodeInvalidCursor {
			t.Errorf("%s: at the end: %v, want invalid_cursor", p.name, refused)
		}
	}
}

// A cursorOnly asks after a cursor that it has never been at.
type cursorOnly struct {
	viewer
	after uint64
}

func watchesFrom(t *testing.T, id string, after uint64) *cursorOnly {
	return &cursorOnly{viewer{t: t, stream: id}, after}
}

func (c *cursorOnly) poll(p *peer, wait time.Duration) (int, *protocol.Error) {
	return c.ask(p, c.after, wait)
}

// TestAnOldOwnersAnswersDontLoseTheCoveringEvent has an owner that was taken
// over and doesn't know, and whose answers always come first.
func TestAnOldOwnersAnswersDontLoseTheCoveringEvent(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	say(t, w, 1, 2, "stored")
	a.logged(w.ID(), 3)
	a.bus.away.Store(true)
	say(t, w, 1, 4, "unstored")
	b.bus.slow.Store(int64(100 * time.Millisecond))
	again := resume(t, b.takeOver(w.ID()), 2)
	onB := watches(t, w.ID())
	onB.reaches(b, 4+covered)

	fresh := watches(t, w.ID()) // c has nothing of it yet, and asks a
	fresh.reaches(c, 7)
	if fresh.tr.Cursor() >= covered {
		t.Log("the new owner was heard first; the test wants the old one to be")
	}
	if _, refused := onB.poll(c, 10*time.Millisecond); refused != nil {
		t.Fatalf("c refuses a cursor that b has given: %v", refused)
	}
	text := say(t, again, 2, 3, "anew")
	fresh.reaches(c, 7+covered)
	onB.reaches(c, 7+covered)
	for _, v := range []*viewer{fresh, onB} {
		if got := v.tr.Text(); got != text {
			t.Errorf("text is %q, want %q", got, text)
		}
	}
	must(t, w.Append(protocol.TypeProgress, &protocol.Progress{Stage: "the old owner goes on"}))
	complete(t, again)
	fresh.ends(c, text)
	onB.ends(c, text)
	a.bus.away.Store(false)
	watches(t, w.ID()).ends(a, text)
}

// TestAnEndThatWasSeenAndNeverStoredGivesWayToTheLogs has an owner that ends
// its stream without a store, and clients that see it; and then the stream is
// taken over. Those clients are content. Everybody else sees what the log says,
// also on nodes whose feeds have the other end.
func TestAnEndThatWasSeenAndNeverStoredGivesWayToTheLogs(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	a.logged(w.ID(), 1)
	behind := watches(t, w.ID())
	behind.reaches(b, 1)
	a.bus.away.Store(true)
	early := say(t, w, 1, 3, "early")
	seen, seenOnC := watches(t, w.ID()), watches(t, w.ID())
	seen.reaches(b, 2)
	seenOnC.reaches(c, 2)
	keep := func(p *peer) { // its feed
		_, err := p.feeds.Open(t.Context(), w.ID(), p.node)
		must(t, err)
	}
	keep(b)
	keep(c)
	complete(t, w)
	seen.ends(b, early)
	seenOnC.ends(c, early)

	again := resume(t, b.takeOver(w.ID()), 2)
	onB := watches(t, w.ID())
	onB.reaches(b, 2+covered)
	behind.reaches(b, 2+covered)
	text := say(t, again, 2, 2, "late")
	b.bus.slow.Store(int64(50 * time.Millisecond)) // a answers first
	onB.reaches(c, 3+covered)                      // whose feed has ended
	complete(t, again)
	onB.ends(c, text)
	behind.ends(c, text)
	a.bus.away.Store(false)
	eventually(t, "a has given its end up", func() bool {
		v := watches(t, w.ID())
		_, refused := v.poll(a, time.Millisecond)
		return refused == nil && v.tr.Started().Attempt == 2
	})
	watches(t, w.ID()).ends(a, text)
	if n := a.unstored.Load(); n != 0 {
		t.Errorf("%d bytes wait to be stored", n)
	}
}

func TestALostEndIsNoticedThoughNothingFollowsIt(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	w := a.create()
	start(t, w)
	v := watches(t, w.ID())
	v.reaches(b, 1)
	f, err := b.feeds.Open(t.Context(), w.ID(), b.node)
	must(t, err)
	defer b.feeds.Release(f)
	b.bus.deaf.Store(true) // as when a route between the nodes is cut for a moment
	text := say(t, w, 1, 3, "lost on its way")
	complete(t, w)
	a.logged(w.ID(), 5)
	b.bus.deaf.Store(false)
	v.ends(b, text)
}

func TestAConflictWhileTheJobIsOursIsTriedAgain(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	w := a.create()
	var mu sync.Mutex
	calls := 0
	lags := appendFault(func(real func() (uint64, error)) (uint64, error) {
		pos, err := real()
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls <= 3 {
			return 0, backbone.ErrConflict
		}
		return pos, err
	})
	a.bus.append.Store(&lags)
	start(t, w)
	eventually(t, "it was tried again", func() bool { mu.Lock(); defer mu.Unlock(); return calls >= 4 })
	text := say(t, w, 1, 3, "x")
	complete(t, w)
	a.logged(w.ID(), 5)
	watches(t, w.ID()).ends(b, text)
}

// A job whose log was written by somebody without the right can't go on, and
// must not be forgotten.
func TestAJobWhoseLogIsForeignIsGivenAway(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	w := a.create()
	start(t, w)
	a.logged(w.ID(), 1)
	_, pos, _, err := b.bus.LogTail(t.Context(), w.ID())
	must(t, err)
	e, err := protocol.Encode(w.ID(), 2, 2, protocol.TypeProgress, time.Now(), &protocol.Progress{Stage: "foreign"})
	must(t, err)
	_, err = b.bus.AppendLog(t.Context(), w.ID(), pos, backbone.Batch{First: 2, Last: 2, Events: [][]byte{e.JSON}})
	must(t, err)
	say(t, w, 1, 1, "x")
	eventually(t, "the job is nobody's", func() bool {
		r, err := b.bus.RunningRecord(t.Context(), w.ID())
		return err == nil && string(r.Value[:len(`{"node":""`)]) == `{"node":""`
	})
	again := resume(t, b.takeOver(w.ID()), 2)
	complete(t, again)
	watches(t, w.ID()).ends(a, "")
}

func TestHandingOverLosesAndRepeatsNothing(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	o := a.create()
	start(t, o)
	onA, onC := watches(t, o.ID()), watches(t, o.ID())
	said := say(t, o, 1, 20, "before")
	onC.reaches(c, 5)
	waiting := make(chan *protocol.Transcript, 1)
	go func() {
		tr, _, err := a.hub.Collect(t.Context(), o.ID())
		if err != nil {
			t.Error(err)
		}
		waiting <- tr
	}()
	must(t, o.HandOver(t.Context()))
	if last, _, _, err := b.bus.LogTail(t.Context(), o.ID()); err != nil || last != 21 {
		t.Fatalf("the log ends at %d, %v; want everything, to 21", last, err)
	}
	if err := o.Chunk(protocol.KindText, 1, "x"); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("a chunk after handing over: %v, want ErrFenced", err)
	}
	if err := o.HandOver(t.Context()); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("handing over twice: %v, want ErrFenced", err)
	}
	onA.reaches(a, 21)
	onC.reaches(c, 21)
	if n, refused := onA.poll(a, 50*time.Millisecond); n != 0 || refused != nil {
		t.Fatalf("nobody writes, and %d events came, %v", n, refused)
	}
	l := b.lost(o.ID())
	if l.Node != "a" {
		t.Errorf("the record says that %q had the job, want a", l.Node)
	}
	taken := b.takeOver(o.ID())
	if taken.Past().Text() != said {
		t.Errorf("the past is %q", taken.Past().Text())
	}
	again := resume(t, taken, 2)
	text := say(t, again, 2, 3, "after")
	complete(t, again)
	wantCompleted(t, <-waiting, text)
	onA.ends(a, text)
	onC.ends(c, text)
	if n := a.unstored.Load(); n != 0 {
		t.Errorf("%d bytes wait to be stored on a", n)
	}
}

func TestAHandOverThatFailsChangesNothing(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	o := a.create()
	start(t, o)
	a.logged(o.ID(), 1)
	a.bus.away.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	text := say(t, o, 1, 2, "unstored ")
	if err := o.HandOver(ctx); err == nil || errors.Is(err, stream.ErrFenced) {
		t.Fatalf("handing over without a store: %v", err)
	}
	text += say(t, o, 1, 2, "goes on")
	a.bus.away.Store(false)
	must(t, o.HandOver(t.Context()))
	// It may come back to the node that gave it away.
	again := resume(t, a.takeOver(o.ID()), 2)
	text = say(t, again, 2, 2, text)
	complete(t, again)
	watches(t, o.ID()).ends(b, text)

	taken := a.create()
	start(t, taken)
	a.logged(taken.ID(), 1)
	must(t, b.takeOver(taken.ID()).Fail(t.Context(), protocol.Errorf(protocol.CodeOwnerLost, "gone")))
	if err := taken.HandOver(t.Context()); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("handing over what another node has: %v, want ErrFenced", err)
	}
	watches(t, taken.ID()).fails(a, protocol.CodeOwnerLost)
}

// A stream in the log without an end, and in no record, would be looked for by
// nobody if its node died.
func TestNothingIsStoredBeforeTheJobIsRecorded(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	a.bus.hang.Store(true) // the records, not the log
	w := a.create()
	start(t, w)
	text := say(t, w, 1, 10, "piece")
	v := watches(t, w.ID())
	v.reaches(b, 11) // clients see it all the same
	for range 20 {
		tick(t)
		w.Flush()
	}
	if _, _, _, err := b.bus.LogTail(t.Context(), w.ID()); !errors.Is(err, backbone.ErrNotFound) {
		t.Errorf("the log has something of a job without a record: %v", err)
	}
	a.bus.hang.Store(false)
	complete(t, w)
	v.ends(b, text)
	eventually(t, "it is stored", func() bool {
		_, _, end, err := b.bus.LogTail(t.Context(), w.ID())
		return err == nil && end
	})
}
