package providertest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

func (c *contract) statuses(t *testing.T) {
	for _, tc := range []struct {
		status    int
		body      string
		header    http.Header
		code      protocol.Code
		retryable bool
		after     int64
	}{
		{status: 400, code: protocol.CodeInvalidRequest},
		{status: 401, code: protocol.CodeUnauthorized},
		{status: 402, code: protocol.CodeQuotaExceeded},
		{status: 403, code: protocol.CodeForbidden},
		{status: 404, code: protocol.CodeInvalidRequest},
		{status: 408, code: protocol.CodeTimeout, retryable: true},
		{status: 413, code: protocol.CodeContextTooLong},
		{status: 422, code: protocol.CodeInvalidRequest},
		{status: 429, code: protocol.CodeRateLimited, retryable: true},
		{status: 429, header: http.Header{"Retry-After": {"3"}}, code: protocol.CodeRateLimited, retryable: true, after: 3000},
		{status: 429, header: http.Header{"Retry-After": {"3"}, "Retry-After-Ms": {"1250"}}, code: protocol.CodeRateLimited, retryable: true, after: 1250},
		{status: 429, header: http.Header{"Retry-After": {"soon"}}, code: protocol.CodeRateLimited, retryable: true},
		{status: 429, body: `{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}`, code: protocol.CodeQuotaExceeded},
		{status: 429, body: `{"type":"error","error":{"type":"rate_limit_error","message":"limited","details":{"reason":"spend_limit"}}}`, code: protocol.CodeQuotaExceeded},
		{status: 400, body: `{"error":{"message":"too many tokens","code":"context_length_exceeded"}}`, code: protocol.CodeContextTooLong},
		{status: 400, body: `{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}`, code: protocol.CodeContextTooLong},
		{status: 400, body: `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}`, code: protocol.CodeQuotaExceeded},
		{status: 400, body: `{"error":{"message":"filtered","code":"content_filter"}}`, code: protocol.CodeContentFiltered},
		{status: 500, code: protocol.CodeServiceUnavailable, retryable: true},
		{status: 500, body: strings.Repeat("x", 1<<20), code: protocol.CodeServiceUnavailable, retryable: true},
		{status: 500, header: http.Header{"X-Should-Retry": {"false"}}, code: protocol.CodeServiceUnavailable},
		{status: 502, body: "<html>Bad gateway</html>", code: protocol.CodeServiceUnavailable, retryable: true},
		{status: 503, body: `{"detail":"loading"}`, code: protocol.CodeServiceUnavailable, retryable: true},
		{status: 504, code: protocol.CodeTimeout, retryable: true},
		{status: 529, code: protocol.CodeServiceUnavailable, retryable: true},
	} {
		up := NewUpstream(t, Script{Fault: Fault{Kind: FaultStatus, Status: tc.status, Body: tc.body, Header: tc.header}})
		_, err := c.ask(t, up.URL)
		e := c.errorOf(t, err, tc.code)
		if e.Retryable != tc.retryable || e.RetryAfterMS != tc.after || len(e.Detail) > 1000 {
			t.Errorf("%d %.60s: the error is %+v, want retryable %v after %d ms", tc.status, tc.body, e, tc.retryable, tc.after)
		}
		if tc.status == http.StatusNotFound && !strings.Contains(e.Detail, "model-a") {
			t.Errorf("the detail of a 404, %q, does not name the model", e.Detail)
		}
		tried := map[providers.Protocol]int{}
		for _, call := range up.Calls() {
			if tried[call.Protocol]++; tried[call.Protocol] > 1 {
				t.Errorf("%d: the upstream was called again by %s: retrying is the caller's", tc.status, call.Protocol)
			}
		}
	}
}

func (c *contract) network(t *testing.T) {
	up := NewUpstream(t, Script{Fault: Fault{Kind: FaultReset}})
	_, err := c.ask(t, up.URL)
	c.checkError(t, err, protocol.CodeConnectionFailed)

	up.Close()
	_, err = c.ask(t, up.URL)
	c.checkError(t, err, protocol.CodeConnectionFailed)
}

func (c *contract) secrets(t *testing.T) {
	up := NewUpstream(t, Script{})
	if _, err := c.ask(t, up.URL); err != nil {
		t.Fatal(err)
	}
	h := up.Calls()[0].Header
	key := strings.TrimPrefix(h.Get("Authorization"), "Bearer ") + h.Get("X-Api-Key")
	if len(key) < 8 {
		t.Fatalf("the provider under test needs a key; the upstream got %q", key)
	}
	echo := fmt.Sprintf("key %s at https://user:pw-secret@api.example/v1/x?token=query-secret is wrong; Authorization: Bearer %s", key, key)
	body := `{"type":"error","error":{"type":"invalid_request_error","message":` + quote(echo) + `}}`
	var errs []error
	for _, status := range []int{400, 401, 403, 404, 429, 500} {
		up.SetScript(Script{Fault: Fault{Kind: FaultStatus, Status: status, Body: body}})
		_, err := c.ask(t, up.URL)
		errs = append(errs, err)
	}
	up.SetScript(Script{Fault: Fault{Kind: FaultError, Body: echo}})
	a, err := c.ask(t, up.URL)
	errs = append(errs, err, a.Err)
	up.Close()
	_, err = c.ask(t, up.URL+"?token=query-secret")
	errs = append(errs, err)
	for _, err := range errs {
		for e := err; e != nil; e = errors.Unwrap(e) {
			for _, secret := range []string{key, "query-secret", "pw-secret"} {
				if strings.Contains(fmt.Sprintf("%v %+v", e, e), secret) {
					t.Errorf("an error tells %q: %v", secret, e)
				}
			}
		}
	}
}

func (c *contract) redirect(t *testing.T) {
	other := NewUpstream(t, Script{Pieces: sample})
	for _, status := range []int{301, 302, 303, 307, 308} {
		up := NewUpstream(t, Script{Fault: Fault{Kind: FaultStatus, Status: status, Header: http.Header{"Location": {other.URL + "/v1/messages"}}}})
		_, err := c.ask(t, up.URL)
		if e := c.errorOf(t, err, protocol.CodeInvalidResponse); e.Retryable {
			t.Errorf("%d: %+v is retryable", status, e)
		}
	}
	if n := other.Count(); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
}
