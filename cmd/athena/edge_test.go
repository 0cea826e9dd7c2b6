package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/protocol"
)

// selfSigned writes a certificate for 127.0.0.1 and its key, and returns the
// certificate.
func selfSigned(t *testing.T, certFile, keyFile string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "athena"}, DNSNames: []string{"athena.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{keyFile: {Type: "PRIVATE KEY", Bytes: private}, certFile: {Type: "CERTIFICATE", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

// httpsClient trusts these certificates and none else.
func httpsClient(t *testing.T, trusted ...*x509.Certificate) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	for _, c := range trusted {
		pool.AddCert(c)
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "athena.test"}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// send sends a request over c; header has names and values in turn.
func send(t *testing.T, c *http.Client, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer func() { _ = res.Body.Close() }() // it was read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return res, string(b)
}

func TestHTTPSCarriesEveryTransportAndNewCertificatesAreTakenWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")
	first := selfSigned(t, certFile, keyFile)
	plainAddress, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, nil, "--tls-cert", certFile, "--tls-key", keyFile, "--http-listen", plainAddress, "--api-key", "ada=0123456789abcdef-canary")
	if !strings.HasPrefix(s.url, "https://") {
		t.Fatalf("ready at %s", s.url)
	}
	key := []string{"Authorization", "Bearer 0123456789abcdef-canary"}
	c := httpsClient(t, first)

	res, body := send(t, c, "POST", s.url+"/v1/analyses", aRequest, append(key, "Accept", "text/event-stream")...)
	if res.ProtoMajor != 2 || res.StatusCode != 200 || !strings.Contains(body, "event: completed") && !strings.Contains(body, `"type":"completed"`) {
		t.Errorf("SSE: %s %s %.300s", res.Proto, res.Status, body)
	}
	if got := res.Header.Get("Strict-Transport-Security"); got != "max-age=31536000" {
		t.Errorf("HSTS %q", got)
	}
	id := strings.TrimPrefix(res.Header.Get("Location"), "/v1/streams/")
	res, body = send(t, c, "GET", s.url+"/v1/streams/"+id+"/events", "", key...)
	if res.ProtoMajor != 2 || !strings.Contains(body, `"completed"`) {
		t.Errorf("long-poll: %s %.300s", res.Proto, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	plain := c.Transport.(*http.Transport).Clone()
	defer plain.CloseIdleConnections()
	plain.ForceAttemptHTTP2, plain.Protocols = false, new(http.Protocols)
	plain.Protocols.SetHTTP1(true)
	plain.TLSClientConfig.NextProtos = []string{"http/1.1"}
	ws, _, err := websocket.Dial(ctx, s.url+"/v1/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: plain},
		HTTPHeader: http.Header{"Authorization": {key[1]}}, Subprotocols: []string{protocol.Version}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }() // it was read
	if err := ws.Write(ctx, websocket.MessageText, []byte(`{"type":"subscribe","id":"1","stream":"`+id+`"}`)); err != nil {
		t.Fatal(err)
	}
	for seen := ""; !strings.Contains(seen, `"completed"`); {
		_, b, err := ws.Read(ctx)
		if err != nil {
			t.Fatalf("WebSocket: %v after %s", err, seen)
		}
		seen += string(b)
	}

	// A page is sent to HTTPS; what may hold a key is told that it was wrong.
	res, _ = send(t, c, "GET", "http://"+plainAddress+"/x?ticket=t", "", "X-Forwarded-Proto", "https")
	_, port, _ := strings.Cut(s.addr, ":")
	if want := "https://127.0.0.1:" + port + "/x"; res.StatusCode != 308 || res.Header.Get("Location") != want {
		t.Errorf("plain HTTP: %s to %q, want %q", res.Status, res.Header.Get("Location"), want)
	}
	if res, body = send(t, c, "POST", "http://"+plainAddress+"/v1/analyses", aRequest, key...); res.StatusCode != 403 || !strings.Contains(body, "HTTPS only") {
		t.Errorf("a key in the clear: %s %s", res.Status, body)
	}

	// A key that doesn't fit: the old pair is served on. Then the right one.
	oldKey, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	second := selfSigned(t, certFile, keyFile)
	newKey, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		key     []byte
		says    string
		trusted *x509.Certificate
	}{{oldKey, "the old ones are served on", first}, {newKey, "new certificates are served", second}} {
		if err := os.WriteFile(keyFile, step.key, 0o600); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGHUP)
		if err := s.process.waitLog(ctx, step.says); err != nil {
			t.Fatal(err)
		}
		if res, _ := send(t, httpsClient(t, step.trusted), "GET", s.url+"/healthz", ""); res.StatusCode != 200 {
			t.Errorf("after %q: %s", step.says, res.Status)
		}
	}
}

// auditLines are the lines of an audit log; times and node are looked at and
// taken out.
func auditLines(t *testing.T, path string) []map[string]any {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var e map[string]any
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		if _, err := time.Parse(time.RFC3339Nano, e["time"].(string)); err != nil || e["node"] != "athena" {
			t.Errorf("%s: %v", lines.Text(), err)
		}
		all = append(all, e)
	}
	return all
}

// await waits for an event: it is written when its request is over, which its
// client may know before.
func await(t *testing.T, path string, fields map[string]any) map[string]any {
	t.Helper()
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		events := auditLines(t, path)
		if e := match(events, fields); e != nil {
			tick.Stop()
			return e
		}
		if time.Now().After(deadline) {
			t.Fatalf("no event with %v in %v", fields, events)
		}
	}
}

func match(events []map[string]any, fields map[string]any) map[string]any {
	for _, e := range events {
		part := maps.Clone(e)
		maps.DeleteFunc(part, func(k string, v any) bool { f, ok := fields[k]; return !ok || f != v })
		if len(part) == len(fields) {
			return e
		}
	}
	return nil
}

// find returns the event with these fields.
func find(t *testing.T, events []map[string]any, fields map[string]any) map[string]any {
	t.Helper()
	if e := match(events, fields); e != nil {
		return e
	}
	t.Errorf("no event with %v in %v", fields, events)
	return map[string]any{}
}

func TestTheAuditLogTellsWhoDidWhat(t *testing.T) {
	const key = "0123456789abcdef-canary"
	up := upstream(t, answer(0, "said"))
	path := filepath.Join(t.TempDir(), "audit.log")
	s := serve(t, openAIAt(up), "--api-key", "ada="+key, "--audit-log", path)
	bearer := []string{"Authorization", "Bearer " + key, "X-Request-Id", "req-7", "User-Agent", "tool\t1"}
	id := s.begin(bearer...)
	for end := time.Now().Add(patience); strings.Contains(s.do("GET", "/v1/streams/"+id, "", bearer...).body, `"state":"running"`); {
		if time.Now().After(end) { // cancelled below, it would end otherwise
			t.Fatal("the analysis does not end")
		}
	}
	l, err := openWebSocket(t.Context(), target{url: s.url, header: http.Header{"Authorization": {"Bearer " + key}}})
	if err != nil {
		t.Fatal(err)
	}
	unknown := protocol.NewStreamID()
	for _, c := range []*protocol.Command{{Type: protocol.CommandSubscribe, ID: "1", Stream: id}, {Type: protocol.CommandSubscribe, ID: "3", Stream: unknown}, {Type: protocol.CommandCancel, ID: "2", Stream: id}} {
		if err := l.send(c); err != nil {
			t.Fatal(err)
		}
	}
	for { // the cancelling is the last that is answered
		d, err := l.next()
		if err != nil {
			t.Fatal(err)
		}
		if d.message != nil && d.message.ID == "2" {
			break
		}
	}
	l.close(false)
	wantProblem(t, s.do("GET", "/v1/providers", "", "Authorization", "Bearer wrong-wrong-wrong-wrong"), 401, protocol.CodeUnauthorized)
	if r := s.do("DELETE", "/v1/streams/"+protocol.NewStreamID(), "", bearer...); r.status != 404 {
		t.Errorf("an unknown stream: %d", r.status)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGHUP)
	if err := s.process.waitLog(t.Context(), "audit log opened anew"); err != nil {
		t.Fatal(err)
	}
	s.do("GET", "/v1/providers", "", bearer...)
	s.stop()

	events := auditLines(t, path+".1")
	find(t, events, map[string]any{"event": "start"})
	find(t, events, map[string]any{"event": "request", "caller": "ada", "credential": "static:ada", "address": "127.0.0.1", "method": "POST",
		"route": "POST /v1/analyses", "stream": id, "request_id": "req-7", "outcome": "ok", "status": 201.0})
	find(t, events, map[string]any{"event": "command", "command": "subscribe", "caller": "ada", "stream": id, "outcome": "ok"})
	find(t, events, map[string]any{"event": "command", "command": "subscribe", "stream": unknown, "outcome": "stream_not_found"})
	find(t, events, map[string]any{"event": "command", "command": "cancel", "caller": "ada", "stream": id, "address": "127.0.0.1", "outcome": "ok"})
	find(t, events, map[string]any{"event": "denied", "route": "GET /v1/providers", "address": "127.0.0.1", "outcome": "unauthorized", "status": 401.0})
	find(t, events, map[string]any{"event": "request", "method": "DELETE", "outcome": "stream_not_found", "status": 404.0})
	end := find(t, events, map[string]any{"event": "analysis", "stream": id, "caller": "ada", "credential": "static:ada", "request_id": "req-7", "provider": "openai", "outcome": "ok"})
	if usage, _ := end["usage"].(map[string]any); usage["input_tokens"] == nil || usage["input_tokens"] == 0.0 {
		t.Errorf("usage %v", end)
	}
	later := auditLines(t, path)
	find(t, later, map[string]any{"event": "request", "route": "GET /v1/providers", "caller": "ada", "outcome": "ok"})
	find(t, later, map[string]any{"event": "stop"})
	for _, p := range []string{path, path + ".1"} {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(`canary|wrong-wrong|package p`).Find(b); m != nil {
			t.Errorf("the audit log has %q", m)
		}
	}
}

// The deadlines of an exchange are of a stream's own over HTTP/2, and are to be
// taken away there, too.
func TestOverHTTP2WhatWaitsOutlivesTheTimeoutsOfWhatDoesNot(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")
	cert := selfSigned(t, certFile, keyFile)
	up := upstream(t, answer(400*time.Millisecond, "one ", "two ", "three ", "four ", "five ", "six"))
	s := serve(t, openAIAt(up), "--tls-cert", certFile, "--tls-key", keyFile, "--write-timeout", "1s", "--body-timeout", "500ms", "--heartbeat", "10s")
	for name, header := range map[string][]string{"SSE": {"Accept", "text/event-stream"}, "waiting": nil} {
		res, body := send(t, httpsClient(t, cert), "POST", s.url+"/v1/analyses?wait=30s", aRequest, header...)
		if res.ProtoMajor != 2 || !strings.Contains(body, "six") && !strings.Contains(body, "one two three four five six") {
			t.Errorf("%s: %s %s %.2000s", name, res.Proto, res.Status, body)
		}
	}
}
