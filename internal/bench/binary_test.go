//go:build linux

package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binaryDir holds the binary, and is removed at the end of all tests.
var binaryDir string

// buildBinary builds cmd/athena once. Where profiles are wanted it gets a file
// that writes one.
var buildBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "athena-bench-")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	path := filepath.Join(dir, "athena")
	args := []string{"build", "-o", path}
	if os.Getenv(profileEnv) != "" {
		overlay, err := profileOverlay(dir)
		if err != nil {
			return "", err
		}
		args = append(args, "-overlay", overlay)
	}
	out, err := exec.Command("go", append(args, "../../cmd/athena")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build athena: %w\n%s", err, out)
	}
	return path, nil
})

func profileOverlay(dir string) (string, error) {
	source, err := filepath.Abs("testdata/profile.go")
	if err != nil {
		return "", err
	}
	place, err := filepath.Abs("../../cmd/athena/bench_profile.go")
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]map[string]string{"Replace": {place: source}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

// A backend is a server between an upstream and clients: Athena's binary, or
// the proxy.
type backend struct {
	addr string
	pid  int
}

func startProxy(tb testing.TB, upstream string) backend {
	tb.Helper()
	c := startChild(tb, spec{Role: "proxy", Upstream: upstream})
	return backend{c.addr, c.cmd.Process.Pid}
}

// A launched is Athena's binary on its way to being ready, or running.
type launched struct {
	pid  int
	dir  string        // its data directory
	end  func()        // asks it to end, in order
	addr <-chan string // has its address once it is ready; closed when it has ended
	last func() string // its last words, once addr is closed
}

// startBinary runs `athena serve`, whose only model provider is upstream, until
// the test ends.
func startBinary(tb testing.TB, upstream string, flags ...string) backend {
	tb.Helper()
	return launch(tb, upstream, flags...).ready(tb, dialLimit)
}

// launch is startBinary that does not wait until the binary is ready.
func launch(tb testing.TB, upstream string, flags ...string) *launched {
	tb.Helper()
	path, err := buildBinary()
	if err != nil {
		tb.Fatal(err)
	}
	dir, profile, end := tb.TempDir(), profilePath(tb, "binary"), syscall.SIGTERM
	if profile != "" {
		end = syscall.SIGUSR1 // see testdata/profile.go
	}
	// It is ended by a signal, in order.
	cmd := exec.Command(path, append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", dir,
		"--log-format", "json", "--max-analyses", "2000", "--provider-concurrency", "2000", "--network-limit", "2000", "--drain-timeout", "1s"}, flags...)...)
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "OPENAI_API_KEY=bench-key-of-no-use", "OPENAI_BASE_URL=" + upstream + "/v1",
		"ATHENA_BENCH_PROFILE_FILE=" + profile}
	logs, err := cmd.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	addr := make(chan string, 1)
	var reading sync.WaitGroup
	var last string
	reading.Go(func() {
		defer close(addr)
		lines := bufio.NewScanner(logs)
		for lines.Scan() {
			last = lines.Text()
			if _, rest, ok := strings.Cut(last, "Athena is ready at http://"); ok {
				host, _, _ := strings.Cut(rest, `"`)
				addr <- host
			}
		}
	})
	l := &launched{pid: cmd.Process.Pid, dir: dir, addr: addr, last: func() string { return last }}
	l.end = sync.OnceFunc(func() { _ = cmd.Process.Signal(end) }) // it may have ended
	tb.Cleanup(func() {
		l.end()
		kill := time.AfterFunc(stopLimit, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			tb.Error(errors.Join(fmt.Errorf("athena's last words: %s", last), err))
		}
	})
	return l
}

// ready waits until the binary serves.
func (l *launched) ready(tb testing.TB, limit time.Duration) backend {
	tb.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case host, ok := <-l.addr:
		if !ok {
			tb.Fatalf("athena has ended: %s", l.last())
		}
		return backend{host, l.pid}
	case <-timer.C:
		tb.Fatal("athena did not say that it is ready")
	}
	panic("unreachable")
}
