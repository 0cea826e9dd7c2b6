package analysis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
)

// ErrNotRunning says that no job of that id runs here: it has ended, or there
// never was one. The caller, who knows the streams, knows which.
var ErrNotRunning = errors.New("no such job runs here")

// A Service runs jobs. Its methods may be called concurrently.
type Service struct {
	// Set by New, then read-only.
	opts       Options
	pool       *resilience.Pool
	recaller   *recaller // nil without a cache
	candidates []*candidate
	idem       *idempotency
	ledger     *accounting.Ledger
	keeping    *requestKeeping // nil where no requests are kept
	hints      hints

	mu     sync.Mutex
	jobs   map[string]*job   // guarded by mu: those without a terminal event yet
	shared map[shareKey]*job // guarded by mu: those of them that equal requests may join
	// busy counts what holds a place: jobs that start, jobs, and calls of
	// providers that have not returned, even if their job has ended.
	busy      int            // guarded by mu
	custodies int            // guarded by mu: requests that are still kept, or being dropped
	draining  bool           // guarded by mu
	stopped   bool           // guarded by mu: Drain ends what still starts
	cut       int            // guarded by mu: jobs that could not be handed over
	idle      chan struct{}  // closed once draining and busy is 0
	settled   chan struct{}  // closed once custodies is 0, too
	stuck     map[string]int // guarded by mu: abandoned calls by provider
}

// New returns a Service. It starts nothing.
func New(o Options) *Service {
	o = o.withDefaults()
	pool := resilience.NewPool(o.Pool)
	cs := candidates(&o, pool)
	s := &Service{
		opts:       o,
		pool:       pool,
		recaller:   newRecaller(&o, pool),
		candidates: cs,
		idem:       newIdempotency(o),
		ledger:     newLedger(cs, &o),
		hints:      hints{ttl: o.HintTTL, nodes: make(map[string]nodeHints)},
		jobs:       make(map[string]*job),
		shared:     make(map[shareKey]*job),
		idle:       make(chan struct{}),
		settled:    make(chan struct{}),
		stuck:      make(map[string]int),
	}
	if o.Requests != nil {
		s.keeping = &requestKeeping{store: o.Requests, log: o.Logger}
	}
	return s
}

// StartOptions are what a job's starter adds to the request.
type StartOptions struct {
	// IdempotencyKey makes Start return the job that the same owner started
	// with it before; "" for none.
	IdempotencyKey string
	// RequestID names the client's request, in logs and to the provider.
	RequestID string
	// Owner is whom the job belongs to; "" where there is no authentication. Equal
	// requests of one owner share a job, so owners of several tenants differ.
	Owner string
	// Tenant is whose streams the job's stream is among; "" for those of nobody.
	Tenant string
	// Credential is what the owner came with, for its limits; "" for none.
	Credential string
	// Admit is asked for a place once it is clear that a job has to be made, rather
	// than joined: leave is called when it runs here no more. nil gives one to all.
	Admit func() (leave func(), err error)
}

// Info is what is known of a running job.
type Info struct {
	ID       string
	Provider string
	Model    string
	Analysis protocol.AnalysisKind
	Language string
	Owner    string
	// Credential is what the owner came with; "" for none.
	Credential string
	RequestID  string
	Started    time.Time
}

// Start starts a job and returns its id, which is its stream's too; created
// is false if the idempotency key had already started it, or if it joined an
// equal request's job that runs here or, with Options.Sharing, elsewhere (see
// shareKey). The job outlives ctx, which is
// only for starting it.
//
// Errors: invalid_request, payload_too_large, service_unavailable (no
// provider), overloaded, draining, and what Streams.Create returned. req is not
// changed.
func (s *Service) Start(ctx context.Context, req *protocol.Request, o StartOptions) (id string, created bool, err error) {
	r := *req
	if n := len(r.Code); n > s.opts.MaxCodeBytes {
		return "", false, protocol.Errorf(protocol.CodePayloadTooLarge, `field "code" has %d bytes, more than the limit of %d`, n, s.opts.MaxCodeBytes)
	}
	if err := r.Validate(); err != nil {
		return "", false, err
	}
	list, fallback, err := s.plan(&r)
	if err != nil {
		return "", false, err
	}
	joined := false
	start := func(confirm func(string) error) (id string, err error) {
		j := &job{s: s, req: &r, list: list, fallback: fallback, limit: max(s.opts.TotalTimeout, 0), interest: 1, ready: make(chan struct{})}
		j.key, j.cacheKey = s.shareKeyOf(&r, o.Owner)
		// The request's values (a trace, say) stay with the job; its end does not.
		j.ctx, j.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
		if id, joined, err = s.join(ctx, j); err != nil {
			return "", err
		}
		if !joined {
			id, joined = s.joinElsewhere(ctx, j)
		}
		if joined {
			if err := confirm(id); err != nil {
				// It leaves again; from another node's job with the orphan timeout.
				if cerr := s.Cancel(ctx, id, protocol.CancelClient); !errors.Is(cerr, ErrNotRunning) {
					err = errors.Join(err, cerr)
				}
				return "", err
			}
			s.opts.Observer.Joined()
			return id, nil
		}
		return s.start(ctx, j, o, confirm)
	}
	if o.IdempotencyKey == "" {
		id, err = start(unkeyed)
		return id, err == nil && !joined, err
	}
	id, created, err = s.idem.do(ctx, idempotencyKey{o.Owner, o.IdempotencyKey}, &r, start)
	return id, created && !joined, err
}

// start completes j and runs it.
func (s *Service) start(ctx context.Context, j *job, o StartOptions, confirm func(string) error) (id string, err error) {
	started := false
	defer func() {
		s.mu.Lock()
		if !started {
			s.unshare(j)
		}
		s.mu.Unlock()
		close(j.ready)
	}()
	if o.Admit != nil {
		if j.leave, err = o.Admit(); err != nil {
			return "", err
		}
		defer func() {
			if !started {
				j.leave()
			}
		}()
	}
	if err := s.reserve(); err != nil {
		return "", err
	}
	defer func() {
		if !started {
			s.release()
		}
	}()
	id = protocol.NewStreamIDFor(o.Tenant)
	w, err := s.opts.Streams.Create(ctx, id)
	if err != nil {
		return "", fmt.Errorf("create stream: %w", err)
	}
	if err := confirm(id); err != nil {
		// Nobody knows of this stream, and every stream has an end.
		return "", errors.Join(err, w.Append(protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelOrphaned}))
	}
	j.w = w
	j.info = Info{ID: id, Provider: j.list[0].Name(), Model: j.list[0].model, Analysis: j.req.Analysis, Language: language(j.req),
		Owner: o.Owner, Credential: o.Credential, RequestID: o.RequestID, Started: time.Now()}
	started = true
	s.launch(j, 0)
	return id, nil
}

// launch runs j, which has its stream and a place. A positive kept says that
// its request is kept already, with that interest.
func (s *Service) launch(j *job, kept int) {
	j.custody = s.keep(j, kept)
	s.mu.Lock()
	s.jobs[j.info.ID] = j
	if s.stopped {
		// Drain has already ended the others. This stream exists, so it needs its
		// terminal event too.
		j.cancel(cancelled{s.stopsBy(j)})
	}
	s.mu.Unlock()
	j.unoffer = s.offer(j)
	go func() {
		defer s.release()
		if j.leave != nil {
			defer j.leave()
		}
		j.run()
	}()
}

// reserve takes a place for a job.
func (s *Service) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return protocol.Errorf(protocol.CodeDraining, "this node takes no new analyses").WithRetryAfter(s.opts.OverloadRetryAfter)
	}
	if s.busy >= s.opts.MaxJobs {
		return protocol.Errorf(protocol.CodeOverloaded, "%d analyses run, which is the limit", s.busy).WithRetryAfter(s.opts.OverloadRetryAfter)
	}
	s.busy++
	return nil
}

// release gives a place back.
func (s *Service) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.checkIdle()
}

// checkIdle is called with mu held.
func (s *Service) checkIdle() {
	if !s.draining || s.busy > 0 {
		return
	}
	once := func(c chan struct{}) {
		select {
		case <-c:
		default:
			close(c)
		}
	}
	once(s.idle)
	if s.custodies == 0 { // and no job will start another one
		once(s.settled)
	}
}

// remove forgets a job that has ended here.
func (s *Service) remove(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(j)
}

// forget is called with mu held. The stream may run here again already, in
// another job.
func (s *Service) forget(j *job) {
	if s.jobs[j.info.ID] == j {
		delete(s.jobs, j.info.ID)
	}
}

// abandon counts a call that did not return; its goroutine keeps a place until
// it does, when it calls the function that is returned.
func (s *Service) abandon(provider string) (returned func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy++
	s.stuck[provider]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy--
		if s.stuck[provider]--; s.stuck[provider] == 0 {
			delete(s.stuck, provider)
		}
		s.checkIdle()
	}
}

// Cancel asks a job to end, and returns before it has: its cancelled event
// follows on the stream. If several requests share the job, a client's cancel
// takes one of them away, and the last one's ends it. A job that is being
// cancelled, or whose answer is whole already, ends as it was going to. The
// error is ErrNotRunning if no such job runs here.
func (s *Service) Cancel(_ context.Context, id string, by protocol.CancelReason) error {
	s.mu.Lock()
	j, ok := s.jobs[id]
	s.mu.Unlock()
	if !ok {
		return ErrNotRunning
	}
	s.withdraw(j, by)
	return nil
}
