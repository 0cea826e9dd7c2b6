package backbone_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/athena-hub/athena/internal/backbone"
)

// natsServer starts a NATS server on a free port of 127.0.0.1, which is the
// same again if port is given, and returns it.
func natsServer(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, MaxPayload: backbone.MaxMessageBytes,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func number(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func await[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatalf("%s: did not happen", what)
		panic("unreachable")
	}
}

// collect subscribes and returns a channel that gets the numbers of the first
// n messages.
func collect(t testing.TB, b *backbone.Backbone, id string, n int) <-chan []int {
	t.Helper()
	all := make(chan []int, 1)
	var got []int
	stop, err := b.SubscribeLive(id, func(data []byte) {
		if got = append(got, int(binary.BigEndian.Uint64(data))); len(got) == n {
			all <- got
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return all
}

func numbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestLiveMessagesArriveInOrder(t *testing.T) {
	b := open(t, backbone.Options{})
	const n = 20_000
	one, two := collect(t, b, "s1", n), collect(t, b, "s1", n)
	other := collect(t, b, "s2", 1)
	for i := range n {
		if err := b.PublishLive("s1", number(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.PublishLive("s2", number(0)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []<-chan []int{one, two} {
		if got := await(t, c, "all messages"); !slices.Equal(got, numbers(n)) {
			t.Error("messages are missing or out of order")
		}
	}
	await(t, other, "the other stream's message")
	if b.Dropped() != 0 {
		t.Errorf("%d were dropped", b.Dropped())
	}
}

func TestNothingPublishedAfterSubscribingIsMissed(t *testing.T) {
	s := natsServer(t, t.TempDir(), 0)
	for name, pair := range map[string]func(t *testing.T) (pub, sub *backbone.Backbone){
		"one process": func(t *testing.T) (pub, sub *backbone.Backbone) {
			b := open(t, backbone.Options{})
			return b, b
		},
		"two nodes": func(t *testing.T) (pub, sub *backbone.Backbone) {
			return open(t, backbone.Options{Node: "n1", NatsURL: s.ClientURL()}), open(t, backbone.Options{Node: "n2", NatsURL: s.ClientURL()})
		},
	} {
		t.Run(name, func(t *testing.T) {
			pub, sub := pair(t)
			for i := range 300 {
				got := make(chan []byte, 1)
				id := fmt.Sprint("s", i)
				stop, err := sub.SubscribeLive(id, func(data []byte) { got <- data })
				if err != nil {
					t.Fatal(err)
				}
				if err := pub.PublishLive(id, number(i)); err != nil {
					t.Fatal(err)
				}
				if data := await(t, got, "the message"); !slices.Equal(data, number(i)) {
					t.Fatalf("got %v", data)
				}
				stop()
			}
		})
	}
}

func TestAStoppedSubscriptionIsNotCalled(t *testing.T) {
	b := open(t, backbone.Options{})
	var mu sync.Mutex
	stopped, calls := false, 0
	stop, err := b.SubscribeLive("s1", func([]byte) {
		mu.Lock()
		defer mu.Unlock()
		if calls++; stopped {
			t.Error("called after stop")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	last := collect(t, b, "s1", 1001)
	for i := range 1000 {
		if err := b.PublishLive("s1", number(i)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	// One call may have been under way; it took the lock before this or not at all.
	if err := b.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	stopped = true
	mu.Unlock()
	stop() // again
	if err := b.PublishLive("s1", number(1000)); err != nil {
		t.Fatal(err)
	}
	await(t, last, "the other subscription's last message")
}

func TestAFunctionMayStopItsOwnSubscription(t *testing.T) {
	b := open(t, backbone.Options{})
	var stop func()
	ready, done := make(chan struct{}), make(chan struct{}, 2)
	stop, err := b.SubscribeLive("s1", func([]byte) {
		<-ready
		stop()
		done <- struct{}{}
	})
	close(ready)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := b.PublishLive("s1", number(i)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, done, "the first call")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if len(done) != 0 {
		t.Error("called again after it had stopped itself")
	}
}

func TestWhatASlowSubscriptionLosesIsCountedAndTold(t *testing.T) {
	var told atomic.Int64
	begun := make(chan struct{}, 1000)
	b := open(t, backbone.Options{PendingMessages: 10, OnDrop: func(id string, n int) {
		if id != "s1" || n < 1 {
			t.Errorf("told of %d messages of %s", n, id)
		}
		told.Add(int64(n))
		begun <- struct{}{}
	}})
	entered, release, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var got, atEnd []int
	finish := sync.OnceFunc(func() {
		atEnd = slices.Clone(got)
		close(end)
	})
	stop, err := b.SubscribeLive("s1", func(data []byte) {
		switch got = append(got, int(binary.BigEndian.Uint64(data))); got[len(got)-1] {
		case 0:
			close(entered)
			<-release
		case 100:
			finish()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			if err := b.PublishLive("s1", number(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(0, 1)
	await(t, entered, "the first call")
	publish(1, 100)
	await(t, begun, "word of the loss")
	close(release)
	for done := false; !done; { // the last one may be dropped as well
		publish(100, 101)
		select {
		case <-end:
			done = true
		case <-begun:
		}
	}
	// The connection tells of the first that it drops in a goroutine of its own,
	// which may be after 100 was handed over.
	missing := 101 - len(atEnd)
	for until := time.Now().Add(time.Minute); told.Load() < int64(missing) && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	lost := int(told.Load())
	if !slices.IsSorted(atEnd) || missing < 1 || lost < missing {
		t.Errorf("got %v, was told of %d lost", atEnd, lost)
	}
	if b.Dropped() < uint64(lost) {
		t.Errorf("counted %d, told of %d", b.Dropped(), lost)
	}
}

func TestANodeThatLostItsServerIsToldAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	s := natsServer(t, dir, 0)
	told := make(chan string, 10)
	b := open(t, backbone.Options{NatsURL: s.ClientURL(), OnDrop: func(id string, n int) {
		if n == 0 {
			told <- id
		}
	}})
	got := make(chan []byte, 1)
	stop, err := b.SubscribeLive("s1", func(data []byte) {
		select {
		case got <- data:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	port := s.Addr().String()
	var p int
	if _, err := fmt.Sscanf(port, "127.0.0.1:%d", &p); err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
	s.WaitForShutdown()
	natsServer(t, dir, p)
	if id := await(t, told, "word that messages may be missing"); id != "s1" {
		t.Errorf("told of %s", id)
	}
	// The connection that publishes may come back later; what it published
	// before may be lost.
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	end := time.Now().Add(20 * time.Second)
	for received := false; !received; {
		select {
		case <-got:
			received = true
		case now := <-again.C:
			if now.After(end) {
				t.Fatal("no message after the restart")
			}
			if err := b.PublishLive("s1", number(1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(t, b, "s1", 2, 2)
}

func TestLiveMessagesAreRefusedNotQueuedWithoutBound(t *testing.T) {
	b := open(t, backbone.Options{LiveQueueBytes: 1000})
	_, err := b.SubscribeLive("s1", func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.PublishLive("s1", make([]byte, 2000)); !errors.Is(err, backbone.ErrOverloaded) {
		t.Errorf("%v", err)
	}
	if err := b.PublishLive("s1", make([]byte, backbone.MaxMessageBytes+1)); !errors.Is(err, backbone.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	if err := b.PublishLive("s.1", nil); !errors.Is(err, backbone.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if b.Dropped() != 1 {
		t.Errorf("%d were counted", b.Dropped())
	}
}

func TestTwoNodesOnOneServerShareEverything(t *testing.T) {
	s := natsServer(t, t.TempDir(), 0)
	one := open(t, backbone.Options{Node: "n1", NatsURL: s.ClientURL()})
	two := open(t, backbone.Options{Node: "n2", NatsURL: s.ClientURL()})

	live := collect(t, two, "s1", 100)
	for i := range 100 {
		if err := one.PublishLive("s1", number(i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := await(t, live, "live messages"); !slices.Equal(got, numbers(100)) {
		t.Errorf("live: %v", got)
	}

	want := fill(t, one, "s1", 20, 3)
	wantLog(t, two, "s1", 0, want)
	wantLog(t, two, "s1", 31, want[10:])
	_, pos, _, err := two.LogTail(t.Context(), "s1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.AppendLog(t.Context(), "s1", pos-1, batch(61, 1)); !errors.Is(err, backbone.ErrConflict) {
		t.Errorf("append by the other node: %v", err)
	}

	stop, err := one.ServeHistory("s1", func(q []byte) []byte { return append([]byte("history of "), q...) })
	if err != nil {
		t.Fatal(err)
	}
	if got, err := two.AskHistory(t.Context(), "s1", []byte("7")); string(got) != "history of 7" || err != nil {
		t.Errorf("history: %q, %v", got, err)
	}
	stop()

	if err := one.MarkRunning(t.Context(), "s1", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	running, err := two.Running(t.Context())
	if err != nil || len(running) != 1 || string(running["s1"].Value) != "{}" {
		t.Errorf("running: %v, %v", running, err)
	}
	if err := two.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
