package backbone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// MaxCredentialBytes bounds the record of one API key.
	MaxCredentialBytes = 4 << 10
	// credentialsMaxBytes has room for 100,000 keys, of which each takes some 600
	// bytes. A full bucket refuses further ones: none may be forgotten.
	credentialsMaxBytes = 256 << 20
)

func credentialsConfig() jetstream.StreamConfig {
	c := bucketConfig(credentialsBucket, "Athena's API keys, by id: hashes, not the keys.", jetstream.DiscardNew)
	c.MaxBytes = credentialsMaxBytes
	c.MaxMsgSize = MaxCredentialBytes + 512 // it counts the subject and headers too
	c.SubjectDeleteMarkerTTL = markerTTL
	return c
}

// Credentials are the records of API keys. Unlike other records they are read by
// what was written since, so that each node can hold all of them.
type Credentials struct {
	b     *Backbone
	peers func() int
}

// Credentials returns the part of the store that keeps API keys. peers is how
// many other nodes are up.
func (b *Backbone) Credentials(peers func() int) Credentials { return Credentials{b, peers} }

// Create stores the first record of an id. Where there is one, created is false.
// With a ttl other than 0, of whole seconds, the store forgets the record after
// that time.
func (c Credentials) Create(ctx context.Context, id string, record []byte, ttl time.Duration) (revision uint64, created bool, err error) {
	if err := checkCredential(id, record); err != nil {
		return 0, false, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := c.b.openedStore()
	switch {
	case err != nil:
	case ttl > 0:
		// Who makes an id draws it at random, so a leader that has just been
		// elected and refuses wrongly costs another one.
		revision, err = s.credentials.kv.Create(ctx, id, record, jetstream.KeyTTL(ttl.Truncate(time.Second)+time.Second))
		if created = err == nil; errors.Is(err, jetstream.ErrKeyExists) || isWrongSequence(err) {
			err = nil
		}
		err = s.credentials.wrote(err)
	default:
		revision, created, err = c.b.swap(ctx, s.credentials, id, record, 0)
	}
	if err != nil {
		return 0, false, fmt.Errorf("create the credential %s: %w", id, err)
	}
	return revision, created, nil
}

// Read returns the newest record of an id, and revision 0 where there is none.
func (c Credentials) Read(ctx context.Context, id string) (record []byte, revision uint64, err error) {
	if err := checkToken("credential", id); err != nil {
		return nil, 0, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	var r Record
	s, err := c.b.openedStore()
	switch {
	case err != nil:
	case c.b.replicated():
		r, err = c.b.getFromLeader(ctx, s.credentials, id)
	default:
		r, err = c.b.get(ctx, s.credentials, id)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the credential %s: %w", id, err)
	}
	return r.Value, r.Revision, nil
}

// Replace replaces the record of an id, if that is still the one of revision;
// replaced tells. next is the new record's revision.
func (c Credentials) Replace(ctx context.Context, id string, record []byte, revision uint64) (next uint64, replaced bool, err error) {
	if err := checkCredential(id, record); err != nil {
		return 0, false, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := c.b.openedStore()
	if err == nil {
		next, replaced, err = c.b.swap(ctx, s.credentials, id, record, revision)
	}
	if err != nil {
		return 0, false, fmt.Errorf("replace the credential %s: %w", id, err)
	}
	return next, replaced, nil
}

// Remove removes the record of an id, if that is still the one of revision; it is
// no error if it isn't. Others learn of that for a minute.
func (c Credentials) Remove(ctx context.Context, id string, revision uint64) error {
	if err := checkToken("credential", id); err != nil {
		return err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := c.b.openedStore()
	if err == nil {
		_, err = s.credentials.remove(ctx, id, revision)
	}
	if err != nil {
		return fmt.Errorf("remove the credential %s: %w", id, err)
	}
	return nil
}

// Changes calls f with each record that was written after a revision, in the
// order of the revisions. It reads some hundred at a time, without a consumer,
// from a replica that may lag behind; where it ends early, f has been called
// with all that was written before the last one.
func (c Credentials) Changes(ctx context.Context, after uint64, f func(id string, record []byte, revision uint64)) error {
	s, err := c.b.openedStore()
	if err != nil {
		return fmt.Errorf("read what has changed of the credentials: %w", err)
	}
	for more := true; more; {
		if after, more, err = c.page(ctx, s.credentials, after, f); err != nil {
			return fmt.Errorf("read what has changed of the credentials: %w", s.credentials.failed(err))
		}
	}
	return nil
}

func (c Credentials) page(ctx context.Context, p *part, after uint64, f func(id string, record []byte, revision uint64)) (last uint64, more bool, err error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	base := p.subject("")
	msgs, err := jetstreamext.GetBatch(ctx, c.b.js, p.name, listBatch,
		jetstreamext.GetBatchSeq(after+1), jetstreamext.GetBatchSubject(base+">"))
	if err != nil {
		return after, false, err
	}
	last, pending := after, ""
	for m, err := range msgs {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return after, false, nil
		}
		if err != nil {
			return last, false, err
		}
		if r := recordOf(m); r.Revision != 0 {
			f(m.Subject[len(base):], r.Value, r.Revision)
		}
		last, pending = m.Sequence, m.Header.Get("Nats-Num-Pending")
	}
	// The iterator ends without a word when the context or the connection does.
	if err := ctx.Err(); err != nil {
		return last, false, err
	}
	if last == after {
		return last, false, context.DeadlineExceeded
	}
	return last, pending != "0", nil
}

const (
	// credentialsTopic is where changes are announced.
	credentialsTopic = "credentials"
	// announceWait bounds how long is waited for nodes that have died without a
	// word, or are slow.
	announceWait = 500 * time.Millisecond
)

// Announce tells all nodes that are there something about the credentials, and
// waits until they have heard it, but not for long. It may be lost.
func (c Credentials) Announce(data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), announceWait)
	defer cancel()
	_, err := c.b.Gather(ctx, credentialsTopic, data, c.peers()+1) // with this one
	return err
}

// Follow calls f with what is announced from now on, one after the other. stop is
// as SubscribeLive's.
func (c Credentials) Follow(f func(data []byte)) (stop func(), err error) {
	return c.b.Answer(credentialsTopic, func(data []byte) []byte {
		f(data)
		return []byte("heard")
	})
}

func checkCredential(id string, record []byte) error {
	if len(record) > MaxCredentialBytes {
		return fmt.Errorf("record of a credential of %d bytes: %w", len(record), ErrTooLarge)
	}
	return checkToken("credential", id)
}
