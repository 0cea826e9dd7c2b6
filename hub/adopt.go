package hub

import (
	"context"
	"errors"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A feed changes hands: it is written here (owned), followed by a Source, or,
// for moments in between, neither. Whoever watches doesn't notice, since a
// cursor into the feed stays one.

// Adopt makes the stream's feed one that is written on this node: the one that
// was followed here until now, whose watchers stay, or a new one. fill appends
// what the feed lacks, up to where the Writer goes on. It begins when nothing
// follows the feed any more, and a new feed is seen by others when it has
// returned. The feed is held until Disown.
//
// A feed that has ended can't go on. It is left to those who hold it, and a new
// one takes its place.
//
// Where fill fails, its error is returned, and beside it the feed if there was
// one before: it is disowned, and waits to be followed again.
func (fs *Feeds) Adopt(ctx context.Context, id string, fill func(*Feed) error) (*Feed, error) {
	for {
		f, o, err := fs.claim(ctx, id)
		if err != nil {
			return nil, err
		}
		if o != nil {
			return fs.adoptNew(f, o, fill)
		}
		if _, ended := f.Head(); ended { // before it was claimed
			fs.Disown(f)
			continue
		}
		f.mu.Lock()
		f.stored = 0 // as a followed feed it had nothing that others lacked
		f.mu.Unlock()
		if err := fill(f); err != nil {
			fs.Disown(f)
			return f, err
		}
		return f, nil
	}
}

// claim returns the stream's feed, owned and no longer followed, or a new one
// with an opening for which others wait.
func (fs *Feeds) claim(ctx context.Context, id string) (*Feed, *opening, error) {
	for {
		fs.mu.Lock()
		if fs.ctx.Err() != nil {
			fs.mu.Unlock()
			return nil, nil, protocol.Errorf(protocol.CodeDraining, "the server is shutting down")
		}
		if o, ok := fs.opening[id]; ok {
			fs.mu.Unlock()
			select {
			case <-o.done:
				continue
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		f := fs.feeds[id]
		switch {
		case f == nil:
			o := &opening{done: make(chan struct{})}
			fs.opening[id] = o
			fs.mu.Unlock()
			return newFeed(fs, id), o, nil
		case f.owned:
			fs.mu.Unlock()
			return nil, nil, errors.New("stream " + id + " is written here already")
		case f.window.Load().ended:
			fs.mu.Unlock()
			fs.Drop(f)
			continue
		}
		f.owned = true
		stop := f.stop
		f.stop = nil
		fs.mu.Unlock()
		if stop != nil {
			stop()
		}
		return f, nil, nil
	}
}

func (fs *Feeds) adoptNew(f *Feed, o *opening, fill func(*Feed) error) (*Feed, error) {
	err := fill(f)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	defer close(o.done)
	delete(fs.opening, f.id)
	if err != nil {
		fs.bytes.Add(-int64(f.window.Load().bytes))
		o.err = err
		return nil, err
	}
	f.owned = true
	f.pins = o.waiters
	fs.feeds[f.id] = f
	o.feed = f
	return f, nil
}

// Follow gives a feed that was written here, and disowned, the stop of a Source
// that follows it from now on. It is called at once if the feed is gone, or is
// written here again.
func (fs *Feeds) Follow(f *Feed, stop func()) {
	fs.mu.Lock()
	follows := fs.feeds[f.id] == f && !f.owned && f.stop == nil
	if follows {
		f.stop = stop
	}
	fs.mu.Unlock()
	if !follows {
		stop()
	}
}

// Drop removes a feed that says what the stream no longer does: whoever opens
// the stream from now on gets another one. Those who hold it may read it to
// its end. A feed that is written here stays.
func (fs *Feeds) Drop(f *Feed) {
	fs.mu.Lock()
	if fs.feeds[f.id] != f || f.owned {
		fs.mu.Unlock()
		return
	}
	delete(fs.feeds, f.id)
	stop := f.stop
	f.stop = nil
	fs.mu.Unlock()
	fs.forget(f, stop)
}

// forget ends the following of a feed that is in the set no more.
func (fs *Feeds) forget(f *Feed, stop func()) {
	if stop != nil {
		stop()
	}
	fs.bytes.Add(-int64(f.window.Load().bytes))
}

// Watchers returns how many clients watch the stream on this node and, where
// none does, since when; ok is false where the node has no feed of it.
func (fs *Feeds) Watchers(id string) (n int, idleSince time.Time, ok bool) {
	fs.mu.Lock()
	f := fs.feeds[id]
	fs.mu.Unlock()
	if f == nil {
		return 0, time.Time{}, false
	}
	n, idleSince = f.Watchers()
	return n, idleSince, true
}
