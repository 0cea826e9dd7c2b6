package backbone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/athena-hub/athena/internal/backbone"
)

func TestMain(m *testing.M) {
	if options := os.Getenv(nodeVariable); options != "" {
		os.Exit(runNode(options))
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, o backbone.Options) *backbone.Backbone {
	t.Helper()
	if o.DataDir == "" && o.NatsURL == "" {
		o.DataDir = t.TempDir()
	}
	if o.Node == "" {
		o.Node = "n1"
	}
	b, err := backbone.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestARestartKeepsTheLogAndRaisesTheEpoch(t *testing.T) {
	dir := t.TempDir()
	b := open(t, backbone.Options{DataDir: dir})
	epoch := b.Epoch()
	want := fill(t, b, "s1", 5, 3)
	if err := b.MarkRunning(t.Context(), "s1", []byte(`{"node":"n1"}`)); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	b = open(t, backbone.Options{DataDir: dir})
	if b.Epoch() <= epoch {
		t.Errorf("the epoch went from %d to %d", epoch, b.Epoch())
	}
	wantLog(t, b, "s1", 0, want)
	running, err := b.Running(t.Context())
	if err != nil || len(running) != 1 || string(running["s1"].Value) != `{"node":"n1"}` {
		t.Errorf("running after restart: %v, %v", running, err)
	}
}

func TestTheEpochRisesThoughTheClockWasSetBack(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for i := range 3 {
		b := open(t, backbone.Options{DataDir: dir})
		if b.Epoch() <= last || b.Epoch() >= 1<<53 {
			t.Errorf("start %d: epoch %d after %d", i, b.Epoch(), last)
		}
		last = b.Epoch()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACopyOfTheDataDirectoryOfARunningNodeOpens(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	b := open(t, backbone.Options{DataDir: dir})
	want := fill(t, b, "s1", 50, 4)
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	after := open(t, backbone.Options{DataDir: crashed})
	wantLog(t, after, "s1", 0, want)
	if after.Epoch() <= b.Epoch() {
		t.Errorf("the epoch went from %d to %d", b.Epoch(), after.Epoch())
	}
	last, pos, _, err := after.LogTail(t.Context(), "s1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.AppendLog(t.Context(), "s1", pos, batch(last+1, 1)); err != nil {
		t.Errorf("append after the crash: %v", err)
	}
}

func TestADataDirectoryIsUsedByOneAtATime(t *testing.T) {
	dir := t.TempDir()
	b := open(t, backbone.Options{DataDir: dir})
	_, err := backbone.Open(t.Context(), backbone.Options{DataDir: dir, Node: "n2"})
	if !errors.Is(err, backbone.ErrLocked) {
		t.Fatalf("a second Open gave %v", err)
	}
	for _, part := range []string{dir, "process ", "--data-dir"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, backbone.Options{DataDir: dir})
}

func TestADataDirectoryThatCannotBeWrittenIsAnErrorOfOpen(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nats"), []byte("a file, where a directory should be"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := backbone.Open(t.Context(), backbone.Options{DataDir: dir, Node: "n1"}); err == nil {
		t.Errorf("Open succeeded: %v", b.Close())
	}
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]backbone.Options{
		"no node":        {DataDir: dir},
		"bad node":       {DataDir: dir, Node: "a.b"},
		"no directory":   {Node: "n1"},
		"negative limit": {DataDir: dir, Node: "n1", LogMaxBytes: -1},
		"short age":      {DataDir: dir, Node: "n1", LogMaxAge: time.Millisecond},
		"open to all":    {DataDir: dir, Node: "n1", Cluster: &backbone.ClusterOptions{Name: "c", Listen: "0.0.0.0:0"}},
		"every address":  {DataDir: dir, Node: "n1", Cluster: &backbone.ClusterOptions{Name: "c", Listen: ":0"}},
		"no cluster":     {DataDir: dir, Node: "n1", Cluster: &backbone.ClusterOptions{Listen: "127.0.0.1:0"}},
		"no address":     {DataDir: dir, Node: "n1", Cluster: &backbone.ClusterOptions{Name: "c"}},
		"odd route":      {DataDir: dir, Node: "n1", Cluster: &backbone.ClusterOptions{Name: "c", Listen: "127.0.0.1:0", Routes: []string{"10.0.0.1"}}},
		"two kinds":      {DataDir: dir, Node: "n1", NatsURL: "nats://127.0.0.1", Cluster: &backbone.ClusterOptions{Name: "c", Listen: "127.0.0.1:0"}},
	} {
		if _, err := backbone.Open(t.Context(), o); !errors.Is(err, backbone.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// listening returns the sockets on which this process listens.
func listening(t *testing.T) map[string]bool {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	mine := make(map[string]bool)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:[") {
			mine[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	found := make(map[string]bool)
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && mine[f[9]] {
				found[f[1]] = true
			}
		}
	}
	return found
}

func TestTheEmbeddedServerListensNowhere(t *testing.T) {
	before := listening(t)
	open(t, backbone.Options{})
	if after := listening(t); len(after) != len(before) {
		t.Errorf("listening sockets: %v, before %v", after, before)
	}
}

func TestStartAndStopAreQuick(t *testing.T) {
	start := time.Now()
	b := open(t, backbone.Options{})
	started := time.Since(start)
	if _, err := b.SubscribeLive("s1", func([]byte) {}); err != nil {
		t.Fatal(err)
	}
	fill(t, b, "s1", 20, 2)
	start = time.Now()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	stopped := time.Since(start)
	t.Logf("start %v, stop %v", started, stopped)
	// Some 40 and 10 ms; these bounds hold on a busy machine too.
	if started > 3*time.Second || stopped > 2*time.Second {
		t.Errorf("start took %v, stop %v", started, stopped)
	}
}

func TestPingTellsWhetherTheBackboneWorks(t *testing.T) {
	b := open(t, backbone.Options{})
	if err := b.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Ping(t.Context()); !errors.Is(err, backbone.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestLimitsMayBeChangedFromOneStartToTheNext(t *testing.T) {
	dir := t.TempDir()
	b := open(t, backbone.Options{DataDir: dir})
	want := fill(t, b, "s1", 10, 3)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, backbone.Options{DataDir: dir, LogMaxBytes: 1 << 20, LogMaxAge: time.Hour, LogMaxBytesPerStream: 4 * 4 << 10})
	wantLog(t, b, "s1", 18, want[6:])
	if _, err := b.ReadLog(t.Context(), "s1", 0, 0); !errors.Is(err, backbone.ErrGap) {
		t.Errorf("what a lower limit dropped: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, backbone.Options{DataDir: dir, LogMaxBytes: 8 << 30})
	wantLog(t, b, "s1", 18, want[6:])
}

func TestAStartSaysNothingAboveDebug(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	for range 2 {
		b := open(t, backbone.Options{DataDir: dir, Logger: zerolog.New(zerolog.SyncWriter(&out)).Level(zerolog.InfoLevel)})
		fill(t, b, fmt.Sprint("s", b.Epoch()), 2, 2)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() != 0 {
		t.Errorf("it said %s", out.String())
	}
}
