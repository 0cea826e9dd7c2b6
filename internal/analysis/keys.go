package analysis

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/protocol"
)

// A KeyStore keeps the records of Idempotency-Keys where other nodes find
// them, and this one after a restart. Its methods may be called concurrently
// and return soon after ctx ends. Keys are digests in hexadecimal, records some
// 150 bytes. A revision names one record of one key and is never 0.
type KeyStore interface {
	// CreateKey stores the first record of a key. Where there is a record
	// already it changes nothing, and created is false.
	CreateKey(ctx context.Context, key string, record []byte) (revision uint64, created bool, err error)
	// ReadKey returns a key's record, and revision 0 where there is none. The
	// record may be one that was replaced a moment ago.
	ReadKey(ctx context.Context, key string) (record []byte, revision uint64, err error)
	// UpdateKey replaces the record of that revision. Where it isn't the key's
	// newest it changes nothing, and updated is false.
	UpdateKey(ctx context.Context, key string, record []byte, revision uint64) (next uint64, updated bool, err error)
	// DeleteKey removes the record of that revision, if it is the key's newest.
	DeleteKey(ctx context.Context, key string, revision uint64) error
}

const (
	// keyStoreTimeout bounds each call of the KeyStore.
	keyStoreTimeout = 2 * time.Second
	// keyStoreRest is how long a KeyStore that failed is left alone, so that
	// not every request waits for it.
	keyStoreRest = 5 * time.Second
	// keyGrace is how long a claim is waited for, before its job is believed to
	// have died at its start. Starting one takes milliseconds; a wrong belief
	// costs the slower one its stream, no more.
	keyGrace = 5 * time.Second
	// The record of a claim is looked at again after these.
	minKeyWait = 10 * time.Millisecond
	maxKeyWait = 250 * time.Millisecond
)

// errKeyTaken says that another request took the key over before this one's
// job was recorded. Its job must not run.
var errKeyTaken = errors.New("another request has taken the Idempotency-Key over")

// keyReused refuses a key that belongs to another request.
func keyReused() error {
	return protocol.Errorf(protocol.CodeInvalidRequest,
		"the Idempotency-Key was used before with another request; a new request needs a new key")
}

// storedKeys are the keys that all nodes share. How one becomes a job's:
//
//  1. The request creates the key's record as a claim, without a stream.
//  2. It makes its stream, or finds the one it joins, and nothing runs yet.
//  3. It confirms: it replaces its claim by a record with the stream's id.
//  4. Only then the job runs, and the client gets the id.
//
// Who finds a claim waits for the confirmation. If none comes within the grace,
// it replaces the claim by its own and goes on at 2. Who finds a confirmation
// returns its stream.
//
// Each of these steps but 2 and 4 changes the record's revision on condition
// that nobody else has. So for each claim either its confirmation or the claim
// that follows it succeeds, never both: no two requests confirm, however slow
// one is, and whatever the clocks say. One job runs, and one id is returned. A
// request whose confirmation fails ends its stream, which nobody has heard of,
// and begins anew as one who finds a record. One that dies before 3 has run
// nothing, so its key may be taken over; one that dies after it has a stream,
// which ends as any stream does whose node died.
//
// The promise holds as long as the store works. A request that the store fails
// goes on with this node's memory alone.
type storedKeys struct {
	store KeyStore
	ttl   time.Duration
	log   zerolog.Logger

	mu   sync.Mutex
	rest time.Time // guarded by mu: the store is left alone until then
	down bool      // guarded by mu: it failed, and hasn't worked since
}

// A keyRecord is what the store has of a key.
type keyRecord struct {
	// Request is the digest of the request.
	Request []byte `json:"request"`
	// Stream is empty in a claim.
	Stream string `json:"stream,omitempty"`
	// At is when the record was written, in Unix milliseconds. Clocks that
	// differ make waits longer or shorter, no more.
	At int64 `json:"at"`
}

// A keyUse is how a request's use of a key ended in the store: with another
// one's stream, or with a claim. Without either the store didn't work.
type keyUse struct {
	stream string
	until  time.Time // when stream is forgotten

	key     string
	request [sha256.Size]byte
	claim   uint64 // the revision; 0: none
}

// storeKey is where the record of a key is kept. Neither who uses the key nor
// the key itself can be read from it.
func (k idempotencyKey) storeKey() string {
	h := sha256.New()
	// The length keeps ("ab", "c") and ("a", "bc") apart. A hash doesn't fail.
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(k.owner))))
	_, _ = h.Write([]byte(k.owner))
	_, _ = h.Write([]byte(k.key))
	return hex.EncodeToString(h.Sum(nil))
}

// use claims the key, or finds the stream that it belongs to. Errors are
// keyReused's and the cause that ended ctx.
func (s *storedKeys) use(ctx context.Context, key idempotencyKey, request [sha256.Size]byte) (keyUse, error) {
	u := keyUse{key: key.storeKey(), request: request}
	var seen uint64 // the claim that is waited for
	var since time.Time
	for wait := minKeyWait; s.works(); wait = min(2*wait, maxKeyWait) {
		var created bool
		worked := s.call(ctx, func(ctx context.Context) (err error) {
			u.claim, created, err = s.store.CreateKey(ctx, u.key, s.record(request, ""))
			return err
		})
		if !worked || created {
			return u, nil
		}
		found, revision, worked := s.read(ctx, u.key)
		if !worked {
			return u, nil
		}
		at := time.UnixMilli(found.At)
		if revision != 0 && revision != seen {
			seen, since, wait = revision, time.Now(), minKeyWait
		}
		free := false
		switch {
		case revision == 0: // removed in between
		case found.Stream != "":
			u.until = at.Add(s.ttl)
			if free = !time.Now().Before(u.until); !free {
				u.stream = found.Stream
			}
		default:
			free = time.Since(since) >= keyGrace || time.Since(at) >= keyGrace
		}
		switch {
		case free:
			var updated bool
			worked := s.call(ctx, func(ctx context.Context) (err error) {
				u.claim, updated, err = s.store.UpdateKey(ctx, u.key, s.record(request, ""), revision)
				return err
			})
			if !worked || updated {
				return u, nil
			}
		case revision != 0 && string(found.Request) != string(request[:]):
			return u, keyReused()
		case u.stream != "":
			return u, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return u, context.Cause(ctx)
		}
	}
	return u, nil
}

// read returns the record of a key. One that can't be read is a claim that
// nobody will confirm.
func (s *storedKeys) read(ctx context.Context, key string) (r keyRecord, revision uint64, worked bool) {
	var value []byte
	worked = s.call(ctx, func(ctx context.Context) (err error) {
		value, revision, err = s.store.ReadKey(ctx, key)
		return err
	})
	if !worked || revision == 0 {
		return keyRecord{}, 0, worked
	}
	if json.Unmarshal(value, &r) != nil || (r.Stream != "" && !protocol.ValidStreamID(r.Stream)) {
		return keyRecord{}, revision, true
	}
	return r, revision, true
}

// confirm records the stream of u's claim. Its error is errKeyTaken; a store
// that doesn't work is none.
func (s *storedKeys) confirm(ctx context.Context, u keyUse, stream string) error {
	if u.claim == 0 {
		return nil
	}
	updated := true
	worked := s.call(ctx, func(ctx context.Context) (err error) {
		_, updated, err = s.store.UpdateKey(ctx, u.key, s.record(u.request, stream), u.claim)
		return err
	})
	if worked && !updated {
		return errKeyTaken
	}
	return nil
}

// forgo gives a claim up whose job didn't start. Where that fails, the next
// request waits out the grace.
func (s *storedKeys) forgo(ctx context.Context, u keyUse) {
	if u.claim != 0 {
		s.call(ctx, func(ctx context.Context) error { return s.store.DeleteKey(ctx, u.key, u.claim) })
	}
}

func (s *storedKeys) record(request [sha256.Size]byte, stream string) []byte {
	b, err := json.Marshal(keyRecord{Request: request[:], Stream: stream, At: time.Now().UnixMilli()})
	if err != nil {
		panic(fmt.Sprintf("encode the record of a key: %v", err)) // it has nothing that can't be
	}
	return b
}

// works reports whether the store may be asked.
func (s *storedKeys) works() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !time.Now().Before(s.rest)
}

// call calls the store, and reports whether that worked. A client that goes away doesn't end it, since half a
// change would make the next one wait. The log hears of the first failure, and
// of the end of it.
func (s *storedKeys) call(ctx context.Context, f func(context.Context) error) (worked bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyStoreTimeout)
	defer cancel()
	err := f(ctx)
	s.mu.Lock()
	was := s.down
	if s.down = err != nil; s.down {
		s.rest = time.Now().Add(keyStoreRest)
	}
	s.mu.Unlock()
	switch {
	case err != nil && !was:
		s.log.Warn().Err(err).Msg("Idempotency-Keys can't be stored; other nodes, and this one after a restart, won't know them")
	case err == nil && was:
		s.log.Info().Msg("Idempotency-Keys are stored again")
	}
	return err == nil
}
