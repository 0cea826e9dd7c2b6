package gateway

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/athena-hub/athena/internal/problem"
	"github.com/athena-hub/athena/protocol"
)

// ToHTTPS answers over plain HTTP: pages are sent to HTTPS at this port, without
// their query. Requests of the API are refused, since a client that was
// redirected would go on sending its key in the clear, and nobody would notice.
func ToHTTPS(port string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Connection", "close")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", apiPolicy)
		host := strings.ToLower(r.Host)
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.Trim(host, "[]")
		plain := r.Method == http.MethodGet || r.Method == http.MethodHead
		if !plain || host == "" || strings.HasPrefix(r.URL.Path, "/v1/") || r.Header.Get("Authorization") != "" || r.Header.Get("X-API-Key") != "" {
			problem.Write(w, protocol.Errorf(protocol.CodeForbidden, "this server speaks HTTPS only; a key that was sent to this address should be replaced"))
			return
		}
		switch {
		case port != "443":
			host = net.JoinHostPort(host, port)
		case strings.Contains(host, ":"):
			host = "[" + host + "]"
		}
		to := url.URL{Scheme: "https", Host: host, Path: r.URL.Path}
		if to.Path = "/" + strings.TrimLeft(to.Path, "/"); !sensible(host) {
			problem.Write(w, protocol.Errorf(protocol.CodeInvalidRequest, "%.100q is not a host", r.Host))
			return
		}
		h.Set("Location", to.String())
		w.WriteHeader(http.StatusPermanentRedirect)
	})
}

func sensible(host string) bool {
	u, err := url.Parse("https://" + host + "/")
	return err == nil && u.Host == host && u.User == nil
}
