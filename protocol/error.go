package protocol

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The families of errors, for errors.Is: errors.Is(err, ErrNetwork) holds for
// a timeout and for a connection that failed.
var (
	ErrNetwork        = errors.New("network error")
	ErrValidation     = errors.New("validation error")
	ErrAuthentication = errors.New("authentication error")
	ErrRateLimit      = errors.New("rate limit error")
	ErrProvider       = errors.New("provider error")
	ErrServer         = errors.New("server error")
)

// A Code names one way to fail.
type Code string

// The codes, by family.
const (
	CodeTimeout          Code = "timeout"
	CodeConnectionFailed Code = "connection_failed"

	CodeInvalidRequest  Code = "invalid_request"
	CodeInvalidCursor   Code = "invalid_cursor"
	CodePayloadTooLarge Code = "payload_too_large"
	CodeStreamNotFound  Code = "stream_not_found"
	CodeInvalidResponse Code = "invalid_response"

	CodeUnauthorized Code = "unauthorized"
	CodeForbidden    Code = "forbidden"

	CodeRateLimited Code = "rate_limited"

	CodeServiceUnavailable Code = "service_unavailable"
	CodeQuotaExceeded      Code = "quota_exceeded"
	CodeContentFiltered    Code = "content_filtered"
	CodeContextTooLong     Code = "context_too_long"
	CodeStreamInterrupted  Code = "stream_interrupted"

	CodeOverloaded Code = "overloaded"
	CodeDraining   Code = "draining"
	CodeOwnerLost  Code = "owner_lost"
	CodeInternal   Code = "internal"
)

type codeInfo struct {
	family    error
	status    int
	retryable bool
	title     string
}

var codes = map[Code]codeInfo{
	CodeTimeout:          {ErrNetwork, http.StatusGatewayTimeout, true, "The provider did not answer in time"},
	CodeConnectionFailed: {ErrNetwork, http.StatusBadGateway, true, "The provider could not be reached"},

	CodeInvalidRequest:  {ErrValidation, http.StatusBadRequest, false, "The request is not valid"},
	CodeInvalidCursor:   {ErrValidation, http.StatusBadRequest, false, "The cursor is not valid"},
	CodePayloadTooLarge: {ErrValidation, http.StatusRequestEntityTooLarge, false, "The request is too large"},
	CodeStreamNotFound:  {ErrValidation, http.StatusNotFound, false, "There is no such stream"},
	CodeInvalidResponse: {ErrValidation, http.StatusBadGateway, true, "The provider's answer could not be understood"},

	CodeUnauthorized: {ErrAuthentication, http.StatusUnauthorized, false, "Valid credentials are needed"},
	CodeForbidden:    {ErrAuthentication, http.StatusForbidden, false, "This is not allowed"},

	CodeRateLimited: {ErrRateLimit, http.StatusTooManyRequests, true, "Too many requests"},

	CodeServiceUnavailable: {ErrProvider, http.StatusServiceUnavailable, true, "The provider is not available"},
	CodeQuotaExceeded:      {ErrProvider, http.StatusTooManyRequests, false, "The provider's quota is used up"},
	CodeContentFiltered:    {ErrProvider, http.StatusUnprocessableEntity, false, "The provider refused the content"},
	CodeContextTooLong:     {ErrProvider, http.StatusUnprocessableEntity, false, "The code is too long for the model"},
	CodeStreamInterrupted:  {ErrProvider, http.StatusBadGateway, true, "The provider's answer broke off"},

	CodeOverloaded: {ErrServer, http.StatusServiceUnavailable, true, "The server is overloaded"},
	CodeDraining:   {ErrServer, http.StatusServiceUnavailable, true, "The server is shutting down"},
	CodeOwnerLost:  {ErrServer, http.StatusBadGateway, true, "The node that ran the analysis was lost"},
	CodeInternal:   {ErrServer, http.StatusInternalServerError, false, "Something went wrong in the server"},
}

// Codes returns every code of this version, sorted.
func Codes() []Code {
	all := make([]Code, 0, len(codes))
	for c := range codes {
		all = append(all, c)
	}
	slices.Sort(all)
	return all
}

// Family returns the error that stands for c's family, ErrServer for a code
// that this version doesn't know.
func (c Code) Family() error {
	if info, ok := codes[c]; ok {
		return info.family
	}
	return ErrServer
}

// An Error is what the wire says of a failure: in failed events, in WebSocket
// error messages and, as application/problem+json (RFC 9457), in HTTP answers.
// It never contains a credential, a ticket or the query of an upstream's URL.
type Error struct {
	Code   Code   `json:"code"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
	// Status is the HTTP status that belongs to Code.
	Status int `json:"status"`
	// Retryable says whether the same request may succeed later.
	Retryable bool `json:"retryable"`
	// RetryAfterMS is how long to wait before it, in milliseconds; 0 where
	// nothing is known.
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
	Provider     string `json:"provider,omitempty"`

	cause error
}

// Errorf returns an Error with the title, status and retryability of code. The
// detail is formatted as by fmt.Errorf; errors under %w are its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	info, ok := codes[code]
	if !ok {
		info = codes[CodeInternal]
	}
	cause := errors.Unwrap(err)
	if cause == nil {
		if several, ok := errors.AsType[interface {
			error
			Unwrap() []error
		}](err); ok {
			cause = several
		}
	}
	return &Error{Code: code, Title: info.title, Detail: err.Error(), Status: info.status,
		Retryable: info.retryable, cause: cause}
}

// AsError returns the Error in err's tree, or a new one with CodeInternal whose
// detail does not repeat err, since an unexpected error may hold what clients
// should not see.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := Errorf(CodeInternal, "the server could not do this; its log says why")
	e.cause = err
	return e
}

// WithProvider returns e with the provider's name, in a copy.
func (e *Error) WithProvider(name string) *Error {
	c := *e
	c.Provider = name
	return &c
}

// WithRetryAfter returns e with the time to wait, in a copy. Part of a
// millisecond counts as a whole one, so that nobody comes too early.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfterMS = max(0, d.Milliseconds())
	if d%time.Millisecond > 0 {
		c.RetryAfterMS++
	}
	return &c
}

// WithCause returns e with err in its tree, in a copy. Like every cause it
// stays in the server.
func (e *Error) WithCause(err error) *Error {
	c := *e
	c.cause = errors.Join(e.cause, err)
	return &c
}

// Error is the code and the detail.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Code))
	if e.Provider != "" {
		b.WriteString(" (" + e.Provider + ")")
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	} else {
		b.WriteString(": " + e.Title)
	}
	return b.String()
}

// Is holds for e's family and for an *Error with the same code.
func (e *Error) Is(target error) bool {
	if t, ok := target.(*Error); ok {
		return t != nil && t.Code == e.Code
	}
	return target == e.Code.Family()
}

// Unwrap returns the cause, which stays in the server: it is not encoded.
func (e *Error) Unwrap() error { return e.cause }
