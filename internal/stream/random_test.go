package stream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

// A storm is several nodes that are cut off, crash, wake up, take over and hand
// over at random, while jobs write and clients move from node to node. Every
// client checks the promises.
type storm struct {
	t   *testing.T
	srv string

	mu     sync.Mutex
	rand   *rand.Rand       // guarded by mu, as all below
	nodes  map[string]*peer // the living, by name
	gone   map[string]bool  // those that others take for dead
	texts  map[string]map[string]bool
	counts map[string]int
	over   bool // no faults any more

	jobs sync.WaitGroup
}

func (s *storm) n(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rand.IntN(n)
}

func (s *storm) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// any returns some node; a healthy one if that is asked for.
func (s *storm) any(healthy bool) *peer {
	for {
		name := stormNodes[s.n(len(stormNodes))]
		s.mu.Lock()
		p := s.nodes[name]
		ok := p != nil && (!healthy || !s.gone[name])
		s.mu.Unlock()
		if ok {
			return p
		}
		tick(s.t)
	}
}

var stormNodes = []string{"a", "b", "c"}

// job writes an attempt's answer until it is done or another node has the
// stream.
func (s *storm) job(w *stream.Writer, attempt int) {
	var text strings.Builder
	for i := range 30 + s.n(200) {
		piece := fmt.Sprintf("%d.%d é;", attempt, i)
		text.WriteString(piece)
		if err := w.Chunk(protocol.KindText, attempt, piece); err != nil {
			if !errors.Is(err, stream.ErrFenced) {
				s.t.Errorf("write %s: %v", w.ID(), err)
			}
			s.count("fenced")
			return
		}
		tick(s.t)
		if s.n(300) == 0 {
			ctx, cancel := context.WithTimeout(s.t.Context(), 200*time.Millisecond)
			err := w.HandOver(ctx)
			cancel()
			if err == nil {
				s.count("handed over")
				return
			}
		}
	}
	s.mu.Lock()
	s.texts[w.ID()][text.String()] = true
	s.mu.Unlock()
	err := w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop"})
	if err != nil && !errors.Is(err, stream.ErrFenced) {
		s.t.Errorf("end %s: %v", w.ID(), err)
	}
	s.count("ended")
}

// orphans takes over whatever has no node, as a cluster's coordinator does.
func (s *storm) orphans(ctx context.Context) (left int) {
	p := s.any(true)
	running, err := p.bus.Running(ctx)
	if err != nil {
		return 1
	}
	for id, r := range running {
		var who struct {
			Node  string
			Epoch uint64
		}
		must(s.t, json.Unmarshal(r.Value, &who))
		s.mu.Lock()
		owner := s.nodes[who.Node]
		orphan := owner == nil || s.gone[who.Node] || owner.bus.Epoch() != who.Epoch
		s.mu.Unlock()
		left++
		if !orphan {
			continue
		}
		l, err := stream.ParseRecord(id, r)
		must(s.t, err)
		for range 1 + s.n(2) { // sometimes two act at once
			taker := s.any(true)
			s.jobs.Go(func() { s.takeOver(taker, l) })
		}
	}
	return left
}

func (s *storm) takeOver(p *peer, l stream.Lost) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
	defer cancel()
	taken, err := p.node.TakeOver(ctx, l)
	if err != nil || taken.Ended() {
		return
	}
	attempt := 2
	if past := taken.Past(); past != nil {
		attempt = past.Started().Attempt + 1
	}
	if s.n(20) == 0 {
		_ = taken.Fail(ctx, protocol.Errorf(protocol.CodeOwnerLost, "gone")) // else it is given back
		return
	}
	w, err := taken.Resume(ctx, &protocol.Failover{From: "p", To: "p", Attempt: attempt, Reason: "owner_lost"})
	if err != nil {
		_ = taken.Fail(ctx, protocol.Errorf(protocol.CodeOwnerLost, "gone"))
		return
	}
	s.count("taken over")
	if w.Append(protocol.TypeStarted, &protocol.Started{Provider: "p", Attempt: attempt}) == nil {
		s.job(w, attempt)
	}
}

// fault hurts one node for a while.
func (s *storm) fault() {
	name := stormNodes[s.n(len(stormNodes))]
	s.mu.Lock()
	p := s.nodes[name]
	s.gone[name] = true
	s.mu.Unlock()
	kind := s.n(3)
	if kind == 0 {
		s.count("crashes")
		s.mu.Lock()
		delete(s.nodes, name)
		s.mu.Unlock()
		p.crash()
		for range s.n(100) {
			tick(s.t)
		}
		p = startPeer(s.t, s.srv, name, fast, len(stormNodes)-1)
		s.mu.Lock()
		s.nodes[name] = p
		s.mu.Unlock()
	} else { // it goes on without the store, and with or without the others
		s.count("cuts")
		p.bus.away.Store(true)
		p.bus.deaf.Store(kind == 1)
		p.bus.mute.Store(kind == 1)
		for range 20 + s.n(150) {
			tick(s.t)
		}
		p.bus.away.Store(false)
		p.bus.deaf.Store(false)
		p.bus.mute.Store(false)
	}
	s.mu.Lock()
	s.gone[name] = false
	s.mu.Unlock()
	if err := p.node.Verify(s.t.Context()); err != nil {
		s.t.Error(err)
	}
}

// client watches a stream until it has ended.
func (s *storm) client(v *viewer) {
	for v.tr.Terminal() == nil && s.t.Context().Err() == nil {
		p := s.any(false)
		for range 1 + s.n(4) {
			got, refused, err := v.try(p, time.Duration(s.n(30))*time.Millisecond)
			if err != nil || v.tr.Terminal() != nil {
				break // the node has crashed
			}
			if refused != nil {
				if !refused.Retryable {
					s.t.Errorf("%s refuses cursor %d of %s: %v", p.name, v.tr.Cursor(), v.stream, refused)
				}
				break
			}
			if got > 0 && s.n(5) == 0 {
				break
			}
		}
	}
}

func (s *storm) check(v *viewer) {
	switch end := v.tr.Terminal(); {
	case end == nil:
		s.t.Errorf("%s has no end for a client at %d", v.stream, v.tr.Cursor())
	case end.Type == protocol.TypeCompleted && !s.texts[v.stream][v.tr.Text()]:
		s.t.Errorf("%s was completed with a text of %d bytes that nobody wrote", v.stream, len(v.tr.Text()))
	}
}

func TestEveryClientSeesOneConsistentStreamWhateverItsNodesDo(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if fixed := os.Getenv("ATHENA_TEST_SEED"); fixed != "" {
		var err error
		seed, err = strconv.ParseUint(fixed, 10, 64)
		must(t, err)
	}
	faults, streams := 12, 3 // which begin before each fault
	if testing.Short() {
		faults = 4
	}
	defer func() {
		if t.Failed() {
			t.Logf("ATHENA_TEST_SEED=%d gives the same faults, in another order of events", seed)
		}
	}()
	s := &storm{t: t, srv: natsServer(t), rand: rand.New(rand.NewPCG(seed, 1)), nodes: map[string]*peer{},
		gone: map[string]bool{}, texts: map[string]map[string]bool{}, counts: map[string]int{}}
	for _, name := range stormNodes {
		s.nodes[name] = startPeer(t, s.srv, name, fast, len(stormNodes)-1)
	}
	var viewers []*viewer
	var clients sync.WaitGroup
	begin := func() {
		w := s.any(true).create()
		s.mu.Lock()
		s.texts[w.ID()] = map[string]bool{}
		s.mu.Unlock()
		start(t, w)
		s.jobs.Go(func() { s.job(w, 1) })
		for range 4 {
			v := watches(t, w.ID())
			viewers = append(viewers, v)
			clients.Go(func() { s.client(v) })
		}
	}
	var faulty sync.WaitGroup
	faulty.Go(func() {
		for range faults {
			for range streams {
				begin()
			}
			s.fault()
			for range s.n(40) {
				tick(t)
			}
		}
		s.mu.Lock()
		s.over = true
		s.mu.Unlock()
	})
	deadline := time.Now().Add(2 * time.Minute)
	for {
		left := s.orphans(t.Context())
		s.mu.Lock()
		over := s.over
		s.mu.Unlock()
		if over && left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d streams have not ended two minutes after the beginning", left)
			break
		}
		for range 10 {
			tick(t)
		}
	}
	faulty.Wait()
	clients.Wait()
	s.jobs.Wait()
	for _, v := range viewers {
		s.check(v)
	}
	for id := range s.texts {
		v := watches(t, id) // one that comes when all is over
		s.client(v)
		s.check(v)
	}
	for _, p := range s.nodes {
		eventually(t, "nothing waits to be stored on "+p.name, func() bool { return p.unstored.Load() == 0 })
	}
	t.Logf("seed %d: %v", seed, s.counts)
}
