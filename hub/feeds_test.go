package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

type jsonRaw = json.RawMessage

func contains(b []byte, s string) bool { return bytes.Contains(b, []byte(s)) }

func encode(t *testing.T, id string, first, seq uint64, typ protocol.Type, data any) protocol.Encoded {
	t.Helper()
	e, err := protocol.Encode(id, first, seq, typ, time.Now(), data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAFeedTakesEachEventOnceAndNoHoles(t *testing.T) {
	fs := hub.NewFeeds(hub.FeedLimits{})
	defer fs.Close()
	id := protocol.NewStreamID()
	f, err := fs.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	chunk := func(first, seq uint64) protocol.Encoded {
		return encode(t, id, first, seq, protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: "x"})
	}
	for _, seq := range []uint64{1, 2, 2, 1, 3} {
		e := chunk(seq, seq)
		if err := f.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	var gap *hub.GapError
	if err := f.Append(chunk(5, 5)); !errors.As(err, &gap) || gap.Head != 3 || gap.First != 5 {
		t.Fatalf("error is %v, want a gap after 3", err)
	}
	cover := encode(t, id, 2, 100, protocol.TypeFailed, &protocol.Failed{Error: protocol.Errorf(protocol.CodeOwnerLost, "x")})
	if err := f.Append(cover); err != nil {
		t.Fatal(err)
	}
	if err := f.Append(chunk(101, 101)); err != nil {
		t.Fatal(err)
	}
	if head, ended := f.Head(); head != 100 || !ended {
		t.Fatalf("head is %d, ended %v; want 100 and the end, since nothing follows a terminal event", head, ended)
	}
	for _, tc := range []struct {
		after uint64
		want  []uint64
	}{{0, []uint64{1, 2, 3, 100}}, {2, []uint64{3, 100}}, {3, []uint64{100}}, {57, []uint64{100}}, {100, nil}} {
		events, ok := f.Events(tc.after)
		if !ok || len(events) != len(tc.want) {
			t.Fatalf("after %d come %d events, want %d", tc.after, len(events), len(tc.want))
		}
		for i, e := range events {
			if e.Seq != tc.want[i] {
				t.Errorf("after %d event %d is %d, want %d", tc.after, i, e.Seq, tc.want[i])
			}
		}
	}
	if m := f.Metadata(); m.State != protocol.StateFailed || m.Head != 100 || m.Error.Code != protocol.CodeOwnerLost {
		t.Fatalf("metadata is %+v", m)
	}
}

func TestAFeedDropsOnlyWhatIsStored(t *testing.T) {
	fs := hub.NewFeeds(hub.FeedLimits{FeedBytes: 3000})
	defer fs.Close()
	id := protocol.NewStreamID()
	f, err := fs.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	seq := uint64(0)
	add := func(n int) {
		for range n {
			seq++
			if err := f.Append(encode(t, id, seq, seq, protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: "x"})); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(50)
	if events, ok := f.Events(0); !ok || len(events) != 50 {
		t.Fatalf("%d events, in memory %v; want all, since none is stored", len(events), ok)
	}
	f.MarkStored(50)
	add(1)
	if _, ok := f.Events(0); ok {
		t.Fatal("stored events beyond the limit are still in memory")
	}
	if events, ok := f.Events(48); !ok || len(events) != 3 {
		t.Fatalf("%d events after 48, in memory %v; want the newest three", len(events), ok)
	}
	if b := fs.Bytes(); b > 3000 || b < 500 {
		t.Fatalf("feeds count %d bytes, want what is left, at most 3000", b)
	}
}

func TestHoweverManyOpenAStreamTheSourceIsAskedOnce(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	id := protocol.NewStreamID()
	w.source.events[id] = []protocol.Encoded{
		encode(t, id, 1, 1, protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}),
		encode(t, id, 2, 2, protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient}),
	}
	w.source.block = make(chan struct{})
	impatient, leave := context.WithCancel(t.Context())
	var wg, left sync.WaitGroup
	for i := range 20 {
		ctx := t.Context()
		group := &wg
		if i%2 == 1 {
			ctx, group = impatient, &left
		}
		group.Go(func() {
			f, err := w.feeds.Open(ctx, id, w.source)
			if i%2 == 1 {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("error is %v, want canceled", err)
				}
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			w.feeds.Release(f)
		})
	}
	eventually(t, "the source is asked", func() bool { n, _, _ := w.source.counts(); return n == 1 })
	leave()
	left.Wait()
	close(w.source.block)
	wg.Wait()
	if opens, _, _ := w.source.counts(); opens != 1 {
		t.Fatalf("the source was asked %d times, want once", opens)
	}
}

func TestFeedsThatNobodyNeedsAreDroppedLeastRecentlyUsedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &history{events: map[string][]protocol.Encoded{}}
		fs := hub.NewFeeds(hub.FeedLimits{TotalBytes: 6000, Linger: 3 * time.Second})
		defer fs.Close()
		var ids []string
		for range 3 {
			id := protocol.NewStreamID()
			ids = append(ids, id)
			src.events[id] = []protocol.Encoded{
				encode(t, id, 1, 1, protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: string(bytes.Repeat([]byte("x"), 2000))}),
				encode(t, id, 2, 2, protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient}),
			}
			f, err := fs.Open(t.Context(), id, src)
			if err != nil {
				t.Fatal(err)
			}
			fs.Release(f)
			time.Sleep(10 * time.Millisecond)
		}
		running := protocol.NewStreamID()
		src.events[running] = []protocol.Encoded{encode(t, running, 1, 1, protocol.TypeStarted, &protocol.Started{Attempt: 1})}
		f, err := fs.Open(t.Context(), running, src)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if fs.Len() != 3 || fs.Evicted() != 1 {
			t.Fatalf("%d feeds, %d dropped; want the oldest ended one dropped for the limit", fs.Len(), fs.Evicted())
		}
		if _, err := fs.Open(t.Context(), ids[2], src); err != nil {
			t.Fatal(err)
		}
		if opens, _, _ := src.counts(); opens != 4 {
			t.Fatalf("the source was asked %d times, want 4: the newest is still there", opens)
		}
		fs.Release(f)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, _, stops := src.counts(); stops != 1 {
			t.Fatalf("%d followings ended, want only that of the dropped one within the linger", stops)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, _, stops := src.counts(); stops != 2 {
			t.Fatalf("%d followings ended, want the running stream's, too, after the linger", stops)
		}
	})
}

func TestReadersAndAppendersDontDisturbEachOther(t *testing.T) {
	w := newWorld(t, hub.Options{MessageBytes: 2 << 10}, hub.FeedLimits{FeedBytes: 8 << 10})
	var ps []*publisher
	for range 4 {
		ps = append(ps, w.publish().start())
	}
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			p.chunks(300)
			p.complete()
		})
		for i := range 6 {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			wg.Go(func() { w.wander(rnd, p) })
		}
	}
	wg.Wait()
	eventually(t, "all sessions gone", func() bool { return w.hub.Connections() == 0 })
	for _, p := range ps {
		if n, _ := p.feed.Watchers(); n != 0 {
			t.Errorf("stream %s still has %d watchers", p.id, n)
		}
	}
}

// wander follows a stream to its end over connections that are cut at random,
// each over another transport.
func (w *world) wander(rnd *rand.Rand, p *publisher) {
	tr := new(protocol.Transcript)
	for tr.Terminal() == nil {
		stopAt := tr.Cursor() + rnd.Uint64N(40)
		ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
		switch rnd.IntN(3) {
		case 0:
			c := w.dial()
			c.transcripts[p.id] = tr
			c.subscribe(p.id, tr.Cursor())
			for tr.Terminal() == nil && tr.Cursor() <= stopAt {
				if _, _, err := c.read(ctx); err != nil {
					w.t.Error(err)
					cancel()
					return
				}
			}
			_ = c.conn.CloseNow()
		case 1:
			c := w.sse("single=1&stream="+p.id, uintString(tr.Cursor()))
			c.events(map[string]*protocol.Transcript{p.id: tr}, func() bool { return tr.Cursor() > stopAt })
			_ = c.resp.Body.Close()
		default:
			got, e := w.poll("single=1&wait=1s&stream=" + p.id + "&after=" + uintString(tr.Cursor()))
			if e != nil {
				w.t.Error(e)
				cancel()
				return
			}
			if rnd.IntN(4) > 0 { // otherwise the answer was lost
				applyAll(w.t, tr, got)
			}
		}
		cancel()
	}
	if tr.Text() != p.text.String() {
		w.t.Errorf("text has %d bytes, want %d", len(tr.Text()), p.text.Len())
	}
}

func uintString(n uint64) string { b, _ := json.Marshal(n); return string(b) }
