package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/r3labs/sse/v2"

	"github.com/athena-hub/athena/protocol"
)

// aStream starts a hub, a network to it that can be cut, and a stream that
// comes as a viewer of it has seen what came before.
func aStream(ctx context.Context, t *testing.T) (h *hub, c *cutter, v viewer, id string) {
	t.Helper()
	h = startHub(t)
	c = newCutter(t, h.url)
	v = viewer{answer: h.upstream.answerWith(hostileText()), cut: c.cut}
	return h, c, v, h.startModel(ctx, t)
}

func TestR3labsClientResumesAndStopsAt204(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	_, c, v, id := aStream(ctx, t)

	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	var statuses []int
	client := sse.NewClient(c.url + "/v1/streams/" + id + "/events")
	client.Connection = &http.Client{Transport: transport}
	client.ReconnectStrategy = &untilDone{ctx: ctx}
	client.ResponseValidator = func(_ *sse.Client, res *http.Response) error {
		statuses = append(statuses, res.StatusCode)
		if res.StatusCode != http.StatusOK {
			res.Body.Close()
			return fmt.Errorf("answered %s", res.Status)
		}
		return nil
	}
	handle := func(m *sse.Event) {
		if string(m.Event) == "welcome" || t.Failed() {
			return
		}
		e, err := v.event(m.Data)
		if err != nil {
			t.Error(err)
		}
		if want := strconv.FormatUint(e.Seq, 10); string(m.ID) != want {
			t.Errorf("event %s has the id %q", want, m.ID)
		}
	}
	// It reconnects by itself after a broken connection, and returns when the
	// response has ended.
	if err := client.SubscribeRawWithContext(ctx, handle); err != nil {
		t.Fatal(err)
	}
	v.check(t, c)
	if want := []int{200, 200, 200}; fmt.Sprint(statuses) != fmt.Sprint(want) {
		t.Errorf("the connections were answered %v, want %v", statuses, want)
	}

	// An EventSource would connect again, with the last id.
	statuses, client.ReconnectStrategy = nil, new(untilDone)
	cursor := v.transcript.Cursor()
	if err := client.SubscribeRawWithContext(ctx, handle); err == nil {
		t.Error("after the end the client was answered 200")
	}
	if want := []int{204}; fmt.Sprint(statuses) != fmt.Sprint(want) || v.transcript.Cursor() != cursor {
		t.Errorf("after the end the client was answered %v, and got to %d from %d", statuses, v.transcript.Cursor(), cursor)
	}
}

// untilDone retries soon until ctx ends, and never without one. It is what
// r3labs' client asks about when to reconnect.
type untilDone struct{ ctx context.Context }

func (u *untilDone) NextBackOff() time.Duration {
	if u.ctx == nil || u.ctx.Err() != nil {
		return -1 // stop
	}
	return 50 * time.Millisecond
}

func (*untilDone) Reset() {}

func TestAPlainPollingClientLosesNothingWithItsAnswers(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	_, c, v, id := aStream(ctx, t)
	v.cut = c.cutAtRequest

	transport := &http.Transport{DisableKeepAlives: true} // net/http must not ask again by itself
	client := &http.Client{Transport: transport}
	poll := func(after uint64) (events []json.RawMessage, done bool, err error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v1/streams/%s/events?after=%d&wait=5s", c.url, id, after), nil)
		if err != nil {
			return nil, false, err
		}
		res, err := client.Do(req)
		if err != nil {
			return nil, false, err
		}
		defer res.Body.Close()
		var answer struct {
			Events []json.RawMessage
			Cursor string
			Done   bool
		}
		if res.StatusCode != http.StatusOK {
			return nil, false, fmt.Errorf("answered %s", res.Status)
		}
		err = json.NewDecoder(res.Body).Decode(&answer)
		return answer.Events, answer.Done, err
	}

	lost := 0
	for done := false; !done; {
		events, last, err := poll(v.transcript.Cursor())
		if err != nil {
			if lost++; !pause(ctx, 10*time.Millisecond) {
				t.Fatalf("the last error of %d: %v", lost, err)
			}
			continue
		}
		for _, e := range events {
			if _, err := v.event(e); err != nil {
				t.Fatal(err)
			}
		}
		if last != v.done() {
			t.Fatalf("the answer's done is %v, the stream's end %v", last, v.done())
		}
		done = last
	}
	v.check(t, c)
	if lost != 2 {
		t.Errorf("%d polls were lost, want 2", lost)
	}
}

func TestAPollingClientGetsTheOfflineAnalysis(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	h := startHub(t)
	id := h.start(ctx, t, protocol.Request{Code: vulnerable, Filename: "main.go", Provider: "local", Analysis: protocol.AnalysisSecurity})
	var transcript protocol.Transcript
	for transcript.Terminal() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v1/streams/%s/events?after=%d", h.url, id, transcript.Cursor()), nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := h.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct{ Events []protocol.Event }
		err = json.NewDecoder(res.Body).Decode(&answer)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("poll: %s, %v", res.Status, err)
		}
		for i := range answer.Events {
			if err := transcript.Apply(&answer.Events[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	findings := transcript.Findings()
	if transcript.Terminal().Type != protocol.TypeCompleted || len(findings) == 0 || transcript.Text() == "" {
		t.Errorf("the analysis ended with %+v, %d findings and the text %q", transcript.Terminal(), len(findings), transcript.Text())
	}
	for _, f := range findings {
		if lines := strings.Count(vulnerable, "\n"); f.Range.Start.Line < 1 || f.Range.End.Line > lines || f.Message == "" {
			t.Errorf("finding %+v in code of %d lines", f, lines)
		}
	}
}

// vulnerable is code that the offline analysis finds something in.
const vulnerable = `package main

import (
	"crypto/md5"
	"fmt"
	"os/exec"
)

func run(host string) {
	out, _ := exec.Command("sh", "-c", "ping -c 1 "+host).Output()
	fmt.Printf("%x %s", md5.Sum(out), out)
}

func main() { run("localhost") }
`

func TestTheTypeScriptClientResumesInDeno(t *testing.T) {
	t.Parallel()
	need(t, "Node 20 or later with npm", "npm")
	if err := npmPackages(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join("node_modules", "@deno", "*", "deno")) // npm installs that of the platform, if there is one
	if err != nil {
		t.Fatal(err)
	}
	deno := need(t, "Deno", append(names, "deno")...)
	for _, transport := range []string{"websocket", "sse", "long-poll"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			_, c, v, id := aStream(ctx, t)
			if transport == "long-poll" {
				v.cut = c.cutAtRequest
			}
			r := reported{viewer: v}
			runClient(ctx, t, []string{deno, "run", "--no-prompt", "--allow-net=" + strings.TrimPrefix(c.url, "http://")}, r.line, "sdk", transport, c.url, id)
			r.check(t, c)
			// Of a poll that is lost, Deno may ask again by itself.
			if r.end == nil || r.end.Text != v.answer.text || r.lost != 2 && transport != "long-poll" {
				t.Errorf("it lost its connection %d times, and ended with %+v", r.lost, r.end)
			}
		})
	}
}

func TestTheTypeScriptClientKeepsAnswersUntilTheCacheIsCleared(t *testing.T) {
	t.Parallel()
	node := need(t, "Node 20 or later with npm", "node")
	need(t, "Node 20 or later with npm", "npm")
	if err := npmPackages(); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	h := startHub(t)
	held := h.upstream.answerWith(hostileText())
	id := h.startModel(ctx, t)
	for h.upstream.script.Count() == 0 {
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("the model was not asked")
		}
	}
	t.Cleanup(func() { held.goOn(stages) })
	a := h.upstream.answerWith(hostileText())
	a.goOn(stages)
	type outcome struct {
		Cached bool
		Text   string
	}
	var got []outcome
	runClient(ctx, t, []string{node}, func(line string) error {
		var o outcome
		err := json.Unmarshal([]byte(line), &o)
		got = append(got, o)
		return err
	}, "cache", h.url, id)
	if want := []outcome{{false, a.text}, {true, a.text}, {false, a.text}, {true, a.text}}; !slices.Equal(got, want) {
		t.Errorf("the answers were\n%+v\nwant\n%+v", got, want)
	}
	if got := h.upstream.script.Count(); got != 3 {
		t.Errorf("the model was asked %d times, want 3: for what was held, and before and after the clearing", got)
	}
}

func TestClientsOfNPMResume(t *testing.T) {
	t.Parallel()
	node := need(t, "Node 20 or later with npm", "node")
	need(t, "Node 20 or later with npm", "npm")
	if err := npmPackages(); err != nil {
		t.Fatal(err)
	}
	t.Run("eventsource", func(t *testing.T) {
		t.Parallel()
		ctx := within(t)
		_, c, v, id := aStream(ctx, t)
		r := reported{viewer: v}
		runClient(ctx, t, []string{node}, r.line, "node", "eventsource", c.url+"/v1/streams/"+id+"/events")
		r.check(t, c)
		// Two cuts, and the response's end, after which 204 stops it.
		if r.end == nil || r.welcomes != 3 || r.lost != 3 {
			t.Errorf("it was welcomed %d times, lost its connection %d times, and ended with %+v", r.welcomes, r.lost, r.end)
		}
	})
	t.Run("ws", func(t *testing.T) {
		t.Parallel()
		ctx := within(t)
		_, c, v, id := aStream(ctx, t)
		r := reported{viewer: v}
		runClient(ctx, t, []string{node}, r.line, "node", "ws", "ws"+strings.TrimPrefix(c.url, "http")+"/v1/ws", id)
		r.check(t, c)
		if r.end == nil || r.end.Code != protocol.CloseDone || r.welcomes != 3 || r.lost != 2 {
			t.Errorf("it was welcomed %d times, lost its connection %d times, and ended with %+v", r.welcomes, r.lost, r.end)
		}
	})
}

// runClient has a runtime run a client of foreign/ to its end, and gives on what
// it reports.
func runClient(ctx context.Context, t *testing.T, runtime []string, line func(string) error, client string, args ...string) {
	t.Helper()
	command := slices.Concat(runtime, []string{filepath.Join("foreign", client+".mjs")}, args)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NO_COLOR=1", "DENO_NO_UPDATE_CHECK=1"}
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 4<<20)
	failed := false
	for lines.Scan() {
		if err := line(lines.Text()); err != nil {
			t.Error(err)
			failed = true
			_ = cmd.Process.Kill()
			break
		}
	}
	if _, err := io.Copy(io.Discard, stdout); err != nil && !failed {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil && !failed || stderr.Len() > 0 {
		t.Errorf("%s: %v\n%s", command[0], err, stderr.Bytes())
	}
}
