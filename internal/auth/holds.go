package auth

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A Hold is what a request's context carries: who the caller is, and whether
// that still holds. A connection that outlives its request watches it, and may
// renew it by a fresh credential.
type Hold struct {
	a  *Authenticator // nil where the credential never ends
	id atomic.Pointer[Identity]

	// Guarded by a.holds.mu.
	watches []*watch
}

// Identity is who the caller is now.
func (h *Hold) Identity() Identity { return *h.id.Load() }

// A watch is one connection that is to end with its credential.
type watch struct {
	hold *Hold
	end  func(code int, detail string)

	// Guarded by holds.mu.
	key   string // under which it is registered
	timer *time.Timer
	over  bool // end was called, or will not be
}

// holds are the connections whose credential may end.
type holds struct {
	mu sync.Mutex
	by map[string]map[*watch]struct{} // guarded by mu, by the credential
}

// Watch calls end once when the caller's credential is no longer good: with
// protocol.CloseRevoked at once, and with protocol.CloseExpired when the grace
// after its end is over, unless it was renewed. end must not block. It may be
// called before Watch returns. release must be called when the connection is
// gone; end isn't called after that.
func (h *Hold) Watch(end func(code int, detail string)) (release func()) {
	id := h.Identity()
	if h.a == nil || !mayEnd(id) {
		return func() {}
	}
	w := &watch{hold: h, end: end}
	a := h.a
	a.holds.mu.Lock()
	h.watches = append(h.watches, w)
	a.register(w, id)
	a.holds.mu.Unlock()
	// Not before: what changed in between must not be missed.
	a.judge(w)
	return func() {
		a.holds.mu.Lock()
		defer a.holds.mu.Unlock()
		w.over = true
		a.unregister(w)
		for i, other := range h.watches {
			if other == w {
				h.watches = append(h.watches[:i:i], h.watches[i+1:]...)
				break
			}
		}
	}
}

// mayEnd reports whether a credential may end while the process lives.
func mayEnd(id Identity) bool {
	_, stored := storedKeyID(id)
	return stored || !id.Expires.IsZero()
}

// register puts w under its credential. Called with holds.mu held.
func (a *Authenticator) register(w *watch, id Identity) {
	w.key = id.Credential
	set := a.holds.by[w.key]
	if set == nil {
		set = make(map[*watch]struct{})
		a.holds.by[w.key] = set
	}
	set[w] = struct{}{}
}

// unregister is called with holds.mu held.
func (a *Authenticator) unregister(w *watch) {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if set := a.holds.by[w.key]; set != nil {
		delete(set, w)
		if len(set) == 0 {
			delete(a.holds.by, w.key)
		}
	}
}

// judge ends w if its credential has ended, and otherwise looks again when that
// is due.
func (a *Authenticator) judge(w *watch) {
	a.holds.mu.Lock()
	defer a.holds.mu.Unlock()
	if w.over {
		return
	}
	now := time.Now()
	s := a.standing(w.hold.Identity(), now)
	code, until := protocol.CloseExpired, s.until
	if s.why == errRevoked {
		code = protocol.CloseRevoked
	} else if !until.IsZero() {
		until = until.Add(a.grace)
	}
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	switch {
	case until.IsZero():
	case over(until, now):
		w.over = true
		a.unregister(w)
		w.end(code, s.why.told.Detail)
	default:
		// Long timers are cut, since the clock may be set in between.
		w.timer = time.AfterFunc(min(until.Sub(now), time.Hour), func() { a.judge(w) })
	}
}

// changed looks at all connections of a stored key, and at those of the share
// tokens that it made, or at those of all keys.
func (a *Authenticator) changed(key string) {
	var ws []*watch
	a.holds.mu.Lock()
	for credential, set := range a.holds.by {
		id, stored := strings.CutPrefix(credential, storedKind)
		if !stored || key != everyKey && id != key && !a.stored.madeBy(id, key) {
			continue
		}
		for w := range set {
			ws = append(ws, w)
		}
	}
	a.holds.mu.Unlock()
	for _, w := range ws {
		a.judge(w)
	}
}

// madeBy reports whether a share token was made by a key.
func (k *Keyring) madeBy(id, key string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	r := k.keys[id]
	return r != nil && r.Parent == key
}

// standing is how the credential of an identity stands.
func (a *Authenticator) standing(id Identity, now time.Time) standing {
	if key, ok := storedKeyID(id); ok && a.stored != nil {
		if s, known := a.stored.standing(key, id.Generation, now); known {
			return s
		}
	}
	return standing{id.Expires, errExpired}
}

// good returns why the credential is no longer good of an identity that another
// node may have told of, nil if it is.
func (a *Authenticator) good(id Identity) error {
	if key, ok := storedKeyID(id); ok && a.stored != nil {
		a.stored.seek(key) // it may be so new that this node has not heard of it
	}
	now := time.Now()
	if s := a.standing(id, now); over(s.until, now) {
		return s.why
	}
	return nil
}

// Renew gives the connection of ctx a fresh credential, which must be the same
// caller's: what the connection already watches was allowed to that one. The
// rights of the fresh one hold from now on.
func (a *Authenticator) Renew(ctx context.Context, token string) error {
	id, err := a.Token(token)
	if err != nil {
		a.failed(ctx, err)
		return err
	}
	h := HoldOf(ctx)
	if h == nil {
		return nil
	}
	if !id.sameCaller(h.Identity()) {
		return errOtherCaller
	}
	h.id.Store(&id)
	if h.a == nil {
		return nil
	}
	a.holds.mu.Lock()
	ws := append([]*watch(nil), h.watches...)
	for _, w := range ws {
		if !w.over {
			a.unregister(w)
			a.register(w, id)
		}
	}
	a.holds.mu.Unlock()
	for _, w := range ws {
		a.judge(w)
	}
	return nil
}

type contextKey struct{}

// NewContext returns a context that carries id, which doesn't end.
func NewContext(ctx context.Context, id Identity) context.Context {
	return newContext(ctx, nil, id)
}

func newContext(ctx context.Context, a *Authenticator, id Identity) context.Context {
	h := &Hold{a: a}
	h.id.Store(&id)
	return context.WithValue(ctx, contextKey{}, h)
}

// HoldOf returns the hold that Middleware put into ctx, or nil.
func HoldOf(ctx context.Context) *Hold {
	h, _ := ctx.Value(contextKey{}).(*Hold)
	return h
}

// FromContext returns the identity that Middleware put there, or that the
// connection was given since.
func FromContext(ctx context.Context) (id Identity, ok bool) {
	h := HoldOf(ctx)
	if h == nil {
		return Identity{}, false
	}
	return h.Identity(), true
}
