package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/cluster"
)

const lease = 5 * time.Second

// small is what calls, and goroutines that take turns, add to a time.
const small = 500 * time.Millisecond

var errStore = errors.New("the store does not answer")

// A world is a store and a network, with processes on it, in virtual time.
type world struct {
	t    *testing.T
	seed uint64

	mu        sync.Mutex
	rand      *rand.Rand
	revision  uint64
	leases    map[string]backbone.Record
	running   map[string]backbone.Record
	renewed   map[string]time.Time // when each lease was last written
	removed   map[string]time.Time // when each lease was last removed
	past      []snapshot           // of leases, for copies that lag
	down      bool                 // the store has no majority
	wasDown   time.Time
	processes []*process
	taken     map[string][]taking
	epochs    uint64
}

type snapshot struct {
	at              time.Time
	leases, running map[string]backbone.Record
}

// A taking is one success of TakeOver.
type taking struct {
	by     *process
	from   string
	reason string
	at     time.Time
}

// A process is one run of a node, and its bus.
type process struct {
	*cluster.Cluster
	w     *world
	name  string
	epoch uint64
	// clocks replaces the clocks, if it is set.
	clocks func() (monotonic, wall time.Time)

	// Guarded by w.mu.
	dead      bool
	resumed   chan struct{} // closed while it is not stopped
	stopped   bool
	storeCut  bool
	hangs     bool               // calls to a store that is cut or down hang
	loses     bool               // the answer to the next write is lost
	mute      bool               // the store does not say that a lease is another
	lag       time.Duration      // of the copy of the store that it reads leases from
	runLag    time.Duration      // and of that for the records of jobs
	calls     int                // of TakeOver
	deaf      map[*process]bool  // those whose messages don't arrive
	trouble   time.Time          // when it was last hindered
	verified  []time.Time        //
	verifyErr error              //
	takeErr   error              //
	slow      time.Duration      // what TakeOver takes
	facts     cluster.Facts      //
	heard     map[string]int     // by node
	logs      *logs              //
	subs      map[int]subscriber //
	subID     int
}

type subscriber struct {
	topic string
	queue chan []byte
	end   chan struct{}
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), leases: map[string]backbone.Record{},
		running: map[string]backbone.Record{}, renewed: map[string]time.Time{}, removed: map[string]time.Time{}, taken: map[string][]taking{}, epochs: 1000}
}

// start starts a process of a node, which ends with the test.
func (w *world) start(name string, change ...func(*process, *cluster.Options)) *process {
	w.t.Helper()
	w.mu.Lock()
	w.epochs++
	p := &process{w: w, name: name, epoch: w.epochs, resumed: make(chan struct{}), trouble: time.Now(), deaf: map[*process]bool{}, heard: map[string]int{},
		logs: &logs{}, subs: map[int]subscriber{}}
	close(p.resumed)
	w.processes = append(w.processes, p)
	w.mu.Unlock()
	o := cluster.Options{
		Node: name, Lease: lease, Bus: p,
		Facts: func() cluster.Facts {
			p.gate()
			w.mu.Lock()
			defer w.mu.Unlock()
			return p.facts
		},
		OnFacts: func(node string, _ cluster.Facts) {
			w.mu.Lock()
			defer w.mu.Unlock()
			p.heard[node]++
		},
		TakeOver: p.takeOver,
		Verify: func(context.Context) error {
			p.gate()
			w.mu.Lock()
			defer w.mu.Unlock()
			p.verified = append(p.verified, time.Now())
			return p.verifyErr
		},
		Logger: zerolog.New(p.logs),
	}
	for _, f := range change {
		f(p, &o)
	}
	o.Epoch = p.epoch
	p.Cluster = cluster.New(o)
	if p.clocks != nil {
		p.SetClocks(p.clocks)
	}
	w.t.Cleanup(p.close)
	if err := p.Start(w.t.Context()); err != nil {
		w.t.Fatalf("start %s: %v", name, err)
	}
	return p
}

func (w *world) startAll(names ...string) (all []*process) {
	for _, name := range names {
		all = append(all, w.start(name))
	}
	return all
}

// close ends a process in good order, as far as its bus allows.
func (p *process) close() {
	p.resume()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		p.w.t.Errorf("close %s: %v", p.name, err)
	}
}

// kill ends a process without a word, as kill -9 does.
func (p *process) kill() {
	p.set(func() { p.dead = true })
	p.close()
}

// set changes what is guarded by the world's mu.
func (p *process) set(f func()) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.trouble = time.Now()
	f()
}

// stop stops a process, as SIGSTOP does.
func (p *process) stop() {
	p.set(func() {
		if !p.stopped {
			p.stopped, p.resumed = true, make(chan struct{})
		}
	})
}

func (p *process) resume() {
	p.set(func() {
		if p.stopped {
			p.stopped = false
			close(p.resumed)
		}
	})
}

// gate holds up a process that is stopped.
func (p *process) gate() {
	for {
		p.w.mu.Lock()
		ch, stopped := p.resumed, p.stopped
		p.w.mu.Unlock()
		if !stopped {
			return
		}
		<-ch
	}
}

// call is one call to the store: f runs when it arrives there.
func (p *process) call(ctx context.Context, f func() error) error {
	p.gate()
	defer p.gate()
	w := p.w
	w.mu.Lock()
	latency := time.Millisecond + time.Duration(w.rand.IntN(5000))*time.Microsecond
	w.mu.Unlock()
	if !wait(ctx, latency) {
		return ctx.Err()
	}
	w.mu.Lock()
	if p.dead || p.storeCut || w.down {
		hangs := p.hangs && !p.dead
		p.note()
		w.mu.Unlock()
		if hangs {
			<-ctx.Done()
			return ctx.Err()
		}
		return errStore
	}
	err := f()
	lost := p.loses
	p.loses = false
	w.mu.Unlock()
	if lost {
		<-ctx.Done()
		return ctx.Err()
	}
	if !wait(ctx, latency) {
		return ctx.Err()
	}
	return err
}

// note remembers that the process was hindered. The caller holds mu.
func (p *process) note() {
	p.trouble = time.Now()
	if p.w.down {
		p.w.wasDown = p.trouble
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *process) WriteLease(ctx context.Context, value []byte, revision uint64) (next uint64, err error) {
	mute := false
	err = p.call(ctx, func() error {
		w := p.w
		if w.leases[p.name].Revision != revision {
			mute = p.mute
			return fmt.Errorf("lease: %w", backbone.ErrConflict)
		}
		w.revision++
		next = w.revision
		w.remember()
		w.leases[p.name] = backbone.Record{Value: value, Revision: next}
		w.renewed[p.name] = time.Now()
		return nil
	})
	if mute {
		<-ctx.Done()
		err = ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	return next, nil
}

// remember keeps what the store holds for copies that lag.
func (w *world) remember() {
	w.past = append(w.past, snapshot{time.Now(), maps.Clone(w.leases), maps.Clone(w.running)})
	if len(w.past) > 400 {
		w.past = slices.Delete(w.past, 0, 200)
	}
}

// before returns what the store held this long ago. The caller holds mu.
func (w *world) before(lag time.Duration) snapshot {
	then := snapshot{time.Now(), w.leases, w.running}
	for _, s := range slices.Backward(w.past) {
		if time.Since(s.at) > lag {
			break
		}
		then = s
	}
	return then
}

func (p *process) Leases(ctx context.Context) (all map[string]backbone.Record, err error) {
	err = p.call(ctx, func() error {
		all = maps.Clone(p.w.before(p.lag).leases)
		return nil
	})
	return all, err
}

func (p *process) RemoveLease(ctx context.Context, node string, revision uint64) (removed bool, err error) {
	err = p.call(ctx, func() error {
		w := p.w
		if r := w.leases[node]; r.Revision == 0 || r.Revision != revision {
			return nil
		}
		if node != p.name {
			w.checkVerdict(p, node)
		}
		w.revision++
		w.remember()
		delete(w.leases, node)
		w.removed[node] = time.Now()
		removed = true
		return nil
	})
	return removed && err == nil, err
}

// checkVerdict checks that a node that is taken for gone had a reason to be
// silent, and was so for a whole lease; unless the store has just been away, when
// it is the gossip that counts.
func (w *world) checkVerdict(judge *process, node string) {
	if silent := time.Since(w.renewed[node]); silent < lease && time.Since(judge.trouble) > lease+small {
		w.t.Errorf("seed %d: %s took %s for gone after %v", w.seed, judge.name, node, silent)
	}
	for _, p := range w.processes {
		if p.name == node && !p.dead && !p.stopped && !p.storeCut && time.Since(p.trouble) > lease {
			w.t.Errorf("seed %d: %s took %s for gone, which was well for %v", w.seed, judge.name, node, time.Since(p.trouble))
		}
	}
}

func (p *process) Running(ctx context.Context) (all map[string]backbone.Record, err error) {
	err = p.call(ctx, func() error {
		all = maps.Clone(p.w.before(p.runLag).running)
		return nil
	})
	return all, err
}

func (p *process) RunningRecord(ctx context.Context, id string) (r backbone.Record, err error) {
	err = p.call(ctx, func() error {
		r = p.w.before(p.runLag).running[id]
		return nil
	})
	return r, err
}

// mark makes a record of a job of this process.
func (p *process) mark(id string) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.put(id, p.name, p.epoch)
}

func (w *world) put(id, node string, epoch uint64) {
	value, err := json.Marshal(map[string]any{"node": node, "epoch": epoch, "started": time.Now()})
	if err != nil {
		panic(err)
	}
	w.revision++
	w.remember()
	w.running[id] = backbone.Record{Value: value, Revision: w.revision}
}

func (w *world) ownerOf(id string) (node string, epoch uint64) {
	var o struct {
		Node  string
		Epoch uint64
	}
	if err := json.Unmarshal(w.running[id].Value, &o); err != nil {
		panic(err)
	}
	return o.Node, o.Epoch
}

// takeOver is what the stream's floor does: a compare-and-swap of the record.
func (p *process) takeOver(ctx context.Context, id string, r backbone.Record, reason string) error {
	p.w.mu.Lock()
	slow := p.slow
	p.w.mu.Unlock()
	if !wait(ctx, slow) {
		return ctx.Err()
	}
	return p.call(ctx, func() error {
		w := p.w
		p.calls++
		if p.takeErr != nil {
			return p.takeErr
		}
		if w.running[id].Revision != r.Revision {
			return nil // another was quicker
		}
		node, epoch := w.ownerOf(id)
		for _, owner := range w.processes {
			if owner.name == node && owner.epoch == epoch && !owner.dead && !owner.stopped && !owner.storeCut && time.Since(owner.trouble) > 2*lease {
				w.t.Errorf("seed %d: %s took %s from %s, which was well", w.seed, p.name, id, node)
			}
		}
		if (node == "") != (reason == cluster.ReasonDraining) {
			w.t.Errorf("seed %d: %s of %q was taken over for %s", w.seed, id, node, reason)
		}
		w.put(id, p.name, p.epoch)
		w.taken[id] = append(w.taken[id], taking{p, node, reason, time.Now()})
		return nil
	})
}

func (p *process) Publish(topic string, data []byte) error {
	p.gate()
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.dead {
		return errStore
	}
	for _, other := range p.w.processes {
		if other.dead || other.deaf[p] {
			continue
		}
		for _, s := range other.subs {
			if s.topic == topic {
				select {
				case s.queue <- data:
				default: // core NATS drops
				}
			}
		}
	}
	return nil
}

func (p *process) Subscribe(topic string, fn func([]byte)) (stop func(), err error) {
	s := subscriber{topic, make(chan []byte, 1000), make(chan struct{})}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.subID++
	id := p.subID
	p.subs[id] = s
	go func() {
		for {
			select {
			case data := <-s.queue:
				p.gate()
				fn(data)
			case <-s.end:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		delete(p.subs, id)
		close(s.end)
	}), nil
}

// part has two sets of processes not hear each other.
func (w *world) part(parted bool, one, two []*process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range one {
		for _, b := range two {
			a.deaf[b], b.deaf[a] = parted, parted
		}
	}
}

// setDown takes the store's majority away, or gives it back.
func (w *world) setDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down, w.wasDown = down, time.Now()
	for _, p := range w.processes {
		p.trouble = time.Now()
	}
}

func (w *world) takings(id string) []taking {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.taken[id])
}

// takeOverCalls returns how often TakeOver was called.
func (w *world) takeOverCalls() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.processes {
		n += p.calls
	}
	return n
}

// verifications returns how often Verify was called since.
func (p *process) verifications(since time.Time) (n int) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for _, at := range p.verified {
		if !at.Before(since) {
			n++
		}
	}
	return n
}

func (w *world) hasLease(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leases[name].Revision > 0
}

// logs keeps what a process logs.
type logs struct {
	mu    sync.Mutex
	lines []string
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

func (l *logs) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// inWorld runs f in virtual time.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t, 1)) })
}
