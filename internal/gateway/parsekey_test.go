package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/secrets"
)

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{`{"key":"sk-0123456789","weight":2}`, `{"key":"sk-\u0061"}`, `{"key":""}`, `{"key":7}`, `{}`, `{"key":"a","key":"b"}`, "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		k, _, err := parseKey(body)
		if (err == nil) != (k != nil) {
			t.Fatalf("%v, %v", k, err)
		}
		if k == nil {
			return
		}
		if _, err := secrets.NewKey([]byte(k.Reveal())); err != nil {
			t.Errorf("what was taken is no key: %v", err)
		}
	})
}

func TestKeysOfProvidersNeedTheScopeAdmin(t *testing.T) {
	g := &Gateway{} // nothing of it may be reached
	doors := 0
	g.mountProviderKeys(func(pattern string, tickets bool, h http.HandlerFunc) {
		doors++
		if tickets {
			t.Errorf("%s takes tickets", pattern)
		}
		for _, id := range []auth.Identity{{}, {Name: "ada", Scopes: auth.AllScopes &^ auth.ScopeAdmin}} {
			w := httptest.NewRecorder()
			h(w, httptest.NewRequestWithContext(auth.NewContext(t.Context(), id), http.MethodGet, "/", strings.NewReader(`{"key":"x"}`)))
			if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "scope admin") {
				t.Errorf("%s with the scopes %q: %d %s", pattern, id.Scopes, w.Code, w.Body)
			}
		}
	})
	if doors != 4 {
		t.Errorf("%d resources", doors)
	}
}
