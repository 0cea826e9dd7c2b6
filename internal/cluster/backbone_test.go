package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/cluster"
)

var _ cluster.Bus = (*backbone.Backbone)(nil)

// natsServer starts a server of NATS's own.
func natsServer(t *testing.T) (url string) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server did not start")
	}
	return s.ClientURL()
}

// mortal is a backbone whose process can seem to die.
type mortal struct {
	*backbone.Backbone
	dead atomic.Bool
}

var errDead = errors.New("dead")

func (m *mortal) Publish(topic string, data []byte) error {
	if m.dead.Load() {
		return errDead
	}
	return m.Backbone.Publish(topic, data)
}

func (m *mortal) WriteLease(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	if m.dead.Load() {
		return 0, errDead
	}
	return m.Backbone.WriteLease(ctx, value, revision)
}

func (m *mortal) RemoveLease(ctx context.Context, node string, revision uint64) (bool, error) {
	if m.dead.Load() {
		return false, errDead
	}
	return m.Backbone.RemoveLease(ctx, node, revision)
}

// realNode is a node whose store is real.
type realNode struct {
	*cluster.Cluster
	bus      *mortal
	verified atomic.Int64
}

// jobs is who has taken which stream.
type jobs struct {
	mu    sync.Mutex
	taken map[string][]string
}

func (j *jobs) of(id string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.taken[id]
}

func realNodes(t *testing.T, j *jobs, names ...string) (all []*realNode) {
	t.Helper()
	url := natsServer(t)
	for _, name := range names {
		b, err := backbone.Open(t.Context(), backbone.Options{Node: name, NatsURL: url})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		n := &realNode{bus: &mortal{Backbone: b}}
		n.Cluster = cluster.New(cluster.Options{
			Node: name, Epoch: b.Epoch(), Lease: 2 * time.Second, Bus: n.bus,
			TakeOver: func(ctx context.Context, id string, r backbone.Record, reason string) error {
				_, taken, err := b.TakeRunning(ctx, id, record(name, b.Epoch()), r.Revision)
				if taken {
					j.mu.Lock()
					defer j.mu.Unlock()
					j.taken[id] = append(j.taken[id], name+" "+reason)
				}
				return err
			},
			Verify: func(context.Context) error { n.verified.Add(1); return nil },
			Logger: zerolog.New(zerolog.NewTestWriter(t)).With().Timestamp().Str("me", name).Logger(),
		})
		t.Cleanup(func() {
			if err := n.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

func record(node string, epoch uint64) []byte {
	return fmt.Appendf(nil, `{"node":%q,"epoch":%d}`, node, epoch)
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in a minute", what)
		}
		<-tick.C
	}
}

func TestOnARealStoreEachStreamOfADeadNodeIsTakenOnceAndTheLivingKeepTheirs(t *testing.T) {
	j := &jobs{taken: make(map[string][]string)}
	all := realNodes(t, j, "a", "b", "c")
	for _, n := range all {
		eventually(t, "everybody knows everybody", func() bool { return n.Others() == 2 })
	}
	const streams = 40
	for i := range streams {
		if err := all[0].bus.MarkRunning(t.Context(), fmt.Sprint("dead", i), record("a", all[0].bus.Epoch())); err != nil {
			t.Fatal(err)
		}
		if err := all[1].bus.MarkRunning(t.Context(), fmt.Sprint("living", i), record("b", all[1].bus.Epoch())); err != nil {
			t.Fatal(err)
		}
	}
	all[0].bus.dead.Store(true)
	eventually(t, "all streams are taken over", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return len(j.taken) >= streams
	})

	// The dead one was only stopped.
	all[0].bus.dead.Store(false)
	eventually(t, "the node that woke has verified", func() bool { return all[0].verified.Load() > 0 })
	eventually(t, "it is back", func() bool { return all[1].Others() == 2 })

	if err := all[1].bus.MarkRunning(t.Context(), "given", record("", 0)); err != nil {
		t.Fatal(err)
	}
	all[1].Look()
	eventually(t, "a handed over stream is taken", func() bool { return len(j.of("given")) > 0 })
	if got := j.of("given"); len(got) != 1 || got[0][2:] != cluster.ReasonDraining {
		t.Errorf("a handed over stream was taken: %v", got)
	}
	if all[1].verified.Load()+all[2].verified.Load() > 0 {
		t.Skip("the machine was so busy that a living node missed a whole lease, and noticed")
	}
	for i := range streams {
		if got := j.of(fmt.Sprint("dead", i)); len(got) != 1 || got[0][2:] != cluster.ReasonOwnerLost {
			t.Errorf("stream %d was taken over: %v", i, got)
		}
		if got := j.of(fmt.Sprint("living", i)); len(got) > 0 {
			t.Errorf("stream %d of a living node was taken over: %v", i, got)
		}
	}
}

func TestOnARealStoreALeaseGoesWithItsNode(t *testing.T) {
	j := &jobs{taken: make(map[string][]string)}
	all := realNodes(t, j, "a", "b")
	if err := all[0].Leave(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "b sees a leave", func() bool {
		for _, m := range all[1].Members() {
			if m.Node == "a" {
				return m.State == cluster.StateLeaving
			}
		}
		return false
	})
	if err := all[0].Close(t.Context()); err != nil {
		t.Error(err)
	}
	leases, err := all[1].bus.Leases(t.Context())
	if err != nil || len(leases) != 1 || leases["b"].Revision == 0 {
		t.Errorf("leases: %v, %v", leases, err)
	}
	eventually(t, "b sees that a has left", func() bool { return len(all[1].Members()) == 1 })
}
