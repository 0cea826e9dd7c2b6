package analysis

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A shareKey names requests that want the same answer: the same owner's, with
// the same provider, model, analysis, code and options. While one of them runs,
// a second one joins it: it watches the same stream from its beginning, and no
// provider is called again. A request that doesn't want cached answers
// (cache "refresh" or "bypass") wants a call of its own, and has the zero key.
type shareKey [sha256.Size]byte

// shareKeyOf returns the key of a valid request: share is the one by which
// others join it, keep the one by which its answer is cached.
func shareKeyOf(r *protocol.Request, owner string) (share, keep shareKey, err error) {
	if r.Cache == protocol.CacheBypass {
		return shareKey{}, shareKey{}, nil
	}
	same := *r
	same.OrphanTimeout = 0 // how long to go on without viewers changes no answer
	same.Cache = protocol.CacheUse
	b, err := json.Marshal(struct {
		Owner   string
		Request *protocol.Request
	}{owner, &same})
	if err != nil {
		return shareKey{}, shareKey{}, err
	}
	keep = sha256.Sum256(b)
	if r.Cache == protocol.CacheUse {
		share = keep
	}
	return share, keep, nil
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
		other.interest++
		patience := s.orphanTimeout(j.req)
		if patience == 0 {
			patience = forever
		}
		if until := time.Now().Add(patience); until.After(other.expected) {
			other.expected = until
		}
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
