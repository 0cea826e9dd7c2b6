package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// A gatedModel is a provider's server whose answer comes piece by piece, each
// when the test lets it: what has not come is held back by Athena or a proxy,
// however fast or slow the machine is.
type gatedModel struct {
	url    string
	script *providertest.Upstream
	texts  []string

	mu     sync.Mutex
	open   int           // guarded by mu: pieces that may come
	opened chan struct{} // guarded by mu: closed and replaced when open changes
}

func newGatedModel(t *testing.T, texts ...string) *gatedModel {
	t.Helper()
	m := &gatedModel{script: upstream(t, answer(0, texts...)), texts: texts, opened: make(chan struct{})}
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	t.Cleanup(func() { m.goOn(len(texts)) }) // no call may wait on
	m.url = s.URL
	return m
}

// goOn lets the first n pieces of every answer come, and holds the rest.
func (m *gatedModel) goOn(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open = n
	close(m.opened)
	m.opened = make(chan struct{})
}

// upTo is the text of the first n pieces.
func (m *gatedModel) upTo(n int) string { return strings.Join(m.texts[:n], "") }

// ServeHTTP answers a call.
func (m *gatedModel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/chat/completions") {
		w = &gatedWriter{ResponseWriter: w, ctx: r.Context(), model: m}
	}
	m.script.ServeHTTP(w, r)
}

// A gatedWriter holds back the writes of pieces. The script begins an answer
// with one write, and then writes each piece at once.
type gatedWriter struct {
	http.ResponseWriter
	ctx    context.Context
	model  *gatedModel
	writes int
}

func (w *gatedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *gatedWriter) Write(b []byte) (int, error) {
	piece := min(w.writes, len(w.model.texts)) // from 1; the end comes with the last
	w.writes++
	for {
		w.model.mu.Lock()
		open, opened := w.model.open, w.model.opened
		w.model.mu.Unlock()
		if piece <= open {
			return w.ResponseWriter.Write(b)
		}
		select {
		case <-opened:
		case <-w.ctx.Done():
			return 0, w.ctx.Err()
		}
	}
}

// fleetKey is the key of the fleet's clients: nodes of a deployment have one,
// since they listen on more than loopback.
const fleetKey = "sixteen-characters-or-more"

var fleetHeader = http.Header{"Authorization": {"Bearer " + fleetKey}}

// A fleet is several nodes of one cluster.
type fleet struct {
	t     *testing.T
	names []string
	nodes []*server
}

// startFleet starts n nodes that answer by the model.
func startFleet(t *testing.T, m *gatedModel, n int) *fleet {
	t.Helper()
	f := &fleet{t: t}
	var routes []string
	for i := range n {
		route, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		routes = append(routes, route)
		f.names = append(f.names, fmt.Sprintf("n%d", i+1))
	}
	for i, name := range f.names {
		addr, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"--listen", addr, "--data-dir", t.TempDir(), "--api-key", fleetKey, "--node-name", name,
			"--coalesce-window", "2ms", "--reconnect-delay", "100ms", "--heartbeat", "1s", "--drain-timeout", "20s"}
		if n > 1 {
			args = append(args, "--cluster-name", "fleet", "--cluster-listen", routes[i], "--cluster-routes", strings.Join(routes, ","))
		}
		f.nodes = append(f.nodes, &server{t: t, addr: addr, args: args,
			variables: []string{"OPENAI_BASE_URL=" + m.url, "OPENAI_API_KEY=sk-test-canary"}})
	}
	t.Cleanup(f.kill)
	f.start(f.nodes...)
	return f
}

// start starts these nodes, together, since each waits for the others, and
// waits until all nodes know each other.
func (f *fleet) start(nodes ...*server) {
	f.t.Helper()
	errs := make([]error, len(nodes))
	var starting sync.WaitGroup
	for i, s := range nodes {
		starting.Go(func() { s.process, s.url, errs[i] = launch(s.variables, s.args...) })
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		f.t.Fatal(err)
	}
	f.waitTogether()
}

// waitTogether waits until every node says that all are up, and the store is.
func (f *fleet) waitTogether() {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, s := range f.nodes {
		for {
			var answer struct {
				Nodes   []string
				History string
			}
			r := s.do(http.MethodGet, "/readyz", "")
			_ = json.Unmarshal([]byte(r.body), &answer) // a node that isn't ready answers with a problem
			if r.status == http.StatusOK && len(answer.Nodes) == len(f.nodes) && answer.History == "ok" {
				break
			}
			if time.Now().After(deadline) {
				f.t.Fatalf("after %v %s says of itself: %d %s\n%s", patience, s.url, r.status, r.body, s.process.log())
			}
			<-tick.C
		}
	}
}

// waitBehind waits until requests through the proxy come to every node.
func (f *fleet) waitBehind(t *testing.T, p *proxy) {
	t.Helper()
	s := &server{t: t, url: p.url}
	reached := make(map[string]bool)
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		r := s.do(http.MethodGet, "/v1/cluster", "", "Authorization", fleetHeader.Get("Authorization"))
		reached[decode[gateway.Cluster](t, r).Node] = true
		if len(reached) == len(f.names) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v all requests through %s came to %v, want %v", patience, p.name, reached, f.names)
		}
		<-tick.C
	}
}

func (f *fleet) addresses() (list []string) {
	for _, s := range f.nodes {
		list = append(list, s.addr)
	}
	return list
}

// kill ends all nodes that are left.
func (f *fleet) kill() {
	for _, s := range f.nodes {
		if s.process == nil {
			continue
		}
		if f.t.Failed() {
			f.t.Log(s.process.log())
		}
		if err := s.process.kill(); err != nil {
			f.t.Error(err)
		}
	}
}

// begin starts an analysis by the model, at this URL.
func (f *fleet) begin(url string) (id string) {
	f.t.Helper()
	s := &server{t: f.t, url: url}
	r := s.do(http.MethodPost, "/v1/analyses", aRequest, "Authorization", fleetHeader.Get("Authorization"))
	if r.status != http.StatusCreated {
		f.t.Fatalf("POST %s: %d %s", url, r.status, r.body)
	}
	return decode[protocol.Metadata](f.t, r).ID
}

// A passerBy asks for short answers through a proxy, all the time.
type passerBy struct {
	proxy *proxy
	id    string
	news  *news

	mu       sync.Mutex
	answered int           // guarded by mu
	slowest  time.Duration // guarded by mu: of all answers
	errs     []error       // guarded by mu
}

// passersBy are one for each proxy.
type passersBy struct {
	t    *testing.T
	news *news
	all  []*passerBy
	stop func()
}

// passBy lets some pass by until they are stopped.
func passBy(t *testing.T, proxies []*proxy, id string) *passersBy {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var walking sync.WaitGroup
	p := &passersBy{t: t, news: newNews(), stop: func() { cancel(); walking.Wait() }}
	for _, proxy := range proxies {
		by := &passerBy{proxy: proxy, id: id, news: p.news}
		p.all = append(p.all, by)
		walking.Go(func() { by.walk(ctx) })
	}
	t.Cleanup(p.stop)
	return p
}

// more waits until n more have passed by each proxy.
func (p *passersBy) more(n int) {
	p.t.Helper()
	from := make([]int, len(p.all))
	for i, by := range p.all {
		from[i] = by.count()
	}
	p.news.await(p.t, func() string {
		for i, by := range p.all {
			if passed := by.count() - from[i]; passed < n {
				return fmt.Sprintf("%s: of %d who should pass by only %d did", by.proxy.name, n, passed)
			}
		}
		return ""
	})
}

// check stops them, and fails the test where one has seen an error.
func (p *passersBy) check() {
	p.t.Helper()
	p.stop()
	for _, by := range p.all {
		p.t.Logf("of %d answers through %s the slowest took %v", by.answered, by.proxy.name, by.slowest)
		for _, err := range by.errs {
			p.t.Errorf("someone who passed by %s: %v", by.proxy.name, err)
		}
	}
}

func (by *passerBy) count() int {
	by.mu.Lock()
	defer by.mu.Unlock()
	return by.answered
}

// An analysis by rules is quick.
const quickRequest = `{"code":"package p\n","filename":"p.go","provider":"local","cache":"bypass"}`

func (by *passerBy) walk(ctx context.Context) {
	tap := newTap(0)
	defer tap.transport.CloseIdleConnections()
	for i := 0; ctx.Err() == nil; i++ {
		began := time.Now()
		method, path, body := http.MethodGet, "/v1/streams/"+by.id, ""
		key := fmt.Sprintf("%s-%s-%d", by.proxy.name, by.id, i)
		if i%5 == 0 {
			method, path, body = http.MethodPost, "/v1/analyses", quickRequest
		}
		err := by.ask(ctx, tap, method, path, body, key)
		// No proxy repeats a POST that was sent. A client may, since it has a key,
		// which finds what the first one began, also on a node that was killed.
		for method == http.MethodPost && errors.Is(err, errAgain) && time.Since(began) < patience && ctx.Err() == nil {
			rest(ctx, comeBack)
			err = by.ask(ctx, tap, method, path, body, key)
		}
		if ctx.Err() != nil {
			return
		}
		by.mu.Lock()
		by.slowest = max(by.slowest, time.Since(began))
		if err != nil {
			by.errs = append(by.errs, fmt.Errorf("%s: %w", method, err))
		}
		by.answered++
		by.mu.Unlock()
		by.news.tell()
		rest(ctx, 30*time.Millisecond)
	}
}

// errAgain says that the request may have more luck another time.
var errAgain = errors.New("not answered")

func (by *passerBy) ask(ctx context.Context, tap *tap, method, path, body, key string) error {
	req, err := http.NewRequestWithContext(ctx, method, by.proxy.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = fleetHeader.Clone()
	if method == http.MethodPost {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := tap.client.Do(req)
	if err != nil {
		return errors.Join(errAgain, err)
	}
	b, err := io.ReadAll(res.Body)
	_ = res.Body.Close() // it was read
	if err != nil {
		return errors.Join(errAgain, err)
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return nil
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		err = errAgain
	}
	return errors.Join(err, fmt.Errorf("status %d: %s", res.StatusCode, b))
}

// waitStream waits until cond holds for what a node says of the stream.
func (f *fleet) waitStream(t *testing.T, id string, cond func(protocol.Metadata) bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		r := f.nodes[0].do(http.MethodGet, "/v1/streams/"+id, "", "Authorization", fleetHeader.Get("Authorization"))
		m := decode[protocol.Metadata](t, r)
		if cond(m) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v stream %s is still like this: %+v", patience, id, m)
		}
		<-tick.C
	}
}
