package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// transports are those that this package knows, best first.
var transports = []string{protocol.TransportWebSocket, protocol.TransportSSE, protocol.TransportLongPoll}

// An unprovenError says that a transport didn't prove itself; another one may.
type unprovenError struct {
	err error
	// busy says that it was this stream's turn that failed: the transport is
	// as good as before for others.
	busy bool
}

func (e *unprovenError) Error() string { return e.err.Error() }
func (e *unprovenError) Unwrap() error { return e.err }

// offered returns the transports to try now, best first.
func (c *Client) offered(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	offers, current, better := c.offers, c.current, c.better
	c.mu.Unlock()
	if offers == nil {
		n, err := c.negotiate(ctx)
		if err != nil {
			return nil, err
		}
		for _, t := range n.Transports {
			if slices.Contains(transports, t.Name) {
				offers = append(offers, t.Name)
			}
		}
		if len(offers) == 0 {
			return nil, errors.New("the server offers no transport that this client knows")
		}
		c.mu.Lock()
		c.offers, c.current, current = offers, 0, 0
		if n.ProbeTimeoutMS > 0 && n.ProbeTimeoutMS <= firstSilence.Milliseconds() {
			c.probe = time.Duration(n.ProbeTimeoutMS) * time.Millisecond
		}
		c.mu.Unlock()
	}
	if current > 0 && time.Now().After(better) {
		current = 0
	}
	return offers[current:], nil
}

// worked notes that a transport has proven itself.
func (c *Client) worked(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.offers, name)
	if i > 0 && (i != c.current || time.Now().After(c.better)) {
		c.better = time.Now().Add(c.config.TryBetter)
	}
	if i >= 0 {
		c.current = i
	}
}

// failed notes that none works, so that all are tried next.
func (c *Client) failed() {
	c.mu.Lock()
	c.current = 0
	c.mu.Unlock()
}

// untilBetter is the time until a better transport than the current one is
// worth a try; ok is false where there is none.
func (c *Client) untilBetter() (d time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.better), c.current > 0
}

// An attempt is one connection of a run.
type attempt struct {
	*Run
	// probe is how long it has to prove itself; 0 where nothing is left to try
	// instead.
	probe time.Duration
	// proven is to be called once it has.
	proven func()
}

// connect reads over the best transport that works, as far as that goes.
// connected says that a connection came to be. The error is never nil, except
// after the terminal event.
func (r *Run) connect(ctx context.Context) (connected bool, err error) {
	names, err := r.client.offered(ctx)
	if err != nil {
		return false, err
	}
	busy := false
	var lost error // what another try may mend, if only some of it
	for i, name := range names {
		connected = false
		a := &attempt{Run: r, proven: func() {
			if connected = true; !busy {
				r.client.worked(name)
			}
		}}
		if i < len(names)-1 {
			r.client.mu.Lock()
			a.probe = r.client.probe
			r.client.mu.Unlock()
		}
		switch name {
		case protocol.TransportWebSocket:
			err = a.socket(ctx)
		case protocol.TransportSSE:
			err = a.sse(ctx)
		default:
			err = a.poll(ctx)
		}
		unproven, ok := errors.AsType[*unprovenError](err)
		if !ok || ctx.Err() != nil {
			return connected, err
		}
		busy = busy || unproven.busy
		if err = unproven.err; !final(err) {
			lost = err
		}
	}
	if lost != nil {
		err = lost
	}
	if !busy {
		r.client.failed()
	}
	return false, err
}

// refused says what an answer to a request for a transport means: what no
// Athena answered may be a proxy that doesn't let this one through.
func refused(err error) error {
	if _, ok := errors.AsType[*foreignError](err); ok {
		return &unprovenError{err: err}
	}
	return err
}
