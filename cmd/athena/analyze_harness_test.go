package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client/clienttest"
	"github.com/athena-hub/athena/providers/providertest"
)

// cliPatience bounds every wait of these tests.
const cliPatience = 30 * time.Second

// A sink is an output that may be read while it is written.
type sink struct {
	mu    sync.Mutex
	b     bytes.Buffer  // guarded by mu
	grown chan struct{} // guarded by mu: closed and replaced with each write
}

func newSink() *sink { return &sink{grown: make(chan struct{})} }

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.grown)
	s.grown = make(chan struct{})
	return s.b.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// waitFor returns once the output holds text.
func (s *sink) waitFor(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(cliPatience)
	for {
		s.mu.Lock()
		found, grown := strings.Contains(s.b.String(), text), s.grown
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("%q did not come; what came was %q", text, s.String())
		}
	}
}

// A tty is a terminal of 60 columns: stdout and stderr both.
type tty struct{ *sink }

func (tty) TerminalWidth() int { return 60 }

// shows is what stands on the terminal in the end, without styles.
func (t tty) shows(test *testing.T) string {
	test.Helper()
	text := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(t.String(), "")
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if i := strings.LastIndex(line, clearLine); i >= 0 {
			line = line[i+len(clearLine):]
		}
		if strings.ContainsAny(line, "\x1b\r") {
			test.Errorf("the terminal is told more than this test knows: %q", line)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// An invocation is one run of the program inside the test.
type invocation struct {
	out, err   *sink
	interrupts chan os.Signal
	code       chan int
}

// invoke starts the program with an environment of its own, without a server
// to find. On a terminal, out and err are the same.
func invoke(t *testing.T, terminal bool, variables []string, stdin io.Reader, args ...string) *invocation {
	t.Helper()
	i := &invocation{out: newSink(), err: newSink(), interrupts: make(chan os.Signal, 2), code: make(chan int, 1)}
	env := &environment{args: args, stdin: stdin, stdout: i.out, stderr: i.err, interrupts: i.interrupts,
		environ: append([]string{"HOME=" + t.TempDir(), "ATHENA_SERVER=" + noServer}, variables...)}
	if terminal {
		i.err = i.out
		env.stdout, env.stderr = tty{i.out}, tty{i.out}
	}
	ctx, cancel := context.WithTimeout(context.Background(), cliPatience)
	go func() {
		defer cancel()
		i.code <- run(ctx, env)
	}()
	return i
}

// wait returns the exit code.
func (i *invocation) wait() int { return <-i.code }

// writeCode makes a file named main.go, and returns its path.
func writeCode(t *testing.T, code string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const smallFile = "package main\n\nfunc main() {\n\tprintln(\"hi\")\n}\n"

// withModel is the environment in which a model answers as the script says.
func withModel(t *testing.T, s providertest.Script) (*providertest.Upstream, []string) {
	t.Helper()
	up := providertest.NewUpstream(t, s)
	return up, []string{"ANTHROPIC_API_KEY=sk-test", "ANTHROPIC_BASE_URL=" + up.URL}
}

// listen is `athena serve` inside the test.
func listen(t *testing.T, variables []string, args ...string) (address string) {
	t.Helper()
	cfg, err := config.Load(append([]string{"--listen", "127.0.0.1:0", "--data-dir", t.TempDir()}, args...), variables)
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNode(t.Context(), cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- n.serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cliPatience)
		defer cancel()
		if err := n.shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// scripted serves s on the loopback.
func scripted(t *testing.T, s *clienttest.Server) (url string) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL
}

const modelAnswer = "# Review\n\nLooks *fine*, but:\n" +
	`@finding {"rule":"print","severity":"low","message":"println writes to stderr","line":4,"suggestion":"Use fmt.Println."}` +
	"\nThat is all"

func modelScript() providertest.Script {
	var s providertest.Script
	for piece := range strings.SplitAfterSeq(modelAnswer, " ") {
		s.Pieces = append(s.Pieces, providertest.Piece{Text: piece})
	}
	s.Usage = &protocol.Usage{InputTokens: 120, OutputTokens: 34}
	return s
}
