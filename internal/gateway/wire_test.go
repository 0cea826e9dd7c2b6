package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
)

// raw sends these bytes over a connection of their own and returns the statuses
// of all answers until the server closes it. A body that follows has to be read
// by its length, as a proxy would.
func (n *node) raw(t *testing.T, request string) (statuses []int) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, request) // a refusal may come, and the end, before all is sent
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return nil
	}
	r := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, res.Body) // the status says it
		_ = res.Body.Close()
		statuses = append(statuses, res.StatusCode)
	}
}

// A request that two parsers could read in two ways is refused, and what stands
// behind it is not taken for a request: "GET /smuggled", which would be answered
// with 404. (RFC 9112, section 6.3 and 11.2.)
func TestARequestThatAnotherParserWouldReadOtherwiseIsRefused(t *testing.T) {
	n := start(t, false)
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
	chunked := "5\r\n{\"a\":\r\n0\r\n\r\n"
	for name, request := range map[string]string{
		"two lengths":                      "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n" + smuggled,
		"two lengths in one":               "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0, 44\r\n\r\n" + smuggled,
		"a signed length":                  "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nContent-Length: +0\r\n\r\n" + smuggled,
		"a hexadecimal length":             "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x0\r\n\r\n" + smuggled,
		"chunked twice":                    "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + smuggled,
		"chunked and something else":       "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n" + chunked + smuggled,
		"an unknown coding":                "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n" + chunked + smuggled,
		"a coding with a control byte":     "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: \x0bchunked\r\n\r\n" + chunked + smuggled,
		"a space before the colon":         "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nContent-Length : 44\r\n\r\n" + smuggled,
		"a null byte":                      "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: b\x00c\r\n\r\n" + smuggled,
		"a lone CR":                        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: b\rContent-Length: 44\r\n\r\n" + smuggled,
		"no host":                          "GET /healthz HTTP/1.1\r\n\r\n" + smuggled,
		"two hosts":                        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n" + smuggled,
		"a host that is none":              "GET /healthz HTTP/1.1\r\nHost: local host\r\n\r\n" + smuggled,
		"a chunk size that is too large":   "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + smuggled,
		"a chunk size with a sign":         "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + smuggled,
		"chunk extensions without an end":  "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("a", 1<<20) + "\r\n" + smuggled,
		"a chunk without its end":          "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nXX\r\n0\r\n\r\n" + smuggled,
		"no version":                       "GET /healthz\r\n\r\n" + smuggled,
		"an unknown version":               "GET /healthz HTTP/3.7\r\nHost: localhost\r\n\r\n" + smuggled,
		"a TLS handshake":                  "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + smuggled,
		"HTTP/2 in the clear":              "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled,
		"a header beyond the limit":        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n" + smuggled,
		"headers beyond the limit":         "GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("A: b\r\n", 20<<10) + "\r\n" + smuggled,
		"a target beyond the limit":        "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n" + smuggled,
		"a length and no body for a GET":   "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 44\r\n\r\n" + smuggled,
		"another host in the request line": "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" + smuggled,
	} {
		got := n.raw(t, request)
		if len(got) > 1 || len(got) == 1 && got[0] < 400 {
			t.Errorf("%s: answered with %v, want one refusal and the end", name, got)
		}
	}
}

// What net/http reads as everybody does may be served; only the framing counts.
func TestChunkedWinsOverALengthAndTheConnectionEnds(t *testing.T) {
	n := start(t, false)
	got := n.raw(t, "POST /v1/negotiate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"2b\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n\r\n0\r\n\r\n")
	// RFC 9112, section 6.3: it must not be forwarded, and may be taken as chunked.
	if fmt.Sprint(got) != "[200]" {
		t.Errorf("answered with %v", got)
	}
}

func TestOldClientsAreServed(t *testing.T) {
	n := start(t, false)
	for request, want := range map[string]string{
		"GET /healthz HTTP/1.0\r\n\r\n": "[200]",
		"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n": "[200 200]",
		"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n":                     "[200]",
		// RFC 9112, section 5.2: a folded line is one, with a space in it, and so
		// not a length. What follows is a request of its own.
		"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n\tContent-Length: 39\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\nB: c\r\n\r\n": "[200 200]",
		"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n":                                                             "[421]",
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n":                                                                                       "[200]",
	} {
		if got := fmt.Sprint(n.raw(t, request)); got != want {
			t.Errorf("%q: %s, want %s", request, got, want)
		}
	}
}

func TestSlowAndSilentClientsAreClosed(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.BodyTimeout, o.WriteTimeout = 200*time.Millisecond, 300*time.Millisecond })
	s := gateway.NewServer(n.gateway, gateway.ServerOptions{ReadHeaderTimeout: 200 * time.Millisecond, KeepAlive: 200 * time.Millisecond})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	for name, sent := range map[string]string{
		"says nothing":                  "",
		"stops within its headers":      "GET /healthz HTTP/1.1\r\nHost: loc",
		"never ends its headers":        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n",
		"asks once and stays":           "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"stops within its body":         "POST /v1/analyses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
		"stops within a chunk":          "POST /v1/analyses HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
		"stops within a refused body":   "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
		"stops within a body too large": "POST /v1/analyses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("it was still open after 20 s")
			}
		})
	}
}

func TestConnectionsBeyondTheBoundAreClosedAndPlacesComeBack(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan struct{}, 10)
	ln := gateway.BoundSockets(inner, 2, func() { refused <- struct{}{} })
	defer ln.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		defer close(accepted)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // it may be closed already
		return c
	}
	dial()
	dial()
	first, second := <-accepted, <-accepted
	// One beyond the bound is reset, perhaps before its dial has noticed that it was
	// made.
	beyond := func() {
		t.Helper()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			defer c.Close()
			if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, err = c.Read(make([]byte, 1))
		}
		if err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("it is open: %v", err)
		}
		<-refused
	}
	beyond()
	for range 2 { // closing twice gives one place back
		_ = first.Close()
	}
	dial()
	again := <-accepted
	beyond()
	for _, c := range []net.Conn{second, again} {
		_ = c.Close() // the test's own
	}
}

func TestAClientThatReadsNoAnswerIsClosed(t *testing.T) {
	const size = 64 << 20 // more than the systems on both sides keep
	n := start(t, false, func(o *gateway.Options) {
		o.WriteTimeout = 200 * time.Millisecond
		o.Page = fstest.MapFS{"index.html": {Data: []byte("x")}, "big.txt": {Data: make([]byte, size)}}
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /big.txt HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(n.log.String(), "/big.txt"); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("after 20 s the server was still writing")
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.Copy(io.Discard, c); got >= size || err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("%d bytes came, %v", got, err)
	}
}
