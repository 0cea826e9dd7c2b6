package config

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/athena-hub/athena/internal/proxies"
)

// Edge is how clients reach the server, what stands between, and the record of
// what they did. It is a part of Serve.
type Edge struct {
	TrustedProxy    []string `group:"Proxies" placeholder:"CIDR" help:"Addresses of proxies that are believed when they say who their client is: 10.0.0.0/8, 192.0.2.7, loopback or private. Repeatable. Anybody else's headers about that are ignored."`
	ForwardedHeader string   `group:"Proxies" default:"x-forwarded-for" enum:"x-forwarded-for,forwarded" help:"The header that these proxies write, and the only one that is read: x-forwarded-for (with X-Forwarded-Proto and X-Forwarded-Host) or forwarded (RFC 7239)."`
	ProxyProtocol   bool     `group:"Proxies" help:"Connections from trusted proxies begin with the PROXY protocol, version 1 or 2. One without it is refused, and so is anybody else's with it."`

	TLSCert       []string      `name:"tls-cert" group:"TLS" placeholder:"FILE" help:"Serve HTTPS with this certificate, in PEM, with those between it and its authority. Repeatable, each with its --tls-key, for several names. Changed files are taken without a restart, at once on SIGHUP."`
	TLSKey        []string      `name:"tls-key" group:"TLS" placeholder:"FILE" help:"The certificate's key, in PEM, in the order of --tls-cert."`
	ACMEDomain    []string      `name:"acme-domain" group:"TLS" placeholder:"NAME" help:"Serve HTTPS for this name with a certificate that is fetched, and renewed, by ACME, and agree to the authority's terms by that. Repeatable. The authority must reach the server at port 443 of that name, or at 80 with --http-listen. Each node fetches its own."`
	ACMEEmail     string        `name:"acme-email" group:"TLS" placeholder:"ADDR" help:"Where the authority may write to."`
	ACMEDirectory string        `name:"acme-directory" group:"TLS" default:"https://acme-v02.api.letsencrypt.org/directory" placeholder:"URL" help:"The authority's ACME directory."`
	ACMECA        string        `name:"acme-ca" group:"TLS" placeholder:"FILE" help:"Certificate authority of that directory's own HTTPS, in PEM, where it is not one of the system's."`
	HTTPListen    string        `name:"http-listen" group:"TLS" placeholder:"ADDR" help:"Address, HOST:PORT, usually :80, that answers ACME and sends everybody else to HTTPS."`
	HSTSMaxAge    time.Duration `name:"hsts-max-age" group:"TLS" default:"8760h" help:"How long browsers are told to come by HTTPS only, where they came by it. 0 tells them nothing."`

	MaxSockets int `group:"HTTP" default:"20000" help:"Connections of any kind that may be open at once. Further ones are closed when they come."`

	AuditLog  string `group:"Record" default:"off" placeholder:"FILE" help:"Where to write who did what, a JSON object a line: a file, which only grows and is opened anew on SIGHUP, stderr, or off."`
	AuditCode bool   `group:"Record" help:"Write the code that is analysed to the audit log, too, up to 64 KiB of each."`
}

// The audit log's places that are no files.
const (
	AuditOff    = "off"
	AuditStderr = "stderr"
)

// TLS reports whether clients come by HTTPS.
func (e *Edge) TLS() bool { return len(e.TLSCert) > 0 || len(e.ACMEDomain) > 0 }

// Proxies are the trusted ones.
func (e *Edge) Proxies() (*proxies.Proxies, error) {
	return proxies.New(e.TrustedProxy, e.ForwardedHeader)
}

var domainName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// checkEdge checks these settings. It reads the certificates.
func (e *Edge) checkEdge() []problem {
	var found []problem
	fail := func(key, format string, args ...any) {
		found = append(found, problem{key: key, text: fmt.Sprintf(format, args...)})
	}
	for _, t := range e.TrustedProxy {
		if _, err := proxies.New([]string{t}, e.ForwardedHeader); err != nil {
			fail("trusted_proxy", "%s", err)
		}
	}
	if e.ProxyProtocol && len(e.TrustedProxy) == 0 {
		found = append(found, problem{key: "proxy_protocol", others: []string{"trusted_proxy"},
			text: "needs to know whom to believe; name the proxies with --trusted-proxy"})
	}
	if len(e.TLSCert) != len(e.TLSKey) {
		found = append(found, problem{key: "tls_cert", others: []string{"tls_key"},
			text: fmt.Sprintf("there are %d certificates (tls_cert) and %d keys (tls_key); give one key for each certificate, in the same order", len(e.TLSCert), len(e.TLSKey))})
	} else {
		for i, cert := range e.TLSCert {
			if _, err := tls.LoadX509KeyPair(cert, e.TLSKey[i]); err != nil {
				fail("tls_cert", "%s and %s: %s", cert, e.TLSKey[i], err)
			}
		}
	}
	for _, d := range e.ACMEDomain {
		if !domainName.MatchString(d) {
			fail("acme_domain", "%.100q is not a whole name in lower case, such as athena.example.com", d)
		}
	}
	if u, err := url.Parse(e.ACMEDirectory); err != nil || u.Scheme != "https" || u.Host == "" {
		fail("acme_directory", "%.100q is not an https:// URL", redactURL(e.ACMEDirectory))
	}
	if e.ACMECA != "" {
		if _, err := readBounded(e.ACMECA); err != nil {
			fail("acme_ca", "%s", err)
		}
	}
	if e.ACMEEmail != "" && (!strings.Contains(e.ACMEEmail, "@") || strings.ContainsAny(e.ACMEEmail, " \r\n")) {
		fail("acme_email", "%.80q is not an address of e-mail", e.ACMEEmail)
	}
	if e.HTTPListen != "" {
		if err := checkListen(e.HTTPListen); err != nil {
			fail("http_listen", "%s", err)
		} else if !e.TLS() {
			found = append(found, problem{key: "http_listen", others: []string{"tls_cert", "acme_domain"},
				text: "sends clients to HTTPS, which needs --tls-cert and --tls-key, or --acme-domain"})
		}
	}
	if most := 10 * 365 * 24 * time.Hour; e.HSTSMaxAge < 0 || e.HSTSMaxAge > most {
		fail("hsts_max_age", "is %s; it must be from 0s to %s", e.HSTSMaxAge, most)
	}
	if e.MaxSockets < 1 || e.MaxSockets > 1e7 {
		fail("max_sockets", "is %d; it must be from 1 to 10000000", e.MaxSockets)
	}
	switch e.AuditLog {
	case AuditOff, AuditStderr:
		if e.AuditCode && e.AuditLog == AuditOff {
			found = append(found, problem{key: "audit_code", others: []string{"audit_log"}, text: "is for the audit log, which is off; give it with --audit-log"})
		}
	case "":
		fail("audit_log", "is empty; it must be a file, stderr or off")
	default:
		if info, err := os.Stat(e.AuditLog); err == nil && info.IsDir() {
			fail("audit_log", "%s is a directory; name a file in it", e.AuditLog)
		}
	}
	return found
}
