package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A NewKey is what a key is made of.
type NewKey struct {
	Name, Tenant string
	Scopes       Scopes
	// ExpiresIn is how long it is good; 0 for no end.
	ExpiresIn time.Duration

	stream, parent string // of a share token
}

// The bounds on what keys are told.
const (
	MaxKeyAge   = 10 * 365 * 24 * time.Hour
	MaxKeyGrace = 30 * 24 * time.Hour
	// DefaultShareAge and MaxShareAge are how long a share token is good.
	DefaultShareAge = time.Hour
	MaxShareAge     = 7 * 24 * time.Hour
)

// Create makes a key and stores it. The text is what its owner needs; it is
// nowhere else.
func (k *Keyring) Create(ctx context.Context, n NewKey) (text string, info KeyInfo, err error) {
	if n.Name == "" {
		return "", KeyInfo{}, protocol.Errorf(protocol.CodeInvalidRequest, `field "name" is missing; it is what logs and people call the key`)
	}
	for what, name := range map[string]string{"name": n.Name, "tenant": n.Tenant} {
		if err := checkName(what, name); err != nil {
			return "", KeyInfo{}, protocol.Errorf(protocol.CodeInvalidRequest, "%s", err)
		}
	}
	if n.Scopes == 0 {
		return "", KeyInfo{}, protocol.Errorf(protocol.CodeInvalidRequest, `field "scopes" is empty; a key may do something`)
	}
	if n.ExpiresIn < 0 || n.ExpiresIn > MaxKeyAge {
		return "", KeyInfo{}, protocol.Errorf(protocol.CodeInvalidRequest, "the key's life is %s; it must be up to %s, or 0 for one without an end", n.ExpiresIn, MaxKeyAge)
	}
	if err := k.room(n.stream != ""); err != nil {
		return "", KeyInfo{}, err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	for range maxTries {
		r := &keyRecord{id: newKeyID(), Name: n.Name, Tenant: n.Tenant, scopes: n.Scopes, Generation: 1, Stream: n.stream, Parent: n.parent, Created: now}
		var ttl time.Duration
		if n.ExpiresIn > 0 {
			r.Expires = now.Add(n.ExpiresIn)
		}
		if n.stream != "" {
			ttl = n.ExpiresIn + shareStays
		}
		text = newKeyText(r.id)
		sum := hashKey(text)
		r.Hash = sum[:]
		record := r.encode()
		revision, created, err := k.opts.Store.Create(ctx, r.id, record, ttl)
		if err != nil {
			return "", KeyInfo{}, storeFailed(err)
		}
		if !created {
			continue // an id that another key has
		}
		r.revision = revision
		k.publish(r, record)
		return text, r.info(), nil
	}
	return "", KeyInfo{}, errors.New("no id for a key was free")
}

// shareStays is how much longer a share token's record is stored than it is
// good: who comes with it meanwhile is told that it has expired.
const shareStays = 10 * time.Minute

// maxTries bounds how often a change is tried that another one has overtaken.
const maxTries = 5

// room reports why there can be no further key. The last tenth is for others than
// share tokens, which every caller may make: the operator must not be locked out.
func (k *Keyring) room(share bool) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if share && len(k.keys) >= k.opts.MaxKeys-k.opts.MaxKeys/10 {
		return protocol.Errorf(protocol.CodeOverloaded, "there are nearly as many keys as there may be, so no more streams can be shared now").WithRetryAfter(time.Minute)
	}
	if len(k.keys) >= k.opts.MaxKeys {
		return protocol.Errorf(protocol.CodeForbidden, "there are %d keys, which is the limit; those that were revoked are forgotten after %s", len(k.keys), k.opts.Keep)
	}
	return nil
}

// Share makes a token that reads one stream and nothing else, for a caller who
// may. It ends with the key of the caller: when that is revoked or expires, but
// not when it gets another secret. Secrets are replaced at regular times, which is
// no reason to send viewers away; a key whose secret has leaked is to be revoked,
// since whoever had it may have shared streams.
func (k *Keyring) Share(ctx context.Context, by Identity, stream string, expiresIn time.Duration) (text string, info KeyInfo, err error) {
	if expiresIn <= 0 || expiresIn > MaxShareAge {
		return "", KeyInfo{}, protocol.Errorf(protocol.CodeInvalidRequest, "the token's life is %s; it must be up to %s", expiresIn, MaxShareAge)
	}
	k.mu.RLock()
	have := k.shares[by.Tenant]
	k.mu.RUnlock()
	if have >= k.opts.MaxShares {
		return "", KeyInfo{}, protocol.Errorf(protocol.CodeRateLimited, "%d streams are shared, which is the limit; one more may be when the first of these tokens has expired", have).WithRetryAfter(time.Minute)
	}
	if !by.Expires.IsZero() {
		expiresIn = min(expiresIn, max(time.Until(by.Expires), time.Second))
	}
	parent, _ := storedKeyID(by)
	return k.Create(ctx, NewKey{Name: "share of " + cutBytes(by.Name, maxNameBytes/2), Tenant: by.Tenant, Scopes: ScopeRead, ExpiresIn: expiresIn, stream: stream, parent: parent})
}

// Revoke ends a key at once. Revoking it again changes nothing.
func (k *Keyring) Revoke(ctx context.Context, id string) (KeyInfo, error) {
	return k.change(ctx, id, func(r *keyRecord, now time.Time) error {
		if r.Revoked.IsZero() {
			r.Revoked, r.Old = now, nil
		}
		return nil
	})
}

// Rotate gives a key a new secret. The one before is good for the grace, and
// no other one any more.
func (k *Keyring) Rotate(ctx context.Context, id string, grace time.Duration) (text string, info KeyInfo, err error) {
	if grace < 0 || grace > MaxKeyGrace {
		return "", KeyInfo{}, protocol.Errorf(protocol.CodeInvalidRequest, "the grace is %s; it must be from 0 to %s", grace, MaxKeyGrace)
	}
	if !validKeyID(id) {
		return "", KeyInfo{}, noSuchKey()
	}
	text = newKeyText(id)
	sum := hashKey(text)
	info, err = k.change(ctx, id, func(r *keyRecord, now time.Time) error {
		if r.Stream != "" {
			return protocol.Errorf(protocol.CodeInvalidRequest, "a token that shares a stream has no other secret; share the stream again")
		}
		if !r.Revoked.IsZero() || over(r.Expires, now) {
			return protocol.Errorf(protocol.CodeInvalidRequest, "the key is revoked or expired; make another one")
		}
		r.Old = nil
		if grace > 0 {
			r.Old = &oldHash{r.Hash, now.Add(grace)}
		}
		r.Hash, r.Rotated = sum[:], now
		r.Generation++
		return nil
	})
	if err != nil {
		return "", KeyInfo{}, err
	}
	return text, info, nil
}

// change replaces the record of a key by what f makes of it.
func (k *Keyring) change(ctx context.Context, id string, f func(r *keyRecord, now time.Time) error) (KeyInfo, error) {
	if !validKeyID(id) {
		return KeyInfo{}, noSuchKey()
	}
	for range maxTries {
		b, revision, err := k.opts.Store.Read(ctx, id)
		if err != nil {
			return KeyInfo{}, storeFailed(err)
		}
		if revision == 0 {
			return KeyInfo{}, noSuchKey()
		}
		r, err := decodeKeyRecord(id, b, revision)
		if err != nil {
			return KeyInfo{}, fmt.Errorf("read the key %s: %w", id, err)
		}
		if err := f(r, time.Now().UTC().Truncate(time.Millisecond)); err != nil {
			return KeyInfo{}, err
		}
		record := r.encode()
		next, replaced, err := k.opts.Store.Replace(ctx, id, record, revision)
		if err != nil {
			return KeyInfo{}, storeFailed(err)
		}
		if replaced {
			r.revision = next
			k.publish(r, record)
			return r.info(), nil
		}
	}
	return KeyInfo{}, protocol.Errorf(protocol.CodeServiceUnavailable, "the key is being changed by others; try again").WithRetryAfter(time.Second)
}

// publish takes in a record that this node has written, and tells the others.
// One that doesn't hear of it asks the store within Refresh.
func (k *Keyring) publish(r *keyRecord, record []byte) {
	k.put(r)
	b, err := json.Marshal(announcement{r.id, r.revision, record})
	if err == nil {
		err = k.opts.Store.Announce(b)
	}
	if err != nil {
		k.opts.Logger.Warn().Err(err).Str("key", r.id).Msg("a changed key could not be announced; the other nodes find it by themselves")
	}
}

// noSuchKey repeats nothing of the id: by mistake it may be the whole key.
func noSuchKey() error {
	e := protocol.Errorf(protocol.CodeInvalidRequest, "there is no key of this id")
	e.Status, e.Title = 404, "Not Found"
	return e
}

func storeFailed(err error) error {
	return protocol.Errorf(protocol.CodeServiceUnavailable, "the store that keeps keys can't be written to now, so no key can be changed; those there are go on working").
		WithRetryAfter(2 * time.Second).WithCause(err)
}

// cutBytes shortens a name for where it is part of another.
func cutBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return protocol.SplitText(s, n)[0]
}
