// Package cache keeps whole answers in memory, so that one can be given again
// when no provider can be reached. It keeps nothing that broke off: whoever puts
// an answer in knows that it was whole.
//
// A key is a digest of everything that makes requests equal, their owner
// included, so that no answer crosses from one tenant to another.
package cache

import (
	"cmp"
	"container/list"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A Key names equal requests.
type Key [sha256.Size]byte

// An Answer is a whole answer. It must not be changed once it is in a cache.
type Answer struct {
	// Parts are the answer in the order in which it was said.
	Parts []Part
	// FinishReason, Provider, Model and Usage are as in its completed event.
	FinishReason, Provider, Model string
	Usage                         *protocol.Usage
	// Began is when it was asked for, and At when it was whole.
	Began, At time.Time
}

// A Part is text of one kind, or, where Finding is set, a finding.
type Part struct {
	Kind    protocol.ChunkKind
	Text    string
	Finding *protocol.Finding
}

// overhead is about what an entry takes beside its texts, and a part of one.
const overhead, partOverhead = 512, 64

// size is about how much memory a takes, in bytes.
func (a *Answer) size() int64 {
	n := int64(overhead)
	for _, p := range a.Parts {
		n += partOverhead + int64(len(p.Text))
		if f := p.Finding; f != nil {
			n += partOverhead + int64(f.Bytes())
		}
	}
	return n
}

// The defaults of Options.
const (
	DefaultMaxBytes = 64 << 20
	DefaultMaxAge   = 24 * time.Hour
)

// Options configure a Memory.
type Options struct {
	// MaxBytes bounds the answers together; beyond it the least recently used
	// go first, and an answer that is larger than a quarter of it isn't kept.
	// DefaultMaxBytes by default; nothing is kept where it is negative.
	MaxBytes int64
	// MaxAge is how long an answer is good; DefaultMaxAge by default.
	MaxAge time.Duration
}

// A Memory is a cache in this process's memory. Its methods may be called
// concurrently.
type Memory struct {
	opts Options

	mu      sync.Mutex
	entries map[Key]*list.Element // guarded by mu
	used    list.List             // guarded by mu: of *entry, the newest use first
	bytes   int64                 // guarded by mu
	cleared time.Time             // guarded by mu: what was asked for before isn't kept
}

type entry struct {
	key    Key
	answer *Answer
	size   int64
}

// NewMemory returns an empty cache.
func NewMemory(o Options) *Memory {
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxBytes)
	o.MaxAge = cmp.Or(o.MaxAge, DefaultMaxAge)
	return &Memory{opts: o, entries: make(map[Key]*list.Element)}
}

// Get returns the answer to the requests of key, if there is one that is not
// too old.
func (m *Memory) Get(key Key) (*Answer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	if !ok {
		return nil, false
	}
	a := e.Value.(*entry).answer
	if time.Since(a.At) > m.opts.MaxAge {
		m.remove(e)
		return nil, false
	}
	m.used.MoveToFront(e)
	return a, true
}

// Put keeps an answer in the place of an earlier one.
func (m *Memory) Put(key Key, a *Answer) {
	size := a.size()
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[key]; ok {
		m.remove(e)
	}
	if size > m.opts.MaxBytes/4 || a.Began.Before(m.cleared) {
		return
	}
	m.entries[key] = m.used.PushFront(&entry{key, a, size})
	m.bytes += size
	for m.bytes > m.opts.MaxBytes {
		m.remove(m.used.Back())
	}
}

// Clear forgets all answers, also those that are being given now.
func (m *Memory) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cleared = time.Now()
	clear(m.entries)
	m.used.Init()
	m.bytes = 0
}

// remove is called with mu held.
func (m *Memory) remove(e *list.Element) {
	old := m.used.Remove(e).(*entry)
	delete(m.entries, old.key)
	m.bytes -= old.size
}

// Bytes returns about how much memory the answers take.
func (m *Memory) Bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}
