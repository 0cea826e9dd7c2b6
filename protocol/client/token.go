package client

import (
	"context"
	"sync"
	"time"
)

// renewBefore is how long before its end a token is replaced.
const renewBefore = 30 * time.Second

// A Token is a credential: an API key, or what an identity provider issued.
type Token struct {
	Value string
	// Expires is when it ends, zero for never.
	Expires time.Time
}

// A TokenFunc gives the current token. It is asked again before that ends, and
// once the server refuses it; one that gives the refused one again ends what
// needs it. Calls don't overlap.
type TokenFunc func(ctx context.Context) (Token, error)

// StaticToken is a credential that doesn't change; "" for none.
func StaticToken(value string) TokenFunc {
	return func(context.Context) (Token, error) { return Token{Value: value}, nil }
}

// tokens keeps the newest token.
type tokens struct {
	get TokenFunc // nil for none

	mu      sync.Mutex
	have    bool  // guarded by mu
	current Token // guarded by mu
}

// token returns one that has not ended.
func (t *tokens) token(ctx context.Context) (Token, error) {
	if t.get == nil {
		return Token{}, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.have && (t.current.Expires.IsZero() || time.Until(t.current.Expires) > renewBefore) {
		return t.current, nil
	}
	got, err := t.get(ctx)
	if err != nil {
		return Token{}, err
	}
	t.have, t.current = true, got
	return got, nil
}

// refuse notes that the server doesn't take value, and reports whether there
// is another one to try.
func (t *tokens) refuse(ctx context.Context, value string) bool {
	if t.get == nil {
		return false
	}
	t.mu.Lock()
	if t.current.Value == value {
		t.have = false
	}
	t.mu.Unlock()
	got, err := t.token(ctx)
	return err == nil && got.Value != value
}
