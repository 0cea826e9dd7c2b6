package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

// pageBytes is about how much one answer about history holds.
const pageBytes = 1 << 20

// maxPageBytes bounds what an owner answers whatever it is asked.
const maxPageBytes = 4 << 20

// A question is what another node asks a stream's owner: for the events after a
// cursor, or to cancel the job.
type question struct {
	After  uint64 `json:"after"`
	Budget int    `json:"budget"`
	// Viewers is how many clients watch the stream on the node that asks.
	Viewers int  `json:"viewers,omitempty"`
	Cancel  bool `json:"cancel,omitempty"`
}

// An answerHead is the first line of the owner's answer; events follow, one on
// a line.
type answerHead struct {
	Head  uint64 `json:"head"`
	Error string `json:"error,omitempty"`
	// Leaving says that the error is that the node runs the job no more.
	Leaving bool `json:"leaving,omitempty"`
}

// answer is what this node says about a stream that it writes.
func (n *Node) answer(w *Writer, request []byte) []byte {
	var q question
	var head answerHead
	var events []protocol.Encoded
	err := json.Unmarshal(request, &q)
	if err == nil && q.Viewers > 0 {
		w.viewed.Store(clock())
	}
	switch {
	case err != nil:
	case q.Cancel:
		err = n.cancelHere(w.id)
	default:
		head.Head, events, err = n.pageOf(w, q)
	}
	if err != nil {
		head.Error, head.Leaving = err.Error(), errors.Is(err, ErrNoJob)
	}
	out, err := json.Marshal(head)
	if err != nil {
		panic(err) // a number and a string
	}
	for i := range events {
		out = append(out, '\n')
		out = append(out, events[i].JSON...)
	}
	return out
}

// pageOf returns what the question asks for, and where the stream's head is.
func (n *Node) pageOf(w *Writer, q question) (head uint64, events []protocol.Encoded, err error) {
	budget := min(max(q.Budget, 1), maxPageBytes)
	head, _ = w.feed.Head()
	events, inMemory := w.feed.Events(q.After)
	if !inMemory {
		ctx, cancel := context.WithTimeout(n.ctx, n.opts.StoreTimeout)
		defer cancel()
		if events, err = n.readLog(ctx, w.id, q.After, budget); err != nil {
			return head, nil, err
		}
	}
	size := 0
	for i := range events {
		if size += len(events[i].JSON); size > budget {
			return head, events[:i+1], nil
		}
	}
	return head, events, nil
}

// A page is part of a stream's history, and where its head was.
type page struct {
	head   uint64
	events []protocol.Encoded
}

// ask asks the node that runs the stream's job.
func (n *Node) ask(ctx context.Context, id string, q question) (page, error) {
	request, err := json.Marshal(q)
	if err != nil {
		return page{}, err
	}
	// An owner that is just done may have taken the question and never answers.
	ctx, cancel := context.WithTimeout(ctx, n.opts.AskTimeout)
	defer cancel()
	reply, err := n.bus.AskHistory(ctx, id, request)
	if err != nil {
		return page{}, err
	}
	first, rest, more := bytes.Cut(reply, []byte{'\n'})
	var head answerHead
	if err := json.Unmarshal(first, &head); err != nil {
		return page{}, fmt.Errorf("history of %s: the owner's answer can't be read: %w", id, err)
	}
	if head.Leaving {
		return page{}, fmt.Errorf("stream %s: %w: %s", id, backbone.ErrNoOwner, head.Error)
	}
	if head.Error != "" {
		return page{}, fmt.Errorf("history of %s: the owner says: %s", id, head.Error)
	}
	p := page{head: head.Head}
	for more {
		var line []byte
		line, rest, more = bytes.Cut(rest, []byte{'\n'})
		e, err := protocol.Parse(line)
		if err != nil {
			return page{}, fmt.Errorf("history of %s: %w", id, err)
		}
		p.events = append(p.events, e)
	}
	return p, nil
}

// Read returns stored events, and where the log doesn't have them yet, what the
// stream's owner has. Where the stream is on its way from one node to another
// it waits for the next one.
func (n *Node) Read(ctx context.Context, id string, after uint64, budget int) ([]protocol.Encoded, error) {
	for wait := orphanMin; ; wait = min(2*wait, orphanMax) {
		events, err := n.readLog(ctx, id, after, budget)
		if err == nil && len(events) > 0 {
			return events, nil
		}
		if err != nil && n.opts.Sole && !isNotFound(err) {
			return nil, err
		}
		page, askErr := n.ask(ctx, id, question{After: after, Budget: budget})
		switch {
		case askErr == nil && (len(page.events) > 0 || n.opts.Sole):
			return page.events, nil
		case askErr != nil && !errors.Is(askErr, backbone.ErrNoOwner) && err != nil:
			return nil, away(id, askErr)
		case n.opts.Sole, errors.Is(err, errExpired):
			return events, err
		}
		// The reader knows that there is more. What it lacks was never stored,
		// and its owner is gone, or answers no more, or was never told that it is
		// one no longer. Whoever takes over covers it.
		if known, knownErr := n.known(ctx, id); knownErr == nil && !known {
			return events, err
		}
		if !pause(ctx, wait) {
			return nil, away(id, err)
		}
	}
}

// known reports whether the stream has a job that is recorded as running.
func (n *Node) known(ctx context.Context, id string) (bool, error) {
	now, err := n.bus.RunningRecord(ctx, id)
	return now.Revision != 0, err
}

// away says that a stream can't be read now, which won't be so for long.
func away(id string, cause error) error {
	e := protocol.Errorf(protocol.CodeOverloaded, "stream %s has no owner just now, and its history can't be read; come back in a moment", id).
		WithRetryAfter(time.Second)
	if cause != nil {
		e = e.WithCause(cause)
	}
	return e
}

// errExpired says that the limits of the log have dropped what was asked for.
var errExpired = errors.New("history has expired")

func isNotFound(err error) bool {
	return errors.Is(err, protocol.Errorf(protocol.CodeStreamNotFound, ""))
}

// noStoreRetry is when a client is told to ask again for what the store has, if
// that doesn't answer: most often it elects a leader, which takes seconds.
const noStoreRetry = time.Second

// readLog returns the stored events after the cursor.
func (n *Node) readLog(ctx context.Context, id string, after uint64, budget int) ([]protocol.Encoded, error) {
	batches, err := n.bus.ReadLog(ctx, id, after, budget)
	switch {
	case errors.Is(err, backbone.ErrNotFound):
		return nil, protocol.Errorf(protocol.CodeStreamNotFound, "stream %s is unknown or has expired", id)
	case errors.Is(err, backbone.ErrGap):
		return nil, protocol.Errorf(protocol.CodeStreamNotFound, "%w: what follows cursor %d of stream %s", errExpired, after, id)
	case errors.Is(err, backbone.ErrNoStore):
		return nil, protocol.Errorf(protocol.CodeServiceUnavailable, "the history of stream %s can't be read for the moment", id).
			WithRetryAfter(noStoreRetry).WithCause(err)
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
			if e.Seq > after { // batches may overlap
				events = append(events, e)
				after = e.Seq
			}
		}
	}
	return events, nil
}
