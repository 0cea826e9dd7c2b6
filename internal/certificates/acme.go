package certificates

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// ACMEOptions configure an ACME. Domains, Directory and Cache are required.
type ACMEOptions struct {
	// Domains are the names that certificates are fetched for, and no others:
	// whoever connects could otherwise have the authority asked for any name.
	Domains []string
	// Email is where the authority may write to.
	Email string
	// Directory is the URL of the authority's ACME directory.
	Directory string
	// CA is, in PEM, whom the directory's own HTTPS is signed by; nil for the
	// system's authorities.
	CA []byte
	// Cache is a directory for the account's key and the certificates, which is
	// made for its owner alone.
	Cache     string
	UserAgent string
	// Timeout bounds one request to the authority. Default 30 s.
	Timeout time.Duration
}

// ACME fetches certificates when they are first asked for, and renews them a
// month before they end (RFC 8555). It agrees to the authority's terms.
type ACME struct {
	manager   *autocert.Manager
	domains   []string
	transport *http.Transport
}

// NewACME returns an ACME, which asks nobody yet.
func NewACME(o ACMEOptions) (*ACME, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if o.CA != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("there is no certificate of an authority in the ACME directory's CA file")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	return &ACME{
		domains: o.Domains, transport: transport,
		manager: &autocert.Manager{
			Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(o.Cache), HostPolicy: autocert.HostWhitelist(o.Domains...), Email: o.Email,
			Client: &acme.Client{DirectoryURL: o.Directory, UserAgent: o.UserAgent, HTTPClient: &http.Client{Transport: transport, Timeout: o.Timeout}},
		},
	}, nil
}

// For reports whether a name's certificate comes from here. A challenge of the
// authority's (TLS-ALPN-01, RFC 8737) always does.
func (a *ACME) For(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.SupportedProtos, acme.ALPNProto) || slices.Contains(a.domains, strings.ToLower(strings.TrimSuffix(hello.ServerName, ".")))
}

// Get is for tls.Config.GetCertificate.
func (a *ACME) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, err := a.manager.GetCertificate(hello)
	if err != nil {
		return nil, fmt.Errorf("certificate by ACME: %w", err)
	}
	return c, nil
}

// Handler answers the authority's challenges over HTTP (HTTP-01), and hands
// everything else to next.
func (a *ACME) Handler(next http.Handler) http.Handler {
	h := a.manager.HTTPHandler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, _, err := net.SplitHostPort(r.Host); err == nil && strings.HasPrefix(r.URL.Path, "/.well-known/acme-challenge/") {
			r = r.Clone(r.Context())
			r.Host = name // which is compared with the domains as it is
		}
		h.ServeHTTP(w, r)
	})
}

// Fetch gets the certificates that aren't there yet, so that the first client
// doesn't wait, and a mistake is known early. It asks as most clients do, for
// an ECDSA key.
func (a *ACME) Fetch(ctx context.Context) error {
	var errs []error
	for _, d := range a.domains {
		if ctx.Err() != nil {
			break
		}
		hello := &tls.ClientHelloInfo{
			ServerName: d, CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
			SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		}
		if _, err := a.Get(hello); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}

// Close closes idle connections to the authority.
func (a *ACME) Close() { a.transport.CloseIdleConnections() }

// Config is how clients are served: TLS 1.2 at least, 1.3 where they can, and
// HTTP/2 where they want it. Either of files and a may be nil.
func Config(files *Files, a *ACME) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if a != nil {
		c.NextProtos = append(c.NextProtos, acme.ALPNProto)
	}
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if a != nil && (files == nil || a.For(hello)) {
			return a.Get(hello)
		}
		return files.Get(hello)
	}
	return c
}
