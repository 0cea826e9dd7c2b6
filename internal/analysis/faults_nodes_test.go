package analysis_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
)

// relayed is how many nodes a job may run on, one after the other.
const relayed = 3

// A relay is a world with several nodes. Their jobs go from one to the next: each
// writer but the last node's may be fenced at any event, and some of what it
// wrote is lost to the log then; and the first node is drained.
type relay struct {
	*world

	nodes []*rig
	left  *leavings
	store *requestStore

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

// A leavings is an observer that tells of the jobs that have left their node.
type leavings struct {
	observer
	mu   sync.Mutex
	jobs map[string]chan analysis.JobEnd
}

func (l *leavings) of(id string) chan analysis.JobEnd {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.jobs[id]
	if !ok {
		c = make(chan analysis.JobEnd, relayed)
		l.jobs[id] = c
	}
	return c
}

func (l *leavings) JobEnded(e analysis.JobEnd) {
	if e.HandedOver || e.TakenOver {
		l.of(e.ID) <- e
	}
}

// TestJobsThatGoFromNodeToNodeKeepTheirPromises: a client that misses no event
// of any node sees one stream, whose text is at each moment the beginning of
// the answer, with the findings that belong to it; and only a whole answer is
// completed. ATHENA_FAULT_SEED and ATHENA_FAULT_RUNS are as above.
func TestJobsThatGoFromNodeToNodeKeepTheirPromises(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	runs, seed := 500, rand.Uint64()
	if testing.Short() {
		runs = 150
	}
	var err error
	if s := os.Getenv("ATHENA_FAULT_RUNS"); s != "" {
		if runs, err = strconv.Atoi(s); err != nil {
			t.Fatalf("ATHENA_FAULT_RUNS: %v", err)
		}
	}
	if s := os.Getenv("ATHENA_FAULT_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("ATHENA_FAULT_SEED: %v", err)
		}
	}
	t.Logf("ATHENA_FAULT_SEED=%d ATHENA_FAULT_RUNS=%d", seed, runs)
	var mu sync.Mutex
	ends := make(map[string]int)
	t.Run("worlds", func(t *testing.T) {
		for n := range (runs + jobsPerWorld - 1) / jobsPerWorld {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				of := newRelay(t, rand.New(rand.NewPCG(seed, uint64(n)))).run()
				mu.Lock()
				defer mu.Unlock()
				for kind, n := range of {
					ends[kind] += n
				}
			})
		}
	})
	t.Logf("how they went: %v", ends)
	for _, kind := range []string{"completed", "failed", "taken over", "handed over", "completed elsewhere"} {
		if ends[kind] == 0 && runs >= 150 {
			t.Errorf("no job was %s: the faults are badly mixed", kind)
		}
	}
}

func newRelay(t *testing.T, rng *rand.Rand) *relay {
	r := &relay{world: newWorld(t, rng), left: &leavings{jobs: make(map[string]chan analysis.JobEnd)}, store: &requestStore{}, rng: rng}
	o := r.o
	o.TotalTimeout, o.ResumeTime = 2*time.Second, 500*time.Millisecond
	r.total = o.TotalTimeout + relayed*o.ResumeTime
	o.Observer, o.Requests, o.HandOver = r.left, r.store, true
	for n := range relayed {
		node := newRig(t, o)
		node.streams.give = func(*writer) error { return nil }
		if n < relayed-1 {
			node.streams.make = r.fence
		}
		r.nodes = append(r.nodes, node)
	}
	return r
}

func (r *relay) intN(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rng.IntN(n)
}

// fence has another node take w's stream over, at some event that it writes from
// its first call on, if it comes so far. Before it what another node said is
// being said again, and half of that would be findings without their text: a
// model can go on with that, and the plans' providers can't.
func (r *relay) fence(w *writer) {
	n, called := r.intN(80), false
	w.refuse = func(is protocol.Type) error {
		if called = called || is == protocol.TypeStarted; called {
			n--
		}
		if n < 0 {
			return fmt.Errorf("append: %w", fencedError{})
		}
		return nil
	}
}

// run runs the jobs, and returns how many went in which way.
func (r *relay) run() map[string]int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	ways := make(map[string]int)
	places := make(chan struct{}, atOnce)
	for i, p := range r.plans {
		places <- struct{}{}
		if i == len(r.plans)/2 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
				defer cancel()
				_ = r.nodes[0].s.Drain(ctx) // its streams tell how that went
			})
		}
		wg.Go(func() {
			defer func() { <-places }()
			how, err := r.job(p)
			if err != nil {
				r.tb.Errorf("job %d in %s: %v", p.job, r.about, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, way := range how {
				ways[way]++
			}
		})
	}
	wg.Wait()
	for _, node := range r.nodes[1:] {
		node.drain()
	}
	released(r.tb, r.ups[:]...)
	return ways
}

// job runs one job, on as many nodes as it takes.
func (r *relay) job(p *plan) (how []string, err error) {
	req := &protocol.Request{Code: p.code(), Options: protocol.RequestOptions{Hedge: p.hedge}}
	began, n := time.Now(), 0
	id, _, err := r.nodes[n].s.Start(context.Background(), req, analysis.StartOptions{Owner: "x"})
	if isCode(err, protocol.CodeDraining) {
		n++
		id, _, err = r.nodes[n].s.Start(context.Background(), req, analysis.StartOptions{Owner: "x"})
	}
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	limit := time.NewTimer(r.total + endSlack)
	defer limit.Stop()
	var seen []protocol.Event // by a client that misses nothing
	before := 0               // how many of the log's events are from the nodes before
	for {
		w := r.nodes[n].streams.get(id)
		var end analysis.JobEnd
		select {
		case <-limit.C:
			return how, fmt.Errorf("no end after %v:\n%s", time.Since(began), strings.Join(w.tale(), "\n"))
		case end = <-r.left.of(id):
		case <-w.ended:
		}
		log := w.log()
		seen = append(seen, log[before:]...)
		if !end.HandedOver && !end.TakenOver {
			last := string(log[len(log)-1].Type)
			how = append(how, last)
			if n > 0 && len(how) > 1 {
				how = append(how, last+" elsewhere")
			}
			w.mu.Lock()
			late := w.late
			w.mu.Unlock()
			if len(late) > 0 {
				return how, fmt.Errorf("%v behind the end", late)
			}
			return how, p.checkRelayed(seen)
		}
		stored := log
		kept := kept(*req, began, `,"owner":"x"`)
		if end.TakenOver {
			how = append(how, "taken over")
			called := before
			for called < len(log) && log[called].Type != protocol.TypeStarted {
				called++
			}
			if called < len(log) { // what came before the first call is stored
				stored = log[:len(log)-r.intN(len(log)-called)]
			}
		} else {
			how = append(how, "handed over")
			if kept = r.store.get(id); kept == nil {
				return how, fmt.Errorf("handed over without its request")
			}
		}
		var past protocol.Transcript
		for i := range stored {
			if err := past.Apply(&stored[i]); err != nil {
				return how, err
			}
		}
		n++
		before = len(stored)
		err := r.nodes[n].s.Resume(context.Background(), analysis.Resumption{ID: id, Kept: kept, Past: &past, From: "before", Reason: "owner_lost",
			Writer: func(_ context.Context, f *protocol.Failover) (analysis.Writer, error) {
				return r.nodes[n].streams.resumed(id, stored, f)
			}})
		if isCode(err, protocol.CodeTimeout) {
			return append(how, "timed out"), p.checkRelayed(seen)
		}
		if err != nil {
			return how, fmt.Errorf("resume: %w", err)
		}
	}
}

// anybody stands for whoever has said a word of a plan's answer.
var anybody = strings.NewReplacer("a", "x", "b", "x", "c", "x")

// checkRelayed returns what is wrong with a stream as a client has seen it that
// has missed nothing. Who says a word is of no interest, since what one
// provider said is said again for another one to go on with.
func (p *plan) checkRelayed(events []protocol.Event) error {
	whole := p.reply("x")
	want := whole.text
	var t protocol.Transcript
	tale := func() string {
		w := writer{events: events}
		return strings.Join(w.tale(), "\n")
	}
	broken := false
	for i := range events {
		e := &events[i]
		if err := t.Apply(e); err != nil {
			return fmt.Errorf("%w\n%s", err, tale())
		}
		text := t.Text()
		var f protocol.Failover
		if e.Type == protocol.TypeFailover && e.Decode(&f) == nil && f.Discard {
			broken = false // the node was lost before it could write the end
		}
		if broken && !e.Type.Terminal() {
			return fmt.Errorf("event %d: %s behind a finding that broke off\n%s", e.Seq, e.Type, tale())
		}
		if at := strings.IndexByte(text, '@'); at >= 0 && strings.HasPrefix(findingLine(len(t.Findings())), text[at:]) {
			broken, text = true, text[:at]
		}
		text = anybody.Replace(text)
		if !strings.HasPrefix(want, text) {
			return fmt.Errorf("event %d: the client has\n%q of\n%q\n%s", e.Seq, text, want, tale())
		}
		due := 0
		for due < len(whole.findings) && whole.findings[due] <= len(text) {
			due++
		}
		// The one at the very end of the text may still be on its way, and those
		// that are said again come before the text.
		if n := len(t.Findings()); e.Type == protocol.TypeChunk && (n < due-1 || n > due) {
			return fmt.Errorf("event %d: %d findings in %d bytes, want %d\n%s", e.Seq, n, len(text), due, tale())
		}
		for i, f := range t.Findings() {
			if f.Rule != fmt.Sprint("f", i) {
				return fmt.Errorf("event %d: finding %d is %s\n%s", e.Seq, i, f.Rule, tale())
			}
		}
		if e.Type == protocol.TypeCompleted && (text != want || len(t.Findings()) != len(whole.findings)) {
			return fmt.Errorf("completed with %d of %d bytes and %d of %d findings\n%s", len(text), len(want), len(t.Findings()), len(whole.findings), tale())
		}
		if e.Type == protocol.TypeCancelled {
			return fmt.Errorf("cancelled\n%s", tale())
		}
	}
	return nil
}
