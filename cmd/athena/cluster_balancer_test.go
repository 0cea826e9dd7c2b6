//go:build unix

package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A balancer is what stands in front of several nodes.
type balancer struct {
	name string
	url  string
}

// balance starts one in front of nodes at these addresses, which must be there;
// it ends with the test. Which one is n's choice among those that the machine
// has, with the configurations of deploy/. It must have one where CI is set.
func balance(t *testing.T, n uint64, nodes []string) balancer {
	t.Helper()
	var kinds []*proxyKind
	for i := range proxyKinds {
		k := &proxyKinds[i]
		if _, err := k.find(); err == nil && (k.name == "haproxy" || k.name == "nginx") {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) > 0 {
		p := kinds[n%uint64(len(kinds))].start(t, nodes...)
		return balancer{p.name, p.url}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("neither haproxy nor nginx is here; .ci/prepare installs them")
	}
	t.Log("neither haproxy nor nginx is here; a proxy of the test takes their place")
	return balancer{"a proxy of the test", balanceHere(t, nodes)}
}

// balanceHere is a balancer for machines without one: to each node in turn, to
// the next where one can't be connected.
func balanceHere(t *testing.T, nodes []string) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var turn atomic.Uint64
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	proxy := &httputil.ReverseProxy{FlushInterval: -1, Transport: toTheNext{transport, nodes, &turn},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", nodes[0]
			r.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = server.Close() // the test is over
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		transport.CloseIdleConnections()
	})
	return "http://" + ln.Addr().String()
}

// toTheNext asks another node where the first can't be connected.

type toTheNext struct {
	*http.Transport

	nodes []string
	turn  *atomic.Uint64
}

func (p toTheNext) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	var last error
	for range p.nodes {
		again := r.Clone(r.Context())
		again.URL.Host = p.nodes[p.turn.Add(1)%uint64(len(p.nodes))]
		again.Body = io.NopCloser(strings.NewReader(string(body)))
		res, err := p.Transport.RoundTrip(again)
		if e, ok := errors.AsType[*net.OpError](err); err == nil || !ok || e.Op != "dial" {
			return res, err
		}
		last = err
	}
	return nil, last
}
