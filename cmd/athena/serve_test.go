package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/protocol"
)

// serveVariable makes the test binary be the program: the tests below start it
// as a process of its own, which can be killed.
const serveVariable = "ATHENA_TEST_SERVE"

func TestMain(m *testing.M) {
	if to := os.Getenv(floodVariable); to != "" {
		os.Exit(flood(to))
	}
	if os.Getenv(serveVariable) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if os.Getenv(lspVariable) != "" { // an editor holds it
		os.Exit(run(context.Background(), &environment{args: os.Args[1:], environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}))
	}
	// The test holds the other end of stdin, so that nothing is left running
	// when it dies.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	interrupts, stop := notifyInterrupts()
	code := run(context.Background(), &environment{args: os.Args[1:], environ: os.Environ(),
		stdin: strings.NewReader(""), stdout: os.Stdout, stderr: os.Stderr, interrupts: interrupts})
	stop()
	os.Exit(code)
}

// readyWithin bounds the start of a server, goneWithin its end after a
// signal, beyond what it was told to drain.
const (
	readyWithin = 30 * time.Second
	goneWithin  = 30 * time.Second
)

// keptLines is how much of a server's log a failed test shows.
const keptLines = 60

// logsVariable names a directory that gets the whole logs of servers, where the
// newest lines don't say enough.
const logsVariable = "ATHENA_TORTURE_LOGS"

// A process is `athena serve` as a process of its own.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	read  sync.WaitGroup // the goroutine that reads the log
	ready chan string    // gets the URL, and is closed when the log ends

	mu    sync.Mutex
	lines []string      // guarded by mu: the newest of the log
	grown chan struct{} // guarded by mu: closed and replaced with each line
	races []string      // guarded by mu: what the race detector said
}

// command is the program with these arguments, in an environment that holds
// nothing but variables ("NAME=value").
func command(ctx context.Context, variables []string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append([]string{serveVariable + "=1", "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "HOME=" + os.TempDir()}, variables...)
	return cmd, nil
}

// launch starts a server and returns once it is ready.
func launch(variables []string, args ...string) (p *process, url string, err error) {
	cmd, err := command(context.Background(), variables, append([]string{"serve", "--log-format", "json"}, args...)...)
	if err != nil {
		return nil, "", err
	}
	p = &process{cmd: cmd, ready: make(chan string, 1), grown: make(chan struct{})}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	p.read.Go(func() {
		if dir := os.Getenv(logsVariable); dir != "" {
			f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.log", time.Now().Format("150405.000"), cmd.Process.Pid)))
			if err == nil { // else the newest lines have to do
				defer func() { _ = f.Close() }()
				p.readLog(io.TeeReader(stderr, f))
				return
			}
		}
		p.readLog(stderr)
	})
	select {
	case url, ok := <-p.ready:
		if ok {
			return p, url, nil
		}
		err = errors.New("it ended before it was ready")
	case <-time.After(readyWithin):
		err = errors.New("it was not ready in time")
	}
	_ = p.kill() // the first error counts
	return nil, "", fmt.Errorf("start the server: %w\n%s", err, p.log())
}

func (p *process) readLog(r io.Reader) {
	defer close(p.ready)
	announced := false
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		p.mu.Lock()
		if p.lines = append(p.lines, line); len(p.lines) > keptLines {
			p.lines = p.lines[1:]
		}
		if strings.Contains(line, "DATA RACE") || len(p.races) > 0 && len(p.races) < keptLines {
			p.races = append(p.races, line)
		}
		close(p.grown)
		p.grown = make(chan struct{})
		p.mu.Unlock()
		var entry struct {
			Message string `json:"message"`
		}
		if announced || json.Unmarshal([]byte(line), &entry) != nil {
			continue
		}
		if url, ok := strings.CutPrefix(entry.Message, "Athena is ready at "); ok {
			announced = true
			p.ready <- url
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line that was too long
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return "the server's log:\n" + strings.Join(p.lines, "\n")
}

// waitLog waits until the log says text.
func (p *process) waitLog(ctx context.Context, text string) error {
	for {
		p.mu.Lock()
		said := slices.ContainsFunc(p.lines, func(line string) bool { return strings.Contains(line, text) })
		grown := p.grown
		p.mu.Unlock()
		if said {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("wait for %q in the log: %w", text, ctx.Err())
		}
	}
}

// end waits for the process, and fails if the race detector found something.
func (p *process) end() error {
	p.read.Wait()
	err := p.cmd.Wait()
	_ = p.stdin.Close() // the process has gone
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.races) > 0 {
		return fmt.Errorf("data race in the server:\n%s", strings.Join(p.races, "\n"))
	}
	return err
}

// kill ends the process as a crash does.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := p.end()
	if e, ok := errors.AsType[*exec.ExitError](err); ok && !e.Exited() {
		return nil
	}
	return err
}

// interrupt asks the process to end and waits until it has, well.
func (p *process) interrupt() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	late := time.AfterFunc(goneWithin, func() { _ = p.cmd.Process.Kill() })
	err := p.end()
	if !late.Stop() {
		return fmt.Errorf("the server did not end within %v of SIGTERM\n%s", goneWithin, p.log())
	}
	if err != nil {
		return fmt.Errorf("the server ended badly after SIGTERM: %w\n%s", err, p.log())
	}
	return nil
}

// freeAddress returns an address on loopback that a server can come back to.
// Its port is below those that outgoing connections get (from 32768 on), so
// that none takes it while the server is away.
func freeAddress() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(17000))
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, ln.Close()
		}
	}
	return "", errors.New("no free port was found")
}

// A server is a node under test that may be stopped, killed and started again
// on the same address and data directory.
type server struct {
	t         *testing.T
	url       string
	addr      string
	variables []string
	args      []string
	process   *process // nil while it is stopped
}

// serve starts a server with the variables, of which the vendors' are the most
// useful, and flags; it is stopped with the test.
func serve(t *testing.T, variables []string, args ...string) *server {
	t.Helper()
	addr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, addr: addr, variables: variables,
		args: append([]string{"--listen", addr, "--data-dir", t.TempDir(), "--log-level", "info",
			"--coalesce-window", "2ms", "--batch-interval", "20ms", "--reconnect-delay", "20ms", "--drain-timeout", "10s"}, args...)}
	s.start()
	t.Cleanup(func() {
		if s.process == nil {
			return
		}
		if t.Failed() {
			t.Log(s.process.log())
		}
		if err := s.process.kill(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *server) start() {
	s.t.Helper()
	var err error
	if s.process, s.url, err = launch(s.variables, s.args...); err != nil {
		s.t.Fatal(err)
	}
}

// stop ends the server as an administrator does.
func (s *server) stop() {
	s.t.Helper()
	p := s.process
	s.process = nil
	if err := p.interrupt(); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends the server as a crash does.
func (s *server) kill() {
	s.t.Helper()
	p := s.process
	s.process = nil
	if err := p.kill(); err != nil {
		s.t.Fatal(err)
	}
}

func TestServeRefusesWhatItIsNotConfiguredFor(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"another address than loopback without a key", []string{"--listen", "0.0.0.0:0"}, exitUsage, "--api-key"},
		{"a key that is too short", []string{"--api-key", "short"}, exitUsage, "openssl rand"},
		{"an unknown flag", []string{"--colour", "red"}, exitUsage, "--colour"},
		{"an unknown transport", []string{"--transports", "pigeon"}, exitUsage, "pigeon"},
		{"a value out of range", []string{"--heartbeat", "1ms"}, exitUsage, "heartbeat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), readyWithin)
			defer cancel()
			cmd, err := command(ctx, nil, append([]string{"serve", "--data-dir", t.TempDir()}, c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			// A pipe that stays open: at its end the program would think that
			// the test has died.
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stdin.Close() }() // the program has ended
			out, err := cmd.CombinedOutput()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.ExitCode() != c.code || !strings.Contains(string(out), c.says) {
				t.Fatalf("err %v, output %q; want exit code %d and %q", err, out, c.code, c.says)
			}
		})
	}
}

func TestServeSaysThatAnAddressOrADirectoryIsInUse(t *testing.T) {
	s := serve(t, nil)
	dir := s.args[3]
	for name, args := range map[string][]string{
		"address":   {"--listen", s.addr, "--data-dir", t.TempDir()},
		"directory": {"--listen", "127.0.0.1:0", "--data-dir", dir},
	} {
		p, url, err := launch(nil, args...)
		if err == nil {
			_ = p.kill() // it should not be there at all
			t.Fatalf("%s: a second server started at %s", name, url)
		}
		want := map[string]string{"address": s.addr, "directory": "another Athena"}[name]
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error does not name %q: %v", name, want, err)
		}
	}
}

func TestServeEndsAtOnceAtTheSecondSignal(t *testing.T) {
	t.Parallel()
	up := upstream(t, held("so far"))
	s := serve(t, openAIAt(up), "--drain-timeout", "1h")
	id := s.begin()
	s.until(id, func(w *watch) bool { return w.transcript.Text() == "so far" })
	p := s.process
	for range 2 {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		// Two signals that nobody has taken yet are one.
		if err := p.waitLog(t.Context(), "signal again to end now"); err != nil {
			t.Fatal(err)
		}
	}
	late := time.AfterFunc(goneWithin, func() { _ = p.cmd.Process.Kill() })
	s.process = nil
	if err := p.end(); err != nil || !late.Stop() {
		t.Fatalf("the server ended with %v\n%s", err, p.log())
	}
	s.start()
	if tr := s.read(protocol.TransportSSE, id); string(tr.Terminal().Data) != `{"by":"drain"}` {
		t.Errorf("the stream ended with %s %s, want cancelled by drain", tr.Terminal().Type, tr.Terminal().Data)
	}
}
