// Package authtest is what tests of callers need: a store of keys in memory.
package authtest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// ErrDown is what a store returns that is away.
var ErrDown = errors.New("the store is away")

// A Store is a store of keys that several key rings, as if on several nodes, have
// in common. Its announcements arrive before Announce returns.
type Store struct {
	mu        sync.Mutex
	last      uint64
	reads     int
	records   map[string]record
	followers map[int]func([]byte)
	down      bool // every method fails
	deaf      bool // announcements are lost
}

type record struct {
	value    []byte
	revision uint64
}

// NewStore returns an empty one.
func NewStore() *Store {
	return &Store{records: make(map[string]record), followers: make(map[int]func([]byte))}
}

// SetDown has the store go away, and SetDeaf its announcements get lost.
func (s *Store) SetDown(down bool) { s.set(func() { s.down = down }) }

// SetDeaf has announcements get lost.
func (s *Store) SetDeaf(deaf bool) { s.set(func() { s.deaf = deaf }) }

func (s *Store) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Create is auth.KeyStore's. It forgets nothing.
func (s *Store) Create(_ context.Context, id string, value []byte, _ time.Duration) (revision uint64, created bool, err error) {
	return s.put(id, value, 0)
}

// Replace is auth.KeyStore's.
func (s *Store) Replace(_ context.Context, id string, value []byte, revision uint64) (next uint64, replaced bool, err error) {
	return s.put(id, value, revision)
}

func (s *Store) put(id string, value []byte, revision uint64) (next uint64, done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return 0, false, ErrDown
	}
	if s.records[id].revision != revision {
		return 0, false, nil
	}
	s.last++
	s.records[id] = record{slices.Clone(value), s.last}
	return s.last, true, nil
}

// Read is auth.KeyStore's.
func (s *Store) Read(_ context.Context, id string) (value []byte, revision uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, 0, ErrDown
	}
	s.reads++
	r := s.records[id]
	return r.value, r.revision, nil
}

// Reads is how often a record was read.
func (s *Store) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// Remove is auth.KeyStore's.
func (s *Store) Remove(_ context.Context, id string, revision uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return ErrDown
	}
	if s.records[id].revision == revision {
		delete(s.records, id)
	}
	return nil
}

// Changes is auth.KeyStore's.
func (s *Store) Changes(_ context.Context, after uint64, f func(id string, value []byte, revision uint64)) error {
	type change struct {
		id string
		record
	}
	var changes []change
	s.mu.Lock()
	down := s.down
	for id, r := range s.records {
		if r.revision > after {
			changes = append(changes, change{id, r})
		}
	}
	s.mu.Unlock()
	if down {
		return ErrDown
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(a.revision, b.revision) })
	for _, c := range changes {
		f(c.id, c.value, c.revision)
	}
	return nil
}

// Announce is auth.KeyStore's.
func (s *Store) Announce(data []byte) error {
	s.mu.Lock()
	if s.down || s.deaf {
		s.mu.Unlock()
		return nil // nobody can tell
	}
	var all []func([]byte)
	for _, f := range s.followers {
		all = append(all, f)
	}
	s.mu.Unlock()
	for _, f := range all {
		f(slices.Clone(data))
	}
	return nil
}

// Follow is auth.KeyStore's.
func (s *Store) Follow(f func(data []byte)) (stop func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++         // any number that is not in use
	n := int(s.last) //nolint:gosec // a small number
	s.followers[n] = f
	return func() { s.set(func() { delete(s.followers, n) }) }, nil
}

// Records returns what is stored, as text, for tests that look for secrets.
func (s *Store) Records() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []byte
	for id, r := range s.records {
		all = append(append(append(all, id...), r.value...), '\n')
	}
	return string(all)
}
