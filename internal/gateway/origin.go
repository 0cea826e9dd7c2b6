package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// Origins are the sites whose pages may use the API. Pages of the server's own
// host always may; "null", which any sandboxed page has, never.
type Origins struct {
	exact  map[string]bool
	suffix []wildcard
	csrf   *http.CrossOriginProtection
}

// A wildcard is https://*.example.com in parts.
type wildcard struct{ scheme, suffix string }

// NewOrigins takes origins such as https://example.com and
// https://*.example.com, which stands for every name below it and not for
// itself.
func NewOrigins(allowed []string) (*Origins, error) {
	o := &Origins{exact: make(map[string]bool), csrf: http.NewCrossOriginProtection()}
	for _, a := range allowed {
		a = strings.ToLower(a)
		scheme, host, ok := strings.Cut(a, "://")
		u, err := url.Parse(a)
		if !ok || err != nil || (scheme != "http" && scheme != "https") || u.Host != host || host == "" {
			return nil, fmt.Errorf("%.100q is not an origin, such as https://example.com", a)
		}
		if rest, ok := strings.CutPrefix(host, "*."); ok && !strings.Contains(rest, "*") && strings.Contains(rest, ".") {
			o.suffix = append(o.suffix, wildcard{scheme, "." + rest})
		} else if strings.Contains(host, "*") {
			return nil, fmt.Errorf(`%.100q: "*." may only stand before a name with a dot in it`, a)
		} else {
			o.exact[a] = true
		}
	}
	return o, nil
}

// Allowed reports whether the page that r comes from may use the API. What has
// no Origin is no page of another site, or a request that it can't read the
// answer of.
func (o *Origins) Allowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || sameOrigin(origin, r) || o.listed(origin)
}

// sameOrigin compares hosts, and refuses a page that came in the clear where
// the request is known to have come by HTTPS: anybody on the way could have
// written it. Behind a proxy that ends TLS and isn't trusted, the scheme is not
// known.
func sameOrigin(origin string, r *http.Request) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) && (schemeOf(r) != "https" || strings.EqualFold(u.Scheme, "https"))
}

func (o *Origins) listed(origin string) bool {
	origin = strings.ToLower(origin)
	if o.exact[origin] {
		return true
	}
	scheme, host, _ := strings.Cut(origin, "://")
	for _, w := range o.suffix {
		if scheme == w.scheme && strings.HasSuffix(host, w.suffix) && len(host) > len(w.suffix) && !strings.ContainsAny(host, "/@?#") {
			return true
		}
	}
	return false
}

// exposedHeaders are those of answers that scripts of other origins may read.
const exposedHeaders = "Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"

// middleware refuses other sites and tells browsers of those that are allowed.
func (o *Origins) middleware(l *Limits, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		origin := r.Header.Get("Origin")
		switch {
		case origin == "":
			// A browser that says no Origin may still say Sec-Fetch-Site.
			if err := o.csrf.Check(r); err != nil {
				l.refuse(w, r, refusedOrigin("another site"))
				return
			}
		case sameOrigin(origin, r):
		case o.listed(origin):
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Cross-Origin-Resource-Policy", "cross-origin")
			h.Set("Access-Control-Expose-Headers", exposedHeaders)
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE")
				h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key, X-Request-Id")
				h.Set("Access-Control-Max-Age", "600")
				w.WriteHeader(http.StatusNoContent)
				return
			}
		default:
			l.refuse(w, r, refusedOrigin(fmt.Sprintf("%.100q", origin)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refusedOrigin(who string) error {
	return protocol.Errorf(protocol.CodeForbidden, "pages of %s may not use this server; its allowed origins decide that", who)
}

// hostGuard refuses requests that were meant for another host than this
// machine or one of the allowed origins.
func hostGuard(o *Origins, l *Limits, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, host := range hostsOf(r) {
			// Browsers always name a host; some clients of HTTP/1.0 don't.
			if host != "" && !loopbackHost(host) && !o.listed("http://"+host) && !o.listed("https://"+host) {
				l.refuse(w, r, withStatus(protocol.Errorf(protocol.CodeForbidden,
					"this server is for this machine only, and %.100q is another name; it takes that name with an API key, or as an allowed origin", host),
					http.StatusMisdirectedRequest))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// loopbackHost reports whether a Host header names this machine.
func loopbackHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true // RFC 6761, section 6.3
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
