package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/telemetry"
	"github.com/athena-hub/athena/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ gateway.Streams = (*hub.Hub)(nil)
	_ hub.Commands    = (*gateway.Commands)(nil)
	_ gateway.Metrics = (*telemetry.Metrics)(nil)
	_ hub.Metrics     = (*telemetry.Metrics)(nil)
)

// A safeBuffer is a log that may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// noSource has no streams but those of the node's own feeds.
type noSource struct{}

func (noSource) Open(_ context.Context, f *hub.Feed) (func(), error) {
	return nil, protocol.Errorf(protocol.CodeStreamNotFound, "stream %s is unknown", f.ID())
}
func (noSource) Refresh(context.Context, *hub.Feed) error { return nil }
func (noSource) Read(context.Context, string, uint64, int) ([]protocol.Encoded, error) {
	return nil, protocol.Errorf(protocol.CodeStreamNotFound, "no history")
}

// jobs is an Analyses whose streams say "hello " and, unless the code is
// "hold", "world" and the end.
type jobs struct {
	t     testing.TB
	feeds *hub.Feeds
	ids   chan string // of those that were started

	mu      sync.Mutex
	byKey   map[string]string
	byID    map[string]*hub.Feed
	started []gateway.StartOptions
	fail    error
	panics  any
}

func (j *jobs) Start(_ context.Context, req *protocol.Request, o gateway.StartOptions) (string, bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.panics != nil {
		panic(j.panics)
	}
	if j.fail != nil {
		return "", false, j.fail
	}
	j.started = append(j.started, o)
	if id, ok := j.byKey[o.IdempotencyKey]; ok && o.IdempotencyKey != "" {
		return id, false, nil
	}
	id := protocol.NewStreamID()
	f, err := j.feeds.Create(id)
	if err != nil {
		return "", false, err
	}
	j.byKey[o.IdempotencyKey], j.byID[id] = id, f
	j.append(f, 1, protocol.TypeStarted, &protocol.Started{Provider: "local", Analysis: string(req.Analysis), Attempt: 1})
	j.append(f, 2, protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Text: "hello ", Attempt: 1})
	if req.Code != "hold" {
		j.append(f, 3, protocol.TypeChunk, &protocol.Chunk{Kind: protocol.KindText, Text: "world", Attempt: 1})
		j.append(f, 4, protocol.TypeFinding, &protocol.Finding{Rule: "r1", Severity: "low", Message: "m"})
		var d protocol.Digest
		d.Add("hello world")
		n, sum := d.Sum()
		j.append(f, 5, protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop", Provider: "local", Events: 5, Bytes: n, SHA256: sum,
			Usage: &protocol.Usage{InputTokens: 3}})
	}
	j.ids <- id
	return id, true, nil
}

func (j *jobs) append(f *hub.Feed, seq uint64, typ protocol.Type, data any) {
	e, err := protocol.Encode(f.ID(), seq, seq, typ, time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC), data)
	if err == nil {
		err = f.Append(e)
	}
	if err != nil {
		j.t.Error(err)
	}
}

func (j *jobs) Cancel(_ context.Context, id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	f, ok := j.byID[id]
	if !ok {
		return protocol.Errorf(protocol.CodeStreamNotFound, "no job %s", id)
	}
	if head, ended := f.Head(); !ended {
		j.append(f, head+1, protocol.TypeCancelled, &protocol.Cancelled{By: protocol.CancelClient})
	}
	return nil
}

// A node is a server with everything real but the analyses.
type node struct {
	t       testing.TB
	url     string
	jobs    *jobs
	hub     *hub.Hub
	gateway *gateway.Gateway
	server  *gateway.Server
	log     *safeBuffer
	client  *http.Client
	ready   error // set before the server starts
}

const apiKey = "canary-key-0123456789"

// start runs a node. Keys are needed where withKey is set.
func start(t testing.TB, withKey bool, change ...func(*gateway.Options)) *node {
	t.Helper()
	n := &node{t: t, log: new(safeBuffer)}
	var keys []auth.Key
	if withKey {
		keys = []auth.Key{{Name: "ada", Secret: apiKey}, {Name: "bob", Secret: "another-key-012345"}}
	}
	authn, err := auth.New(keys, auth.Options{AllowAnonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	origins, err := gateway.NewOrigins([]string{"https://app.example.com", "https://*.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	logger := zerolog.New(n.log).Level(zerolog.DebugLevel)
	metrics := telemetry.NewMetrics("test")
	feeds := hub.NewFeeds(hub.FeedLimits{})
	n.jobs = &jobs{t: t, feeds: feeds, ids: make(chan string, 100), byKey: make(map[string]string), byID: make(map[string]*hub.Feed)}
	commands := &gateway.Commands{Analyses: n.jobs, Auth: authn}
	n.hub = hub.New(feeds, noSource{}, hub.Options{Commands: commands, AllowOrigin: origins.Allowed, Metrics: metrics, Logger: logger})
	commands.Metadata = n.hub.Metadata
	o := gateway.Options{
		Analyses: n.jobs, Streams: n.hub, Auth: authn, Origins: origins, Logger: logger, Metrics: metrics, MetricsHandler: metrics.Handler(),
		LoopbackOnly: !withKey,
		Ready:        func(context.Context) error { return n.ready },
		Cluster: func(context.Context) gateway.Cluster {
			return gateway.Cluster{Mode: gateway.ModeAlone, Node: "n1", Nodes: []gateway.ClusterNode{{Name: "n1", State: gateway.NodeUp}},
				History: gateway.ClusterHistory{Quorum: true, Replicas: 1, Current: 1}}
		},
		Providers: func() []gateway.Provider {
			return []gateway.Provider{{Name: "claude", Dialect: "claude", Models: []string{"big"}, Features: gateway.ProviderFeatures{Reasoning: true},
				Health: &gateway.ProviderHealth{Checked: time.Unix(0, 0).UTC(), Error: protocol.Errorf(protocol.CodeTimeout, "slow")}},
				{Name: "local", Dialect: "local", Features: gateway.ProviderFeatures{Findings: true}}}
		},
		Page: fstest.MapFS{"index.html": {Data: []byte("<!doctype html>")}, "app-ABCD2345.js": {Data: []byte("1")}, "img/x.svg": {Data: []byte("<svg/>")}, ".keep": {}},
	}
	for _, c := range change {
		c(&o)
	}
	if n.gateway, err = gateway.New(o); err != nil {
		t.Fatal(err)
	}
	n.server = gateway.NewServer(n.gateway, gateway.ServerOptions{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- n.server.Serve(ln) }()
	transport := &http.Transport{}
	n.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	n.url = "http://" + ln.Addr().String()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		transport.CloseIdleConnections()
		if err := n.server.Shutdown(ctx, func(ctx context.Context) error { n.hub.Drain(ctx, 0); return nil }); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		n.hub.Close()
		feeds.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return n
}

// An answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request; header has names and values in turn.
func (n *node) do(method, target, body string, header ...string) answer {
	n.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.url+target, r)
	if err != nil {
		n.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Add(header[i], header[i+1])
	}
	res, err := n.client.Do(req)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer func() { _ = res.Body.Close() }() // it was read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, target, err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

func decode[T any](t testing.TB, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return v
}

// startJob starts an analysis and returns its stream.
func (n *node) startJob(code string, header ...string) string {
	n.t.Helper()
	a := n.do("POST", "/v1/analyses", `{"code":"`+code+`"}`, header...)
	if a.status != 201 {
		n.t.Fatalf("%d %s", a.status, a.body)
	}
	return decode[protocol.Metadata](n.t, a).ID
}
