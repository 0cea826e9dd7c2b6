package hub

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// credential is what the client of a request is there by, nil for what doesn't
// end.
func (h *Hub) credential(ctx context.Context) Credential {
	if h.opts.Credential == nil {
		return nil
	}
	return h.opts.Credential(ctx)
}

// goodbyePatience is how long a client whose credential has ended may take to
// read what is on its way to it, and why. Then its connection is cut.
const goodbyePatience = time.Second

// watchCredential ends the session with its client's credential: a WebSocket is
// told by the close code, and an SSE response ends; who comes back without a
// fresh one is refused.
func (s *session) watchCredential() {
	s.release = func() {}
	if s.caller == nil {
		return
	}
	var cut atomic.Pointer[time.Timer]
	release := s.caller.Watch(func(code int, detail string) {
		e := ending{reason: "expired", code: code, detail: detail}
		if code == protocol.CloseRevoked {
			e.reason = "revoked"
		}
		s.end(e)
		e.abort = true
		cut.Store(time.AfterFunc(goodbyePatience, func() { s.end(e) }))
	})
	s.release = func() {
		release() // the timer isn't set after this
		if t := cut.Load(); t != nil {
			t.Stop()
		}
	}
	s.caller = nil // it holds the request
}

// A credentialError is the cause of a context that ended with the client's
// credential.
type credentialError struct{ refusal *protocol.Error }

func (e credentialError) Error() string { return e.refusal.Error() }

// bounded returns a context that also ends with the credential that the request
// of ctx came with. release must be called.
func (h *Hub) bounded(ctx context.Context) (bounded context.Context, release func()) {
	c := h.credential(ctx)
	if c == nil {
		return ctx, func() {}
	}
	bounded, cancel := context.WithCancelCause(ctx)
	stop := c.Watch(func(_ int, detail string) {
		cancel(credentialError{protocol.Errorf(protocol.CodeUnauthorized, "%s", detail)})
	})
	return bounded, func() { stop(); cancel(context.Canceled) }
}

// credentialEnded returns why the client's credential ended, nil if it hasn't.
func credentialEnded(ctx context.Context) error {
	if e, ok := errors.AsType[credentialError](context.Cause(ctx)); ok {
		return e.refusal
	}
	return nil
}
