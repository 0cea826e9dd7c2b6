package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

func TestAnAnalysisIsStartedAndItsMetadataTold(t *testing.T) {
	n := start(t, false)
	a := n.do("POST", "/v1/analyses", `{"code":"hold","analysis":"bugs"}`, "Content-Type", "application/x-www-form-urlencoded", "X-Request-Id", "req-1")
	m := decode[protocol.Metadata](t, a)
	at := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	want := protocol.Metadata{ID: m.ID, State: protocol.StateRunning, Provider: "local", Analysis: "bugs", Attempt: 1, Head: 2, Created: &at}
	if a.status != 201 || a.header.Get("Location") != "/v1/streams/"+m.ID || !protocol.ValidStreamID(m.ID) || !reflect.DeepEqual(m, want) || a.header.Get("X-Request-Id") != "req-1" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if got := n.jobs.started[0]; got != (gateway.StartOptions{RequestID: "req-1"}) {
		t.Errorf("started with %+v", got)
	}
	if b := n.do("GET", "/v1/streams/"+m.ID, ""); b.status != 200 || b.body != a.body || b.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s", b.status, b.body)
	}
	if b := n.do("DELETE", "/v1/streams/"+m.ID, ""); b.status != 202 || b.body != a.body {
		t.Errorf("cancel: %d %s", b.status, b.body)
	}
	if c := decode[protocol.Metadata](t, n.do("DELETE", "/v1/streams/"+m.ID, "")); c.State != protocol.StateCancelled || c.CancelledBy != "client" {
		t.Errorf("cancelled again: %+v", c)
	}
}

func TestWaitGivesTheResultOrTheMetadata(t *testing.T) {
	n := start(t, false)
	a := n.do("POST", "/v1/analyses?wait=60s", `{"code":"x"}`)
	r := decode[gateway.Result](t, a)
	if a.status != 201 || r.State != protocol.StateCompleted || r.Text != "hello world" || r.Usage.InputTokens != 3 || r.Head != 5 ||
		!reflect.DeepEqual(r.Findings, []protocol.Finding{{Rule: "r1", Severity: "low", Message: "m"}}) {
		t.Errorf("%d %s", a.status, a.body)
	}
	a = n.do("POST", "/v1/analyses?wait=1ms", `{"code":"hold"}`)
	if m := decode[protocol.Metadata](t, a); a.status != 201 || m.State != protocol.StateRunning || strings.Contains(a.body, "text") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAResultThatIsWaitedForComesWhenTheAnalysisEnds(t *testing.T) {
	n := start(t, false)
	got := make(chan answer, 1)
	go func() { got <- n.do("POST", "/v1/analyses?wait=60s", `{"code":"hold"}`) }()
	if a := n.do("DELETE", "/v1/streams/"+<-n.jobs.ids, ""); a.status != 202 {
		t.Errorf("%d %s", a.status, a.body)
	}
	a := <-got
	if r := decode[gateway.Result](t, a); r.State != protocol.StateCancelled || r.Text != "hello " || r.Findings == nil {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestShutdownAnswersThoseWhoWait(t *testing.T) {
	n := start(t, false)
	got := make(chan answer, 1)
	go func() { got <- n.do("POST", "/v1/analyses?wait=60s", `{"code":"hold"}`) }()
	<-n.jobs.ids
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	broken := errors.New("a step failed")
	var order []string
	err := n.server.Shutdown(ctx,
		func(context.Context) error {
			order = append(order, fmt.Sprint(n.do("GET", "/readyz", "").status))
			return broken
		},
		func(context.Context) error {
			order = append(order, fmt.Sprint(n.do("GET", "/healthz", "").status))
			return nil
		})
	if !errors.Is(err, broken) || fmt.Sprint(order) != "[503 200]" {
		t.Errorf("%v, steps %v", err, order)
	}
	if a := <-got; a.status != 201 || decode[protocol.Metadata](t, a).State != protocol.StateRunning {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAnIdempotencyKeyIsPassedOn(t *testing.T) {
	n := start(t, true)
	key := []string{"Authorization", "Bearer " + apiKey, "Idempotency-Key", "once"}
	first := n.do("POST", "/v1/analyses", `{"code":"x"}`, key...)
	second := n.do("POST", "/v1/analyses", `{"code":"x"}`, key...)
	if first.status != 201 || second.status != 200 || first.body != second.body {
		t.Errorf("%d %s, %d %s", first.status, first.body, second.status, second.body)
	}
	if got := n.jobs.started[0]; got.IdempotencyKey != "once" || got.Owner != "ada" || len(got.RequestID) < 20 {
		t.Errorf("%+v", got)
	}
	// A stream that broke off goes on after what the client has.
	a := n.do("POST", "/v1/analyses", `{"code":"x"}`, append(key, "Accept", "text/event-stream", "Last-Event-ID", "4")...)
	if !strings.Contains(a.body, "\nid: 5\n") || strings.Contains(a.body, "hello") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAStreamIsServedOverEveryTransport(t *testing.T) {
	n := start(t, false)
	a := n.do("POST", "/v1/analyses", `{"code":"x"}`, "Accept", "text/html;q=0.5, text/event-stream")
	if a.status != 200 || a.header.Get("Content-Type") != "text/event-stream" || !strings.HasPrefix(a.header.Get("Location"), "/v1/streams/") ||
		!strings.HasPrefix(a.body, "retry: ") || !strings.Contains(a.body, "event: welcome\n") || !strings.Contains(a.body, "\nid: 5\n") {
		t.Errorf("POST as SSE: %d %v %s", a.status, a.header, a.body)
	}
	A, B := n.startJob("x"), n.startJob("y")
	events := "/v1/streams/" + A + "/events"
	for _, c := range []struct {
		name, target string
		header       []string
		status       int
		has, hasNot  string
	}{
		{"SSE from a cursor", events + "?after=2", []string{"Accept", "text/event-stream"}, 200, "id: 3\n", "hello"},
		{"Last-Event-ID wins", events + "?after=0", []string{"Accept", "text/event-stream", "Last-Event-ID", "3"}, 200, "id: 4\n", "world"},
		{"SSE at the end", events + "?after=5", []string{"Accept", "text/event-stream"}, 204, "", "x"},
		{"long-poll", events, nil, 200, `"cursor":"5","done":true}`, "retry"},
		{"long-poll where SSE is refused", events, []string{"Accept", "text/event-stream;q=0, */*"}, 200, `"done":true`, "retry"},
		{"long-poll after all", events + "?after=5&wait=5s", nil, 200, `{"events":[],"cursor":"5","done":true}`, "x"},
		{"many by SSE", "/v1/events?stream=" + A + "&stream=" + B + "&after=" + B + ":4", []string{"Accept", "text/event-stream"}, 200, "id: " + A + ":5," + B + ":5\n", "zzz"},
		{"many by long-poll", "/v1/events?stream=" + A + "&stream=" + B, nil, 200, `"cursor":"` + A + ":5," + B + `:5","done":true}`, "retry"},
		{"many from Last-Event-ID", "/v1/events?stream=" + A + "&stream=" + B, []string{"Last-Event-ID", A + ":5," + B + ":4"}, 200, `"seq":5`, `"seq":4`},
	} {
		a := n.do("GET", c.target, "", c.header...)
		if a.status != c.status || !strings.Contains(a.body, c.has) || strings.Contains(a.body, c.hasNot) {
			t.Errorf("%s: %d %s", c.name, a.status, a.body)
		}
	}

	conn, _, err := websocket.Dial(t.Context(), n.url+"/v1/ws", &websocket.DialOptions{Subprotocols: []string{"athena.v1"}, HTTPClient: n.client})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }() // closed below, if all is well
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"analyze","id":"c1","request":{"code":"x"}}`)); err != nil {
		t.Fatal(err)
	}
	var heard strings.Builder
	for !strings.Contains(heard.String(), `"completed"`) {
		_, b, err := conn.Read(t.Context())
		if err != nil {
			t.Fatalf("%v after %s", err, heard.String())
		}
		heard.Write(b)
	}
	if s := heard.String(); conn.Subprotocol() != "athena.v1" || !strings.Contains(s, `"welcome"`) || !strings.Contains(s, `"accepted","id":"c1"`) {
		t.Errorf("%s", s)
	}
	for _, c := range [][2]string{{protocol.NewStreamID(), `"code":"stream_not_found"`}, {A, `"accepted","id":"c2"`}} {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"cancel","id":"c2","stream":"`+c[0]+`"}`)); err != nil {
			t.Fatal(err)
		}
		if _, b, err := conn.Read(t.Context()); err != nil || !strings.Contains(string(b), c[1]) {
			t.Errorf("cancel: %s, %v", b, err)
		}
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

func TestNegotiationOffersWhatTheRequestCanUse(t *testing.T) {
	n := start(t, true, func(o *gateway.Options) {
		o.Heartbeat, o.MaxStreams = 7*time.Second, 9
		o.Transports = []string{"websocket", "sse", "long-poll"}
	})
	offered := func(a answer) string {
		var names []string
		for _, o := range decode[protocol.Negotiation](t, a).Transports {
			names = append(names, o.Name+" "+o.URL)
		}
		return strings.Join(names, ", ")
	}
	key := []string{"X-API-Key", apiKey}
	a := n.do("POST", "/v1/negotiate", "{}", key...)
	neg := decode[protocol.Negotiation](t, a)
	if offered(a) != "websocket /v1/ws, sse /v1/events, long-poll /v1/events" || neg.Protocol != "athena.v1" || neg.HeartbeatMS != 7000 || neg.ProbeTimeoutMS != 3000 || neg.MaxStreams != 9 {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, via := range []string{"1.0 squid", "1.1 a, 1.0 b", "HTTP/1.0 c"} {
		if got := offered(n.do("POST", "/v1/negotiate", "", append(key, "Via", via)...)); got != "long-poll /v1/events" {
			t.Errorf("Via %s: %s", via, got)
		}
	}
	if got := offered(n.do("POST", "/v1/negotiate", "", append(key, "Via", "1.1 nginx")...)); !strings.HasPrefix(got, "websocket") {
		t.Errorf("Via 1.1: %s", got)
	}
	nc, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	if _, err := fmt.Fprintf(nc, "POST /v1/negotiate HTTP/1.0\r\nX-API-Key: %s\r\n\r\n", apiKey); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(nc).ReadString('}')
	if !strings.Contains(line, `"transports":[{"name":"long-poll"`) {
		t.Errorf("HTTP/1.0: %s", line)
	}

	// The ticket opens one stream, once.
	id := n.startJob("x", key...)
	target := "/v1/streams/" + id + "/events?ticket=" + neg.Ticket
	if a := n.do("GET", target, "", "Accept", "text/event-stream"); a.status != 200 || !strings.Contains(a.body, "world") {
		t.Errorf("with a ticket: %d %s", a.status, a.body)
	}
	if a := n.do("GET", target, "", "Accept", "text/event-stream"); a.status != 401 {
		t.Errorf("with a used ticket: %d %s", a.status, a.body)
	}

	open := start(t, false, func(o *gateway.Options) { o.Transports = []string{"sse"} })
	if a := open.do("POST", "/v1/negotiate", ""); strings.Contains(a.body, "ticket") || offered(a) != "sse /v1/events" {
		t.Errorf("without credentials: %s", a.body)
	}
}

func TestHealthReadinessAndMetrics(t *testing.T) {
	n := start(t, true)
	if a := n.do("GET", "/healthz", ""); a.status != 200 || a.body != `{"status":"ok"}`+"\n" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := n.do("GET", "/readyz", ""); a.status != 200 || a.body != `{"status":"ready","nodes":["n1"],"history":"ok"}`+"\n" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := n.do("GET", "/metrics", ""); a.status != 401 {
		t.Errorf("metrics without a key: %d", a.status)
	}
	if a := n.do("GET", "/metrics", "", "X-API-Key", apiKey); a.status != 200 || !strings.Contains(a.body, `athena_http_requests_total{route="GET /healthz",status="200"} 1`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	broken := start(t, false, func(o *gateway.Options) {
		o.Ready = func(context.Context) error { return errors.New("the bus of 10.0.0.1 is down") }
	})
	if a := broken.do("GET", "/readyz", ""); a.status != 503 || strings.Contains(a.body, "10.0.0.1") || !strings.Contains(broken.log.String(), "10.0.0.1") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAGatewayWithoutItsPartsIsNotMade(t *testing.T) {
	if _, err := gateway.New(gateway.Options{}); err == nil || !strings.HasPrefix(err.Error(), "gateway: no ") {
		t.Errorf("%v", err)
	}
}

var _ http.Handler = (*gateway.Gateway)(nil)
