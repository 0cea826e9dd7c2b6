package stream

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
)

// Metrics is told what happens to the stored log. Methods must be quick.
type Metrics interface {
	// BatchStored tells of one batch and how long it took to store.
	BatchStored(events, bytes int, took time.Duration)
	// StoreFailed tells of one failed try; it is tried again.
	StoreFailed()
	// Unstored changes the number of bytes that wait to be stored.
	Unstored(delta int)
}

// Options tune a Node. Zero values mean the defaults, but for CoalesceWindow.
type Options struct {
	// Node is this node's name.
	Node string
	// Sole says that no other node uses the same store, so that every job that
	// is recorded as running at start has died.
	Sole bool
	// Peers tells how many other nodes are up; nil: none.
	Peers func() int
	// OnCancel cancels a job that this node runs, when another node asks for
	// it; nil: other nodes can't. ErrNoJob, or an error that wraps it, says that
	// the job doesn't run here any more.
	OnCancel func(ctx context.Context, id string) error
	// OnFenced is told that another node writes a stream that this one wrote, so
	// that its job need not find out by its next event. It must not block.
	OnFenced func(id string)
	// CoalesceWindow is the least time between two chunk events of a stream;
	// what comes in between is merged, and written up to an eighth of the
	// window late. 0 turns merging off.
	CoalesceWindow time.Duration
	// BatchInterval is how long an event waits to be stored at most. Default
	// 250 ms.
	BatchInterval time.Duration
	// BatchBytes is how many bytes are stored at once, without waiting for the
	// interval. Default 16 KiB.
	BatchBytes int
	// ChunkBytes bounds the text of one chunk event; longer text is split.
	// Default 16 KiB.
	ChunkBytes int
	// StoreTimeout bounds one try to store a batch. Default 10 s, and among
	// several nodes 3 s: a batch that was on its way to a leader that died is
	// not answered, and another try finds the next leader.
	StoreTimeout time.Duration
	// UnstoredBytes is how much may wait to be stored, in all streams together,
	// before Create refuses new ones: the store is away, and memory is finite.
	// Default 256 MiB.
	UnstoredBytes int64
	// TerminalWait bounds how long a terminal event waits to be stored before
	// clients see it. Default 1 s.
	TerminalWait time.Duration
	// AskTimeout bounds how long a stream's owner may take to answer for its
	// history before the log is read in its place. Default 1 s.
	AskTimeout time.Duration
	// CheckInterval is how often a stream that another node writes is asked
	// for, beside what arrives by itself: so much later a lost end is noticed,
	// and an owner knows so exactly when its last viewer elsewhere left.
	// Default 3 s.
	CheckInterval time.Duration
	// YoungWait is how long a stream that has just begun, and that nobody knows, is
	// looked for while nodes come and go. Default 3 s.
	YoungWait time.Duration
	// RetryMax bounds the wait between two tries. Default 5 s, and among several
	// nodes 1 s: so long after a cut has healed a node may not know yet that it
	// was taken over.
	RetryMax time.Duration
	Metrics  Metrics
	Logger   zerolog.Logger
}

func (o Options) withDefaults() Options {
	o.Node = cmp.Or(o.Node, "athena")
	o.BatchInterval = cmp.Or(o.BatchInterval, 250*time.Millisecond)
	o.BatchBytes = cmp.Or(o.BatchBytes, 16<<10)
	o.ChunkBytes = cmp.Or(o.ChunkBytes, 16<<10)
	if o.StoreTimeout == 0 {
		o.StoreTimeout = 3 * time.Second
		if o.Sole {
			o.StoreTimeout = 10 * time.Second
		}
	}
	o.UnstoredBytes = cmp.Or(o.UnstoredBytes, 256<<20)
	o.CheckInterval = cmp.Or(o.CheckInterval, 3*time.Second)
	o.TerminalWait = cmp.Or(o.TerminalWait, time.Second)
	o.AskTimeout = cmp.Or(o.AskTimeout, time.Second)
	o.YoungWait = cmp.Or(o.YoungWait, 3*time.Second)
	if o.RetryMax == 0 {
		o.RetryMax = time.Second
		if o.Sole {
			o.RetryMax = 5 * time.Second
		}
	}
	if o.Peers == nil {
		o.Peers = func() int { return 0 }
	}
	if o.OnFenced == nil {
		o.OnFenced = func(string) {}
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	return o
}

// A Bus is what a Node needs of the backbone, whose methods' comments are the
// contract.
type Bus interface {
	PublishLive(id string, data []byte) error
	SubscribeLive(id string, fn func(data []byte)) (stop func(), err error)
	ServeHistory(id string, fn func(request []byte) (reply []byte)) (stop func(), err error)
	AskHistory(ctx context.Context, id string, request []byte) ([]byte, error)
	AppendLog(ctx context.Context, id string, prev uint64, batch backbone.Batch) (pos uint64, err error)
	StartAppend(ctx context.Context, id string, prev uint64, batch backbone.Batch) (wait func() (pos uint64, err error))
	ReadLog(ctx context.Context, id string, after uint64, budget int) ([]backbone.Batch, error)
	LogTail(ctx context.Context, id string) (last, pos uint64, end bool, err error)
	LogTailNow(ctx context.Context, id string) (last uint64, err error)
	LogFirst(ctx context.Context, id string) (first uint64, err error)
	RunningRecord(ctx context.Context, id string) (backbone.Record, error)
	TakeRunning(ctx context.Context, id string, record []byte, revision uint64) (next uint64, taken bool, err error)
	ClearRunning(ctx context.Context, id string) error
	Running(ctx context.Context) (map[string]backbone.Record, error)
	Gather(ctx context.Context, topic string, request []byte, n int) ([][]byte, error)
	Answer(topic string, fn func(request []byte) (reply []byte)) (stop func(), err error)
	StoreUp() bool
	Settled() bool
	Epoch() uint64
}

var (
	_ Bus           = (*backbone.Backbone)(nil)
	_ hub.Source    = (*Node)(nil)
	_ hub.HeadJudge = (*Node)(nil)
)

// A Node makes and finds the streams of one node. The methods may be called
// concurrently.
type Node struct {
	opts  Options
	feeds *hub.Feeds
	bus   Bus

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup // the storer, what it waits for, the windows, catch-ups, records that are looked after
	storer  storer
	windows *windows // merge chunks of text that come close together
	// unstored is how many bytes wait to be stored, in all writers.
	unstored atomic.Int64
	unanswer func() // ends answering for this node's viewers

	mu        sync.Mutex
	writers   map[string]*Writer   // guarded by mu: those that are not fully stored
	followers map[string]*follower // guarded by mu
	ahead     map[string]uint64    // guarded by mu: what the log has of streams whose feeds were dropped for lacking it
}

// New returns a node that keeps its feeds in feeds. Close stores what is left.
func New(feeds *hub.Feeds, bus Bus, o Options) *Node {
	n := &Node{opts: o.withDefaults(), feeds: feeds, bus: bus,
		writers: make(map[string]*Writer), followers: make(map[string]*follower), ahead: make(map[string]uint64)}
	n.storer.kick = make(chan struct{}, 1)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.windows = newWindows(n.opts.CoalesceWindow)
	n.wg.Go(n.storeLoop)
	n.wg.Go(func() { n.windows.run(n.ctx) })
	n.unanswer = n.answerViewers()
	return n
}

// Close waits until everything is stored or ctx ends, and then for the node's
// goroutines. No writer may be in use any more. What could not be stored is in
// the error.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	writers := make([]*Writer, 0, len(n.writers))
	for _, w := range n.writers {
		writers = append(writers, w)
	}
	n.mu.Unlock()

	lost := 0
	for _, w := range writers {
		w.Flush()
		select {
		case <-w.stored:
		case <-ctx.Done():
			lost++
		}
	}
	n.unanswer()
	n.mu.Lock() // start begins nothing any more
	n.cancel()
	n.mu.Unlock()
	n.wg.Wait()
	if lost > 0 {
		return fmt.Errorf("%d streams were not fully stored: %w", lost, ctx.Err())
	}
	return nil
}

// start runs f in a goroutine that Close waits for, unless the node is closed.
func (n *Node) start(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return false
	}
	n.wg.Go(f)
	return true
}

// Dropped is to be told when live messages of the stream were lost on their way
// to this node.
func (n *Node) Dropped(id string) {
	if f := n.follower(id); f != nil {
		f.missed(math.MaxUint64)
	}
}

// writer returns the stream's Writer on this node, or nil.
func (n *Node) writer(id string) *Writer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.writers[id]
}

// follower returns what follows the stream on this node, or nil.
func (n *Node) follower(id string) *follower {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.followers[id]
}

// waits counts bytes that have come to wait to be stored, or less.
func (n *Node) waits(delta int) {
	n.unstored.Add(int64(delta))
	n.opts.Metrics.Unstored(delta)
}

// pause waits for d. It reports false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type noMetrics struct{}

func (noMetrics) BatchStored(int, int, time.Duration) {}
func (noMetrics) StoreFailed()                        {}
func (noMetrics) Unstored(int)                        {}
