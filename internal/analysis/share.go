package analysis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A shareKey names requests that want the same answer: the same owner's, with
// the same provider, model, analysis, code and options, in the same generation of
// cached answers. While one of them runs,
// a second one joins it: it watches the same stream from its beginning, and no
// provider is called again. A request that doesn't want cached answers
// (cache "refresh" or "bypass") wants a call of its own, and has the zero key.
type shareKey [sha256.Size]byte

// shareKeyOf returns the key of a valid request: share is the one by which
// others join it, keep the one by which its answer is cached.
func (s *Service) shareKeyOf(r *protocol.Request, owner string) (share, keep shareKey) {
	if r.Cache == protocol.CacheBypass {
		return shareKey{}, shareKey{}
	}
	h := sha256.New()
	// The length keeps the owner and the rest apart. A hash takes everything.
	_, _ = fmt.Fprintf(h, "%d %s %s %s", len(owner), owner, protocol.CacheKey(r), s.opts.CacheGeneration())
	h.Sum(keep[:0])
	if r.Cache == protocol.CacheUse {
		share = keep
	}
	return share, keep
}

// Sharing lets requests join jobs of other nodes. Its methods may be called
// concurrently. It is best effort: of two nodes that begin with equal requests in
// the same moment neither finds the other.
type Sharing interface {
	// Offer lets other nodes join the job of a key (64 hexadecimal digits): join is
	// called for each request that wants to, and returns its stream's id, or
	// false where it takes none any more. The offer stands when Offer returns, which
	// is soon, until stop, which may be called while join is.
	Offer(key string, join func(orphan time.Duration) (id string, ok bool)) (stop func(), err error)
	// Join joins the job that another node offers, if one does, and returns its
	// stream's id. orphan is how long who asks may take until somebody watches; 0
	// for as long as it takes. It returns at once when nobody offers the key, and
	// in any case when ctx ends.
	Join(ctx context.Context, key string, orphan time.Duration) (id string, ok bool)
}

// joinWait bounds how long a request waits for other nodes' jobs before it has
// its own.
const joinWait = 300 * time.Millisecond

func (k shareKey) String() string { return hex.EncodeToString(k[:]) }

// joinElsewhere joins a job of another node. If there is one, j, which others
// wait for since join, is not started, and they look again.
func (s *Service) joinElsewhere(ctx context.Context, j *job) (id string, joined bool) {
	if s.opts.Sharing == nil || j.key == (shareKey{}) || s.drains() {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	if id, joined = s.opts.Sharing.Join(ctx, j.key.String(), s.orphanTimeout(j.req)); joined {
		s.shut(j)
		close(j.ready)
	}
	return id, joined
}

func (s *Service) drains() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// offer lets requests of other nodes join j, as those of this one can, and
// returns what ends that.
func (s *Service) offer(j *job) (stop func()) {
	s.mu.Lock()
	mine := s.shared[j.key] == j
	s.mu.Unlock()
	if s.opts.Sharing == nil || !mine {
		return func() {}
	}
	stop, err := s.opts.Sharing.Offer(j.key.String(), func(orphan time.Duration) (id string, ok bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.shared[j.key] != j || j.over() || s.draining {
			return "", false
		}
		j.welcome(orphan)
		return j.info.ID, true
	})
	if err != nil {
		s.opts.Logger.Warn().Err(err).Str("stream", j.info.ID).Msg("an analysis can't be shared with other nodes")
		return func() {}
	}
	return sync.OnceFunc(stop)
}

// welcome counts one more who is interested in j, and may take so long until it
// watches. Called with the service's mu held.
func (j *job) welcome(patience time.Duration) {
	j.interest++
	if patience == 0 {
		patience = forever
	}
	if until := time.Now().Add(patience); until.After(j.expected) {
		j.expected = until
	}
}

// forever is longer than any job takes.
const forever = 100 * 365 * 24 * time.Hour

// join returns the id of the job that runs for requests equal to j's, and counts
// one more who is interested in it. If there is none, j is the one that others
// join from now on.
func (s *Service) join(ctx context.Context, j *job) (id string, joined bool, err error) {
	if j.key == (shareKey{}) {
		return "", false, nil
	}
	for {
		s.mu.Lock()
		other := s.shared[j.key]
		if other == nil || other.over() || s.draining {
			s.shared[j.key] = j
			s.mu.Unlock()
			return "", false, nil
		}
		other.welcome(s.orphanTimeout(j.req))
		s.mu.Unlock()
		select {
		case <-other.ready:
		case <-ctx.Done():
			s.withdraw(other, protocol.CancelClient)
			return "", false, context.Cause(ctx)
		}
		s.mu.Lock()
		id = other.info.ID
		s.mu.Unlock()
		if id != "" {
			return id, true, nil
		}
		// It could not be started; perhaps this one can.
	}
}

// expected returns how long those who have joined j are still waited for.
func (s *Service) expected(j *job) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(j.expected)
}

// withdraw takes one away of those who are interested in j, and ends it if that
// was the last, or if no client asked for it.
func (s *Service) withdraw(j *job, by protocol.CancelReason) {
	s.mu.Lock()
	j.interest--
	goesOn := by == protocol.CancelClient && j.interest > 0
	if !goesOn {
		s.unshare(j)
	}
	s.mu.Unlock()
	if !goesOn {
		j.cancel(cancelled{by})
	}
}

// over reports whether j is being ended.
func (j *job) over() bool { return j.ctx.Err() != nil }

// shut is unshare for those who don't hold mu.
func (s *Service) shut(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unshare(j)
}

// unshare keeps further requests from joining j. Called with mu held.
func (s *Service) unshare(j *job) {
	if s.shared[j.key] == j {
		delete(s.shared, j.key)
	}
}
