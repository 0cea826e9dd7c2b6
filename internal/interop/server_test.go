package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

const (
	// testTimeout bounds each test; a hung one should fail, not the whole run.
	testTimeout  = 60 * time.Second
	startTimeout = 20 * time.Second
	stopTimeout  = 20 * time.Second
)

// within bounds a test. Building the server is not counted, and has its own
// bound.
func within(t *testing.T) context.Context {
	t.Helper()
	_, _ = athenaBinary() // startHub reports the error
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// A hub is a running athena and the model behind it.
type hub struct {
	url      string
	upstream *upstream
	client   *http.Client
	log      *serverLog
	process  *os.Process
}

// startHub starts the real server as its users do, with more flags if it is
// given some.
func startHub(t *testing.T, flags ...string) *hub {
	t.Helper()
	h := launchHub(t, flags...)
	h.wait(t)
	return h
}

// launchHub is startHub, but doesn't wait until the server is ready, which it
// may not be before others are there.
func launchHub(t *testing.T, flags ...string) *hub {
	t.Helper()
	binary, err := athenaBinary()
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{upstream: startUpstream(t)}
	transport := new(http.Transport)
	h.client = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)

	cmd := exec.Command(binary, append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--log-format", "json",
		"--reconnect-delay", "100ms", "--probe-timeout", "1s"}, flags...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
		"OPENAI_API_KEY=" + key, "OPENAI_BASE_URL=" + h.upstream.url + "/v1"}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := readLog(stderr)
	h.log, h.process = log, cmd.Process
	t.Cleanup(func() {
		h.upstream.answer.Load().goOn(stages) // a server that drains waits for answers
		kill := time.AfterFunc(stopTimeout, func() { _ = cmd.Process.Kill() })
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone, which Wait tells
		<-log.done                              // before Wait, which closes the pipe
		err := cmd.Wait()
		if !kill.Stop() {
			t.Errorf("the server was still there %v after SIGTERM", stopTimeout)
		}
		if err != nil {
			t.Errorf("the server: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", log.text.Bytes())
		}
	})
	return h
}

// wait waits until the server is ready.
func (h *hub) wait(t *testing.T) {
	t.Helper()
	select {
	case h.url = <-h.log.ready:
	case <-h.log.done:
		t.Fatal("the server ended before it was ready")
	case <-time.After(startTimeout):
		t.Fatalf("the server is not ready after %v", startTimeout)
	}
}

// A serverLog reads what the server logs.
type serverLog struct {
	ready chan string   // gets the address, once
	done  chan struct{} // closed at the end, after which text may be read
	text  bytes.Buffer
}

func readLog(r io.Reader) *serverLog {
	l := &serverLog{ready: make(chan string, 1), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		lines := bufio.NewScanner(io.TeeReader(r, &l.text))
		for lines.Scan() {
			var line struct{ Message string }
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				continue // a panic or a race's report
			}
			if url, ok := strings.CutPrefix(line.Message, "Athena is ready at "); ok {
				l.ready <- url
			}
		}
		_, _ = io.Copy(&l.text, r) // after a line too long for the scanner
	}()
	return l
}

// start starts an analysis by the model behind the hub, and returns its id.
func (h *hub) start(ctx context.Context, t *testing.T, req protocol.Request) (id string) {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/analyses", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	post.Header.Set("Content-Type", "application/json")
	res, err := h.client.Do(post)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var m protocol.Metadata
	if err := json.NewDecoder(res.Body).Decode(&m); err != nil || res.StatusCode != http.StatusCreated || !protocol.ValidStreamID(m.ID) {
		t.Fatalf("POST /v1/analyses: %s, id %q, %v", res.Status, m.ID, err)
	}
	return m.ID
}

// startModel starts an analysis that the upstream answers.
func (h *hub) startModel(ctx context.Context, t *testing.T) (id string) {
	t.Helper()
	return h.start(ctx, t, protocol.Request{Code: "package main\n", Provider: "openai", Analysis: protocol.AnalysisReview})
}

// An upstream is a model whose answers wait for the test.
type upstream struct {
	url    string
	script *providertest.Upstream
	answer atomic.Pointer[answer]
}

func startUpstream(t *testing.T) *upstream {
	t.Helper()
	script, err := providertest.StartUpstream(providertest.Script{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(script.Close)
	u := &upstream{script: script}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	t.Cleanup(func() { u.answer.Load().goOn(stages) }) // no call may wait on
	u.url = server.URL
	return u
}

// ServeHTTP answers a call, piece by piece as far as the test lets it.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/chat/completions") {
		w = &heldWriter{ResponseWriter: w, ctx: r.Context(), answer: u.answer.Load()}
	}
	u.script.ServeHTTP(w, r)
}

// stages is the number of parts that an answer comes in.
const stages = 3

// An answer is what the model says. It comes in equal parts, each only after goOn: so a test can do what it is about in the middle of
// a stream, however fast or slow the machine is.
type answer struct {
	pieces []providertest.Piece
	text   string // of all pieces
	gates  [stages]chan struct{}
	opened atomic.Int32
}

// answerWith makes the model's next answers consist of pieces.
func (u *upstream) answerWith(pieces []providertest.Piece) *answer {
	a := u.holdAnswer(pieces)
	a.goOn(1)
	return a
}

// holdAnswer is answerWith, but the first part waits too.
func (u *upstream) holdAnswer(pieces []providertest.Piece) *answer {
	a := &answer{pieces: pieces, text: providertest.Joined(pieces, providertest.PieceText)}
	for i := range a.gates {
		a.gates[i] = make(chan struct{})
	}
	u.script.SetScript(providertest.Script{Pieces: pieces, Usage: &protocol.Usage{InputTokens: 12, OutputTokens: int64(len(pieces))}})
	u.answer.Store(a)
	return a
}

// goOn lets the answer's first n parts come.
func (a *answer) goOn(n int) {
	if a == nil {
		return
	}
	for {
		i := a.opened.Load()
		if int(i) >= n {
			return
		}
		if a.opened.CompareAndSwap(i, i+1) {
			close(a.gates[i])
		}
	}
}

// upTo is the length of the text of the first n parts.
func (a *answer) upTo(n int) int {
	return len(providertest.Joined(a.pieces[:len(a.pieces)*n/stages], providertest.PieceText))
}

// A heldWriter holds writes back until their part of the answer may come. The
// script writes each piece at once, after one write that begins the answer.
type heldWriter struct {
	http.ResponseWriter
	ctx    context.Context
	answer *answer
	writes int
}

func (w *heldWriter) Write(b []byte) (int, error) {
	piece := w.writes - 1
	w.writes++
	stage := 0
	for stage < stages-1 && piece >= len(w.answer.pieces)*(stage+1)/stages {
		stage++
	}
	select {
	case <-w.answer.gates[stage]:
	case <-w.ctx.Done():
		return 0, w.ctx.Err()
	}
	return w.ResponseWriter.Write(b)
}

func (w *heldWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// pace is the time between two pieces: short, and longer than it takes to send
// one, so that a stream flows while it is cut.
const pace = 5 * time.Millisecond

// hostileText is an answer with what framings stumble over.
func hostileText() []providertest.Piece {
	parts := []string{"Grüße, ", "世界 🙂 ", "\"quoted\" \\ ", "</script>\n", "data: [DONE]\n\n", "\r\n\u2028 ", "id: 7\n", ": comment\n\n", "👩‍👩‍👧 ", "\t\u0001 "}
	var pieces []providertest.Piece
	for i := range 90 {
		pieces = append(pieces, providertest.Piece{Text: fmt.Sprintf("%d %s", i, parts[i%len(parts)]), After: pace})
	}
	return pieces
}
