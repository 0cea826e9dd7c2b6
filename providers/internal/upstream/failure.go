package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// maxMessageBytes bounds how much of a provider's own words goes into an error.
const maxMessageBytes = 500

// A Failure is what a provider says of a call that failed, in an HTTP answer
// or inside its stream.
type Failure struct {
	// Status is the HTTP status, or a number in its place inside the stream; 0
	// where there is none.
	Status int
	// Type and Code are the dialect's words, such as "overloaded_error" and
	// "insufficient_quota".
	Type, Code string
	Message    string
	// Param names the part of the request that is at fault.
	Param string
	// RetryAfter is how long to wait, where it is said beside the words.
	RetryAfter time.Duration
	// Details is further JSON that the provider gave.
	Details string
}

// ParseFailure reads the error objects of both dialects and of the servers
// that speak them nearly: {"error":{…}}, {"error":"…"}, {"message":…},
// {"detail":…}. Other text is taken as the message.
func ParseFailure(status int, body []byte) Failure {
	f := Failure{Status: status}
	if !protocol.ValidJSON(body) {
		if text := string(body); !strings.Contains(text, "<") { // a proxy's page says nothing useful
			f.Message = text
		}
		return f
	}
	root := gjson.ParseBytes(body)
	e := root.Get("error")
	switch {
	case e.IsObject():
	case e.Type == gjson.String:
		f.Message = e.Str
		return f
	case root.IsObject():
		e = root
		if d := e.Get("detail"); d.Exists() {
			f.Message = d.String()
		}
	default:
		return f
	}
	if m := e.Get("message"); m.Exists() {
		f.Message = m.String()
	}
	f.Type, f.Code, f.Param = e.Get("type").String(), e.Get("code").String(), e.Get("param").String()
	f.Details = e.Get("details").Raw + e.Get("metadata").Raw
	if n, err := strconv.Atoi(f.Code); err == nil && n >= 400 && n < 600 && status < 400 {
		f.Status = n // OpenRouter and vLLM put the status there inside a stream
	}
	// OpenAI puts into a WebSocket message what HTTP has around the error.
	if n := root.Get("status").Int(); n >= 400 && n < 600 && status == 0 {
		f.Status = int(n)
	}
	if h := e.Get("headers"); h.IsObject() {
		header := make(http.Header)
		h.ForEach(func(k, v gjson.Result) bool {
			header.Set(k.Str, v.String())
			return true
		})
		f.RetryAfter = retryAfter(header, time.Now())
	}
	return f
}

// Error returns f in Athena's words. The message may still hold a credential:
// see Client.scrub.
func (f Failure) Error(model string) *protocol.Error {
	e := f.error(model)
	if f.RetryAfter > 0 && e.Retryable {
		e = e.WithRetryAfter(f.RetryAfter)
	}
	return e
}

// RefusesWay reports whether f says that the server can't give an answer in the
// way that was asked for, as a stream or in the background, which is something
// else than a refusal of the request.
func (f Failure) RefusesWay() bool {
	switch f.Status {
	case http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	case http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		said := strings.ToLower(f.Message + " " + f.Code)
		return f.Param == "stream" || f.Param == "background" ||
			has(said, "stream", "background") && has(said, "support", "not allowed", "not available", "not implemented", "disabled")
	}
	return false
}

// Said reports whether the provider told anything beside the status.
func (f Failure) Said() bool { return f.Type != "" || f.Code != "" || f.Message != "" }

func (f Failure) error(model string) *protocol.Error {
	code := f.protocolCode()
	e := f.describe(code, model)
	if code == protocol.CodeServiceUnavailable && (f.Status == http.StatusInternalServerError ||
		f.Status < 300 && has(f.Type+" "+f.Code, "api_error", "server_error")) {
		return e.WithCause(providers.ErrInternal)
	}
	return e
}

func (f Failure) describe(code protocol.Code, model string) *protocol.Error {
	said := f.Message
	if said == "" {
		said = strings.TrimSpace(f.Type + " " + f.Code)
	}
	where := "the provider reported an error in its answer"
	if f.Status >= 300 {
		where = "the provider answered " + strconv.Itoa(f.Status)
	}
	if f.Status == http.StatusNotFound {
		where += " (is there a model " + strconv.Quote(model) + ", and is the base URL right?)"
	}
	if code == protocol.CodeUnauthorized {
		// Providers repeat parts of the key here.
		return protocol.Errorf(code, "%s: it refuses the API key", where)
	}
	if said == "" {
		return protocol.Errorf(code, "%s", where)
	}
	return protocol.Errorf(code, "%s: %s", where, clip(said))
}

// protocolCode finds out what kind of failure f is. Words go before statuses, since
// the same status stands for several kinds: Anthropic answers 400 for an
// account without credit, OpenAI 429 for one without quota.
func (f Failure) protocolCode() protocol.Code {
	kind := strings.ToLower(f.Type + " " + f.Code)
	all := kind + " " + strings.ToLower(f.Message+" "+f.Details)
	switch {
	case f.Status == http.StatusPaymentRequired, has(kind, "insufficient_quota", "billing", "insufficient_balance", "insufficient_credits"),
		has(all, "spend limit", "spend_limit", "insufficient balance", "credit balance is too low", "exceeded your current quota"):
		return protocol.CodeQuotaExceeded
	case f.Status == http.StatusRequestEntityTooLarge,
		f.ofRequest() && has(all, "context_length", "context length", "context window", "context size", "context limit", "prompt is too long",
			"exceed_context_size", "request_too_large", "input is too long", "maximum context"):
		return protocol.CodeContextTooLong
	case f.ofRequest() && has(kind, "content_filter", "content_policy", "content_moderation", "responsibleaipolicy", "data_inspection_failed",
		"invalid_prompt", "bio_policy", "policy_violation"),
		f.Status == http.StatusForbidden && has(all, "moderation", "flagged"):
		return protocol.CodeContentFiltered
	}
	if f.Status >= 300 {
		return statusCode(f.Status)
	}
	switch {
	case has(kind, "rate_limit", "too_many_requests"):
		return protocol.CodeRateLimited
	case has(kind, "authentication", "invalid_api_key"):
		return protocol.CodeUnauthorized
	case has(kind, "permission"):
		return protocol.CodeForbidden
	case has(kind, "invalid_request", "not_found", "bad_request"):
		return protocol.CodeInvalidRequest
	case has(kind, "timeout"):
		return protocol.CodeTimeout
	}
	return protocol.CodeServiceUnavailable // overloaded_error, api_error, server_error, unknown
}

// ofRequest reports whether f may be the request's fault: with a status such
// as 500, words about it are the message's and not the kind's.
func (f Failure) ofRequest() bool {
	return f.Status < 500 && f.Status != http.StatusUnauthorized && f.Status != http.StatusTooManyRequests
}

func statusCode(status int) protocol.Code {
	switch {
	case status == http.StatusUnauthorized:
		return protocol.CodeUnauthorized
	case status == http.StatusForbidden:
		return protocol.CodeForbidden
	case status == http.StatusTooManyRequests:
		return protocol.CodeRateLimited
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout:
		return protocol.CodeTimeout
	case status == http.StatusConflict, status == http.StatusTooEarly, status >= 500: // 529 is Anthropic's "overloaded"
		return protocol.CodeServiceUnavailable
	case status >= 400:
		return protocol.CodeInvalidRequest
	}
	return protocol.CodeInvalidResponse
}

func has(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// clip makes a provider's words fit into one line of bounded length.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.TrimSpace(s)
	if len(s) <= maxMessageBytes {
		return s
	}
	n := maxMessageBytes
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

var (
	urlQuery = regexp.MustCompile(`(https?://[^\s?"'<>]*)\?[^\s"'<>]*`)
	urlUser  = regexp.MustCompile(`(https?://)[^\s/@"'<>]+@`)
	keyLike  = regexp.MustCompile(`\b(?:sk|pk|rk)-[A-Za-z0-9_*.\-]{4,}`)
	// keyMasked is what providers show of a key: some of its first and last characters.
	keyMasked = regexp.MustCompile(`[A-Za-z0-9_-]+\*{3,}[A-Za-z0-9_-]*|\*{3,}[A-Za-z0-9_-]+`)
	bearer    = regexp.MustCompile(`(?i)\bbearer\s+[^\s"',]+`)
)

// minSecret is how long a secret, or a part of one, is that is worth hiding:
// shorter ones would take ordinary words out of messages.
const minSecret = 6

// hidden stands for what an error must not tell.
const hidden = "[hidden]"

// scrub takes out of a text what no error may tell: the secrets, what looks
// like a key, and the query and user of URLs.
func scrub(s string, secrets []string) string {
	for _, secret := range secrets {
		s = strings.ReplaceAll(s, secret, hidden)
		s = hideCut(s, secret)
	}
	s = urlQuery.ReplaceAllString(s, "$1")
	s = urlUser.ReplaceAllString(s, "$1")
	s = keyLike.ReplaceAllString(s, hidden)
	s = keyMasked.ReplaceAllString(s, hidden)
	return bearer.ReplaceAllString(s, "Bearer "+hidden)
}

// hideCut takes the beginning of a secret from the end of s, where a text was
// clipped in the middle of it.
func hideCut(s, secret string) string {
	text := strings.TrimRight(s, "…\"")
	for n := len(secret) - 1; n >= minSecret; n-- {
		if strings.HasSuffix(text, secret[:n]) {
			return text[:len(text)-n] + hidden + s[len(text):]
		}
	}
	return s
}

// bare returns err without the URL that net/http puts around it, since that
// has a query.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// contextError says that ctx ended, and keeps its error and cause.
func contextError(ctx context.Context) *protocol.Error {
	err := ctx.Err()
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		err = errors.Join(err, cause)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return protocol.Errorf(protocol.CodeTimeout, "the call's time ran out: %w", err)
	}
	return protocol.Errorf(protocol.CodeStreamInterrupted, "the call was cancelled: %w", err)
}

// maxRetryAfter bounds what a provider may ask for, so that a wrong header
// can't put a provider away for ever.
const maxRetryAfter = 24 * time.Hour

// retryAfter returns how long h asks to wait, 0 where it doesn't say.
// Retry-After-Ms, which both vendors send, is the more exact one.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms >= 0 {
		return bounded(ms * float64(time.Millisecond))
	}
	v := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(v, 64); err == nil && s >= 0 {
		return bounded(s * float64(time.Second))
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return bounded(float64(at.Sub(now)))
	}
	return 0
}

func bounded(d float64) time.Duration {
	if d > float64(maxRetryAfter) {
		return maxRetryAfter
	}
	return time.Duration(d)
}
