package backbone

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"
)

// clusterHost is the name in the certificates that ClusterTLS makes. Nodes are
// asked for it whatever their address is: what counts is that they know the
// secret.
const clusterHost = "node.athena.internal"

// derive makes a secret of its own for one purpose out of the shared one.
func derive(secret, purpose string, bytes int) ([]byte, error) {
	if secret == "" {
		return nil, fmt.Errorf("%w: the cluster's secret is empty", ErrInvalid)
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "athena cluster, "+purpose, bytes)
	if err != nil {
		return nil, fmt.Errorf("derive the %s from the cluster's secret: %w", purpose, err)
	}
	return key, nil
}

// routePassword is what nodes show each other beside their certificates.
func routePassword(secret string) (string, error) {
	if secret == "" {
		return "", nil
	}
	key, err := derive(secret, "password of routes", 32)
	return hex.EncodeToString(key), err
}

// ClusterTLS returns mutual TLS, for both sides of a route, among those who
// know secret. The key of the certificate authority is derived from it, so each
// node makes the same authority, and a new certificate for itself at each
// start: there is nothing to hand out but the secret, and nothing expires.
// Whoever knows the secret is a member.
func ClusterTLS(secret string) (*tls.Config, error) {
	seed, err := derive(secret, "key of its certificate authority", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	caKey := ed25519.NewKeyFromSeed(seed)
	// Fixed, so that every node makes the same certificate, and wide, so that
	// no node's clock decides: a certificate is as good as the secret.
	from, until := time.Unix(0, 0).UTC(), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Athena cluster"},
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificate authority: %w", err)
	}
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		return nil, fmt.Errorf("make the cluster's certificate authority: %w", err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make this node's key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make this node's certificate: %w", err)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "Athena node"},
		DNSNames:     []string{clusterHost},
		NotBefore:    from,
		NotAfter:     until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, public, caKey)
	if err != nil {
		return nil, fmt.Errorf("make this node's certificate: %w", err)
	}
	authorities := x509.NewCertPool()
	authorities.AddCert(ca)
	c := mutualTLS(tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: private}, authorities)
	c.ServerName = clusterHost
	return c, nil
}

// ClusterTLSFiles returns mutual TLS, for both sides of a route, from files in
// PEM: a certificate, its key, and the authority that has signed the
// certificates of all nodes. Any certificate of that authority that is good for
// clients and servers makes its holder a member, whatever names are in it,
// since nodes learn of each other by addresses, which certificates seldom
// have: so it should be an authority of the cluster's own.
func ClusterTLSFiles(cert, key, ca string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate of this node: %w", err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("certificate authority of the cluster: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authority of the cluster: %w: %s has no certificate in PEM", ErrInvalid, ca)
	}
	c := mutualTLS(pair, authorities)
	c.InsecureSkipVerify = true // of the name only: VerifyConnection does the rest
	c.VerifyConnection = func(s tls.ConnectionState) error { return verifyMember(s, authorities) }
	return c, nil
}

func mutualTLS(own tls.Certificate, authorities *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{own},
		RootCAs:      authorities,
		ClientCAs:    authorities,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}
}

// verifyMember checks the other side's certificate but for its name. It is
// called on both sides.
func verifyMember(s tls.ConnectionState, authorities *x509.CertPool) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the other side showed no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots: authorities, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage},
		}); err != nil {
			return err
		}
	}
	return nil
}
