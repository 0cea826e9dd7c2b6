package interop_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log" //nolint:depguard // Pebble takes no other logger
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/letsencrypt/challtestsrv"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// acmeDomain is a name that only the authority's own resolver knows.
const acmeDomain = "athena.test"

// An authority is Pebble, Let's Encrypt's ACME server for tests.
type authority struct {
	directory string
	caFile    string         // of the directory's own HTTPS
	root      *x509.CertPool // of what it issues
}

// startAuthority starts one that looks for its challenges at these ports of
// 127.0.0.1.
func startAuthority(t *testing.T, httpPort, tlsPort int) *authority {
	t.Helper()
	dns := freePort(t)
	names, err := challtestsrv.New(challtestsrv.Config{DNSAddrs: []string{dns}, Log: log.New(io.Discard, "", 0)})
	if err != nil {
		t.Fatal(err)
	}
	names.SetDefaultDNSIPv4("127.0.0.1")
	names.SetDefaultDNSIPv6("")
	go names.Run()
	t.Cleanup(names.Shutdown)

	logger := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(logger, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: 0}})
	front := wfe.New(logger, store, va.New(logger, httpPort, tlsPort, true, dns, store), issuer, []string{"pebble.test"}, true, false, 1, 1)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{caFile: filepath.Join(t.TempDir(), "ca.pem"), root: x509.NewCertPool()}
	if err := os.WriteFile(a.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if !a.root.AppendCertsFromPEM(issuer.GetRootCert(0).PEM()) {
		t.Fatal("the authority has no root")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.directory = "https://" + ln.Addr().String() + wfe.DirectoryPath
	s := &http.Server{Handler: front.Handler(), ErrorLog: logger,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
	go func() { _ = s.ServeTLS(ln, "", "") }() // until Close
	t.Cleanup(func() { _ = s.Close() })
	return a
}

// freePort is an address that nobody listens on. Its port is below those that
// outgoing connections get (from 32768 on), so that none of the tests beside
// takes it before it is used.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+mathrand.IntN(17000))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("no free port was found")
	return ""
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestACertificateComesFromAnACMEAuthority(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"TLS-ALPN-01", "HTTP-01"} {
		t.Run(way, func(t *testing.T) {
			ctx := within(t)
			https, plain := freePort(t), freePort(t)
			tlsPort := portOf(t, https)
			if way == "HTTP-01" {
				tlsPort = portOf(t, freePort(t)) // where nobody answers
			}
			a := startAuthority(t, portOf(t, plain), tlsPort)
			startHub(t, "--listen", https, "--http-listen", plain, "--acme-domain", acmeDomain, "--acme-email", "ops@athena.test",
				"--acme-directory", a.directory, "--acme-ca", a.caFile)
			transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: a.root, ServerName: acmeDomain}}
			defer transport.CloseIdleConnections()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+https+"/healthz", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := (&http.Client{Transport: transport}).Do(req)
			for err != nil && ctx.Err() == nil { // the handshake waits while the certificate is fetched, but not for ever
				res, err = (&http.Client{Transport: transport}).Do(req)
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close() // the status says it
			if leaf := res.TLS.PeerCertificates[0]; res.StatusCode != 200 || res.ProtoMajor != 2 || fmt.Sprint(leaf.DNSNames) != "["+acmeDomain+"]" {
				t.Errorf("%s %s with a certificate for %v", res.Proto, res.Status, leaf.DNSNames)
			}
			// Nobody else's name is asked for.
			if c, err := tls.Dial("tcp", https, &tls.Config{ServerName: "evil.test", InsecureSkipVerify: true}); err == nil {
				_ = c.Close()
				t.Error("another name was served")
			}
		})
	}
}
