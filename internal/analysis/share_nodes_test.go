package analysis_test

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
)

// A bus joins requests of nodes that share it.
type bus struct {
	slow  time.Duration // an answer takes so long
	deaf  bool          // nothing can be offered
	mu    sync.Mutex
	joins map[string][]*func(time.Duration) (string, bool)
	asked int
}

func (b *bus) Offer(key string, join func(time.Duration) (string, bool)) (func(), error) {
	if b.deaf {
		return nil, errors.New("no connection")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.joins == nil {
		b.joins = make(map[string][]*func(time.Duration) (string, bool))
	}
	at := len(b.joins[key])
	b.joins[key] = append(b.joins[key], &join)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.joins[key][at] = nil
	}, nil
}

func (b *bus) Join(ctx context.Context, key string, orphan time.Duration) (string, bool) {
	b.mu.Lock()
	b.asked++
	offers := append([]*func(time.Duration) (string, bool){}, b.joins[key]...)
	b.mu.Unlock()
	select {
	case <-time.After(b.slow):
	case <-ctx.Done():
		return "", false
	}
	for _, join := range offers {
		if join == nil {
			continue
		}
		if id, ok := (*join)(orphan); ok {
			return id, true
		}
	}
	return "", false
}

// offers is how many jobs may be joined.
func (b *bus) offers() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, list := range b.joins {
		for _, join := range list {
			if join != nil {
				n++
			}
		}
	}
	return n
}

func (b *bus) questions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// twoNodes are services that share streams and a bus.
func twoNodes(b *bus, change func(*analysis.Options)) (ss *streams, obs *observer, one, two *analysis.Service) {
	a := model("a", "m")
	a.steps = []step{wait(10 * time.Second), say("yes")}
	ss, obs = &streams{}, &observer{}
	o := plain(a)
	o.Streams, o.Sharing, o.Observer, o.HedgeAfter = ss, b, obs, -1
	if change != nil {
		change(&o)
	}
	return ss, obs, analysis.New(o), analysis.New(o)
}

func shared() protocol.Request {
	r := request
	r.Cache = protocol.CacheUse
	return r
}

func drainAll(t *testing.T, all ...*analysis.Service) {
	t.Helper()
	for _, s := range all {
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestEqualRequestsOnTwoNodesShareOneJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bus{}
		ss, obs, one, two := twoNodes(b, nil)
		same := shared()
		id, created, err := one.Start(t.Context(), &same, analysis.StartOptions{Owner: "x"})
		if err != nil || !created {
			t.Fatal(created, err)
		}
		for name, c := range map[string]struct {
			change func(*protocol.Request)
			owner  string
			joins  bool
		}{
			"an equal one":                    {func(*protocol.Request) {}, "x", true},
			"another owner":                   {func(*protocol.Request) {}, "y", false},
			"another code":                    {func(r *protocol.Request) { r.Code += " " }, "x", false},
			"one that wants no cached answer": {func(r *protocol.Request) { r.Cache = protocol.CacheBypass }, "x", false},
			"one that wants a new answer":     {func(r *protocol.Request) { r.Cache = protocol.CacheRefresh }, "x", false},
		} {
			r := same
			c.change(&r)
			other, created, err := two.Start(t.Context(), &r, analysis.StartOptions{Owner: c.owner})
			if err != nil || created == c.joins || (other == id) != c.joins {
				t.Errorf("%s: %s, %v, %v", name, other, created, err)
			}
		}
		if n := strings.Count(obs.told(), "joined"); n != 1 {
			t.Errorf("metrics are told of %d that joined", n)
		}
		asked := b.questions()
		if other, created, err := one.Start(t.Context(), &same, analysis.StartOptions{Owner: "x"}); other != id || created || err != nil {
			t.Errorf("on its own node an equal one got %s, %v, %v", other, created, err)
		}
		if n := b.questions() - asked; n > 0 {
			t.Errorf("on its own node an equal one asked others %d times", n)
		}
		<-ss.get(id).ended
		synctest.Wait()
		if other, created, err := two.Start(t.Context(), &same, analysis.StartOptions{Owner: "x"}); other == id || !created || err != nil {
			t.Errorf("after its end: %s, %v, %v", other, created, err)
		}
		drainAll(t, one, two)
		if n := b.offers(); n > 0 {
			t.Errorf("%d jobs are still offered", n)
		}
	})
}

// Whoever has joined from another node counts as those here do: for cancelling,
// which its own node can't, and for how long the job is waited for.
func TestARequestFromAnotherNodeIsInterestedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ss, _, one, two := twoNodes(&bus{}, func(o *analysis.Options) { o.OrphanTimeout = 5 * time.Second })
		same := shared()
		same.OrphanTimeout = protocol.Duration(time.Second)
		w := start(t, one, ss, same, analysis.StartOptions{})
		time.Sleep(900 * time.Millisecond)
		same.OrphanTimeout = 0
		if start(t, two, ss, same, analysis.StartOptions{}) != w {
			t.Fatal("it did not join")
		}
		time.Sleep(4 * time.Second) // nobody watches, but who has joined may take 5 s
		if err := two.Cancel(t.Context(), w.id, protocol.CancelClient); !errors.Is(err, analysis.ErrNotRunning) {
			t.Error(err)
		}
		for i := range 2 {
			select {
			case <-w.ended:
				t.Fatalf("ended after %d cancels: %v", i, w.story())
			default:
			}
			if err := one.Cancel(t.Context(), w.id, protocol.CancelClient); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		checkStory(t, w, "started 1 a/m", "cancelled client")
		drainAll(t, one, two)
	})
}

func TestARequestHasItsOwnJobWhereNobodySharesOne(t *testing.T) {
	for _, c := range []struct {
		name   string
		bus    *bus
		before func(one *analysis.Service)
		takes  time.Duration
	}{
		{name: "since the job was cancelled", before: func(one *analysis.Service) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = one.Drain(ctx)
		}},
		{name: "since its node drains", before: func(one *analysis.Service) {
			go func() { _ = one.Drain(context.Background()) }()
			synctest.Wait()
		}},
		{name: "since others are slow", bus: &bus{slow: time.Second}, takes: 300 * time.Millisecond},
		{name: "since nothing can be offered", bus: &bus{deaf: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ss, _, one, two := twoNodes(cmp.Or(c.bus, &bus{}), nil)
				w := start(t, one, ss, shared(), analysis.StartOptions{})
				if c.before != nil {
					c.before(one)
				}
				began := time.Now()
				other := start(t, two, ss, shared(), analysis.StartOptions{})
				if took := time.Since(began); other == w || took != c.takes {
					t.Errorf("it joined: %v, after %v", other == w, took)
				}
				<-other.ended
				drainAll(t, one, two)
			})
		})
	}
}

// Many requests on one node, and the job is on the other: all join it, each by
// itself, so that all count.
func TestRequestsAtOnceJoinAnotherNodesJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ss, _, one, two := twoNodes(&bus{slow: time.Millisecond}, func(o *analysis.Options) { o.Keys = nil })
		w := start(t, one, ss, shared(), analysis.StartOptions{})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				r, o := shared(), analysis.StartOptions{}
				if i%2 == 0 {
					o.IdempotencyKey = string(rune('a' + i))
				}
				if id, created, err := two.Start(t.Context(), &r, o); id != w.id || created || err != nil {
					t.Errorf("%s, %v, %v", id, created, err)
				}
			})
		}
		wg.Wait()
		for range 20 {
			if err := one.Cancel(t.Context(), w.id, protocol.CancelClient); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		select {
		case <-w.ended:
			t.Error("it was cancelled though one is interested")
		default:
		}
		drainAll(t, one, two)
	})
}

func TestARequestOnAnotherNodeJoinsAResumedJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ss, _, one, two := twoNodes(&bus{}, nil)
		p := newTape().started(1, "a")
		if err := one.Resume(t.Context(), p.resumption(ss, shared())); err != nil {
			t.Fatal(err)
		}
		r := shared()
		if id, created, err := two.Start(t.Context(), &r, analysis.StartOptions{}); id != "s" || created || err != nil {
			t.Error(id, created, err)
		}
		drainAll(t, one, two)
	})
}
