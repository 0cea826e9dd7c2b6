package certificates_test

import (
	"context"
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
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/internal/certificates"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issue writes a self-signed certificate for a name, good for this long, to
// NAME.crt and NAME.key.
func issue(t *testing.T, dir, file, name string, life time.Duration) certificates.Pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := certificates.Pair{Cert: filepath.Join(dir, file+".crt"), Key: filepath.Join(dir, file+".key")}
	for path, block := range map[string]*pem.Block{p.Cert: {Type: "CERTIFICATE", Bytes: der}, p.Key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// served is the name in the certificate that a client gets who asks for name.
func served(t *testing.T, f *certificates.Files, name string) string {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(server, certificates.Config(f, nil)).Handshake(); server.Close() }()
	c := tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := errors.Join(c.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestAClientGetsTheCertificateOfTheNameThatItAsksFor(t *testing.T) {
	dir := t.TempDir()
	f, err := certificates.Load([]certificates.Pair{issue(t, dir, "a", "a.example", time.Hour), issue(t, dir, "b", "b.example", 2*time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a.example": "a.example", "b.example": "b.example", "c.example": "a.example", "": "a.example"} {
		if got := served(t, f, name); got != want {
			t.Errorf("%q gets %s, want %s", name, got, want)
		}
	}
	if left := time.Until(f.Expires()); left > time.Hour || left < 50*time.Minute {
		t.Errorf("the first ends in %v", left)
	}
}

func TestAChangedCertificateIsTakenAndABadOneIsNot(t *testing.T) {
	dir := t.TempDir()
	p := issue(t, dir, "a", "one", time.Hour)
	f, err := certificates.Load([]certificates.Pair{p})
	if err != nil {
		t.Fatal(err)
	}
	reload := func(what string, changed bool, says string) {
		t.Helper()
		got, err := f.Reload()
		if got != changed || (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: changed %v, %v; want %v, %q", what, got, err, changed, says)
		}
	}
	reload("the same", false, "")
	key, err := os.ReadFile(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	issue(t, dir, "a", "two", time.Hour)
	newKey, err := os.ReadFile(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	// Half of it is there: the certificate without its key.
	if err := os.WriteFile(p.Key, key, 0o600); err != nil {
		t.Fatal(err)
	}
	reload("a key of another certificate", true, "private key does not match")
	reload("told once", false, "")
	if got := served(t, f, "x"); got != "one" {
		t.Errorf("served %s, want the old one", got)
	}
	if err := os.WriteFile(p.Key, newKey, 0o600); err != nil {
		t.Fatal(err)
	}
	reload("the key has come", true, "")
	if got := served(t, f, "x"); got != "two" {
		t.Errorf("served %s, want the new one", got)
	}
	issue(t, dir, "a", "three", -time.Hour)
	reload("one that has ended", true, "ended on")
	if err := os.Remove(p.Cert); err != nil {
		t.Fatal(err)
	}
	reload("none", true, "no such file")
	if got := served(t, f, "x"); got != "two" {
		t.Errorf("served %s, want the last good one", got)
	}
}

func TestFilesAreWatched(t *testing.T) {
	dir := t.TempDir()
	f, err := certificates.Load([]certificates.Pair{issue(t, dir, "a", "one", time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan error, 10), make(chan struct{})
	go func() { defer close(done); f.Watch(ctx, time.Millisecond, func(err error) { told <- err }) }()
	issue(t, dir, "a", "two", time.Hour)
	for err := <-told; err != nil; err = <-told { // it may have seen a half
	}
	if got := served(t, f, "x"); got != "two" {
		t.Errorf("served %s", got)
	}
	cancel()
	<-done
}

func TestOldVersionsOfTLSAreRefused(t *testing.T) {
	f, err := certificates.Load([]certificates.Pair{issue(t, t.TempDir(), "a", "one", time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	client, server := net.Pipe()
	defer client.Close()
	go func() { _ = tls.Server(server, certificates.Config(f, nil)).Handshake(); server.Close() }()
	if err := tls.Client(client, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake(); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
}

func TestFilesThatCantBeReadAreRefused(t *testing.T) {
	if _, err := certificates.Load(nil); err == nil {
		t.Error("no certificate at all was enough")
	}
	if _, err := certificates.Load([]certificates.Pair{{Cert: "nowhere.crt", Key: "nowhere.key"}}); err == nil || !strings.Contains(err.Error(), "nowhere.key") {
		t.Errorf("got %v", err)
	}
}
