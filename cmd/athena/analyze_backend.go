package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
)

// The variables that analyze reads beside the settings of serve.
const (
	serverVariable = "ATHENA_SERVER"
	tokenVariable  = "ATHENA_TOKEN"
)

const (
	// noServer is the --server that means this process.
	noServer = "none"
	// probeTimeout is how long a server on this machine may take to say that
	// it is there.
	probeTimeout = 300 * time.Millisecond
	// defaultListen is where `athena serve` listens.
	defaultListen = "127.0.0.1:8080"
)

// A backend is what runs the analysis: a server, or this process.
type backend struct {
	*client.Client
	// where is the server's address, or "" for this process.
	where string
	// stop ends what was started for it, within ctx.
	stop func(ctx context.Context) error
}

// A backendPlace says where analyses are to run, as flags do.
type backendPlace struct {
	Server, Token, Config string
	// Transports are those to try; what the server offers where there are none.
	Transports []string
}

// find returns the server that was asked for; else one that runs on this
// machine; else this process. note tells the user what is not as expected.
func (p *backendPlace) find(ctx context.Context, env *environment, log zerolog.Logger, note func(string)) (*backend, error) {
	server, token := p.Server, p.Token
	if server == "" {
		server = variable(env, serverVariable)
	}
	if token == "" {
		token = variable(env, tokenVariable)
	}
	switch {
	case server == noServer:
		return startInProcess(ctx, env, p.Config, log, p.Transports)
	case server != "":
		if p.Config != "" {
			return nil, usageError("--config is for analysing in this process; a server has its own. Leave it out, or say --server %s", noServer)
		}
		base, err := serverURL(server)
		if err != nil {
			return nil, err
		}
		return remote(base, token, p.Transports)
	case p.Config != "":
		return startInProcess(ctx, env, p.Config, log, p.Transports)
	}
	if host := localServer(variable(env, "ATHENA_LISTEN")); host != "" {
		b, err := remote(&url.URL{Scheme: "http", Host: host}, token, p.Transports)
		if err != nil {
			return nil, err
		}
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		_, err = b.Negotiate(probe)
		cancel()
		if err == nil {
			return b, nil
		}
		if e, ok := errors.AsType[*protocol.Error](err); ok && errors.Is(e, protocol.ErrAuthentication) {
			note(fmt.Sprintf("the server at %s takes a token (--token, ATHENA_TOKEN); analysing in this process instead", b.where))
		}
		_ = b.stop(ctx)
	}
	return startInProcess(ctx, env, "", log, p.Transports)
}

// serverURL checks an address that the user gave.
func serverURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, usageError("--server is %.100q; it must be an address such as http://127.0.0.1:8080, or %s", s, noServer)
	case u.User != nil:
		return nil, usageError("--server must not hold credentials; use --token or the variable ATHENA_TOKEN")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, usageError("--server must end with its path, without ? and #")
	}
	return u, nil
}

// localServer is where `athena serve` with this setting can be asked from this
// machine, or "" where it listens elsewhere.
func localServer(listen string) string {
	if listen == "" {
		listen = defaultListen
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return ""
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip.IsUnspecified():
		return net.JoinHostPort("127.0.0.1", port)
	case strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback():
		return net.JoinHostPort(host, port)
	}
	return ""
}

// analyzeTransports are for one stream: what a WebSocket has for many is not
// worth a request more. A proxy that buffers makes it the second.
var analyzeTransports = []string{protocol.TransportSSE, protocol.TransportLongPoll}

func remote(base *url.URL, token string, transports []string) (*backend, error) {
	c, err := client.New(client.Config{URL: base.String(), Token: client.StaticToken(token), Transports: transports, UserAgent: userAgent()})
	if err != nil {
		return nil, err
	}
	return &backend{c, base.String(), func(context.Context) error {
		c.Close()
		return nil
	}}, nil
}

func userAgent() string { return "athena/" + buildVersion() }

// startInProcess starts a node as `athena serve` does, with the same providers,
// that only this process can reach and that leaves nothing behind.
func startInProcess(ctx context.Context, env *environment, file string, log zerolog.Logger, transports []string) (_ *backend, err error) {
	dir, err := os.MkdirTemp("", "athena-analyze-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the analysis: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	args := []string{"--listen", "127.0.0.1:0", "--data-dir", dir}
	if file != "" {
		args = append(args, "--config", file)
	}
	cfg, err := config.Load(args, withoutKeys(env.environ))
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	// Nobody but this process can connect, and it joins nobody.
	cfg.APIKey, cfg.APIKeyFile = nil, ""
	cfg.ClusterName, cfg.NatsURL = "", ""
	n, err := newNode(ctx, cfg, log)
	if err != nil {
		return nil, fmt.Errorf("start the analyser: %w", err)
	}
	ln := newPipeListener()
	served := make(chan error, 1)
	go func() { served <- n.serve(ln) }()
	select {
	case <-ln.accepting: // it may be shut down from now on
	case err := <-served:
		served <- err
	}

	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return ln.dial(ctx) }}
	c, err := client.New(client.Config{URL: "http://localhost", Transports: transports, RoundTripper: t, UserAgent: userAgent()})
	if err != nil {
		panic(err) // of an address that is right
	}
	return &backend{c, "", func(ctx context.Context) error {
		c.Close()
		t.CloseIdleConnections()
		err := n.shutdown(ctx)
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = nil // cut off, as was asked for
		}
		return errors.Join(err, <-served, os.RemoveAll(dir))
	}}, nil
}

// withoutKeys is the environment without the keys of clients: there are none.
func withoutKeys(environ []string) []string {
	var kept []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "ATHENA_API_KEY=") && !strings.HasPrefix(kv, "ATHENA_API_KEY_FILE=") {
			kept = append(kept, kv)
		}
	}
	return kept
}

// variable is the value of an environment variable, the last if it is there
// twice.
func variable(env *environment, name string) (value string) {
	for _, kv := range env.environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			value = v
		}
	}
	return value
}

// A pipeListener is a listener inside the process: its connections are pipes,
// which have deadlines as sockets do, and which nobody else can reach.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	// accepting is closed when somebody accepts for the first time.
	accepting chan struct{}
	first     sync.Once
}

var _ net.Listener = (*pipeListener)(nil)

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{}), accepting: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	err := net.ErrClosed
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, errors.Join(err, near.Close(), far.Close())
}

// Accept returns the other end of a connection that was dialled.
func (l *pipeListener) Accept() (net.Conn, error) {
	l.first.Do(func() { close(l.accepting) })
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept and dial return.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is a name only.
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
