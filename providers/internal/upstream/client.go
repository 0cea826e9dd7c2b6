package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

const (
	// maxErrorBytes bounds how much is read of an answer that is an error.
	maxErrorBytes = 64 << 10
	// errorWait bounds how long it is waited for.
	errorWait = 5 * time.Second
	// maxModelsBytes bounds a list of models; OpenRouter's has 400 KiB.
	maxModelsBytes = 8 << 20
	// modelsWait bounds the calls that are no analyses.
	modelsWait = 15 * time.Second
)

// A Dialect is what a Client has to know of the wire's HTTP side.
type Dialect struct {
	// Name is the provider's name where the configuration has none.
	Name string
	// BaseURL is the address where the configuration has none.
	BaseURL string
	// Path turns the base URL's path into the one that resources are under.
	Path func(path string) string
	// Models is the path of the list of models, below the base.
	Models string
	// Header is sent with each call.
	Header http.Header
	// Authorize puts the key into a call.
	Authorize func(h http.Header, key string)
	// RequestID is the header in which the provider names a call.
	RequestID string
	// Limits reads the rate limits out of an answer's headers.
	Limits func(h http.Header, now time.Time) (providers.RateLimits, bool)
}

// A Client calls one provider. Its methods may be called concurrently.
type Client struct {
	name    string
	dialect Dialect
	base    *url.URL
	keys    *secrets.Ring
	// needsKey says that no call is made without a key.
	needsKey bool
	header   http.Header
	// secrets must not stand in any error, beside the key of the call.
	secrets []string
	http    http.Client
	limits  atomic.Pointer[providers.RateLimits]
}

// NewClient returns a client for the provider that cfg describes. Its errors
// name the field of cfg that is wrong, and don't repeat what may be secret.
func NewClient(cfg providers.Config, d Dialect) (*Client, error) {
	c := &Client{name: cfg.Name, dialect: d, keys: cfg.Keys, needsKey: cfg.NeedsKey, header: d.Header.Clone()}
	if c.name == "" {
		c.name = d.Name
	}
	raw := strings.TrimSpace(cfg.BaseURL)
	if raw == "" {
		raw = d.BaseURL
	}
	base, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("base_url is not a URL")
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return nil, errors.New("base_url must begin with http:// or https:// and a host")
	case base.User != nil:
		return nil, errors.New("base_url must not contain a user or password; put them into api_key or headers")
	}
	base.Fragment = ""
	base.Path = d.Path(strings.TrimRight(base.Path, "/"))
	base.RawPath = ""
	c.base = base
	if err := c.ownKeys(strings.TrimSpace(cfg.APIKey)); err != nil {
		return nil, err
	}
	if c.header == nil {
		c.header = make(http.Header)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Headers)) {
		value := cfg.Headers[name]
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) ||
			strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return nil, errors.New("headers: " + name + " is not a valid header")
		}
		c.header.Set(name, value)
		c.addSecret(value)
	}
	for _, values := range base.Query() {
		for _, v := range values {
			c.addSecret(v)
		}
	}
	hc := cfg.Client
	if hc == nil {
		hc = http.DefaultClient
	}
	if hc.Timeout != 0 {
		return nil, errors.New("client: a Timeout would cut long answers")
	}
	c.http = *hc
	// net/http drops Authorization when it follows a redirect to another host,
	// but neither x-api-key nor headers of the configuration, nor the code in
	// the body. No provider redirects its API.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

// addSecret notes a value that errors must not tell. Very short ones would
// take ordinary words out of messages.
func (c *Client) addSecret(s string) {
	if len(s) >= 6 {
		c.secrets = append(c.secrets, s)
	}
}

// Name is the provider's name.
func (c *Client) Name() string { return c.name }

// Host is the host that is called, without the port.
func (c *Client) Host() string { return c.base.Hostname() }

// RateLimits implements providers.RateLimiter.
func (c *Client) RateLimits() (providers.RateLimits, bool) {
	if l := c.limits.Load(); l != nil {
		return *l, true
	}
	return providers.RateLimits{}, false
}

// ValidateKey implements providers.KeyValidator.
func (c *Client) ValidateKey(ctx context.Context, key string) error {
	_, err := c.models(ctx, key)
	return err
}

func (c *Client) models(ctx context.Context, key string) ([]string, error) {
	ctx2, cancel := context.WithTimeout(ctx, modelsWait)
	defer cancel()
	req, err := c.request(ctx2, http.MethodGet, c.dialect.Models, key, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.callError(ctx, err, key)
	}
	if resp.StatusCode != http.StatusOK {
		err, _ := c.answerError(ctx, cancel, resp, "", key)
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxModelsBytes+1))
	if err != nil {
		return nil, c.callError(ctx, err, key)
	}
	if len(body) > maxModelsBytes || !protocol.ValidJSON(body) || !gjson.GetBytes(body, "data").IsArray() {
		return nil, protocol.Errorf(protocol.CodeInvalidResponse, "the list of models could not be understood").WithProvider(c.name)
	}
	ids := []string{}
	for _, m := range gjson.GetBytes(body, "data.#.id").Array() {
		ids = append(ids, m.String())
	}
	return ids, nil
}

func (c *Client) request(ctx context.Context, method, path, key string, body []byte) (*http.Request, error) {
	path, query, _ := strings.Cut(path, "?")
	u := *c.base
	u.Path += path
	if query != "" {
		u.RawQuery = strings.Trim(u.RawQuery+"&"+query, "&")
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, protocol.Errorf(protocol.CodeInternal, "the call to the provider could not be made").WithProvider(c.name)
	}
	if body == nil {
		req.Body, req.GetBody, req.ContentLength = nil, nil, 0
	}
	if key != "" {
		c.dialect.Authorize(req.Header, key)
	}
	for name, values := range c.header { // after the key: a proxy may want it elsewhere
		req.Header[name] = slices.Clone(values)
	}
	return req, nil
}

// noteLimits keeps what an answer says of the limits. They are those of the
// call's key: where nothing is left of them, and another key may be used, the
// provider as a whole is not used up.
func (c *Client) noteLimits(h http.Header, u secrets.Use) {
	now := time.Now()
	l, ok := c.dialect.Limits(h, now)
	if !ok {
		return
	}
	if c.keys.Len() > 1 {
		if l.RequestsRemaining == 0 {
			u.Spent(l.RequestsReset)
		}
		if l.TokensRemaining == 0 {
			u.Spent(l.TokensReset)
		}
		if (l.RequestsRemaining == 0 || l.TokensRemaining == 0) && c.keys.Wait() == 0 {
			return
		}
	}
	l.At = now
	c.limits.Store(&l)
}

// callError says why no answer came. key is the call's.
func (c *Client) callError(ctx context.Context, err error, key string) error {
	if ctx.Err() != nil {
		return contextError(ctx).WithProvider(c.name)
	}
	err = bare(err)
	code, what := protocol.CodeConnectionFailed, "the connection to the provider failed"
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		code, what = protocol.CodeTimeout, "the provider did not answer in time"
	}
	return c.scrub(protocol.Errorf(code, what+": %w", err), key)
}

// answerError reads an answer that is not what was asked for and says what it
// means. It closes the answer. failure is what the provider said, for what else
// its words may mean.
func (c *Client) answerError(ctx context.Context, cancel context.CancelFunc, resp *http.Response, model string, key string) (err error, failure Failure) { //nolint:revive,staticcheck // the error is what counts
	defer func() { _ = resp.Body.Close() }()
	late := time.AfterFunc(errorWait, cancel)
	defer late.Stop()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes)) // the status counts, whatever is lost of the text
	if ctx.Err() != nil {
		return contextError(ctx).WithProvider(c.name), Failure{}
	}
	failure = ParseFailure(resp.StatusCode, body)
	var e *protocol.Error
	switch {
	case resp.StatusCode == http.StatusOK && protocol.ValidJSON(body) && gjson.GetBytes(body, "error").Type != gjson.Null:
		failure = ParseFailure(0, body)
		e = failure.Error(model)
	case resp.StatusCode < 300:
		e = protocol.Errorf(protocol.CodeInvalidResponse, "the provider answered %d with %.100q instead of what was asked for",
			resp.StatusCode, resp.Header.Get("Content-Type"))
	case resp.StatusCode < 400:
		e = protocol.Errorf(protocol.CodeInvalidResponse, "the provider answered with a redirect (%d), which is not followed; set base_url to the address behind it", resp.StatusCode)
		e.Retryable = false
	default:
		e = failure.Error(model)
	}
	// Anthropic and OpenAI say so where they know better than the status.
	switch resp.Header.Get("X-Should-Retry") {
	case "false":
		e.Retryable = false
	case "true":
		e.Retryable = true
	}
	if wait := retryAfter(resp.Header, time.Now()); wait > 0 {
		failure.RetryAfter = wait
		if e.Retryable {
			e = e.WithRetryAfter(wait)
		}
	}
	return c.scrub(e, key), failure
}

func (c *Client) scrub(e *protocol.Error, key string) *protocol.Error {
	e = e.WithProvider(c.name)
	e.Detail = scrub(e.Detail, c.hidden(key))
	return e
}
