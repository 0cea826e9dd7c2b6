package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"unicode/utf8"
)

// A Digest sums up the text that proves a stream complete (P5): every chunk of
// kind "text" since the last failover that discards. Its zero value is the
// digest of no text.
type Digest struct {
	h hash.Hash
	n int64
}

// Add adds text as a client receives it: with U+FFFD for every byte that is
// not UTF-8.
func (d *Digest) Add(text string) {
	if !utf8.ValidString(text) {
		text = string([]rune(text))
	}
	if d.h == nil {
		d.h = sha256.New()
	}
	d.h.Write([]byte(text))
	d.n += int64(len(text))
}

// Reset forgets all text, as a failover with discard does.
func (d *Digest) Reset() { *d = Digest{} }

// Sum returns the length of the text in bytes and its SHA-256 in hexadecimal.
func (d *Digest) Sum() (bytes int64, sum string) {
	if d.h == nil {
		d.h = sha256.New()
	}
	return d.n, hex.EncodeToString(d.h.Sum(nil))
}
