package stream_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/athena-hub/athena/internal/backbone"
)

// natsServer starts a NATS server on loopback and returns its URL.
func natsServer(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, MaxPayload: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS server did not start")
	}
	return s.ClientURL()
}

// A flakyBus fails the first calls of AppendLog.
type flakyBus struct {
	*backbone.Backbone
	fail   int64
	failed atomic.Int64
}

func (b *flakyBus) AppendLog(ctx context.Context, id string, prev uint64, batch backbone.Batch) (uint64, error) {
	if b.failed.Load() < b.fail {
		b.failed.Add(1)
		return 0, errors.New("no space left on device")
	}
	return b.Backbone.AppendLog(ctx, id, prev, batch)
}

func (b *flakyBus) failures() int64 { return b.failed.Load() }

func (b *flakyBus) StartAppend(ctx context.Context, id string, prev uint64, batch backbone.Batch) func() (uint64, error) {
	return func() (uint64, error) { return b.AppendLog(ctx, id, prev, batch) }
}
