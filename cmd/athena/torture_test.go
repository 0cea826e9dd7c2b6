package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

const (
	// tortureClients is how many clients there are at once.
	tortureClients = 60
	// calmTime bounds what follows the torture: every stream must end, and
	// every client see it.
	calmTime = 40 * time.Second
)

// errTooLate is why the torture's context ends after calmTime.
var errTooLate = errors.New("the torture does not come to its end")

// A torture is something under attack, and the clients that watch.
type torture struct {
	seed     uint64
	victim   victim
	upstream *providertest.Upstream
	clients  int
	starters int // how many start analyses
	long     int // of the long pieces of answers
	// hurry makes rounds shorter; nil leaves them as they are.
	hurry func(*round)
	// keyed starts every second analysis with a key, and asks again with it.
	keyed bool

	over   chan struct{} // closed when no new attack is to begin
	calm   chan struct{} // closed when the attacks have ended
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	streams []*tortureStream // guarded by mu
	jobs    []*tortureJob    // guarded by mu, by number
	asked   map[int][]ask    // guarded by mu: calls of the upstream, by job
	counts  counts           // guarded by mu
	errs    []error          // guarded by mu
}

// An ask is one call of the upstream: which node made it, as far as its key
// says, and when.
type ask struct {
	node string
	at   time.Time
}

// A victim is what is attacked: one node, or several.
type victim interface {
	// address is where clients connect to.
	address() string
	// attack hurts it until the calm, and leaves it whole. An error ends the
	// torture.
	attack(ctx context.Context) error
	// recovered waits until there is something to connect to, where there was
	// nothing: to try again and again would only take the time that it needs to
	// start.
	recovered(ctx context.Context)
	// mayDiffer reports whether a stream may have ended with one of these events
	// for one client and with the other for another.
	mayDiffer(s *tortureStream, one, other *protocol.Event) bool
	// mayRefuse reports whether a client may be refused with this error: the
	// stream, or, where that is nil, a new one. An answer that is not Athena's
	// has only a status.
	mayRefuse(s *tortureStream, e *protocol.Error) bool
	// mayForget reports whether an idempotency key may be forgotten that was
	// given since.
	mayForget(since time.Time) bool
}

// counts say what happened, so that a torture that hurt nobody fails.
type counts struct {
	streams, restarts, kills, inDrain int // kills in a drain are kills
	faults                            int // of the upstream
	// What clients did.
	connections                        map[string]int
	cuts                               map[cut]int
	switches, rewinds, resubscriptions int
	dropped, slow, pauses              int
	losses, refused, moved             int // connections that ended by the server's doing
	vanished, notStarted, forgotten    int // streams that nobody has stored, analyses that nobody took, keys
	// What they saw. ahead is how often a client was told the end of a stream
	// of which it knew more than the log.
	events, merged, ahead int
	seenEnded, seenLost   int
	lostEnds, afterEnd    int
	// How the streams ended, by the first audit.
	completed, ownerLost, cancelled int
}

func (w *torture) count(f func(*counts)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.counts)
}

// fail ends the torture.
func (w *torture) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
	w.cancel(err)
}

func (w *torture) isOver() bool { return closed(w.over) }

func (w *torture) isCalm() bool { return closed(w.calm) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// restUntilOver waits, unless the attacks are over before.
func (w *torture) restUntilOver(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	select {
	case <-w.over:
	case <-ctx.Done():
	}
}

// pick returns a stream, of the newest ones where fresh is set; nil if there is
// none, or none is to begin any more.
func (w *torture) pick(n uint64, fresh bool) *tortureStream {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := w.streams
	if fresh && len(from) > 6 {
		from = from[len(from)-6:]
	}
	if len(from) == 0 {
		return nil
	}
	return from[n%uint64(len(from))]
}

func (w *torture) jobOf(number int) *tortureJob {
	w.mu.Lock()
	defer w.mu.Unlock()
	if number < 0 || number >= len(w.jobs) {
		return nil
	}
	return w.jobs[number]
}

// auditTime bounds an audit.
const auditTime = 2 * time.Minute

// audit reads every stream from the beginning, when all is over, at each of the
// addresses. It must end in the same way at all.
func (w *torture) audit(ctx context.Context, addresses ...string) error {
	ctx, cancel := context.WithTimeout(ctx, auditTime)
	defer cancel()
	w.mu.Lock()
	streams := w.streams
	w.mu.Unlock()
	w.count(func(n *counts) { n.completed, n.ownerLost, n.cancelled = 0, 0, 0 })
	errs := make([]error, len(addresses))
	var readers sync.WaitGroup
	for k, address := range addresses {
		readers.Go(func() {
			for i, s := range streams {
				end, err := w.auditOne(ctx, s, address, transports[(i+k)%len(transports)])
				if err != nil {
					errs[k] = fmt.Errorf("audit of stream %s at %s: %w", s.id, address, err)
					return
				}
				if k > 0 || end == nil {
					continue
				}
				w.count(func(n *counts) {
					switch end.Type {
					case protocol.TypeCompleted:
						n.completed++
					case protocol.TypeFailed:
						n.ownerLost++
					case protocol.TypeCancelled:
						n.cancelled++
					}
				})
			}
		})
	}
	readers.Wait()
	return errors.Join(errs...)
}

// auditOne returns the end of the stream; nil if it is right that nobody knows
// the stream any more.
func (w *torture) auditOne(ctx context.Context, s *tortureStream, address, transport string) (*protocol.Event, error) {
	v := newView(s)
	c := &tortureClient{world: w, at: address, number: -1, views: []*view{v}}
	// For some seconds after a restart a node can't tell whether a young stream
	// that it doesn't find is on a node that it doesn't reach yet, and says to ask
	// again.
	const unsettled = 20 * time.Second
	began := time.Now()
	err := c.round(ctx, &round{transport: transport})
	for err == nil && len(c.views) > 0 && v.transcript.Terminal() == nil && ctx.Err() == nil && time.Since(began) < unsettled {
		rest(ctx, time.Second)
		err = c.round(ctx, &round{transport: transport})
	}
	if err == nil && len(c.views) == 0 {
		return nil, nil
	}
	end := v.transcript.Terminal()
	if err == nil && end == nil {
		err = fmt.Errorf("P4: begun %v ago, it has not ended", time.Since(s.started))
	}
	if err == nil {
		err = s.lasts(end)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n  %s", err, strings.Join(c.history, "\n  "))
	}
	return end, nil
}

// newTorture makes one, for how long and from which seed the variables say.
// Something to attack is still to be given to it.
func newTorture(t *testing.T, lasts time.Duration, clients int) (w *torture, _ time.Duration) {
	t.Helper()
	seed := rand.Uint64()
	var err error
	if text := os.Getenv("ATHENA_TORTURE_TIME"); text != "" {
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("ATHENA_TORTURE_TIME: %v", err)
		}
	}
	if text := os.Getenv("ATHENA_TORTURE_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("ATHENA_TORTURE_SEED: %v", err)
		}
	}
	// Also where the test is killed, and can't log.
	fmt.Printf("%s for %v: ATHENA_TORTURE_SEED=%d\n", t.Name(), lasts, seed)
	first := makeJob(seed, 0, longPiece)
	w = &torture{seed: seed, upstream: upstream(t, first.script), clients: clients, starters: 1, long: longPiece, over: make(chan struct{}), calm: make(chan struct{}),
		jobs: []*tortureJob{first}, asked: make(map[int][]ask), counts: counts{connections: make(map[string]int), cuts: make(map[cut]int)}}
	w.upstream.SetReply(w.reply)
	return w, lasts
}

// run tortures for so long, and longer while too little has happened, and
// returns when all clients have seen the end of what they watched.
func (w *torture) run(ctx context.Context, lasts time.Duration, lacks func() []string) {
	var attackers, clients sync.WaitGroup
	attacks := slices.Repeat([]func(context.Context) error{w.begin}, w.starters)
	for _, attack := range append(attacks, w.victim.attack) {
		attackers.Go(func() {
			if err := attack(ctx); err != nil {
				w.fail(err)
			}
		})
	}
	for number := range w.clients {
		clients.Go(func() {
			c := &tortureClient{world: w, number: number, decide: decisions(w.seed, decidesClient, number)}
			c.run(ctx)
		})
	}
	rest(ctx, lasts)
	// A machine with other things to do gets more time to hurt.
	for deadline := time.Now().Add(2 * lasts); len(lacks()) > 0 && time.Now().Before(deadline) && ctx.Err() == nil; {
		rest(ctx, 100*time.Millisecond)
	}
	close(w.over)
	attackers.Wait()
	close(w.calm)
	bound := time.AfterFunc(calmTime, func() { w.cancel(errTooLate) })
	defer bound.Stop()
	clients.Wait()
}

// TestTortureLosesNothingAndRepeatsNothing lets many clients watch many
// streams, cut their connections, change transports, read slowly and go back,
// while the node is restarted and killed, and checks the promises P1 to P6 on
// all that each of them got.
//
// ATHENA_TORTURE_TIME says how long, ATHENA_TORTURE_SEED repeats the decisions
// of a run.
func TestTortureLosesNothingAndRepeatsNothing(t *testing.T) {
	lasts := 12 * time.Second
	if testing.Short() {
		lasts = 4 * time.Second
	}
	w, lasts := newTorture(t, lasts, tortureClients)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	w.cancel = cancel
	v := &tortureNode{world: w, dir: t.TempDir(), up: make(chan struct{})}
	w.victim = v
	var err error
	if v.addr, err = freeAddress(); err == nil {
		err = v.start()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.run(ctx, lasts, func() []string { return w.lacks(lasts) })
	if ctx.Err() == nil {
		if err := w.audit(ctx, v.address()); err != nil {
			w.fail(err)
		}
	}
	if p := v.stop(); p != nil {
		if t.Failed() || len(w.errs) > 0 {
			t.Log(p.log())
		}
		if err := p.interrupt(); err != nil {
			t.Error(err)
		}
	}
	w.report(t, w.lacks(lasts))
}

// report fails the test for what went wrong, or if too little happened.
func (w *torture) report(t *testing.T, lacks []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.counts
	t.Logf("seed %d: %d streams (%d completed, %d lost with their node, %d cancelled), %d connections (%v), %d events (%d merged), "+
		"%d cuts (%d clean, %d reset, %d gone), %d losses, %d switches, %d rewinds, %d answers dropped, %d slow reads, %d pauses, "+
		"%d resubscriptions, %d moved, %d refused, %d answers of an unknown stream, %d analyses not started, %d keys forgotten, %d faults of the upstream, %d restarts, %d kills (%d in a drain), %d ahead of the log, %d ends lost, %d events after them",
		w.seed, c.streams, c.completed, c.ownerLost, c.cancelled, total(c.connections), c.connections, c.events, c.merged,
		total(c.cuts), c.cuts[cutClean], c.cuts[cutReset], c.cuts[cutGone], c.losses, c.switches, c.rewinds, c.dropped, c.slow, c.pauses,
		c.resubscriptions, c.moved, c.refused, c.vanished, c.notStarted, c.forgotten, c.faults, c.restarts, c.kills, c.inDrain, c.ahead, c.lostEnds, c.afterEnd)
	for _, err := range w.errs[:min(len(w.errs), 5)] {
		t.Errorf("%v", err)
	}
	if len(w.errs) > 0 {
		t.Fatalf("%d failures; ATHENA_TORTURE_SEED=%d repeats the decisions", len(w.errs), w.seed)
	}
	for _, lack := range lacks {
		t.Error(lack)
	}
}

// lacks says of what too little happened.
func (w *torture) lacks(lasts time.Duration) (lacks []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, seconds := &w.counts, int(lasts/time.Second)
	needs := []need{
		{"streams", c.streams, seconds}, {"events", c.events, 200 * seconds}, {"merged events", c.merged, 2 * seconds},
		{"ended streams", c.seenEnded, seconds / 2}, {"streams lost with their node", c.seenLost, min(1, seconds/8)},
		{"clean cuts", c.cuts[cutClean], seconds / 2}, {"resets", c.cuts[cutReset], seconds / 2}, {"other cuts", c.cuts[cutGone], seconds},
		{"switches", c.switches, 10 * seconds}, {"rewinds", c.rewinds, seconds}, {"resubscriptions", c.resubscriptions, seconds / 4}, {"lost answers", c.dropped, seconds},
		{"slow reads", c.slow, seconds}, {"pauses", c.pauses, seconds / 4},
		{"restarts", c.restarts, seconds / 12}, {"kills", c.kills, seconds / 12}, {"restarts and kills", c.restarts + c.kills, max(1, seconds/6)},
		{"faults of the upstream", c.faults, seconds / 2}, {"clients ahead of the log", c.ahead, min(1, seconds/30)},
	}
	for _, transport := range transports {
		needs = append(needs, need{"connections by " + transport, c.connections[transport], 5 * seconds})
	}
	return lacking(needs)
}

// A need is how much of something must have happened.
type need struct {
	what      string
	have, min int
}

func lacking(needs []need) (lacks []string) {
	for _, n := range needs {
		if n.have < n.min {
			lacks = append(lacks, fmt.Sprintf("only %d %s, fewer than %d: the torture did not hurt", n.have, n.what, n.min))
		}
	}
	return lacks
}

func total[K comparable](counts map[K]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
