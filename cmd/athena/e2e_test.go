package main

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// greetings are the pieces of an answer with characters of every length in
// UTF-8.
var greetings = []string{"Grüße, ", "Αθηνά! ", "日本語の", "テキスト 🦉", "\n\n", "ende."}

// TestAStreamIsTheSameOverEveryTransport runs with both dialects of upstreams.
func TestAStreamIsTheSameOverEveryTransport(t *testing.T) {
	for name, variables := range map[string]func(*providertest.Upstream) []string{"openai": openAIAt, "claude": anthropicAt} {
		t.Run(name, func(t *testing.T) {
			script := answer(20*time.Millisecond, greetings...)
			script.Pieces = append([]providertest.Piece{{Kind: providertest.PieceReasoning, Text: "Hm … "}}, script.Pieces...)
			up := upstream(t, script)
			s := serve(t, variables(up))
			id := s.begin()
			var watches []*watch
			for _, transport := range transports {
				watches = append(watches, s.watch(transport, id, 0))
			}
			var last string
			for i, w := range watches {
				w.until(ended)
				wantEnd(t, w.transcript, protocol.TypeCompleted, `"provider":"`+name+`"`)
				if got, want := w.transcript.Text(), strings.Join(greetings, ""); got != want {
					t.Errorf("%s: text %q, want %q", transports[i], got, want)
				}
				if got := w.transcript.Reasoning(); got != "Hm … " {
					t.Errorf("%s: reasoning %q", transports[i], got)
				}
				terminal := string(w.events[len(w.events)-1].JSON)
				if last != "" && terminal != last {
					t.Errorf("%s: the end is %s, over another transport %s", transports[i], terminal, last)
				}
				last = terminal
			}
			// A late client gets the same.
			for _, transport := range transports {
				if got := s.read(transport, id).Text(); got != strings.Join(greetings, "") {
					t.Errorf("%s, late: text %q", transport, got)
				}
			}
			m := decode[protocol.Metadata](t, s.do("GET", "/v1/streams/"+id, ""))
			if m.State != protocol.StateCompleted || m.Provider != name || m.Head != watches[0].cursor || m.Ended == nil {
				t.Errorf("metadata %+v", m)
			}
			if n := up.Count(); n != 1 {
				t.Errorf("the upstream was asked %d times", n)
			}
		})
	}
}

func TestAnAnalysisCanBeStartedInEveryWay(t *testing.T) {
	up := upstream(t, answer(5*time.Millisecond, greetings...))
	s := serve(t, openAIAt(up))
	text := strings.Join(greetings, "")

	t.Run("by a POST that answers with the stream", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", s.url+"/v1/analyses", strings.NewReader(aRequest))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		tap := newTap(0)
		res, err := tap.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		l, err := readSSE(tap, res)
		if err != nil {
			t.Fatal(err)
		}
		id := strings.TrimPrefix(res.Header.Get("Location"), "/v1/streams/")
		w := &watch{t: t, id: id, link: l, cancel: cancel, transcript: new(protocol.Transcript)}
		defer w.close()
		w.until(ended)
		if w.transcript.Text() != text || w.events[0].event.Stream != id {
			t.Errorf("stream %s, Location %s, text %q", w.events[0].event.Stream, id, w.transcript.Text())
		}
		if w.more() {
			t.Error("the response goes on after the end of the stream")
		}
	})
	t.Run("by a POST that waits for the result", func(t *testing.T) {
		r := s.do("POST", "/v1/analyses?wait=20s", aRequest)
		res := decode[gateway.Result](t, r)
		if r.status != http.StatusCreated || res.State != protocol.StateCompleted || res.Text != text || res.FinishReason != "stop" {
			t.Errorf("%d %s", r.status, r.body)
		}
	})
	t.Run("by a POST whose wait is too short", func(t *testing.T) {
		up.Enqueue(held("a"))
		r := s.do("POST", "/v1/analyses?wait=50ms", aRequest)
		m := decode[protocol.Metadata](t, r)
		if r.status != http.StatusCreated || m.State != protocol.StateRunning || r.header.Get("Location") != "/v1/streams/"+m.ID {
			t.Errorf("%d %s", r.status, r.body)
		}
	})
	t.Run("over a WebSocket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		l, err := openWebSocket(ctx, target{url: s.url})
		if err != nil {
			t.Fatal(err)
		}
		w := &watch{t: t, link: l, cancel: cancel, transcript: new(protocol.Transcript)}
		defer w.close()
		if err := l.send(&protocol.Command{Type: protocol.CommandAnalyze, ID: "c1", Request: []byte(aRequest)}); err != nil {
			t.Fatal(err)
		}
		d, err := l.next()
		if err != nil || d.message == nil || d.message.Type != protocol.MessageAccepted || d.message.ID != "c1" {
			t.Fatalf("%+v, %v; want accepted", d, err)
		}
		w.until(ended)
		if w.transcript.Text() != text || w.events[0].event.Stream != d.message.Stream {
			t.Errorf("stream %s, accepted %s, text %q", w.events[0].event.Stream, d.message.Stream, w.transcript.Text())
		}
	})
}

func TestARetriedPOSTReturnsTheFirstOnesStream(t *testing.T) {
	up := upstream(t, answer(0, "once"))
	s := serve(t, openAIAt(up))
	id := s.begin("Idempotency-Key", "k1")
	r := s.do("POST", "/v1/analyses", aRequest, "Idempotency-Key", "k1")
	if m := decode[protocol.Metadata](t, r); r.status != http.StatusOK || m.ID != id {
		t.Errorf("again: %d %s, want 200 and %s", r.status, r.body, id)
	}
	if other := s.begin("Idempotency-Key", "k2"); other == id {
		t.Error("another key returned the same stream")
	}
	wantProblem(t, s.do("POST", "/v1/analyses", `{"code":"other"}`, "Idempotency-Key", "k1"), http.StatusBadRequest, protocol.CodeInvalidRequest)
	if n := up.Count(); n > 2 {
		t.Errorf("the upstream was asked %d times, want 2", n)
	}
}

func TestCancellingReachesTheUpstream(t *testing.T) {
	up := upstream(t, held("so far"))
	s := serve(t, openAIAt(up))
	cancels := map[string]func(id string){
		"DELETE": func(id string) {
			if r := s.do("DELETE", "/v1/streams/"+id, ""); r.status != http.StatusAccepted {
				t.Fatalf("DELETE: %d %s", r.status, r.body)
			}
		},
		"WebSocket": func(id string) {
			l, err := openWebSocket(t.Context(), target{url: s.url})
			if err != nil {
				t.Fatal(err)
			}
			defer l.close(false)
			if err := l.send(&protocol.Command{Type: protocol.CommandCancel, ID: "c", Stream: id}); err != nil {
				t.Fatal(err)
			}
			if d, err := l.next(); err != nil || d.message == nil || d.message.Type != protocol.MessageAccepted {
				t.Fatalf("%+v, %v; want accepted", d, err)
			}
		},
	}
	calls := 0
	for name, cancel := range cancels {
		id := s.begin()
		calls++
		var watches []*watch
		for _, transport := range transports {
			watches = append(watches, s.watch(transport, id, 0).until(func(w *watch) bool { return w.transcript.Text() == "so far" }))
		}
		cancel(id)
		for _, w := range watches {
			wantEnd(t, w.until(ended).transcript, protocol.TypeCancelled, `{"by":"client"}`)
		}
		wantHungUp(t, up, calls)
		if m := decode[protocol.Metadata](t, s.do("GET", "/v1/streams/"+id, "")); m.State != protocol.StateCancelled || m.CancelledBy != protocol.CancelClient {
			t.Errorf("%s: metadata %+v", name, m)
		}
	}
}

func wantHungUp(t *testing.T, up *providertest.Upstream, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	call, err := up.WaitCall(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-call.HungUp():
	case <-ctx.Done():
		t.Fatal("the call of the upstream was not ended")
	}
}

func TestAnAnalysisGoesOnWithoutViewersUntilTheOrphanTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	up := upstream(t, held("so far"))
	s := serve(t, openAIAt(up), "--orphan-timeout", timeout.String())
	running := func(id, when string) {
		t.Helper()
		if m := decode[protocol.Metadata](t, s.do("GET", "/v1/streams/"+id, "")); m.State != protocol.StateRunning {
			t.Fatalf("stream %s is %s %s", id, m.State, when)
		}
	}
	var watches []*watch
	gone := make(chan error, len(transports))
	for _, transport := range transports {
		id := s.begin()
		seen := func(w *watch) bool { return w.transcript.Text() == "so far" }
		s.watch(transport, id, 0).until(seen).close()
		running(id, "after its only viewer has left")
		// Another comes and stays for longer than the timeout. A long-poll
		// counts as a viewer while it waits.
		w := s.watch(transport, id, 0).until(seen)
		watches = append(watches, w)
		go func() {
			_, err := w.link.next()
			gone <- err
		}()
	}
	<-time.After(timeout + timeout/2)
	for _, w := range watches {
		running(w.id, "while it is watched")
		w.cancel()
		if err := <-gone; err == nil {
			t.Fatal("something came on a stream that stood still")
		}
		w.close()
	}
	for i, w := range watches {
		wantHungUp(t, up, i+1)
		wantEnd(t, s.read(transports[i], w.id), protocol.TypeCancelled, `{"by":"orphaned"}`)
	}
}

func TestFindingsComeWhileTheModelStillWrites(t *testing.T) {
	finding := `@finding {"rule":"sql-injection","severity":"high","message":"The query is put together from input.","line":3}`
	up := upstream(t, held("First ", "lines.\n"+finding[:30], finding[30:]+"\n", "And "))
	s := serve(t, anthropicAt(up))
	id := s.begin()
	want := protocol.Finding{Rule: "sql-injection", Severity: protocol.SeverityHigh, Message: "The query is put together from input."}
	for _, transport := range transports {
		w := s.watch(transport, id, 0).until(func(w *watch) bool { return w.transcript.Text() == "First lines.\nAnd " })
		got := w.transcript.Findings()
		if len(got) != 1 || got[0].Rule != want.Rule || got[0].Severity != want.Severity || got[0].Message != want.Message || got[0].Range.Start.Line != 3 {
			t.Errorf("%s: findings %+v, want %+v on line 3", transport, got, want)
		}
		if w.ended {
			t.Errorf("%s: the stream has ended", transport)
		}
	}
	if r := s.do("DELETE", "/v1/streams/"+id, ""); r.status != http.StatusAccepted {
		t.Fatalf("DELETE: %d %s", r.status, r.body)
	}
}

func TestWithoutAnyKeyTheLocalAnalyserAnswers(t *testing.T) {
	s := serve(t, nil)
	code := `{"code":"package p\n\nimport \"os/exec\"\n\nfunc f(s string) { exec.Command(\"sh\", \"-c\", \"echo \"+s).Run() }\n","filename":"p.go","analysis":"security"}`
	res := decode[gateway.Result](t, s.do("POST", "/v1/analyses?wait=20s", code))
	if res.State != protocol.StateCompleted || res.Provider != "local" || len(res.Findings) == 0 || res.Text == "" {
		t.Errorf("result %+v", res)
	}
	for _, f := range res.Findings {
		if f.Rule == "" || f.Range.Start.Line < 1 || f.Range.Start.Line > 5 {
			t.Errorf("finding %+v", f)
		}
	}
}

func TestOneConnectionCarriesSeveralStreams(t *testing.T) {
	up := upstream(t, answer(10*time.Millisecond, greetings...))
	s := serve(t, openAIAt(up))
	for _, transport := range transports {
		var cursors []protocol.Cursor
		for range 5 {
			cursors = append(cursors, protocol.Cursor{Stream: s.begin()})
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		l, err := open(ctx, transport, target{url: s.url}, cursors)
		if err != nil {
			t.Fatal(err)
		}
		transcripts := make(map[string]*protocol.Transcript)
		for _, c := range cursors {
			transcripts[c.Stream] = new(protocol.Transcript)
		}
		for running := len(cursors); running > 0; {
			d, err := l.next()
			if err != nil {
				t.Fatalf("%s: %v", transport, err)
			}
			for _, e := range d.events {
				if err := transcripts[e.event.Stream].Apply(&e.event); err != nil {
					t.Fatalf("%s: %v", transport, err)
				}
				if e.Terminal() {
					running--
				}
			}
		}
		l.close(false)
		cancel()
		for id, tr := range transcripts {
			if tr.Text() != strings.Join(greetings, "") {
				t.Errorf("%s: stream %s says %q", transport, id, tr.Text())
			}
		}
	}
}

func TestWhatCanNotBeHonouredIsSaid(t *testing.T) {
	up := upstream(t, answer(0, "text"))
	s := serve(t, openAIAt(up), "--max-code-bytes", "1KiB", "--max-analyses", "1")
	long := strings.Repeat("x", 2000)
	unknown := protocol.NewStreamID()
	id := s.begin()
	s.read(protocol.TransportSSE, id)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code                     protocol.Code
	}{
		{"code above the limit", "POST", "/v1/analyses", `{"code":"` + long + `"}`, 413, protocol.CodePayloadTooLarge},
		{"a body above the limit", "POST", "/v1/analyses", `{"code":"` + strings.Repeat(long, 100) + `"}`, 413, protocol.CodePayloadTooLarge},
		{"no code", "POST", "/v1/analyses", `{}`, 400, protocol.CodeInvalidRequest},
		{"an unknown field", "POST", "/v1/analyses", `{"code":"x","colour":"red"}`, 400, protocol.CodeInvalidRequest},
		{"an unknown provider", "POST", "/v1/analyses", `{"code":"x","provider":"oracle"}`, 400, protocol.CodeInvalidRequest},
		{"no JSON", "POST", "/v1/analyses", `code`, 400, protocol.CodeInvalidRequest},
		{"an unknown stream", "GET", "/v1/streams/" + unknown, "", 404, protocol.CodeStreamNotFound},
		{"events of an unknown stream", "GET", "/v1/streams/" + unknown + "/events", "", 404, protocol.CodeStreamNotFound},
		{"cancelling an unknown stream", "DELETE", "/v1/streams/" + unknown, "", 404, protocol.CodeStreamNotFound},
		{"a cursor beyond the head", "GET", "/v1/streams/" + id + "/events?after=999", "", 400, protocol.CodeInvalidCursor},
		{"a cursor that is no number", "GET", "/v1/streams/" + id + "/events?after=x", "", 400, protocol.CodeInvalidCursor},
		{"no path", "GET", "/v2/analyses", "", 404, protocol.CodeInvalidRequest},
		{"another method", "PUT", "/v1/analyses", "", 405, protocol.CodeInvalidRequest},
	} {
		t.Run(c.name, func(t *testing.T) { wantProblem(t, s.do(c.method, c.path, c.body), c.status, c.code) })
	}
	t.Run("one analysis too many", func(t *testing.T) {
		up.SetScript(held("a"))
		running := s.begin()
		r := s.do("POST", "/v1/analyses", aRequest)
		wantProblem(t, r, 503, protocol.CodeOverloaded)
		if n, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || n < 1 {
			t.Errorf("Retry-After is %q", r.header.Get("Retry-After"))
		}
		s.do("DELETE", "/v1/streams/"+running, "")
	})
}

func TestAnAPIKeyIsNeededWhereOneIsConfigured(t *testing.T) {
	const key = "0123456789abcdef-canary"
	up := upstream(t, answer(0, "secret text"))
	s := serve(t, openAIAt(up), "--api-key", "ada="+key)
	wantProblem(t, s.do("POST", "/v1/analyses", aRequest), 401, protocol.CodeUnauthorized)
	wantProblem(t, s.do("POST", "/v1/analyses", aRequest, "Authorization", "Bearer wrong-key-0123456789"), 401, protocol.CodeUnauthorized)
	bearer := []string{"Authorization", "Bearer " + key}
	id := s.begin(bearer...)
	cursors := []protocol.Cursor{{Stream: id}}

	ticket := func() string {
		t.Helper()
		n := decode[protocol.Negotiation](t, s.do("POST", "/v1/negotiate", "", bearer...))
		if n.Ticket == "" || len(n.Transports) != 3 {
			t.Fatalf("negotiation %+v", n)
		}
		return n.Ticket
	}
	read := func(l link, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		w := &watch{t: t, id: id, link: l, cancel: func() {}, transcript: new(protocol.Transcript)}
		defer w.close()
		if got := w.until(ended).transcript.Text(); got != "secret text" {
			t.Errorf("text %q", got)
		}
	}
	refusedWith401 := func(err error) {
		t.Helper()
		if r, ok := err.(*refusedError); !ok || r.status != 401 {
			t.Errorf("error %v, want 401", err)
		}
	}
	for _, transport := range transports {
		l, err := open(t.Context(), transport, target{url: s.url, header: http.Header{"Authorization": {"Bearer " + key}}}, cursors)
		read(l, err)
	}
	_, err := openWebSocket(t.Context(), target{url: s.url})
	refusedWith401(err)
	_, err = openSSE(t.Context(), target{url: s.url}, eventsPath(cursors, 0))
	refusedWith401(err)

	once := ticket()
	sse, err := openSSE(t.Context(), target{url: s.url}, eventsPath(cursors, 0)+"&ticket="+once)
	if err != nil {
		t.Fatal(err)
	}
	read(sse, nil)
	_, err = openSSE(t.Context(), target{url: s.url}, eventsPath(cursors, 0)+"&ticket="+once)
	refusedWith401(err)
	ws, err := openWebSocket(t.Context(), target{url: s.url + "/v1/ws?ticket=" + ticket()})
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.send(&protocol.Command{Type: protocol.CommandSubscribe, ID: "s", Stream: id}); err != nil {
		t.Fatal(err)
	}
	read(ws, nil)

	if log := s.process.log(); strings.Contains(log, key) || strings.Contains(log, once) || strings.Contains(log, "sk-test-canary") {
		t.Errorf("a credential is in the log:\n%s", log)
	}
	if r := s.do("GET", "/healthz", ""); r.status != 200 {
		t.Errorf("healthz: %d", r.status)
	}
}

func TestTheMetricsTellWhatHappened(t *testing.T) {
	up := upstream(t, answer(time.Millisecond, greetings...))
	s := serve(t, openAIAt(up))
	id := s.begin()
	for _, transport := range transports {
		s.read(transport, id)
	}
	if r := s.do("GET", "/readyz", ""); r.status != 200 {
		t.Errorf("readyz: %d %s", r.status, r.body)
	}
	wanted := []string{
		`athena_connections{transport="websocket"}`, `athena_connections{transport="sse"} 0`, `athena_connections{transport="long-poll"} 0`,
		`athena_connections_total{transport="websocket"} 1`, `athena_connections_total{transport="sse"} 1`,
		`athena_events_written_total{transport="websocket"}`, `athena_bytes_written_total{transport="sse"}`,
		`athena_write_lag_events_bucket{transport="long-poll",le="0"}`,
		"athena_analyses_started_total 1", `athena_analyses_ended_total{outcome="completed"} 1`, "athena_analyses_running 0",
		`athena_provider_calls_total{model="model-a"`, `athena_store_batches_total`, "athena_feeds 1", `athena_http_requests_total{route="POST /v1/analyses",status="201"} 1`,
		"athena_build_info{", "go_goroutines", "process_resident_memory_bytes",
	}
	missing := func(page string) []string {
		return slices.DeleteFunc(slices.Clone(wanted), func(want string) bool { return strings.Contains(page, want) })
	}
	// A client has its answer before the server has counted that it has gone.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var page string
	for range 500 {
		if page = s.do("GET", "/metrics", "").body; len(missing(page)) == 0 {
			break
		}
		<-tick.C
	}
	for _, want := range missing(page) {
		t.Errorf("the metrics lack %s", want)
	}
	if t.Failed() {
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "athena_") && !strings.Contains(line, "_bucket") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
}
