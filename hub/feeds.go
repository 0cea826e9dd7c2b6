package hub

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A Source finds the streams that have no feed on this node.
type Source interface {
	// Open fills feed with the stream's events and, while the stream runs
	// elsewhere, keeps it filled until stop is called. It returns once the
	// feed's head is what the stream's was when Open was called. ctx bounds
	// Open itself, not the following. stop waits until nothing is appended any
	// more. An unknown stream is an *protocol.Error with CodeStreamNotFound.
	Open(ctx context.Context, feed *Feed) (stop func(), err error)
	// Refresh brings feed up to the stream's head, where that is known to
	// somebody else. It is called when a client claims to be ahead of feed.
	// A Source that can't always know the head is a HeadJudge as well.
	Refresh(ctx context.Context, feed *Feed) error
	// Read returns events after the cursor from the history, oldest first, at
	// least one and up to about budget bytes. It is called for cursors that
	// lie before a feed's window.
	Read(ctx context.Context, stream string, after uint64, budget int) ([]protocol.Encoded, error)
}

// A HeadJudge is a Source of streams that change from one node to another. A
// client may then come with a cursor that is right, and that nobody who can be
// asked just now knows of: from an owner that died before it stored what the
// client has seen.
type HeadJudge interface {
	// Beyond is called for a cursor that lies beyond the head of a feed that has
	// just been refreshed. nil says that there is no such place in the stream.
	// ErrHeadUnknown: nobody can say that now; what comes will, since whoever goes
	// on with the stream covers what its last owner may have said, or ends it.
	// ErrSuperseded: the stream went on otherwise than the feed has it; the feed
	// is gone, and the stream is to be opened again.
	Beyond(ctx context.Context, feed *Feed, cursor uint64) error
}

// What a HeadJudge says.
var (
	ErrHeadUnknown = errors.New("nobody knows the stream's head now")
	ErrSuperseded  = errors.New("the stream went on otherwise")
)

// FeedLimits bound the memory of feeds. Zero values mean the defaults.
type FeedLimits struct {
	// FeedBytes bounds one feed. Default 4 MiB. Events that are not stored yet
	// are kept beyond it.
	FeedBytes int
	// TotalBytes bounds the feeds of ended streams, together with all others.
	// Default 256 MiB.
	TotalBytes int64
	// Linger is how long a feed that nobody watches goes on following a stream
	// that runs on another node. Default 5 s.
	Linger time.Duration
	// OpenTimeout bounds one call of Source.Open. Default 10 s.
	OpenTimeout time.Duration
}

func (l FeedLimits) withDefaults() FeedLimits {
	l.FeedBytes = cmp.Or(l.FeedBytes, 4<<20)
	l.TotalBytes = cmp.Or(l.TotalBytes, 256<<20)
	l.Linger = cmp.Or(l.Linger, 5*time.Second)
	l.OpenTimeout = cmp.Or(l.OpenTimeout, 10*time.Second)
	return l
}

// Feeds are a node's feeds by stream. The methods may be called concurrently.
type Feeds struct {
	limits FeedLimits
	bytes  atomic.Int64
	drops  atomic.Int64

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // openings and the sweeper

	mu      sync.Mutex
	feeds   map[string]*Feed
	opening map[string]*opening
}

// An opening is a Source.Open under way, however many wait for it.
type opening struct {
	done    chan struct{}
	waiters int // guarded by Feeds.mu
	feed    *Feed
	err     error
}

// NewFeeds returns an empty set. Close ends its goroutine.
func NewFeeds(limits FeedLimits) *Feeds {
	fs := &Feeds{limits: limits.withDefaults(), feeds: make(map[string]*Feed), opening: make(map[string]*opening)}
	fs.ctx, fs.cancel = context.WithCancel(context.Background())
	fs.wg.Go(fs.sweepLoop)
	return fs
}

// Close stops following and waits for what is under way. The feeds stay
// readable for those who hold them.
func (fs *Feeds) Close() {
	fs.mu.Lock() // Open begins nothing any more
	fs.cancel()
	fs.mu.Unlock()
	fs.wg.Wait()
	fs.mu.Lock()
	feeds := fs.feeds
	fs.feeds = make(map[string]*Feed)
	fs.mu.Unlock()
	for _, f := range feeds {
		if f.stop != nil {
			f.stop()
		}
	}
}

// Create adds the feed of a stream that starts on this node. It is held until
// Disown.
func (fs *Feeds) Create(id string) (*Feed, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if _, ok := fs.feeds[id]; ok {
		return nil, errors.New("stream " + id + " already has a feed")
	}
	f := newFeed(fs, id)
	f.owned = true
	fs.feeds[id] = f
	return f, nil
}

// Disown says that the stream's Writer is done and everything is in the
// history, so that the feed may be evicted.
func (fs *Feeds) Disown(f *Feed) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.owned = false
	f.used = time.Now()
}

// Open returns the stream's feed and holds it until Release. However many ask
// at once, src is asked once.
func (fs *Feeds) Open(ctx context.Context, id string, src Source) (*Feed, error) {
	if !protocol.ValidStreamID(id) {
		return nil, notFound(id)
	}
	fs.mu.Lock()
	if f, ok := fs.feeds[id]; ok {
		f.pins++
		fs.mu.Unlock()
		return f, nil
	}
	if err := fs.ctx.Err(); err != nil {
		fs.mu.Unlock()
		return nil, protocol.Errorf(protocol.CodeDraining, "the server is shutting down")
	}
	o, ok := fs.opening[id]
	if !ok {
		o = &opening{done: make(chan struct{})}
		fs.opening[id] = o
		fs.wg.Go(func() { fs.open(o, id, src) })
	}
	o.waiters++
	fs.mu.Unlock()

	select {
	case <-o.done:
		return o.feed, o.err
	case <-ctx.Done():
		fs.mu.Lock()
		o.waiters--
		finished := o.feed != nil
		fs.mu.Unlock()
		if finished { // it was pinned for this waiter
			fs.Release(o.feed)
		}
		return nil, ctx.Err()
	}
}

func (fs *Feeds) open(o *opening, id string, src Source) {
	ctx, cancel := context.WithTimeout(fs.ctx, fs.limits.OpenTimeout)
	defer cancel()
	f := newFeed(fs, id)
	stop, err := src.Open(ctx, f)

	fs.mu.Lock()
	defer fs.mu.Unlock()
	defer close(o.done)
	delete(fs.opening, id)
	if err != nil {
		fs.bytes.Add(-int64(f.window.Load().bytes))
		o.err = err
		return
	}
	f.stop = stop
	f.pins = o.waiters
	f.used = time.Now()
	fs.feeds[id] = f
	o.feed = f
}

// Release gives back a feed that Open returned.
func (fs *Feeds) Release(f *Feed) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.pins--
	if f.pins == 0 {
		f.used = time.Now()
	}
}

// Bytes returns what all feeds cost in memory.
func (fs *Feeds) Bytes() int64 { return fs.bytes.Load() }

// Evicted returns how many feeds were dropped because nobody needed them.
func (fs *Feeds) Evicted() int64 { return fs.drops.Load() }

// Has reports whether f is still the feed of its stream.
func (fs *Feeds) Has(f *Feed) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.feeds[f.id] == f
}

// Len returns how many feeds there are.
func (fs *Feeds) Len() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.feeds)
}

func (fs *Feeds) sweepLoop() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fs.sweep(time.Now())
		case <-fs.ctx.Done():
			return
		}
	}
}

// sweep drops feeds that nobody holds: those that follow a running stream
// after the linger, those of ended streams least recently used first, while
// the total is over its limit.
func (fs *Feeds) sweep(now time.Time) {
	var dropped, ended []*Feed
	fs.mu.Lock()
	for _, f := range fs.feeds {
		if f.pins > 0 || f.owned {
			continue
		}
		if f.window.Load().ended {
			ended = append(ended, f)
		} else if now.Sub(f.used) >= fs.limits.Linger {
			dropped = append(dropped, f)
		}
	}
	if over := fs.bytes.Load() - fs.limits.TotalBytes; over > 0 {
		slices.SortFunc(ended, func(a, b *Feed) int { return a.used.Compare(b.used) })
		for _, f := range ended {
			if over <= 0 {
				break
			}
			over -= int64(f.window.Load().bytes)
			dropped = append(dropped, f)
		}
	}
	stops := make([]func(), len(dropped))
	for i, f := range dropped {
		delete(fs.feeds, f.id)
		stops[i], f.stop = f.stop, nil
	}
	fs.mu.Unlock()

	for i, f := range dropped {
		fs.forget(f, stops[i])
		fs.drops.Add(1)
	}
}

func notFound(id string) *protocol.Error {
	return protocol.Errorf(protocol.CodeStreamNotFound, "stream %.60q is unknown or has expired", id)
}
