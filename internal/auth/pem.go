package auth

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ParsePublicKeys reads the public keys of a file in PEM: several where they are
// being replaced. Certificates are taken for their keys.
func ParsePublicKeys(b []byte) ([]any, error) {
	var keys []any
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		var key any
		var err error
		switch block.Type {
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var c *x509.Certificate
			if c, err = x509.ParseCertificate(block.Bytes); err == nil {
				key = c.PublicKey
			}
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			return nil, errors.New("it holds a private key, which this server must not have; give it the public one (openssl pkey -pubout)")
		default:
			err = fmt.Errorf("it holds a %.40q", block.Type)
		}
		if err == nil {
			_, err = algorithms(key)
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no public key in PEM")
	}
	return keys, nil
}
