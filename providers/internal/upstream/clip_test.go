package upstream

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/providers"
)

// TestASecretThatIsClippedIsHiddenToo: a proxy tells what it was sent, and the
// message is cut in the middle of the secret.
func TestASecretThatIsClippedIsHiddenToo(t *testing.T) {
	const secret = "gw_0123456789abcdefghijklmnopqrstuvwxyz"
	for fill := 440; fill < 500; fill++ {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte(strings.Repeat("x", fill) + " token: " + r.Header.Get("X-Proxy-Token") + strings.Repeat(" y", 100)))
		}))
		c, err := NewClient(providers.Config{Name: "p", BaseURL: srv.URL, Headers: map[string]string{"X-Proxy-Token": secret}},
			Dialect{Path: func(s string) string { return s }, Authorize: func(http.Header, string) {},
				Limits: func(http.Header, time.Time) (providers.RateLimits, bool) { return providers.RateLimits{}, false }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Stream(t.Context(), Call{Path: "/x", Body: []byte("{}")})
		if err == nil || strings.Contains(err.Error(), secret[:minSecret]) {
			t.Errorf("the error tells a part of the secret: %.60q", err.Error()[450:])
		}
		srv.Close()
	}
}
