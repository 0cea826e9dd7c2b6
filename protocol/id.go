package protocol

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

const (
	crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	// plainIDLen is the length of an id of no tenant's stream.
	plainIDLen = ulid.EncodedSize + 10
	// tenantTagLen is how much longer a tenant's ids are: 80 bits.
	tenantTagLen = 16
	// streamIDLen is the greatest length.
	streamIDLen = plainIDLen + tenantTagLen
)

func newStreamID(now time.Time) string {
	id := make([]byte, plainIDLen)
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

// NewStreamID returns the id of a stream created now that belongs to no
// tenant. See ValidStreamID.
func NewStreamID() string { return newStreamID(time.Now()) }

// NewStreamIDFor returns the id of a stream created now that belongs to tenant,
// which StreamOf can tell; NewStreamID's for the tenant "".
func NewStreamIDFor(tenant string) string {
	id := NewStreamID()
	if tenant == "" {
		return id
	}
	return id + tenantTag(id, tenant)
}

// StreamOf reports whether the stream of this id belongs to tenant. No state
// is needed for that, so any node can tell, and without the store.
//
// The tag is a hash of the random part and the tenant: of an id alone nobody
// can read whose it is, or that two are the same tenant's. It needs no key,
// since it proves nothing that an attacker would want to forge: ids are made by
// the server, and an id with another tag is that of a stream that doesn't
// exist.
func StreamOf(id, tenant string) bool {
	switch {
	case !ValidStreamID(id):
		return false
	case len(id) == plainIDLen:
		return tenant == ""
	}
	return tenant != "" && id[plainIDLen:] == tenantTag(id[:plainIDLen], tenant)
}

// StreamTime is when the stream of this id began, by the clock of the node that
// made the id; zero where it isn't one.
func StreamTime(id string) time.Time {
	if !ValidStreamID(id) {
		return time.Time{}
	}
	u, err := ulid.ParseStrict(id[:ulid.EncodedSize])
	if err != nil { // a time beyond ULID's
		return time.Time{}
	}
	return u.Timestamp()
}

// tenantTag is what a tenant's id ends with: the first 80 bits of a hash.
func tenantTag(id, tenant string) string {
	sum := sha256.Sum256([]byte("athena tenant" + id + tenant)) // the id has one length
	var tag [tenantTagLen]byte
	for i := range tag {
		bit := 5 * i
		pair := uint16(sum[bit/8])<<8 | uint16(sum[bit/8+1])
		tag[i] = crockford[pair>>(11-bit%8)&31]
	}
	return string(tag[:])
}

// ValidStreamID reports whether id has the form of a stream id: a ULID
// followed by 10 more characters of its alphabet, 130 random bits in all, so
// that an id can't be guessed, and, where the stream is a tenant's, 16 more
// (see StreamOf).
func ValidStreamID(id string) bool {
	if len(id) != plainIDLen && len(id) != streamIDLen {
		return false
	}
	for i := range len(id) {
		if strings.IndexByte(crockford, id[i]) < 0 {
			return false
		}
	}
	return true
}
