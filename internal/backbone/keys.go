package backbone

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// KeyTTL is how long a key's record stays since it was written last.
	KeyTTL = 24 * time.Hour
	// MaxKeyBytes bounds the record of one key.
	MaxKeyBytes = 1 << 10
	// keysMaxBytes has room for about 200,000 keys, of which each takes some
	// 300 bytes. The oldest are forgotten first.
	keysMaxBytes = 64 << 20
)

func keysConfig() jetstream.StreamConfig {
	c := bucketConfig(keysBucket, "Athena's Idempotency-Keys.", jetstream.DiscardOld)
	c.MaxAge = KeyTTL
	c.MaxBytes = keysMaxBytes
	c.MaxMsgSize = MaxKeyBytes + 512 // it counts the subject and headers too
	return c
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
	s, err := b.openedStore()
	if err == nil {
		revision, created, err = b.swap(ctx, s.keys, key, value, 0)
	}
	if err != nil {
		return 0, false, fmt.Errorf("create key: %w", err)
	}
	return revision, created, nil
}

// ReadKey returns the record of key, and revision 0 if there is none. In a
// cluster a record may be some moments old, which UpdateKey notices; "none" is
// certain.
func (b *Backbone) ReadKey(ctx context.Context, key string) (value []byte, revision uint64, err error) {
	if err := checkToken("key", key); err != nil {
		return nil, 0, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	var r Record
	s, err := b.openedStore()
	if err == nil {
		r, err = b.get(ctx, s.keys, key)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read key: %w", err)
	}
	return r.Value, r.Revision, nil
}

// UpdateKey replaces the record of key, if that is still the one of revision;
// updated tells. next is the new record's revision.
func (b *Backbone) UpdateKey(ctx context.Context, key string, value []byte, revision uint64) (next uint64, updated bool, err error) {
	if err := checkKey(key, value); err != nil {
		return 0, false, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		next, updated, err = b.swap(ctx, s.keys, key, value, revision)
	}
	if err != nil {
		return 0, false, fmt.Errorf("update key: %w", err)
	}
	return next, updated, nil
}

// DeleteKey removes the record of key, if that is still the one of revision;
// it is no error if it isn't.
func (b *Backbone) DeleteKey(ctx context.Context, key string, revision uint64) error {
	if err := checkToken("key", key); err != nil {
		return err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		_, err = s.keys.remove(ctx, key, revision)
	}
	if err != nil {
		return fmt.Errorf("delete key: %w", err)
	}
	return nil
}

func checkKey(key string, value []byte) error {
	if len(value) > MaxKeyBytes {
		return fmt.Errorf("record of a key of %d bytes: %w", len(value), ErrTooLarge)
	}
	return checkToken("key", key)
}
