package backbone

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// MaxSecretBytes bounds one sealed record.
	MaxSecretBytes = 16 << 10
	// secretsMaxBytes has room for some thousand of them; further ones are
	// refused, since none may be forgotten.
	secretsMaxBytes = 16 << 20
)

func secretsConfig() jetstream.StreamConfig {
	c := bucketConfig(secretsBucket, "Sealed keys of Athena's providers.", jetstream.DiscardNew)
	c.MaxMsgSize = MaxSecretBytes + 512 // it counts the subject and headers too
	c.MaxBytes = secretsMaxBytes
	c.SubjectDeleteMarkerTTL = markerTTL
	return c
}

// Secrets returns all sealed records by name. Each is as it was at some moment
// during the call; in a cluster, on a replica that may lag a little behind.
func (b *Backbone) Secrets(ctx context.Context) (all map[string]Record, err error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		all, err = b.list(ctx, s.secrets, "")
	}
	if err != nil {
		return nil, fmt.Errorf("list the sealed keys: %w", err)
	}
	return all, nil
}

// Secret returns the newest sealed record of a name, with Revision 0 where there
// is none.
func (b *Backbone) Secret(ctx context.Context, name string) (r Record, err error) {
	if err := checkToken("name", name); err != nil {
		return Record{}, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		r, err = b.getFromLeader(ctx, s.secrets, name)
	}
	if err != nil {
		return Record{}, fmt.Errorf("read a sealed key: %w", err)
	}
	return r, nil
}

// SwapSecret replaces the sealed record of a name, if that is still the one of
// revision (0: if there is none); swapped tells.
func (b *Backbone) SwapSecret(ctx context.Context, name string, value []byte, revision uint64) (swapped bool, err error) {
	if err := checkToken("name", name); err != nil {
		return false, err
	}
	if len(value) > MaxSecretBytes {
		return false, fmt.Errorf("sealed key of %d bytes: %w", len(value), ErrTooLarge)
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		_, swapped, err = b.swap(ctx, s.secrets, name, value, revision)
	}
	if err != nil {
		return false, fmt.Errorf("store a sealed key: %w", err)
	}
	return swapped, nil
}

// DeleteSecret removes the sealed record of a name, if it is still that of
// revision; it is no error if it isn't.
func (b *Backbone) DeleteSecret(ctx context.Context, name string, revision uint64) error {
	if err := checkToken("name", name); err != nil {
		return err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		_, err = s.secrets.remove(ctx, name, revision)
	}
	if err != nil {
		return fmt.Errorf("remove a sealed key: %w", err)
	}
	return nil
}
