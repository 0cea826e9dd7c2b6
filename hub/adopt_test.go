package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

// failover covers what follows a stored head.
func failover(t *testing.T, id string, stored uint64) protocol.Encoded {
	t.Helper()
	return encode(t, id, stored+1, stored+1000, protocol.TypeFailover, &protocol.Failover{Attempt: 2, Reason: "owner_lost", Discard: true})
}

func TestAnAdoptedFeedKeepsItsWatchersAndIsFollowedNoMore(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	id := protocol.NewStreamID()
	w.source.events[id] = []protocol.Encoded{
		encode(t, id, 1, 1, protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: 1}),
		encode(t, id, 2, 2, protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: "seen, not stored"}),
	}
	c := w.dial()
	c.subscribe(id, 0)
	eventually(t, "it is watched", func() bool { n, _, _ := w.feeds.Watchers(id); return n == 1 })
	f, err := w.feeds.Adopt(t.Context(), id, func(f *hub.Feed) error {
		if _, _, stops := w.source.counts(); stops != 1 {
			t.Errorf("%d followings were ended before the feed is filled, want 1", stops)
		}
		return f.Append(failover(t, id, 1))
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := f.Watchers(); n != 1 {
		t.Errorf("%d watch the adopted feed, want 1", n)
	}
	if _, err := w.feeds.Adopt(t.Context(), id, nil); err == nil {
		t.Error("a feed that is written here was adopted")
	}
	var digest protocol.Digest
	digest.Add("anew")
	size, sum := digest.Sum()
	for _, e := range []protocol.Encoded{
		encode(t, id, 0, 1002, protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Attempt: 2, Text: "anew"}),
		encode(t, id, 0, 1003, protocol.TypeCompleted, &protocol.Completed{Events: 1003, Bytes: size, SHA256: sum}),
	} {
		if err := f.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if tr := c.until(id); tr.Text() != "anew" {
		t.Errorf("the client has %q", tr.Text())
	}
	stopped := false
	w.feeds.Follow(f, func() { stopped = true })
	if !stopped {
		t.Error("a feed that is written here is followed")
	}
	if opens, _, _ := w.source.counts(); opens != 1 {
		t.Errorf("the source was asked %d times", opens)
	}
}

func TestAFeedThatIsAdoptedBeforeAnybodyKnewItIsSeenWhenItIsFilled(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	id := protocol.NewStreamID()
	filling, filled := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := w.feeds.Adopt(t.Context(), id, func(f *hub.Feed) error {
			close(filling)
			<-filled
			return f.Append(failover(t, id, 0))
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-filling
	for range 5 {
		wg.Go(func() {
			f, err := w.feeds.Open(t.Context(), id, w.source)
			if err != nil {
				t.Error(err)
				return
			}
			defer w.feeds.Release(f)
			if head, _ := f.Head(); head != 1000 {
				t.Errorf("the feed is at %d when it is seen, want 1000", head)
			}
		})
	}
	eventually(t, "they wait", func() bool { return w.feeds.Len() == 0 })
	close(filled)
	wg.Wait()
	if opens, _, _ := w.source.counts(); opens != 0 {
		t.Errorf("the source was asked %d times", opens)
	}
}

func TestAFeedThatCouldNotBeAdoptedIsGivenBack(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	id, fresh := protocol.NewStreamID(), protocol.NewStreamID()
	w.source.events[id] = []protocol.Encoded{encode(t, id, 1, 1, protocol.TypeStarted, &protocol.Started{Attempt: 1})}
	held, err := w.feeds.Open(t.Context(), id, w.source)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	fail := func(*hub.Feed) error { return broken }
	if f, err := w.feeds.Adopt(t.Context(), id, fail); !errors.Is(err, broken) || f != held {
		t.Errorf("adopting failed with %v, and feed %v", err, f)
	}
	stopped := false
	w.feeds.Follow(held, func() { stopped = true })
	if stopped {
		t.Error("the feed can't be followed again")
	}
	w.feeds.Release(held)
	if f, err := w.feeds.Adopt(t.Context(), fresh, fail); !errors.Is(err, broken) || f != nil {
		t.Errorf("adopting a new feed failed with %v, and feed %v", err, f)
	}
	if n := w.feeds.Len(); n != 1 {
		t.Errorf("%d feeds are left, want 1", n)
	}
}

func TestAFeedThatHasEndedGivesWayToTheOneThatGoesOn(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	id := protocol.NewStreamID()
	w.source.events[id] = []protocol.Encoded{
		encode(t, id, 1, 1, protocol.TypeStarted, &protocol.Started{Attempt: 1}),
		encode(t, id, 2, 2, protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelDrain}),
	}
	old, err := w.feeds.Open(t.Context(), id, w.source)
	if err != nil {
		t.Fatal(err)
	}
	f, err := w.feeds.Adopt(t.Context(), id, func(f *hub.Feed) error {
		return errors.Join(f.Append(w.source.events[id][0]), f.Append(failover(t, id, 1)))
	})
	if err != nil || f == old {
		t.Fatalf("adopted the feed that has ended, %v", err)
	}
	if events, ok := old.Events(1); !ok || len(events) != 1 {
		t.Error("those who hold the old feed can't read it to its end")
	}
	w.feeds.Release(old)
	w.feeds.Drop(f) // written here
	again, err := w.feeds.Open(t.Context(), id, w.source)
	if err != nil || again != f {
		t.Fatalf("opening finds another feed, %v", err)
	}
	w.feeds.Release(again)
	w.feeds.Disown(f)
	w.feeds.Drop(f)
	if n, bytes := w.feeds.Len(), w.feeds.Bytes(); n != 0 || bytes != 0 {
		t.Errorf("%d feeds and %d bytes are left", n, bytes)
	}
}

// A judge is a history that can't always know a stream's head.
type judge struct {
	*history
	says  func(f *hub.Feed, cursor uint64) error
	calls int
}

func (j *judge) Beyond(_ context.Context, f *hub.Feed, cursor uint64) error {
	j.calls++
	return j.says(f, cursor)
}

func TestACursorThatNobodyCanJudgeWaitsForWhatCoversIt(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	j := &judge{history: w.source, says: func(*hub.Feed, uint64) error { return hub.ErrHeadUnknown }}
	w.useSource(j)
	id := protocol.NewStreamID()
	w.source.events[id] = []protocol.Encoded{encode(t, id, 1, 1, protocol.TypeStarted, &protocol.Started{Attempt: 1})}
	c := w.dial()
	c.transcripts[id] = seenUpTo(t, id, 40)
	c.subscribe(id, 40)
	if m := c.next(); m.Type != protocol.MessageSubscribed {
		t.Fatalf("the answer is %+v, want subscribed", m)
	}
	query := "single=1&after=40&stream=" + id
	if p, refused := w.poll(query + "&wait=10ms"); refused != nil || len(p.Events) != 0 || p.Cursor != "40" || p.Done {
		t.Fatalf("a poll gives %+v, %v", p, refused)
	}
	f := w.source.live[id]
	for seq := uint64(2); seq < 10; seq++ { // what the client has, or will be covered
		if err := f.Append(encode(t, id, seq, seq, protocol.TypeProgress, &protocol.Progress{Stage: "x"})); err != nil {
			t.Fatal(err)
		}
	}
	if p, refused := w.poll(query + "&wait=10ms"); refused != nil || len(p.Events) != 0 || p.Cursor != "40" {
		t.Fatalf("a poll gives %+v, %v", p, refused)
	}
	end := encode(t, id, 2, 1001, protocol.TypeFailed, &protocol.Failed{Error: protocol.Errorf(protocol.CodeOwnerLost, "gone")})
	if err := f.Append(end); err != nil {
		t.Fatal(err)
	}
	if tr := c.until(id); tr.Cursor() != 1001 {
		t.Errorf("the client is at %d", tr.Cursor())
	}
	if p, refused := w.poll(query); refused != nil || len(p.Events) != 1 || !p.Done {
		t.Errorf("a poll at the end gives %+v, %v", p, refused)
	}
}

// seenUpTo is what a client of an earlier owner has.
func seenUpTo(t *testing.T, id string, seq uint64) *protocol.Transcript {
	t.Helper()
	tr := new(protocol.Transcript)
	for s := uint64(1); s <= seq; s++ {
		e := encode(t, id, s, s, protocol.TypeProgress, &protocol.Progress{Stage: "x"})
		ev, err := e.Event()
		if err == nil {
			err = tr.Apply(&ev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestACursorThatTurnsOutToBeBeyondTheEndIsJudgedAnew(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	j := &judge{history: w.source}
	j.says = func(f *hub.Feed, _ uint64) error {
		if _, ended := f.Head(); ended {
			return nil
		}
		return hub.ErrHeadUnknown
	}
	w.useSource(j)
	id := protocol.NewStreamID()
	w.source.events[id] = []protocol.Encoded{encode(t, id, 1, 1, protocol.TypeStarted, &protocol.Started{Attempt: 1})}
	sse := w.sse("single=1&stream="+id, "40")
	if f, err := sse.frame(); err != nil || f.event != "welcome" || f.id != "40" {
		t.Fatalf("the first frame is %+v, %v", f, err)
	}
	if err := w.source.live[id].Append(encode(t, id, 2, 2, protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient})); err != nil {
		t.Fatal(err)
	}
	if f, err := sse.frame(); err != nil || f.retry == "" || f.data != "" {
		t.Errorf("the last frame is %+v, %v; want to come back", f, err)
	}
	if c := w.sse("single=1&stream="+id, "40"); c.resp.StatusCode != http.StatusBadRequest {
		t.Errorf("coming back is answered with %d, want 400", c.resp.StatusCode)
	}
	if _, refused := w.poll("single=1&after=40&stream=" + id); refused == nil || refused.Code != protocol.CodeInvalidCursor {
		t.Errorf("a poll: %v, want invalid_cursor", refused)
	}
}

func TestAStreamThatWentOnOtherwiseIsOpenedAgain(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	id := protocol.NewStreamID()
	started := encode(t, id, 1, 1, protocol.TypeStarted, &protocol.Started{Attempt: 1})
	w.source.events[id] = []protocol.Encoded{started, encode(t, id, 2, 2, protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient})}
	j := &judge{history: w.source}
	j.says = func(f *hub.Feed, _ uint64) error {
		w.source.mu.Lock()
		w.source.events[id] = []protocol.Encoded{started, failover(t, id, 1), encode(t, id, 1002, 1002, protocol.TypeProgress, &protocol.Progress{Stage: "on"})}
		w.source.mu.Unlock()
		w.feeds.Drop(f)
		return hub.ErrSuperseded
	}
	w.useSource(j)
	if p, refused := w.poll("single=1&stream=" + id); refused != nil || !p.Done {
		t.Fatalf("a poll gives %+v, %v", p, refused)
	}
	p, refused := w.poll("single=1&after=1001&stream=" + id)
	if refused != nil || len(p.Events) != 1 || p.Cursor != "1002" || p.Done {
		t.Errorf("a poll with the other's cursor gives %+v, %v", p, refused)
	}
	if j.calls != 1 {
		t.Errorf("the judge was asked %d times", j.calls)
	}
}

func TestViewersOnOtherNodesAreAddedWhileAStreamRuns(t *testing.T) {
	asked := 0
	w := newWorld(t, hub.Options{Viewers: func(context.Context, string) int { asked++; return 4 }}, hub.FeedLimits{})
	p := w.publish().start()
	c := w.dial()
	c.subscribe(p.id, 0)
	c.next()
	if m, err := w.hub.Metadata(t.Context(), p.id); err != nil || m.Viewers != 5 {
		t.Errorf("%d viewers, %v; want 5", m.Viewers, err)
	}
	p.complete()
	c.until(p.id)
	if m, err := w.hub.Metadata(t.Context(), p.id); err != nil || m.Viewers > 1 || asked != 1 {
		t.Errorf("%d viewers of a stream that has ended, %v; others were asked %d times", m.Viewers, err, asked)
	}
}

// TestADrainSpreadsTheAnswersToPolls has many polls that wait when a node
// begins to drain.
func TestADrainSpreadsTheAnswersToPolls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hub.Options{ReconnectDelay: 2 * time.Second}, hub.FeedLimits{})
	p := w.publish().start()
	type answer struct {
		resp *http.Response
		body struct {
			protocol.Poll
			RetryAfterMS int64 `json:"retry_after_ms"`
		}
		at time.Time
	}
	ask := func(id string) (a answer) {
		resp, err := http.Get(fmt.Sprintf("%s/v1/events?single=1&after=1&wait=30s&stream=%s", w.url, id))
		if err != nil {
			t.Error(err)
			return a
		}
		defer resp.Body.Close()
		a.resp, a.at = resp, time.Now()
		if err := json.NewDecoder(resp.Body).Decode(&a.body); err != nil {
			t.Error(err)
		}
		return a
	}
	const polls = 30
	answers := make(chan answer, polls)
	for range polls {
		go func() { answers <- ask(p.id) }()
	}
	eventually(t, "all wait", func() bool { n, _ := p.feed.Watchers(); return n == polls })
	const window = 3 * time.Second
	began := time.Now()
	w.hub.Drain(t.Context(), window)
	var early, late int
	for range polls {
		a := <-answers
		after, err := strconv.Atoi(a.resp.Header.Get("Retry-After"))
		if a.resp.StatusCode != http.StatusOK || err != nil || after < 1 || after > 3 || !a.resp.Close {
			t.Errorf("answer %d with Retry-After %q, closing %v", a.resp.StatusCode, a.resp.Header.Get("Retry-After"), a.resp.Close)
		}
		if ms := a.body.RetryAfterMS; ms < 1000 || ms > 3000 || a.body.Cursor != "1" || len(a.body.Events) != 0 || a.body.Done {
			t.Errorf("the answer is %+v", a.body)
		}
		if a.at.Sub(began) < window/2 {
			early++
		} else {
			late++
		}
	}
	if early == 0 || late == 0 {
		t.Errorf("%d answers in the first half of the window, %d in the second", early, late)
	}
}

func TestAnEventSourceWhoseStreamCantBeOpenedNowComesBack(t *testing.T) {
	w := newWorld(t, hub.Options{}, hub.FeedLimits{})
	w.useSource(away{w.source})
	c := w.sse("single=1&stream="+protocol.NewStreamID(), "3")
	if c.resp.StatusCode != http.StatusOK {
		t.Fatalf("status is %d, which makes an EventSource give up", c.resp.StatusCode)
	}
	if f, err := c.frame(); err != nil || f.retry == "" {
		t.Errorf("the frame is %+v, %v; want a retry", f, err)
	}
	if _, refused := w.poll("single=1&stream=" + protocol.NewStreamID()); refused == nil || refused.Code != protocol.CodeOverloaded {
		t.Errorf("a poll: %v, want overloaded", refused)
	}
}

// away is a Source whose store doesn't answer.
type away struct{ *history }

func (away) Open(context.Context, *hub.Feed) (func(), error) {
	return nil, protocol.Errorf(protocol.CodeOverloaded, "no owner just now").WithRetryAfter(time.Second)
}
