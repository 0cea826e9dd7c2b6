package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

// coverWidth is how many numbers the event covers that ends a stream whose
// owner was lost. It must be more than a node can have written and not stored:
// a million events a second would take an hour.
const coverWidth = 1 << 32

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
	// StoreTimeout bounds one try to store a batch. Default 10 s.
	StoreTimeout time.Duration
	// TerminalWait bounds how long a terminal event waits to be stored before
	// clients see it. Default 1 s.
	TerminalWait time.Duration
	// AskTimeout bounds how long a stream's owner may take to answer for its
	// history before the log is read in its place. Default 1 s.
	AskTimeout time.Duration
	// RetryMax bounds the wait between two tries. Default 5 s.
	RetryMax time.Duration
	Metrics  Metrics
	Logger   zerolog.Logger
}

func (o Options) withDefaults() Options {
	o.Node = cmp.Or(o.Node, "athena")
	o.BatchInterval = cmp.Or(o.BatchInterval, 250*time.Millisecond)
	o.BatchBytes = cmp.Or(o.BatchBytes, 16<<10)
	o.ChunkBytes = cmp.Or(o.ChunkBytes, 16<<10)
	o.StoreTimeout = cmp.Or(o.StoreTimeout, 10*time.Second)
	o.TerminalWait = cmp.Or(o.TerminalWait, time.Second)
	o.AskTimeout = cmp.Or(o.AskTimeout, time.Second)
	o.RetryMax = cmp.Or(o.RetryMax, 5*time.Second)
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
	LogFirst(ctx context.Context, id string) (first uint64, err error)
	MarkRunning(ctx context.Context, id string, record []byte) error
	ClearRunning(ctx context.Context, id string) error
	Running(ctx context.Context) (map[string][]byte, error)
	Epoch() uint64
}

var (
	_ Bus        = (*backbone.Backbone)(nil)
	_ hub.Source = (*Node)(nil)
)

// A Node makes and finds the streams of one node. The methods may be called
// concurrently.
type Node struct {
	opts  Options
	feeds *hub.Feeds
	bus   Bus

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the storer, what it waits for, the windows, catch-ups
	storer storer
	// windows merges chunks of text that come close together.
	windows *windows

	mu        sync.Mutex
	writers   map[string]*Writer   // guarded by mu: those that are not fully stored
	followers map[string]*follower // guarded by mu
}

// New returns a node that keeps its feeds in feeds. Close stores what is left.
func New(feeds *hub.Feeds, bus Bus, o Options) *Node {
	n := &Node{opts: o.withDefaults(), feeds: feeds, bus: bus,
		writers: make(map[string]*Writer), followers: make(map[string]*follower)}
	n.storer.kick = make(chan struct{}, 1)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.windows = newWindows(n.opts.CoalesceWindow)
	n.wg.Go(n.storeLoop)
	n.wg.Go(func() { n.windows.run(n.ctx) })
	return n
}

// record is what the store knows of a job that runs.
type record struct {
	Node    string    `json:"node"`
	Epoch   uint64    `json:"epoch"`
	Started time.Time `json:"started"`
}

// Recover ends the streams whose jobs died with an earlier process of this
// node, so that every stream ends (P4). It returns how many those were, and
// which could not be ended, which the next Recover tries again. Call it before
// clients are let in.
func (n *Node) Recover(ctx context.Context) (ended int, err error) {
	running, err := n.bus.Running(ctx)
	if err != nil {
		return 0, fmt.Errorf("list running jobs: %w", err)
	}
	var errs []error
	for id, value := range running {
		var r record
		if err := json.Unmarshal(value, &r); err != nil {
			n.opts.Logger.Warn().Err(err).Str("stream", id).Msg("record of a running job can't be read")
		}
		if !n.opts.Sole && r.Node != n.opts.Node {
			continue
		}
		if r.Node == n.opts.Node && r.Epoch == n.bus.Epoch() {
			continue // started by this process
		}
		if err := n.endLost(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("end stream %s, whose node was lost: %w", id, err))
			continue
		}
		ended++
	}
	return ended, errors.Join(errs...)
}

// endLost appends failed to the stored log of a stream whose owner is gone. The
// event covers a wide range from the stored head on: clients may have seen
// events that were never stored, and their cursors must lie before its end.
func (n *Node) endLost(ctx context.Context, id string) error {
	last, pos, end, err := n.bus.LogTail(ctx, id)
	if err != nil && !errors.Is(err, backbone.ErrNotFound) {
		return err
	}
	if !end {
		cause := protocol.Errorf(protocol.CodeOwnerLost, "the node that ran the analysis stopped before it was done; start it again")
		e, err := protocol.Encode(id, last+1, last+coverWidth, protocol.TypeFailed, time.Now(), &protocol.Failed{Error: cause})
		if err != nil {
			return err
		}
		batch := backbone.Batch{First: e.First, Last: e.Seq, End: true, Events: [][]byte{e.JSON}}
		if _, err := n.bus.AppendLog(ctx, id, pos, batch); err != nil {
			return err
		}
		_ = n.bus.PublishLive(id, e.JSON) // a hole, which its readers will fill
	}
	return n.bus.ClearRunning(ctx, id)
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

// Read returns stored events, and where the log doesn't have them yet, what the
// stream's owner has.
func (n *Node) Read(ctx context.Context, id string, after uint64, budget int) ([]protocol.Encoded, error) {
	events, err := n.readLog(ctx, id, after, budget)
	if err == nil && len(events) > 0 {
		return events, nil
	}
	if err != nil && !errors.Is(err, protocol.Errorf(protocol.CodeStreamNotFound, "")) {
		return nil, err
	}
	page, askErr := n.askOwner(ctx, id, after, budget)
	if askErr == nil {
		return page.events, nil
	}
	if err == nil || errors.Is(askErr, backbone.ErrNoOwner) {
		return events, err
	}
	return nil, askErr
}

// errExpired says that the limits of the log have dropped what was asked for.
var errExpired = errors.New("history has expired")

// readLog returns the stored events after the cursor.
func (n *Node) readLog(ctx context.Context, id string, after uint64, budget int) ([]protocol.Encoded, error) {
	batches, err := n.bus.ReadLog(ctx, id, after, budget)
	switch {
	case errors.Is(err, backbone.ErrNotFound):
		return nil, protocol.Errorf(protocol.CodeStreamNotFound, "stream %s is unknown or has expired", id)
	case errors.Is(err, backbone.ErrGap):
		return nil, protocol.Errorf(protocol.CodeStreamNotFound, "%w: what follows cursor %d of stream %s", errExpired, after, id)
	case err != nil:
		return nil, fmt.Errorf("read history of %s: %w", id, err)
	}
	var events []protocol.Encoded
	for _, b := range batches {
		for _, raw := range b.Events {
			e, err := protocol.Parse(raw)
			if err != nil {
				return nil, fmt.Errorf("read history of %s: %w", id, err)
			}
			if e.Seq > after {
				events = append(events, e)
			}
		}
	}
	return events, nil
}

// Dropped is to be told when live messages of the stream were lost on their way
// to this node.
func (n *Node) Dropped(id string) {
	n.mu.Lock()
	f := n.followers[id]
	n.mu.Unlock()
	if f != nil {
		f.missed(math.MaxUint64)
	}
}

type noMetrics struct{}

func (noMetrics) BatchStored(int, int, time.Duration) {}
func (noMetrics) StoreFailed()                        {}
func (noMetrics) Unstored(int)                        {}
