package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/athena-hub/athena/internal/proxies"
)

// as returns r as its client sent it, for a host that a trusted proxy may have
// told: what compares a page's Origin with the host needs that one.
func as(r *http.Request, c proxies.Client) *http.Request {
	if r.Host != c.Host { // r is a copy already
		r.Host = c.Host
	}
	return r
}

// hostsOf are the hosts that r names: in its own header, and by a trusted
// proxy. Where a name may let somebody in, both must: a page whose name was made
// to resolve to a proxy's address can write the proxy's headers.
func hostsOf(r *http.Request) [2]string {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchangeRecord); ok {
		return [2]string{x.host, r.Host}
	}
	return [2]string{r.Host, r.Host}
}

// schemeOf is the scheme that r's client used; "" where it isn't known.
func schemeOf(r *http.Request) string {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchangeRecord); ok {
		return x.client.Scheme
	}
	return ""
}

// strictTransport is the value of the header that asks browsers for HTTPS only
// (RFC 6797), "" for none. Names below this one are not spoken for.
func strictTransport(maxAge time.Duration) string {
	if maxAge <= 0 {
		return ""
	}
	return "max-age=" + strconv.FormatInt(int64(maxAge/time.Second), 10)
}
