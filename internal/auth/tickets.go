package auth

import (
	"cmp"
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// A Place is where a request for or with a ticket comes from.
type Place struct {
	// Origin is the page's; "" for what is no page of a browser, and for some
	// requests of a page to its own server.
	Origin string `json:"origin,omitempty"`
	// Site is what the browser says of the page (Sec-Fetch-Site), which no page can
	// change; "" for older ones.
	Site string `json:"site,omitempty"`
	// Host is the server's name as the request has it.
	Host string `json:"host,omitempty"`
}

func placeOf(r *http.Request) Place {
	return Place{r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site"), r.Host}
}

// serves reports whether a ticket that was asked for at p may be used at use. A
// page's ticket is for the same page: one that leaked, through a referrer or a
// log, opens nothing for another one, whose browser says where it is. Browsers
// say no Origin in a GET to the page's own server, but do in the POST that asks
// for the ticket.
func (p Place) serves(use Place) bool {
	if p.Origin == "" || use.Origin != "" {
		return p.Origin == "" || strings.EqualFold(p.Origin, use.Origin)
	}
	if use.Site != "" {
		return use.Site == "same-origin" // a proxy may have changed the host
	}
	u, err := url.Parse(p.Origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, use.Host)
}

// tickets are those that wait for their use. They are found by their hash, so
// that the time that a search takes tells nothing of a ticket.
type tickets struct {
	ttl time.Duration
	max int

	mu    sync.Mutex
	byKey map[[sha256.Size]byte]*list.Element // guarded by mu
	order *list.List                          // guarded by mu: of ticket, oldest first
	own   map[string]*list.List               // guarded by mu: of each owner the elements of order that are its, oldest first
}

type ticket struct {
	key     [sha256.Size]byte
	id      Identity
	place   Place
	expires time.Time
	mine    *list.Element // of its owner's list
}

func newTickets(ttl time.Duration, max int) tickets {
	return tickets{ttl: cmp.Or(ttl, 30*time.Second), max: cmp.Or(max, 10_000),
		byKey: make(map[[sha256.Size]byte]*list.Element), order: list.New(), own: make(map[string]*list.List)}
}

// issue makes a ticket of 256 random bits.
func (t *tickets) issue(id Identity, at Place) string {
	var b [32]byte
	rand.Read(b[:])
	text := base64.RawURLEncoding.EncodeToString(b[:])
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for e := t.order.Front(); e != nil && !now.Before(e.Value.(*ticket).expires); e = t.order.Front() {
		t.remove(e)
	}
	for t.order.Len() >= t.max {
		t.remove(t.givesWay(id.Owner()))
	}
	k := &ticket{key: sha256.Sum256([]byte(text)), id: id, place: at, expires: now.Add(t.ttl)}
	mine := t.own[id.Owner()]
	if mine == nil {
		mine = list.New()
		t.own[id.Owner()] = mine
	}
	e := t.order.PushBack(k)
	k.mine = mine.PushBack(e)
	t.byKey[k.key] = e
	return text
}

// givesWay returns which ticket makes room for one of this owner: its own oldest
// where it has its share of them, and else the oldest of who has most, so that who
// asks for very many doesn't take those of others. Called with mu held.
func (t *tickets) givesWay(owner string) *list.Element {
	most := t.own[owner]
	if most == nil || most.Len()*len(t.own) < t.max {
		for _, l := range t.own {
			if most == nil || l.Len() > most.Len() {
				most = l
			}
		}
	}
	return most.Front().Value.(*list.Element)
}

// redeem uses a ticket up, also where it is not good.
func (t *tickets) redeem(text string, from Place) (Identity, bool) {
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
	if !time.Now().Before(k.expires) || !k.place.serves(from) {
		return Identity{}, false
	}
	return k.id, true
}

// remove is called with mu held.
func (t *tickets) remove(e *list.Element) *ticket {
	k := t.order.Remove(e).(*ticket)
	delete(t.byKey, k.key)
	mine := t.own[k.id.Owner()]
	mine.Remove(k.mine)
	if mine.Len() == 0 {
		delete(t.own, k.id.Owner())
	}
	return k
}

// Ticket returns a ticket for id, which is good once, for the page that asked
// for it; "" for one that needs no credentials.
func (a *Authenticator) Ticket(id Identity, r *http.Request) string {
	if id.Anonymous {
		return ""
	}
	t := a.tickets.issue(id, placeOf(r))
	if a.elsewhere != nil {
		t = a.node + ticketSeparator + t
	}
	return t
}

// ticketSeparator stands behind the name of the node that has issued a ticket;
// neither names nor tickets have it.
const ticketSeparator = "."

// Redeem uses up a ticket that this node has issued, without the node's name:
// for other nodes, to which it was brought.
func (a *Authenticator) Redeem(ticket string, from Place) (Identity, bool) {
	return a.tickets.redeem(ticket, from)
}

// redeem uses up a ticket, whoever has issued it.
func (a *Authenticator) redeem(ctx context.Context, ticket string, from Place) (Identity, bool) {
	node, text, ok := strings.Cut(ticket, ticketSeparator)
	switch {
	case a.elsewhere == nil:
		return a.tickets.redeem(ticket, from)
	case !ok || len(ticket) > maxCredential:
		return Identity{}, false
	case node == a.node:
		return a.tickets.redeem(text, from)
	}
	return a.elsewhere(ctx, node, text, from)
}
