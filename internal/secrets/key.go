package secrets

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// MaxKeyBytes bounds a key; the longest in use, service accounts' tokens, have
// some 2 KiB.
const MaxKeyBytes = 4 << 10

// redacted stands for a key wherever one is printed.
const redacted = "[redacted]"

// A Key is the text of a key, in memory of its own, which Wipe clears. However
// it is printed, logged or encoded, it says nothing of the text. Its methods may
// be called concurrently.
type Key struct {
	mu   sync.RWMutex
	text []byte // guarded by mu; nil once it is wiped
}

// The ways in which values are printed.
var (
	_ fmt.Formatter  = (*Key)(nil)
	_ fmt.Stringer   = (*Key)(nil)
	_ slog.LogValuer = (*Key)(nil)
)

// errBadKey repeats nothing of the key.
var errBadKey = errors.New("a key must not be empty, longer than 4 KiB, or have a space or another character in it that can't stand in a header; check how it was copied")

// NewKey returns the key with this text, without the white space around it. It
// takes a copy: the caller may wipe its own.
func NewKey(text []byte) (*Key, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 || len(text) > MaxKeyBytes || bytes.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errBadKey
	}
	return &Key{text: bytes.Clone(text)}, nil
}

// Reveal returns a copy of the text; "" once the key is wiped.
func (k *Key) Reveal() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return string(k.text)
}

// with calls f with the text itself, of which f must keep nothing.
func (k *Key) with(f func(text []byte)) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	f(k.text)
}

// wiped reports whether the key is gone.
func (k *Key) wiped() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.text == nil
}

// Wipe clears the text. Calls that have a copy go on.
func (k *Key) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.text)
	k.text = nil
}

// Equal reports whether both have the same text, in a time that tells only
// whether their lengths differ.
func (k *Key) Equal(other *Key) bool {
	if k == other {
		return true
	}
	text := other.Reveal()
	k.mu.RLock()
	defer k.mu.RUnlock()
	return subtle.ConstantTimeCompare(k.text, []byte(text)) == 1
}

// minTailed is how long a key must be for the end of it to be no help in
// guessing the rest.
const minTailed = 16

// Tail is the last four characters, by which people tell keys apart; "" of a
// short key.
func (k *Key) Tail() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if len(k.text) < minTailed {
		return ""
	}
	return string(k.text[len(k.text)-4:])
}

// String hides the key.
func (*Key) String() string { return redacted }

// GoString hides the key from %#v.
func (*Key) GoString() string { return redacted }

// Format hides the key from every verb, %p and %d included.
func (*Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) } // fmt has no use for the error

// MarshalText hides the key from encoders.
func (*Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON hides the key from encoding/json, and from zerolog's Interface.
func (*Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue hides the key from slog.
func (*Key) LogValue() slog.Value { return slog.StringValue(redacted) }
