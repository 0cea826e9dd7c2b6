package auth

import (
	"cmp"
	"container/list"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"
)

// tickets are those that wait for their use. They are found by their hash, so
// that the time that a search takes tells nothing of a ticket.
type tickets struct {
	ttl time.Duration
	max int

	mu    sync.Mutex
	byKey map[[sha256.Size]byte]*list.Element // guarded by mu
	order *list.List                          // guarded by mu: of ticket, oldest first
}

type ticket struct {
	key     [sha256.Size]byte
	id      Identity
	expires time.Time
}

func newTickets(ttl time.Duration, max int) tickets {
	return tickets{ttl: cmp.Or(ttl, 30*time.Second), max: cmp.Or(max, 10_000),
		byKey: make(map[[sha256.Size]byte]*list.Element), order: list.New()}
}

// issue makes a ticket of 256 random bits.
func (t *tickets) issue(id Identity) string {
	var b [32]byte
	rand.Read(b[:])
	text := base64.RawURLEncoding.EncodeToString(b[:])
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for e := t.order.Front(); e != nil; e = t.order.Front() {
		if t.order.Len() < t.max && now.Before(e.Value.(ticket).expires) {
			break
		}
		t.remove(e)
	}
	k := ticket{sha256.Sum256([]byte(text)), id, now.Add(t.ttl)}
	t.byKey[k.key] = t.order.PushBack(k)
	return text
}

// redeem uses a ticket up.
func (t *tickets) redeem(text string) (Identity, bool) {
	if len(text) > maxCredential {
		return Identity{}, false
	}
	key := sha256.Sum256([]byte(text))
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.byKey[key]
	if !ok {
		return Identity{}, false
	}
	k := t.remove(e)
	return k.id, time.Now().Before(k.expires)
}

// remove is called with mu held.
func (t *tickets) remove(e *list.Element) ticket {
	k := t.order.Remove(e).(ticket)
	delete(t.byKey, k.key)
	return k
}
