package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/config"
)

// usualEdge are the defaults.
var usualEdge = config.Edge{ForwardedHeader: "x-forwarded-for", ACMEDirectory: "https://acme-v02.api.letsencrypt.org/directory",
	HSTSMaxAge: 365 * 24 * time.Hour, MaxSockets: 20000, AuditLog: "off"}

func TestTheEdgeIsConfigured(t *testing.T) {
	s, err := load(t, "trusted_proxy: [10.0.0.0/8, loopback]\nforwarded_header: forwarded\nproxy_protocol: true\n", []string{"ATHENA_AUDIT_LOG=/var/log/athena.audit"},
		"--acme-domain", "a.example.com,b.example.com", "--http-listen", ":80")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Proxies()
	if err != nil || !p.Any() || !s.ProxyProtocol || !s.TLS() || len(s.ACMEDomain) != 2 || s.AuditLog != "/var/log/athena.audit" {
		t.Errorf("%+v, %v", s.Edge, err)
	}
}

func TestWhatTheEdgeCantDoIsSaidWithWhatWouldBeRight(t *testing.T) {
	nothing := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(nothing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--trusted-proxy", "0.0.0.0/0"}, "is everybody"},
		{[]string{"--trusted-proxy", "proxy.example.com"}, "such as 10.0.0.0/8"},
		{[]string{"--proxy-protocol"}, "--trusted-proxy"},
		{[]string{"--forwarded-header", "x-real-ip"}, "x-forwarded-for"},
		{[]string{"--tls-cert", "a.crt"}, "one key for each certificate"},
		{[]string{"--tls-cert", nothing, "--tls-key", nothing}, "empty.pem"},
		{[]string{"--acme-domain", "*.example.com"}, "whole name in lower case"},
		{[]string{"--acme-domain", "localhost"}, "whole name in lower case"},
		{[]string{"--acme-directory", "http://ca.example.com"}, "https://"},
		{[]string{"--acme-email", "nobody"}, "address of e-mail"},
		{[]string{"--acme-ca", "/nowhere/ca.pem"}, "/nowhere/ca.pem"},
		{[]string{"--http-listen", ":80"}, "needs --tls-cert"},
		{[]string{"--http-listen", "80", "--acme-domain", "a.example.com"}, "HOST:PORT"},
		{[]string{"--hsts-max-age=-1s"}, "hsts_max_age"},
		{[]string{"--max-sockets", "0"}, "max_sockets"},
		{[]string{"--audit-code"}, "--audit-log"},
		{[]string{"--audit-log", t.TempDir()}, "is a directory"},
	} {
		if _, err := load(t, "", nil, c.args...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v; want %q", c.args, err, c.says)
		}
	}
}
