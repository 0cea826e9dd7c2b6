package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/backbone"
)

// The defaults of Options.
const (
	DefaultLease           = 5 * time.Second
	DefaultTakeOvers       = 16
	DefaultTakeOverTimeout = 10 * time.Second
	DefaultVerifyTimeout   = 10 * time.Second
)

// The reasons for taking a stream over, as the event failover has them.
const (
	ReasonOwnerLost = "owner_lost"
	ReasonDraining  = "draining"
)

// ErrNotAlone says that two processes use one node's name, for errors.Is.
var ErrNotAlone = errors.New("another process uses this node's name")

// A Bus is what a Cluster needs of the backbone, whose methods' comments are
// the contract. Beyond them: WriteLease fails with backbone.ErrConflict where
// the lease has another revision or, for revision 0, exists; every other error
// means that the store could not be asked.
type Bus interface {
	Publish(topic string, data []byte) error
	Subscribe(topic string, fn func(data []byte)) (stop func(), err error)
	WriteLease(ctx context.Context, value []byte, revision uint64) (next uint64, err error)
	Leases(ctx context.Context) (map[string]backbone.Record, error)
	RemoveLease(ctx context.Context, node string, revision uint64) (removed bool, err error)
	Running(ctx context.Context) (map[string]backbone.Record, error)
	RunningRecord(ctx context.Context, id string) (backbone.Record, error)
}

// Options say who this node is and what it does for the others. The functions
// may be nil.
type Options struct {
	// Node is this node's name, and Epoch the number of its process: larger
	// than that of any process before it.
	Node  string
	Epoch uint64
	// Lease is how long a node may be silent until it is taken for gone.
	// Default 5 s.
	Lease time.Duration
	Bus   Bus

	// Facts is asked every fifth of a lease what to tell the others. It must
	// be quick.
	Facts func() Facts
	// OnFacts is told what another node says, each time it does, by one
	// goroutine of the bus. It must be quick.
	OnFacts func(node string, f Facts)

	// TakeOver makes the stream of an orphaned record this node's, or ends it,
	// by compare-and-swap on the record's revision. nil says that there is
	// nothing left to do, which includes that another node was quicker; after
	// an error it is called again, later, while the record is still orphaned.
	// Calls are concurrent, but not for one stream.
	TakeOver func(ctx context.Context, id string, r backbone.Record, reason string) error
	// TakeOvers is how many of these calls there are at once. Default 16.
	TakeOvers int
	// TakeOverTimeout bounds each of them. Default 10 s.
	TakeOverTimeout time.Duration

	// Verify checks which of this process's streams are still its own. It is
	// called when the lease was lost, and when this process noticed that it
	// had slept; after an error, again.
	Verify func(ctx context.Context) error
	// VerifyTimeout bounds each call. Default 10 s.
	VerifyTimeout time.Duration

	Logger zerolog.Logger
}

func (o Options) withDefaults() Options {
	o.Lease = cmp.Or(o.Lease, DefaultLease)
	o.TakeOvers = cmp.Or(o.TakeOvers, DefaultTakeOvers)
	o.TakeOverTimeout = cmp.Or(o.TakeOverTimeout, DefaultTakeOverTimeout)
	o.VerifyTimeout = cmp.Or(o.VerifyTimeout, DefaultVerifyTimeout)
	if o.Facts == nil {
		o.Facts = func() Facts { return Facts{} }
	}
	if o.OnFacts == nil {
		o.OnFacts = func(string, Facts) {}
	}
	if o.Verify == nil {
		o.Verify = func(context.Context) error { return nil }
	}
	return o
}

// The lengths of time that follow from that of a lease.

// beat is the time between two renewals, and between two messages of gossip.
func (o Options) beat() time.Duration { return o.Lease / 5 }

// hurry is the time until what failed is tried again.
func (o Options) hurry() time.Duration { return o.Lease / 10 }

// callTimeout bounds each call to the store, and is short enough that a node
// which waits in vain for one answer renews its lease in time with the next.
func (o Options) callTimeout() time.Duration { return 2 * o.beat() }

// missed is the silence that is more than bad luck: two beats were missed.
func (o Options) missed() time.Duration { return 3 * o.beat() }

// remembered is how long a node that is gone is shown, and known to be gone.
func (o Options) remembered() time.Duration { return 12 * o.Lease }

// rounds is the time between two looks for orphans that nothing gave cause to.
func (o Options) rounds() time.Duration { return 6 * o.Lease }

// A Cluster is one node's part in the cluster. Its methods may be called
// concurrently.
type Cluster struct {
	// Set by New, then read-only.
	opts    Options
	log     zerolog.Logger
	started time.Time
	// clocks returns the time twice: by the clock that stands still while the
	// machine is suspended, and by the one that doesn't.
	clocks func() (monotonic, wall time.Time)

	beatNow   chan struct{} // each with room for one, which is enough
	gossipNow chan struct{}
	scanNow   chan struct{}
	verifyNow chan struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // all goroutines, and the bus's while they call; Add under mu
	beats  sync.WaitGroup // the goroutine that renews the lease

	telling sync.Mutex // held while gossip is made and published

	keeper keeper // owned by the goroutine that renews the lease, and by Close after it

	mu       sync.Mutex
	running  bool          // guarded by mu, as all that follows: Start was called
	closed   bool          //
	leaving  bool          // Leave or Close was called
	said     bool          // the lease says so
	own      Facts         // this node's newest
	held     bool          // this node has its lease, as far as it knows
	table    table         // the others
	observed chan struct{} // closed when the table has been renewed, or could not be
	stops    []func()      // of the subscriptions
	eager    time.Time     // until when orphans are looked for in a hurry
	twin     twin          // the other process with this node's name
}

// New returns this node's part in the cluster, which does nothing until Start.
func New(o Options) *Cluster {
	o = o.withDefaults()
	c := &Cluster{opts: o, log: o.Logger, started: time.Now(), clocks: clocks, observed: make(chan struct{})}
	for _, kick := range []*chan struct{}{&c.beatNow, &c.gossipNow, &c.scanNow, &c.verifyNow} {
		*kick = make(chan struct{}, 1)
	}
	c.table.init(o, c.started)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

func clocks() (monotonic, wall time.Time) {
	now := time.Now()
	return now, now.Round(0)
}

// Start joins the cluster. It returns when this node's lease is written, which
// must be so before the node makes records of jobs, or when ctx or a whole
// lease ended before the store took it; that is no error, it is tried further.
func (c *Cluster) Start(ctx context.Context) error {
	c.mu.Lock()
	if c.running || c.closed {
		c.mu.Unlock()
		return errors.New("join the cluster: this was done already")
	}
	c.running = true
	c.mu.Unlock()

	var stops []func()
	for topic, fn := range map[string]func([]byte){topicNode: c.hear, topicLook: func([]byte) { c.look() }} {
		stop, err := c.opts.Bus.Subscribe(topic, c.whileOpen(fn))
		if err != nil {
			each(stops)
			return fmt.Errorf("join the cluster: listen for topic %s: %w", topic, err)
		}
		stops = append(stops, stop)
	}
	if !c.begin(stops) {
		each(stops)
		return errors.New("join the cluster: it was closed meanwhile")
	}

	ctx, cancel := context.WithTimeout(ctx, c.opts.Lease)
	defer cancel()
	if !c.await(ctx, func() bool { return c.held || c.twin.rules }) {
		c.log.Warn().Msg("the store has not taken this node's lease yet; other nodes may not see it")
	}
	return nil
}

// begin starts the goroutines, unless the cluster is closed.
func (c *Cluster) begin(stops []func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.stops = stops
	c.beats.Go(c.renewLoop)
	c.wg.Go(c.gossipLoop)
	c.wg.Go(c.verifyLoop)
	if c.opts.TakeOver != nil {
		c.wg.Go(c.orphanLoop)
	}
	return true
}

func each(fns []func()) {
	for _, fn := range fns {
		fn()
	}
}

// Leave tells the others that this node shuts down: it takes nothing over any
// more, and others hand nothing over to it. It returns when the store knows, or
// when that takes too long. The error says that nobody could be told.
func (c *Cluster) Leave(ctx context.Context) error {
	c.mu.Lock()
	if !c.running || c.closed {
		c.mu.Unlock()
		return nil
	}
	c.leaving = true
	c.mu.Unlock()
	told := c.gossip() // at once, whatever the loop does
	kick(c.beatNow)

	ctx, cancel := context.WithTimeout(ctx, c.opts.callTimeout())
	defer cancel()
	if !c.await(ctx, func() bool { return c.said || c.twin.rules }) {
		c.log.Warn().Msg("the store could not be told that this node leaves")
		if told != nil {
			return fmt.Errorf("tell the cluster that this node leaves: %w", told)
		}
	}
	return nil
}

// Close leaves the cluster. This node's lease is removed, so that what is left
// of its jobs is taken over at once; where the store doesn't answer, the others
// will miss its renewal. All goroutines have ended when it returns, unless a
// TakeOver or Verify hangs, which the error then says.
func (c *Cluster) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed || !c.running {
		c.closed = true
		c.mu.Unlock()
		c.cancel()
		return nil
	}
	c.closed, c.leaving = true, true
	stops := c.stops
	c.mu.Unlock()
	c.cancel()
	each(stops)
	c.beats.Wait() // its calls have ended with c.ctx
	c.dropLease(ctx)

	ended := make(chan struct{})
	go func() {
		c.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leave the cluster: something that was begun for it has not ended: %w", context.Cause(ctx))
	}
}

// Err returns nil, or what keeps this node from being a proper part of the
// cluster: ErrNotAlone. A store that doesn't answer is not among it.
func (c *Cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.twin.err(c.opts)
}

// Look has all nodes look for orphaned records now. It is called after one was
// made on purpose, by handing it over.
func (c *Cluster) Look() {
	c.look()
	if err := c.opts.Bus.Publish(topicLook, nil); err != nil {
		c.log.Debug().Err(err).Msg("the others could not be told to look for orphaned analyses")
	}
}

// await waits until cond holds, which is asked under mu after each beat, and
// reports whether it does.
func (c *Cluster) await(ctx context.Context, cond func() bool) bool {
	for {
		c.mu.Lock()
		ok, next := cond(), c.observed
		c.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-next:
		case <-ctx.Done():
			return false
		case <-c.ctx.Done():
			return false
		}
	}
}

// whileOpen returns fn as Close sees it: not called after, and waited for.
func (c *Cluster) whileOpen(fn func([]byte)) func([]byte) {
	return func(data []byte) {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return
		}
		c.wg.Add(1)
		c.mu.Unlock()
		defer c.wg.Done()
		fn(data)
	}
}

// kick wakes the one that reads from the channel, now or when it comes round.
func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// pause waits for d, a kick, or the end of ctx, and reports whether to go on.
func pause(ctx context.Context, d time.Duration, kicked <-chan struct{}) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-kicked:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// verifyLoop calls Verify when it is told to, until it succeeds.
func (c *Cluster) verifyLoop() {
	for {
		select {
		case <-c.verifyNow:
		case <-c.ctx.Done():
			return
		}
		for tries := 1; ; tries++ {
			ctx, cancel := context.WithTimeout(c.ctx, c.opts.VerifyTimeout)
			err := c.opts.Verify(ctx)
			cancel()
			if err == nil || c.ctx.Err() != nil {
				break
			}
			c.log.Warn().Err(err).Int("tries", tries).Msg("could not find out which analyses are still this node's own")
			// A new cause needs no call of its own: the next one serves it, too.
			if !pause(c.ctx, c.opts.hurry()*time.Duration(min(tries, 10)), c.verifyNow) {
				return
			}
		}
	}
}
