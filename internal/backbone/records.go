package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	runningBucket = "athena_running"
	nodesBucket   = "athena_nodes"
	// markerTTL is how long it stays known that a record was removed.
	markerTTL = time.Minute
	// MaxRecordBytes bounds one record of a running job.
	MaxRecordBytes = 16 << 10
)

func (b *Backbone) openRecords(ctx context.Context) (err error) {
	b.running, err = b.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:         runningBucket,
		Description:    "Athena's running jobs, by stream.",
		MaxValueSize:   MaxRecordBytes,
		MaxBytes:       runningMaxBytes,
		History:        1,
		LimitMarkerTTL: markerTTL,
	})
	if err != nil {
		return fmt.Errorf("open the records of running jobs: %w", err)
	}
	b.nodes, err = b.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      nodesBucket,
		Description: "Athena's nodes, by name.",
		MaxBytes:    nodesMaxBytes,
		History:     1,
	})
	if err != nil {
		return fmt.Errorf("open the records of nodes: %w", err)
	}
	if b.epoch, err = b.nextEpoch(ctx); err != nil {
		return fmt.Errorf("raise the epoch: %w", err)
	}
	return nil
}

type nodeRecord struct {
	Epoch   uint64    `json:"epoch"`
	Started time.Time `json:"started"`
}

// nextEpoch stores and returns a number above this node's last. It is at least
// the clock's milliseconds, so that it rises even if a power loss has taken
// the record of the last start with it.
func (b *Backbone) nextEpoch(ctx context.Context) (uint64, error) {
	key := "epoch_" + b.opts.Node
	for {
		now := time.Now()
		r := nodeRecord{Epoch: uint64(max(now.UnixMilli(), 1)), Started: now.UTC()}
		old, err := b.nodes.Get(ctx, key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
		case err != nil:
			return 0, err
		default:
			var last nodeRecord
			if err := json.Unmarshal(old.Value(), &last); err != nil {
				return 0, fmt.Errorf("record of node %s: %w", b.opts.Node, err)
			}
			r.Epoch = max(r.Epoch, last.Epoch+1)
		}
		data, err := json.Marshal(r)
		if err != nil {
			return 0, err
		}
		if old == nil {
			_, err = b.nodes.Create(ctx, key, data)
		} else {
			_, err = b.nodes.Update(ctx, key, data, old.Revision())
		}
		if err == nil {
			return r.Epoch, nil
		}
		if !isWrongSequence(err) && !errors.Is(err, jetstream.ErrKeyExists) {
			return 0, err
		}
		// Another process of the same name was quicker; ctx ends this.
	}
}

// Epoch returns a number that is larger than at any earlier start of this
// node, also after a power loss unless the clock was set back as well. It is
// below 2^53.
func (b *Backbone) Epoch() uint64 { return b.epoch }

// MarkRunning records that the job of stream id runs, replacing an earlier
// record. It returns when the record is stored.
func (b *Backbone) MarkRunning(ctx context.Context, id string, record []byte) error {
	if err := checkToken("stream id", id); err != nil {
		return err
	}
	if len(record) > MaxRecordBytes {
		return fmt.Errorf("mark %s as running: record of %d bytes: %w", id, len(record), ErrTooLarge)
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	if _, err := b.running.Put(ctx, id, record); err != nil {
		return fmt.Errorf("mark %s as running: %w", id, known(err))
	}
	return nil
}

// ClearRunning removes the record of stream id. It is no error if there is
// none.
func (b *Backbone) ClearRunning(ctx context.Context, id string) error {
	if err := checkToken("stream id", id); err != nil {
		return err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	// A plain delete would leave a marker for each job that ever ran.
	if err := b.running.Purge(ctx, id, jetstream.PurgeTTL(markerTTL)); err != nil {
		return fmt.Errorf("clear the running mark of %s: %w", id, known(err))
	}
	return nil
}

// Running returns the records of all running jobs by stream id, as of one
// moment.
func (b *Backbone) Running(ctx context.Context) (map[string][]byte, error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	all, err := b.readRunning(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the running jobs: %w", known(err))
	}
	return all, nil
}

func (b *Backbone) readRunning(ctx context.Context) (map[string][]byte, error) {
	w, err := b.running.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Stop() }() // fails only where the connection has ended
	all := make(map[string][]byte)
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				return nil, ErrClosed
			case e == nil: // that was all
				return all, nil
			}
			all[e.Key()] = e.Value()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (b *Backbone) servePing() error {
	b.ping = "athena.ping." + b.conn.NewInbox()
	_, err := b.subscribe(b.ping, func(m *nats.Msg) {
		_ = m.Respond(m.Data) // Ping says so when nothing arrives
	}, nil)
	if err != nil {
		return fmt.Errorf("listen for pings: %w", err)
	}
	return nil
}

// Ping sends a message through the bus to itself and writes to the store, and
// returns nil when both worked.
func (b *Backbone) Ping(ctx context.Context) error {
	if b.closing.Load() {
		return ErrClosed
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	if _, err := b.conn.RequestWithContext(ctx, b.ping, []byte("ping")); err != nil {
		return fmt.Errorf("send a message through the bus: %w", known(err))
	}
	if _, err := b.nodes.Put(ctx, "ready_"+b.opts.Node, nil); err != nil {
		return fmt.Errorf("write to the store: %w", known(err))
	}
	return nil
}
