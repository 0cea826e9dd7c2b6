package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
)

// The record of a running job says whose it is. What holds of it:
//
//   - It is changed by compare-and-swap only, from the revision that was seen.
//     So of any number of nodes that take a job over, one does.
//   - A value names one process at one moment (node, epoch, time), and is never
//     written twice. So whoever finds its own value knows that it has the job.
//   - A record that names a process that is alive stands for a Writer there, for
//     a Takeover under way, or is looked after by that process (settle) until it
//     names nobody. So no job is forgotten as long as its record's process
//     lives, and when that dies the record is found as an orphan.
//   - It is removed only when the log has the stream's end.
//
// It does not say who may append: the log's positions do. Whoever has the
// record appends the covering event, and from then on the appends of all
// others conflict.

// record is what the store knows of a job that runs.
type record struct {
	// Node is where it runs; "" where it waits for somebody to take it over.
	Node    string    `json:"node"`
	Epoch   uint64    `json:"epoch"`
	Started time.Time `json:"started"`
	// From is the node that ran it last, where Node is "".
	From string `json:"from,omitempty"`
}

func (r record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, a number and a time of today
	}
	return b
}

// ownRecord is the record of a job that this node begins to run now.
func (n *Node) ownRecord() []byte {
	return record{Node: n.opts.Node, Epoch: n.bus.Epoch(), Started: time.Now().UTC()}.encode()
}

// nobodysRecord is the record of a job that this node gives away.
func (n *Node) nobodysRecord() []byte {
	return record{Epoch: n.bus.Epoch(), Started: time.Now().UTC(), From: n.opts.Node}.encode()
}

// A Lost is a running record whose job has no node any more.
type Lost struct {
	ID string
	// Node is the one that ran the job last, and Epoch its process.
	Node  string
	Epoch uint64
	// Revision is the record's.
	Revision uint64
}

// ParseRecord reads the running record of stream id.
func ParseRecord(id string, r backbone.Record) (Lost, error) {
	var v record
	if err := json.Unmarshal(r.Value, &v); err != nil {
		return Lost{}, fmt.Errorf("running record of stream %s: %w", id, err)
	}
	l := Lost{ID: id, Node: v.Node, Epoch: v.Epoch, Revision: r.Revision}
	if l.Node == "" {
		l.Node = v.From
	}
	return l, nil
}

// A mark is the record of a Writer's job.
type mark struct {
	value []byte // set by newWriter, then read-only

	// mu is held while the record is being written, so that writing, giving
	// away and removing it come one after the other.
	mu       sync.Mutex
	revision uint64 // guarded by mu; 0: it is not recorded, as far as is known
	over     bool   // guarded by mu: nothing is recorded any more
}

const (
	// markWait is how long Create waits for a store that may have lost its
	// quorum just now.
	markWait = time.Second
	// markRetry is the first wait between tries to record a job later on; it
	// doubles up to RetryMax.
	markRetry = 250 * time.Millisecond
)

// record records the writer's job, unless that is done. ErrTaken: it was
// recorded by a try that seemed to fail, and another node has it meanwhile.
func (w *Writer) record(ctx context.Context) error {
	m := &w.mark
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over || m.revision != 0 {
		return nil
	}
	revision, taken, err := w.node.bus.TakeRunning(ctx, w.id, m.value, 0)
	if err != nil {
		return err
	}
	if !taken {
		return ErrTaken
	}
	m.revision = revision
	return nil
}

// recordFirst records the job of a stream that begins, so that its stream will
// be ended if this process dies. Where the store is away the stream begins all
// the same, and later is true: until it is recorded, its clients depend on this
// process.
func (w *Writer) recordFirst(ctx context.Context) (later bool, err error) {
	n := w.node
	if n.opts.Sole {
		return false, w.record(ctx)
	}
	if !n.bus.StoreUp() {
		return true, nil
	}
	short, cancel := context.WithTimeout(ctx, markWait)
	defer cancel()
	err = w.record(short)
	switch {
	case err == nil:
		return false, nil
	case ctx.Err() != nil, errors.Is(err, ErrTaken), errors.Is(err, backbone.ErrClosed), errors.Is(err, backbone.ErrInvalid):
		return false, err
	}
	n.opts.Logger.Warn().Err(err).Str("stream", w.id).Msg("the store is away; the stream begins without it")
	return true, nil
}

// recordLater tries until the job is recorded, or the writer is done.
func (w *Writer) recordLater() {
	n := w.node
	for wait := markRetry; ; wait = min(2*wait, n.opts.RetryMax) {
		select {
		case <-time.After(wait):
		case <-w.stored:
			return
		case <-n.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(n.ctx, n.opts.StoreTimeout)
		err := w.record(ctx)
		cancel()
		if errors.Is(err, ErrTaken) {
			w.fence("its record names another node")
		}
		if err == nil {
			w.mu.Lock()
			w.log.barred = false
			w.storeNow()
			w.mu.Unlock()
		}
		if err == nil || errors.Is(err, ErrTaken) {
			return
		}
	}
}

// A holder says whose job a record is.
type holder uint8

const (
	unsure  holder = iota // the record is older than the last that was seen
	ours                  // this writer's
	another               // another process's, or nobody's
	none                  // there is no record
)

// holder judges a record that was read just now, possibly from a replica that
// lags behind.
func (m *mark) holder(now backbone.Record) holder {
	m.mu.Lock()
	defer m.mu.Unlock()
	who := holderOf(now, m.value, m.revision)
	if who == none && m.revision == 0 {
		return unsure // it hasn't been recorded yet
	}
	return who
}

// holderOf is holder for a value that was recorded at a revision; 0: perhaps.
func holderOf(now backbone.Record, value []byte, revision uint64) holder {
	switch {
	case now.Revision == 0:
		return none // which is certain
	case bytes.Equal(now.Value, value):
		return ours
	case now.Revision <= revision:
		return unsure
	}
	return another
}

// settle looks after a record that this node has written, or may have, when the
// newest was that of revision before, and whose job doesn't run here all the
// same: it is removed if the stream has ended, and else names nobody, so that
// it is taken over. settle returns at once, and goes on until that is done.
func (n *Node) settle(id string, value []byte, before uint64) {
	n.start(func() {
		err := n.persist(n.ctx, func(ctx context.Context) (again bool, err error) {
			err = n.settleOnce(ctx, id, value, before)
			return true, err
		})
		if err != nil && n.ctx.Err() == nil {
			n.opts.Logger.Error().Err(err).Str("stream", id).Msg("the record of a job that doesn't run here stays until this node ends")
		}
	})
}

// errUnsettled says that a record changed while it was looked at.
var errUnsettled = errors.New("the record has changed meanwhile")

func (n *Node) settleOnce(ctx context.Context, id string, value []byte, before uint64) error {
	now, err := n.bus.RunningRecord(ctx, id)
	if err != nil {
		return err
	}
	switch holderOf(now, value, before) {
	case none, another:
		return nil // and a write of ours that is under way can't succeed any more
	case ours:
		_, _, end, err := n.bus.LogTail(ctx, id)
		if err != nil && !errors.Is(err, backbone.ErrNotFound) {
			return err
		}
		if end {
			return n.bus.ClearRunning(ctx, id)
		}
	case unsure: // a write that is under way may still succeed, unless this one does before
	}
	_, taken, err := n.bus.TakeRunning(ctx, id, n.nobodysRecord(), now.Revision)
	if err == nil && !taken {
		err = errUnsettled
	}
	return err
}

const (
	// persistRetry is the first wait between two tries, which doubles up to
	// persistMax.
	persistRetry = 50 * time.Millisecond
	persistMax   = time.Second
	// persistTry bounds one try. A request that was on its way to a leader that
	// died gets no answer.
	persistTry = 2 * time.Second
)

// persist calls try until it says that it need not be called again, or ctx or
// the node ends, and returns its last error.
func (n *Node) persist(ctx context.Context, try func(ctx context.Context) (again bool, err error)) error {
	for wait := persistRetry; ; wait = min(2*wait, persistMax) {
		once, cancel := context.WithTimeout(ctx, persistTry)
		again, err := try(once)
		cancel()
		if !again || err == nil || errors.Is(err, backbone.ErrClosed) || !pause(ctx, wait) {
			return err
		}
		if n.ctx.Err() != nil {
			return errors.Join(err, backbone.ErrClosed)
		}
	}
}
