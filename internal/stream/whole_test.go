package stream_test

import (
	"testing"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

// inBatches says n pieces, each of which gets a batch of its own.
func inBatches(t *testing.T, p *peer, w *stream.Writer, attempt, n int, what string) (text string) {
	t.Helper()
	for range n {
		text += say(t, w, attempt, 1, what)
		head, _ := p.head(w.ID())
		p.logged(w.ID(), head)
	}
	return text
}

func (p *peer) head(id string) (uint64, bool) {
	p.t.Helper()
	f, err := p.feeds.Open(p.t.Context(), id, p.node)
	must(p.t, err)
	defer p.feeds.Release(f)
	return f.Head()
}

// asOne waits until the log has the stream as one batch.
func (p *peer) asOne(id string) backbone.Batch {
	p.t.Helper()
	var batches []backbone.Batch
	eventually(p.t, "the log has the stream as a whole", func() bool {
		var err error
		batches, err = p.bus.Backbone.ReadLog(p.t.Context(), id, 0, 1)
		must(p.t, err)
		return len(batches) == 1 && batches[0].First == 1 && batches[0].End
	})
	return batches[0]
}

// fromEveryCursor reads the stream from each of its events on, on a node that
// has nothing of it in memory, and from each place that clients can be at within
// an event that covers many.
func fromEveryCursor(t *testing.T, p *peer, id string, batch backbone.Batch) {
	t.Helper()
	var all []protocol.Encoded
	for _, raw := range batch.Events {
		e, err := protocol.Parse(raw)
		must(t, err)
		all = append(all, e)
	}
	cursors := []uint64{0}
	for _, e := range all[:len(all)-1] {
		cursors = append(cursors, e.Seq)
	}
	for _, after := range cursors {
		events, err := p.node.Read(t.Context(), id, after, 1)
		must(t, err)
		cursor := after
		for _, e := range events {
			if e.Seq <= cursor || e.First > cursor+1 {
				t.Fatalf("after %d, %s %d to %d follows cursor %d", after, e.Type, e.First, e.Seq, cursor)
			}
			cursor = e.Seq
		}
		if len(events) == 0 || cursor != batch.Last {
			t.Fatalf("after %d, %d events came, the last with %d, want %d", after, len(events), cursor, batch.Last)
		}
	}
}

func TestAStreamThatHasEndedIsReadAtOnce(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	text := inBatches(t, a, w, 1, 12, "piece")
	complete(t, w)
	whole := b.asOne(w.ID())
	if whole.Last != 14 || len(whole.Events) != 14 {
		t.Errorf("the whole ends at %d with %d events, want 14", whole.Last, len(whole.Events))
	}
	fromEveryCursor(t, b, w.ID(), whole)
	watches(t, w.ID()).ends(c, text)
}

// What clients saw of the old owner is in the feed of the node that took over,
// though not in the log, and is stored with the whole.
func TestAStreamThatWasTakenOverIsReadAtOnceFromWhereverAClientIs(t *testing.T) {
	ps := peers(t, fast, "a", "b", "c")
	a, b, c := ps[0], ps[1], ps[2]
	w := a.create()
	start(t, w)
	inBatches(t, a, w, 1, 4, "stored")
	seen := watches(t, w.ID())
	seen.reaches(b, 5)
	a.bus.away.Store(true)
	say(t, w, 1, 3, "not stored")
	seen.reaches(b, 8)
	a.crash()

	again := resume(t, b.takeOver(w.ID()), 2)
	text := inBatches(t, b, again, 2, 12, "anew")
	complete(t, again)
	whole := c.asOne(w.ID())
	fromEveryCursor(t, c, w.ID(), whole)
	seen.ends(c, text)
	watches(t, w.ID()).ends(c, text)
}

func TestAShortStreamIsNotStoredTwice(t *testing.T) {
	ps := peers(t, fast, "a", "b")
	a, b := ps[0], ps[1]
	w := a.create()
	start(t, w)
	inBatches(t, a, w, 1, 2, "piece")
	complete(t, w)
	eventually(t, "its record is removed", func() bool {
		r, err := b.bus.RunningRecord(t.Context(), w.ID())
		must(t, err)
		return r.Revision == 0
	})
	a.stop() // so that nothing is under way
	batches, err := b.bus.ReadLog(t.Context(), w.ID(), 0, 1<<20)
	must(t, err)
	if n := len(batches); n < 3 {
		t.Errorf("the log has %d batches: a whole one, of so few", n)
	}
}
