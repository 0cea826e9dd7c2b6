package gateway_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/athena-hub/athena/internal/audit"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/proxies"
)

func trusting(t *testing.T, who string) func(*gateway.Options) {
	t.Helper()
	p, err := proxies.New([]string{who}, "")
	if err != nil {
		t.Fatal(err)
	}
	return func(o *gateway.Options) { o.Proxies, o.HSTS = p, 24*time.Hour }
}

func TestBrowsersAreAskedForHTTPSOnlyWhereTheyCameByIt(t *testing.T) {
	for _, c := range []struct{ name, trusted, proto, want string }{
		{"a trusted proxy says https", "loopback", "https", "max-age=86400"},
		{"it says http", "loopback", "http", ""},
		{"nobody says anything", "loopback", "", ""},
		{"somebody else says https", "10.0.0.0/8", "https", ""},
	} {
		n := start(t, false, trusting(t, c.trusted))
		if got := n.do("GET", "/healthz", "", "X-Forwarded-Proto", c.proto).header.Get("Strict-Transport-Security"); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTheSameOriginIsWhatTheClientAskedFor(t *testing.T) {
	for _, c := range []struct {
		name, trusted string
		header        []string
		want          int
	}{
		{"the host that a trusted proxy tells", "loopback", []string{"Origin", "https://a.example", "X-Forwarded-Host", "a.example", "X-Forwarded-Proto", "https"}, 200},
		{"the host that anybody tells", "10.0.0.0/8", []string{"Origin", "https://a.example", "X-Forwarded-Host", "a.example"}, 403},
		{"the host that the proxy used", "loopback", []string{"Origin", "https://inside:1", "Host", "inside:1", "X-Forwarded-Host", "a.example"}, 403},
		{"a page in the clear, on the host of an HTTPS server", "loopback", []string{"Origin", "http://a.example", "X-Forwarded-Host", "a.example", "X-Forwarded-Proto", "https"}, 403},
		{"another port", "loopback", []string{"Origin", "https://a.example:8443", "X-Forwarded-Host", "a.example", "X-Forwarded-Proto", "https"}, 403},
	} {
		n := start(t, true, trusting(t, c.trusted))
		for _, path := range []string{"/v1/providers", "/v1/ws", "/v1/events?stream=x"} { // one list for all ways in
			a := n.do("GET", path, "", append(c.header, "X-API-Key", apiKey, "Upgrade", "websocket", "Connection", "upgrade", "Sec-WebSocket-Version", "13")...)
			if refused := a.status == 403; refused != (c.want == 403) {
				t.Errorf("%s, %s: %d %s", c.name, path, a.status, a.body)
			}
		}
	}
}

// A page of evil.example, whose name was made to resolve to 127.0.0.1, can send
// every header to what is then its own origin.
func TestAPageThatRebindsItsNameCantSpeakAsATrustedProxy(t *testing.T) {
	n := start(t, false, trusting(t, "loopback"))
	for _, h := range [][]string{{"Host", "evil.example"}, {"Host", "evil.example", "X-Forwarded-Host", "localhost"}, {"X-Forwarded-Host", "evil.example"}} {
		if a := n.do("GET", "/v1/providers", "", h...); a.status != http.StatusMisdirectedRequest {
			t.Errorf("%v: %d %s", h, a.status, a.body)
		}
	}
	if a := n.do("GET", "/v1/providers", "", "X-Forwarded-Host", "localhost:8080"); a.status != 200 {
		t.Errorf("this machine: %d %s", a.status, a.body)
	}
}

func TestAnAllowedOriginSeesWhatItIsTold(t *testing.T) {
	n := start(t, true)
	a := n.do("GET", "/v1/providers", "", "Origin", "https://app.example.com", "X-API-Key", apiKey)
	for _, h := range []string{"RateLimit", "RateLimit-Policy", "Retry-After", "Location", "X-Request-Id"} {
		if !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), h) {
			t.Errorf("%s is hidden: %v", h, a.header)
		}
	}
	a = n.do("OPTIONS", "/v1/analyses", "", "Origin", "https://app.example.com", "Access-Control-Request-Method", "POST")
	if a.header.Get("Access-Control-Max-Age") != "600" || !strings.Contains(strings.Join(a.header.Values("Vary"), ","), "Origin") {
		t.Errorf("preflight: %v", a.header)
	}
	for _, origin := range []string{"null", "https://app.example.com.evil.example", "https://evil-example.org", "http://app.example.com", "https://example.org", "https://app.example.com:444"} {
		for _, method := range []string{"OPTIONS", "GET", "POST"} {
			a := n.do(method, "/v1/providers", "", "Origin", origin, "X-API-Key", apiKey, "Access-Control-Request-Method", "POST")
			if a.status != 403 || a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s from %s: %d %v", method, origin, a.status, a.header)
			}
		}
	}
}

func TestARecordIsKeptOfWhoDidWhatAndWhoWasNotLetIn(t *testing.T) {
	var log safeBuffer
	n := start(t, true, func(o *gateway.Options) { o.Audit = audit.To(&log, audit.Options{}) }, trusting(t, "loopback"))
	n.do("GET", "/healthz", "")
	n.do("GET", "/metrics", "", "X-API-Key", apiKey)
	n.do("GET", "/v1/streams/x?ticket=canary-ticket", "", "X-API-Key", apiKey, "X-Forwarded-For", "203.0.113.5", "User-Agent", "curl\u009b")
	n.do("GET", "/v1/providers?canary-query=1", "", "X-API-Key", "canary-wrong-key-0123", "X-Forwarded-For", "203.0.113.6")
	id := n.startJob("canary-code", "X-API-Key", apiKey)
	n.do("GET", "/v1/events?stream="+id, "", "X-API-Key", apiKey)
	// Written when the exchange is over, which the client may know before.
	for deadline := time.Now().Add(10 * time.Second); strings.Count(log.String(), "\n") < 4; {
		if time.Now().After(deadline) {
			break
		}
		n.do("GET", "/healthz", "")
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 4 || strings.Contains(log.String(), "canary") {
		t.Fatalf("%d lines:\n%s", len(lines), log.String())
	}
	for i, want := range []string{`"event":"request","caller":"ada","credential":"static:ada","address":"203.0.113.5","method":"GET","route":"GET /v1/streams/{id}","stream":"x"`,
		`"event":"denied","address":"203.0.113.6","method":"GET","route":"GET /v1/providers"`, `"outcome":"ok","status":201`, `"route":"GET /v1/events","streams":["` + id + `"]`} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d: %s\nwant %s", i, lines[i], want)
		}
	}
}

func TestWhoHasHadItsShareDoesNotFillTheRecord(t *testing.T) {
	var log safeBuffer
	n := start(t, true, func(o *gateway.Options) {
		o.Audit = audit.To(&log, audit.Options{})
		o.Limits = everyLimit(func(o *gateway.LimitOptions) { o.Key.RequestsPerMinute = 1 })
	})
	for i := range 200 {
		if a := n.do("GET", "/v1/providers", "", "X-API-Key", apiKey); i > 1 && a.status != 429 {
			t.Fatalf("request %d: %d", i, a.status)
		}
	}
	if got := strings.Count(log.String(), "\n"); got > 100 || !strings.Contains(log.String(), `"event":"limited","caller":"ada"`) {
		t.Errorf("200 requests, of which one was let in, are %d lines:\n%.400s", got, log.String())
	}
}

func TestCodeIsRecordedOnlyWhereItIsAskedFor(t *testing.T) {
	var log safeBuffer
	n := start(t, false, func(o *gateway.Options) { o.Audit = audit.To(&log, audit.Options{Code: true}) })
	n.startJob("canary-code")
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(log.String(), `"code":"canary-code"`); {
		if time.Now().After(deadline) {
			t.Fatalf("no code in %s", log.String())
		}
		n.do("GET", "/healthz", "")
	}
}

func TestPlainHTTPSendsPagesToHTTPSAndRefusesTheRest(t *testing.T) {
	for _, c := range []struct {
		method, target, host string
		header               []string
		status               int
		location             string
	}{
		{"GET", "/", "a.example", nil, 308, "https://a.example:8443/"},
		{"HEAD", "/x/y?ticket=t", "A.example:80", nil, 308, "https://a.example:8443/x/y"},
		{"GET", "//evil.example/x", "a.example", nil, 308, "https://a.example:8443/evil.example/x"},
		{"GET", "/", "[::1]:80", nil, 308, "https://[::1]:8443/"},
		{"GET", "/", "user@evil.example", nil, 400, ""},
		{"GET", "/v1/providers", "a.example", nil, 403, ""},
		{"GET", "/", "a.example", []string{"Authorization", "Bearer x"}, 403, ""},
		{"POST", "/", "a.example", nil, 403, ""},
	} {
		r := httptest.NewRequest(c.method, "http://x"+c.target, nil)
		r.Host = c.host
		for i := 0; i < len(c.header); i += 2 {
			r.Header.Set(c.header[i], c.header[i+1])
		}
		w := httptest.NewRecorder()
		gateway.ToHTTPS("8443").ServeHTTP(w, r)
		if w.Code != c.status || w.Header().Get("Location") != c.location {
			t.Errorf("%s %s at %s: %d to %q; want %d to %q", c.method, c.target, c.host, w.Code, w.Header().Get("Location"), c.status, c.location)
		}
	}
}

// overTLS serves n's gateway over TLS, and returns the address.
func overTLS(t *testing.T, n *node) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := gateway.NewServer(n.gateway, gateway.ServerOptions{MaxHTTP2Streams: 10,
		TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"}}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		if err := s.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// CVE-2023-44487: streams that are opened and reset at once cost the client
// nothing and the server a handler each. The handlers here don't notice the
// reset until the test lets them go.
func TestAClientThatOpensAndResetsStreamsLosesItsConnection(t *testing.T) {
	var running, highest atomic.Int64
	goOn := make(chan struct{})
	n := start(t, false, func(o *gateway.Options) {
		cluster := o.Cluster
		o.Cluster = func(ctx context.Context) gateway.Cluster {
			now := running.Add(1)
			defer running.Add(-1)
			for was := highest.Load(); now > was && !highest.CompareAndSwap(was, now); was = highest.Load() {
			}
			<-goOn
			return cluster(ctx)
		}
	})
	c, err := tls.Dial("tcp", overTLS(t, n), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // the server may have closed it
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"},
		{":path", "/v1/cluster"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan struct{})
	var most uint32
	var code http2.ErrCode
	go func() {
		defer close(ended)
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if v, ok := frame.Value(http2.SettingMaxConcurrentStreams); ok {
					most = v
				}
			case *http2.GoAwayFrame: // what comes later is not looked at, and the connection closed after a second
				code = frame.ErrCode
				return
			}
		}
	}()
	over := false
	for stream := uint32(1); !over && stream < 1_000_000; stream += 2 {
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		if err == nil {
			err = f.WriteRSTStream(stream, http2.ErrCodeCancel)
		}
		select {
		case <-ended:
			over = true
		default:
			over = err != nil
		}
	}
	<-ended
	close(goOn)
	if code != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("the connection ended with %v, want ENHANCE_YOUR_CALM", code)
	}
	if most != 10 || highest.Load() > 10 {
		t.Errorf("the server allows %d streams at once, and had %d, want 10", most, highest.Load())
	}
	if a := n.do("GET", "/healthz", ""); a.status != 200 {
		t.Errorf("afterwards: %d", a.status)
	}
}

func TestEventStreamsOfOneHTTP2ConnectionStayWithinItsBound(t *testing.T) {
	n := start(t, false)
	id := n.startJob("hold")
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	addr := overTLS(t, n)
	for range 10 {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+addr+"/v1/streams/"+id+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.ProtoMajor != 2 || res.StatusCode != 200 {
			t.Fatalf("%s %s", res.Proto, res.Status)
		}
	}
	n.do("DELETE", "/v1/streams/"+id, "")
}
