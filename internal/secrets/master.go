package secrets

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// masterBytes is the length of a master key.
const masterBytes = 32

// A Master wraps data keys. What it returns is of no use without it, and opens
// only together with the same context bytes. Its methods may be called
// concurrently.
type Master interface {
	// ID tells which master key this is, and nothing of it.
	ID() string
	// Wrap encrypts a data key.
	Wrap(ctx context.Context, dataKey, bound []byte) ([]byte, error)
	// Unwrap is its opposite. The error is errOpen in the tree where the wrapped
	// key was not made by this master, or with other context bytes.
	Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error)
}

// A localMaster is a master key in this process.
type localMaster struct {
	id   string
	aead cipher.AEAD // has the expanded key; Go's keeps it until it is collected
}

// newLocalMaster takes 32 random bytes, which the caller may wipe after.
func newLocalMaster(secret []byte) (*localMaster, error) {
	// The id and the key that is used are derived, so that neither tells the
	// other: RFC 5869, with a label for each purpose.
	id, err := hkdf.Key(sha256.New, secret, nil, "athena master key id 1", 8)
	if err != nil {
		return nil, err
	}
	wrap, err := hkdf.Key(sha256.New, secret, nil, "athena master key wrap 1", masterBytes)
	if err != nil {
		return nil, err
	}
	defer clear(wrap)
	aead, err := newAEAD(wrap)
	if err != nil {
		return nil, err
	}
	return &localMaster{id: hex.EncodeToString(id), aead: aead}, nil
}

// newAEAD is AES-256-GCM with a random nonce of 96 bits before the text. A data
// key seals one text; a master some thousands, far from the 2³² after which
// NIST SP 800-38D wants another.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (m *localMaster) ID() string { return m.id }

func (m *localMaster) Wrap(_ context.Context, dataKey, bound []byte) ([]byte, error) {
	return m.aead.Seal(nil, nil, dataKey, bound), nil //nolint:gosec // G407: it makes the nonce itself
}

func (m *localMaster) Unwrap(_ context.Context, wrapped, bound []byte) ([]byte, error) {
	key, err := m.aead.Open(nil, nil, wrapped, bound)
	if err != nil {
		return nil, errOpen
	}
	return key, nil
}

var errMasterText = errors.New("a master key is 32 random bytes in base64 or hexadecimal; make one with: openssl rand -base64 32")

// ParseMasters reads master keys out of text: one a line, or with commas
// between; lines that begin with # are comments. The first seals, all open.
func ParseMasters(text []byte) ([]Master, error) {
	var masters []Master
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for item := range strings.FieldsFuncSeq(line, func(r rune) bool { return r <= ' ' || r == ',' }) {
			n++
			secret, err := decodeMaster(item)
			if err != nil {
				return nil, fmt.Errorf("master key %d: %w", n, err)
			}
			m, err := newLocalMaster(secret)
			clear(secret)
			if err != nil {
				return nil, fmt.Errorf("master key %d: %w", n, err)
			}
			for _, other := range masters {
				if other.ID() == m.ID() {
					return nil, fmt.Errorf("master key %d is there twice", n)
				}
			}
			masters = append(masters, m)
		}
	}
	if len(masters) == 0 {
		return nil, errMasterText
	}
	return masters, nil
}

// decodeMaster reads one key. Its errors repeat nothing of it.
func decodeMaster(text string) ([]byte, error) {
	if b, err := hex.DecodeString(text); err == nil && len(b) == masterBytes {
		return checkMaster(b)
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := encoding.Strict().DecodeString(text); err == nil && len(b) == masterBytes {
			return checkMaster(b)
		}
	}
	return nil, errMasterText
}

// checkMaster refuses what nobody has drawn: in 32 random bytes fewer than 12
// different ones come up about once in 10²² tries.
func checkMaster(b []byte) ([]byte, error) {
	different := make(map[byte]bool)
	for _, c := range b {
		different[c] = true
	}
	if len(different) < 12 {
		return nil, errors.New("is not random; make one with: openssl rand -base64 32")
	}
	return b, nil
}
