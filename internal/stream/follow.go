package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

// pageBytes is about how much one answer about history holds.
const pageBytes = 1 << 20

// maxPageBytes bounds what an owner answers whatever it is asked.
const maxPageBytes = 4 << 20

// A question is what a follower asks a stream's owner.
type question struct {
	After  uint64 `json:"after"`
	Budget int    `json:"budget"`
}

// An answerHead is the first line of the owner's answer; events follow, one on
// a line.
type answerHead struct {
	Head  uint64 `json:"head"`
	Error string `json:"error,omitempty"`
}

// answer is what this node says about the history of a stream it writes.
func (n *Node) answer(feed *hub.Feed, request []byte) []byte {
	var q question
	var head answerHead
	var events []protocol.Encoded
	if err := json.Unmarshal(request, &q); err != nil {
		head.Error = err.Error()
	} else {
		budget := min(max(q.Budget, 1), maxPageBytes)
		head.Head, _ = feed.Head()
		var inMemory bool
		if events, inMemory = feed.Events(q.After); !inMemory {
			ctx, cancel := context.WithTimeout(n.ctx, n.opts.StoreTimeout)
			events, err = n.readLog(ctx, feed.ID(), q.After, budget)
			cancel()
			if err != nil {
				head.Error = err.Error()
			}
		}
		size := 0
		for i := range events {
			if size += len(events[i].JSON); size > budget {
				events = events[:i+1]
				break
			}
		}
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

// A page is part of a stream's history, and where its head was.
type page struct {
	head   uint64
	events []protocol.Encoded
}

// askOwner asks the node that runs the stream's job.
func (n *Node) askOwner(ctx context.Context, id string, after uint64, budget int) (page, error) {
	request, err := json.Marshal(question{after, budget})
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

// A follower keeps the feed of a stream that another node writes, or has
// written, filled.
type follower struct {
	node *Node
	feed *hub.Feed
	stop func() // ends the live subscription

	ctx    context.Context // ends with the following
	cancel context.CancelFunc

	mu       sync.Mutex // held while the feed is appended to
	target   uint64     // guarded by mu: the newest seq that is known to exist
	catching bool       // guarded by mu: a goroutine fills a hole
	wg       sync.WaitGroup
}

// Open follows the stream, or reads it from the log if it has ended.
func (n *Node) Open(ctx context.Context, feed *hub.Feed) (stop func(), err error) {
	feed.MarkStored(math.MaxUint64) // others have it
	f := &follower{node: n, feed: feed}
	f.ctx, f.cancel = context.WithCancel(n.ctx)
	f.mu.Lock() // live must not run before f.stop is set
	f.stop, err = n.bus.SubscribeLive(feed.ID(), f.live)
	f.mu.Unlock()
	if err != nil {
		f.cancel()
		return nil, err
	}
	if err := f.catchUp(ctx); err != nil {
		f.close()
		return nil, err
	}
	if _, ended := feed.Head(); !ended && n.opts.Sole {
		// It doesn't run here, or it had a feed, and so nowhere: its job died,
		// and the end that Recover or fence tried to store isn't there.
		if err = n.endLost(ctx, feed.ID()); err == nil {
			err = f.catchUp(ctx)
		}
		if err != nil {
			f.close()
			return nil, err
		}
	}
	if _, ended := feed.Head(); ended {
		f.close()
		return func() {}, nil
	}
	n.mu.Lock()
	n.followers[feed.ID()] = f
	n.mu.Unlock()
	return f.close, nil
}

// skip begins the feed where the log does.
func (f *follower) skip(ctx context.Context) error {
	first, err := f.node.bus.LogFirst(ctx, f.feed.ID())
	if err == nil && first > 1 {
		f.feed.StartAt(first - 1)
	}
	return err
}

// adopt follows a stream that this node wrote until another took it over. Its
// feed goes on to the end.
func (n *Node) adopt(feed *hub.Feed) {
	n.start(func() {
		stop, err := n.Open(n.ctx, feed)
		if err == nil {
			n.feeds.Follow(feed, stop)
		} else if n.ctx.Err() == nil {
			n.opts.Logger.Error().Err(err).Str("stream", feed.ID()).Msg("stream that was taken over can't be followed")
		}
	})
}

// Refresh asks for what feed lacks.
func (n *Node) Refresh(ctx context.Context, feed *hub.Feed) error {
	n.mu.Lock()
	f := n.followers[feed.ID()]
	n.mu.Unlock()
	if f == nil {
		return nil // written here, or ended: the feed is the authority
	}
	return f.catchUp(ctx)
}

// close ends the following and waits until nothing is appended any more.
func (f *follower) close() {
	f.unsubscribe()
	f.mu.Lock() // missed starts nothing any more
	f.cancel()
	f.mu.Unlock()
	f.wg.Wait()
}

// unsubscribe ends the live subscription. The feed of a stream that has ended
// may stay for long; nothing more comes for it.
func (f *follower) unsubscribe() {
	f.stop()
	f.node.mu.Lock()
	defer f.node.mu.Unlock()
	if f.node.followers[f.feed.ID()] == f {
		delete(f.node.followers, f.feed.ID())
	}
}

// live takes a message of the live subject.
func (f *follower) live(data []byte) {
	if len(data) > 0 && data[0] != '{' {
		head, err := strconv.ParseUint(string(data), 10, 64)
		if err == nil {
			f.missed(head)
		}
		return
	}
	e, err := protocol.Parse(data)
	if err != nil {
		f.node.opts.Logger.Error().Err(err).Str("stream", f.feed.ID()).Msg("live message can't be read")
		return
	}
	f.mu.Lock()
	if f.ctx.Err() != nil {
		f.mu.Unlock()
		return
	}
	err = f.feed.Append(e)
	f.mu.Unlock()
	if err != nil { // a hole before it
		f.missed(e.Seq)
	} else if e.Terminal() {
		f.unsubscribe()
	}
}

// missed is told that the stream has events up to seq; if the feed lacks some,
// they are fetched.
func (f *follower) missed(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	head, ended := f.feed.Head()
	if seq <= head || ended {
		return
	}
	f.target = max(f.target, seq)
	if f.catching || f.ctx.Err() != nil {
		return
	}
	f.catching = true
	f.wg.Go(f.fill)
}

// fill fetches what is missed until the feed has all that is known to exist.
func (f *follower) fill() {
	wait := fillRetry
	for {
		ctx, cancel := context.WithTimeout(f.ctx, f.node.opts.StoreTimeout)
		err := f.catchUp(ctx)
		cancel()

		f.mu.Lock()
		head, ended := f.feed.Head()
		if ended || f.ctx.Err() != nil || (err == nil && (head >= f.target || f.target == math.MaxUint64)) {
			f.catching, f.target = false, 0
			f.mu.Unlock()
			if ended {
				f.unsubscribe()
			}
			return
		}
		f.mu.Unlock()
		if err != nil {
			f.node.opts.Logger.Warn().Err(err).Str("stream", f.feed.ID()).Msg("missed events could not be fetched yet")
		}
		select {
		case <-time.After(wait):
		case <-f.ctx.Done():
		}
		wait = min(2*wait, f.node.opts.RetryMax)
	}
}

// fillRetry is the first wait before missed events are asked for again. It
// doubles up to RetryMax.
const fillRetry = 50 * time.Millisecond

// catchUp appends what follows the feed's head, until it is where the stream
// was when the last question was answered.
func (f *follower) catchUp(ctx context.Context) error {
	n, id := f.node, f.feed.ID()
	for {
		head, ended := f.feed.Head()
		if ended {
			return nil
		}
		p, err := n.askOwner(ctx, id, head, pageBytes)
		silent := ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded)
		if silent || errors.Is(err, backbone.ErrNoOwner) {
			events, logErr := n.readLog(ctx, id, head, pageBytes)
			if head == 0 && errors.Is(logErr, errExpired) {
				// Some of the beginning is gone, and cursors in it are refused;
				// those behind it are served.
				if logErr = f.skip(ctx); logErr == nil {
					continue
				}
			}
			if !silent || logErr == nil { // a silent owner may not have stored anything yet
				p.events, err = events, logErr
			}
			if len(events) > 0 {
				p.head = math.MaxUint64 // ask again until there is nothing more
			}
		}
		if err != nil {
			return err
		}
		f.mu.Lock()
		for i := range p.events {
			if err = f.feed.Append(p.events[i]); err != nil {
				break
			}
		}
		head, ended = f.feed.Head()
		again := !ended && head < max(p.head, f.target) && len(p.events) > 0
		f.mu.Unlock()
		if err != nil {
			return err
		}
		if !again {
			return nil
		}
	}
}
