package backbone_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/athena-hub/athena/internal/backbone"
)

// shake lets two sides meet, and returns what each says.
func shake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer func() { _ = conn.Close() }()
		s := tls.Server(conn, server)
		if err = s.HandshakeContext(t.Context()); err == nil {
			_, err = s.Write([]byte("!"))
		}
		served <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := tls.Client(conn, client)
	// Only what is read shows that the server has accepted the client.
	if clientErr = c.HandshakeContext(t.Context()); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	} else {
		_ = conn.Close()
	}
	return clientErr, await(t, served, "the server's side")
}

func secretTLS(t *testing.T, secret string) *tls.Config {
	t.Helper()
	c, err := backbone.ClusterTLS(secret)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhoKnowsTheSecretIsBelievedByWhoKnowsIt(t *testing.T) {
	one, two, other := secretTLS(t, "secret"), secretTLS(t, "secret"), secretTLS(t, "secret ")
	if c, s := shake(t, one, two); c != nil || s != nil {
		t.Errorf("the same secret: %v, %v", c, s)
	}
	if c, s := shake(t, one, other); c == nil || s == nil {
		t.Errorf("a client of another secret: %v, %v", c, s)
	}
	// Who does not check the server is not believed by it either.
	careless := other.Clone()
	careless.InsecureSkipVerify = true
	if c, s := shake(t, careless, one); c == nil || s == nil {
		t.Errorf("a careless client of another secret: %v, %v", c, s)
	}
	if c, s := shake(t, &tls.Config{InsecureSkipVerify: true}, one); c == nil || s == nil {
		t.Errorf("a client without a certificate: %v, %v", c, s)
	}
	old := one.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if c, s := shake(t, old, two); c == nil || s == nil {
		t.Errorf("TLS 1.2: %v, %v", c, s)
	}
	if _, err := backbone.ClusterTLS(""); !errors.Is(err, backbone.ErrInvalid) {
		t.Errorf("no secret: %v", err)
	}
}

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, cert: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// config makes a certificate of a node and returns what is made of its files.
func (a *authority) config(t *testing.T, usages ...x509.ExtKeyUsage) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"some.name"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: usages}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", der)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", private)
	c, err := backbone.ClusterTLSFiles(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), a.file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhoHasACertificateOfTheClustersAuthorityIsBelieved(t *testing.T) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	ours, theirs := newAuthority(t), newAuthority(t)
	one, two := ours.config(t, both...), ours.config(t, both...)
	if c, s := shake(t, one, two); c != nil || s != nil {
		t.Errorf("of one authority: %v, %v", c, s)
	}
	if c, s := shake(t, one, theirs.config(t, both...)); c == nil || s == nil {
		t.Errorf("of two authorities: %v, %v", c, s)
	}
	careless := theirs.config(t, both...)
	careless.VerifyConnection = nil
	if c, s := shake(t, careless, one); c == nil || s == nil {
		t.Errorf("a careless client of another authority: %v, %v", c, s)
	}
	if c, s := shake(t, ours.config(t, x509.ExtKeyUsageClientAuth), one); c == nil || s == nil {
		t.Errorf("a certificate for clients only: %v, %v", c, s)
	}
	if _, err := backbone.ClusterTLSFiles("none", "none", ours.file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no files: %v", err)
	}
}

func TestNodesWithCertificatesAreACluster(t *testing.T) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	ours := newAuthority(t)
	c := newCluster(t, 2)
	c.secret = ""
	c.tls = func() *tls.Config { return ours.config(t, both...) }
	nodes := c.start(0, 1)
	want := fill(t, nodes[0], "s1", 3, 2)
	wantLogSoon(t, nodes[1], "s1", want)
}

func TestServersElsewhereAreReachedOverTLS(t *testing.T) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	ours := newAuthority(t)
	serving := ours.config(t, both...)
	serving.VerifyConnection, serving.InsecureSkipVerify = nil, false
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), TLS: true, TLSVerify: true, TLSConfig: serving, TLSTimeout: 10})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	own := ours.config(t, both...)
	own.InsecureSkipVerify, own.VerifyConnection, own.ServerName = false, nil, "some.name"
	b := open(t, backbone.Options{NatsURL: s.ClientURL(), NatsTLS: own})
	wantLog(t, b, "s1", 0, fill(t, b, "s1", 3, 2))
	if b, err := backbone.Open(t.Context(), backbone.Options{Node: "n2", NatsURL: s.ClientURL(), NatsTLS: &tls.Config{MinVersion: tls.VersionTLS13}}); err == nil {
		t.Errorf("without the authority: %v", b.Close())
	}
}
