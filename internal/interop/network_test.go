package interop_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A cutter is a network between a client and a server that breaks on demand.
type cutter struct {
	url    string
	ln     net.Listener
	served sync.WaitGroup

	mu       sync.Mutex
	target   string                // guarded by mu
	conns    map[net.Conn]struct{} // guarded by mu; both sides of all connections
	accepted func()                // guarded by mu; called at the next connection
	asked    func()                // guarded by mu; called when the next bytes of a client have passed
	cuts     int                   // guarded by mu; those that broke a connection
}

// newCutter starts a cutter in front of the server at base.
func newCutter(t *testing.T, base string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{url: "http://" + ln.Addr().String(), target: strings.TrimPrefix(base, "http://"), ln: ln, conns: make(map[net.Conn]struct{})}
	c.served.Go(c.serve)
	t.Cleanup(func() {
		ln.Close()
		c.cut(nil)
		c.served.Wait()
	})
	return c
}

func (c *cutter) serve() {
	for {
		conn, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		accepted := c.accepted
		c.accepted = nil
		c.mu.Unlock()
		if accepted != nil {
			accepted()
		}
		c.served.Go(func() { c.carry(conn) })
	}
}

// carry carries one connection until either side ends it.
func (c *cutter) carry(client net.Conn) {
	defer client.Close()
	c.mu.Lock()
	target := c.target
	c.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	c.mu.Lock()
	c.conns[client], c.conns[server] = struct{}{}, struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.conns, client)
		delete(c.conns, server)
		c.mu.Unlock()
	}()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(&asking{c, server}, client) // how it ended doesn't matter, only that it did
		_ = server.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(client, server)
	client.Close()
	server.Close()
	up.Wait()
}

// asking passes a client's bytes on.
type asking struct {
	c      *cutter
	server net.Conn
}

func (a *asking) Write(b []byte) (int, error) {
	n, err := a.server.Write(b)
	a.c.mu.Lock()
	asked := a.c.asked
	a.c.asked = nil
	a.c.mu.Unlock()
	if asked != nil {
		asked()
	}
	return n, err
}

// cut resets every connection. then, if any, is called when a client has come
// back.
func (c *cutter) cut(then func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.conns) > 0 {
		c.cuts++
	}
	for conn := range c.conns {
		_ = conn.(*net.TCPConn).SetLinger(0) // Close then sends RST in the place of FIN
		conn.Close()
	}
	clear(c.conns)
	c.accepted = then
}

// aim makes new connections lead to the server at base, or nowhere where that
// is empty.
func (c *cutter) aim(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = strings.TrimPrefix(base, "http://")
}

// cutAtRequest is cut, but once the next request of a client has passed, so
// that its answer is lost.
func (c *cutter) cutAtRequest(then func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = func() { c.cut(then) }
}

// broken is how often a connection was cut.
func (c *cutter) broken() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cuts
}

// refusingProxy is a proxy in front of base that knows no WebSocket, as many do.
func refusingProxy(t *testing.T, base string) string {
	t.Helper()
	return startProxy(t, base, nil)
}

// bufferingProxy is a proxy in front of base that knows no WebSocket and gives a
// response on only when it has all of it.
func bufferingProxy(t *testing.T, base string) string {
	t.Helper()
	return startProxy(t, base, func(r *http.Response) error {
		body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
		if err != nil {
			return err
		}
		if err := r.Body.Close(); err != nil {
			return err
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	})
}

func startProxy(t *testing.T, base string, modify func(*http.Response) error) string {
	t.Helper()
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	proxy := &httputil.ReverseProxy{
		// The page's origin stays the proxy's, since Host does.
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: modify,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				t.Errorf("the proxy: %v", err)
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			http.Error(w, "no upgrades here", http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(func() {
		server.CloseClientConnections() // a stream that someone still watches
		server.Close()
	})
	return server.URL
}

// pause waits, or returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
