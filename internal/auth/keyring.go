package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"
)

// A KeyStore keeps the records of keys where all nodes find them. Its methods
// may be called concurrently and return soon after ctx ends. A revision names
// one record of one key, is never 0, and is greater than those of all records
// that were written before, of whichever key.
type KeyStore interface {
	// Create stores the first record of a key. Where there is one already it
	// changes nothing, and created is false. With a ttl other than 0 the record
	// goes by itself after that time.
	Create(ctx context.Context, id string, record []byte, ttl time.Duration) (revision uint64, created bool, err error)
	// Read returns the newest record of a key, and revision 0 where there is none.
	Read(ctx context.Context, id string) (record []byte, revision uint64, err error)
	// Replace replaces the record of that revision. Where it isn't the key's
	// newest it changes nothing, and replaced is false.
	Replace(ctx context.Context, id string, record []byte, revision uint64) (next uint64, replaced bool, err error)
	// Remove removes the record of that revision, if it is the key's newest.
	Remove(ctx context.Context, id string, revision uint64) error
	// Changes calls f with the record of each key that was written after a
	// revision, in the order of their writing; of one that was written several
	// times with the newest. It may end early, in which case the next call goes
	// on behind what f was called with.
	Changes(ctx context.Context, after uint64, f func(id string, record []byte, revision uint64)) error
	// Announce tells all nodes something, and returns when those that are there
	// have heard it, or soon; Follow calls f with what was told, this node's own
	// included. What is announced may be lost.
	Announce(data []byte) error
	Follow(f func(data []byte)) (stop func(), err error)
}

// KeyringOptions tune a Keyring. Zero values mean the defaults, but for Store.
type KeyringOptions struct {
	Store KeyStore
	// MaxKeys bounds the keys, share tokens among them. Default 100,000, some
	// 40 MB.
	MaxKeys int
	// MaxShares bounds the share tokens of one tenant that are good. Default
	// 1,000.
	MaxShares int
	// Refresh is how often the store is asked for changes that nobody has
	// announced. Default 5 s.
	Refresh time.Duration
	// Keep is how long keys that have ended are listed. Default 30 days.
	Keep   time.Duration
	Logger zerolog.Logger
}

// A Keyring knows the stored keys: all of them, in memory, so that a request
// costs no look-up, and known keys go on working while the store is away. What
// one node changes it announces to the others, which take it over at once; what
// gets lost on that way each finds when it asks the store for changes.
//
// While the store has no majority no key can be made, rotated or revoked, and
// that is an error. A node that is cut off from it goes on with what it knows.
type Keyring struct {
	// Set by OpenKeyring, then read-only.
	opts KeyringOptions
	stop func() // ends the subscription to announcements
	end  context.CancelFunc
	done sync.WaitGroup
	// asking says how often the store may be asked for keys that aren't known.
	asking *rate.Limiter

	mu      sync.RWMutex
	keys    map[string]*keyRecord // guarded by mu, by id; records are replaced, not changed
	shares  map[string]int        // guarded by mu: share tokens by tenant
	last    uint64                // guarded by mu: the newest revision that the store has told
	loaded  bool                  // guarded by mu: the store has been read to its end once
	full    bool                  // guarded by mu: that there are too many was logged
	changed func(id string)       // guarded by mu: told of each change
}

// OpenKeyring returns a Keyring that reads the store in the background. It
// waits a moment for the first time that this works. Close ends it.
func OpenKeyring(ctx context.Context, o KeyringOptions) (*Keyring, error) {
	o.MaxKeys = cmp.Or(o.MaxKeys, 100_000)
	o.MaxShares = cmp.Or(o.MaxShares, 1_000)
	o.Refresh = cmp.Or(o.Refresh, 5*time.Second)
	o.Keep = cmp.Or(o.Keep, 30*24*time.Hour)
	k := &Keyring{opts: o, keys: make(map[string]*keyRecord), shares: make(map[string]int), changed: func(string) {},
		asking: rate.NewLimiter(rate.Every(askInterval), askBurst)}
	var err error
	if k.stop, err = o.Store.Follow(k.announced); err != nil {
		return nil, fmt.Errorf("follow changes of keys: %w", err)
	}
	first, cancel := context.WithTimeout(ctx, firstRead)
	defer cancel()
	err = k.refresh(first)
	if err != nil {
		o.Logger.Warn().Err(err).Msg("the stored keys can't be read yet; until then nobody gets in by one")
	}
	run, end := context.WithCancel(context.Background())
	k.end = end
	k.done.Go(func() { k.run(run, err != nil) })
	return k, nil
}

const (
	// firstRead bounds how long a start waits for the store.
	firstRead = 5 * time.Second
	// firstRetry is how soon it is asked again until it was read once.
	firstRetry = time.Second
	// rereads is after how many refreshes the store is read from its beginning,
	// should it have been made anew.
	rereads = 60
)

// Close ends the Keyring's goroutine. Look-ups go on.
func (k *Keyring) Close() {
	k.stop()
	k.end()
	k.done.Wait()
}

func (k *Keyring) run(ctx context.Context, failed bool) {
	timer := time.NewTimer(k.opts.Refresh)
	defer timer.Stop()
	for n := 1; ; n++ {
		wait := k.opts.Refresh
		if !k.isLoaded() {
			wait = min(wait, firstRetry)
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if n%rereads == 0 {
			k.mu.Lock()
			k.last = 0
			k.mu.Unlock()
		}
		err := k.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !failed:
			k.opts.Logger.Warn().Err(err).Msg("the store can't be asked for changes of keys; known ones go on working")
		case err == nil && failed:
			k.opts.Logger.Info().Msg("the stored keys are read again")
		}
		failed = err != nil
		k.sweep(ctx)
	}
}

// refresh reads what was written since it did so last.
func (k *Keyring) refresh(ctx context.Context) error {
	k.mu.RLock()
	last := k.last
	k.mu.RUnlock()
	err := k.opts.Store.Changes(ctx, last, func(id string, record []byte, revision uint64) {
		k.take(id, record, revision)
		k.mu.Lock()
		k.last = max(k.last, revision)
		k.mu.Unlock()
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	first := !k.loaded
	k.loaded = true
	changed := k.changed
	k.mu.Unlock()
	if first {
		changed(everyKey)
	}
	return nil
}

// everyKey stands for all of them, where somebody is told of a change.
const everyKey = ""

func (k *Keyring) isLoaded() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.loaded
}

// An announcement tells other nodes of a record. It holds all of it, so that
// they needn't read it from a replica that may lag behind.
type announcement struct {
	ID       string          `json:"id"`
	Revision uint64          `json:"revision"`
	Record   json.RawMessage `json:"record"`
}

func (k *Keyring) announced(data []byte) {
	var a announcement
	if len(data) > 2*maxKeyRecord || json.Unmarshal(data, &a) != nil || a.Revision == 0 {
		k.opts.Logger.Warn().Msg("another node announced a key in a form that this one doesn't read")
		return
	}
	k.take(a.ID, a.Record, a.Revision)
}

// take takes in a record, unless a newer one is known.
func (k *Keyring) take(id string, record []byte, revision uint64) {
	r, err := decodeKeyRecord(id, record, revision)
	if err != nil {
		k.opts.Logger.Error().Err(err).Str("key", cutName(id)).Msg("a stored key can't be read, and lets nobody in")
		return
	}
	k.put(r)
}

func cutName(s string) string { return s[:min(len(s), 2*keyIDLen)] }

func (k *Keyring) put(r *keyRecord) {
	k.mu.Lock()
	before := k.keys[r.id]
	if before != nil && before.revision >= r.revision {
		k.mu.Unlock()
		return
	}
	if before == nil && len(k.keys) >= k.opts.MaxKeys {
		told := k.full
		k.full = true
		k.mu.Unlock()
		if !told {
			k.opts.Logger.Error().Int("limit", k.opts.MaxKeys).Msg("there are more stored keys than a node holds; the further ones let nobody in")
		}
		return
	}
	if before == nil && r.Stream != "" {
		k.shares[r.Tenant]++
	}
	k.keys[r.id] = r
	changed := k.changed
	k.mu.Unlock()
	if before != nil {
		changed(r.id)
	}
}

// onChange has f told of each key that changes from now on, and of everyKey once
// they have been read.
func (k *Keyring) onChange(f func(id string)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = f
}

// lookup returns the identity of a stored key.
func (k *Keyring) lookup(text string) (Identity, error) {
	id, whole := parseKeyText(text)
	if !whole {
		return Identity{}, errKey
	}
	sum := hashKey(text)
	r, parent, loaded := k.seek(id)
	switch {
	case r == nil && loaded:
		return Identity{}, errKey
	case r == nil || r.Parent != "" && parent == nil && !loaded:
		return Identity{}, errNotLoaded
	}
	generation := r.match(sum[:])
	if generation == 0 {
		return Identity{}, errKey
	}
	now := time.Now()
	if s := r.standing(generation, parent, now); over(s.until, now) {
		return Identity{}, s.why
	}
	return r.identity(generation), nil
}

const (
	// askTimeout bounds the question for a key that isn't known.
	askTimeout = 500 * time.Millisecond
	// askInterval is how often such a question may be asked, askBurst how many at
	// once: keys can be made up, and must not keep the store busy.
	askInterval = 50 * time.Millisecond
	askBurst    = 20
)

// ask asks the store for a key that this node doesn't know, and reports whether
// it was there: somebody may come with a key that another node has just made,
// before the news of that has come.
func (k *Keyring) ask(id string) bool {
	if !k.asking.Allow() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	record, revision, err := k.opts.Store.Read(ctx, id)
	if err != nil || revision == 0 {
		return false
	}
	k.take(id, record, revision)
	return true
}

// seek is find, but asks the store for what isn't known here.
func (k *Keyring) seek(id string) (r, parent *keyRecord, loaded bool) {
	r, parent, loaded = k.find(id)
	if loaded && r == nil && k.ask(id) {
		r, parent, loaded = k.find(id)
	}
	if loaded && r != nil && r.Parent != "" && parent == nil && k.ask(r.Parent) {
		r, parent, loaded = k.find(id)
	}
	return r, parent, loaded
}

// find returns the record of a key and, of a share token, that of the key that
// made it.
func (k *Keyring) find(id string) (r, parent *keyRecord, loaded bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if r = k.keys[id]; r != nil && r.Parent != "" {
		parent = k.keys[r.Parent]
	}
	return r, parent, k.loaded
}

// standing is how the key stands that an identity came with. known is false while
// this node has not read the keys, and another has said that it is good.
func (k *Keyring) standing(id string, generation uint32, now time.Time) (s standing, known bool) {
	r, parent, loaded := k.find(id)
	switch {
	case !loaded && (r == nil || r.Parent != "" && parent == nil):
		return standing{}, false
	case r == nil:
		return standing{now, errRevoked}, true
	}
	return r.standing(generation, parent, now), true
}

// List returns all keys but share tokens, in no order.
func (k *Keyring) List() []KeyInfo {
	k.mu.RLock()
	defer k.mu.RUnlock()
	list := make([]KeyInfo, 0, len(k.keys))
	for _, r := range k.keys {
		if r.Stream == "" {
			list = append(list, r.info())
		}
	}
	return list
}

// HasAdmin reports whether a key is good that may make others.
func (k *Keyring) HasAdmin() bool {
	now := time.Now()
	return slices.ContainsFunc(k.List(), func(i KeyInfo) bool {
		s := i.State(now)
		return i.Scopes&ScopeAdmin != 0 && (s == KeyActive || s == KeyRotating)
	})
}

// maxSweep bounds the records that one sweep removes from the store.
const maxSweep = 50

// sweep forgets share tokens that have expired, whose records go by themselves
// unless they were revoked, and keys that ended long ago.
func (k *Keyring) sweep(ctx context.Context) {
	now := time.Now()
	var old []*keyRecord
	k.mu.Lock()
	for id, r := range k.keys {
		switch {
		case r.Stream != "":
			if over(r.Expires.Add(shareStays), now) && (r.Revoked.IsZero() || len(old) < maxSweep) {
				delete(k.keys, id)
				if !r.Revoked.IsZero() {
					old = append(old, r) // what was replaced doesn't go by itself any more
				}
				if k.shares[r.Tenant]--; k.shares[r.Tenant] <= 0 {
					delete(k.shares, r.Tenant)
				}
			}
		case len(old) < maxSweep && (!r.Revoked.IsZero() && over(r.Revoked.Add(k.opts.Keep), now) || !r.Expires.IsZero() && over(r.Expires.Add(k.opts.Keep), now)):
			delete(k.keys, id)
			old = append(old, r)
		}
	}
	k.mu.Unlock()
	for _, r := range old {
		if err := k.opts.Store.Remove(ctx, r.id, r.revision); err != nil {
			k.opts.Logger.Debug().Err(err).Str("key", r.id).Msg("a key that ended long ago could not be removed")
		}
	}
}
