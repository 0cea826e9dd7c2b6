package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// A stored key as its owner has it is
//
//	athena_IIIIIIIIIIII_SSSS…SSSSCCCCCC
//
// an id of 60 random bits, a secret of 256, and a checksum of all that stands
// before it, in the lower-case alphabet of RFC 4648's base32. What leaked into a
// repository is found by its beginning and told from chance by its checksum,
// as GitHub's tokens are, and one that was copied in part is refused before
// anything is looked up.
const (
	keyPrefix      = "athena_"
	keyIDLen       = 12
	keySecretLen   = 52 // 256 bits
	keyChecksumLen = 6  // 30 bits of a CRC
	keyTextLen     = len(keyPrefix) + keyIDLen + 1 + keySecretLen + keyChecksumLen
	keyAlphabet    = "abcdefghijklmnopqrstuvwxyz234567"
)

var keyEncoding = base32.NewEncoding(keyAlphabet).WithPadding(base32.NoPadding)

// newKeyID makes the id of a key.
func newKeyID() string {
	var b [8]byte
	rand.Read(b[:])
	return keyEncoding.EncodeToString(b[:])[:keyIDLen]
}

// newKeyText makes a new secret for the key of this id.
func newKeyText(id string) string {
	var b [32]byte
	rand.Read(b[:])
	text := keyPrefix + id + "_" + keyEncoding.EncodeToString(b[:])
	return text + keyChecksum(text)
}

func keyChecksum(text string) string {
	sum := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(text)))
	return keyEncoding.EncodeToString(sum)[:keyChecksumLen]
}

// parseKeyText returns the id of what looks like a stored key, and ok where it is
// whole. Whether there is such a key it doesn't tell.
func parseKeyText(text string) (id string, ok bool) {
	if len(text) != keyTextLen || !strings.HasPrefix(text, keyPrefix) || text[len(keyPrefix)+keyIDLen] != '_' {
		return "", false
	}
	id = text[len(keyPrefix):][:keyIDLen]
	// Another spelling of the same bits would have another hash, so the
	// characters need no check beyond the id's, which names a record.
	return id, validKeyID(id) && keyChecksum(text[:keyTextLen-keyChecksumLen]) == text[keyTextLen-keyChecksumLen:]
}

// HideKeys returns s without the secrets of what looks like a stored key in it,
// for text in which one may stand by mistake.
func HideKeys(s string) string {
	for from := 0; ; {
		i := strings.Index(s[from:], keyPrefix)
		if i < 0 {
			return s
		}
		from += i + len(keyPrefix)
		if end := from + keyIDLen; len(s) > end && s[end] == '_' && validKeyID(s[from:end]) {
			secret := s[end+1:][:min(len(s)-end-1, keySecretLen+keyChecksumLen)]
			s = s[:end] + "_…" + strings.TrimLeft(secret, keyAlphabet) + s[end+1+len(secret):]
			from = end
		}
	}
}

func validKeyID(id string) bool {
	return len(id) == keyIDLen && strings.Trim(id, keyAlphabet) == ""
}

func hashKey(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }
