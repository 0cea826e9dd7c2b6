package backbone_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/backbone"
)

const secret = "a secret of the cluster in the tests"

// addresses returns n addresses of loopback that are free.
func addresses(t testing.TB, n int) []string {
	t.Helper()
	var all []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		all = append(all, l.Addr().String())
	}
	return all
}

// A testCluster is nodes of one cluster, in this process.
type testCluster struct {
	t      testing.TB
	dir    string
	routes []string // of all nodes that there may be
	secret string
	forget time.Duration
	log    zerolog.Logger

	mu    sync.Mutex
	nodes map[string]*backbone.Backbone // guarded by mu
}

func newCluster(t testing.TB, size int) *testCluster {
	c := &testCluster{t: t, dir: t.TempDir(), routes: addresses(t, size), secret: secret, nodes: make(map[string]*backbone.Backbone)}
	if os.Getenv("ATHENA_TEST_LOG") != "" {
		c.log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel).With().Timestamp().Logger()
	}
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		var wg sync.WaitGroup
		for name, b := range c.nodes {
			wg.Go(func() {
				if err := b.Close(); err != nil {
					t.Errorf("close %s: %v", name, err)
				}
			})
		}
		wg.Wait()
	})
	return c
}

// name is the name of the node at an address.
func name(i int) string { return string(rune('a' + i)) }

func (c *testCluster) options(i int) backbone.Options {
	return backbone.Options{
		Node: name(i), DataDir: filepath.Join(c.dir, name(i)), Logger: c.log.With().Str("node", name(i)).Logger(),
		Cluster: &backbone.ClusterOptions{Name: "test", Listen: c.routes[i], Routes: c.routes[:max(3, i+1)], Secret: c.secret, ForgetAfter: c.forget},
	}
}

// start starts nodes at once and waits for them.
func (c *testCluster) start(which ...int) []*backbone.Backbone {
	c.t.Helper()
	all := make([]*backbone.Backbone, len(which))
	var wg sync.WaitGroup
	for k, i := range which {
		wg.Go(func() {
			b, err := backbone.Open(context.Background(), c.options(i))
			if err != nil {
				c.t.Error(err)
				return
			}
			all[k] = b
			c.mu.Lock()
			c.nodes[name(i)] = b
			c.mu.Unlock()
		})
	}
	wg.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
	return all
}

// stop closes a node.
func (c *testCluster) stop(i int) {
	c.t.Helper()
	c.mu.Lock()
	b := c.nodes[name(i)]
	delete(c.nodes, name(i))
	c.mu.Unlock()
	start := time.Now()
	if err := b.Close(); err != nil {
		c.t.Errorf("close %s: %v", name(i), err)
	}
	c.t.Logf("node %s closed in %v", name(i), time.Since(start))
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen", what)
		}
		<-tick.C
	}
}

func TestTrialOfReplacing(t *testing.T) {
	c := newCluster(t, 6)
	c.forget = time.Second
	nodes := c.start(0, 1, 2)
	eventually(t, "three replicas", func() bool { return nodes[0].Store(t.Context()).ReplicasCurrent == 3 })
	var pos uint64
	var want []backbone.Batch
	fresh := nodes[0]
	add := func() {
		for range 50 {
			next := batch(uint64(len(want)*2+1), 2)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			var err error
			pos, err = fresh.AppendLog(ctx, "s1", pos, next)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, next)
		}
	}
	add()
	for i := range 3 {
		fresh = c.start(3 + i)[0]
		add()
		begin := time.Now()
		c.stop(i)
		add()
		eventually(t, "the quorum", func() bool {
			s := fresh.Store(t.Context())
			return s.Size == 3 && s.ReplicasCurrent == 3
		})
		t.Logf("%v %+v", time.Since(begin), fresh.Store(t.Context()))
		add()
	}
	wantLog(t, fresh, "s1", 0, want)
}

func TestTrialOfAReturn(t *testing.T) {
	backbone.ForgetFor(20 * time.Second)
	c := newCluster(t, 4)
	c.forget = time.Second
	nodes := c.start(0, 1, 2, 3)
	eventually(t, "three replicas", func() bool { return nodes[0].Store(t.Context()).ReplicasCurrent == 3 })
	want := fill(t, nodes[0], "s1", 20, 2)
	c.stop(1)
	begin := time.Now()
	eventually(t, "the quorum", func() bool {
		s := nodes[0].Store(t.Context())
		return s.Size == 3 && s.ReplicasCurrent == 3
	})
	t.Logf("forgotten %v", time.Since(begin))
	b := c.start(1)[0]
	t.Logf("back %v", time.Since(begin))
	wantLog(t, b, "s1", 0, want)
	fill(t, b, "s2", 20, 2)
	for range 40 {
		t.Logf("%v %v %+v", backbone.JetStreamEnabled(b), b.StoreUp(), nodes[0].Store(t.Context()))
		t.Logf("%v %v %+v", backbone.JetStreamEnabled(b), b.Ping(t.Context()), b.Store(t.Context()))
		time.Sleep(time.Second)
	}
}

func TestTrialOfAKill(t *testing.T) {
	c := newCluster(t, 3)
	begin := time.Now()
	p := startProcess(t, c.options(2))
	nodes := c.start(0, 1)
	<-p.ready
	t.Logf("up after %v: %+v", time.Since(begin), nodes[0].Store(t.Context()))
	eventually(t, "three replicas", func() bool { return nodes[0].Store(t.Context()).ReplicasCurrent == 3 })
	t.Logf("up after %v: %+v", time.Since(begin), nodes[0].Store(t.Context()))
	want := fill(t, nodes[0], "s1", 20, 3)
	wantLog(t, nodes[1], "s1", 0, want)
	if err := backbone.Lead(t.Context(), nodes[0], "c"); err != nil {
		t.Fatal(err)
	}
	p.kill(t)
	begin = time.Now()
	for i := range 1000 {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := nodes[0].AppendLog(ctx, fmt.Sprint("x", i), 0, batch(1, 2))
		cancel()
		if err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("append after %v", time.Since(begin))
	for range 1000 {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		err := nodes[0].Ping(ctx)
		cancel()
		if err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("nodes after %v", time.Since(begin))
	t.Logf("%v %+v", time.Since(begin), nodes[0].Store(t.Context()))
}

func TestTrialOfACluster(t *testing.T) {
	c := newCluster(t, 3)
	begin := time.Now()
	nodes := c.start(0, 1)
	t.Logf("two nodes up after %v: %+v", time.Since(begin), nodes[0].Store(t.Context()))
	want := fill(t, nodes[0], "s1", 20, 3)
	wantLog(t, nodes[1], "s1", 0, want)
	begin = time.Now()
	third := c.start(2)[0]
	t.Logf("third up after %v", time.Since(begin))
	eventually(t, "three replicas", func() bool { return third.Store(t.Context()).ReplicasCurrent == 3 })
	t.Logf("three replicas after %v: %+v", time.Since(begin), third.Store(t.Context()))
	wantLog(t, third, "s1", 0, want)
	c.stop(0)
	for i := range 100 {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := third.AppendLog(ctx, fmt.Sprint("x", i), 0, batch(1, 2))
		cancel()
		if err != nil || time.Since(begin) > 100*time.Millisecond {
			t.Logf("append %d: %v, after %v", i, err, time.Since(begin))
		}
	}
	t.Logf("%+v", third.Store(t.Context()))
}
