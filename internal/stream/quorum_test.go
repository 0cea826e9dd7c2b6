package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

func TestStreamsBeginAndAreSeenEverywhereWithoutAStore(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	for _, p := range ps {
		p.bus.away.Store(true)
	}
	running, ended := a.create(), a.create()
	start(t, running)
	start(t, ended)
	whole := say(t, ended, 1, 10, "whole")
	complete(t, ended)
	text := say(t, running, 1, 10, "part")
	for _, p := range ps { // and resumes, at every cursor
		watches(t, ended.ID()).ends(p, whole)
		v := watches(t, running.ID())
		v.reaches(p, 3)
		v.reaches(p, 11)
	}
	if a.unstored.Load() == 0 {
		t.Error("nothing is said to wait to be stored")
	}
	if r, err := b.bus.Backbone.RunningRecord(t.Context(), running.ID()); err != nil || r.Revision != 0 {
		t.Fatalf("the record is %+v, %v; the test wants none yet", r, err)
	}
	for _, p := range ps {
		p.bus.away.Store(false)
	}
	a.logged(running.ID(), 11)
	a.logged(ended.ID(), 12)
	eventually(t, "the running job is recorded", func() bool {
		r, err := b.bus.RunningRecord(t.Context(), running.ID())
		return err == nil && r.Revision != 0
	})
	if l := b.lost(running.ID()); l.Node != "a" || l.Epoch != a.bus.Epoch() {
		t.Errorf("the record names %+v", l)
	}
	eventually(t, "everything is stored", func() bool { return a.unstored.Load() == 0 })
	a.crash()
	watches(t, ended.ID()).ends(b, whole)
	again := resume(t, b.takeOver(running.ID()), 2)
	text = say(t, again, 2, 1, text)
	complete(t, again)
	watches(t, running.ID()).ends(b, text)
}

func TestAStoreThatHangsHoldsNoNewStreamUpForLong(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a := ps[0]
	a.bus.hang.Store(true) // and nobody knows
	began := time.Now()
	w := a.create()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	start(t, w)
	a.bus.hang.Store(false)
	eventually(t, "the job is recorded", func() bool {
		r, err := ps[1].bus.RunningRecord(t.Context(), w.ID())
		return err == nil && r.Revision != 0
	})
	complete(t, w)
	watches(t, w.ID()).ends(ps[1], "")
}

func TestStreamsAreRefusedWhileTooMuchWaitsToBeStored(t *testing.T) {
	o := fast
	o.UnstoredBytes = 2000
	a := peers(t, o, "a", "b")[0]
	a.bus.away.Store(true)
	w := a.create()
	start(t, w)
	text := say(t, w, 1, 100, "much")
	_, err := a.node.Create(t.Context(), protocol.NewStreamID())
	if e := protocol.AsError(err); err == nil || e.Code != protocol.CodeOverloaded || e.RetryAfterMS == 0 {
		t.Fatalf("error is %v, want overloaded, and when to come back", err)
	}
	text += say(t, w, 1, 1, "goes on")
	complete(t, w)
	a.bus.away.Store(false)
	eventually(t, "everything is stored", func() bool { return a.unstored.Load() == 0 })
	start(t, a.create())
	watches(t, w.ID()).ends(a, text)
}

func TestANodeFollowsOnlyWhatItHasViewersFor(t *testing.T) {
	o := fast
	o.CheckInterval = time.Hour // so that the questions can be counted
	ps := peers(t, o, "a", "b")
	a, b := ps[0], ps[1]
	w := a.create()
	start(t, w)
	text := say(t, w, 1, 500, "x")
	a.logged(w.ID(), 501)
	if n := b.bus.subscribe.Load(); n != 0 {
		t.Fatalf("%d live subscriptions before the first viewer", n)
	}
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			tr, _, err := b.hub.Collect(t.Context(), w.ID())
			if err != nil {
				t.Error(err)
			} else if tr.Text() != text {
				t.Errorf("a viewer has %d bytes, want %d", len(tr.Text()), len(text))
			}
		})
	}
	eventually(t, "all watch", func() bool { return watched(b, w.ID()) == 30 })
	if n := b.bus.subscribe.Load(); n != 1 {
		t.Errorf("%d live subscriptions, want 1 for all viewers", n)
	}
	if n := b.bus.asked.Load(); n > 2 {
		t.Errorf("the past was asked for %d times", n)
	}
	complete(t, w)
	wg.Wait()
	eventually(t, "the subscription is over", func() bool { return b.bus.subscribe.Load() == 0 })

	w = a.create()
	start(t, w)
	v := watches(t, w.ID())
	v.reaches(b, 1)
	eventually(t, "the subscription is over, since nobody watches", func() bool { return b.bus.subscribe.Load() == 0 && b.feeds.Len() <= 1 })
	asked := b.bus.asked.Load()
	say(t, w, 1, 100, "unseen")
	if n := b.bus.asked.Load(); n != asked {
		t.Errorf("b asks for a stream that nobody watches there")
	}
	complete(t, w)
	v.until(b, "the end", func() bool { return v.tr.Terminal() != nil })
}

func TestViewersAreCountedOnAllNodes(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	var wg sync.WaitGroup
	for _, p := range []*peer{b, b, c} {
		wg.Go(func() {
			if _, _, err := p.hub.Collect(t.Context(), w.ID()); err != nil {
				t.Error(err)
			}
		})
	}
	for _, p := range ps {
		eventually(t, p.name+" knows of three viewers", func() bool { return p.node.Viewers(t.Context(), w.ID()) == 3 })
		m, err := p.hub.Metadata(t.Context(), w.ID())
		if err != nil || m.Viewers != 3 {
			t.Errorf("metadata on %s: %d viewers, %v; want 3", p.name, m.Viewers, err)
		}
	}
	if n, _ := w.Watchers(); n != 3 {
		t.Errorf("the owner counts %d watchers, want 3", n)
	}
	before := time.Now()
	complete(t, w)
	wg.Wait()

	w = a.create()
	start(t, w)
	created := time.Now()
	v := watches(t, w.ID())
	v.reaches(b, 1) // and goes
	var since time.Time
	eventually(t, "b knows that it has gone", func() bool {
		var n int
		n, since = w.Watchers()
		return n == 0
	})
	if since.Before(before) {
		t.Errorf("no watchers since %v, which is before the stream began", since)
	}
	// One that was there for a while, and whose node has forgotten it.
	ctx := t.Context()
	f, err := b.feeds.Open(ctx, w.ID(), b.node)
	must(t, err)
	got := make(chan struct{})
	go func() {
		defer close(got)
		if _, refused := v.poll(b, 300*time.Millisecond); refused != nil {
			t.Error(refused)
		}
	}()
	<-got
	left := time.Now()
	b.feeds.Release(f)
	eventually(t, "b has forgotten the stream", func() bool { _, _, ok := b.feeds.Watchers(w.ID()); return !ok })
	if n, since := w.Watchers(); n != 0 || !since.After(created.Add(100*time.Millisecond)) || since.After(left.Add(time.Second)) {
		t.Errorf("%d watchers, none for %v; the last left %v ago, and came %v ago", n, time.Since(since), time.Since(left), time.Since(created))
	}
	complete(t, w)
}

func TestAJobIsCancelledFromAnyNode(t *testing.T) {
	var mu sync.Mutex
	cancelled := map[string]int{}
	hold := make(chan struct{})
	o := fast
	o.OnCancel = func(ctx context.Context, id string) error {
		mu.Lock()
		cancelled[id]++
		n := len(cancelled)
		mu.Unlock()
		switch n {
		case 2:
			return errors.New("it can't be")
		case 3:
			return fmt.Errorf("handed over: %w", stream.ErrNoJob)
		}
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil
	}
	ps := peers(t, o, "a", "b")
	a, b := ps[0], ps[1]
	w, stuck, leaving := a.create(), a.create(), a.create()
	start(t, w)
	began := time.Now()
	must(t, b.node.Cancel(t.Context(), w.ID())) // though it takes its time
	watches(t, w.ID()).reaches(b, 1)            // and history is answered meanwhile
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := b.node.Cancel(t.Context(), stuck.ID()); err == nil || errors.Is(err, backbone.ErrNoOwner) || !strings.Contains(err.Error(), "it can't be") {
		t.Errorf("cancelling a job that the owner can't: %v", err)
	}
	if err := b.node.Cancel(t.Context(), leaving.ID()); !errors.Is(err, backbone.ErrNoOwner) {
		t.Errorf("cancelling a job that the owner runs no more: %v, want ErrNoOwner", err)
	}
	if err := b.node.Cancel(t.Context(), protocol.NewStreamID()); !errors.Is(err, backbone.ErrNoOwner) {
		t.Errorf("cancelling a stream without owner: %v, want ErrNoOwner", err)
	}
	close(hold)
	must(t, w.Append(protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient}))
	mu.Lock()
	defer mu.Unlock()
	if cancelled[w.ID()] != 1 || cancelled[stuck.ID()] != 1 || cancelled[leaving.ID()] != 1 {
		t.Errorf("cancelled were %v", cancelled)
	}
}
