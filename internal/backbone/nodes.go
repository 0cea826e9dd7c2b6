package backbone

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	nodesMaxBytes = 8 << 20

	epochPrefix = "epoch_"
	readyPrefix = "ready_"
	// The leases' keys have a second token, so that they can be read without
	// the others.
	leasePrefix = "lease."
)

func nodesConfig() jetstream.StreamConfig {
	c := bucketConfig(nodesBucket, "Athena's nodes, by name.", jetstream.DiscardNew)
	c.MaxMsgSize = -1
	c.MaxBytes = nodesMaxBytes
	c.SubjectDeleteMarkerTTL = markerTTL
	return c
}

type nodeRecord struct {
	Epoch   uint64    `json:"epoch"`
	Started time.Time `json:"started"`
}

// raiseEpoch stores a number above this node's last. It is at least the
// clock's milliseconds, so that it rises even if a power loss has taken the
// record of the last start with it, or the store isn't there. Where Open has
// returned without the store, the number that the clock gave is in use
// already, and only stored if it is higher than the last.
func (b *Backbone) raiseEpoch(ctx context.Context, nodes *part) error {
	key := epochPrefix + b.opts.Node
	for {
		r := nodeRecord{Epoch: b.epoch.Load(), Started: time.Now().UTC()}
		inUse := r.Epoch != 0
		if !inUse {
			r.Epoch = clockEpoch()
		}
		old, err := b.getFromLeader(ctx, nodes, key)
		if err != nil {
			return err
		}
		var last nodeRecord
		if old.Revision != 0 {
			if err := json.Unmarshal(old.Value, &last); err != nil {
				return fmt.Errorf("record of node %s: %w", b.opts.Node, err)
			}
		}
		if inUse && last.Epoch >= r.Epoch {
			b.log.Warn().Uint64("epoch", r.Epoch).Uint64("stored", last.Epoch).
				Msg("this node's epoch came from a clock that is behind; whoever looks may take it for an older process of the same name")
			return nil
		}
		if !inUse {
			r.Epoch = max(r.Epoch, last.Epoch+1)
		}
		data, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, swapped, err := b.swap(ctx, nodes, key, data, old.Revision); err != nil {
			return err
		} else if swapped {
			b.epoch.CompareAndSwap(0, r.Epoch)
			return nil
		}
		// Another process of the same name was quicker; ctx ends this.
	}
}

// clockEpoch is the epoch of a node whose store can't tell its last.
func clockEpoch() uint64 { return uint64(max(time.Now().UnixMilli(), 1)) }

// Epoch returns a number that is larger than at any earlier start of this
// node, also after a power loss unless the clock was set back as well. Where
// Open returned without the store it is the clock's, and so relies on that. It
// never changes, and is below 2^53.
func (b *Backbone) Epoch() uint64 { return b.epoch.Load() }

// WriteLease replaces this node's lease, if it is still the one of revision (0:
// if there is none), and returns its new revision. ErrConflict: it is another,
// or was removed. After another error it may have been written: calling again
// with the same arguments finds that out, if no two leases of different
// processes are equal.
func (b *Backbone) WriteLease(ctx context.Context, value []byte, revision uint64) (next uint64, err error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	next, err = b.writeLease(ctx, value, revision)
	if err != nil {
		return 0, fmt.Errorf("write this node's lease: %w", err)
	}
	return next, nil
}

func (b *Backbone) writeLease(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	s, err := b.openedStore()
	if err != nil {
		return 0, err
	}
	key := leasePrefix + b.opts.Node
	for range 2 {
		next, swapped, err := b.swap(ctx, s.nodes, key, value, revision)
		if err != nil || swapped {
			return next, err
		}
		now, err := b.getFromLeader(ctx, s.nodes, key)
		if err != nil {
			return 0, err
		}
		if now.Revision <= revision || !bytes.Equal(now.Value, value) {
			break
		}
		revision = now.Revision // an earlier call's, whose answer was lost
	}
	return 0, fmt.Errorf("%w: the lease is not the one that was written last", ErrConflict)
}

// Leases returns the leases of all nodes, by name. In a cluster they may be
// some moments old, for as long as a replica lags behind; RemoveLease, which
// asks the leader, notices.
func (b *Backbone) Leases(ctx context.Context) (all map[string]Record, err error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		all, err = b.list(ctx, s.nodes, leasePrefix)
	}
	if err != nil {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	return all, nil
}

// RemoveLease removes the lease of node, if it is still the one of revision;
// removed tells. Of several that remove it at once one does.
func (b *Backbone) RemoveLease(ctx context.Context, node string, revision uint64) (removed bool, err error) {
	if err := checkToken("node name", node); err != nil {
		return false, err
	}
	if revision == 0 {
		return false, nil
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		removed, err = s.nodes.remove(ctx, leasePrefix+node, revision)
	}
	if err != nil {
		return false, fmt.Errorf("remove the lease of %s: %w", node, err)
	}
	return removed, nil
}

// pingStore shows that the store takes writes.
func (b *Backbone) pingStore(ctx context.Context) error {
	s, err := b.openedStore()
	if err != nil {
		return err
	}
	return s.nodes.put(ctx, readyPrefix+b.opts.Node, nil)
}
