package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A KeyInfo is what may be told of a stored key.
type KeyInfo struct {
	ID string
	// Prefix is how the key begins, by which its owner recognises it.
	Prefix string
	Name   string
	Tenant string
	Scopes Scopes
	// Stream is the only stream that a share token is for; "" for other keys.
	Stream string
	// Times that have not come are zero. The secret before the newest is good
	// until OldUntil.
	Created, Expires, Revoked, Rotated, OldUntil time.Time
}

// The states of a key.
const (
	KeyActive   = "active"
	KeyRotating = "rotating" // the secret before is still good
	KeyExpired  = "expired"
	KeyRevoked  = "revoked"
)

// State is what the key is good for at a time.
func (k *KeyInfo) State(now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return KeyRevoked
	case over(k.Expires, now):
		return KeyExpired
	case now.Before(k.OldUntil):
		return KeyRotating
	}
	return KeyActive
}

// over reports whether a moment has come; the zero one never does.
func over(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// A keyRecord is a key as the store has it, under its id. It holds no secret:
// of 256 random bits a hash tells nothing, so it needs no salt and no slow
// hash, which every request would pay for.
type keyRecord struct {
	Version    int       `json:"v"`
	Name       string    `json:"name"`
	Tenant     string    `json:"tenant,omitempty"`
	Scopes     []string  `json:"scopes"`
	Hash       []byte    `json:"hash"`
	Generation uint32    `json:"generation"`
	Old        *oldHash  `json:"old,omitempty"`
	Stream     string    `json:"stream,omitempty"`
	Parent     string    `json:"parent,omitempty"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires,omitzero"`
	Revoked    time.Time `json:"revoked,omitzero"`
	Rotated    time.Time `json:"rotated,omitzero"`

	// Not stored.
	id       string
	scopes   Scopes
	revision uint64
}

// An oldHash is the secret that a rotated key had before.
type oldHash struct {
	Hash  []byte    `json:"hash"`
	Until time.Time `json:"until"`
}

const keyRecordVersion = 1

// maxKeyRecord bounds a record, in bytes.
const maxKeyRecord = 4 << 10

func (r *keyRecord) encode() []byte {
	r.Version, r.Scopes = keyRecordVersion, r.scopes.Names()
	b, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("encode the record of a key: %v", err)) // it has nothing that can't be
	}
	return b
}

// decodeKeyRecord reads a record. A scope that this version doesn't know is one
// that it can't grant, so it is left out.
func decodeKeyRecord(id string, b []byte, revision uint64) (*keyRecord, error) {
	if len(b) > maxKeyRecord {
		return nil, errors.New("it is too large")
	}
	r := &keyRecord{id: id, revision: revision}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	switch {
	case !validKeyID(id):
		return nil, fmt.Errorf("%.40q is not the id of a key", id)
	case r.Version != keyRecordVersion:
		return nil, fmt.Errorf("it has version %d; this node reads %d", r.Version, keyRecordVersion)
	case len(r.Hash) != sha256.Size || r.Old != nil && len(r.Old.Hash) != sha256.Size:
		return nil, errors.New("its hash has another length")
	case r.Stream != "" && !protocol.ValidStreamID(r.Stream):
		return nil, errors.New("its stream is none")
	}
	if err := errors.Join(checkName("name", r.Name), checkName("tenant", r.Tenant)); err != nil {
		return nil, err
	}
	for _, name := range r.Scopes {
		r.scopes |= scopeNamed(name)
	}
	if r.Stream != "" {
		r.scopes &= ScopeRead
	}
	return r, nil
}

func (r *keyRecord) info() KeyInfo {
	k := KeyInfo{ID: r.id, Prefix: keyPrefix + r.id, Name: r.Name, Tenant: r.Tenant, Scopes: r.scopes, Stream: r.Stream,
		Created: r.Created, Expires: r.Expires, Revoked: r.Revoked, Rotated: r.Rotated}
	if r.Old != nil {
		k.OldUntil = r.Old.Until
	}
	return k
}

// match returns which of the key's secrets has this hash, 0 for none. It
// compares with both in any case, in constant time.
func (r *keyRecord) match(sum []byte) (generation uint32) {
	old := sum[:0:0]
	if r.Old != nil {
		old = r.Old.Hash
	}
	newest, before := subtle.ConstantTimeCompare(sum, r.Hash), subtle.ConstantTimeCompare(sum, old)
	switch {
	case newest == 1:
		return r.Generation
	case before == 1:
		return r.Generation - 1
	}
	return 0
}

// A standing is until when a credential is good, and how it ends then.
type standing struct {
	until time.Time // zero for no end in sight
	why   *refusal  // why it ends, which is now where until is past
}

// standing is how one of the key's secrets stands. parent is the key that made
// it, of a share token; one whose maker isn't there any more is not good.
func (r *keyRecord) standing(generation uint32, parent *keyRecord, now time.Time) standing {
	current := generation == r.Generation
	switch {
	case !r.Revoked.IsZero(), r.Parent != "" && (parent == nil || !parent.Revoked.IsZero()):
		return standing{now, errRevoked}
	case !current && (r.Old == nil || generation+1 != r.Generation):
		return standing{now, errRevoked}
	case !current && (r.Expires.IsZero() || r.Old.Until.Before(r.Expires)):
		return standing{r.Old.Until, errRevoked}
	}
	return standing{r.Expires, errExpired}
}

func (r *keyRecord) identity(generation uint32) Identity {
	id := Identity{Name: r.Name, Tenant: r.Tenant, Scopes: r.scopes, Credential: storedKind + r.id, Generation: generation, Expires: r.Expires, Stream: r.Stream}
	if r.Old != nil && generation != r.Generation && (id.Expires.IsZero() || r.Old.Until.Before(id.Expires)) {
		id.Expires = r.Old.Until
	}
	return id
}
