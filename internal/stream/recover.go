package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

// Recover ends the streams whose jobs died with an earlier process of this
// node, so that every stream ends (P4). It returns how many those were, and
// which could not be ended, which the next Recover tries again. Call it before
// clients are let in, on a node that is alone: among several TakeOver is for
// that.
func (n *Node) Recover(ctx context.Context) (ended int, err error) {
	running, err := n.bus.Running(ctx)
	if err != nil {
		return 0, fmt.Errorf("list running jobs: %w", err)
	}
	var errs []error
	for id, kept := range running {
		var r record
		if err := json.Unmarshal(kept.Value, &r); err != nil {
			n.opts.Logger.Warn().Err(err).Str("stream", id).Msg("record of a running job can't be read")
		}
		if !n.opts.Sole && r.Node != n.opts.Node {
			continue
		}
		if r.Node == n.opts.Node && r.Epoch == n.bus.Epoch() {
			continue // started by this process
		}
		if err := n.endLost(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("end stream %s, whose node was lost: %w", id, err))
			continue
		}
		ended++
	}
	return ended, errors.Join(errs...)
}

// endLost appends failed to the stored log of a stream whose owner is gone, and
// which nobody else takes over. See cover for what the event covers.
func (n *Node) endLost(ctx context.Context, id string) error {
	cause := protocol.Errorf(protocol.CodeOwnerLost, "the node that ran the analysis stopped before it was done; start it again")
	tries := 0
	err := n.persist(ctx, func(ctx context.Context) (again bool, err error) {
		tries++
		last, pos, end, err := n.bus.LogTail(ctx, id)
		if err != nil && !errors.Is(err, backbone.ErrNotFound) {
			return false, err
		}
		if end {
			return false, nil
		}
		e, err := cover(id, last, protocol.TypeFailed, &protocol.Failed{Error: cause})
		if err != nil {
			return false, err
		}
		if _, err = n.bus.AppendLog(ctx, id, pos, batchOf(e)); err != nil {
			// It wrote on until now.
			return errors.Is(err, backbone.ErrConflict) && tries < maxConflicts, err
		}
		_ = n.bus.PublishLive(id, e.JSON) // a hole, which its readers will fill
		return false, nil
	})
	if err != nil {
		return err
	}
	return n.bus.ClearRunning(ctx, id)
}
