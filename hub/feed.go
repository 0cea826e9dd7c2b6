package hub

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// entryOverhead is what an event costs in a feed beside its JSON, in bytes.
const entryOverhead = 112

// A watcher is told that a feed it watches has grown. wake is called without
// the feed's lock, possibly by many goroutines at once, and must not block.
type watcher interface{ wake() }

// A Feed is this node's view of one stream: the newest part of its log in
// memory, and who watches it.
//
// Append is for one goroutine at a time: the stream's Writer on the node that
// runs the job, or the Source that follows another node's. Everything else may
// be called concurrently.
type Feed struct {
	id    string
	feeds *Feeds

	// The newest part of the log. Readers take the pointer and need no lock.
	window atomic.Pointer[window]

	mu       sync.Mutex
	watchers map[watcher]struct{}
	list     []watcher // watchers as a slice; nil when it must be made anew
	idle     time.Time // since when nobody watches; meaningless while someone does
	stored   uint64    // events up to here are in the history, so may be dropped
	meta     protocol.Metadata

	// Guarded by feeds.mu.
	pins  int       // how many hold the feed, so that it isn't evicted
	owned bool      // the stream's Writer is on this node
	stop  func()    // ends the Source's following; nil where nothing follows
	used  time.Time // when the last pin went
}

// A window is an immutable snapshot of the newest part of a log. Windows share
// the array behind entries: an append writes behind the end of every older one.
type window struct {
	entries []protocol.Encoded
	base    uint64 // the cursor just before entries[0]
	head    uint64 // the newest seq
	bytes   int    // what entries cost in memory
	ended   bool   // the last entry is terminal
}

func newFeed(feeds *Feeds, id string) *Feed {
	f := &Feed{id: id, feeds: feeds, watchers: make(map[watcher]struct{}), idle: time.Now()}
	f.meta = protocol.Metadata{ID: id, State: protocol.StateRunning}
	f.window.Store(new(window))
	return f
}

// ID returns the stream's id.
func (f *Feed) ID() string { return f.id }

// Head returns the newest seq, and whether it is the terminal event's.
func (f *Feed) Head() (seq uint64, ended bool) {
	w := f.window.Load()
	return w.head, w.ended
}

// A GapError says that an event does not follow its feed's head.
type GapError struct {
	Stream      string
	Head, First uint64
}

func (e *GapError) Error() string {
	return fmt.Sprintf("stream %s: event from %d on does not follow head %d", e.Stream, e.First, e.Head)
}

// Append adds the next event. One that the feed already has is ignored, so
// that history and live events may overlap; one that leaves a hole is refused
// with a *GapError; nothing can follow a terminal event.
func (f *Feed) Append(e protocol.Encoded) error {
	f.mu.Lock()
	old := f.window.Load()
	if e.Seq <= old.head || old.ended {
		f.mu.Unlock()
		return nil
	}
	if e.First > old.head+1 {
		f.mu.Unlock()
		return &GapError{f.id, old.head, e.First}
	}
	cost := len(e.JSON) + entryOverhead
	w := &window{entries: append(old.entries, e), base: old.base, head: e.Seq, bytes: old.bytes + cost, ended: e.Terminal()}
	if e.Type != protocol.TypeChunk {
		f.meta.Apply(&e)
	}
	w = f.trim(w)
	f.window.Store(w)
	watchers := f.watcherList()
	f.mu.Unlock()

	f.feeds.bytes.Add(int64(w.bytes - old.bytes))
	wakeAll(watchers)
	return nil
}

// StartAt makes the feed begin behind a cursor, since the events before are not
// to be had any more. It is for a Source that opens a feed and has not appended
// to it yet.
func (f *Feed) StartAt(after uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.window.Load(); w.head == 0 {
		f.window.Store(&window{base: after, head: after})
	}
}

// trim drops the oldest entries of w if it is over the limit, a quarter of the
// limit at once so that the copy is paid for by many appends. Only what the
// history has may go. f.mu is held.
func (f *Feed) trim(w *window) *window {
	limit := f.feeds.limits.FeedBytes
	if w.bytes <= limit {
		return w
	}
	n, bytes := 0, w.bytes
	for n < len(w.entries)-1 && bytes > limit-limit/4 && w.entries[n].Seq <= f.stored {
		bytes -= len(w.entries[n].JSON) + entryOverhead
		n++
	}
	if n == 0 {
		return w
	}
	return &window{entries: slices.Clone(w.entries[n:]), base: w.entries[n-1].Seq, head: w.head, bytes: bytes, ended: w.ended}
}

// MarkStored says that the history has every event up to seq, so that the feed
// may drop them from memory.
func (f *Feed) MarkStored(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = max(f.stored, seq)
}

func (f *Feed) watcherList() []watcher {
	if f.list == nil && len(f.watchers) > 0 {
		f.list = make([]watcher, 0, len(f.watchers))
		for w := range f.watchers {
			f.list = append(f.list, w)
		}
	}
	return f.list
}

func (f *Feed) watch(w watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers[w] = struct{}{}
	f.list = nil
}

func (f *Feed) unwatch(w watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
	f.list = nil
	if len(f.watchers) == 0 {
		f.idle = time.Now()
	}
}

// Watchers returns how many clients watch the stream on this node, and where
// it is none, since when.
func (f *Feed) Watchers() (n int, idleSince time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watchers), f.idle
}

// Metadata returns what the events so far say about the stream.
func (f *Feed) Metadata() protocol.Metadata {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.meta
	m.Head = f.window.Load().head
	m.Viewers = len(f.watchers)
	return m
}

// Events returns the events after the cursor that are in memory, oldest first.
// ok is false if the cursor lies before them, so that the history must be
// asked. The slice must not be changed.
func (f *Feed) Events(after uint64) (events []protocol.Encoded, ok bool) {
	return f.window.Load().after(after)
}

// after returns the entries that follow the cursor.
func (w *window) after(cursor uint64) (entries []protocol.Encoded, ok bool) {
	if cursor < w.base {
		return nil, false
	}
	if cursor >= w.head {
		return nil, true
	}
	// Most readers are one event behind.
	if last := len(w.entries) - 1; w.entries[last].First == cursor+1 {
		return w.entries[last:], true
	}
	i, _ := slices.BinarySearchFunc(w.entries, cursor+1, func(e protocol.Encoded, seq uint64) int {
		if e.Seq < seq {
			return -1
		}
		return 1
	})
	return w.entries[i:], true
}
