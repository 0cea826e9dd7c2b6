// Package connections keeps the connections to one provider: how many there may be,
// how long they are kept, when a dead one is noticed, and how many are in use.
//
// Making a connection costs a handshake of TCP and one of TLS, three round trips
// to a far provider, so every answer that was read to its end leaves its
// connection for the next. How many calls run, and how long each may take, is
// the callers' to bound.
package connections

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// What Options' zero fields mean.
const (
	DefaultMax            = 40
	DefaultIdle           = 20
	DefaultIdleTimeout    = time.Minute
	DefaultConnectTimeout = 10 * time.Second
)

// When a connection on which nothing comes is found dead. Answers can be silent
// for minutes, so silence alone says nothing: the other side is asked.
const (
	// probeAfter is how long nothing has come when it is asked, by TCP or, with
	// HTTP/2, by a ping.
	probeAfter = 15 * time.Second
	// pingTimeout is how long HTTP/2's answer may take.
	pingTimeout = 10 * time.Second
	// probeInterval is the time between TCP's questions, probes how many of them
	// may stay without an answer.
	probeInterval = 10 * time.Second
	probes        = 3
)

// Options configure a Pool.
type Options struct {
	// Max bounds the connections that are open at once. A call beyond it waits
	// for one. DefaultMax by default.
	Max int
	// Idle bounds those that are kept while nothing is asked; DefaultIdle by
	// default, none where it is negative.
	Idle int
	// IdleTimeout is how long they are kept; DefaultIdleTimeout by default.
	IdleTimeout time.Duration
	// ConnectTimeout bounds the handshakes of TCP and of TLS, each;
	// DefaultConnectTimeout by default.
	ConnectTimeout time.Duration
	// AllowMetadata lets names lead to link-local addresses: see Guard.
	AllowMetadata bool
	// NoHTTP2 speaks HTTP/1.1 with everybody.
	NoHTTP2 bool
}

// A State is what a Pool's connections do.
type State struct {
	// Open is how many there are: InUse carry calls, the Idle ones none.
	Open, InUse, Idle int
	// Calls is how many calls run, or wait for a connection. Over HTTP/2 many
	// share one.
	Calls int
	// Opened counts the connections that were ever opened, Reused the calls that
	// needed none of their own.
	Opened, Reused uint64
}

// A Pool makes calls over connections that it keeps. Its methods may be called
// concurrently.
type Pool struct {
	transport *http.Transport

	mu    sync.Mutex
	state State // guarded by mu; Idle is left to State
}

var _ http.RoundTripper = (*Pool)(nil)

// New returns a Pool without connections.
func New(o Options) *Pool {
	connect := cmp.Or(o.ConnectTimeout, DefaultConnectTimeout)
	dialer := &net.Dialer{Timeout: connect, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: probeAfter, Interval: probeInterval, Count: probes}}
	if !o.AllowMetadata {
		dialer.Control = Guard
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!o.NoHTTP2)
	p := new(Pool)
	p.transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return p.opened(c), nil
		},
		TLSHandshakeTimeout: connect,
		MaxConnsPerHost:     cmp.Or(o.Max, DefaultMax),
		MaxIdleConnsPerHost: cmp.Or(o.Idle, DefaultIdle),
		IdleConnTimeout:     cmp.Or(o.IdleTimeout, DefaultIdleTimeout),
		Protocols:           protocols,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: probeAfter, PingTimeout: pingTimeout, WriteByteTimeout: probeAfter + pingTimeout},
	}
	return p
}

// Client makes calls over the pool. It has no Timeout.
func (p *Pool) Client() *http.Client { return &http.Client{Transport: p} }

// State tells what the connections do now.
func (p *Pool) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state
	s.Idle = s.Open - s.InUse
	return s
}

// CloseIdleConnections closes the connections that carry no call.
// http.Client's method of this name calls it.
func (p *Pool) CloseIdleConnections() { p.transport.CloseIdleConnections() }

// RoundTrip implements http.RoundTripper.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	c := &call{pool: p}
	p.mu.Lock()
	p.state.Calls++
	p.mu.Unlock()
	trace := &httptrace.ClientTrace{GotConn: c.got}
	resp, err := p.transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		c.end()
		return nil, err
	}
	body := &answer{ReadCloser: resp.Body, call: c}
	if w, ok := resp.Body.(io.Writer); ok { // the connection itself, after an upgrade
		resp.Body = struct {
			*answer
			io.Writer
		}{body, w}
	} else {
		resp.Body = body
	}
	return resp, nil
}

// A call is one call, from before it has a connection to its answer's end.
type call struct {
	pool *Pool

	conn  *conn // guarded by pool.mu; nil while there is none
	ended bool  // guarded by pool.mu
}

// got notes the connection that carries the call. net/http makes the call again
// over another one if the first, which had been idle, turns out to be closed.
func (c *call) got(info httptrace.GotConnInfo) {
	under := info.Conn
	if t, ok := under.(interface{ NetConn() net.Conn }); ok { // TLS
		under = t.NetConn()
	}
	conn, ok := under.(*conn)
	if !ok {
		return
	}
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if c.ended {
		return
	}
	c.leave()
	if info.Reused {
		c.pool.state.Reused++
	}
	c.conn = conn
	if conn.calls++; conn.calls == 1 && !conn.closed {
		c.pool.state.InUse++
	}
}

// leave takes the call off its connection. pool.mu is held.
func (c *call) leave() {
	if c.conn == nil {
		return
	}
	if c.conn.calls--; c.conn.calls == 0 && !c.conn.closed {
		c.pool.state.InUse--
	}
	c.conn = nil
}

// end notes that the call is over. The first time counts.
func (c *call) end() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	c.pool.state.Calls--
	c.leave()
}

// An answer is the body of one. Its end is the call's: net/http has the
// connection back then.
type answer struct {
	io.ReadCloser
	call *call
}

func (a *answer) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	if err != nil {
		a.call.end()
	}
	return n, err
}

func (a *answer) Close() error {
	err := a.ReadCloser.Close()
	a.call.end()
	return err
}

// A conn is a connection that its pool counts.
type conn struct {
	net.Conn
	pool *Pool

	calls  int  // guarded by pool.mu
	closed bool // guarded by pool.mu
}

func (p *Pool) opened(c net.Conn) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Open++
	p.state.Opened++
	return &conn{Conn: c, pool: p}
}

// Close is called several times by net/http.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.pool.state.Open--
		if c.calls > 0 {
			c.pool.state.InUse--
		}
	}
	return err
}
