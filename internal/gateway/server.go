package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log" //nolint:depguard // http.Server takes no other logger
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// ServerOptions tune a Server. Zero values mean the defaults.
type ServerOptions struct {
	// ReadHeaderTimeout is how long a request's headers may take. Default 10 s.
	ReadHeaderTimeout time.Duration
	// KeepAlive is how long a connection without a request stays open. Default
	// 2 min.
	KeepAlive time.Duration
	// MaxHeaderBytes bounds a request's headers. Default 32 KiB.
	MaxHeaderBytes int
	// TLS has the server speak HTTPS, and HTTP/2 where it says so; nil for plain
	// HTTP.
	TLS *tls.Config
	// MaxHTTP2Streams bounds the requests of one HTTP/2 connection that run at
	// once. Default 100, the least that RFC 9113 advises. A client that opens
	// and resets them faster than they end loses the connection (net/http,
	// CVE-2023-44487).
	MaxHTTP2Streams int
	// PingTimeout is how long a silent HTTP/2 connection, asked by a ping, may
	// take to answer. Default 15 s.
	PingTimeout time.Duration
}

// pingAfter is how long an HTTP/2 connection may be silent until it is asked.
const pingAfter = 30 * time.Second

// A Server serves a Gateway.
type Server struct {
	gateway *Gateway
	http    *http.Server
}

// NewServer returns a server for g. It has no WriteTimeout, which would end
// streams; g bounds each answer.
func NewServer(g *Gateway, o ServerOptions) *Server {
	return &Server{g, &http.Server{
		Handler:           g,
		ReadHeaderTimeout: cmp.Or(o.ReadHeaderTimeout, 10*time.Second),
		IdleTimeout:       cmp.Or(o.KeepAlive, 2*time.Minute),
		MaxHeaderBytes:    cmp.Or(o.MaxHeaderBytes, 32<<10),
		ErrorLog:          log.New(serverLog{g.opts.Logger}, "", 0),
		TLSConfig:         o.TLS,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: cmp.Or(o.MaxHTTP2Streams, 100), SendPingTimeout: pingAfter,
			PingTimeout: cmp.Or(o.PingTimeout, 15*time.Second), WriteByteTimeout: g.opts.WriteTimeout},
	}}
}

// serverLog takes what net/http has to say: mostly about clients that send
// what is no HTTP.
type serverLog struct{ logger zerolog.Logger }

func (l serverLog) Write(b []byte) (int, error) {
	l.logger.Debug().Str("from", "net/http").Msg(strings.TrimSpace(string(b)))
	return len(b), nil
}

// Serve answers connections of ln until Shutdown, and then returns nil.
func (s *Server) Serve(ln net.Listener) error {
	serve := s.http.Serve
	if s.http.TLSConfig != nil {
		serve = func(ln net.Listener) error { return s.http.ServeTLS(ln, "", "") } // the certificates are TLSConfig's
	}
	if err := serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown ends the server in this order, within ctx:
//
//  1. Readiness says "draining", so that balancers send new clients elsewhere;
//     everything is served on.
//  2. The steps, one after the other: first the one that ends the analyses
//     (clients see how), then the one that asks the clients of streams to move.
//     Each must leave the next its part of ctx. Their errors are returned,
//     and the next step follows all the same.
//  3. Requests that wait for a result are answered.
//  4. No connection is accepted any more, and requests that still run are
//     waited for. When ctx ends they are cut.
func (s *Server) Shutdown(ctx context.Context, steps ...func(context.Context) error) error {
	s.gateway.Drain()
	var errs []error
	for _, step := range steps {
		errs = append(errs, step(ctx))
	}
	s.gateway.endWaits()
	if err := s.http.Shutdown(ctx); err != nil {
		errs = append(errs, err, s.http.Close())
	}
	return errors.Join(errs...)
}
