package analysis_test

import (
	"context"
	"errors"
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
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/providertest"
)

const (
	// jobsPerWorld go through one service, atOnce of them at a time.
	jobsPerWorld, atOnce = 25, 10
	// endSlack is what a busy machine adds to the time that a job may take.
	endSlack = 3 * time.Second
)

// TestNoSequenceOfFaultsBreaksTheStreamsPromises runs jobs over three providers
// that misbehave by chance, in services whose options are drawn too. What is
// drawn follows from the seed, which ATHENA_FAULT_SEED sets; ATHENA_FAULT_RUNS
// is how many jobs there are.
func TestNoSequenceOfFaultsBreaksTheStreamsPromises(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	runs, seed := 1000, rand.Uint64()
	if testing.Short() {
		runs = 200
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
	ends := make(map[protocol.Type]int)
	t.Run("worlds", func(t *testing.T) {
		for n := range (runs + jobsPerWorld - 1) / jobsPerWorld {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, rand.New(rand.NewPCG(seed, uint64(n))))
				of := w.run()
				mu.Lock()
				defer mu.Unlock()
				for kind, n := range of {
					ends[kind] += n
				}
			})
		}
	})
	t.Logf("how they ended: %v", ends)
	for _, kind := range []protocol.Type{protocol.TypeCompleted, protocol.TypeFailed, protocol.TypeCancelled} {
		if ends[kind] == 0 && runs >= 200 {
			t.Errorf("no job ended %s: the faults are badly mixed", kind)
		}
	}
}

// A world is one service with three providers, and the plans of its jobs.
type world struct {
	*rig

	plans []*plan
	o     analysis.Options
	total time.Duration // that a job may take
	ups   [len(letters)]*providertest.Upstream
	about string

	mu    sync.Mutex
	calls map[[2]int]int // guarded by mu: by job and provider
}

// newWorld draws a world.
func newWorld(t *testing.T, rng *rand.Rand) *world {
	w := &world{calls: make(map[[2]int]int)}
	ms := func(list ...int) time.Duration { return time.Duration(list[rng.IntN(len(list))]) * time.Millisecond }
	o := analysis.Options{OrphanTimeout: -1, TotalTimeout: ms(100, 300, 1000, 1000), AbortGrace: time.Second,
		HeaderTimeout: ms(40, 60, 100), FirstContentTimeout: ms(60, 80, 120),
		IdleTimeout: ms(30, 50, 80), HedgeAfter: ms(-1, 1, 5, 20),
		MinRate: int64(rng.IntN(2) * 200), RateWindow: ms(20, 40),
		RateLimitWait: ms(-1, 20, 100), MaxRetries: rng.IntN(4) - 1,
		AfterContent: analysis.AfterContentRestart,
		RetryBackoff: resilience.Backoff{Base: 2 * time.Millisecond, Max: 20 * time.Millisecond, Jitter: 0.5},
		RetryBudget:  resilience.BudgetOptions{Ratio: 0.5, Reserve: 1 + rng.IntN(20)},
		Breaker: resilience.BreakerOptions{Failures: 3 + rng.IntN(6), Window: 200 * time.Millisecond,
			Backoff: resilience.Backoff{Growth: resilience.Fibonacci, Base: 5 * time.Millisecond, Max: 40 * time.Millisecond}},
		Pool: resilience.PoolLimits{Network: 4 + rng.IntN(30)},
	}
	if rng.IntN(2) == 0 {
		o.AfterContent = analysis.AfterContentContinue
	}
	if rng.IntN(3) == 0 {
		o.Breaker.Failures = 1000 // never: then the faults themselves are met
	}
	var who []string
	var usageLast [len(letters)]bool
	noPrefill, order := rng.IntN(2) == 0, rng.Perm(len(speakers))
	for i := range w.ups {
		w.ups[i] = providertest.NewUpstream(t, providertest.Script{})
		w.ups[i].SetReply(func(c *providertest.Call) providertest.Script {
			s := w.reply(i, c)
			s.NoPrefill = noPrefill
			return s
		})
		speaker, prefill := speakers[order[i]], rng.IntN(2) == 0
		usageLast[i] = speaker.wire == providertest.OpenAI
		who = append(who, fmt.Sprintf("%s (prefill %v)", speaker.name, prefill))
		o.Providers = append(o.Providers, analysis.Entry{Priority: rng.IntN(2), Concurrency: 1 + rng.IntN(8), Queue: 1 + rng.IntN(10),
			Provider: speaker.provider(t, letters[i:i+1], w.ups[i], func(c *providers.Config) { c.Features.Prefill = &prefill })})
	}
	w.about = fmt.Sprintf("%s; after content %s, hedge after %v, prefills refused %v", strings.Join(who, ", "), o.AfterContent, o.HedgeAfter, noPrefill)
	w.rig, w.o, w.total = newRig(t, o), o, o.TotalTimeout
	for n := range jobsPerWorld {
		p := draw(rng, n)
		p.usageLast = usageLast
		w.plans = append(w.plans, p)
	}
	return w
}

// reply answers a call of provider i.
func (w *world) reply(i int, c *providertest.Call) providertest.Script {
	turns := c.Turns()
	found := marked.FindStringSubmatch(turns[0].Text)
	if found == nil {
		panic("a call that belongs to no job: " + turns[0].Text)
	}
	job, err := strconv.Atoi(found[1])
	if err != nil {
		panic(err) // the pattern has digits only
	}
	w.mu.Lock()
	n := w.calls[[2]int{job, i}]
	w.calls[[2]int{job, i}]++
	w.mu.Unlock()
	return w.plans[job].script(i, n, c)
}

// run runs the jobs, and returns how many ended in which way.
func (w *world) run() map[protocol.Type]int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	ends := make(map[protocol.Type]int)
	places := make(chan struct{}, atOnce)
	for _, p := range w.plans {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			how, err := w.job(p)
			if err != nil {
				w.tb.Errorf("job %d in %s: %v", p.job, w.about, err)
			}
			mu.Lock()
			defer mu.Unlock()
			ends[how]++
		})
	}
	wg.Wait()
	w.drain()
	released(w.tb, w.ups[:]...)
	return ends
}

// job runs one job, and returns how it ended, and what is wrong with that.
func (w *world) job(p *plan) (how protocol.Type, err error) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	began := time.Now()
	id, _, err := w.s.Start(ctx, &protocol.Request{Code: p.code(), Options: protocol.RequestOptions{Hedge: p.hedge}}, analysis.StartOptions{Owner: strconv.Itoa(p.job % 3)})
	if err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	log := w.streams.get(id)
	limit := time.NewTimer(w.total + endSlack)
	defer limit.Stop()
	if p.cancel >= 0 {
		cancel := time.NewTimer(p.cancel)
		defer cancel.Stop()
		select {
		case <-log.ended:
		case <-cancel.C:
			if err := w.s.Cancel(ctx, id, protocol.CancelClient); err != nil && !errors.Is(err, analysis.ErrNotRunning) {
				return "", fmt.Errorf("cancel: %w", err)
			}
		}
	}
	select {
	case <-log.ended:
	case <-limit.C:
		return "", fmt.Errorf("no end after %v:\n%s", time.Since(began), strings.Join(log.tale(), "\n"))
	}
	log.mu.Lock()
	events, broken, late := log.events, log.broken, log.late
	log.mu.Unlock()
	if err := errors.Join(broken, p.check(events)); err != nil || len(late) > 0 {
		return "", fmt.Errorf("%w, %d events behind the end:\n%s", err, len(late), strings.Join(log.tale(), "\n"))
	}
	return events[len(events)-1].Type, nil
}
