package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const (
	// maxAnswerBytes bounds an answer that is no stream.
	maxAnswerBytes = 1 << 20
	// startPatience is how long a request for an analysis is repeated.
	startPatience = 20 * time.Second
	// requestTimeout bounds one request that is no stream.
	requestTimeout = 60 * time.Second
)

// A client speaks the protocol with one server, over plain HTTP and SSE.
// What it is told it trusts no further than the protocol lets it check. It may
// be used by several goroutines at once.
type client struct {
	base  *url.URL
	token string // "" for none
	http  *http.Client
}

// newClient returns a client of the server at base. Redirects are not
// followed: a POST that became a GET, or a token that went elsewhere, would be
// worse than an error.
func newClient(base *url.URL, token string, transport http.RoundTripper) *client {
	return &client{base, token, &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// A lostError is a failure that another try may mend: a connection that broke,
// or a server that is busy, restarting or behind a proxy that can't reach it.
type lostError struct {
	err error
	// after is how long the server said to wait, 0 if it didn't.
	after time.Duration
}

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// negotiate reports whether an Athena that takes the client's token answers.
func (c *client) negotiate(ctx context.Context) error {
	res, err := c.do(ctx, http.MethodPost, nil, "", nil, "v1", "negotiate") //nolint:bodyclose // discard closes it
	if err != nil {
		return err
	}
	defer discard(res.Body)
	var n protocol.Negotiation
	if err := readJSON(res, &n); err != nil {
		return err
	}
	if n.Protocol != protocol.Version {
		return fmt.Errorf("the server speaks %.40q, and not %q", n.Protocol, protocol.Version)
	}
	return nil
}

// start starts an analysis and returns its stream. It repeats the request
// where that may help; the Idempotency-Key makes it one analysis all the same.
func (c *client) start(ctx context.Context, req *protocol.Request, key string) (id string, err error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // \u003c would make code six times as large
	if err := enc.Encode(req); err != nil {
		return "", err
	}
	header := http.Header{"Idempotency-Key": {key}}
	retry := newRetry(startPatience)
	for {
		id, err := c.startOnce(ctx, body.Bytes(), header)
		lost, ok := errors.AsType[*lostError](err)
		if op, dialled := errors.AsType[*net.OpError](err); !ok || ctx.Err() != nil || dialled && op.Op == "dial" {
			return id, err // nobody is there: more likely a wrong address than a restart
		}
		if !retry.wait(ctx, lost.after) {
			return "", err
		}
	}
}

func (c *client) startOnce(ctx context.Context, body []byte, header http.Header) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.do(ctx, http.MethodPost, body, "application/json", header, "v1", "analyses") //nolint:bodyclose // discard closes it
	if err != nil {
		return "", err
	}
	defer discard(res.Body)
	var m protocol.Metadata
	if err := readJSON(res, &m); err != nil {
		return "", err
	}
	if !protocol.ValidStreamID(m.ID) {
		return "", fmt.Errorf("the server named no stream but %.60q", m.ID)
	}
	return m.ID, nil
}

// cancel asks the server to end an analysis; its stream tells when it has.
func (c *client) cancel(ctx context.Context, id string) error {
	retry := newRetry(startPatience)
	for {
		err := c.cancelOnce(ctx, id)
		lost, ok := errors.AsType[*lostError](err)
		if !ok || ctx.Err() != nil || !retry.wait(ctx, lost.after) {
			return err
		}
	}
}

func (c *client) cancelOnce(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.do(ctx, http.MethodDelete, nil, "application/json", nil, "v1", "streams", id) //nolint:bodyclose // discard closes it
	if err != nil {
		return err
	}
	discard(res.Body)
	return nil
}

// do makes a request. An answer that is no success is an error: a
// *protocol.Error where the server is an Athena, inside a *lostError where
// another try may help. The caller closes the body of the rest.
func (c *client) do(ctx context.Context, method string, body []byte, accept string, header http.Header, path ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path...).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Accept", cmp.Or(accept, "application/json"))
	req.Header.Set("User-Agent", "athena/"+buildVersion())
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the address is the caller's to name
		}
		return nil, &lostError{err: err}
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer discard(res.Body)
	return nil, refusal(res)
}

// refusal is the error that an answer stands for.
func refusal(res *http.Response) error {
	var refused error
	again := false
	e := new(protocol.Error)
	if mediaType(res) == "application/problem+json" && readJSON(res, e) == nil && e.Code != "" {
		e.Status = res.StatusCode
		refused, again = e, e.Retryable
	} else {
		what := mediaType(res)
		if to := res.Header.Get("Location"); to != "" && res.StatusCode < 400 {
			what = "a redirect to " + to
		}
		refused = fmt.Errorf("the answer is %d %s (%s), not Athena's", res.StatusCode, http.StatusText(res.StatusCode), cmp.Or(what, "without a type"))
		switch res.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			again = true
		}
	}
	if !again {
		return refused
	}
	return &lostError{refused, max(retryAfter(res), time.Duration(max(0, e.RetryAfterMS))*time.Millisecond)}
}

// retryAfter reads the header, which is seconds or a date (RFC 9110, section
// 10.2.3).
func retryAfter(res *http.Response) time.Duration {
	text := res.Header.Get("Retry-After")
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

func mediaType(res *http.Response) string {
	t, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return strings.ToLower(t)
}

func readJSON(res *http.Response, v any) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes+1))
	if err != nil {
		return &lostError{err: fmt.Errorf("the answer broke off: %w", err)}
	}
	if len(b) > maxAnswerBytes {
		return fmt.Errorf("the answer is larger than %d bytes", maxAnswerBytes)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("the answer is not Athena's: %w", err)
	}
	return nil
}

// discard closes a body so that its connection can be used again, if what is
// left of it is short.
func discard(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}
