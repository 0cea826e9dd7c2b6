package backbone

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// The ways in which this package fails, for errors.Is.
var (
	// ErrLocked: another process uses the data directory.
	ErrLocked = errors.New("data directory is in use")
	// ErrConflict: another writer has appended to the log, or replaced the
	// record.
	ErrConflict = errors.New("another writer was quicker")
	// ErrNotFound: the log holds nothing of this stream.
	ErrNotFound = errors.New("no such stream in the log")
	// ErrGap: the limits have dropped the part of the log that was asked for.
	ErrGap = errors.New("the log no longer holds this part of the stream")
	// ErrNoOwner: no node serves what was asked for.
	ErrNoOwner = errors.New("no node serves this")
	// ErrNoStore: the store is not open yet, or nobody answers for it: there is
	// no quorum, no leader, or no connection. What was to be written may have
	// been.
	ErrNoStore = errors.New("the store is not available")
	// ErrOverloaded: more is being published than the bus takes.
	ErrOverloaded = errors.New("too much waits to be published")
	// ErrTooLarge: a message is larger than the server accepts.
	ErrTooLarge = errors.New("message is larger than the bus accepts")
	// ErrInvalid: an id or a batch can't be what it says.
	ErrInvalid = errors.New("invalid")
	// ErrClosed: the backbone is closed, or is being closed.
	ErrClosed = errors.New("backbone is closed")
)

// known puts this package's name on an error of NATS's.
func known(err error) error {
	switch {
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

const maxTokenBytes = 128

// checkToken reports whether s can stand as one token of a subject and as a
// key of a bucket.
func checkToken(what, s string) error {
	if s == "" || len(s) > maxTokenBytes {
		return fmt.Errorf("%w: %s %.40q must have 1 to %d characters", ErrInvalid, what, s, maxTokenBytes)
	}
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_' {
			continue
		}
		return fmt.Errorf("%w: %s %.40q may hold letters, digits, - and _ only", ErrInvalid, what, s)
	}
	return nil
}
