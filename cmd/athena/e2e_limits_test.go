package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/internal/redistest"
	"github.com/athena-hub/athena/protocol"
)

// The keys of the tests' callers.
const (
	adasKey = "key-of-ada-0123456789"
	bobsKey = "key-of-bob-0123456789"
)

// callers are the flags that let them in.
var callers = []string{"--api-key", "ada=" + adasKey, "--api-key", "bob=" + bobsKey}

func withKey(key string) []string { return []string{"Authorization", "Bearer " + key} }

// asking is a WebSocket of a caller's, past its welcome.
type asking struct {
	t    *testing.T
	ctx  context.Context
	conn *websocket.Conn
}

func (s *server) askOver(key string) *asking {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	tap := newTap(0)
	s.t.Cleanup(tap.transport.CloseIdleConnections)
	conn, _, err := websocket.Dial(ctx, s.url+"/v1/ws", &websocket.DialOptions{HTTPClient: tap.client,
		HTTPHeader: http.Header{"Authorization": {"Bearer " + key}}, Subprotocols: []string{protocol.Version}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.CloseNow() })
	a := &asking{s.t, ctx, conn}
	if m := a.next(); m.Type != protocol.MessageWelcome {
		s.t.Fatalf("the first message is %+v", m)
	}
	return a
}

// next returns the next message that is no event.
func (a *asking) next() (m protocol.Message) {
	a.t.Helper()
	for {
		_, b, err := a.conn.Read(a.ctx)
		if err != nil {
			a.t.Fatal(err)
		}
		if b[0] == '{' && json.Unmarshal(b, &m) == nil && m.Type != "" && m.Type != protocol.MessageHeartbeat && !strings.Contains(string(b), `"seq"`) {
			return m
		}
	}
}

func (a *asking) send(command string) protocol.Message {
	a.t.Helper()
	if err := a.conn.Write(a.ctx, websocket.MessageText, []byte(command)); err != nil {
		a.t.Fatal(err)
	}
	return a.next()
}

// wantLimited fails the test unless r says that a limit is reached and when to come
// back.
func wantLimited(t *testing.T, r reply, detail string) {
	t.Helper()
	wantProblem(t, r, http.StatusTooManyRequests, protocol.CodeRateLimited)
	p := decode[protocol.Error](t, r)
	after, err := strconv.ParseInt(r.header.Get("Retry-After"), 10, 64)
	if err != nil || p.RetryAfterMS <= 0 || after != (p.RetryAfterMS+999)/1000 || !strings.Contains(p.Detail, detail) {
		t.Fatalf("Retry-After %q, problem %+v; want the two to agree, and %q", r.header.Get("Retry-After"), p, detail)
	}
}

func TestAKeyIsHeldToItsRequestsAMinuteOverHTTPAndWebSocket(t *testing.T) {
	s := serve(t, nil, append(callers, "--limit-key-requests", "6", "--limit-tenant-requests", "100")...)
	for i := range 3 {
		r := s.do("GET", "/v1/providers", "", withKey(adasKey)...)
		want := fmt.Sprintf(`"key";r=%d;t=`, 5-i)
		if r.status != 200 || !strings.HasPrefix(r.header.Get("RateLimit"), want) ||
			r.header.Get("RateLimit-Policy") != `"key";q=6;w=60, "tenant";q=100;w=60` {
			t.Fatalf("%d, RateLimit %q of %q; want %s", r.status, r.header.Get("RateLimit"), r.header.Get("RateLimit-Policy"), want)
		}
	}
	a := s.askOver(adasKey) // the fourth
	for range 2 {
		if m := a.send(`{"type":"subscribe","id":"1","stream":"` + protocol.NewStreamID() + `"}`); m.Error == nil || m.Error.Code != protocol.CodeStreamNotFound {
			t.Fatalf("%+v", m)
		}
	}
	m := a.send(`{"type":"analyze","id":"2","request":{"code":"package p"}}`)
	if m.Type != protocol.MessageError || m.ID != "2" || m.Error.Code != protocol.CodeRateLimited || m.Error.RetryAfterMS <= 0 || m.Error.RetryAfterMS > 10_000 {
		t.Fatalf("the seventh, over the WebSocket: %+v, %+v", m, m.Error)
	}
	if m := a.send(`{"type":"ping"}`); m.Type != protocol.MessagePong {
		t.Errorf("a ping costs something: %+v", m)
	}
	r := s.do("POST", "/v1/analyses", aRequest, withKey(adasKey)...)
	wantLimited(t, r, "your key has used up its 6 requests a minute")
	if got := r.header.Get("RateLimit"); !strings.HasPrefix(got, `"key";r=0;t=`) {
		t.Errorf("RateLimit %q", got)
	}
	if r := s.do("GET", "/v1/providers", "", withKey(bobsKey)...); r.status != 200 {
		t.Errorf("another key: %d", r.status)
	}
	if m := s.do("GET", "/metrics", "", withKey(bobsKey)...); !strings.Contains(m.body, `athena_limited_total{limit="key"} 2`) {
		t.Error("the metrics don't count what was refused")
	}
}

func TestAKeyIsHeldToItsConnectionsAtOnce(t *testing.T) {
	up := upstream(t, held("so far"))
	s := serve(t, openAIAt(up), append(callers, "--limit-key-connections", "1")...)
	first := s.askOver(adasKey)
	second := s.askOver(adasKey)
	if m := second.next(); m.Type != protocol.MessageError || m.Error.Code != protocol.CodeRateLimited || m.Error.RetryAfterMS <= 0 {
		t.Errorf("a second WebSocket is told %+v", m)
	}
	if _, _, err := second.conn.Read(second.ctx); websocket.CloseStatus(err) != protocol.CloseLimit {
		t.Errorf("and ends with %v, want %d", err, protocol.CloseLimit)
	}
	id := s.begin(withKey(bobsKey)...)
	for _, accept := range []string{"text/event-stream", "application/json"} {
		wantLimited(t, s.do("GET", "/v1/streams/"+id+"/events?wait=10s", "", append(withKey(adasKey), "Accept", accept)...), "your key has as many connections as it may, which is 1")
	}
	wantLimited(t, s.do("POST", "/v1/analyses", aRequest, append(withKey(adasKey), "Accept", "text/event-stream")...), "connections")
	if n := up.Count(); n != 1 {
		t.Errorf("%d analyses run, want bob's alone: one that its client can't watch runs for nobody", n)
	}
	s.askOver(bobsKey)
	_ = first.conn.Close(websocket.StatusNormalClosure, "")
	for { // once the server has noticed
		r := s.do("GET", "/v1/streams/"+id+"/events", "", withKey(adasKey)...)
		if r.status == 200 {
			break
		}
		wantLimited(t, r, "connections")
	}
}

func TestAKeyIsHeldToItsAnalysesAtOnce(t *testing.T) {
	s := serve(t, openAIAt(upstream(t, held("so far"))), append(callers, "--limit-key-streams", "2", "--limit-tenant-streams", "3")...)
	first := s.begin(withKey(adasKey)...)
	s.begin(append(withKey(adasKey), "Idempotency-Key", "again")...)
	if r := s.do("POST", "/v1/analyses", aRequest, withKey(adasKey)...); r.status != http.StatusTooManyRequests {
		t.Fatalf("the third: %d %s", r.status, r.body)
	}
	a := s.askOver(adasKey)
	if m := a.send(`{"type":"analyze","id":"1","request":{"code":"package p","cache":"bypass"}}`); m.Error == nil || m.Error.Code != protocol.CodeRateLimited {
		t.Errorf("over a WebSocket: %+v", m)
	}
	s.begin(withKey(bobsKey)...)
	if r := s.do("DELETE", "/v1/streams/"+first, "", withKey(adasKey)...); r.status != http.StatusAccepted {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for { // once it has ended
		r := s.do("POST", "/v1/analyses", aRequest, withKey(adasKey)...)
		if r.status == http.StatusCreated {
			break
		}
		wantLimited(t, r, "your key has as many analyses running as it may, which is 2")
	}
}

func TestARepeatedRequestFindsItsAnalysisThoughItsKeyHasAllThatItMay(t *testing.T) {
	s := serve(t, openAIAt(upstream(t, held("so far"))), append(callers, "--limit-key-streams", "1")...)
	id := s.begin(append(withKey(adasKey), "Idempotency-Key", "once")...)
	r := s.do("POST", "/v1/analyses", aRequest, append(withKey(adasKey), "Idempotency-Key", "once")...)
	if r.status != http.StatusOK || decode[protocol.Metadata](t, r).ID != id {
		t.Errorf("%d %s, want %s", r.status, r.body, id)
	}
	wantLimited(t, s.do("POST", "/v1/analyses", aRequest, withKey(adasKey)...), "analyses running")
}

func TestANearlyFullNodePutsOffWhatCanWaitAndGoesOnWithWhatRuns(t *testing.T) {
	s := serve(t, openAIAt(upstream(t, held("so far"))), append(callers, "--max-analyses", "10", "--shed-from", "0.5")...)
	var ids []string
	for range 6 {
		ids = append(ids, s.begin(withKey(adasKey)...))
	}
	wantPutOff := func(r reply) {
		t.Helper()
		wantProblem(t, r, http.StatusServiceUnavailable, protocol.CodeOverloaded)
		if after, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || after < 1 || after > 5 {
			t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
		}
	}
	wantPutOff(s.do("POST", "/v1/analyses", `{"code":"package p","analysis":"explain","cache":"bypass"}`, withKey(bobsKey)...))
	s.begin(withKey(bobsKey)...)
	wantPutOff(s.do("POST", "/v1/analyses", aRequest, withKey(adasKey)...)) // who has six of seven
	a := s.askOver(adasKey)
	if m := a.send(`{"type":"analyze","id":"1","request":{"code":"package p","cache":"bypass"}}`); m.Error == nil || m.Error.Code != protocol.CodeOverloaded || m.Error.RetryAfterMS < 1000 {
		t.Errorf("over a WebSocket: %+v", m)
	}
	s.begin(withKey(bobsKey)...)
	if m := a.send(`{"type":"subscribe","id":"2","stream":"` + ids[0] + `"}`); m.Type != protocol.MessageSubscribed {
		t.Errorf("a stream that runs can't be watched: %+v", m)
	}
	if r := s.do("GET", "/v1/streams/"+ids[0], "", withKey(bobsKey)...); r.status != 200 {
		t.Errorf("a list is put off though nothing is late: %d", r.status)
	}
	if m := s.do("GET", "/metrics", "", withKey(bobsKey)...); !strings.Contains(m.body, `athena_limited_total{limit="overload-explain"} 1`) || !strings.Contains(m.body, `athena_limited_total{limit="overload-greedy"} 2`) {
		t.Error("the metrics don't count what was put off")
	}
}

func TestAKeyIsHeldToItsBytesAMinute(t *testing.T) {
	s := serve(t, nil, append(callers, "--limit-key-bytes", "10KiB")...)
	big := `{"provider":"local","code":"` + strings.Repeat("x = 1\\n", 2500) + `"}`
	if r := s.do("POST", "/v1/analyses", big, withKey(adasKey)...); r.status != http.StatusCreated || !strings.HasPrefix(r.header.Get("RateLimit"), `"key-bytes";r=0;t=`) {
		t.Fatalf("more than a minute's worth, once: %d %s, RateLimit %q", r.status, r.body, r.header.Get("RateLimit"))
	}
	wantLimited(t, s.do("GET", "/v1/providers", "", withKey(adasKey)...), "your key has used up its 10240 bytes a minute")
	if r := s.do("POST", "/v1/analyses", aRequest, withKey(bobsKey)...); r.status != http.StatusCreated {
		t.Errorf("another key: %d %s", r.status, r.body)
	}
}

func TestAnAddressThatTriesKeysIsBlockedButForKeysThatWereGoodThere(t *testing.T) {
	s := serve(t, nil, append(callers, "--limit-address-failures", "5", "--limit-address-block", "1h", "--limit-address-block-max", "1h")...)
	if r := s.do("GET", "/v1/providers", "", withKey(adasKey)...); r.status != 200 {
		t.Fatal(r.status)
	}
	for range 6 {
		wantProblem(t, s.do("GET", "/v1/providers", "", "X-API-Key", "guess"), http.StatusUnauthorized, protocol.CodeUnauthorized)
	}
	for _, key := range []string{"guess", bobsKey} { // right or wrong, it learns nothing
		wantLimited(t, s.do("GET", "/v1/providers", "", withKey(key)...), "too many credentials from your address were not known")
		wantLimited(t, s.do("GET", "/v1/ws?ticket="+key, ""), "too many credentials")
	}
	if r := s.do("GET", "/v1/providers", "", withKey(adasKey)...); r.status != 200 {
		t.Errorf("who was known before: %d %s", r.status, r.body)
	}
	for _, header := range [][]string{{"X-API-Key", adasKey}, {"Authorization", "bearer  " + adasKey}} {
		if r := s.do("GET", "/v1/providers", "", header...); r.status != 200 {
			t.Errorf("the same key in %v: %d", header[0], r.status)
		}
	}
	// A page of hers asks for a ticket, which nobody has seen before.
	ticket := decode[protocol.Negotiation](t, s.do("POST", "/v1/negotiate", "{}", withKey(adasKey)...)).Ticket
	if r := s.do("GET", "/v1/ws?ticket="+ticket, ""); r.status != http.StatusUpgradeRequired {
		t.Errorf("a ticket of who was known before: %d %s", r.status, r.body)
	}
	if r := s.do("GET", "/readyz", "", withKey("guess")...); r.status != 200 {
		t.Errorf("readiness: %d %s", r.status, r.body)
	}
	if log := s.process.log(); strings.Contains(log, "guess") || strings.Contains(log, bobsKey) || strings.Count(log, "an address is blocked") != 1 {
		t.Error("the log should tell of the block, once, and of no credential")
	}
}

func TestWrongTokensOverAWebSocketBlockTheirAddressToo(t *testing.T) {
	s := serve(t, nil, append(callers, "--limit-address-failures", "5", "--limit-address-block", "1h", "--limit-address-block-max", "1h")...)
	a := s.askOver(adasKey)
	for range 6 {
		if m := a.send(`{"type":"authenticate","id":"1","token":"guess"}`); m.Error == nil || m.Error.Code != protocol.CodeUnauthorized {
			t.Fatalf("%+v", m)
		}
	}
	wantLimited(t, s.do("GET", "/v1/providers", "", withKey("guess")...), "too many credentials")
	for _, token := range []string{"guess", bobsKey} {
		m := a.send(`{"type":"authenticate","id":"2","token":"` + token + `"}`)
		if m.Error == nil || m.Error.Code != protocol.CodeRateLimited || m.Error.RetryAfterMS <= 0 {
			t.Errorf("%s over the WebSocket that is open: %+v, %+v", token, m, m.Error)
		}
	}
	if m := a.send(`{"type":"authenticate","id":"3","token":"` + adasKey + `"}`); m.Type != protocol.MessageAccepted {
		t.Errorf("a key that was good there: %+v, %+v", m, m.Error)
	}
}

func TestAFloodThroughATrustedProxyDoesNotShutTheProxyOut(t *testing.T) {
	s := serve(t, nil, append(callers, "--trusted-proxy", "loopback", "--forwarded-header", "forwarded", "--limit-address-failures", "1", "--limit-address-block", "1h", "--limit-address-block-max", "1h")...)
	for i := range 500 {
		// No header of RFC 7239: the request's address is the proxy's.
		r := s.do("GET", "/v1/providers", "", append(withKey("guess"), "Forwarded", `for="1.2.3.4`)...)
		if i > 1 && r.status != http.StatusTooManyRequests {
			t.Fatalf("guess %d: %d %s", i, r.status, r.body)
		}
	}
	if r := s.do("GET", "/v1/providers", "", append(withKey(adasKey), "Forwarded", "for=192.0.2.1")...); r.status != 200 {
		t.Errorf("somebody else who comes by the proxy: %d %s", r.status, r.body)
	}
}

func TestSeveralNodesKeepOneLimitInRedisAndTheirOwnWhileItIsAway(t *testing.T) {
	redis := redistest.Start(t)
	var nodes [2]*server
	for i := range nodes {
		nodes[i] = serve(t, nil, append(callers, "--limit-key-requests", "10", "--redis-url", redis.URL(), "--redis-timeout", "5s")...)
	}
	// passed asks n times, and counts the answers that are no refusals.
	passed := func(s *server, n int) (passed int) {
		t.Helper()
		for range n {
			switch r := s.do("GET", "/v1/providers", "", withKey(adasKey)...); r.status {
			case http.StatusOK:
				passed++
			default:
				wantLimited(t, r, "10 requests a minute")
			}
		}
		return passed
	}
	// A token comes back each 6 s, and the machine may be slow.
	began := time.Now()
	total := passed(nodes[0], 7) + passed(nodes[1], 7)
	if back := int(time.Since(began)/(6*time.Second)) + 1; total < 10 || total > 10+back {
		t.Fatalf("%d requests passed on two nodes, want 10 and at most %d that came back", total, back)
	}
	redis.Kill()
	for _, s := range nodes {
		began = time.Now()
		n := passed(s, 14)
		if back := int(time.Since(began)/(6*time.Second)) + 1; n < 10 || n > 10+back {
			t.Errorf("without Redis %d of 14 passed on one node, want 10 and at most %d", n, back)
		}
		ready := s.do("GET", "/readyz", "")
		if ready.status != 200 || !strings.Contains(ready.body, "Redis does not answer: limits hold for each node by itself") {
			t.Errorf("readiness: %d %s", ready.status, ready.body)
		}
		if m := s.do("GET", "/metrics", "", withKey(bobsKey)...); !strings.Contains(m.body, "athena_limit_redis_up 0") || !strings.Contains(m.body, "athena_limit_redis_failures_total 1\n") {
			t.Error("the metrics don't say that Redis is away, and was asked once")
		}
		if n := strings.Count(s.process.log(), "Redis does not answer"); n != 1 {
			t.Errorf("the log says so %d times", n)
		}
	}
	redis.Restart() // with nothing in it
	for _, s := range nodes {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := s.process.waitLog(ctx, "Redis is back")
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for decode[struct{ Degraded []string }](t, s.do("GET", "/readyz", "")).Degraded != nil {
		}
	}
	began = time.Now()
	total = passed(nodes[0], 7) + passed(nodes[1], 7)
	if back := int(time.Since(began)/(6*time.Second)) + 1; total < 10 || total > 10+back {
		t.Errorf("once it is back %d requests passed, want 10 and at most %d", total, back)
	}
}

func TestTokensOnOneNodeAreMissingOnAnotherAndConnectionsCountOnAll(t *testing.T) {
	redis := redistest.Start(t)
	script := answer(0, "said")
	script.Usage = &protocol.Usage{InputTokens: 50_000, OutputTokens: 10}
	var nodes [2]*server
	for i := range nodes {
		nodes[i] = serve(t, openAIAt(upstream(t, script)), append(callers, "--tenant-tokens-per-minute", "10000", "--limit-key-connections", "1",
			"--rate-limit-wait", "0s", "--redis-url", redis.URL(), "--redis-timeout", "5s")...)
	}
	if tr := nodes[0].readAs(adasKey, nodes[0].begin(withKey(adasKey)...)); tr.Terminal().Type != protocol.TypeCompleted {
		t.Fatalf("the first ended with %+v", tr.Terminal())
	}
	tr := nodes[1].readAs(adasKey, nodes[1].begin(withKey(adasKey)...))
	wantEnd(t, tr, protocol.TypeFailed, `"code":"rate_limited"`)
	wantEnd(t, tr, protocol.TypeFailed, `"retry_after_ms":`)
	wantEnd(t, nodes[1].readAs(bobsKey, nodes[1].begin(withKey(bobsKey)...)), protocol.TypeCompleted, "")

	nodes[0].askOver(adasKey)
	for { // until they have told each other
		a := nodes[1].askOver(adasKey)
		m := a.send(`{"type":"ping"}`)
		_ = a.conn.CloseNow()
		if m.Type == protocol.MessageError && m.Error.Code == protocol.CodeRateLimited {
			break
		}
	}
}

// readAs returns the whole stream, which somebody waits for.
func (s *server) readAs(key, id string) *protocol.Transcript {
	s.t.Helper()
	tr := new(protocol.Transcript)
	for after := uint64(0); tr.Terminal() == nil; {
		r := s.do("GET", fmt.Sprintf("/v1/streams/%s/events?wait=20s&after=%d", id, after), "", withKey(key)...)
		if r.status != 200 {
			s.t.Fatalf("%d %s", r.status, r.body)
		}
		for _, e := range decode[struct{ Events []protocol.Event }](s.t, r).Events {
			if err := tr.Apply(&e); err != nil {
				s.t.Fatal(err)
			}
			after = e.Seq
		}
	}
	return tr
}

func TestWhatHasALimitIsRefusedWhileRedisIsAwayIfThatWasChosen(t *testing.T) {
	addr, err := freeAddress() // where nothing listens
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, nil, append(callers, "--limit-tenant-requests", "10", "--redis-url", "redis://:canary@"+addr, "--redis-failure", "deny")...)
	r := s.do("GET", "/v1/providers", "", withKey(adasKey)...)
	wantProblem(t, r, http.StatusServiceUnavailable, protocol.CodeOverloaded)
	if r.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
	}
	if r := s.do("GET", "/readyz", ""); r.status != 200 {
		t.Errorf("readiness: %d", r.status)
	}
	if strings.Contains(s.process.log(), "canary") {
		t.Error("the log has Redis's password")
	}
}
