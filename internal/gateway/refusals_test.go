package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

func TestRefusalsAreProblemsThatSayWhatWouldBeRight(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.MaxCodeBytes = 1000 })
	id := n.startJob("hold")
	unknown := protocol.NewStreamID()
	const ok = `{"code":"x"}`
	for _, c := range []struct {
		name, method, target, body string
		header                     []string
		status                     int
		code, detail               string
	}{
		{"no JSON", "POST", "/v1/analyses", "x", nil, 400, "invalid_request", "not valid JSON"},
		{"no body", "POST", "/v1/analyses", "", nil, 400, "invalid_request", "ends before its JSON object"},
		{"unknown field", "POST", "/v1/analyses", `{"kode":"x"}`, nil, 400, "invalid_request", `unknown field \"kode\"`},
		{"too large", "POST", "/v1/analyses", `{"code":"` + strings.Repeat("x", 70_000) + `"}`, nil, 413, "payload_too_large", "more than the limit of 68536"},
		{"bad wait", "POST", "/v1/analyses?wait=60", ok, nil, 400, "invalid_request", `wait is \"60\"; it must be a time such as 25s`},
		{"negative wait", "POST", "/v1/analyses?wait=-1s", ok, nil, 400, "invalid_request", "wait is"},
		{"compressed", "POST", "/v1/analyses", ok, []string{"Content-Encoding", "gzip"}, 415, "invalid_request", "send the body as it is"},
		{"long key", "POST", "/v1/analyses", ok, []string{"Idempotency-Key", strings.Repeat("k", 256)}, 400, "invalid_request", "at most 255"},
		{"odd key", "POST", "/v1/analyses", ok, []string{"Idempotency-Key", "é"}, 400, "invalid_request", "printable"},
		{"bad Last-Event-ID", "POST", "/v1/analyses", ok, []string{"Last-Event-ID", "x"}, 400, "invalid_cursor", "not a whole number"},
		{"unknown stream", "GET", "/v1/streams/" + unknown, "", nil, 404, "stream_not_found", "unknown"},
		{"no stream id", "GET", "/v1/streams/x", "", nil, 404, "stream_not_found", "not the id of a stream"},
		{"a path in the place of an id", "GET", "/v1/streams/..%2f..%2fetc", "", nil, 404, "invalid_request", "there is nothing"},
		{"unknown stream's events", "GET", "/v1/streams/" + unknown + "/events", "", nil, 404, "stream_not_found", "unknown"},
		{"cancel an unknown stream", "DELETE", "/v1/streams/" + unknown, "", nil, 404, "stream_not_found", "unknown"},
		{"cursor beyond the head", "GET", "/v1/streams/" + id + "/events?after=99", "", nil, 400, "invalid_cursor", ""},
		{"bad cursor", "GET", "/v1/streams/" + id + "/events?after=-1", "", nil, 400, "invalid_cursor", "not a whole number"},
		{"several streams' cursor for one", "GET", "/v1/streams/" + id + "/events?after=" + id + ":1", "", nil, 400, "invalid_cursor", "not a whole number"},
		{"bad poll wait", "GET", "/v1/streams/" + id + "/events?wait=soon", "", nil, 400, "invalid_request", "25s"},
		{"no stream named", "GET", "/v1/events", "", nil, 400, "invalid_request", "?stream=ID"},
		{"bad stream named", "GET", "/v1/events?stream=x", "", nil, 404, "stream_not_found", "not the id"},
		{"named twice", "GET", "/v1/events?stream=" + id + "&stream=" + id, "", nil, 400, "invalid_request", "named twice"},
		{"too many", "GET", "/v1/events?" + strings.Repeat("stream="+id+"&", 65), "", nil, 400, "invalid_request", "65 streams were named, more than the limit of 64"},
		{"cursor of another stream", "GET", "/v1/events?stream=" + id + "&after=" + unknown + ":1", "", nil, 400, "invalid_cursor", "not named with"},
		{"cursor without a stream", "GET", "/v1/events?stream=" + id + "&after=1", "", nil, 400, "invalid_cursor", "not STREAM:SEQ"},
		{"a WebSocket of no version", "GET", "/v1/ws", "", []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}, 400, "invalid_request", "Sec-WebSocket-Version: 13"},
		{"a WebSocket of another protocol", "GET", "/v1/ws", "", []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol", "athena.v2"}, 400, "invalid_request", "must be athena.v1"},
		{"no WebSocket", "GET", "/v1/ws", "", nil, 426, "invalid_request", "this is a WebSocket"},
		{"unknown path", "GET", "/v1/nothing?ticket=canary-ticket", "", nil, 404, "invalid_request", `there is nothing at \"/v1/nothing\"`},
		{"path that is not clean", "GET", "//v1/providers", "", nil, 404, "invalid_request", "there is nothing"},
		{"path with a slash too many", "GET", "/v1/providers/", "", nil, 404, "invalid_request", "there is nothing"},
		{"unknown path by POST", "POST", "/v1/nothing", ok, nil, 404, "invalid_request", "there is nothing"},
		{"wrong method", "PUT", "/v1/streams/" + id, "", nil, 405, "invalid_request", "it must be DELETE, GET, HEAD"},
		{"wrong method with a body", "PUT", "/v1/analyses", ok, nil, 405, "invalid_request", "it must be POST"},
		{"wrong method of analyses", "GET", "/v1/analyses", "", nil, 405, "invalid_request", "it must be POST"},
		{"body of a DELETE", "DELETE", "/v1/streams/" + id, ok, nil, 400, "invalid_request", "no body"},
		{"other site", "GET", "/v1/providers", "", []string{"Origin", "https://evil.example"}, 403, "forbidden", "allowed origins"},
		{"null", "GET", "/v1/providers", "", []string{"Origin", "null"}, 403, "forbidden", "allowed origins"},
		{"name like an allowed one", "GET", "/v1/providers", "", []string{"Origin", "https://evilexample.org"}, 403, "forbidden", "allowed origins"},
		{"the wildcard's own name", "GET", "/v1/providers", "", []string{"Origin", "https://example.org"}, 403, "forbidden", "allowed origins"},
		{"another scheme", "GET", "/v1/providers", "", []string{"Origin", "http://app.example.com"}, 403, "forbidden", "allowed origins"},
		{"preflight of another site", "OPTIONS", "/v1/analyses", "", []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "POST"}, 403, "forbidden", "allowed origins"},
		{"another site's form", "POST", "/v1/analyses", ok, []string{"Sec-Fetch-Site", "cross-site"}, 403, "forbidden", "another site"},
		{"rebound name", "GET", "/v1/providers", "", []string{"Host", "evil.example:80"}, 421, "forbidden", "another name"},
		{"rebound name that looks local", "GET", "/", "", []string{"Host", "127.0.0.1.evil.example"}, 421, "forbidden", "another name"},
	} {
		a := n.do(c.method, c.target, c.body, c.header...)
		p := decode[struct {
			Code, Title, Detail string
			Status              int
		}](t, a)
		if a.status != c.status || p.Status != c.status || p.Code != c.code || p.Title == "" || a.header.Get("Content-Type") != "application/problem+json" ||
			!strings.Contains(a.body, c.detail) || (c.status == 405) != (a.header.Get("Allow") != "") || a.header.Get("X-Request-Id") == "" || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v %s", c.name, a.status, a.header, a.body)
		}
	}
	if a := n.do("HEAD", "/v1/streams/"+id+"/events", "", "Accept", "text/event-stream"); a.status != 405 || a.header.Get("Allow") != "GET" {
		t.Errorf("HEAD of a stream: %d %v", a.status, a.header)
	}
	if len(n.jobs.started) != 1 {
		t.Errorf("refused requests started %d analyses", len(n.jobs.started)-1)
	}
}

func TestCodeWithinItsLimitIsTakenHoweverItIsEscaped(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.MaxCodeBytes = 300_000 })
	if a := n.do("POST", "/v1/analyses", `{"code":"`+strings.Repeat(`\u00e9`, 150_000)+`"}`); a.status != 201 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestABodyWithoutLengthIsBoundedToo(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.MaxCodeBytes = 1000 })
	req, err := http.NewRequestWithContext(t.Context(), "POST", n.url+"/v1/analyses", io.MultiReader(strings.NewReader(`{"code":"`), strings.NewReader(strings.Repeat("x", 100_000))))
	if err != nil {
		t.Fatal(err)
	}
	res, err := n.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != 413 || !res.Close {
		t.Errorf("%s, connection kept: %v", res.Status, !res.Close)
	}
}

func TestASlowBodyIsGivenUp(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.BodyTimeout = 50 * time.Millisecond })
	nc, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	if _, err := io.WriteString(nc, "POST /v1/analyses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(nc)
	if s := string(b); err != nil || !strings.HasPrefix(s, "HTTP/1.1 408 ") || !strings.Contains(s, "Connection: close") || !strings.Contains(s, "did not arrive within 50ms") {
		t.Errorf("%s, %v", b, err)
	}
}

func TestTheBodysDeadlineDoesNotEndTheStream(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) {
		o.BodyTimeout, o.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	// The wait is longer than both; a connection that was broken has no answer.
	if a := n.do("POST", "/v1/analyses?wait=150ms", `{"code":"hold"}`); a.status != 201 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := n.do("GET", "/v1/streams/"+n.startJob("hold")+"/events?after=2&wait=150ms", ""); a.status != 200 || !strings.Contains(a.body, `"events":[]`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAllowedSitesGetTheirHeaders(t *testing.T) {
	n := start(t, true)
	key := []string{"X-API-Key", apiKey}
	for _, origin := range []string{"https://app.example.com", "https://a.b.example.org"} {
		a := n.do("OPTIONS", "/v1/analyses", "", "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
		if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != origin || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Authorization") ||
			a.header.Get("Access-Control-Allow-Methods") != "GET, POST, PUT, DELETE" || a.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("preflight of %s: %d %v", origin, a.status, a.header)
		}
		a = n.do("POST", "/v1/analyses", `{"code":"x"}`, append(key, "Origin", origin, "Sec-Fetch-Site", "cross-site")...)
		if a.status != 201 || a.header.Get("Access-Control-Allow-Origin") != origin || a.header.Get("Vary") != "Origin" || !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "Location") {
			t.Errorf("%s: %d %v", origin, a.status, a.header)
		}
	}
	for _, h := range [][]string{{"Origin", n.url}, {"Sec-Fetch-Site", "same-origin"}, {"Host", "athena.internal", "Origin", "https://athena.internal"}} {
		a := n.do("POST", "/v1/analyses", `{"code":"x"}`, append(key, h...)...)
		if a.status != 201 || a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%v: %d %v", h, a.status, a.header)
		}
	}
}

func TestOnLoopbackTheNamesOfThisMachineAndOfAllowedSitesAreTaken(t *testing.T) {
	n := start(t, false)
	for _, host := range []string{"localhost", "localhost:8080", "LOCALHOST.", "dev.localhost:1", "127.0.0.1:9", "127.8.8.8", "[::1]:80", "[::1]", "app.example.com", "x.example.org"} {
		if a := n.do("GET", "/v1/providers", "", "Host", host); a.status != 200 {
			t.Errorf("%s: %d %s", host, a.status, a.body)
		}
	}
	if a := start(t, true).do("GET", "/v1/providers", "", "Host", "anything.example", "X-API-Key", apiKey); a.status != 200 {
		t.Errorf("with credentials: %d %s", a.status, a.body)
	}
}

func TestOriginsAreChecked(t *testing.T) {
	for _, o := range []string{"example.com", "null", "*", "https://", "https://x/", "https://x/path", "ftp://x", "https://*.com", "https://a.*.com", "https://*.*.example.com", "https://u@x"} {
		if _, err := gateway.NewOrigins([]string{o}); err == nil {
			t.Errorf("%q was taken", o)
		}
	}
}

func TestAPanicIsAnsweredAndTheServerGoesOn(t *testing.T) {
	n := start(t, false)
	n.jobs.panics = "the inner workings"
	a := n.do("POST", "/v1/analyses", `{"code":"x"}`, "X-Request-Id", "boom")
	if e := decode[protocol.Error](t, a); a.status != 500 || e.Code != protocol.CodeInternal || strings.Contains(a.body, "inner workings") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if log := n.log.String(); !strings.Contains(log, "the inner workings") || !strings.Contains(log, "boom") || !strings.Contains(log, "harness_test.go") {
		t.Errorf("the log lacks the panic: %s", log)
	}
	if a := n.do("GET", "/healthz", ""); a.status != 200 {
		t.Errorf("afterwards: %d", a.status)
	}
}

func TestAPanicWithinAnAnswerBreaksTheConnection(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) {
		o.MetricsHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			panic("halfway")
		})
	})
	res, err := n.client.Get(n.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("the answer looks whole: %q", b)
	}
}

func TestErrorsThatAreNotForClientsAreLoggedOnly(t *testing.T) {
	n := start(t, false)
	n.jobs.fail = errors.New("disk of /srv/secret is full")
	a := n.do("POST", "/v1/analyses", `{"code":"x"}`)
	if a.status != 500 || strings.Contains(a.body, "secret") || !strings.Contains(n.log.String(), "disk of /srv/secret is full") {
		t.Errorf("%d %s", a.status, a.body)
	}
	n.jobs.fail = fmt.Errorf("start: %w", protocol.Errorf(protocol.CodeOverloaded, "256 analyses run").WithRetryAfter(1500*time.Millisecond))
	if a := n.do("POST", "/v1/analyses", `{"code":"x"}`); a.status != 503 || a.header.Get("Retry-After") != "2" || !strings.Contains(a.body, "256 analyses run") {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
}

func TestRequestIDsAreTakenIfSane(t *testing.T) {
	n := start(t, false)
	for _, id := range []string{"a b", strings.Repeat("x", 129), `"}`, "é"} {
		if got := n.do("GET", "/healthz", "", "X-Request-Id", id).header.Get("X-Request-Id"); got == id || len(got) < 20 {
			t.Errorf("%q became %q", id, got)
		}
	}
}

// Everything that could leak a credential, and then a look at all that came out.
func TestKeysAndTicketsAppearNowhere(t *testing.T) {
	n := start(t, true)
	key := []string{"Authorization", "Bearer " + apiKey}
	id := n.startJob("x", key...)
	var bodies strings.Builder
	collect := func(a answer) {
		fmt.Fprintf(&bodies, "%s %v\n", a.body, a.header)
	}
	tickets := make([]string, 0, 8)
	for range 8 {
		tickets = append(tickets, decode[protocol.Negotiation](t, n.do("POST", "/v1/negotiate", "", key...)).Ticket)
	}
	collect(n.do("GET", "/v1/streams/"+id+"/events?ticket="+tickets[0], ""))
	collect(n.do("GET", "/v1/streams/"+id+"/events?ticket="+tickets[0], ""))
	collect(n.do("GET", "/v1/events?stream="+id+"&ticket="+tickets[1], "", "Accept", "text/event-stream"))
	collect(n.do("GET", "/v1/ws?ticket="+tickets[2], ""))
	collect(n.do("GET", "/v1/events?stream=x&after=1&ticket="+tickets[3], ""))
	collect(n.do("GET", "/v1/providers?ticket="+tickets[4], ""))
	collect(n.do("GET", "/nothing?ticket="+tickets[5]+"&key="+apiKey, "", key...))
	collect(n.do("PUT", "/v1/events?ticket="+tickets[6], "", key...))
	collect(n.do("GET", "//v1/events/?ticket=AAAA-bad-ticket", "", key...))
	collect(n.do("GET", "/v1/providers", "", "Authorization", "Basic "+apiKey))
	collect(n.do("GET", "/v1/providers", "", "X-API-Key", apiKey+"-wrong"))
	collect(n.do("GET", "/v1/providers", "", append(key, "Origin", "https://evil.example")...))
	collect(n.do("POST", "/v1/analyses", "not json", key...))
	n.jobs.panics = "boom"
	collect(n.do("POST", "/v1/analyses?ticket="+tickets[7], `{"code":"x"}`, key...))
	collect(n.do("GET", "/metrics", "", key...))

	nc, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	if _, err := fmt.Fprintf(nc, "GET /v1/providers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nbroken header %s\r\n\r\n", apiKey, apiKey); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(nc).ReadString('\n')
	bodies.WriteString(line)

	all := n.log.String() + bodies.String()
	for _, secret := range append(tickets, apiKey, "AAAA-bad-ticket") {
		if i := strings.Index(all, secret); i >= 0 {
			t.Errorf("a credential is shown: …%s…", all[max(0, i-200):min(len(all), i+len(secret)+20)])
		}
	}
	if !strings.Contains(n.log.String(), `"caller":"ada"`) || !strings.Contains(n.log.String(), `"path":"/v1/streams/`+id+`/events"`) {
		t.Errorf("the log lacks its lines: %s", n.log)
	}
}

func TestAWebSocketsCallerStaysTheSame(t *testing.T) {
	a, err := auth.New([]auth.Key{{Name: "ada", Secret: apiKey}, {Name: "bob", Secret: "another-key-012345"}}, auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &gateway.Commands{Auth: a}
	ctx := auth.NewContext(t.Context(), auth.Identity{Name: "ada", Scopes: auth.AllScopes, Credential: "static:ada"})
	if err := c.Authenticate(ctx, apiKey); err != nil {
		t.Errorf("the same caller: %v", err)
	}
	if err := c.Authenticate(ctx, "another-key-012345"); !errors.Is(err, protocol.Errorf(protocol.CodeForbidden, "")) {
		t.Errorf("another caller: %v", err)
	}
	if err := c.Authenticate(ctx, "wrong"); !errors.Is(err, protocol.ErrAuthentication) {
		t.Errorf("nobody: %v", err)
	}
	if err := c.Cancel(ctx, "x"); !errors.Is(err, protocol.Errorf(protocol.CodeStreamNotFound, "")) {
		t.Errorf("no stream: %v", err)
	}
	if _, err := c.Analyze(ctx, []byte("{}")); !errors.Is(err, protocol.ErrValidation) {
		t.Errorf("no request: %v", err)
	}
}
