package protocol

import (
	"crypto/rand"
	"time"

	"github.com/oklog/ulid/v2"
)

const (
	crockford   = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	streamIDLen = ulid.EncodedSize + 10
)

func newStreamID(now time.Time) string {
	id := make([]byte, streamIDLen)
	// Not the monotonic source: neighbours in one millisecond would differ by
	// a guessable increment.
	u := ulid.MustNew(ulid.Timestamp(now), rand.Reader)
	if err := u.MarshalTextTo(id[:ulid.EncodedSize]); err != nil {
		panic(err) // the length is a constant
	}
	tail := id[ulid.EncodedSize:]
	rand.Read(tail)
	for i, b := range tail {
		tail[i] = crockford[b&31]
	}
	return string(id)
}
