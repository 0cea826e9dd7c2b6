package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // http.Server takes no other logger
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/audit"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/certificates"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/proxies"
	"github.com/athena-hub/athena/protocol"
)

// An edge is what stands between the clients and the gateway: trusted proxies,
// certificates, the listener that sends to HTTPS, and the record.
type edge struct {
	// Set by newEdge, then read-only.
	cfg     *config.Serve
	log     zerolog.Logger
	proxies *proxies.Proxies
	files   *certificates.Files // nil without files
	acme    *certificates.ACME  // nil without domains
	audit   *audit.Log          // nil where it is off

	// Set by start.
	plain   *http.Server // nil without --http-listen
	stop    context.CancelFunc
	running sync.WaitGroup
}

const (
	// certificatesEvery is how often the files of certificates are looked at.
	certificatesEvery = 10 * time.Second
	// plainTimeout bounds each part of an exchange over plain HTTP.
	plainTimeout = 10 * time.Second
	// plainSockets bounds connections over plain HTTP, which are short.
	plainSockets = 1000
	// certificateSoon is how long before a certificate's end the log warns.
	certificateSoon = 7 * 24 * time.Hour
)

// newEdge opens what the configuration names. stderr is for an audit log that
// goes there.
func newEdge(cfg *config.Serve, log zerolog.Logger, stderr io.Writer) (_ *edge, err error) {
	e := &edge{cfg: cfg, log: log.With().Str("part", "edge").Logger()}
	if e.proxies, err = cfg.Proxies(); err != nil {
		return nil, err
	}
	if len(cfg.TLSCert) > 0 {
		pairs := make([]certificates.Pair, len(cfg.TLSCert))
		for i := range pairs {
			pairs[i] = certificates.Pair{Cert: cfg.TLSCert[i], Key: cfg.TLSKey[i]}
		}
		if e.files, err = certificates.Load(pairs); err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
	}
	if len(cfg.ACMEDomain) > 0 {
		o := certificates.ACMEOptions{Domains: cfg.ACMEDomain, Email: cfg.ACMEEmail, Directory: cfg.ACMEDirectory,
			Cache: filepath.Join(cfg.DataDir, "acme"), UserAgent: "athena/" + buildVersion()}
		if cfg.ACMECA != "" {
			if o.CA, err = os.ReadFile(cfg.ACMECA); err != nil {
				return nil, err
			}
		}
		if e.acme, err = certificates.NewACME(o); err != nil {
			return nil, err
		}
	}
	o := audit.Options{Node: cfg.Node, Code: cfg.AuditCode, Failed: func(err error) {
		e.log.Error().Err(err).Msg("the audit log can't be written; what happens goes unrecorded until it can")
	}}
	switch cfg.AuditLog {
	case config.AuditOff, "":
	case config.AuditStderr:
		e.audit = audit.To(stderr, o)
	default:
		if e.audit, err = audit.Open(cfg.AuditLog, o); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// tls is how clients are served; nil for plain HTTP.
func (e *edge) tls() *tls.Config {
	if e.files == nil && e.acme == nil {
		return nil
	}
	return certificates.Config(e.files, e.acme)
}

// scheme is what URLs of the server begin with.
func (e *edge) scheme() string {
	if e.cfg.TLS() {
		return "https"
	}
	return "http"
}

// listener bounds the connections of ln, and speaks the PROXY protocol where
// that is asked for.
func (e *edge) listener(ln net.Listener) net.Listener {
	said := rate.Sometimes{Interval: time.Minute}
	ln = gateway.BoundSockets(ln, e.cfg.MaxSockets, func() {
		said.Do(func() {
			e.log.Warn().Int("max_sockets", e.cfg.MaxSockets).Msg("connections are closed as they come: there are as many as may be")
		})
	})
	return e.introduced(ln)
}

// introduced speaks the PROXY protocol where that is asked for. It is the last
// that is put around a listener: what is below sees who has connected.
func (e *edge) introduced(ln net.Listener) net.Listener {
	if !e.cfg.ProxyProtocol {
		return ln
	}
	return e.proxies.Listener(ln, e.cfg.ReadHeaderTimeout)
}

// start begins what runs beside the server, and says what an operator should
// know.
func (e *edge) start(ctx context.Context) error {
	if !e.cfg.Loopback() && !e.cfg.TLS() && !e.proxies.Any() {
		e.log.Warn().Msg("clients on other machines send keys and code in the clear: give --tls-cert and --tls-key, or --acme-domain, " +
			"or name what ends TLS before this server with --trusted-proxy")
	}
	var plain net.Listener
	if e.cfg.HTTPListen != "" {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", e.cfg.HTTPListen)
		if err != nil {
			return fmt.Errorf("listen on %s: %w; another --http-listen would do", e.cfg.HTTPListen, err)
		}
		plain = e.introduced(gateway.BoundSockets(ln, plainSockets, nil))
	}
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	if plain != nil {
		e.servePlain(plain)
	}
	if e.files != nil {
		e.warnOfEnd()
		e.running.Go(func() { e.files.Watch(ctx, certificatesEvery, e.reloaded) })
	}
	if e.acme != nil {
		e.running.Go(func() {
			if err := e.acme.Fetch(ctx); err != nil && ctx.Err() == nil {
				e.log.Error().Err(err).Msg("no certificate by ACME yet; the next client makes another try")
			}
		})
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	e.running.Go(func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				e.reload()
			}
		}
	})
	e.audit.Write(audit.Event{Kind: audit.KindStart, Version: buildVersion()})
	return nil
}

func (e *edge) servePlain(ln net.Listener) {
	_, port, err := net.SplitHostPort(e.cfg.Listen)
	if err != nil || port == "0" {
		port = "443"
	}
	h := gateway.ToHTTPS(port)
	if e.acme != nil {
		h = e.acme.Handler(h)
	}
	e.plain = &http.Server{Handler: h, ReadTimeout: plainTimeout, WriteTimeout: plainTimeout, IdleTimeout: plainTimeout,
		MaxHeaderBytes: int(e.cfg.MaxHeaderBytes), ErrorLog: log.New(io.Discard, "", 0)}
	e.running.Go(func() {
		if err := e.plain.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			e.log.Error().Err(err).Msg("plain HTTP is served no more")
		}
	})
}

// reload is what SIGHUP asks for: the audit log is opened anew, and
// certificates are read.
func (e *edge) reload() {
	if err := e.audit.Reopen(); err != nil {
		e.log.Error().Err(err).Msg("the audit log could not be opened anew; the old file is written on")
	} else if e.audit != nil {
		e.log.Info().Msg("audit log opened anew")
	}
	if e.files != nil {
		if changed, err := e.files.Reload(); changed {
			e.reloaded(err)
		}
	}
}

func (e *edge) reloaded(err error) {
	if err != nil {
		e.log.Error().Err(err).Msg("the new certificates can't be used; the old ones are served on")
		return
	}
	e.log.Info().Time("ends", e.files.Expires()).Msg("new certificates are served")
	e.warnOfEnd()
}

func (e *edge) warnOfEnd() {
	if ends := e.files.Expires(); time.Until(ends) < certificateSoon {
		e.log.Warn().Time("ends", ends).Msg("a certificate ends soon")
	}
}

// close ends all that start began. It may be called without it.
func (e *edge) close() error {
	var err error
	if e.stop != nil {
		e.stop()
		e.audit.Write(audit.Event{Kind: audit.KindStop})
	}
	if e.plain != nil {
		err = e.plain.Close()
	}
	e.running.Wait()
	if e.acme != nil {
		e.acme.Close()
	}
	return errors.Join(err, e.audit.Close())
}

// recordEnd writes what an analysis came to, and what it used.
func (e *edge) recordEnd(end analysis.JobEnd) {
	tenant, name := auth.SplitOwner(end.Owner)
	ev := audit.Event{Kind: audit.KindAnalysis, Caller: name, Tenant: tenant, Stream: end.ID, RequestID: end.RequestID, TookMS: end.Took.Milliseconds(),
		Provider: end.Provider, Model: end.Model, Attempts: end.Attempts, Usage: &end.Usage}
	if end.Owner != "" { // else it is an address
		ev.Credential = end.Credential
	}
	switch {
	case end.HandedOver:
		ev.Outcome = "handed_over"
	case end.TakenOver:
		ev.Outcome = "taken_over"
	case end.Error != nil:
		ev.Outcome = string(end.Error.Code)
	case end.Type == protocol.TypeCancelled:
		ev.Outcome = "cancelled_by_" + string(end.Cancelled)
	default:
		ev.Outcome = audit.OK
	}
	e.audit.Write(ev)
}
