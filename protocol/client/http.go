package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
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
	maxAnswerBytes = 4 << 20
	// requestTimeout bounds one request that is no stream.
	requestTimeout = 60 * time.Second
)

// A lostError is a failure that another try may mend: a connection that broke,
// or a server that is busy, restarting or behind a proxy that can't reach it.
type lostError struct {
	err error
	// after is how long the server said to wait, 0 if it didn't.
	after time.Duration
}

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// A foreignError is an answer that no Athena gave: a proxy's, say.
type foreignError struct{ what string }

func (e *foreignError) Error() string { return e.what }

// plain is err as callers see it.
func plain(err error) error {
	if lost, ok := err.(*lostError); ok { //nolint:errorlint // only the outermost is taken off
		return lost.err
	}
	return err
}

// newKey is an Idempotency-Key.
func newKey() string { return rand.Text() }

// start starts an analysis and returns its stream. It repeats the request
// where that may help; the Idempotency-Key makes it one analysis all the same.
func (c *Client) start(ctx context.Context, req *protocol.Request, key string) (id string, err error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // \u003c would make code six times as large
	if err := enc.Encode(req); err != nil {
		return "", err
	}
	header := http.Header{"Idempotency-Key": {key}}
	retry := newRetry(c.config.StartPatience)
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

func (c *Client) startOnce(ctx context.Context, body []byte, header http.Header) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.do(ctx, http.MethodPost, body, "application/json", header, c.url("v1", "analyses")) //nolint:bodyclose // discard closes it
	if err != nil {
		return "", err
	}
	defer discard(res.Body)
	var m protocol.Metadata
	if err := readJSON(res, &m, maxAnswerBytes); err != nil {
		return "", err
	}
	if !protocol.ValidStreamID(m.ID) {
		return "", fmt.Errorf("the server named no stream but %.60q", m.ID)
	}
	return m.ID, nil
}

// CancelOnce is Cancel in a single request.
func (c *Client) CancelOnce(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.do(ctx, http.MethodDelete, nil, "application/json", nil, c.url("v1", "streams", id)) //nolint:bodyclose // discard closes it
	if err != nil {
		return err
	}
	discard(res.Body)
	return nil
}

// ask makes a request whose answer is JSON.
func (c *Client) ask(ctx context.Context, method string, answer any, path ...string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.do(ctx, method, nil, "application/json", nil, c.url(path...)) //nolint:bodyclose // discard closes it
	if err != nil {
		return err
	}
	defer discard(res.Body)
	return readJSON(res, answer, maxAnswerBytes)
}

// Do makes a request for which the package has no method. path is joined to
// the server's address, body is JSON or nil. An answer that is no success is an
// error, as everywhere here; the caller closes the body of the rest.
func (c *Client) Do(ctx context.Context, method string, body []byte, path ...string) (*http.Response, error) {
	res, err := c.do(ctx, method, body, "application/json", nil, c.url(path...))
	return res, plain(err)
}

func (c *Client) url(path ...string) *url.URL { return c.base.JoinPath(path...) }

// do makes a request. An answer that is no success is an error: a
// *protocol.Error where the server is an Athena, else a *foreignError, both
// inside a *lostError where another try may help. A token that is refused is
// replaced, once. The caller closes the body of the rest.
func (c *Client) do(ctx context.Context, method string, body []byte, accept string, header http.Header, to *url.URL) (*http.Response, error) {
	for first := true; ; first = false {
		token, err := c.tokens.token(ctx)
		if err != nil {
			return nil, fmt.Errorf("get a token: %w", err)
		}
		res, err := c.doOnce(ctx, method, body, accept, header, to, token.Value)
		if err == nil || !first || !unauthorized(err) || !c.tokens.refuse(ctx, token.Value) {
			return res, err
		}
	}
}

// unauthorized reports whether the server wants another token.
func unauthorized(err error) bool {
	e, ok := errors.AsType[*protocol.Error](err)
	return ok && e.Code == protocol.CodeUnauthorized
}

func (c *Client) doOnce(ctx context.Context, method string, body []byte, accept string, header http.Header, to *url.URL, token string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Accept", accept)
	c.identify(req.Header, token)
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
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

// identify sets the headers that say who asks.
func (c *Client) identify(h http.Header, token string) {
	h.Set("User-Agent", c.config.UserAgent)
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
}

// refusal is the error that an answer stands for.
func refusal(res *http.Response) error {
	var refused error
	again := false
	e := new(protocol.Error)
	if mediaType(res) == "application/problem+json" && readJSON(res, e, maxAnswerBytes) == nil && e.Code != "" {
		e.Status = res.StatusCode
		refused, again = e, e.Retryable
	} else {
		what := mediaType(res)
		if to := res.Header.Get("Location"); to != "" && res.StatusCode < 400 {
			what = "a redirect to " + to
		}
		refused = &foreignError{fmt.Sprintf("the answer is %d %s (%s), not Athena's", res.StatusCode, http.StatusText(res.StatusCode), cmp.Or(what, "without a type"))}
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

func readJSON(res *http.Response, v any, limit int64) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return &lostError{err: fmt.Errorf("the answer broke off: %w", err)}
	}
	if int64(len(b)) > limit {
		return fmt.Errorf("the answer is larger than %d bytes", limit)
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
