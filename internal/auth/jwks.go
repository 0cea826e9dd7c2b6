package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/connections"
)

// JWKSOptions tune a JWKS. Zero values mean the defaults, but for URL.
type JWKSOptions struct {
	// URL is where the keys are, as RFC 7517 has them.
	URL string
	// Refresh is how often they are fetched. Default 15 min.
	Refresh time.Duration
	// Unknown is how often at most they are fetched because a token names a key
	// that isn't among them. Default 10 s.
	Unknown time.Duration
	// Timeout bounds one fetch. Default 5 s.
	Timeout time.Duration
	Logger  zerolog.Logger
}

// A JWKS is a set of public keys that an identity provider publishes. It is
// fetched now and then, and when a token names a key that is not among them: a
// new one is in use before everybody has heard of it. While it can't be fetched
// the keys are those of the last time.
type JWKS struct {
	opts   JWKSOptions
	client *http.Client
	end    context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	keys     []verificationKey // guarded by mu; replaced, not changed
	fetched  bool              // guarded by mu
	tried    time.Time         // guarded by mu
	fetching chan struct{}     // guarded by mu: closed when the fetch that runs is over; nil while none does
	failed   bool              // guarded by mu: that it can't be fetched was logged
}

// The bounds on what is fetched.
const (
	maxJWKSBytes = 1 << 20
	maxJWKSKeys  = 100
)

// errKeysAway says that no keys were fetched yet.
var errKeysAway = errors.New("the keys that verify tokens could not be fetched yet")

// OpenJWKS returns a JWKS that is fetched in the background, and waits for the
// first time, which may fail. Close ends it.
func OpenJWKS(ctx context.Context, o JWKSOptions) (*JWKS, error) {
	if err := CheckJWKSURL(o.URL); err != nil {
		return nil, err
	}
	o.Refresh = cmp.Or(o.Refresh, 15*time.Minute)
	o.Unknown = cmp.Or(o.Unknown, 10*time.Second)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	j := &JWKS{opts: o, client: jwksClient(o.Timeout)}
	run, end := context.WithCancel(context.Background())
	j.end = end
	j.fetch(ctx)
	j.done.Go(func() { j.run(run) })
	return j, nil
}

// CheckJWKSURL says what is wrong with a URL. Over plain HTTP anybody on the way
// could give this server keys of their own.
func CheckJWKSURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return errors.New("it must be a URL such as https://login.example.com/.well-known/jwks.json, without a user name")
	}
	ip, ipErr := netip.ParseAddr(u.Hostname())
	local := u.Hostname() == "localhost" || ipErr == nil && ip.IsLoopback()
	if u.Scheme != "https" && !(u.Scheme == "http" && local) {
		return errors.New("it must begin with https://; http:// is only for this machine")
	}
	return nil
}

// jwksClient follows no redirect to another host, and reaches no address by which
// clouds hand out credentials: what a name resolves to is not the operator's to
// say.
func jwksClient(timeout time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: timeout, Control: connections.Guard}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			MaxIdleConns: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
				return errors.New("it redirects to another host")
			}
			return nil
		},
	}
}

// Close ends the JWKS's goroutine. The keys stay.
func (j *JWKS) Close() {
	j.end()
	j.done.Wait()
	j.client.CloseIdleConnections()
}

func (j *JWKS) run(ctx context.Context) {
	timer := time.NewTimer(j.opts.Refresh)
	defer timer.Stop()
	for {
		j.mu.Lock()
		wait := j.opts.Refresh
		if j.failed {
			wait = min(wait, j.opts.Unknown)
		}
		j.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
			j.fetch(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// find returns the keys that a token that names id may be signed with. Where id
// is not among them they are fetched again, if that wasn't done just now.
func (j *JWKS) find(id string) ([]verificationKey, error) {
	keys, fetched, due := j.state(id)
	if due {
		ctx, cancel := context.WithTimeout(context.Background(), j.opts.Timeout)
		j.fetch(ctx)
		cancel()
		keys, fetched, _ = j.state(id)
	}
	if !fetched {
		return nil, errKeysAway
	}
	return keys, nil
}

// state returns the keys, and whether it is time to look for one of this id.
func (j *JWKS) state(id string) (keys []verificationKey, fetched, due bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	known := slices.ContainsFunc(j.keys, func(k verificationKey) bool { return k.id == id })
	due = (!j.fetched || id != "" && !known) && (j.fetching != nil || time.Since(j.tried) >= j.opts.Unknown)
	return j.keys, j.fetched, due
}

// fetch fetches the keys, or waits for the fetch that runs.
func (j *JWKS) fetch(ctx context.Context) {
	j.mu.Lock()
	if running := j.fetching; running != nil {
		j.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
		}
		return
	}
	over := make(chan struct{})
	j.fetching, j.tried = over, time.Now()
	j.mu.Unlock()
	keys, err := j.get(ctx)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fetching = nil
	close(over)
	switch {
	case err == nil:
		if j.failed {
			j.opts.Logger.Info().Msg("the keys that verify tokens are fetched again")
		}
		j.keys, j.fetched, j.failed = keys, true, false
	case !j.failed && !errors.Is(err, context.Canceled):
		j.failed = true
		j.opts.Logger.Warn().Err(err).Int("keys", len(j.keys)).Msg("the keys that verify tokens can't be fetched; those of the last time go on working")
	}
}

func (j *JWKS) get(ctx context.Context) ([]verificationKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.opts.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := j.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was read
	b, err := io.ReadAll(io.LimitReader(res.Body, maxJWKSBytes+1))
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the answer is %d", res.StatusCode)
	case len(b) > maxJWKSBytes:
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxJWKSBytes)
	}
	return parseJWKS(b)
}

// parseJWKS reads the keys of a set that are for signatures and of a kind that is
// known here; the others are none of ours. A set without any is an error: keys
// that worked are not given up for it.
func parseJWKS(b []byte) ([]verificationKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("the answer is no set of keys: %w", err)
	}
	if len(set.Keys) > maxJWKSKeys {
		return nil, fmt.Errorf("the set has %d keys, more than the limit of %d", len(set.Keys), maxJWKSKeys)
	}
	var keys []verificationKey
	for _, raw := range set.Keys {
		var m jwkset.JWKMarshal
		// A shared secret has no business in what is published.
		if json.Unmarshal(raw, &m) != nil || m.KTY == jwkset.KtyOct || m.USE != "" && m.USE != jwkset.UseSig || len(m.KID) > maxNameBytes {
			continue
		}
		// Not by certificates: what x5u names is never fetched.
		m.X5C, m.X5T, m.X5TS256, m.X5U = nil, "", "", ""
		k, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipKeyOps: true})
		if err != nil {
			continue
		}
		algs, err := algorithms(k.Key())
		if err != nil {
			continue
		}
		if alg := m.ALG.String(); alg != "" {
			if !slices.Contains(algs, alg) {
				continue
			}
			algs = []string{alg}
		}
		keys = append(keys, verificationKey{m.KID, k.Key(), algs})
	}
	if len(keys) == 0 {
		return nil, errors.New("the set has no key for signatures of RSA, ECDSA or Ed25519")
	}
	return keys, nil
}
