package backbone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	keysBucket = "athena_keys"
	// KeyTTL is how long a key's record stays since it was written last.
	KeyTTL = 24 * time.Hour
	// MaxKeyBytes bounds the record of one key.
	MaxKeyBytes = 1 << 10
	// keysMaxBytes has room for about 200,000 keys, of which each takes some
	// 300 bytes. The oldest are forgotten first.
	keysMaxBytes = 64 << 20
)

// openKeys opens the bucket of Idempotency-Keys. It is made as a stream, as
// NATS's ADR-8 lays buckets out, since one that is made as a bucket refuses
// new keys when it is full, where this one is to forget old ones.
func (b *Backbone) openKeys(ctx context.Context) (err error) {
	_, err = b.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              "KV_" + keysBucket,
		Description:       "Athena's Idempotency-Keys.",
		Subjects:          []string{"$KV." + keysBucket + ".>"},
		MaxMsgsPerSubject: 1,
		MaxAge:            KeyTTL,
		MaxBytes:          keysMaxBytes,
		MaxMsgSize:        MaxKeyBytes + 512, // it counts the subject and headers too
		Discard:           jetstream.DiscardOld,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
		AllowMsgTTL:       true,
	})
	if err != nil {
		return fmt.Errorf("open the records of keys: %w", err)
	}
	if b.keys, err = b.js.KeyValue(ctx, keysBucket); err != nil {
		return fmt.Errorf("open the records of keys: %w", err)
	}
	return nil
}

// CreateKey stores value under key unless there is a record already. created
// tells which, and revision is for UpdateKey and DeleteKey. Of several that
// create a key at once, on whichever nodes, one does.
func (b *Backbone) CreateKey(ctx context.Context, key string, value []byte) (revision uint64, created bool, err error) {
	if err := checkKey(key, value); err != nil {
		return 0, false, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	revision, err = b.keys.Create(ctx, key, value)
	switch {
	case err == nil:
		return revision, true, nil
	case errors.Is(err, jetstream.ErrKeyExists), isWrongSequence(err):
		return 0, false, nil
	}
	return 0, false, fmt.Errorf("create key: %w", known(err))
}

// ReadKey returns the record of key, and revision 0 if there is none. In a
// cluster it may be some moments old; UpdateKey notices.
func (b *Backbone) ReadKey(ctx context.Context, key string) (value []byte, revision uint64, err error) {
	if err := checkToken("key", key); err != nil {
		return nil, 0, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	e, err := b.keys.Get(ctx, key)
	switch {
	case err == nil:
		return e.Value(), e.Revision(), nil
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, 0, nil
	}
	return nil, 0, fmt.Errorf("read key: %w", known(err))
}

// UpdateKey replaces the record of key, if that is still the one of revision;
// updated tells. next is the new record's revision.
func (b *Backbone) UpdateKey(ctx context.Context, key string, value []byte, revision uint64) (next uint64, updated bool, err error) {
	if err := checkKey(key, value); err != nil {
		return 0, false, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	next, err = b.keys.Update(ctx, key, value, revision)
	switch {
	case err == nil:
		return next, true, nil
	case isWrongSequence(err):
		return 0, false, nil
	}
	return 0, false, fmt.Errorf("update key: %w", known(err))
}

// DeleteKey removes the record of key, if that is still the one of revision;
// it is no error if it isn't.
func (b *Backbone) DeleteKey(ctx context.Context, key string, revision uint64) error {
	if err := checkToken("key", key); err != nil {
		return err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	err := b.keys.Purge(ctx, key, jetstream.LastRevision(revision), jetstream.PurgeTTL(markerTTL))
	if err != nil && !isWrongSequence(err) {
		return fmt.Errorf("delete key: %w", known(err))
	}
	return nil
}

func checkKey(key string, value []byte) error {
	if len(value) > MaxKeyBytes {
		return fmt.Errorf("record of a key of %d bytes: %w", len(value), ErrTooLarge)
	}
	return checkToken("key", key)
}
