package analysis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/protocol"
)

// A Resumption is a job that another node ran and doesn't run any more.
type Resumption struct {
	// ID is its stream's.
	ID string
	// Kept is what the RequestStore has of it.
	Kept []byte
	// Past is what the stream says so far; nil where that is not known. It is read
	// before Resume returns.
	Past *protocol.Transcript
	// From is the node that ran it.
	From string
	// Reason is the failover's: owner_lost, or draining where it was handed over.
	Reason string
	// Writer makes this node the stream's writer, whose first event is f. It is
	// called at most once.
	Writer func(ctx context.Context, f *protocol.Failover) (Writer, error)
	// Hold takes a place for the job among its owner's, who can't be refused one:
	// leave is called when it runs here no more. nil takes none.
	Hold func(Info) (leave func())
}

// maxLosses bounds how many attempts a job may have beyond MaxAttempts, one for
// each node that it has lost: a request that takes down the nodes that run it
// must not go round for ever.
const maxLosses = 8

// Resume goes on with a job that another node ran. The job is the one that it
// was: it has the same id, its clock began when it did, and its attempts are
// counted on. Its orphan timeout begins anew, since its clients are on their
// way. It outlives ctx.
//
// The stream's next event is a failover that discards what was said, so that it
// may follow every cursor, those included that have seen what the log lost.
// With AfterContentContinue what the log has is then said again, and the
// provider goes on behind it; otherwise the answer begins anew. Of "auto" the
// provider is preferred that was answering: it did nothing wrong. If the stream
// was between two attempts it may be the one that had just failed, since Past
// doesn't tell; then failing over costs one attempt more.
//
// At least one attempt is made, and Options.ResumeTime is what the job has left
// at least. But one whose TotalTimeout is over already is not resumed: its
// clients have given it up, and shouldn't have their text dropped to be told.
//
// Nothing was written where Resume fails. Its error is a *protocol.Error of the
// code
//
//   - overloaded or draining: another node may be able to, or this one later;
//   - timeout: the stream should end with this very error;
//   - owner_lost: it can't be resumed, and the detail says why;
//
// or else wraps what Writer returned.
func (s *Service) Resume(ctx context.Context, r Resumption) error {
	k, err := decodeKept(r.Kept)
	if err != nil {
		return unresumable(err)
	}
	past := r.Past
	if past == nil {
		past = new(protocol.Transcript)
	}
	if past.Terminal() != nil {
		return unresumable(errors.New("its stream has its end"))
	}
	was := past.Started()
	if most := s.opts.MaxAttempts + maxLosses; was.Attempt >= most {
		return unresumable(fmt.Errorf("it has had %d attempts, and several nodes; the limit is %d", was.Attempt, most))
	}
	if now := time.Now(); k.Started.After(now) {
		k.Started = now // clocks differ
	}
	left, err := s.timeLeft(k.Started)
	if err != nil {
		return err
	}
	list, fallback, err := s.plan(k.Request)
	if err != nil {
		return unresumable(err)
	}
	list = s.prefer(list, was, k.Request)
	j := &job{s: s, req: k.Request, list: list, fallback: fallback, limit: left, interest: k.Interest, ready: make(chan struct{})}
	close(j.ready)
	j.key, j.cacheKey = s.shareKeyOf(k.Request, k.Owner)
	j.info = Info{ID: r.ID, Provider: list[0].Name(), Model: list[0].model, Analysis: k.Request.Analysis, Language: language(k.Request),
		Owner: k.Owner, Credential: k.Credential, RequestID: k.RequestID, Started: k.Started}
	j.past = s.pastOf(past, list[0], r.Reason)

	if err := s.reserve(); err != nil {
		return err
	}
	started := false
	defer func() {
		if !started {
			s.release()
		}
	}()
	f := &protocol.Failover{From: was.Provider, To: list[0].Name(), Attempt: was.Attempt + 1, Reason: r.Reason, Discard: true}
	if f.From == "" {
		f.From = r.From
	}
	if j.w, err = r.Writer(ctx, f); err != nil {
		return fmt.Errorf("take the stream over: %w", err)
	}
	s.opts.Observer.FailedOver(f.From, f.To, f.Reason)
	j.ctx, j.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.mu.Lock()
	if old := s.jobs[r.ID]; old != nil {
		// It ran here before, and hasn't noticed yet that another node took it over,
		// from which it comes back now.
		old.cancel(cancelled{leftTakenOver})
	}
	if other := s.shared[j.key]; j.key != (shareKey{}) && (other == nil || other.over()) {
		s.shared[j.key] = j
	}
	s.mu.Unlock()
	if r.Hold != nil {
		j.leave = r.Hold(j.info)
	}
	started = true
	s.launch(j, k.Interest)
	return nil
}

// unresumable says that no node can go on with a job.
func unresumable(why error) error {
	return protocol.Errorf(protocol.CodeOwnerLost, "the analysis can't go on elsewhere: %v", why).WithCause(why)
}

// timeLeft returns how long a job may still take that started then; 0 for as
// long as it takes.
func (s *Service) timeLeft(began time.Time) (time.Duration, error) {
	total := s.opts.TotalTimeout
	if total <= 0 {
		return 0, nil
	}
	left := total - time.Since(began)
	if left <= 0 {
		return 0, protocol.Errorf(protocol.CodeTimeout, "the analysis did not end within %v, in which its node was lost", total)
	}
	return max(left, min(s.opts.ResumeTime, total)), nil
}

// prefer puts the target of an attempt first, if it may be called now.
func (s *Service) prefer(list []*target, was protocol.Started, r *protocol.Request) []*target {
	t, now := s.targetOf(was.Provider, was.Model), time.Now()
	switch {
	case t == nil || t.local() || !t.breaker.Ready() || t.pausedFor(now) > 0 || s.hints.open(t, now):
		return list
	case r.Provider != protocol.ProviderAuto && r.Provider != t.Name():
		return list
	}
	// It may not be in the list: one with a longer context, where the code was too
	// long for those that are.
	list = slices.DeleteFunc(slices.Clone(list), func(other *target) bool { return other == t })
	return slices.Insert(list, 0, t)
}

// A past is what a job did on other nodes.
type past struct {
	attempts  int
	announced *target // whom the failover named
	said      *said   // what is to be continued; nil where the answer begins anew
	lost      *lost   // what nobody has counted; nil for nothing
}

// said is what clients had been told.
type said struct {
	text, reasoning string
	findings        []protocol.Finding
}

// lost is an attempt that ended with its node.
type lost struct {
	provider, model string
	usage           *protocol.Usage // the newest; nil where none was said
	bytes           int64           // of the answer
}

// pastOf returns what counts of a past for a job that goes on with next.
func (s *Service) pastOf(p *protocol.Transcript, next *target, reason string) *past {
	was := p.Started()
	out := &past{attempts: was.Attempt, announced: next}
	told := &said{text: p.Text(), reasoning: p.Reasoning(), findings: slices.Clone(p.Findings())}
	by := s.candidateOf(was.Provider)
	model := was.Provider != CacheName && (by == nil || !by.local()) // no offline analysis, which nobody can continue
	if model && !next.local() && s.opts.AfterContent == AfterContentContinue && (told.text != "" || len(told.findings) > 0) {
		out.said = told
	}
	// A node that hands a job over has settled its calls. One that died took its
	// accounts with it.
	if model && was.Attempt > 0 && reason != string(protocol.CodeDraining) {
		out.lost = &lost{provider: was.Provider, model: was.Model, usage: p.Usage(), bytes: told.size()}
	}
	return out
}

// size is how many bytes were said.
func (s *said) size() int64 {
	n := int64(len(s.text) + len(s.reasoning))
	for i := range s.findings {
		n += int64(s.findings[i].Bytes())
	}
	return n
}

// A LossObserver is an Observer that is also told what the attempts of nodes
// that died have used.
type LossObserver interface {
	// AttemptLost: a call of a provider ended with the node that made it, and
	// another one, this one, goes on with the job. The usage is estimated where the
	// provider had not told yet.
	AttemptLost(provider, model string, u *protocol.Usage)
}

// countLost counts what the attempt that was lost has used. The stream's usage
// is only that of the attempt that counts, here as with all attempts that
// fail; the accounts and metrics, and the limits that both calls weigh on, are
// those of this node, since nobody else is left to keep them.
func (j *job) countLost() {
	if j.past == nil || j.past.lost == nil {
		return
	}
	l := j.past.lost
	u := j.s.ledger.Charge(accounting.Key{Provider: l.provider, Model: l.model, Tenant: j.info.Owner}, l.usage,
		requestBytes(j.system, j.prompt), l.bytes)
	if o, ok := j.s.opts.Observer.(LossObserver); ok {
		o.AttemptLost(l.provider, l.model, u)
	}
}

// replay tells the clients again what they were told to drop, so that the next
// call can go on behind it: thoughts, findings, text. Tool pieces are not known
// any more.
func (d *drive) replay() error {
	p := d.j.past
	if p == nil || p.said == nil {
		return nil
	}
	d.answer = d.j.newAnswer(p.announced)
	return d.answer.replay(p.said, p.attempts+1)
}
