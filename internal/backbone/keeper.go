package backbone

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// keepInterval is how often the keeper looks.
	keepInterval = time.Second
	// lookEvery is in how many of these rounds it asks for parts of the store
	// that seem to be well.
	lookEvery = 3
	// openPause is the time between two attempts to open the store, openPatience
	// bounds the first, and openTimeout any of them.
	openPause    = 250 * time.Millisecond
	openPatience = time.Second
	openTimeout  = 10 * time.Second
	leaderPause  = 50 * time.Millisecond
)

// A keeper is the goroutine that opens the store where that depends on others,
// and then looks after it.
type keeper struct {
	cancel context.CancelFunc // nil where there is no keeper
	done   sync.WaitGroup
}

// stop ends the goroutine and reports whether it has ended within d.
func (k *keeper) stop(d time.Duration) bool {
	if k.cancel == nil {
		return true
	}
	k.cancel()
	return waitTimeout(&k.done, d)
}

// keepStore starts the keeper and waits for the store, for StoreWait at most.
// An error is one that waiting won't mend, or ctx's end.
func (b *Backbone) keepStore(ctx context.Context) error {
	kept, cancel := context.WithCancel(context.Background())
	b.keeper.cancel = cancel
	opened := make(chan error, 1)
	b.keeper.done.Go(func() {
		err := b.openStoreInTime(kept)
		opened <- err
		if err == nil {
			b.tellOpen()
			b.keep(kept)
		}
	})
	wait := time.NewTimer(b.opts.StoreWait)
	defer wait.Stop()
	select {
	case err := <-opened:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
	}
	b.epoch.CompareAndSwap(0, clockEpoch())
	b.log.Warn().Dur("after", b.opts.StoreWait).Msg("going on without the store, which opens as soon as it can")
	return nil
}

// openStoreInTime opens the store, however long that takes.
func (b *Backbone) openStoreInTime(ctx context.Context) error {
	told := ""
	for patience := openPatience; ; patience = min(2*patience, openTimeout) {
		if !b.awaitLeader(ctx) {
			return ErrClosed
		}
		// What is asked while there is no leader, or another than a moment ago,
		// may never be answered: so better ask again soon.
		attempt, cancel := context.WithTimeout(ctx, patience)
		err := b.openStore(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ErrClosed
		}
		if permanent(err) {
			return err
		}
		if told != err.Error() {
			told = err.Error()
			b.log.Debug().Err(err).Msg("the store can't be opened yet")
		}
		if !pause(ctx, openPause) {
			return ErrClosed
		}
	}
}

// awaitLeader waits until the embedded server knows who leads the quorum, and
// reports whether ctx still goes on.
func (b *Backbone) awaitLeader(ctx context.Context) bool {
	for b.server != nil && b.quorum().leader == "" {
		if !pause(ctx, leaderPause) {
			return false
		}
	}
	return ctx.Err() == nil
}

// pause waits for d and reports whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// permanent reports whether err is an answer that asking again won't change.
func permanent(err error) bool {
	const (
		codeInvalidStream  = 10052
		codeSubjectOverlap = 10065
	)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, jetstream.ErrLimitMarkerTTLNotSupported) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == codeInvalidStream || api.ErrorCode == codeSubjectOverlap)
}

// OnStoreOpen calls fn once, when the store is open: at once if it is, else
// from a goroutine of the backbone's, for which others wait. fn must not block
// for long. It is not called if the backbone is closed before.
func (b *Backbone) OnStoreOpen(fn func()) {
	b.mu.Lock()
	now := b.opened.Load() != nil
	if !now {
		b.onOpen = append(b.onOpen, fn)
	}
	b.mu.Unlock()
	if now {
		fn()
	}
}

// tellOpen calls what OnStoreOpen was given.
func (b *Backbone) tellOpen() {
	b.mu.Lock()
	fns := b.onOpen
	b.onOpen = nil
	b.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

// StoreUp reports whether the store is open and, as far as the newest calls
// and looks tell, takes writes.
func (b *Backbone) StoreUp() bool {
	s := b.opened.Load()
	if s == nil {
		return false
	}
	for _, p := range s.parts() {
		if p.down.Load() {
			return false
		}
	}
	return true
}

// settleTime is how long nothing may have happened until what this node doesn't
// know of can be believed not to be there.
const settleTime = 10 * time.Second

// stir notes that nodes came or went, or that the store was away.
func (b *Backbone) stir() { b.stirred.Store(time.Now().UnixNano()) }

// Settled reports whether nothing has happened to the cluster for a while, as far
// as this node knows: no node has come or gone, this one included, and the store
// took writes. Until then somebody may have something that is neither stored
// yet, nor can be asked for. A node that is alone is always settled.
func (b *Backbone) Settled() bool {
	return b.alone || time.Since(time.Unix(0, b.stirred.Load())) > settleTime
}

// keep looks after the open store until ctx ends.
func (b *Backbone) keep(ctx context.Context) {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	var j *janitor
	if b.server != nil {
		j = &janitor{b: b}
	}
	routes := 0
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s := b.opened.Load()
		if b.server != nil {
			reached := b.server.reached()
			b.sightings.look(reached)
			if now := len(reached); now != routes {
				routes = now
				b.stir()
			}
		}
		if !b.StoreUp() {
			b.stir()
		}
		infos := b.look(ctx, s, n%lookEvery == 0)
		if j != nil && ctx.Err() == nil {
			j.tidy(ctx, s, infos)
		}
	}
}

// look asks for each part of the store whether it takes writes: for those that
// did not each time, for the rest if all is set. It returns the answers.
func (b *Backbone) look(ctx context.Context, s *store, all bool) map[*part]*streamInfo {
	infos := make(map[*part]*streamInfo)
	for _, p := range s.parts() {
		if !all && !p.down.Load() && !p.suspect.Swap(false) {
			continue
		}
		asked, cancel := context.WithTimeout(ctx, pingTimeout)
		info, err := b.info(asked, p)
		cancel()
		if ctx.Err() != nil {
			break
		}
		p.down.Store(err != nil || !b.hasQuorum(info))
		if err == nil {
			infos[p] = info
		} else if isStreamNotFound(err) {
			b.reopen(ctx, p)
		}
	}
	return infos
}

func isStreamNotFound(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamNotFound
}

// reopen makes anew a stream that is gone, with what was in it: removed by an
// operator, say, or with the disk of the only server that had it.
func (b *Backbone) reopen(ctx context.Context, p *part) {
	b.log.Error().Str("stream", p.name).Msg("a part of the store is gone, with all that was in it, and is made anew")
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := b.openStore(ctx); err != nil && ctx.Err() == nil {
		b.log.Warn().Err(err).Msg("the store can't be opened again yet")
	}
}

// hasQuorum reports whether more than half of a stream's replicas are there,
// as its leader sees it.
func (b *Backbone) hasQuorum(info *streamInfo) bool {
	if info.Cluster == nil {
		return true // not in a cluster
	}
	if info.Cluster.Leader == "" {
		return false
	}
	here := 1
	for _, r := range info.Cluster.Replicas {
		if b.present(r) {
			here++
		}
	}
	return here > (len(info.Cluster.Replicas)+1)/2
}
