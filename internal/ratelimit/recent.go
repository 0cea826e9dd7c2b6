package ratelimit

import "container/list"

// recent is a map of at most max entries: the one that was neither got nor put
// for longest gives way. It has no lock.
type recent[K comparable, V any] struct {
	max   int
	byKey map[K]*list.Element
	order *list.List // of pair[K, V], the most recent first
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](max int) recent[K, V] {
	return recent[K, V]{max: max, byKey: make(map[K]*list.Element), order: list.New()}
}

func (r *recent[K, V]) get(key K) (value V, ok bool) {
	e, ok := r.byKey[key]
	if !ok {
		return value, false
	}
	r.order.MoveToFront(e)
	return e.Value.(*pair[K, V]).value, true
}

// peek is get without counting as a use.
func (r *recent[K, V]) peek(key K) (value V, ok bool) {
	if e, ok := r.byKey[key]; ok {
		return e.Value.(*pair[K, V]).value, true
	}
	return value, false
}

func (r *recent[K, V]) put(key K, value V) {
	if e, ok := r.byKey[key]; ok {
		e.Value.(*pair[K, V]).value = value
		r.order.MoveToFront(e)
		return
	}
	if r.order.Len() >= r.max {
		oldest := r.order.Back()
		delete(r.byKey, oldest.Value.(*pair[K, V]).key)
		r.order.Remove(oldest)
	}
	r.byKey[key] = r.order.PushFront(&pair[K, V]{key, value})
}

func (r *recent[K, V]) len() int { return r.order.Len() }
