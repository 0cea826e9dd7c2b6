package backbone_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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

func hostPort(t testing.TB, address string) (host string, port int) {
	t.Helper()
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if port, err = strconv.Atoi(p); err != nil {
		t.Fatal(err)
	}
	return host, port
}

// A testCluster is nodes of one cluster, in this process.
type testCluster struct {
	t      testing.TB
	dir    string
	routes []string // of all nodes that there may be
	secret string
	forget time.Duration
	wait   time.Duration
	tls    func() *tls.Config // nil: by the secret
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
	o := backbone.Options{
		Node: name(i), DataDir: filepath.Join(c.dir, name(i)), StoreWait: c.wait, Logger: c.log.With().Str("node", name(i)).Logger(),
		Cluster: &backbone.ClusterOptions{Name: "test", Listen: c.routes[i], Routes: c.routes[:min(max(3, i+1), len(c.routes))], Secret: c.secret, ForgetAfter: c.forget},
	}
	if c.tls != nil {
		o.Cluster.TLS = c.tls()
	}
	return o
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

// steadily calls again what finds no leader: there is none for a moment between
// two, which the nodes of a cluster that has just begun may have.
func steadily(t testing.TB, call func() error) (err error) {
	t.Helper()
	eventually(t, "a leader", func() bool {
		err = call()
		return !errors.Is(err, backbone.ErrNoStore)
	})
	return err
}

// settled waits until the log has its three replicas.
func settled(t testing.TB, b *backbone.Backbone) {
	t.Helper()
	eventually(t, "three replicas", func() bool {
		s := b.Store(t.Context())
		return s.Replicas == 3 && s.ReplicasCurrent == 3
	})
}

// A logWriter appends to one stream and remembers what.
type logWriter struct {
	id  string
	pos uint64
	all []backbone.Batch
}

// add appends n batches, each as often as it takes.
func (w *logWriter) add(t testing.TB, b *backbone.Backbone, n int) {
	t.Helper()
	for range n {
		next := batch(uint64(len(w.all)*2+1), 2)
		eventually(t, "an append", func() bool {
			pos, err := b.AppendLog(t.Context(), w.id, w.pos, next)
			switch {
			case err == nil:
				w.pos = pos
			case !errors.Is(err, backbone.ErrNoStore):
				t.Fatal(err)
			}

			return err == nil
		})
		w.all = append(w.all, next)
	}
}

// wantLogSoon is wantLog where the replica that answers may lag a moment behind.
func wantLogSoon(t *testing.T, b *backbone.Backbone, id string, want []backbone.Batch) {
	t.Helper()
	eventually(t, "that everything can be read", func() bool {
		got, err := b.ReadLog(t.Context(), id, 0, 1<<20)
		if err != nil {
			if errors.Is(err, backbone.ErrNoStore) { // for a moment, as between two leaders
				return false
			}
			t.Fatal(err)
		}
		if len(got) > len(want) || !reflect.DeepEqual(got, want[:len(got)]) {
			t.Fatalf("read %s:\n got %v\nwant %v", id, got, want)
		}
		return len(got) == len(want)
	})
}

func TestNodesThatJoinShareOneStoreWithThreeReplicasFromThreeOn(t *testing.T) {
	c := newCluster(t, 3)
	two := c.start(0, 1)
	w := &logWriter{id: "s1"}
	w.add(t, two[0], 20)
	wantLogSoon(t, two[1], "s1", w.all)
	if s := two[1].Store(t.Context()); !s.Clustered || !s.Quorum || s.Size != 2 || len(s.Peers) != 2 || s.Replicas != 1 || s.ReplicasCurrent != 1 || s.Detail != "" {
		t.Errorf("the store of two: %+v", s)
	}
	third := c.start(2)[0]
	if third.Settled() {
		t.Error("a node that has just come is settled")
	}
	settled(t, third)
	wantLogSoon(t, third, "s1", w.all)
	eventually(t, "that nothing is degraded", func() bool { return third.Store(t.Context()).Detail == "" })
	s := third.Store(t.Context())
	if !s.Quorum || s.Size != 3 || len(s.Peers) != 3 {
		t.Errorf("the store of three: %+v", s)
	}
	leaders := 0
	for i, p := range s.Peers {
		if p.Leader {
			leaders++
		}
		if p.Name != name(i) || !p.Online || p.Seen != 0 {
			t.Errorf("peer %d: %+v", i, p)
		}
	}
	if leaders != 1 {
		t.Errorf("%d peers lead", leaders)
	}
	if err := third.ForgetPeer(t.Context(), "a"); !errors.Is(err, backbone.ErrInvalid) {
		t.Errorf("forget a node that is online: %v", err)
	}
	if err := third.ForgetPeer(t.Context(), "x"); !errors.Is(err, backbone.ErrInvalid) {
		t.Errorf("forget a node that never was: %v", err)
	}

	c.stop(0)
	w.add(t, third, 20)
	wantLogSoon(t, two[1], "s1", w.all)
	eventually(t, "word that one is missing", func() bool {
		s := third.Store(t.Context())
		return s.Quorum && s.Size == 3 && s.ReplicasCurrent == 2 && s.Detail != "" && !s.Peers[0].Online && s.Peers[0].Seen > 0
	})
}

func TestNodesOfAClusterHearEachOther(t *testing.T) {
	c := newCluster(t, 2)
	nodes := c.start(0, 1)
	one, two := nodes[0], nodes[1]
	live := collect(t, two, "s1", 100)
	// That two is interested one learns in a moment.
	eventually(t, "a message from the other node", func() bool {
		if err := one.PublishLive("s1", number(0)); err != nil {
			t.Fatal(err)
		}
		return len(live) > 0
	})
	stop, err := two.Serve("topic", "name", func(q []byte) []byte { return append(q, '!') })
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "an answer", func() bool {
		got, err := one.Ask(t.Context(), "topic", "name", []byte("hi"))
		if err != nil && !errors.Is(err, backbone.ErrNoOwner) {
			t.Fatal(err)
		}
		return string(got) == "hi!"
	})
	stop()
	for _, b := range nodes {
		stop, err := b.Answer("topic", func(q []byte) []byte { return q })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	eventually(t, "an answer of each", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := one.Gather(ctx, "topic", []byte("q"), 2)
		if err != nil {
			t.Fatal(err)
		}
		return len(got) == 2
	})
}

func TestTheStoreSurvivesTheDeathOfTheNodeThatLeadsIt(t *testing.T) {
	c := newCluster(t, 3)
	dying := startProcess(t, c.options(2))
	nodes := c.start(0, 1)
	await(t, dying.ready, "the start of the node that is to die")
	settled(t, nodes[0])
	w := &logWriter{id: "s1"}
	w.add(t, nodes[0], 20)
	if err := backbone.Lead(t.Context(), nodes[0], "c"); err != nil {
		t.Fatal(err)
	}
	dying.kill(t)
	died := time.Now()
	w.add(t, nodes[1], 1)
	t.Logf("the log took writes again after %v", time.Since(died))
	eventually(t, "a write to the records", func() bool { return nodes[0].Ping(t.Context()) == nil })
	t.Logf("and the records after %v", time.Since(died))
	w.add(t, nodes[0], 20)
	wantLogSoon(t, nodes[0], "s1", w.all)
	wantLogSoon(t, nodes[1], "s1", w.all)
	if !backbone.ElectionsHurried {
		t.Error("the server has no variables of these names any more: elections.go has no effect")
	}
}

func TestReplacingEveryNodeByAnotherKeepsTheStore(t *testing.T) {
	c := newCluster(t, 6)
	c.forget = time.Second
	newest := c.start(0, 1, 2)[0]
	settled(t, newest)
	w := &logWriter{id: "s1"}
	w.add(t, newest, 20)
	if err := newest.MarkRunning(t.Context(), "s1", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		newest = c.start(3 + i)[0]
		w.add(t, newest, 20)
		c.stop(i)
		w.add(t, newest, 20)
		eventually(t, "a store that can lose another node", func() bool {
			s := newest.Store(t.Context())
			return s.Size == 3 && s.Replicas == 3 && s.ReplicasCurrent == 3 && s.Detail == ""
		})
	}
	if s := newest.Store(t.Context()); !s.Quorum || len(s.Peers) != 3 || s.Peers[0].Name != "d" {
		t.Errorf("after all: %+v", s)
	}
	wantLogSoon(t, newest, "s1", w.all)
	if r, err := newest.RunningRecord(t.Context(), "s1"); string(r.Value) != "{}" || err != nil {
		t.Errorf("the running record: %q, %v", r.Value, err)
	}
	// Each of the three can be lost in turn.
	c.stop(3)
	w.add(t, newest, 20)
	wantLogSoon(t, newest, "s1", w.all)
}

func TestANodeThatIsForgottenOrTakesLongComesBack(t *testing.T) {
	backbone.ForgetFor(5 * time.Second)
	c := newCluster(t, 4)
	c.forget = time.Second
	nodes := c.start(0, 1, 2, 3)
	settled(t, nodes[0])
	w := &logWriter{id: "s1"}
	w.add(t, nodes[0], 20)
	c.stop(1)
	eventually(t, "the end of a node that counts", func() bool {
		s := nodes[0].Store(t.Context())
		return s.Size == 3 && s.ReplicasCurrent == 3
	})
	back := c.start(1)[0]
	wantLogSoon(t, back, "s1", w.all)
	w.add(t, back, 20)
	eventually(t, "its return to those that count", func() bool { return nodes[0].Store(t.Context()).Size == 4 })
	wantLogSoon(t, back, "s1", w.all)
}

func TestANodeThatIsRestartedIsNotForgotten(t *testing.T) {
	c := newCluster(t, 3)
	c.forget = 100 * time.Millisecond // for three nodes this never matters
	nodes := c.start(0, 1, 2)
	settled(t, nodes[0])
	epoch := nodes[1].Epoch()
	c.stop(1)
	w := &logWriter{id: "s1"}
	w.add(t, nodes[0], 20)
	eventually(t, "that it is missed", func() bool { return nodes[0].Store(t.Context()).ReplicasCurrent == 2 })
	again := c.start(1)[0]
	settled(t, again)
	if s := nodes[0].Store(t.Context()); s.Size != 3 || !s.Quorum {
		t.Errorf("%+v", s)
	}
	wantLogSoon(t, again, "s1", w.all)
	if again.Epoch() <= epoch {
		t.Errorf("the epoch went from %d to %d", epoch, again.Epoch())
	}
}

func TestAStoreWithoutQuorumSaysSoAndComesBack(t *testing.T) {
	c := newCluster(t, 3)
	nodes := c.start(0, 1, 2)
	settled(t, nodes[0])
	w := &logWriter{id: "s1"}
	w.add(t, nodes[0], 20)
	if !nodes[0].StoreUp() {
		t.Error("the store is not up")
	}
	c.stop(1)
	c.stop(2)
	begin := time.Now()
	if _, err := nodes[0].AppendLog(t.Context(), "s1", w.pos, batch(41, 2)); !errors.Is(err, backbone.ErrNoStore) {
		t.Errorf("append: %v", err)
	}
	t.Logf("an append failed after %v", time.Since(begin))
	if err := nodes[0].Ping(t.Context()); !errors.Is(err, backbone.ErrNoStore) {
		t.Errorf("ping: %v", err)
	}
	if _, err := nodes[0].WriteLease(t.Context(), []byte("x"), 0); !errors.Is(err, backbone.ErrNoStore) {
		t.Errorf("lease: %v", err)
	}
	eventually(t, "word of it", func() bool {
		s := nodes[0].Store(t.Context())
		return !nodes[0].StoreUp() && !s.Quorum && s.Size == 3 && s.Detail != ""
	})
	// What this node has is still read, though nobody knows whether it is all
	// there is, and what lives only on the bus goes on.
	if last, _, _, err := nodes[0].LogTail(t.Context(), "s1"); err != nil || last != 40 {
		t.Errorf("its own tail is %d, %v", last, err)
	}
	brief, cancel := context.WithTimeout(t.Context(), time.Second)
	if last, err := nodes[0].LogTailNow(brief, "s1"); err == nil {
		t.Errorf("without a majority the tail is %d", last)
	}
	cancel()
	wantLogSoon(t, nodes[0], "s1", w.all)
	live := collect(t, nodes[0], "s1", 1)
	if err := nodes[0].PublishLive("s1", number(0)); err != nil {
		t.Fatal(err)
	}
	await(t, live, "a live message")
	if err := nodes[0].ForgetPeer(t.Context(), "b"); !errors.Is(err, backbone.ErrNoStore) {
		t.Errorf("forget a node without a quorum: %v", err)
	}

	back := c.start(1)[0]
	eventually(t, "the store's return", nodes[0].StoreUp)
	w.add(t, nodes[0], 20) // the first may have been stored already
	wantLogSoon(t, back, "s1", w.all)
}

func TestOfTwoNodesEitherNeedsTheOtherToStore(t *testing.T) {
	c := newCluster(t, 2)
	nodes := c.start(0, 1)
	fill(t, nodes[0], "s1", 3, 2)
	c.stop(1)
	eventually(t, "the end of the quorum", func() bool { return !nodes[0].Store(t.Context()).Quorum })
	live := collect(t, nodes[0], "s1", 1)
	if err := nodes[0].PublishLive("s1", number(0)); err != nil {
		t.Fatal(err)
	}
	await(t, live, "a live message")
	back := c.start(1)[0]
	w := &logWriter{id: "s2"}
	w.add(t, nodes[0], 3)
	wantLogSoon(t, back, "s2", w.all)
}

func TestANodeThatIsTheFirstGoesOnWithoutTheStoreUntilOthersCome(t *testing.T) {
	c := newCluster(t, 2)
	c.wait = 200 * time.Millisecond
	first := c.start(0)[0]
	epoch := first.Epoch()
	if first.StoreUp() || epoch == 0 {
		t.Errorf("up %v, epoch %d", first.StoreUp(), epoch)
	}
	opened := make(chan struct{}, 2)
	first.OnStoreOpen(func() { opened <- struct{}{} })
	for what, call := range storeCalls(t.Context(), first) {
		if err := call(); !errors.Is(err, backbone.ErrNoStore) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s := first.Store(t.Context()); s.Quorum || s.Detail == "" || !s.Clustered {
		t.Errorf("%+v", s)
	}
	live := collect(t, first, "s1", 1)
	if err := first.PublishLive("s1", number(0)); err != nil {
		t.Fatal(err)
	}
	await(t, live, "a live message")

	c.wait = 0
	second := c.start(1)[0]
	await(t, opened, "the store")
	if !first.StoreUp() || first.Epoch() != epoch {
		t.Errorf("up %v, epoch %d, which was %d", first.StoreUp(), first.Epoch(), epoch)
	}
	first.OnStoreOpen(func() { opened <- struct{}{} })
	if len(opened) != 1 {
		t.Error("not called at once though the store is open")
	}
	wantLogSoon(t, second, "s1", fill(t, first, "s1", 3, 2))
}

func TestWhatAReplicaHasNotGotYetIsReadFromTheLeader(t *testing.T) {
	c := newCluster(t, 2)
	b := c.start(0, 1)[0]
	all := fill(t, b, "s1", 5, 2)
	if err := b.MarkRunning(t.Context(), "other", nil); err != nil {
		t.Fatal(err)
	}
	for after := range uint64(10) {
		got, err := backbone.ReadFromLeader(t.Context(), b, "s1", after, 1)
		if want := all[after/2]; err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("after %d: %v, %v; want %v", after, got, err, want)
		}
	}
	for what, where := range map[string]struct {
		id           string
		after, start uint64
	}{"the end": {"s1", 10, 1}, "behind what is wanted": {"s1", 0, 3}, "no such stream": {"s2", 0, 1}} {
		if got, err := backbone.ReadFromLeader(t.Context(), b, where.id, where.after, where.start); !errors.Is(err, backbone.ErrGap) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
}

func TestWhoDoesNotKnowTheSecretIsNoNode(t *testing.T) {
	c := newCluster(t, 3)
	nodes := c.start(0, 1)
	for what, secret := range map[string]string{"another secret": "quite another", "none": ""} {
		o := c.options(2)
		o.StoreWait = 3 * time.Second
		o.Cluster.Secret = secret
		b, err := backbone.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if s := b.Store(t.Context()); b.StoreUp() || s.Quorum {
			t.Errorf("%s: it has a store: %+v", what, s)
		}
		if s := nodes[0].Store(t.Context()); len(s.Peers) != 2 {
			t.Errorf("%s: it is one of %+v", what, s.Peers)
		}
		if _, err := b.Ask(t.Context(), "topic", "name", nil); !errors.Is(err, backbone.ErrNoOwner) {
			t.Errorf("%s: %v", what, err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTheServersPortForClientsIsOfNoUseToOthers(t *testing.T) {
	c := newCluster(t, 2)
	url := backbone.ClientURL(c.start(0, 1)[0])
	for _, o := range [][]nats.Option{nil, {nats.UserInfo("athena", "")}, {nats.UserInfo("athena-system", "guess")}} {
		if conn, err := nats.Connect(url, o...); err == nil {
			conn.Close()
			t.Error("it lets in who does not know the password")
		}
	}
}
