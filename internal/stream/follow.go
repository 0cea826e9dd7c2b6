package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

// A follower keeps the feed of a stream that another node writes, or has
// written, filled. It listens to what the owner publishes; a hole in that, or
// an owner's word of a head that the feed hasn't reached, makes it ask. Both
// may be lost on their way, so it also asks from time to time, and more often
// while the stream has neither an owner nor an end: an owner died, or gave the
// job away, and the next one is not there yet.
//
// There may be two nodes that take themselves for the owner, one of which was
// taken for dead and doesn't know yet. Either may answer. What holds then:
//
//   - Events are taken by their numbers only, from wherever they come, so a
//     feed's log never has a hole and never goes back.
//   - The true owner's covering event is in the log before anything that
//     follows it is told. So the other owner's answer may leave a feed behind,
//     in a tail that will be replaced, but never lead it past the covering event.
//   - An answer that is behind the feed, or behind what is known to exist, is
//     not the true owner's, and the log is read in its place.
type follower struct {
	node *Node
	feed *hub.Feed
	stop func() // ends the live subscription

	ctx    context.Context // ends with the following
	cancel context.CancelFunc

	mu       sync.Mutex    // held while the feed is appended to
	target   uint64        // guarded by mu, as all below: the newest seq that is known to exist
	catching bool          // a goroutine fetches what the feed lacks
	owned    bool          // the newest question was answered by an owner
	logged   bool          // the newest event came from the log
	confirms bool          // the stream's end is compared with the log's, or was
	wait     time.Duration // until the next question, where it wasn't
	timer    *time.Timer   // asks again; nil until watch
	wg       sync.WaitGroup
}

const (
	// fillRetry is the first wait before missed events are asked for again. It
	// doubles up to orphanMax.
	fillRetry = 50 * time.Millisecond
	// orphanMin is how soon the owner of a stream that has none is looked for
	// again. It doubles up to orphanMax.
	orphanMin = 25 * time.Millisecond
	orphanMax = time.Second
	// openTries is how often Open looks for an owner of a stream that has
	// neither one nor an end, openRetry the first wait between, which doubles. A
	// new owner is known to other nodes some milliseconds after its own.
	openTries    = 5
	openRetry    = 10 * time.Millisecond
	openRetryMax = 250 * time.Millisecond
)

// Open follows the stream, or reads it from the log if it has ended. A stream
// that has neither an owner nor an end is followed as well, from what the log
// has, until it has either.
func (n *Node) Open(ctx context.Context, feed *hub.Feed) (stop func(), err error) {
	f, err := n.follow(feed)
	if err != nil {
		return nil, err
	}
	if n.opts.Sole {
		err = f.beginAlone(ctx)
	} else {
		err = f.begin(ctx)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	if _, ended := feed.Head(); ended {
		f.close()
		f.confirm()
		return func() {}, nil
	}
	if !n.opts.Sole {
		f.watch()
	}
	return f.close, nil
}

// follow subscribes to the stream and fetches nothing yet.
func (n *Node) follow(feed *hub.Feed) (*follower, error) {
	feed.MarkStored(math.MaxUint64) // others have it
	f := &follower{node: n, feed: feed}
	f.ctx, f.cancel = context.WithCancel(n.ctx)
	f.mu.Lock() // live must not run before f.stop is set
	var err error
	f.stop, err = n.bus.SubscribeLive(feed.ID(), f.live)
	f.mu.Unlock()
	if err != nil {
		f.cancel()
		if !n.opts.Sole { // the bus doesn't answer, as after a pause of this process
			err = away(feed.ID(), err)
		}
		return nil, err
	}
	n.mu.Lock()
	n.followers[feed.ID()] = f
	known := n.ahead[feed.ID()]
	delete(n.ahead, feed.ID())
	n.mu.Unlock()
	f.mu.Lock()
	f.target = max(f.target, known)
	f.mu.Unlock()
	return f, nil
}

// beginAlone fetches the past on a node that is alone.
func (f *follower) beginAlone(ctx context.Context) error {
	owned, err := f.catchUp(ctx)
	if _, ended := f.feed.Head(); err != nil || ended || owned {
		return err
	}
	// It doesn't run here, or it had a feed, and so nowhere: its job died, and
	// the end that Recover or fence tried to store isn't there.
	if err := f.node.endLost(ctx, f.feed.ID()); err != nil {
		return err
	}
	_, err = f.catchUp(ctx)
	return err
}

// begin fetches the past, from the owner or the log.
func (f *follower) begin(ctx context.Context) error {
	n, id := f.node, f.feed.ID()
	wait := openRetry
	var giveUp time.Time // for a stream that nobody knows yet
	for try := 1; ; try++ {
		owned, err := f.catchUpOnce(ctx)
		head, ended := f.feed.Head()
		if ended || (err == nil && owned) {
			return nil
		}
		exists := err == nil && head > 0
		if isNotFound(err) {
			var recordErr error
			switch exists, recordErr = n.known(ctx, id); {
			case recordErr != nil:
				err = recordErr
			case !exists && !n.mayBeToCome(id):
				return err
			case !exists && giveUp.IsZero():
				giveUp = time.Now().Add(n.opts.YoungWait)
			}
		}
		switch {
		case exists && try >= openTries, errors.Is(err, errSilent):
			return nil // followed without an owner
		case ctx.Err() != nil || try >= openTries && time.Now().After(giveUp):
			return away(id, err)
		}
		if !pause(ctx, wait) {
			return away(id, err)
		}
		wait = min(2*wait, openRetryMax)
	}
}

// youth is how long after its beginning a stream may be unknown to nodes that are
// there, give or take what their clocks differ.
const youth = time.Minute

// mayBeToCome reports whether a stream that is neither stored nor has an owner
// who answers may exist all the same: it has begun just now, on a node that this
// one is not connected with yet, or again, and that could not store it so far.
func (n *Node) mayBeToCome(id string) bool {
	return !n.bus.Settled() && time.Since(protocol.StreamTime(id)).Abs() < youth
}

// catchUpOnce is catchUp, and notes whether there is an owner. It doesn't wait
// long for a store that is known to be away.
func (f *follower) catchUpOnce(ctx context.Context) (owned bool, err error) {
	if !f.node.bus.StoreUp() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*f.node.opts.AskTimeout)
		defer cancel()
	}
	owned, err = f.catchUp(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owned = err == nil && owned
	return owned, err
}

// watch begins to ask from time to time.
func (f *follower) watch() {
	f.mu.Lock()
	f.timer = time.AfterFunc(time.Hour, f.due)
	f.schedule()
	f.mu.Unlock()
}

// schedule sets the time of the next question. f.mu is held.
func (f *follower) schedule() {
	if f.timer == nil || f.ctx.Err() != nil {
		return
	}
	next := f.node.opts.CheckInterval
	if f.owned {
		f.wait = 0
	} else {
		f.wait = min(max(2*f.wait, orphanMin), orphanMax)
		next = min(f.wait, next)
	}
	// Streams that were opened together are not to be asked for together.
	f.timer.Reset(next*3/4 + rand.N(next/2+1))
}

// due is called when it is time to ask.
func (f *follower) due() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fetch()
}

// fetch starts the goroutine that fetches what is missing. f.mu is held.
func (f *follower) fetch() {
	if _, ended := f.feed.Head(); ended || f.catching || f.ctx.Err() != nil {
		return
	}
	f.catching = true
	f.wg.Go(f.fill)
}

// skip begins the feed where the log does.
func (f *follower) skip(ctx context.Context) error {
	first, err := f.node.bus.LogFirst(ctx, f.feed.ID())
	if err == nil && first > 1 {
		f.feed.StartAt(first - 1)
	}
	return err
}

// Refresh asks for what feed lacks.
func (n *Node) Refresh(ctx context.Context, feed *hub.Feed) error {
	f := n.follower(feed.ID())
	if f == nil || f.feed != feed {
		return nil // written here, or ended: the feed is the authority
	}
	_, err := f.catchUpOnce(ctx)
	f.settle()
	if n.opts.Sole {
		return err
	}
	return nil // Beyond knows what to make of an error
}

// close ends the following and waits until nothing is appended any more.
func (f *follower) close() {
	f.unsubscribe()
	f.mu.Lock() // fetch starts nothing any more
	f.cancel()
	if f.timer != nil {
		f.timer.Stop()
	}
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

// settle is to be called after events were fetched for a client: they may have
// brought the stream's end.
func (f *follower) settle() {
	if _, ended := f.feed.Head(); ended {
		f.unsubscribe()
		f.confirm()
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
	f.logged = f.logged && err != nil
	f.mu.Unlock()
	if err != nil { // a hole before it
		f.missed(e.Seq)
	} else if e.Terminal() {
		f.unsubscribe()
		f.confirm()
	}
}

// missed is told that the stream has events up to seq; if the feed lacks some,
// they are fetched.
func (f *follower) missed(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if head, _ := f.feed.Head(); seq > head {
		f.target = max(f.target, seq)
		f.fetch()
	}
}

// fill fetches what is missing until the feed has all that is known to exist.
func (f *follower) fill() {
	told := false
	for wait := fillRetry; ; wait = min(2*wait, orphanMax, f.node.opts.RetryMax) {
		ctx, cancel := context.WithTimeout(f.ctx, f.node.opts.StoreTimeout)
		owned, err := f.catchUp(ctx)
		cancel()

		f.mu.Lock()
		f.owned = err == nil && owned
		head, ended := f.feed.Head()
		if ended || f.ctx.Err() != nil || (err == nil && (head >= f.target || f.target == math.MaxUint64)) {
			f.catching, f.target = false, 0
			f.schedule()
			f.mu.Unlock()
			if ended {
				f.unsubscribe()
				f.confirm()
			}
			return
		}
		f.mu.Unlock()
		if err != nil && !told {
			told = true
			f.node.opts.Logger.Warn().Err(err).Str("stream", f.feed.ID()).Msg("missed events could not be fetched yet")
		}
		if !pause(f.ctx, wait) {
			continue // which ends it
		}
	}
}

// errSilent says that a stream has an owner, which doesn't answer, and nothing
// in the log.
var errSilent = errors.New("the stream's owner doesn't answer")

// catchUp appends what follows the feed's head, until it is where the stream
// was when the last question was answered. It reports whether an owner answered
// it. Where none did, or one that knows less than is known, the log is read.
func (f *follower) catchUp(ctx context.Context) (owned bool, err error) {
	owned, silent, err := f.askOn(ctx)
	if err != nil || (owned && !f.behind()) {
		return owned, err
	}
	err = f.readOn(ctx)
	switch {
	case owned: // it is asked again, whatever the log says
		return true, nil
	case silent && isNotFound(err):
		return false, fmt.Errorf("history of %s: %w", f.feed.ID(), errSilent)
	}
	return false, err
}

// behind reports whether the feed lacks something that is known to exist.
func (f *follower) behind() bool {
	head, ended := f.feed.Head()
	return !ended && f.behindTo(head)
}

// behindTo reports whether more than that is known to exist.
func (f *follower) behindTo(head uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return head < f.target && f.target != math.MaxUint64
}

// askOn appends what the owner has, if there is one. silent says that there is
// one, and that it didn't answer.
func (f *follower) askOn(ctx context.Context) (owned, silent bool, err error) {
	for {
		head, ended := f.feed.Head()
		if ended {
			return true, false, nil
		}
		viewers, _ := f.feed.Watchers()
		p, err := f.node.ask(ctx, f.feed.ID(), question{After: head, Budget: pageBytes, Viewers: viewers})
		switch {
		case errors.Is(err, backbone.ErrNoOwner):
			return false, false, nil
		case err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			return false, true, nil
		case err != nil:
			return false, false, err
		case p.head < head || f.behindTo(p.head):
			return false, false, nil // it was taken over, and doesn't know yet
		}
		if err := f.take(p.events, false); err != nil {
			return false, false, err
		}
		if now, ended := f.feed.Head(); ended || len(p.events) == 0 || now >= p.head {
			return true, false, nil
		}
	}
}

// readOn appends what the log has.
func (f *follower) readOn(ctx context.Context) error {
	for {
		head, ended := f.feed.Head()
		if ended {
			return nil
		}
		events, err := f.node.readLog(ctx, f.feed.ID(), head, pageBytes)
		if head == 0 && errors.Is(err, errExpired) {
			// Some of the beginning is gone, and cursors in it are refused; those
			// behind it are served.
			if err = f.skip(ctx); err == nil {
				continue
			}
		}
		if err != nil || len(events) == 0 {
			return err
		}
		if err := f.take(events, true); err != nil {
			return err
		}
	}
}

// take appends events that were fetched, from the log or from an owner.
func (f *follower) take(events []protocol.Encoded, logged bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.ctx.Err(); err != nil {
		return err // the feed is somebody else's now
	}
	if len(events) > 0 {
		f.logged = logged
	}
	for i := range events {
		if err := f.feed.Append(events[i]); err != nil {
			return err
		}
	}
	return nil
}
