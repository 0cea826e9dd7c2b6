// Package certificates has the server's certificates for its clients: from
// files that are read again when they change, or from an authority by ACME.
//
// It promises that a server that once had a good certificate goes on with it,
// whatever becomes of the files: a pair that can't be used is told and not
// taken.
package certificates

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A Pair names the files of a certificate, with those between it and its
// authority, and of its key, in PEM.
type Pair struct{ Cert, Key string }

// Files are certificates from files. Methods may be called concurrently.
type Files struct {
	pairs []Pair
	now   atomic.Pointer[[]tls.Certificate]

	mu   sync.Mutex // one reads at a time
	seen [sha256.Size]byte
}

// Load reads the pairs, of which there must be one at least.
func Load(pairs []Pair) (*Files, error) {
	if len(pairs) == 0 {
		return nil, errors.New("there is no certificate")
	}
	f := &Files{pairs: pairs}
	if _, err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Reload reads the files again, and takes all of them or none. changed says
// that they are not what they were when they were last read; an error that they
// can't be used, and is returned once for each state of the files.
func (f *Files) Reload() (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := sha256.New()
	certs := make([]tls.Certificate, 0, len(f.pairs))
	for _, p := range f.pairs {
		// By content, since what a link points to changes without the link, as
		// with mounted secrets.
		cert, certErr := os.ReadFile(p.Cert)
		key, keyErr := os.ReadFile(p.Key)
		for _, part := range []any{certErr, keyErr, len(cert), cert, len(key), key} {
			_, _ = fmt.Fprintf(h, "%v ", part) // a hash takes everything
		}
		c, pairErr := tls.X509KeyPair(cert, key)
		switch readErr := errors.Join(certErr, keyErr); {
		case readErr != nil:
			err = errors.Join(err, readErr)
		case pairErr != nil:
			err = errors.Join(err, fmt.Errorf("%s and %s: %w", p.Cert, p.Key, pairErr))
		case time.Now().After(c.Leaf.NotAfter):
			err = errors.Join(err, fmt.Errorf("%s ended on %s", p.Cert, c.Leaf.NotAfter.UTC().Format(time.DateOnly)))
		}
		certs = append(certs, c)
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	if bytes.Equal(sum[:], f.seen[:]) {
		return false, nil
	}
	f.seen = sum
	if err != nil {
		return true, err
	}
	f.now.Store(&certs)
	return true, nil
}

// Get is for tls.Config.GetCertificate: the first certificate that is for what
// the client asks for, or else the first.
func (f *Files) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certs := *f.now.Load()
	for i := range certs {
		if hello.SupportsCertificate(&certs[i]) == nil {
			return &certs[i], nil
		}
	}
	return &certs[0], nil
}

// Expires is when the first of the certificates ends.
func (f *Files) Expires() time.Time {
	var first time.Time
	for _, c := range *f.now.Load() {
		if first.IsZero() || c.Leaf.NotAfter.Before(first) {
			first = c.Leaf.NotAfter
		}
	}
	return first
}

// Watch reads the files again at every tick until ctx ends, and tells of what
// changed. told is called by this goroutine only.
func (f *Files) Watch(ctx context.Context, every time.Duration, told func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if changed, err := f.Reload(); changed {
				told(err)
			}
		}
	}
}
