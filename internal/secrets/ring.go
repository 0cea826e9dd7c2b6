package secrets

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const (
	// MaxKeys bounds the keys of one provider.
	MaxKeys = 64
	// MaxWeight bounds a key's weight.
	MaxWeight = 1000
	// maxTries bounds the keys that one call is tried with: a provider that
	// refuses so many is not asked for the sake of the others.
	maxTries = 8
)

// How long a key rests where the provider doesn't say. Each time doubles with
// every failure that follows without a success between, up to the second.
const (
	// A refused key rarely mends by itself, and a check that it passes ends its
	// rest before.
	refusedRest, maxRefusedRest = 15 * time.Minute, 6 * time.Hour
	// Somebody may have paid.
	exhaustedRest, maxExhaustedRest = time.Minute, 15 * time.Minute
	limitedRest, maxLimitedRest     = time.Second, time.Minute
)

// A State is how a key does.
type State string

// The states.
const (
	StateOK State = "ok"
	// StateRefused: the provider answered 401 or 403. It rests until a check
	// finds it good.
	StateRefused State = "refused"
	// StateExhausted: its quota or credit is used up.
	StateExhausted State = "exhausted"
	// StateLimited: it asked too often.
	StateLimited State = "limited"
)

// stateAfter is what an error says of the key that the call was made with; ""
// where it says nothing.
func stateAfter(code protocol.Code) State {
	switch code {
	case protocol.CodeUnauthorized, protocol.CodeForbidden:
		return StateRefused
	case protocol.CodeQuotaExceeded:
		return StateExhausted
	case protocol.CodeRateLimited:
		return StateLimited
	}
	return ""
}

// KeyFault reports whether an error of this code says something of the key, so
// that another key may have an answer.
func KeyFault(code protocol.Code) bool { return stateAfter(code) != "" }

// rest is how long a key in this state rests after so many failures in turn.
func (s State) rest(failures int) time.Duration {
	first, most := limitedRest, maxLimitedRest
	switch s {
	case StateRefused:
		first, most = refusedRest, maxRefusedRest
	case StateExhausted:
		first, most = exhaustedRest, maxExhaustedRest
	}
	return min(first<<min(failures-1, 16), most)
}

// KeyID is what the id of a key that is set through the API may be. Those of
// other sources begin with the source and a colon, so that none is twice.
var KeyID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// An Entry is one key as a source gives it.
type Entry struct {
	// ID is unique among the provider's keys. It is in logs and metrics.
	ID string
	// Weight is the key's share among the provider's keys; 1 where it is 0.
	Weight int
	Key    *Key
}

// A Change is what a Ring tells of a key.
type Change struct {
	Provider, ID string
	State        State
	// Until is how long it rests; zero for StateOK.
	Until time.Time
	// Code is the error's; "" for StateOK.
	Code protocol.Code
}

// A Status is what is known of a key.
type Status struct {
	ID string
	// Source is what the source's name begins with, as far as a colon.
	Source string
	Weight int
	// Tail is the key's last characters, for those who may administer it.
	Tail  string
	State State
	// Until is how long it rests; zero while it doesn't.
	Until time.Time
	// Checked is when it was checked last, and Err what came out; zero and nil
	// before the first.
	Checked time.Time
	Err     *protocol.Error
	// Calls counts those it was taken for, Rests those that made it rest.
	Calls, Rests uint64
}

// A Ring has the keys of one provider, and says which of them the next call is
// made with: in turn, by weight, those left out that rest. Its methods may be
// called concurrently.
type Ring struct {
	provider string
	onChange func(Change)

	mu    sync.Mutex
	last  uint64  // guarded by mu: the newest slot's number
	slots []*slot // guarded by mu
}

// A slot is a key's place in a Ring. What can change is guarded by the ring's mu.
type slot struct {
	number uint64
	source string
	id     string
	key    *Key

	weight   int
	turn     int // of the smooth round robin
	gone     bool
	state    State
	until    time.Time
	asked    time.Time // the provider's own word for the end of the next rest
	failures int       // since the last success
	checked  time.Time
	err      *protocol.Error
	calls    uint64
	rests    uint64
}

// NewRing returns a Ring without keys. onChange, where it is not nil, is told
// when a key begins to rest and when it works again; it must not block, nor
// call the ring.
func NewRing(provider string, onChange func(Change)) *Ring {
	if onChange == nil {
		onChange = func(Change) {}
	}
	return &Ring{provider: provider, onChange: onChange}
}

// Provider is the name of the provider whose keys these are.
func (r *Ring) Provider() string { return r.provider }

// Set replaces what a source gave before by entries, whose keys are the ring's
// from then on. A key with the same id and text goes on as it was; what is no
// longer there is wiped. An error says what is wrong with the entries; those that
// are right are taken nevertheless.
func (r *Ring) Set(source string, entries []Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var wrong error
	kept := make([]*slot, 0, len(r.slots)+len(entries))
	old := make(map[string]*slot)
	for _, s := range r.slots {
		if s.source == source {
			old[s.id] = s
		} else {
			kept = append(kept, s)
		}
	}
	for _, e := range entries {
		weight := min(max(e.Weight, 1), MaxWeight)
		was := old[e.ID]
		switch {
		case slices.ContainsFunc(kept, func(s *slot) bool { return s.id == e.ID }):
			wrong = fmt.Errorf("provider %s has two keys with the id %s", r.provider, e.ID)
			e.Key.Wipe()
		case len(kept) == MaxKeys:
			wrong = fmt.Errorf("provider %s has more than %d keys", r.provider, MaxKeys)
			e.Key.Wipe()
		case was != nil && was.key.Equal(e.Key):
			if was.key != e.Key {
				e.Key.Wipe()
			}
			was.weight = weight
			kept = append(kept, was)
			delete(old, e.ID)
		default:
			r.last++
			kept = append(kept, &slot{number: r.last, source: source, id: e.ID, key: e.Key, weight: weight, state: StateOK})
		}
	}
	for _, s := range old {
		s.gone = true
		s.key.Wipe()
	}
	r.slots = kept
	return wrong
}

// Wipe removes all keys.
func (r *Ring) Wipe() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.slots {
		s.gone = true
		s.key.Wipe()
	}
	r.slots = nil
}

// Len is how many keys there are.
func (r *Ring) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.slots)
}

// Tried are the keys that a call was made with. The zero value has none.
type Tried struct {
	n       int
	numbers [maxTries]uint64
}

func (t *Tried) has(number uint64) bool { return slices.Contains(t.numbers[:t.n], number) }

// A Use is a key that was picked for a call. The zero Use is of a call without
// a key.
type Use struct {
	ring *Ring
	slot *slot
	// forced says that it rested, as all others did.
	forced bool
}

// Pick returns the key for a call's next try, and adds it to those tried. While
// all keys rest, the first try is made with the one whose rest ends first: what
// the provider says then is the answer, and shows when it has changed its mind.
// ok is false where there is no further key to try. It allocates nothing.
func (r *Ring) Pick(t *Tried) (u Use, ok bool) {
	if t.n == maxTries {
		return Use{}, false
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	best, forced := r.next(t, now, true), false
	if best == nil && t.n == 0 {
		best, forced = r.soonest(), true
	}
	if best == nil {
		return Use{}, false
	}
	best.calls++
	t.numbers[t.n] = best.number
	t.n++
	return Use{ring: r, slot: best, forced: forced}, true
}

// next is the smooth weighted round robin of nginx: each that could be picked
// gains its weight, and the one that is picked pays what all have gained. So
// weights 5, 1 and 1 give a a b a c a a, and not a run of five.
func (r *Ring) next(t *Tried, now time.Time, take bool) *slot {
	var best *slot
	total := 0
	for _, s := range r.slots {
		if !s.fit(now) || t.has(s.number) {
			continue
		}
		if take {
			s.turn += s.weight
			total += s.weight
		}
		if best == nil || s.turn > best.turn {
			best = s
		}
	}
	if take && best != nil {
		best.turn -= total
	}
	return best
}

func (s *slot) fit(now time.Time) bool { return s.state == StateOK || !now.Before(s.until) }

// soonest is the key whose rest ends first; nil where there is none.
func (r *Ring) soonest() *slot {
	if len(r.slots) == 0 {
		return nil
	}
	return slices.MinFunc(r.slots, func(a, b *slot) int { return a.until.Compare(b.until) })
}

// More reports whether Pick would have another key for t.
func (r *Ring) More(t *Tried) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return t.n < maxTries && r.next(t, time.Now(), false) != nil
}

// Wait is how long it is until some key may be used; 0 where one may be now, or
// there is none.
func (r *Ring) Wait() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.soonest()
	if s == nil || s.state == StateOK {
		return 0
	}
	return max(time.Until(s.until), 0)
}

// All returns the keys that there are, for checks.
func (r *Ring) All() []Use {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Use, len(r.slots))
	for i, s := range r.slots {
		all[i] = Use{ring: r, slot: s}
	}
	return all
}

// Find returns the key of an id.
func (r *Ring) Find(id string) (Use, bool) {
	for _, u := range r.All() {
		if u.slot.id == id {
			return u, true
		}
	}
	return Use{}, false
}

// ID is the key's; "" of no key.
func (u Use) ID() string {
	if u.slot == nil {
		return ""
	}
	return u.slot.id
}

// Reveal returns a copy of the key's text; "" of no key, and of one that was
// removed since.
func (u Use) Reveal() string {
	if u.slot == nil {
		return ""
	}
	return u.slot.key.Reveal()
}

// Worked notes that the provider has taken the key. A call that began before
// the key was put off says nothing about its rest.
func (u Use) Worked() {
	if u.slot == nil {
		return
	}
	r, s := u.ring, u.slot
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.state != StateOK && (u.forced || s.fit(time.Now())) {
		r.wake(s)
	}
	if s.state == StateOK {
		s.failures = 0
	}
}

// wake ends the rest of s.
func (r *Ring) wake(s *slot) {
	s.state, s.until, s.failures = StateOK, time.Time{}, 0
	r.tell(s, "")
}

func (r *Ring) tell(s *slot, code protocol.Code) {
	if !s.gone {
		r.onChange(Change{Provider: r.provider, ID: s.id, State: s.state, Until: s.until, Code: code})
	}
}

// Failed notes the error of a call, and reports whether it is about the key,
// which then rests: for as long as the error says, or else for a time that grows.
func (u Use) Failed(err *protocol.Error) bool {
	state := stateAfter(err.Code)
	if u.slot == nil || state == "" {
		return false
	}
	u.ring.mu.Lock()
	defer u.ring.mu.Unlock()
	u.ring.rest(u.slot, state, err)
	return true
}

// Hold notes when the provider wants to be asked again, where the error that
// follows doesn't say it.
func (u Use) Hold(until time.Time) {
	if u.slot == nil {
		return
	}
	u.ring.mu.Lock()
	defer u.ring.mu.Unlock()
	u.slot.asked = until
}

// Spent notes that nothing is left of the key's limits until then.
func (u Use) Spent(until time.Time) {
	if u.slot == nil {
		return
	}
	u.ring.mu.Lock()
	defer u.ring.mu.Unlock()
	if s := u.slot; until.After(time.Now()) && (s.state == StateOK || s.state == StateLimited && until.After(s.until)) {
		s.state, s.until = StateLimited, until
	}
}

func (r *Ring) rest(s *slot, state State, err *protocol.Error) {
	now := time.Now()
	again := s.state == state && now.Before(s.until)
	if !again { // calls that ran at once fail together, and count once
		s.failures++
	}
	wait := time.Duration(err.RetryAfterMS) * time.Millisecond
	if state == StateRefused {
		wait = 0 // a Retry-After there is not about the key
	}
	until := now.Add(cmp.Or(wait, state.rest(s.failures)))
	if s.asked.After(now) && state != StateRefused {
		until = s.asked
	}
	s.asked = time.Time{}
	if again && until.Before(s.until) {
		until = s.until
	}
	s.state, s.until = state, until
	s.rests++
	if !again {
		r.tell(s, err.Code)
	}
}

// Checked notes what a check found: nil that the provider takes the key, which
// ends a rest after a refusal. What a check costs nothing says nothing of quotas
// and limits, so other rests end only where lift says so. An error that is not
// about the key says nothing of it.
func (u Use) Checked(err *protocol.Error, lift bool) {
	if u.slot == nil {
		return
	}
	r, s := u.ring, u.slot
	r.mu.Lock()
	defer r.mu.Unlock()
	s.checked, s.err = time.Now(), err
	switch {
	case err == nil && (s.state == StateRefused || lift && s.state != StateOK):
		r.wake(s)
	case err != nil:
		if state := stateAfter(err.Code); state != "" {
			r.rest(s, state, err)
		}
	}
}

// Status returns what is known of each key.
func (r *Ring) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	all := make([]Status, len(r.slots))
	for i, s := range r.slots {
		kind, _, _ := strings.Cut(s.source, ":")
		all[i] = Status{ID: s.id, Source: kind, Weight: s.weight, Tail: s.key.Tail(), State: s.state, Until: s.until,
			Checked: s.checked, Err: s.err, Calls: s.calls, Rests: s.rests}
		if s.fit(now) && s.state != StateRefused { // it is tried again with the next call
			all[i].State, all[i].Until = StateOK, time.Time{}
		}
	}
	return all
}
