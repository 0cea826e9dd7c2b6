package backbone

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// markerTTL is how long it stays known that a record was removed.
	markerTTL = time.Minute
	// MaxRecordBytes bounds one record of a running job.
	MaxRecordBytes = 16 << 10

	runningMaxBytes = 32 << 20
)

func runningConfig() jetstream.StreamConfig {
	c := bucketConfig(runningBucket, "Athena's running jobs, by stream.", jetstream.DiscardNew)
	c.MaxMsgSize = MaxRecordBytes
	c.MaxBytes = runningMaxBytes
	c.SubjectDeleteMarkerTTL = markerTTL
	return c
}

// MarkRunning records that the job of stream id runs, replacing an earlier
// record. It returns when the record is stored.
func (b *Backbone) MarkRunning(ctx context.Context, id string, record []byte) error {
	if err := checkRecord(id, record); err != nil {
		return err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		err = s.running.put(ctx, id, record)
	}
	if err != nil {
		return fmt.Errorf("mark %s as running: %w", id, err)
	}
	return nil
}

// RunningRecord returns the record of stream id's job, with Revision 0 where
// there is none. In a cluster it may be some moments old, which TakeRunning
// notices; "none" is certain.
func (b *Backbone) RunningRecord(ctx context.Context, id string) (r Record, err error) {
	if err := checkToken("stream id", id); err != nil {
		return Record{}, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		r, err = b.get(ctx, s.running, id)
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the running mark of %s: %w", id, err)
	}
	return r, nil
}

// TakeRunning replaces the record of stream id, if that is still the one of
// revision (0: if there is none); taken tells. Of several that take it at once
// one does, on whichever nodes. After an error it may have been taken: call
// again with the same arguments, and if the record is this one it is. next is
// the new record's revision.
func (b *Backbone) TakeRunning(ctx context.Context, id string, record []byte, revision uint64) (next uint64, taken bool, err error) {
	if err := checkRecord(id, record); err != nil {
		return 0, false, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		next, taken, err = b.swap(ctx, s.running, id, record, revision)
	}
	if err == nil && !taken {
		var now Record
		if now, err = b.getFromLeader(ctx, s.running, id); err == nil && now.Revision > revision && bytes.Equal(now.Value, record) {
			return now.Revision, true, nil
		}
		if err == nil && revision == 0 && now.Revision == 0 {
			// Refused, and nobody has it: the leader holds an earlier try that it
			// can't commit for want of a majority.
			err = fmt.Errorf("%w: it neither takes the record nor has one", ErrNoStore)
		}
	}
	if err != nil {
		return 0, false, fmt.Errorf("take the running mark of %s: %w", id, err)
	}
	return next, taken, nil
}

func checkRecord(id string, record []byte) error {
	if err := checkToken("stream id", id); err != nil {
		return err
	}
	if len(record) > MaxRecordBytes {
		return fmt.Errorf("mark %s as running: record of %d bytes: %w", id, len(record), ErrTooLarge)
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
	s, err := b.openedStore()
	if err == nil {
		_, err = s.running.remove(ctx, id, 0)
	}
	if err != nil {
		return fmt.Errorf("clear the running mark of %s: %w", id, err)
	}
	return nil
}

// Running returns the records of all running jobs by stream id. Each is as it
// was at some moment during the call; in a cluster, on a replica that may lag
// a little behind, so who acts on one takes it by its revision.
func (b *Backbone) Running(ctx context.Context) (all map[string]Record, err error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		all, err = b.list(ctx, s.running, "")
	}
	if err != nil {
		return nil, fmt.Errorf("list the running jobs: %w", err)
	}
	return all, nil
}
