package backbone

import (
	"context"
	"fmt"
)

// cacheMarkKey is where the mark of cached answers is, among what nodes say of
// themselves: it is of all of them, and written about as rarely.
const cacheMarkKey = "cache"

// CacheMark returns the mark that SetCacheMark stored last, on whichever node;
// nil where it never has.
func (b *Backbone) CacheMark(ctx context.Context) (mark []byte, err error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	var r Record
	s, err := b.openedStore()
	if err == nil {
		r, err = b.getFromLeader(ctx, s.nodes, cacheMarkKey)
	}
	if err != nil {
		return nil, fmt.Errorf("read the mark of cached answers: %w", err)
	}
	return r.Value, nil
}

// SetCacheMark stores the mark of cached answers. It returns when it is stored.
func (b *Backbone) SetCacheMark(ctx context.Context, mark []byte) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		err = s.nodes.put(ctx, cacheMarkKey, mark)
	}
	if err != nil {
		return fmt.Errorf("store the mark of cached answers: %w", err)
	}
	return nil
}
