package backbone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/athena-hub/athena/internal/backbone"
)

// TestEveryKindOfStoreKeepsTheContract runs the same on a node that is alone,
// on one of a cluster, and on servers elsewhere.
func TestEveryKindOfStoreKeepsTheContract(t *testing.T) {
	kinds := map[string]func(t *testing.T) *backbone.Backbone{
		"alone": func(t *testing.T) *backbone.Backbone { return open(t, backbone.Options{}) },
		"one of three": func(t *testing.T) *backbone.Backbone {
			b := newCluster(t, 3).start(0, 1, 2)[1]
			settled(t, b)
			return b
		},
		"a server elsewhere": func(t *testing.T) *backbone.Backbone {
			s := natsServer(t, t.TempDir(), 0)
			return open(t, backbone.Options{NatsURL: "nats://127.0.0.1:1," + s.ClientURL()})
		},
		"three servers elsewhere": func(t *testing.T) *backbone.Backbone {
			b := open(t, backbone.Options{NatsURL: natsCluster(t)})
			if s := b.Store(t.Context()); s.Clustered || !s.Quorum || s.Replicas != 3 {
				t.Errorf("%+v", s)
			}
			return b
		},
	}
	contract := map[string]func(*testing.T, *backbone.Backbone){
		"log": contractLog, "running records": contractRunning, "leases": contractLeases,
		"requests": contractRequests, "keys": contractKeys, "messages": contractMessages,
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Run(kind, func(t *testing.T) {
			b := kinds[kind](t)
			for _, part := range slices.Sorted(maps.Keys(contract)) {
				t.Run(part, func(t *testing.T) { contract[part](t, b) })
			}
			if err := b.Ping(t.Context()); err != nil || !b.StoreUp() || b.Epoch() == 0 {
				t.Errorf("ping: %v, up %v, epoch %d", err, b.StoreUp(), b.Epoch())
			}
		})
	}
}

// natsCluster starts three servers of one cluster and returns their URLs.
func natsCluster(t *testing.T) string {
	t.Helper()
	routes := addresses(t, 3)
	urls := ""
	var all []*server.Server
	for i, r := range routes {
		host, port := hostPort(t, r)
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), MaxPayload: backbone.MaxMessageBytes,
			Cluster: server.ClusterOpts{Name: "elsewhere", Host: host, Port: port},
			Routes:  server.RoutesFromStr("nats://" + routes[0] + ",nats://" + routes[1] + ",nats://" + routes[2]),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		all = append(all, s)
	}
	for _, s := range all {
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("a NATS server is not ready")
		}
		urls += "," + s.ClientURL()
	}
	eventually(t, "three servers that know each other", func() bool {
		return slices.ContainsFunc(all, func(s *server.Server) bool { return len(s.JetStreamClusterPeers()) == 3 })
	})
	return urls[1:]
}

func contractLog(t *testing.T, b *backbone.Backbone) {
	if err := steadily(t, func() error { _, err := b.ReadLog(t.Context(), "s1", 0, 0); return err }); !errors.Is(err, backbone.ErrNotFound) {
		t.Errorf("no such stream: %v", err)
	}
	if err := steadily(t, func() error { _, err := b.LogFirst(t.Context(), "s1"); return err }); !errors.Is(err, backbone.ErrNotFound) {
		t.Errorf("the first of no such stream: %v", err)
	}
	all := fill(t, b, "s1", 30, 3)
	wantLogSoon(t, b, "s1", all)
	eventually(t, "the same from the middle on", func() bool {
		got, err := b.ReadLog(t.Context(), "s1", 45, 1<<20)
		if err != nil {
			if errors.Is(err, backbone.ErrNoStore) { // for a moment, as between two leaders
				return false
			}
			t.Fatal(err)
		}
		return reflect.DeepEqual(got, all[15:])
	})
	wantLog(t, b, "s1", 90, nil)
	wantLog(t, b, "s1", 95, nil)
	last, pos, end, err := b.LogTail(t.Context(), "s1")
	if last != 90 || !end || err != nil {
		t.Errorf("tail: %d, end %v, %v", last, end, err)
	}
	if first, err := b.LogFirst(t.Context(), "s1"); first != 1 || err != nil {
		t.Errorf("first: %d, %v", first, err)
	}
	next := batch(91, 1)
	pos, err = b.AppendLog(t.Context(), "s1", pos, next)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.AppendLog(t.Context(), "s1", pos-1, next); err == nil && again != pos {
		t.Errorf("a retry was stored at %d, %d before", again, pos)
	}
	if _, err := b.AppendLog(t.Context(), "s1", 0, batch(91, 2)); !errors.Is(err, backbone.ErrConflict) {
		t.Errorf("another writer: %v", err)
	}
	// Many at once, as the store of a node does it.
	var waits []func() (uint64, error)
	for i := range 100 {
		waits = append(waits, b.StartAppend(t.Context(), fmt.Sprint("many", i), 0, batch(1, 2)))
	}
	for _, wait := range waits {
		if _, err := wait(); err != nil {
			t.Error(err)
		}
	}
}

func contractRunning(t *testing.T, b *backbone.Backbone) {
	ctx := t.Context()
	var r backbone.Record
	read := func() (err error) { r, err = b.RunningRecord(ctx, "r1"); return err }
	if err := steadily(t, read); r.Revision != 0 || r.Value != nil || err != nil {
		t.Errorf("no record: %+v, %v", r, err)
	}
	if err := steadily(t, func() error { return b.MarkRunning(ctx, "r1", []byte("a")) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the record", func() bool {
		r, err := b.RunningRecord(ctx, "r1")
		return err == nil && string(r.Value) == "a"
	})
	if err := steadily(t, read); err != nil {
		t.Fatal(err)
	}
	var wins atomic.Int32
	var next atomic.Uint64
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			n, taken, err := b.TakeRunning(ctx, "r1", fmt.Append(nil, "by ", i), r.Revision)
			if err != nil {
				t.Error(err)
			}
			if taken {
				wins.Add(1)
				next.Store(n)
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d of 10 took it", wins.Load())
	}
	// Who takes what it has is told so, as after an answer that was lost.
	again, taken, err := b.TakeRunning(ctx, "r1", []byte("again"), next.Load())
	if err != nil || !taken {
		t.Fatalf("take it again: %v, %v", taken, err)
	}
	if n, taken, err := b.TakeRunning(ctx, "r1", []byte("again"), next.Load()); n != again || !taken || err != nil {
		t.Errorf("a retry: %d, %v, %v; it is %d", n, taken, err, again)
	}
	if _, taken, err := b.TakeRunning(ctx, "r2", []byte("new"), 0); !taken || err != nil {
		t.Errorf("take what nobody has: %v, %v", taken, err)
	}
	for i := range 600 { // more than are read at once
		if err := b.MarkRunning(ctx, fmt.Sprint("x", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.ClearRunning(ctx, "r2"); err != nil {
		t.Fatal(err)
	}
	var all map[string]backbone.Record
	eventually(t, "that all replicas have it", func() bool {
		if all, err = b.Running(ctx); err != nil {
			if errors.Is(err, backbone.ErrNoStore) { // for a moment, as between two leaders
				return false
			}
			t.Fatal(err)
		}
		return len(all) == 601
	})
	if string(all["r1"].Value) != "again" || all["r1"].Revision != again || string(all["x599"].Value) != "x" || all["r2"].Revision != 0 {
		t.Errorf("all: %+v, %+v, %+v", all["r1"], all["x599"], all["r2"])
	}
}

func contractLeases(t *testing.T, b *backbone.Backbone) {
	ctx := t.Context()
	first, err := b.WriteLease(ctx, []byte("up"), 0)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.WriteLease(ctx, []byte("up, still"), first)
	if err != nil || second <= first {
		t.Fatalf("%d after %d, %v", second, first, err)
	}
	if _, err := b.WriteLease(ctx, []byte("other"), first); !errors.Is(err, backbone.ErrConflict) {
		t.Errorf("by an old revision: %v", err)
	}
	if _, err := b.WriteLease(ctx, []byte("other"), 0); !errors.Is(err, backbone.ErrConflict) {
		t.Errorf("anew: %v", err)
	}
	// A renewal whose answer was lost: the same again, by the revision before.
	third, err := b.WriteLease(ctx, []byte("up, still"), first)
	if err != nil || third <= second {
		t.Errorf("again: %d after %d, %v", third, second, err)
	}
	eventually(t, "the lease", func() bool {
		all, err := b.Leases(ctx)
		if err != nil {
			if errors.Is(err, backbone.ErrNoStore) { // for a moment, as between two leaders
				return false
			}
			t.Fatal(err)
		}
		return len(all) == 1 && string(all["n1"].Value)+string(all["b"].Value) == "up, still"
	})
	node := "n1"
	if all, err := b.Leases(ctx); err != nil {
		t.Fatal(err)
	} else if _, ok := all[node]; !ok {
		node = "b"
	}
	if removed, err := b.RemoveLease(ctx, node, first); removed || err != nil {
		t.Errorf("remove an old one: %v, %v", removed, err)
	}
	if removed, err := b.RemoveLease(ctx, node, third); !removed || err != nil {
		t.Errorf("remove: %v, %v", removed, err)
	}
	if removed, err := b.RemoveLease(ctx, node, third); removed || err != nil {
		t.Errorf("remove again: %v, %v", removed, err)
	}
	if _, err := b.WriteLease(ctx, []byte("up, still"), third); !errors.Is(err, backbone.ErrConflict) {
		t.Errorf("renew what was removed: %v", err)
	}
	if _, err := b.WriteLease(ctx, []byte("new"), 0); err != nil {
		t.Errorf("take a new one: %v", err)
	}
}

func contractRequests(t *testing.T, b *backbone.Backbone) {
	ctx := t.Context()
	var kept []byte
	if err := steadily(t, func() (err error) { kept, err = b.KeptRequest(ctx, "q1"); return err }); kept != nil || err != nil {
		t.Errorf("none kept: %q, %v", kept, err)
	}
	big := bytes.Repeat([]byte("x"), backbone.MaxRequestBytes)
	if err := steadily(t, func() error { return b.KeepRequest(ctx, "q1", big) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request", func() bool {
		got, err := b.KeptRequest(ctx, "q1")
		if err != nil {
			if errors.Is(err, backbone.ErrNoStore) { // for a moment, as between two leaders
				return false
			}
			t.Fatal(err)
		}
		return bytes.Equal(got, big)
	})
	if err := b.KeepRequest(ctx, "q1", append(big, 'x')); !errors.Is(err, backbone.ErrTooLarge) {
		t.Errorf("one byte more: %v", err)
	}
	for range 2 {
		if err := b.DropRequest(ctx, "q1"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "its end", func() bool {
		got, err := b.KeptRequest(ctx, "q1")
		return err == nil && got == nil
	})
}

func contractKeys(t *testing.T, b *backbone.Backbone) {
	ctx := t.Context()
	first, created, err := b.CreateKey(ctx, "k", []byte("one"))
	if !created || err != nil {
		t.Fatalf("%v, %v", created, err)
	}
	if _, created, err := b.CreateKey(ctx, "k", []byte("two")); created || err != nil {
		t.Errorf("again: %v, %v", created, err)
	}
	next, updated, err := b.UpdateKey(ctx, "k", []byte("three"), first)
	if !updated || err != nil {
		t.Fatalf("update: %v, %v", updated, err)
	}
	if _, updated, err := b.UpdateKey(ctx, "k", []byte("four"), first); updated || err != nil {
		t.Errorf("update of what was replaced: %v, %v", updated, err)
	}
	if err := b.DeleteKey(ctx, "k", next); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another one after its end", func() bool { // a replica may not know of that at once
		_, created, err := b.CreateKey(ctx, "k", []byte("five"))
		if err != nil && !errors.Is(err, backbone.ErrNoStore) {
			t.Fatal(err)
		}
		return created && err == nil
	})
}

func contractMessages(t *testing.T, b *backbone.Backbone) {
	ctx := t.Context()
	if _, err := b.Ask(ctx, "topic", "name", nil); !errors.Is(err, backbone.ErrNoOwner) {
		t.Errorf("nobody serves it: %v", err)
	}
	stop, err := b.Serve("topic", "name", func(q []byte) []byte { return append(q, '!') })
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Ask(ctx, "topic", "name", []byte("hi")); string(got) != "hi!" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	stop()
	stop()
	heard := make(chan string, 1)
	stopHearing, err := b.Subscribe("topic", func(data []byte) { heard <- string(data) })
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish("topic", []byte("news")); err != nil {
		t.Fatal(err)
	}
	if got := await(t, heard, "what was published"); got != "news" {
		t.Errorf("%q", got)
	}
	stopHearing()

	if got, err := b.Gather(ctx, "topic", nil, 3); len(got) != 0 || err != nil {
		t.Errorf("nobody answers: %q, %v", got, err)
	}
	for i := range 3 {
		stop, err := b.Answer("topic", func(q []byte) []byte {
			if i == 2 && string(q) != "all" {
				return nil
			}
			return fmt.Append(q, i)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	got, err := b.Gather(ctx, "topic", []byte("all"), 3)
	slices.SortFunc(got, bytes.Compare)
	if fmt.Sprintf("%s", got) != "[all0 all1 all2]" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := b.Gather(ctx, "topic", []byte("all"), 2); len(got) != 2 || err != nil {
		t.Errorf("two of three: %q, %v", got, err)
	}
	short, cancel := context.WithTimeout(ctx, time.Second) // in which two answer, on a busy machine too
	defer cancel()
	if got, err := b.Gather(short, "topic", []byte("few"), 3); len(got) != 2 || err != nil {
		t.Errorf("two answer, and the time ends: %q, %v", got, err)
	}
	for _, topic := range []string{"log", "live", "gather", "ping", "a.b", ""} {
		if err := b.Publish(topic, nil); !errors.Is(err, backbone.ErrInvalid) {
			t.Errorf("topic %q: %v", topic, err)
		}
	}
}

func TestGatherLeavesNothingBehind(t *testing.T) {
	b := open(t, backbone.Options{})
	stop, err := b.Answer("topic", func(q []byte) []byte { return q })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	before := backbone.Subscriptions(b)
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if got, err := b.Gather(ctx, "topic", []byte("q"), 1); len(got) != 1 || err != nil {
			t.Fatal(got, err)
		}
		cancel()
	}
	if after := backbone.Subscriptions(b); after != before {
		t.Errorf("%d subscriptions, %d before", after, before)
	}
}

func TestGatheringEndsWhenTheBackboneCloses(t *testing.T) {
	b := open(t, backbone.Options{})
	asked := make(chan struct{})
	if _, err := b.Answer("topic", func([]byte) []byte { close(asked); return nil }); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := b.Gather(context.Background(), "topic", nil, 1)
		ended <- err
	}()
	await(t, asked, "the question")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := await(t, ended, "its end"); !errors.Is(err, backbone.ErrClosed) {
		t.Error(err)
	}
}

func TestServersElsewhereThatComeLaterAreWaitedFor(t *testing.T) {
	address := addresses(t, 1)[0]
	_, port := hostPort(t, address)
	opened := make(chan *backbone.Backbone, 1)
	go func() {
		b, err := backbone.Open(context.Background(), backbone.Options{Node: "n1", NatsURL: "nats://" + address})
		if err != nil {
			t.Error(err)
		}
		opened <- b
	}()
	natsServer(t, t.TempDir(), port)
	b := await(t, opened, "the connection")
	if b == nil {
		t.FailNow()
	}
	fill(t, b, "s1", 2, 2)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestServersElsewhereThatAreNotThereOrRefuseAreAnErrorOfOpen(t *testing.T) {
	secured, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, Username: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	secured.Start()
	defer secured.WaitForShutdown()
	defer secured.Shutdown()
	if !secured.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	for what, o := range map[string]backbone.Options{
		"nobody there":     {NatsURL: "nats://" + addresses(t, 1)[0], StoreWait: 100 * time.Millisecond},
		"a wrong password": {NatsURL: "nats://u:x@" + secured.Addr().String()},
		"no credentials":   {NatsURL: secured.ClientURL(), NatsCredentials: "no such file"},
	} {
		o.Node = "n1"
		if b, err := backbone.Open(t.Context(), o); err == nil {
			t.Errorf("%s: no error; %v", what, b.Close())
		}
	}
	// With the password, but without a store to speak of: that may come.
	b := open(t, backbone.Options{NatsURL: "nats://u:p@" + secured.Addr().String(), StoreWait: 100 * time.Millisecond})
	if err := b.Ping(t.Context()); !errors.Is(err, backbone.ErrNoStore) {
		t.Errorf("ping: %v", err)
	}
}

func TestAServerElsewhereThatGoesAwayIsNoStoreUntilItIsBack(t *testing.T) {
	dir := t.TempDir()
	s := natsServer(t, dir, 0)
	_, port := hostPort(t, s.Addr().String())
	b := open(t, backbone.Options{NatsURL: s.ClientURL()})
	w := &logWriter{id: "s1"}
	w.add(t, b, 3)
	s.Shutdown()
	s.WaitForShutdown()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := b.AppendLog(ctx, "s1", w.pos, batch(7, 2)); !errors.Is(err, backbone.ErrNoStore) {
		t.Errorf("append: %v", err)
	}
	eventually(t, "word of it", func() bool { return !b.StoreUp() })
	natsServer(t, dir, port)
	eventually(t, "its return", b.StoreUp)
	w.add(t, b, 3)
	wantLog(t, b, "s1", 0, w.all)
}

func TestAStoreThatIsRemovedIsMadeAnew(t *testing.T) {
	s := natsServer(t, t.TempDir(), 0)
	b := open(t, backbone.Options{NatsURL: s.ClientURL()})
	fill(t, b, "s1", 3, 2)
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "athena_log"); err != nil {
		t.Fatal(err)
	}
	w := &logWriter{id: "s2"}
	w.add(t, b, 3)
	wantLog(t, b, "s2", 0, w.all)
}

// The buckets as the version before made them.
func TestAStoreOfAnEarlierVersionIsTakenOver(t *testing.T) {
	s := natsServer(t, t.TempDir(), 0)
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	running, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "athena_running", Description: "Athena's running jobs, by stream.",
		MaxValueSize: backbone.MaxRecordBytes, MaxBytes: 32 << 20, History: 1, LimitMarkerTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := running.PutString(t.Context(), "s1", "{}"); err != nil {
		t.Fatal(err)
	}
	nodes, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "athena_nodes", Description: "Athena's nodes, by name.", MaxBytes: 8 << 20, History: 1})
	if err != nil {
		t.Fatal(err)
	}
	const last = 1<<53 - 100
	if _, err := nodes.PutString(t.Context(), "epoch_n1", fmt.Sprintf(`{"epoch":%d}`, last)); err != nil {
		t.Fatal(err)
	}
	b := open(t, backbone.Options{NatsURL: s.ClientURL()})
	if b.Epoch() != last+1 {
		t.Errorf("epoch %d after %d", b.Epoch(), last)
	}
	if all, err := b.Running(t.Context()); len(all) != 1 || string(all["s1"].Value) != "{}" || err != nil {
		t.Errorf("%v, %v", all, err)
	}
	contractLeases(t, b)
}
