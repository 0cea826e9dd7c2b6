// Package client is a Go client of an Athena server. It starts analyses and
// follows their streams over whatever reaches the server: one WebSocket for all
// streams, else an event stream (SSE) each, else long-polls. A connection that
// breaks is replaced, and the stream goes on after the last event that was
// received; what is received is checked against the protocol's promises P1, P4
// and P5.
//
//	c, err := client.New(client.Config{URL: "https://athena.example", Token: client.StaticToken(key)})
//	…
//	defer c.Close()
//	run, err := c.Analyze(ctx, &protocol.Request{Code: code, Analysis: protocol.AnalysisSecurity})
//	…
//	for event, err := range run.Events(ctx) {
//		…
//	}
//	fmt.Println(run.Transcript().Text())
//
// What a server says is trusted no further than the protocol lets it be
// checked. The package needs nothing of the server's.
package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const (
	// DefaultStartPatience is how long a request for an analysis is repeated.
	DefaultStartPatience = 20 * time.Second
	// DefaultPatience is how long a stream is asked for without success until
	// its run gives up.
	DefaultPatience = 60 * time.Second
	// DefaultProbeTimeout is how long a transport has to prove itself with its
	// welcome, where the server doesn't say.
	DefaultProbeTimeout = 3 * time.Second
	// DefaultTryBetter is the time from one try of a better transport to the
	// next.
	DefaultTryBetter = 5 * time.Minute
)

// A Config says which server a Client speaks with, and how. Only URL is
// required.
type Config struct {
	// URL is the server's address, such as https://athena.example/path,
	// without credentials, query and fragment.
	URL string
	// Token gives the credential; nil for none.
	Token TokenFunc
	// Transports are the names of those to try, in this order, without asking
	// the server which it has; empty: what the server offers.
	Transports []string
	// RoundTripper makes the requests; nil: an http.Transport with timeouts
	// that heeds HTTP_PROXY and the like. A WebSocket needs one that yields
	// HTTP/1.1 upgrades, as http.Transport does.
	RoundTripper http.RoundTripper
	// UserAgent is the header's value; "" for athena-client.
	UserAgent string
	// StartPatience, Patience and TryBetter are the defaults above where zero.
	StartPatience, Patience, TryBetter time.Duration
}

// A Client speaks with one server. It may be used by several goroutines at
// once.
type Client struct {
	// Set by New, then read-only.
	config Config
	base   *url.URL
	http   *http.Client
	own    *http.Transport // nil where the caller gave one
	tokens *tokens
	ctx    context.Context // until Close
	cancel context.CancelFunc

	// Held, by sending into it, by the one who connects.
	dialling chan struct{}

	mu        sync.Mutex
	offers    []string      // guarded by mu: transports that the server has, nil before it was asked
	current   int           // guarded by mu: of offers, the one that works
	better    time.Time     // guarded by mu: when one before current is worth another try
	probe     time.Duration // guarded by mu
	socket    *socket       // guarded by mu: the newest, nil before the first
	dialErr   error         // guarded by mu: why the newest try to connect failed
	dialErrAt time.Time     // guarded by mu
}

// New returns a client. It connects when it is first needed.
func New(config Config) (*Client, error) {
	base, err := url.Parse(config.URL)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		return nil, errors.New("the server's URL must be an address such as http://127.0.0.1:8080")
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("the server's URL must not hold credentials, a query or a fragment")
	}
	for _, name := range config.Transports {
		if !slices.Contains(transports, name) {
			return nil, fmt.Errorf("there is no transport %q; there are %s", name, strings.Join(transports, ", "))
		}
	}
	config.StartPatience = cmp.Or(config.StartPatience, DefaultStartPatience)
	config.Patience = cmp.Or(config.Patience, DefaultPatience)
	config.TryBetter = cmp.Or(config.TryBetter, DefaultTryBetter)
	config.UserAgent = cmp.Or(config.UserAgent, "athena-client")
	c := &Client{config: config, base: base, tokens: &tokens{get: config.Token}, dialling: make(chan struct{}, 1), probe: DefaultProbeTimeout}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if len(config.Transports) > 0 {
		c.offers = slices.Clone(config.Transports)
	}
	roundTripper := config.RoundTripper
	if roundTripper == nil {
		c.own = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment, // which leaves this machine out
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: longestPoll + 20*time.Second,
			MaxIdleConnsPerHost:   4,
			IdleConnTimeout:       30 * time.Second,
			ForceAttemptHTTP2:     true,
		}
		roundTripper = c.own
	}
	// Redirects are not followed: a POST that became a GET, or a token that
	// went elsewhere, would be worse than an error.
	c.http = &http.Client{Transport: roundTripper,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// Close closes the client's connections and waits until what it runs has
// ended. Runs that go on end with an error; the analyses don't end.
func (c *Client) Close() {
	c.cancel()
	c.dialling <- struct{}{} // who connects gives up
	<-c.dialling
	c.mu.Lock()
	s := c.socket
	c.mu.Unlock()
	if s != nil {
		<-s.done
	}
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// Analyze starts an analysis. It repeats the request where that may help; an
// Idempotency-Key makes it one analysis all the same. A server that answers
// with an error gives a *protocol.Error.
func (c *Client) Analyze(ctx context.Context, req *protocol.Request) (*Run, error) {
	id, err := c.start(ctx, req, newKey())
	if err != nil {
		return nil, plain(err)
	}
	return c.Watch(id, nil), nil
}

// Watch returns a run of a stream that exists, from what seen knows of it on,
// which the run keeps; nil for from the beginning.
func (c *Client) Watch(id string, seen *protocol.Transcript) *Run {
	if seen == nil {
		seen = new(protocol.Transcript)
	}
	return &Run{client: c, id: id, seen: seen}
}

// Cancel asks the server to end an analysis; its stream tells when it has.
func (c *Client) Cancel(ctx context.Context, id string) error {
	retry := newRetry(c.config.StartPatience)
	for {
		err := c.CancelOnce(ctx, id)
		lost, ok := errors.AsType[*lostError](err)
		if !ok || ctx.Err() != nil || !retry.wait(ctx, lost.after) {
			return plain(err)
		}
	}
}

// Negotiate asks which transports the server has. It reports whether an Athena
// that takes the client's token answers.
func (c *Client) Negotiate(ctx context.Context) (*protocol.Negotiation, error) {
	n, err := c.negotiate(ctx)
	return n, plain(err)
}

func (c *Client) negotiate(ctx context.Context) (*protocol.Negotiation, error) {
	var n protocol.Negotiation
	if err := c.ask(ctx, http.MethodPost, &n, "v1", "negotiate"); err != nil {
		return nil, err
	}
	if n.Protocol != protocol.Version {
		return nil, fmt.Errorf("the server speaks %.40q, and not %q", n.Protocol, protocol.Version)
	}
	return &n, nil
}

// Metadata tells of a stream what its events say in short.
func (c *Client) Metadata(ctx context.Context, id string) (*protocol.Metadata, error) {
	var m protocol.Metadata
	if err := c.ask(ctx, http.MethodGet, &m, "v1", "streams", id); err != nil {
		return nil, plain(err)
	}
	return &m, nil
}

// A Provider is what a request needs to know of an entry of GET /v1/providers.
type Provider struct {
	Name   string   `json:"name"`
	State  string   `json:"state"` // ok, degraded or down
	Models []string `json:"models"`
	// JSON is the entry with all that the server tells.
	JSON json.RawMessage `json:"-"`
}

// Providers lists the providers that an analysis may name.
func (c *Client) Providers(ctx context.Context) ([]Provider, error) {
	var answer struct {
		Providers []json.RawMessage `json:"providers"`
	}
	if err := c.ask(ctx, http.MethodGet, &answer, "v1", "providers"); err != nil {
		return nil, plain(err)
	}
	providers := make([]Provider, len(answer.Providers))
	for i, entry := range answer.Providers {
		if err := json.Unmarshal(entry, &providers[i]); err != nil {
			return nil, fmt.Errorf("the answer is not Athena's: %w", err)
		}
		providers[i].JSON = entry
	}
	return providers, nil
}
