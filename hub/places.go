package hub

import (
	"context"
	"sync"

	"github.com/athena-hub/athena/protocol"
)

// admit gives a connection its place, on this node and among those of its
// caller, or says why it can't have one. Whoever was admitted calls leave, once.
func (h *Hub) admit(ctx context.Context, transport string) (leave func(), err error) {
	if err := h.admitHere(); err != nil {
		return nil, err
	}
	if h.opts.Admit == nil {
		return h.leave, nil
	}
	callers, err := h.opts.Admit(ctx, transport)
	if err != nil {
		h.leave()
		return nil, &callerLimitError{err}
	}
	return sync.OnceFunc(func() { callers(); h.leave() }), nil
}

// A callerLimitError says that it is the caller who has too many connections, and not
// the node.
type callerLimitError struct{ error }

func (e *callerLimitError) Unwrap() error { return e.error }

// admitHere gives a connection its place on the node, which leave gives back.
func (h *Hub) admitHere() error {
	if h.draining.Load() {
		return protocol.Errorf(protocol.CodeDraining, "this node is shutting down; another takes new connections").
			WithRetryAfter(h.reconnectDelay())
	}
	if h.places.Add(1) > int64(h.opts.MaxConnections) {
		h.places.Add(-1)
		return protocol.Errorf(protocol.CodeOverloaded, "this node has its limit of %d connections", h.opts.MaxConnections).
			WithRetryAfter(h.reconnectDelay())
	}
	return nil
}

func (h *Hub) leave() { h.places.Add(-1) }

// maxRefusals bounds the WebSockets that are open only to be told that their caller
// has too many. It takes a client that doesn't answer some seconds to be rid of, and
// no one caller is to fill the node with these.
const maxRefusals = 100

// admitRefusal gives a WebSocket its place until it is told, which leaveRefusal gives
// back.
func (h *Hub) admitRefusal() error {
	if h.refusals.Add(1) > maxRefusals {
		h.refusals.Add(-1)
		return protocol.Errorf(protocol.CodeOverloaded, "%d connections are being refused", maxRefusals)
	}
	err := h.admitHere()
	if err != nil {
		h.refusals.Add(-1)
	}
	return err
}

func (h *Hub) leaveRefusal() {
	h.refusals.Add(-1)
	h.leave()
}

// Admissible reports why a connection that came now, from the caller that ctx
// carries, would have no place. It takes none: it is for who has something to do
// before.
func (h *Hub) Admissible(ctx context.Context) error {
	leave, err := h.admit(ctx, "")
	if err == nil {
		leave()
	}
	return err
}

// tooMany ends a WebSocket that has just begun: as its caller has too many. Pages
// don't see the status of a refused handshake, and would come back at once.
func (s *session) tooMany(limit *callerLimitError) {
	e := protocol.AsError(limit)
	s.tell(&protocol.Message{Type: protocol.MessageError, Error: e})
	s.end(ending{reason: "limit", code: protocol.CloseLimit, detail: e.Detail})
}
