package stream_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

const covered = 1 << 32 // how far a covering event reaches beyond the stored head

func TestATakeoverKeepsWatchersHereAndElsewhere(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	say(t, w, 1, 5, "stored")
	a.logged(w.ID(), 6)
	late := watches(t, w.ID())
	late.reaches(c, 3) // and a cursor that stays behind
	a.bus.away.Store(true)
	say(t, w, 1, 5, "seen, not stored")
	onB, onC := watches(t, w.ID()), watches(t, w.ID())
	onB.reaches(b, 11)
	onC.reaches(c, 11)
	var wg sync.WaitGroup
	atOnce := make([]*protocol.Transcript, 2)
	for i, p := range []*peer{b, c} {
		wg.Go(func() {
			tr, _, err := p.hub.Collect(t.Context(), w.ID())
			if err != nil {
				t.Error(err)
			}
			atOnce[i] = tr
		})
	}
	eventually(t, "both are watched", func() bool { return watched(b, w.ID()) == 1 && watched(c, w.ID()) == 1 })
	a.crash()

	taken := b.takeOver(w.ID())
	if past := taken.Past(); taken.Ended() || past == nil || past.Cursor() != 6 || past.Text() != "stored 0 é;stored 1 é;stored 2 é;stored 3 é;stored 4 é;" {
		t.Fatalf("the past ends at %d with %q", past.Cursor(), past.Text())
	}
	again := resume(t, taken, 2)
	if onB.tr.Cursor() != 11 {
		t.Fatalf("the client on b is at %d", onB.tr.Cursor())
	}
	text := say(t, again, 2, 20, "anew")
	complete(t, again)
	wg.Wait()
	for _, tr := range atOnce {
		wantCompleted(t, tr, text)
		if tr.Started().Attempt != 2 || tr.Cursor() != 6+covered+22 {
			t.Errorf("attempt %d ends at %d, want 2 and %d", tr.Started().Attempt, tr.Cursor(), uint64(6+covered+22))
		}
	}
	onB.ends(b, text)
	onC.ends(c, text)
	late.ends(b, text)
	fresh := watches(t, w.ID())
	fresh.ends(c, text)
	m, err := b.hub.Metadata(t.Context(), w.ID())
	must(t, err)
	if m.State != protocol.StateCompleted || m.Attempt != 2 || m.Created == nil {
		t.Errorf("metadata on the node that took over is %+v", m)
	}
	eventually(t, "the record is removed", func() bool {
		r, err := c.bus.RunningRecord(t.Context(), w.ID())
		return err == nil && r.Revision == 0
	})
}

// watched is how many clients watch the stream on p.
func watched(p *peer, id string) int {
	n, _, _ := p.feeds.Watchers(id)
	return n
}

func TestOfTwoNodesThatTakeOverOneDoes(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	for range 10 {
		w := a.create()
		start(t, w)
		a.logged(w.ID(), 1)
		lost := b.lost(w.ID())
		var wg sync.WaitGroup
		var taken [2]*stream.Takeover
		for i, p := range []*peer{b, c} {
			wg.Go(func() {
				var err error
				taken[i], err = p.node.TakeOver(t.Context(), lost)
				if (err == nil) == errors.Is(err, stream.ErrTaken) {
					t.Errorf("%s: %v", p.name, err)
				}
			})
		}
		wg.Wait()
		winner := taken[0]
		if winner == nil {
			winner = taken[1]
		}
		if winner == nil || (taken[0] != nil && taken[1] != nil) {
			t.Fatalf("taken over by %v, want one of two", taken)
		}
		must(t, winner.Fail(t.Context(), protocol.Errorf(protocol.CodeOwnerLost, "gone")))
		must(t, a.node.Verify(t.Context()))
		for _, p := range []*peer{a, b, c} {
			v := watches(t, w.ID())
			v.fails(p, protocol.CodeOwnerLost)
			if v.tr.Cursor() != 1+covered {
				t.Errorf("the end is at %d", v.tr.Cursor())
			}
		}
	}
}

func TestAnOwnerThatWakesAfterItWasTakenOverFollows(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	say(t, w, 1, 3, "before")
	a.logged(w.ID(), 4)
	asleep := appendFault(func(real func() (uint64, error)) (uint64, error) { return 0, errAway })
	a.bus.append.Store(&asleep)
	tail := say(t, w, 1, 3, "tail")
	onA, onC := watches(t, w.ID()), watches(t, w.ID())
	onA.reaches(a, 7)
	onC.reaches(c, 7)

	again := resume(t, b.takeOver(w.ID()), 2)
	text := say(t, again, 2, 5, "anew")
	onC.reaches(c, 6+covered)
	// It wakes: what it says reaches followers, and nobody who has heard of the
	// other takes it.
	for i := range 5 {
		if err := w.Chunk(protocol.KindText, 1, "asleep"); err != nil {
			t.Fatalf("chunk %d: %v", i, err)
		}
	}
	onC.reaches(c, headOn(t, c, w.ID()))
	if got := onC.tr.Text(); got != text {
		t.Fatalf("the client of c has %q, want %q", got, text)
	}
	if a.unstored.Load() < int64(len(tail)) {
		t.Errorf("%d bytes wait to be stored on a", a.unstored.Load())
	}
	a.bus.append.Store(nil)
	eventually(t, "the old owner is fenced", func() bool {
		err := w.Chunk(protocol.KindText, 1, "x")
		if err != nil && !errors.Is(err, stream.ErrFenced) {
			t.Fatal(err)
		}
		return err != nil
	})
	if err := w.Append(protocol.TypeCompleted, &protocol.Completed{}); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("the old owner's end: %v, want ErrFenced", err)
	}
	if n := a.unstored.Load(); n != 0 {
		t.Errorf("%d bytes are said to wait to be stored, of a stream that is another node's", n)
	}
	complete(t, again)
	onA.ends(a, text)
	onC.ends(c, text)
}

// headOn is the head of the stream as p has it.
func headOn(t *testing.T, p *peer, id string) uint64 {
	t.Helper()
	f, err := p.feeds.Open(t.Context(), id, p.node)
	must(t, err)
	defer p.feeds.Release(f)
	head, _ := f.Head()
	return head
}

func TestAfterALostLeaseAnOwnerFollowsThoseWhoTookOver(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	taken, kept := a.create(), a.create()
	a.bus.away.Store(true)
	unrecorded := a.create()
	a.bus.away.Store(false)
	for _, w := range []*stream.Writer{taken, kept, unrecorded} {
		start(t, w)
	}
	a.logged(taken.ID(), 1)
	must(t, b.takeOver(taken.ID()).Fail(t.Context(), protocol.Errorf(protocol.CodeOwnerLost, "gone")))
	must(t, a.node.Verify(t.Context()))
	if err := taken.Chunk(protocol.KindText, 1, "x"); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("a stream that was taken over: %v, want ErrFenced", err)
	}
	for _, w := range []*stream.Writer{kept, unrecorded} {
		text := say(t, w, 1, 1, "x")
		complete(t, w)
		watches(t, w.ID()).ends(b, text)
	}
	watches(t, taken.ID()).fails(a, protocol.CodeOwnerLost)
	a.bus.away.Store(true)
	another := a.create()
	if err := a.node.Verify(t.Context()); !errors.Is(err, backbone.ErrNoStore) {
		t.Errorf("Verify without a store: %v", err)
	}
	if err := another.Chunk(protocol.KindText, 1, "x"); err != nil {
		t.Errorf("a stream that could not be looked up: %v", err)
	}
}

func TestAStreamWhoseEndIsStoredIsNotTakenOver(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	a.bus.unmarked.Store(true)
	w := a.create()
	start(t, w)
	text := say(t, w, 1, 3, "whole")
	complete(t, w)
	a.logged(w.ID(), 5)
	lost := b.lost(w.ID())
	a.crash()
	taken, err := b.node.TakeOver(t.Context(), lost)
	must(t, err)
	if !taken.Ended() || taken.Past().Text() != text {
		t.Fatalf("ended %v, past %q", taken.Ended(), taken.Past().Text())
	}
	if _, err := taken.Resume(t.Context(), &protocol.Failover{Attempt: 2}); !errors.Is(err, stream.ErrEnded) {
		t.Errorf("resuming it: %v, want ErrEnded", err)
	}
	must(t, taken.Fail(t.Context(), protocol.Errorf(protocol.CodeOwnerLost, "gone")))
	if r, err := b.bus.RunningRecord(t.Context(), w.ID()); err != nil || r.Revision != 0 {
		t.Errorf("its record: %+v, %v; want none", r, err)
	}
	watches(t, w.ID()).ends(b, text)
}

func TestWhatTheOldOwnerStoresDuringATakeoverCounts(t *testing.T) {
	for _, ends := range []bool{false, true} {
		ps := peers(t, fast, "a", "b")
		a, b := ps[0], ps[1]
		w := a.create()
		start(t, w)
		a.logged(w.ID(), 1)
		taken := b.takeOver(w.ID()) // a doesn't know
		text := say(t, w, 1, 3, "meanwhile")
		a.logged(w.ID(), 4)
		if ends {
			complete(t, w)
			a.logged(w.ID(), 5)
			if _, err := taken.Resume(t.Context(), &protocol.Failover{Attempt: 2}); !errors.Is(err, stream.ErrEnded) || !taken.Ended() {
				t.Errorf("resuming a stream that has ended: %v, want ErrEnded", err)
			}
			watches(t, w.ID()).ends(b, text)
			continue
		}
		again := resume(t, taken, 2)
		v := watches(t, w.ID())
		v.until(b, "the client sees the new attempt", func() bool { return v.tr.Started().Attempt == 2 })
		if v.tr.Cursor() != 4+covered+1 {
			t.Errorf("the new attempt begins at %d, want %d", v.tr.Cursor(), uint64(4+covered+1))
		}
		text = say(t, again, 2, 1, "anew")
		complete(t, again)
		v.ends(a, text)
	}
}

func TestATakeoverThatWasItselfTakenOverWritesNothing(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	a.logged(w.ID(), 1)
	a.crash()
	var late *stream.Takeover
	read := make(chan struct{})
	hold := readFault(func(real func() ([]backbone.Batch, error)) ([]backbone.Batch, error) {
		<-read
		return real()
	})
	b.bus.read.Store(&hold)
	done := make(chan struct{})
	lost := b.lost(w.ID())
	go func() { // b has the record, and takes its time to read the past
		defer close(done)
		var err error
		if late, err = b.node.TakeOver(t.Context(), lost); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "b has the record", func() bool { return c.lost(w.ID()).Node == "b" })
	again := resume(t, c.takeOver(w.ID()), 2) // b is taken for dead
	text := say(t, again, 2, 2, "c's")
	c.logged(w.ID(), 1+covered+3)
	close(read)
	<-done
	if _, err := late.Resume(t.Context(), &protocol.Failover{Attempt: 3}); !errors.Is(err, stream.ErrTaken) {
		t.Errorf("b resumes c's job: %v, want ErrTaken", err)
	}
	complete(t, again)
	for _, p := range []*peer{b, c} {
		v := watches(t, w.ID())
		v.ends(p, text)
		if v.tr.Started().Attempt != 2 {
			t.Errorf("attempt %d counts, want 2", v.tr.Started().Attempt)
		}
	}
}

func TestACoveringEventThatSeemedToFailIsWrittenOnce(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	w := a.create()
	start(t, w)
	a.logged(w.ID(), 1)
	a.crash()
	calls := 0
	ambiguous := appendFault(func(real func() (uint64, error)) (uint64, error) {
		pos, err := real()
		if calls++; calls <= 2 {
			return 0, context.DeadlineExceeded
		}
		if calls == 3 {
			return 0, backbone.ErrConflict // a replica doesn't show it yet
		}
		return pos, err
	})
	b.bus.append.Store(&ambiguous)
	taken := b.takeOver(w.ID())
	again := resume(t, taken, 2)
	b.bus.append.Store(nil)
	complete(t, again)
	b.logged(w.ID(), covered+3)
	events, err := b.node.Read(t.Context(), w.ID(), 0, 1<<20)
	must(t, err)
	if len(events) != 4 {
		t.Fatalf("the log has %d events, want started, failover, started, completed", len(events))
	}
	watches(t, w.ID()).ends(b, "")
}

func TestAJobThatCouldNotBeTakenOverIsGivenBack(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	say(t, w, 1, 2, "x")
	a.logged(w.ID(), 3)
	a.crash()
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	nobody := func() bool {
		l := c.lost(w.ID())
		r, err := c.bus.Backbone.RunningRecord(t.Context(), w.ID())
		return err == nil && string(r.Value[:len(`{"node":""`)]) == `{"node":""` && l.Node == "b"
	}

	taken := b.takeOver(w.ID()) // the record is b's, and then the store is away
	b.bus.away.Store(true)
	if _, err := taken.Resume(short(), &protocol.Failover{Attempt: 2}); err == nil {
		t.Fatal("resumed without a store")
	}
	if err := taken.Fail(short(), protocol.Errorf(protocol.CodeOwnerLost, "gone")); err == nil {
		t.Fatal("failed without a store")
	}
	if got := c.lost(w.ID()).Node; got != "b" {
		t.Fatalf("the record is %q's, want b's", got)
	}
	b.bus.away.Store(false)
	eventually(t, "the record is nobody's", nobody)

	unread := b.lost(w.ID()) // the record is won, and the past can't be read
	b.takeOver(w.ID()).Release()
	eventually(t, "the record is nobody's", nobody)
	if _, err := b.node.TakeOver(t.Context(), unread); !errors.Is(err, stream.ErrTaken) {
		t.Fatalf("an old record was taken over: %v", err)
	}

	again := resume(t, c.takeOver(w.ID()), 2)
	text := say(t, again, 2, 3, "at last")
	complete(t, again)
	watches(t, w.ID()).ends(b, text)
}

func TestAStreamIsTakenOverAgainAndAgain(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b := ps[0], ps[1]
	w := a.create()
	start(t, w)
	say(t, w, 1, 3, "x")
	v, slow := watches(t, w.ID()), watches(t, w.ID())
	slow.reaches(b, 2)
	var text string
	for i := range 6 {
		from, to := ps[i%3], ps[(i+1)%3]
		from.bus.away.Store(true)
		say(t, w, i+1, 3, "unstored")
		v.until(ps[(i+2)%3], "the tail is seen", func() bool { return v.tr.Cursor() >= headOn(t, from, w.ID()) })
		next := resume(t, to.takeOver(w.ID()), i+2)
		text = say(t, next, i+2, 3, "again")
		from.bus.away.Store(false)
		eventually(t, "the one before is fenced", func() bool { return errors.Is(w.Chunk(protocol.KindText, i+1, "y"), stream.ErrFenced) })
		w = next
	}
	complete(t, w)
	v.ends(ps[0], text)
	slow.ends(ps[1], text)
	watches(t, w.ID()).ends(ps[2], text)
}
