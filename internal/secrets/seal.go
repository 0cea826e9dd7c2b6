package secrets

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// sealedFormat is the version of the format of sealed records.
	sealedFormat = 1
	// MaxSealedBytes bounds a sealed record.
	MaxSealedBytes = 16 << 10
)

var (
	// ErrSealed is in the tree of errors about a record that can't be opened.
	ErrSealed = errors.New("the sealed key can't be opened")
	// ErrMaster is in the tree of errors about a master key that could not be asked.
	ErrMaster = errors.New("the master key can't be used now")
	// errOpen says no more, so that nobody learns what was wrong from it.
	errOpen = errors.New("it was changed, moved or cut, or is sealed by another master key")
	// errNoMaster says which master key is missing.
	errNoMaster = errors.New("its master key is not among this node's")
)

// A Sealed is a key at rest: the key is encrypted by a data key of its own, and
// that by a master key. What stands beside it in clear is bound to it: a record
// opens only as what it was sealed as.
type Sealed struct {
	Format   int    `json:"format"`
	Provider string `json:"provider"`
	ID       string `json:"id"`
	// Version grows with each time that the key is set or sealed anew. A node
	// that has seen one takes no older one.
	Version uint64 `json:"version"`
	Weight  int    `json:"weight"`
	// Set is when the key was set, SetBy who did it.
	Set   time.Time `json:"set"`
	SetBy string    `json:"set_by,omitempty"`
	// Master is the id of the master key that wrapped the data key.
	Master  string `json:"master"`
	Wrapped []byte `json:"wrapped"`
	Text    []byte `json:"text"`
}

// ParseSealed reads a record. Whether it opens is another question.
func ParseSealed(b []byte) (*Sealed, error) {
	if len(b) > MaxSealedBytes {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrSealed, MaxSealedBytes)
	}
	s := new(Sealed)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("%w: it is not a record of this kind", ErrSealed)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something stands behind its end", ErrSealed)
	}
	switch {
	case s.Format != sealedFormat:
		return nil, fmt.Errorf("%w: its format is %d, and this version of Athena knows %d", ErrSealed, s.Format, sealedFormat)
	case !KeyID.MatchString(s.ID), s.Provider == "", len(s.Provider) > 64, len(s.SetBy) > 256, s.Master == "", len(s.Master) > 256,
		s.Version == 0, s.Weight < 1, s.Weight > MaxWeight:
		return nil, fmt.Errorf("%w: a field of it is missing or out of range", ErrSealed)
	}
	return s, nil
}

// bound is what the record is bound to, in a form in which no two records are
// the same: each part with its length.
func (s *Sealed) bound() []byte {
	b := []byte("athena sealed key")
	b = binary.BigEndian.AppendUint32(b, sealedFormat)
	for _, part := range []string{s.Provider, s.ID, s.SetBy, s.Master} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // parts are shorter than a record
		b = append(b, part...)
	}
	b = binary.BigEndian.AppendUint64(b, s.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Weight))        //nolint:gosec // the bits, to be authenticated
	return binary.BigEndian.AppendUint64(b, uint64(s.Set.Unix())) //nolint:gosec // the bits, to be authenticated
}

// Seal encrypts k as what s says, by a fresh data key that master wraps, and
// returns the record's bytes.
func (s *Sealed) Seal(ctx context.Context, k *Key, master Master) ([]byte, error) {
	s.Format, s.Master, s.Set = sealedFormat, master.ID(), s.Set.UTC().Truncate(time.Second)
	bound := s.bound()
	dataKey := make([]byte, masterBytes)
	defer clear(dataKey)
	_, _ = rand.Read(dataKey) // never fails
	aead, err := newAEAD(dataKey)
	if err != nil {
		return nil, err
	}
	k.with(func(text []byte) { s.Text = aead.Seal(nil, nil, text, bound) }) //nolint:gosec // G407: it makes the nonce itself
	if s.Wrapped, err = master.Wrap(ctx, dataKey, bound); err != nil {
		return nil, fmt.Errorf("seal the key %s of %s: %w: %w", s.ID, s.Provider, ErrMaster, err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if _, err := ParseSealed(b); err != nil { // what is written can be read
		return nil, err
	}
	return b, nil
}

// Open decrypts the key, with whichever of the masters wrapped its data key.
// Errors about the record are ErrSealed; others are those of a master that
// could not be asked.
func (s *Sealed) Open(ctx context.Context, masters []Master) (*Key, error) {
	for _, m := range masters {
		if m.ID() == s.Master {
			return s.open(ctx, m)
		}
	}
	return nil, fmt.Errorf("%w: %w (id %.40q); add that one behind the first, or set the key again", ErrSealed, errNoMaster, s.Master)
}

func (s *Sealed) open(ctx context.Context, m Master) (*Key, error) {
	bound := s.bound()
	dataKey, err := m.Unwrap(ctx, s.Wrapped, bound)
	defer clear(dataKey)
	switch {
	case errors.Is(err, errOpen):
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	case err != nil:
		return nil, fmt.Errorf("open the key %s of %s: %w: %w", s.ID, s.Provider, ErrMaster, err)
	case len(dataKey) != masterBytes:
		return nil, fmt.Errorf("%w: %w", ErrSealed, errOpen)
	}
	aead, err := newAEAD(dataKey)
	if err != nil {
		return nil, err
	}
	text, err := aead.Open(nil, nil, s.Text, bound)
	defer clear(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, errOpen)
	}
	return NewKey(text)
}
