package secrets

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/protocol"
)

// SourceStored is the source of the keys that were set through the API.
const SourceStored = "stored"

// StateSealed is the state of a stored key that can't be opened.
const StateSealed State = "sealed"

// A Record is a value of a Bucket, and the revision that replacing it needs; 0
// where there is none.
type Record struct {
	Value    []byte
	Revision uint64
}

// A Bucket keeps the sealed records for all nodes. Its methods may be called
// concurrently, and return when the records are stored.
type Bucket interface {
	// Records returns all records by name, each as it was a moment ago.
	Records(ctx context.Context) (map[string]Record, error)
	// Record returns the newest record of a name, with revision 0 for none.
	Record(ctx context.Context, name string) (Record, error)
	// Swap replaces the record of a revision, or creates it where that is 0.
	// swapped is false if it is no longer that one.
	Swap(ctx context.Context, name string, value []byte, revision uint64) (swapped bool, err error)
	// Remove removes the record of a revision. It is no error if it is gone.
	Remove(ctx context.Context, name string, revision uint64) error
	// Announce tells all nodes, this one included, that a name's record has
	// changed. It may be lost.
	Announce(name string)
}

const (
	// DefaultReload is how often the records are read again, for the case that
	// an announcement was lost.
	DefaultReload = 15 * time.Second
	// retryAfter is how soon they are where something could not be done.
	retryAfter = 2 * time.Second
	// loadTimeout bounds one reading.
	loadTimeout = 10 * time.Second
	// maxRemoved bounds the names of removed records that are remembered.
	maxRemoved = 10_000
	// swapTries bounds how often a key is set again that others set meanwhile.
	swapTries = 5
)

// A Store keeps keys that are set while the server runs, sealed, in a Bucket,
// and gives them to the rings. Its methods may be called concurrently.
type Store struct {
	// Set by NewStore, then read-only.
	bucket  Bucket
	masters []Master // the first seals
	rings   map[string]*Ring
	reload  time.Duration
	log     zerolog.Logger
	changed chan string

	mu     sync.Mutex
	stored map[string]*stored // guarded by mu: by the record's name
	// removed are names whose records were removed: a replica that lags behind may
	// show them still, so that the leader is asked.
	removed map[string]bool // guarded by mu
	// behind says that something is to be done again soon.
	behind bool // guarded by mu
}

// stored is a record as this node has read it. It isn't changed after.
type stored struct {
	sum    [sha256.Size]byte // of the record
	sealed *Sealed
	// key is nil while it can't be opened. The ring wipes it, also where it has no
	// place for it; then it is opened again with the next reading.
	key *Key
	err error
}

// StoreOptions configure a Store. Those without a default are required.
type StoreOptions struct {
	Bucket Bucket
	// Masters are the master keys: the first seals, all open.
	Masters []Master
	// Rings are those of the providers, by name.
	Rings map[string]*Ring
	// Reload is how often everything is read again. Default DefaultReload.
	Reload time.Duration
	Logger zerolog.Logger
}

// NewStore returns a Store that has read nothing yet.
func NewStore(o StoreOptions) *Store {
	if o.Reload == 0 {
		o.Reload = DefaultReload
	}
	return &Store{bucket: o.Bucket, masters: o.Masters, rings: o.Rings, reload: o.Reload, log: o.Logger,
		changed: make(chan string, 64), stored: make(map[string]*stored), removed: make(map[string]bool)}
}

// recordName is the name of a key's record. It tells neither provider nor id,
// which may have characters that a bucket's names can't.
func recordName(provider, id string) string {
	sum := sha256.Sum256([]byte("athena provider key\x00" + provider + "\x00" + id))
	return hex.EncodeToString(sum[:16])
}

// Load reads all records and gives their keys to the rings. The error is about
// the bucket; records that can't be opened are logged, and listed by Sealed.
func (s *Store) Load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	all, err := s.bucket.Records(ctx)
	if err != nil {
		s.mu.Lock()
		s.behind = true
		s.mu.Unlock()
		return fmt.Errorf("read the stored keys of providers: %w", err)
	}
	s.mu.Lock()
	s.behind = false
	var touched []string
	var asked []string // of the leader
	for name := range s.stored {
		if _, ok := all[name]; !ok {
			asked = append(asked, name) // which a replica that lags behind may just not have yet
		}
	}
	for name := range s.removed {
		if _, ok := all[name]; ok {
			asked = append(asked, name) // which it may just still have
			delete(all, name)
		}
	}
	s.mu.Unlock()
	for name, r := range all {
		touched = append(touched, s.take(ctx, name, r))
	}
	s.give(touched)
	for _, name := range asked {
		if err := s.refresh(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// take opens a record, if it is another one than before, and returns the
// provider whose keys that changes; "" for none.
func (s *Store) take(ctx context.Context, name string, r Record) (provider string) {
	n := &stored{sum: sha256.Sum256(r.Value)}
	s.mu.Lock()
	was := s.stored[name]
	s.mu.Unlock()
	if was != nil && was.sum == n.sum && was.err == nil && !was.key.wiped() {
		return ""
	}
	n.sealed, n.err = ParseSealed(r.Value)
	if n.err == nil && recordName(n.sealed.Provider, n.sealed.ID) != name {
		n.err = fmt.Errorf("%w: it stands in the place of another", ErrSealed)
	}
	if n.err == nil {
		n.key, n.err = n.sealed.Open(ctx, s.masters)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was = s.stored[name] // it may have been replaced meanwhile
	event := func() *zerolog.Event {
		e := s.log.Error().Err(n.err).Str("record", name)
		if n.sealed != nil {
			e = e.Str("provider", n.sealed.Provider).Str("key", n.sealed.ID)
		}
		return e
	}
	switch {
	case n.err != nil && !errors.Is(n.err, ErrSealed): // the master could not be asked
		s.behind = true
		if was == nil || was.err == nil || was.err.Error() != n.err.Error() {
			event().Msg("a stored key of a provider could not be opened now; this is tried again")
		}
		if was != nil && was.key != nil {
			return "" // the key that is known goes on
		}
	case n.err != nil:
		if was == nil || was.sum != n.sum {
			event().Msg("a stored key of a provider can't be opened")
		}
		if was != nil && was.key != nil {
			return "" // whoever broke the record takes no working key away
		}
	case was != nil && was.sealed != nil && was.sealed.Version > n.sealed.Version:
		n.key.Wipe() // an older copy, from a replica that lags behind or from a thief
		return ""
	case was != nil && was.key != nil && was.key.Equal(n.key):
		n.key.Wipe()
		n.key = was.key
	}
	s.stored[name] = n
	delete(s.removed, name)
	if n.sealed == nil {
		return ""
	}
	return n.sealed.Provider
}

// forget drops what is known of a name, and returns the provider. The caller
// holds mu.
func (s *Store) forget(name string) (provider string) {
	was := s.stored[name]
	delete(s.stored, name)
	if len(s.removed) >= maxRemoved {
		clear(s.removed)
	}
	s.removed[name] = true
	if was == nil || was.sealed == nil {
		return ""
	}
	return was.sealed.Provider
}

// give gives the rings of providers their stored keys.
func (s *Store) give(providers []string) {
	slices.Sort(providers)
	for _, provider := range slices.Compact(providers) {
		ring := s.rings[provider]
		if ring == nil {
			continue // of a provider that this node's configuration doesn't have
		}
		s.mu.Lock()
		var entries []Entry
		for _, name := range slices.Sorted(maps.Keys(s.stored)) {
			if n := s.stored[name]; n.key != nil && !n.key.wiped() && n.sealed.Provider == provider {
				entries = append(entries, Entry{ID: n.sealed.ID, Weight: n.sealed.Weight, Key: n.key})
			}
		}
		err := ring.Set(SourceStored, entries) // under mu, so that an older list never comes after a newer one
		s.mu.Unlock()
		if err != nil {
			s.log.Error().Err(err).Msg("a stored key of a provider is not used")
		}
	}
}

// Changed is to be called when a name was announced. It doesn't block; where
// too many come, the next reading of all has them.
func (s *Store) Changed(name string) {
	select {
	case s.changed <- name:
	default:
	}
}

// Run keeps the rings as the records are until ctx ends, and seals those anew
// that are not under the first master key.
func (s *Store) Run(ctx context.Context) {
	said := ""               // by the last reading, so that a store that is away for long is told of once
	wait := time.NewTimer(0) // what is under an old master key shouldn't be for long
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case name := <-s.changed:
			if err := s.refresh(ctx, name); err != nil && ctx.Err() == nil {
				s.log.Warn().Err(err).Msg("a key of a provider has changed, and could not be read; this is tried again")
				wait.Reset(retryAfter)
			}
		case <-wait.C:
			err := s.Load(ctx)
			if err == nil {
				err = s.reseal(ctx)
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil && err.Error() != said:
				said = err.Error()
				s.log.Warn().Err(err).Msg("the stored keys of providers can't be read or sealed anew; this is tried again, and those that are known are used on")
			case err == nil && said != "":
				said = ""
				s.log.Info().Msg("the stored keys of providers can be read again")
			}
			next := s.reload
			s.mu.Lock()
			if err != nil || s.behind {
				next = min(retryAfter, next)
			}
			s.mu.Unlock()
			wait.Reset(next)
		}
	}
}

// refresh reads one record.
func (s *Store) refresh(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	r, err := s.bucket.Record(ctx, name)
	if err != nil {
		return err
	}
	var provider string
	if r.Revision == 0 {
		s.mu.Lock()
		provider = s.forget(name)
		s.mu.Unlock()
	} else {
		provider = s.take(ctx, name, r)
	}
	if provider != "" {
		s.give([]string{provider})
	}
	return nil
}

// reseal seals the records anew that another master than the first has wrapped.
// Several nodes may do so at once: one of them wins.
func (s *Store) reseal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	first := s.masters[0].ID()
	done := 0
	var old []string
	s.mu.Lock()
	for name, n := range s.stored {
		if n.key != nil && n.sealed.Master != first {
			old = append(old, name)
		}
	}
	s.mu.Unlock()
	for _, name := range old {
		r, err := s.bucket.Record(ctx, name)
		if err != nil {
			return err
		}
		sealed, err := ParseSealed(r.Value)
		if r.Revision == 0 || err != nil || sealed.Master == first {
			continue // meanwhile it was removed, or sealed by another node
		}
		k, err := sealed.Open(ctx, s.masters)
		if err != nil {
			return err
		}
		sealed.Version++
		value, err := sealed.Seal(ctx, k, s.masters[0])
		k.Wipe()
		if err != nil {
			return err
		}
		swapped, err := s.bucket.Swap(ctx, name, value, r.Revision)
		if err != nil {
			return err
		}
		if swapped {
			done++
			s.bucket.Announce(name)
		}
	}
	if done > 0 {
		s.log.Info().Int("keys", done).Str("master", first).
			Msg("stored keys of providers were sealed anew under the first master key; once every node has it first, the old one is not needed any more")
	}
	return nil
}

// Set seals and stores a key of a provider, and gives it to this node's ring at
// once. It is the store's from then on. What is wrong with the arguments is an
// invalid_request.
func (s *Store) Set(ctx context.Context, provider, id string, weight int, k *Key, by string) error {
	defer k.Wipe()
	ring := s.rings[provider]
	switch {
	case ring == nil:
		return protocol.Errorf(protocol.CodeInvalidRequest, "there is no provider %.70q that takes keys", provider)
	case !KeyID.MatchString(id):
		return protocol.Errorf(protocol.CodeInvalidRequest, `a key's id is up to 63 lower-case letters, digits, ".", "_" and "-"`)
	case weight < 1 || weight > MaxWeight:
		return protocol.Errorf(protocol.CodeInvalidRequest, `field "weight" is %d; it must be from 1 to %d`, weight, MaxWeight)
	}
	if _, known := ring.Find(id); !known && ring.Len() >= MaxKeys {
		return protocol.Errorf(protocol.CodeInvalidRequest, "the provider has %d keys already, the most that it may have", MaxKeys)
	}
	name := recordName(provider, id)
	for range swapTries {
		r, err := s.bucket.Record(ctx, name)
		if err != nil {
			return fmt.Errorf("set a key of %s: %w", provider, err)
		}
		n := &Sealed{Provider: provider, ID: id, Weight: weight, Set: time.Now(), SetBy: by[:min(len(by), 256)], Version: 1}
		// Later than any that was there before, a removed one included.
		n.Version = max(n.Version, uint64(max(time.Now().UnixMilli(), 1)))
		if was, err := ParseSealed(r.Value); err == nil {
			n.Version = max(n.Version, was.Version+1)
		}
		value, err := n.Seal(ctx, k, s.masters[0])
		if err != nil {
			return err
		}
		swapped, err := s.bucket.Swap(ctx, name, value, r.Revision)
		if err != nil {
			return fmt.Errorf("set a key of %s: %w", provider, err)
		}
		if swapped {
			s.bucket.Announce(name)
			if p := s.take(ctx, name, Record{Value: value, Revision: 1}); p != "" {
				s.give([]string{p})
			}
			return nil
		}
	}
	return protocol.Errorf(protocol.CodeServiceUnavailable, "others set this key at the same time; look at it and set it again")
}

// ErrNoKey is in the tree of the error for a key that isn't stored.
var ErrNoKey = errors.New("no such key is stored")

// Delete removes a stored key, and takes it out of this node's ring at once.
func (s *Store) Delete(ctx context.Context, provider, id string) error {
	name := recordName(provider, id)
	r, err := s.bucket.Record(ctx, name)
	if err == nil && r.Revision == 0 {
		err = ErrNoKey
	}
	if err == nil {
		err = s.bucket.Remove(ctx, name, r.Revision)
	}
	if err != nil {
		return fmt.Errorf("delete a key of %s: %w", provider, err)
	}
	s.bucket.Announce(name)
	return s.refresh(ctx, name)
}

// Info is what is known of a stored key beside its Status.
type Info struct {
	ID     string
	Weight int
	Set    time.Time
	SetBy  string
	// Err is why it can't be opened; nil where it can.
	Err error
}

// Stored returns what is known of a provider's stored keys, by id.
func (s *Store) Stored(provider string) map[string]Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Info)
	for _, n := range s.stored {
		if n.sealed != nil && n.sealed.Provider == provider {
			all[n.sealed.ID] = Info{ID: n.sealed.ID, Weight: n.sealed.Weight, Set: n.sealed.Set, SetBy: n.sealed.SetBy, Err: n.err}
		}
	}
	return all
}
