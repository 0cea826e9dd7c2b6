package backbone

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
)

const (
	historyPrefix = "athena.history."
	// headerFailed, with a reason, is on a reply that could not be given.
	headerFailed = "Athena-Failed"
)

// ServeHistory answers requests for the history of stream id by fn, one at a
// time. The node that runs the stream's job calls it, and nobody else should.
// When it returns, requests reach it. A reply may have up to MaxMessageBytes.
// stop is as SubscribeLive's.
func (b *Backbone) ServeHistory(id string, fn func(request []byte) (reply []byte)) (stop func(), err error) {
	if err := checkToken("stream id", id); err != nil {
		return nil, err
	}
	stop, err = b.subscribe(historyPrefix+id, func(m *nats.Msg) {
		err := m.Respond(fn(m.Data))
		if errors.Is(err, nats.ErrMaxPayload) {
			err = m.RespondMsg(&nats.Msg{Header: nats.Header{headerFailed: {err.Error()}}})
		}
		if err != nil && !b.closing.Load() {
			b.log.Debug().Err(err).Str("stream", id).Msg("could not answer for history")
		}
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("serve the history of %s: %w", id, err)
	}
	return sync.OnceFunc(stop), nil
}

// AskHistory asks the node that serves the history of stream id. ErrNoOwner,
// at once, where none does.
func (b *Backbone) AskHistory(ctx context.Context, id string, request []byte) ([]byte, error) {
	if err := checkToken("stream id", id); err != nil {
		return nil, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	m, err := b.conn.RequestWithContext(ctx, historyPrefix+id, request)
	if errors.Is(err, nats.ErrNoResponders) {
		err = ErrNoOwner
	}
	if err == nil {
		if reason := m.Header.Get(headerFailed); reason != "" {
			err = fmt.Errorf("its owner could not answer: %s", reason)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the history of %s: %w", id, known(err))
	}
	return m.Data, nil
}
