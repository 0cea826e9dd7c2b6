package backbone

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// RequestTTL is how long a request is kept: longer than any job may run.
	RequestTTL = 25 * time.Hour
	// MaxRequestBytes bounds one kept request. What the bus takes is a little
	// more, since the subject and headers count too.
	MaxRequestBytes = MaxMessageBytes - 64<<10
	// requestsMaxBytes bounds all of them; the oldest are forgotten first, and
	// their jobs then can't be taken over.
	requestsMaxBytes = 512 << 20
)

func requestsConfig() jetstream.StreamConfig {
	c := bucketConfig(requestsBucket, "The requests of Athena's running jobs, by stream.", jetstream.DiscardOld)
	c.MaxAge = RequestTTL
	c.MaxBytes = requestsMaxBytes
	c.MaxMsgSize = MaxMessageBytes
	return c
}

// KeepRequest stores the request of stream id's job, so that another node can
// take the job over. It returns when the store has it. ErrTooLarge above
// MaxRequestBytes, or what an external server accepts.
func (b *Backbone) KeepRequest(ctx context.Context, id string, data []byte) error {
	if err := checkToken("stream id", id); err != nil {
		return err
	}
	if len(data) > MaxRequestBytes {
		return fmt.Errorf("keep the request of %s, %d bytes: %w", id, len(data), ErrTooLarge)
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		err = s.requests.put(ctx, id, data)
	}
	if err != nil {
		return fmt.Errorf("keep the request of %s: %w", id, err)
	}
	return nil
}

// KeptRequest returns the request that was kept of stream id's job, nil if
// there is none.
func (b *Backbone) KeptRequest(ctx context.Context, id string) ([]byte, error) {
	if err := checkToken("stream id", id); err != nil {
		return nil, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	var r Record
	s, err := b.openedStore()
	if err == nil {
		r, err = b.get(ctx, s.requests, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read the request of %s: %w", id, err)
	}
	return r.Value, nil
}

// DropRequest removes what was kept. It is no error if there is nothing.
func (b *Backbone) DropRequest(ctx context.Context, id string) error {
	if err := checkToken("stream id", id); err != nil {
		return err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	s, err := b.openedStore()
	if err == nil {
		_, err = s.requests.remove(ctx, id, 0)
	}
	if err != nil {
		return fmt.Errorf("drop the request of %s: %w", id, err)
	}
	return nil
}
