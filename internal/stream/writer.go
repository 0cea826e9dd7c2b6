package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

var (
	// ErrEnded is returned for events after the terminal one.
	ErrEnded = errors.New("the stream has ended")
	// ErrFenced is returned once another node has taken the stream over.
	ErrFenced error = fencedError{}
)

// A fencedError is ErrFenced, which says so to those who don't know this
// package.
type fencedError struct{}

func (fencedError) Error() string { return "another node writes the stream now" }

// TakenOver reports that another node writes the stream.
func (fencedError) TakenOver() bool { return true }

// A Writer writes one stream on the node that runs its job. The methods may be
// called concurrently, though the order of events is then anybody's.
type Writer struct {
	// Set by Create or Resume, then read-only.
	id     string
	node   *Node
	feed   *hub.Feed
	mark   mark          // the job's record
	stored chan struct{} // closed when the writer is done: everything is stored, or another node writes
	unhook func()        // ends answering for the stream's history
	viewed atomic.Int64  // when a client was last known to watch on another node, by clock; 0: never

	mu       sync.Mutex
	seq      uint64          // guarded by mu, as all below
	ended    error           // why nothing more can be appended
	gone     bool            // the writer is done
	untold   bool            // the terminal event was dropped before clients saw it, since another node writes
	digest   protocol.Digest // of the text so far
	kind     protocol.ChunkKind
	attempt  int
	pending  strings.Builder   // chunk text of kind and attempt that waits for the window's end
	lastText time.Time         // when the last chunk event was made
	windowed bool              // the node's windows have the writer
	opened   bool              // a chunk event of attempt was made
	final    *protocol.Encoded // the terminal event, while it is being stored

	told chan struct{} // closed when the terminal event is with the clients
	log  logQueue      // guarded by mu
}

func newWriter(n *Node, id string, value []byte) *Writer {
	return &Writer{id: id, node: n, mark: mark{value: value}, stored: make(chan struct{}), told: make(chan struct{})}
}

// Create starts a stream. It returns when the store knows that the job runs,
// so that its stream will be ended if this process dies. Among several nodes a
// store that is away is no reason to refuse: then the job is recorded as soon
// as it can be. But where too much waits to be stored the error is overloaded.
func (n *Node) Create(ctx context.Context, id string) (*Writer, error) {
	if !protocol.ValidStreamID(id) {
		return nil, fmt.Errorf("create stream: %q is not a stream id", id)
	}
	if waiting := n.unstored.Load(); waiting > n.opts.UnstoredBytes {
		return nil, protocol.Errorf(protocol.CodeOverloaded, "%d bytes wait to be stored; the store doesn't answer", waiting).WithRetryAfter(n.opts.RetryMax)
	}
	w := newWriter(n, id, n.ownRecord())
	later, err := w.recordFirst(ctx)
	if err != nil {
		return nil, fmt.Errorf("create stream: %w", err)
	}
	if w.feed, err = n.feeds.Create(id); err == nil {
		if err = w.serve(); err != nil {
			n.feeds.Disown(w.feed)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create stream: %w", err), n.bus.ClearRunning(ctx, id))
	}
	if later {
		w.mu.Lock()
		w.log.barred = true
		w.mu.Unlock()
		n.start(w.recordLater)
	}
	return w, nil
}

// serve begins to answer for the stream's history.
func (w *Writer) serve() (err error) {
	n := w.node
	w.unhook, err = n.bus.ServeHistory(w.id, func(request []byte) []byte { return n.answer(w, request) })
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.writers[w.id] = w
	n.mu.Unlock()
	return nil
}

// ID returns the stream's id.
func (w *Writer) ID() string { return w.id }

// Append writes an event of any type but chunk, whose data is as
// protocol.DataFor says. A terminal one ends the stream; what proves
// completeness is filled into a *protocol.Completed here.
//
// A terminal event is stored before it is told, and Append waits for that, at
// most the TerminalWait: after a crash nobody may find another end than the one
// that a client has seen (P4).
func (w *Writer) Append(t protocol.Type, data any) error {
	if err := w.appendData(t, data); err != nil || !t.Terminal() {
		return err
	}
	wait := time.NewTimer(w.node.opts.TerminalWait)
	defer wait.Stop()
	select {
	case <-w.told:
	case <-wait.C:
		w.tell()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.untold {
		return ErrFenced
	}
	return nil
}

func (w *Writer) appendData(t protocol.Type, data any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return w.ended
	}
	if err := w.flushText(); err != nil {
		return err
	}
	discards := false
	switch d := data.(type) {
	case *protocol.Chunk:
		return errors.New("append: a chunk is written by Chunk")
	case *protocol.Completed:
		c := *d
		c.Events = w.seq + 1
		c.Bytes, c.SHA256 = w.digest.Sum()
		data = &c
	case *protocol.Failover:
		discards = d.Discard
	}
	e, err := protocol.Encode(w.id, w.seq+1, w.seq+1, t, time.Now(), data)
	if err != nil {
		return err
	}
	if t.Terminal() {
		w.ended = ErrEnded
		w.seq = e.Seq
		w.final = &e
		w.enqueue(e)
		return nil
	}
	if err := w.append(e); err != nil {
		return err
	}
	if discards {
		w.digest.Reset()
	}
	return nil
}

// tell gives the terminal event to the clients, once.
func (w *Writer) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.final == nil {
		return
	}
	if err := w.deliver(*w.final); err != nil {
		w.node.opts.Logger.Error().Err(err).Str("stream", w.id).Msg("terminal event could not be told")
	}
	w.final = nil
	close(w.told)
}

// Chunk writes a piece of the answer. The first of an attempt and any that
// comes a window after the one before goes out at once; others are merged
// until the window is over. Invalid UTF-8 becomes U+FFFD.
func (w *Writer) Chunk(kind protocol.ChunkKind, attempt int, text string) error {
	if text == "" {
		return nil
	}
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return w.ended
	}
	if kind != w.kind || attempt != w.attempt {
		if err := w.flushText(); err != nil {
			return err
		}
		w.opened = w.opened && attempt == w.attempt
		w.kind, w.attempt = kind, attempt
	}
	if w.pending.Len() == 0 {
		now := time.Now()
		wait := w.node.opts.CoalesceWindow - now.Sub(w.lastText)
		if !w.opened || wait <= 0 {
			w.opened = true
			return w.emit(text, now)
		}
		w.openWindow(wait)
	}
	w.pending.WriteString(text)
	if w.pending.Len() >= w.node.opts.ChunkBytes {
		return w.flushText()
	}
	return nil
}

// Flush writes what waits for its window, and asks for everything to be stored
// soon.
func (w *Writer) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended == nil {
		_ = w.flushText() // the next call returns the error
	}
	w.storeNow()
}

// openWindow has the text that waits written after d, or when an earlier
// window is over. w.mu is held.
func (w *Writer) openWindow(d time.Duration) {
	if !w.windowed {
		w.windowed = true
		w.node.windows.add(w, d)
	}
}

// windowOver is called when the window is over, which may have been opened for
// text that is written already.
func (w *Writer) windowOver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.windowed = false
	if w.ended != nil || w.pending.Len() == 0 {
		return
	}
	if wait := w.node.windows.length - time.Since(w.lastText); wait > 0 {
		w.openWindow(wait)
		return
	}
	_ = w.flushText() // the next call returns the error
}

// flushText writes the text that waits. w.mu is held.
func (w *Writer) flushText() error {
	if w.pending.Len() == 0 {
		return nil
	}
	text := w.pending.String()
	w.pending.Reset()
	return w.emit(text, time.Now())
}

// emit writes text as chunk events now.
func (w *Writer) emit(text string, now time.Time) error {
	w.lastText = now
	if w.kind == protocol.KindText {
		w.digest.Add(text)
	}
	for len(text) > w.node.opts.ChunkBytes {
		piece := protocol.SplitText(text, w.node.opts.ChunkBytes)[0]
		if err := w.append(protocol.EncodeChunk(w.id, w.seq+1, w.seq+1, now, w.kind, w.attempt, piece)); err != nil {
			return err
		}
		text = text[len(piece):]
	}
	return w.append(protocol.EncodeChunk(w.id, w.seq+1, w.seq+1, now, w.kind, w.attempt, text))
}

// append makes e the next event. w.mu is held.
func (w *Writer) append(e protocol.Encoded) error {
	if err := w.deliver(e); err != nil {
		return err
	}
	w.seq = e.Seq
	w.enqueue(e)
	return nil
}

// deliver gives e to the feed and to the live subject. w.mu is held.
func (w *Writer) deliver(e protocol.Encoded) error {
	if err := w.feed.Append(e); err != nil {
		return err // a *hub.GapError, which would be a bug here
	}
	// A live message that can't be sent is a hole that its readers will see
	// and fill.
	_ = w.node.bus.PublishLive(w.id, e.JSON)
	return nil
}
