package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// from is the address of the clients here, which is not that of the proxies:
// only 127.0.0.1 is trusted.
const from = "127.0.0.2"

// clientFrom dials from that address.
func clientFrom(t *testing.T) *http.Client {
	t.Helper()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	ln, err := net.Listen("tcp", from+":0")
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("%s is no address here: %v", from, err)
		}
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: d.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func TestTheClientsAddressIsKnownBehindTheProxiesThatUsersHave(t *testing.T) {
	sendProxy := regexp.MustCompile(`(?m)^( +server n\d .*)$`)
	for _, c := range []struct {
		name, proxy string
		flags       []string
		change      func(config string) string
	}{
		{"nginx with X-Forwarded-For", "nginx", nil, nil},
		{"HAProxy with X-Forwarded-For", "haproxy", nil, nil},
		{"HAProxy with the PROXY protocol", "haproxy", []string{"--proxy-protocol"},
			func(config string) string {
				return sendProxy.ReplaceAllString(config, "$1 send-proxy check-send-proxy")
			}},
		{"HAProxy with version 2 of it", "haproxy", []string{"--proxy-protocol"},
			func(config string) string {
				return sendProxy.ReplaceAllString(config, "$1 send-proxy-v2 check-send-proxy")
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := clientFrom(t)
			path := filepath.Join(t.TempDir(), "audit.log")
			s := serve(t, nil, append([]string{"--api-key", "ada=0123456789abcdef", "--trusted-proxy", "127.0.0.1", "--audit-log", path}, c.flags...)...)
			var kind proxyKind
			for _, k := range proxyKinds {
				if k.name == c.proxy {
					kind = k
				}
			}
			if c.change != nil {
				elsewhere := kind.elsewhere
				kind.elsewhere = func(config, dir string) string { return c.change(elsewhere(config, dir)) }
			}
			p := kind.start(t, s.addr)
			for i, header := range [][]string{{}, {"X-Forwarded-For", "6.6.6.6"}, {"X-Forwarded-For", "127.0.0.1", "Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6"}} {
				id := []string{"plain", "forged", "twice-forged"}[i]
				res, body := send(t, client, "GET", p.url+"/v1/providers", "", append(header, "X-API-Key", "0123456789abcdef", "X-Request-Id", id)...)
				if res.StatusCode != 200 {
					t.Fatalf("%s: %s %.200s", id, res.Status, body)
				}
				if got := await(t, path, map[string]any{"request_id": id})["address"]; got != from {
					t.Errorf("%s: from %v, want %s", id, got, from)
				}
			}
			// A page of this server, by the name that the client used.
			if res, body := send(t, client, "GET", p.url+"/v1/providers", "", "X-API-Key", "0123456789abcdef", "Origin", p.url); res.StatusCode != 200 {
				t.Errorf("the same origin: %s %.200s", res.Status, body)
			}
			// Who comes past the proxy is who it is.
			direct := "X-Forwarded-For: 6.6.6.6\r\n"
			conn, err := client.Transport.(*http.Transport).DialContext(t.Context(), "tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, "GET /v1/providers HTTP/1.1\r\nHost: x\r\nX-API-Key: 0123456789abcdef\r\nX-Request-Id: direct\r\n"+direct+"\r\n"); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close() // the status says it
			if got := await(t, path, map[string]any{"request_id": "direct"})["address"]; res.StatusCode != 200 || got != from {
				t.Errorf("past the proxy: %s, from %v", res.Status, got)
			}
		})
	}
}

// A balancer that passes connections on, as those of clouds do, does so for both
// ports, and knows nothing of TLS.
func TestThePROXYProtocolStandsBeforeTLSAndBeforePlainHTTP(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, path := filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key"), filepath.Join(dir, "audit.log")
	cert := selfSigned(t, certFile, keyFile)
	plain, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, nil, append(callers, "--tls-cert", certFile, "--tls-key", keyFile, "--http-listen", plain, "--audit-log", path,
		"--trusted-proxy", "127.0.0.1", "--proxy-protocol")...)
	through := func(c *http.Client) *http.Client { // the balancer
		c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				_, err = io.WriteString(conn, "PROXY TCP4 192.0.2.9 127.0.0.1 4444 443\r\n")
			}
			return conn, err
		}
		return c
	}
	res, body := send(t, through(httpsClient(t, cert)), "GET", s.url+"/v1/providers", "", append(withKey(adasKey), "X-Request-Id", "over-tls")...)
	if res.StatusCode != 200 || res.ProtoMajor != 2 {
		t.Fatalf("%s %s %.200s", res.Proto, res.Status, body)
	}
	if got := await(t, path, map[string]any{"request_id": "over-tls"})["address"]; got != "192.0.2.9" {
		t.Errorf("from %v, want 192.0.2.9", got)
	}
	c := through(httpsClient(t, cert))
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if res, body := send(t, c, "GET", "http://"+plain+"/", ""); res.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("over plain HTTP: %s %.200s", res.Status, body)
	}
}

// What nginx and a node could read in two ways must not reach the node as a
// request of its own (RFC 9112, section 11.2).
func TestNothingIsSmuggledPastAProxy(t *testing.T) {
	t.Parallel()
	for i := range proxyKinds {
		kind := &proxyKinds[i]
		t.Run(kind.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.log")
			s := serve(t, nil, "--api-key", "ada=0123456789abcdef", "--audit-log", path)
			p := kind.start(t, s.addr)
			const head = "POST /v1/negotiate HTTP/1.1\r\nHost: x\r\nX-API-Key: 0123456789abcdef\r\n"
			smuggled := "GET /v1/cluster HTTP/1.1\r\nHost: x\r\nX-API-Key: 0123456789abcdef\r\nX-Request-Id: smuggled\r\n\r\n"
			inChunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled)
			for _, request := range []string{
				head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
				head + fmt.Sprintf("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n%s", inChunk),
				head + "Transfer-Encoding: chunked\r\n\r\n" + inChunk,
				head + fmt.Sprintf("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
				head + fmt.Sprintf("Transfer-Encoding : chunked\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
				head + fmt.Sprintf("Transfer-Encoding: \x0bchunked\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
				head + fmt.Sprintf("X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
				head + fmt.Sprintf("Content-Length: %d\r\nX-A: b\rTransfer-Encoding: chunked\r\n\r\n%s", len(smuggled), smuggled),
			} {
				conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
				r := bufio.NewReader(conn)
				if res, err := http.ReadResponse(r, nil); err == nil {
					_, _ = io.Copy(io.Discard, res.Body) // that there is an answer says that the node is done
					_ = res.Body.Close()                 // as above
				}
				_ = conn.Close() // it may be closed already
			}
			// One more through the same connections to the node, which would follow what was smuggled.
			for range 4 {
				send(t, clientFrom(t), "GET", p.url+"/v1/providers", "", "X-API-Key", "0123456789abcdef")
			}
			s.stop()
			if e := match(auditLines(t, path), map[string]any{"request_id": "smuggled"}); e != nil {
				t.Errorf("it came through: %v", e)
			}
		})
	}
}
