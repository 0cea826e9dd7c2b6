package analysis

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// MaxIdempotencyKeyBytes bounds an Idempotency-Key.
const MaxIdempotencyKeyBytes = 256

// idempotency remembers which stream a key started, so that a client that
// lost the answer to its POST can send it again. What this node knows is in
// memory; where there is a store too, other nodes know it, and this one after a
// restart.
type idempotency struct {
	ttl    time.Duration
	max    int
	stored *storedKeys // nil without a store

	mu   sync.Mutex
	keys map[idempotencyKey]*list.Element // guarded by mu
	// order holds the *remembered, oldest first; guarded by mu. Those that
	// were used here first live equally long, so the oldest are also the first
	// to expire.
	order list.List
}

type idempotencyKey struct{ owner, key string }

// A remembered is one use of a key. id and err are valid once done is closed.
type remembered struct {
	key     idempotencyKey
	request [sha256.Size]byte
	until   time.Time // guarded by the idempotency's mu

	done chan struct{}
	id   string
	err  error
}

func newIdempotency(o Options) *idempotency {
	i := &idempotency{ttl: o.IdempotencyTTL, max: o.MaxIdempotencyKeys, keys: make(map[idempotencyKey]*list.Element)}
	if o.Keys != nil {
		i.stored = &storedKeys{store: o.Keys, ttl: o.IdempotencyTTL, log: o.Logger}
	}
	return i
}

// A startFunc makes a stream and runs its job. In between, with the stream
// there and nothing that costs begun, it calls confirm; if that fails it ends
// the stream and returns the error, and otherwise it can't fail any more.
type startFunc func(confirm func(id string) error) (id string, err error)

// unkeyed is the confirm of a request without a key.
func unkeyed(string) error { return nil }

// do calls start, unless the key's owner has used it before: then it returns
// that first one's id. One that is still starting is waited for, within ctx;
// one that failed doesn't count. start may be called again after it failed.
func (i *idempotency) do(ctx context.Context, key idempotencyKey, r *protocol.Request, start startFunc) (id string, created bool, err error) {
	if len(key.key) > MaxIdempotencyKeyBytes {
		return "", false, protocol.Errorf(protocol.CodeInvalidRequest, "the Idempotency-Key has %d bytes, more than the limit of %d",
			len(key.key), MaxIdempotencyKeyBytes)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return "", false, err
	}
	sum := sha256.Sum256(body)
	for {
		m, first := i.claim(key, sum)
		if first {
			return i.settle(ctx, m, start)
		}
		if m.request != sum {
			return "", false, keyReused()
		}
		select {
		case <-m.done:
		case <-ctx.Done():
			return "", false, context.Cause(ctx)
		}
		if m.err == nil {
			return m.id, false, nil
		}
	}
}

// settle runs what is, for this node, the first use of a key. The key is free
// again if start fails or panics.
func (i *idempotency) settle(ctx context.Context, m *remembered, start startFunc) (id string, created bool, err error) {
	m.err = context.Canceled // what waiters see if start panics
	defer func() {
		if m.err != nil {
			i.forget(m)
		}
		close(m.done)
	}()
	m.id, created, m.err = i.begin(ctx, m, start)
	return m.id, created, m.err
}

// begin returns the stream that another node, or this one before a restart,
// has started with the key, or else starts one.
func (i *idempotency) begin(ctx context.Context, m *remembered, start startFunc) (id string, created bool, err error) {
	if i.stored == nil {
		id, err = start(unkeyed)
		return id, err == nil, err
	}
	for {
		u, err := i.stored.use(ctx, m.key, m.request)
		if err != nil {
			return "", false, err
		}
		if u.stream != "" {
			i.mu.Lock()
			m.until = u.until
			i.mu.Unlock()
			return u.stream, false, nil
		}
		id, err = i.run(ctx, u, start)
		if !errors.Is(err, errKeyTaken) {
			return id, err == nil, err
		}
	}
}

// run starts the job of a claim, and gives the claim up if it doesn't start.
func (i *idempotency) run(ctx context.Context, u keyUse, start startFunc) (id string, err error) {
	started := false
	defer func() {
		if !started {
			i.stored.forgo(ctx, u)
		}
	}()
	id, err = start(func(id string) error { return i.stored.confirm(ctx, u, id) })
	started = err == nil
	return id, err
}

// claim returns the key's earlier use, or, with first true, a new one.
func (i *idempotency) claim(key idempotencyKey, sum [sha256.Size]byte) (m *remembered, first bool) {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	for e := i.order.Front(); e != nil; e = i.order.Front() {
		if old := e.Value.(*remembered); now.Before(old.until) {
			break
		}
		i.remove(e)
	}
	if e, ok := i.keys[key]; ok {
		if old := e.Value.(*remembered); now.Before(old.until) {
			return old, false
		}
		i.remove(e)
	}
	if i.order.Len() >= i.max {
		i.remove(i.order.Front())
	}
	m = &remembered{key: key, request: sum, until: now.Add(i.ttl), done: make(chan struct{})}
	i.keys[key] = i.order.PushBack(m)
	return m, true
}

func (i *idempotency) forget(m *remembered) {
	i.mu.Lock()
	defer i.mu.Unlock()
	// It may have made room for another in the meantime.
	if e, ok := i.keys[m.key]; ok && e.Value == m {
		i.remove(e)
	}
}

// remove is called with mu held.
func (i *idempotency) remove(e *list.Element) {
	delete(i.keys, i.order.Remove(e).(*remembered).key)
}
