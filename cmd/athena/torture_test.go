package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// A torture is a node under attack.
type torture struct {
	seed     uint64
	addr     string
	dir      string
	upstream *providertest.Upstream

	calm   chan struct{} // closed when the attacks end
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	process *process         // guarded by mu; nil while there is none
	up      chan struct{}    // guarded by mu: closed while there is one
	streams []*tortureStream // guarded by mu
	jobs    []*tortureJob    // guarded by mu, by number
	asked   map[int]int      // guarded by mu: calls of the upstream, by job
	kills   []time.Time      // guarded by mu
	counts  counts           // guarded by mu
	errs    []error          // guarded by mu
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
	// What they saw. ahead is how often a client was told the end of a stream
	// of which it knew more than the log.
	events, merged, ahead int
	seenEnded, seenLost   int
	lostEnds              int
	// How the streams ended, by the audit.
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

func (w *torture) isCalm() bool {
	select {
	case <-w.calm:
		return true
	default:
		return false
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

// killedAfter reports whether a node was killed so soon after t that it may
// not have stored what it said then.
func (w *torture) killedAfter(t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.kills {
		if d := k.Sub(t); d >= 0 && d <= lostEnd {
			return true
		}
	}
	return false
}

// start starts the node, at its address and with its data.
func (w *torture) start() error {
	// Claude is asked first, and openai where it fails.
	p, _, err := launch(append(openAIAt(w.upstream), anthropicAt(w.upstream)...), "--listen", w.addr, "--data-dir", w.dir,
		"--coalesce-window", "2ms", "--reconnect-delay", "20ms", "--heartbeat", "1s", "--write-timeout", "1s",
		// Small, so that messages are many and history is read from disk.
		"--message-bytes", "4KiB", "--poll-bytes", "16KiB", "--feed-bytes", "64KiB", "--feeds-bytes", "1MiB",
		"--breaker-failures", "1000", "--retry-backoff", "20ms", "--retry-budget", "1", "--drain-timeout", "1500ms")
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.process = p
	close(w.up)
	return nil
}

// waitUp waits until there is a node, where there was none to connect to: to
// try again and again would only take the time that it needs to start.
func (w *torture) waitUp(ctx context.Context) {
	w.mu.Lock()
	up := w.up
	w.mu.Unlock()
	select {
	case <-up:
	case <-ctx.Done():
	}
}

// stop takes the process away, to end it.
func (w *torture) stop() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.process
	w.process = nil
	w.up = make(chan struct{})
	return p
}

// strike does one blow, and starts the node again.
func (w *torture) strike(ctx context.Context, b blow) error {
	p := w.stop()
	if b.twice {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return errors.Join(err, p.kill())
		}
		if err := p.waitLog(ctx, "signal again to end now"); err != nil {
			return errors.Join(err, p.kill())
		}
	}
	if b.kill {
		if b.twice {
			rest(ctx, b.inDrain)
		}
		if err := p.kill(); err != nil {
			return err
		}
		w.mu.Lock()
		w.kills = append(w.kills, time.Now())
		w.mu.Unlock()
		w.count(func(c *counts) {
			c.kills++
			if b.twice {
				c.inDrain++
			}
		})
		return w.start()
	}
	if err := p.interrupt(); err != nil {
		return err
	}
	w.count(func(c *counts) { c.restarts++ })
	return w.start()
}

// attack restarts and kills the node until the calm.
func (w *torture) attack(ctx context.Context) {
	r := decisions(w.seed, decidesNode, 0)
	killed := false
	for number := 0; ; number++ {
		b := nextBlow(r, number, killed)
		killed = b.kill
		wait := time.NewTimer(b.after)
		select {
		case <-wait.C:
		case <-w.calm:
		case <-ctx.Done():
		}
		wait.Stop()
		if w.isCalm() || ctx.Err() != nil {
			return
		}
		if err := w.strike(ctx, b); err != nil {
			w.fail(fmt.Errorf("blow %d: %w", number, err))
			return
		}
	}
}

// begin starts analyses, one after the other, until the calm.
func (w *torture) begin(ctx context.Context) {
	var cancels sync.WaitGroup
	defer cancels.Wait()
	for number := 1; !w.isCalm() && ctx.Err() == nil; number++ {
		j := makeJob(w.seed, number)
		w.mu.Lock()
		w.jobs = append(w.jobs, j)
		w.mu.Unlock()
		id, err := w.post(ctx, number)
		switch {
		case err != nil && ctx.Err() == nil:
			w.fail(err)
			return
		case id != "":
			s := &tortureStream{id: id, started: time.Now(), world: w, said: make(map[uint64][]byte)}
			w.mu.Lock()
			w.streams = append(w.streams, s)
			w.counts.streams++
			w.mu.Unlock()
			if j.cancelAfter > 0 {
				cancels.Go(func() {
					rest(ctx, j.cancelAfter)
					w.delete(ctx, id)
				})
			}
		}
		rest(ctx, j.pause)
	}
}

// reply is the upstream's side: what is asked names the job.
func (w *torture) reply(c *providertest.Call) providertest.Script {
	_, rest, _ := bytes.Cut(c.Body, []byte("job-"))
	digits, _, _ := bytes.Cut(rest, []byte("-"))
	number, err := strconv.Atoi(string(digits))
	j := w.jobOf(number)
	if err != nil || j == nil {
		w.fail(promiseBroken("the upstream is asked for no job: %.200q", c.Body))
		return providertest.Script{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[number]++
	w.counts.faults += min(1, max(0, len(j.faults)-w.asked[number]+1))
	return j.reply(w.asked[number])
}

// post starts the analysis of this number; the id is empty if the node can't
// take one now.
func (w *torture) post(ctx context.Context, number int) (id string, err error) {
	tap := newTap(0)
	defer tap.transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.address()+"/v1/analyses",
		strings.NewReader(fmt.Sprintf(`{"code":"job-%d-"}`, number)))
	if err != nil {
		return "", err
	}
	res, err := tap.client.Do(req)
	if err != nil { // the node is away
		w.waitUp(ctx)
		return "", nil
	}
	if res.StatusCode == http.StatusCreated {
		_ = res.Body.Close() // the header says it all
		return strings.TrimPrefix(res.Header.Get("Location"), "/v1/streams/"), nil
	}
	r, ok := errors.AsType[*refusedError](refused(res))
	if !ok || r.error.Code == protocol.CodeDraining {
		return "", nil
	}
	return "", promiseBroken("an analysis is not started: %v", r)
}

// delete cancels a stream, if the node is there.
func (w *torture) delete(ctx context.Context, id string) {
	tap := newTap(0)
	defer tap.transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, w.address()+"/v1/streams/"+id, nil)
	if err != nil {
		w.fail(err)
		return
	}
	res, err := tap.client.Do(req)
	if err != nil {
		return
	}
	_ = res.Body.Close() // its status says it all
	if res.StatusCode != http.StatusAccepted {
		w.fail(promiseBroken("stream %s: cancelling is answered with %d", id, res.StatusCode))
	}
}

func (w *torture) address() string { return "http://" + w.addr }

// audit reads every stream from the beginning, when all is over.
func (w *torture) audit(ctx context.Context) {
	w.mu.Lock()
	streams := w.streams
	w.mu.Unlock()
	for i, s := range streams {
		c := &tortureClient{world: w, number: -1, views: []*view{newView(s)}}
		if err := c.round(ctx, &round{transport: transports[i%len(transports)]}); err != nil {
			w.fail(fmt.Errorf("audit: %w", err))
			return
		}
		end := c.views[0].transcript.Terminal()
		if end == nil {
			w.fail(fmt.Errorf("audit: P4: stream %s, begun %v ago, has not ended\n  %s", s.id, time.Since(s.started), strings.Join(c.history, "\n  ")))
			return
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
}

// TestTortureLosesNothingAndRepeatsNothing lets many clients watch many
// streams, cut their connections, change transports, read slowly and go back,
// while the node is restarted and killed, and checks the promises P1 to P6 on
// all that each of them got.
//
// ATHENA_TORTURE_TIME says how long, ATHENA_TORTURE_SEED repeats the decisions
// of a run.
func TestTortureLosesNothingAndRepeatsNothing(t *testing.T) {
	lasts, seed := 12*time.Second, rand.Uint64()
	if testing.Short() {
		lasts = 4 * time.Second
	}
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
	fmt.Printf("torture for %v: ATHENA_TORTURE_SEED=%d\n", lasts, seed)

	first := makeJob(seed, 0)
	up := upstream(t, first.script)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	w := &torture{seed: seed, dir: t.TempDir(), upstream: up, calm: make(chan struct{}), up: make(chan struct{}), cancel: cancel, jobs: []*tortureJob{first}, asked: make(map[int]int),
		counts: counts{connections: make(map[string]int), cuts: make(map[cut]int)}}
	up.SetReply(w.reply)
	if w.addr, err = freeAddress(); err == nil {
		err = w.start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var attackers, clients sync.WaitGroup
	attackers.Go(func() { w.attack(ctx) })
	attackers.Go(func() { w.begin(ctx) })
	for number := range tortureClients {
		clients.Go(func() {
			c := &tortureClient{world: w, number: number, decide: decisions(seed, decidesClient, number)}
			c.run(ctx)
		})
	}
	rest(ctx, lasts)
	// A machine with other things to do gets more time to hurt.
	for deadline := time.Now().Add(2 * lasts); len(w.lacks(lasts)) > 0 && time.Now().Before(deadline) && ctx.Err() == nil; {
		rest(ctx, 100*time.Millisecond)
	}
	close(w.calm)
	attackers.Wait()
	bound := time.AfterFunc(calmTime, func() { cancel(errTooLate) })
	defer bound.Stop()
	clients.Wait()
	if ctx.Err() == nil {
		w.audit(ctx)
	}
	if p := w.stop(); p != nil {
		if t.Failed() || len(w.errs) > 0 {
			t.Log(p.log())
		}
		if err := p.interrupt(); err != nil {
			t.Error(err)
		}
	}
	w.report(t, lasts)
}

// report fails the test for what went wrong, or if too little happened.
func (w *torture) report(t *testing.T, lasts time.Duration) {
	lacks := w.lacks(lasts)
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.counts
	t.Logf("seed %d, %v: %d streams (%d completed, %d lost with their node, %d cancelled), %d connections (%v), %d events (%d merged), "+
		"%d cuts (%d clean, %d reset, %d gone), %d losses, %d switches, %d rewinds, %d answers dropped, %d slow reads, %d pauses, "+
		"%d resubscriptions, %d moved, %d refused, %d faults of the upstream, %d restarts, %d kills (%d in a drain), %d ahead of the log, %d ends lost",
		w.seed, lasts, c.streams, c.completed, c.ownerLost, c.cancelled, total(c.connections), c.connections, c.events, c.merged,
		total(c.cuts), c.cuts[cutClean], c.cuts[cutReset], c.cuts[cutGone], c.losses, c.switches, c.rewinds, c.dropped, c.slow, c.pauses,
		c.resubscriptions, c.moved, c.refused, c.faults, c.restarts, c.kills, c.inDrain, c.ahead, c.lostEnds)
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
	type need struct {
		what      string
		have, min int
	}
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
