package analysis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/protocol"
)

// A RequestStore keeps the requests of running jobs where other nodes find
// them, so that one of those can go on with a job whose node is gone. Its
// methods may be called concurrently, also twice for the same id, and return
// soon after ctx ends.
type RequestStore interface {
	// Keep stores data under a stream's id, in the place of what is there. Its
	// error is ErrRequestTooLarge, or wraps it, for data that will never fit.
	Keep(ctx context.Context, id string, data []byte) error
	// Drop removes what is kept under the id; that nothing is, is no error.
	Drop(ctx context.Context, id string) error
}

// ErrRequestTooLarge says that the store takes no request of this size. Such a
// job runs as any other, but no other node can go on with it.
var ErrRequestTooLarge = errors.New("the request is too large to be kept")

const (
	// keepTimeout bounds each try to keep a request, and dropTimeout each of the
	// dropTries to drop it.
	keepTimeout = 5 * time.Second
	dropTimeout = 2 * time.Second
	dropTries   = 2
	// A store that fails is asked again after these, doubling, as long as the job
	// runs: one that has lost its quorum for a while finds it again.
	keepAgain    = time.Second
	maxKeepAgain = 30 * time.Second
)

// keptVersion is the version of the records that this node writes and reads.
const keptVersion = 1

// A keptRequest is the record from which another node can go on with a job.
// The keys under which equal requests share it, and under which its answer is
// cached, follow from request and owner.
type keptRequest struct {
	Version int               `json:"version"`
	Request *protocol.Request `json:"request"`
	Owner   string            `json:"owner,omitempty"`
	// Credential is the id of what the owner came with, for its limits.
	Credential string `json:"credential,omitempty"`
	RequestID  string `json:"request_id,omitempty"`
	// Started is when the job started, on the node where it did.
	Started time.Time `json:"started"`
	// Interest is how many clients have started or joined it and not cancelled. It
	// is exact when a job was handed over; a node that dies knows no moment at
	// which to write it.
	Interest int `json:"interest,omitempty"`
}

// decodeKept reads a record.
func decodeKept(b []byte) (*keptRequest, error) {
	k := new(keptRequest)
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fmt.Errorf("read the kept request: %w", err)
	}
	if k.Version != keptVersion {
		return nil, fmt.Errorf("the kept request has version %d; this node reads %d", k.Version, keptVersion)
	}
	if k.Request == nil || k.Started.IsZero() {
		return nil, errors.New("the kept request is not whole")
	}
	if err := k.Request.Validate(); err != nil {
		return nil, fmt.Errorf("the kept request: %w", err)
	}
	k.Interest = max(k.Interest, 1)
	return k, nil
}

// requestKeeping is what the custodies of all jobs share. Its log hears of the
// store's first failure and of the end of it, and not of each job.
type requestKeeping struct {
	store RequestStore
	log   zerolog.Logger

	mu   sync.Mutex
	down bool // guarded by mu: the store failed, and hasn't worked since
}

// note takes in how a call of the store ended.
func (k *requestKeeping) note(err error) {
	k.mu.Lock()
	was := k.down
	k.down = err != nil
	k.mu.Unlock()
	switch {
	case err != nil && !was:
		k.log.Warn().Err(err).Msg("the requests of running analyses can't be kept; if this node dies, no other one goes on with them")
	case err == nil && was:
		k.log.Info().Msg("the requests of running analyses are kept again")
	}
}

// A custody keeps one job's request in the store while the job runs, in a
// goroutine beside it. A nil custody keeps nothing.
type custody struct {
	// Set by keep, then read-only.
	j    *job
	ctx  context.Context // ends with the job
	end  context.CancelFunc
	turn chan struct{} // whoever has put something in may call the store's Keep

	// Owned by the custody's goroutine: a drain doesn't wait for it any more.
	uncounted bool

	mu       sync.Mutex
	kept     bool // guarded by mu
	interest int  // guarded by mu: as it is kept
	drop     bool // guarded by mu: the job's stream has its end, and the request no use
}

// keep starts to keep j's request; a positive interest says that the store has
// it already, with that. Called before j runs, with j's place reserved.
func (s *Service) keep(j *job, interest int) *custody {
	if s.keeping == nil {
		return nil
	}
	c := &custody{j: j, turn: make(chan struct{}, 1), kept: interest > 0, interest: interest}
	c.ctx, c.end = context.WithCancel(context.Background())
	s.mu.Lock()
	s.custodies++
	s.mu.Unlock()
	go func() {
		c.run()
		if !c.uncounted {
			s.endCustody()
		}
	}()
	return c
}

// endCustody counts one less.
func (s *Service) endCustody() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.custodies--
	s.checkIdle()
}

func (c *custody) run() {
	for wait := keepAgain; ; wait = min(2*wait, maxKeepAgain) {
		ctx, cancel := context.WithTimeout(c.ctx, keepTimeout)
		err := c.store(ctx)
		cancel()
		if err == nil || errors.Is(err, ErrRequestTooLarge) {
			break
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			continue
		case <-c.ctx.Done():
			timer.Stop()
		}
		break
	}
	<-c.ctx.Done()
	c.mu.Lock()
	drop := c.drop
	c.mu.Unlock()
	if drop && c.endStored() {
		c.dropRequest()
	}
}

// An endStorer is a Writer that knows whether its stream's end is stored.
// Before that another node may still take the job over, if this one dies or is
// cut off, and needs the request.
type endStorer interface {
	// AwaitStored waits until the end is stored, which it reports, or until it
	// never will be by this Writer, or ctx ends.
	AwaitStored(ctx context.Context) bool
}

// storedWait bounds how long a request that is of no use any more waits for a
// store that doesn't take the stream's end. It stays until the store forgets it,
// then.
const storedWait = 2 * time.Minute

// endStored waits until nobody can need the request any more, and reports
// whether that is so. A drain doesn't wait with it.
func (c *custody) endStored() bool {
	w, ok := c.j.w.(endStorer)
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), dropTimeout)
	stored := w.AwaitStored(ctx)
	cancel()
	if stored {
		return true
	}
	c.uncounted = true
	c.j.s.endCustody()
	ctx, cancel = context.WithTimeout(context.Background(), storedWait)
	defer cancel()
	return w.AwaitStored(ctx)
}

// store has the store keep the request, if it hasn't.
func (c *custody) store(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	if c.isKept() {
		return nil
	}
	return c.put(ctx, 1)
}

// put writes the record. Called with the turn.
func (c *custody) put(ctx context.Context, interest int) error {
	j := c.j
	b, err := json.Marshal(keptRequest{Version: keptVersion, Request: j.req, Owner: j.info.Owner, Credential: j.info.Credential, RequestID: j.info.RequestID,
		Started: j.info.Started, Interest: interest})
	if err != nil {
		return err
	}
	k := j.s.keeping
	err = k.store.Keep(ctx, j.info.ID, b)
	if c.ctx.Err() == nil && !errors.Is(err, ErrRequestTooLarge) { // else it says nothing about the store
		k.note(err)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept, c.interest = true, interest
	return nil
}

func (c *custody) isKept() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept
}

// ensure waits, within ctx, until the store has the request, so that the job
// can be handed over, and tells it how many are interested in the job.
func (c *custody) ensure(ctx context.Context, interest int) error {
	if c == nil {
		return errors.New("its request is not kept")
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("its request is not kept yet: %w", context.Cause(ctx))
	}
	defer func() { <-c.turn }()
	c.mu.Lock()
	kept, same := c.kept, c.interest == interest
	c.mu.Unlock()
	if kept && same {
		return nil
	}
	if err := c.put(ctx, interest); err != nil && !kept { // else only the number is old
		return fmt.Errorf("keep its request: %w", err)
	}
	return nil
}

// over ends the custody with its job. drop says that the request is of no use
// any more; it is one as long as another node goes on with the job. It doesn't
// wait.
func (c *custody) over(drop bool) {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.drop = drop
	c.mu.Unlock()
	c.end()
}

// dropRequest removes the request from the store, also if it is not known to be
// there: a Keep that failed may have stored it. What can't be removed stays
// until the store forgets it; nobody asks for it, since the stream has its end.
func (c *custody) dropRequest() {
	k := c.j.s.keeping
	for range dropTries {
		ctx, cancel := context.WithTimeout(context.Background(), dropTimeout)
		err := k.store.Drop(ctx, c.j.info.ID)
		cancel()
		k.note(err)
		if err == nil {
			return
		}
	}
}
