package upstream

import (
	"net/http"
	"strconv"
	"time"

	"github.com/athena-hub/athena/providers"
)

// LimitHeaders names the headers in which a provider tells its rate limits.
type LimitHeaders struct {
	RequestsLimit, RequestsRemaining, RequestsReset string
	TokensLimit, TokensRemaining, TokensReset       string
}

// Read reads the limits out of h. ok is false where h has none of them. A
// reset is a time (RFC 3339), a duration such as 6m0s, or seconds; one that is
// further away than maxRetryAfter is that far away, since no call is made, and
// nothing newer learned, before the reset of what is used up.
func (n LimitHeaders) Read(h http.Header, now time.Time) (l providers.RateLimits, ok bool) {
	number := func(name string) int64 {
		v, err := strconv.ParseInt(h.Get(name), 10, 64)
		if err != nil || v < 0 {
			return -1
		}
		ok = true
		return v
	}
	reset := func(name string) time.Time {
		v := h.Get(name)
		if v == "" {
			return time.Time{}
		}
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			if latest := now.Add(maxRetryAfter); at.After(latest) {
				return latest
			}
			return at
		}
		if d, err := time.ParseDuration(v); err == nil {
			return now.Add(min(d, maxRetryAfter))
		}
		if s, err := strconv.ParseFloat(v, 64); err == nil && s >= 0 {
			return now.Add(bounded(s * float64(time.Second)))
		}
		return time.Time{}
	}
	l = providers.RateLimits{
		RequestsLimit: number(n.RequestsLimit), RequestsRemaining: number(n.RequestsRemaining), RequestsReset: reset(n.RequestsReset),
		TokensLimit: number(n.TokensLimit), TokensRemaining: number(n.TokensRemaining), TokensReset: reset(n.TokensReset),
	}
	return l, ok
}
