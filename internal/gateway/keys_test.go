package gateway_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/audit"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/auth/authtest"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// withStoredKeys starts a node that has stored keys, and whose operator has the
// key apiKey.
func withStoredKeys(t *testing.T, options ...func(*gateway.Options)) (*node, *authtest.Store) {
	t.Helper()
	store := authtest.NewStore()
	k, err := auth.OpenKeyring(t.Context(), auth.KeyringOptions{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	a, err := auth.New([]auth.Key{{Name: "root", Secret: apiKey}}, auth.Options{Stored: k})
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, true, append(options, func(o *gateway.Options) { o.Auth, o.Keys = a, k })...)
	return n, store
}

func TestKeysAreMadeAndEndedByRequests(t *testing.T) {
	n, store := withStoredKeys(t)
	root := []string{"X-API-Key", apiKey}
	a := n.do("POST", "/v1/keys", `{"name":"ci","tenant":"acme","scopes":["read"],"expires_in":"24h"}`, root...)
	k := decode[gateway.Key](t, a)
	if a.status != 201 || a.header.Get("Location") != "/v1/keys/"+k.ID || a.header.Get("Cache-Control") != "no-store" || k.State != "active" || k.Tenant != "acme" ||
		strings.Join(k.Scopes, " ") != "read" || k.Expires.Sub(k.Created.Time).Hours() != 24 || !strings.HasPrefix(k.Key, k.Prefix) {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	if a := n.do("GET", "/v1/providers", "", "X-API-Key", k.Key); a.status != 403 || !strings.Contains(a.body, "scope providers") {
		t.Errorf("%d %s", a.status, a.body)
	}
	a = n.do("POST", "/v1/keys/"+k.ID+"/rotate", `{"grace":"1h"}`, root...)
	r := decode[gateway.Key](t, a)
	if a.status != 200 || r.Key == k.Key || r.State != "rotating" || r.OldUntil.IsZero() {
		t.Errorf("%d %s", a.status, a.body)
	}
	list := n.do("GET", "/v1/keys", "", root...)
	if list.status != 200 || !strings.Contains(list.body, k.ID) || strings.Contains(list.body, r.Key) || strings.Contains(list.body, `"key"`) {
		t.Errorf("%d %s", list.status, list.body)
	}
	if a := n.do("DELETE", "/v1/keys/"+k.ID, "", root...); a.status != 200 || decode[gateway.Key](t, a).State != "revoked" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := n.do("POST", "/v1/negotiate", "", "X-API-Key", r.Key); a.status != 401 {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, c := range []struct {
		name, method, target, body string
		status                     int
		detail                     string
	}{
		{"no name", "POST", "/v1/keys", `{}`, 400, `\"name\"`},
		{"an unknown scope", "POST", "/v1/keys", `{"name":"x","scopes":["root"]}`, 400, "analyze, read, cancel, providers, admin"},
		{"scopes, but none", "POST", "/v1/keys", `{"name":"x","scopes":[]}`, 400, "empty"},
		{"an unknown field", "POST", "/v1/keys", `{"name":"x","admin":true}`, 400, "admin"},
		{"two objects", "POST", "/v1/keys", `{"name":"x"}{"name":"y"}`, 400, "follows"},
		{"no object", "POST", "/v1/keys", `[]`, 400, "can't be read"},
		{"a bad time", "POST", "/v1/keys", `{"name":"x","expires_in":"soon"}`, 400, "90s"},
		{"a time that is over", "POST", "/v1/keys", `{"name":"x","expires_in":"-1h"}`, 400, "life"},
		{"a name with a line in it", "POST", "/v1/keys", `{"name":"x\ny"}`, 400, "can't be shown"},
		{"a huge body", "POST", "/v1/keys", `{"name":"` + strings.Repeat("x", 20_000) + `"}`, 413, "limit"},
		{"nested deep", "POST", "/v1/keys", `{"scopes":` + strings.Repeat("[", 12_000) + `}`, 400, "can't be read"},
		{"revoke none", "DELETE", "/v1/keys/aaaaaaaaaaaa", "", 404, "no key"},
		{"revoke nonsense", "DELETE", "/v1/keys/x%2e%3e", "", 404, "no key"},
		{"rotate what is revoked", "POST", "/v1/keys/" + k.ID + "/rotate", "", 400, "revoked"},
		{"share nothing", "POST", "/v1/streams/" + protocol.NewStreamID() + "/share", "", 404, "unknown"},
	} {
		a := n.do(c.method, c.target, c.body, root...)
		if a.status != c.status || !strings.Contains(a.body, c.detail) || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s; want %d and %q", c.name, a.status, a.body, c.status, c.detail)
		}
	}
	store.SetDown(true)
	if a := n.do("POST", "/v1/keys", `{"name":"x"}`, root...); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("while the store is away: %d %s", a.status, a.body)
	}
	if log := n.log.String(); strings.Contains(log, k.Key) || strings.Contains(log, r.Key) || !strings.Contains(log, "made an API key") {
		t.Errorf("the log: %s", log)
	}
}

func TestAnOperatorsRoutesAreForOperators(t *testing.T) {
	n, _ := withStoredKeys(t)
	k := decode[gateway.Key](t, n.do("POST", "/v1/keys", `{"name":"all but admin"}`, "X-API-Key", apiKey))
	for _, route := range []string{"GET /v1/keys", "POST /v1/keys", "DELETE /v1/keys/" + k.ID, "POST /v1/keys/" + k.ID + "/rotate", "GET /v1/cluster", "DELETE /v1/cluster/nodes/x"} {
		method, path, _ := strings.Cut(route, " ")
		if a := n.do(method, path, "", "X-API-Key", k.Key); a.status != 403 || !strings.Contains(a.body, "scope admin") {
			t.Errorf("%s: %d %s", route, a.status, a.body)
		}
		if a := n.do(method, path, ""); a.status != 401 {
			t.Errorf("%s without a key: %d %s", route, a.status, a.body)
		}
	}
	for _, route := range []string{"GET /v1/providers", "POST /v1/negotiate"} {
		method, path, _ := strings.Cut(route, " ")
		if a := n.do(method, path, "", "X-API-Key", k.Key); a.status != 200 {
			t.Errorf("%s: %d %s", route, a.status, a.body)
		}
	}
}

func TestTheMetricsHaveAScopeOfTheirOwn(t *testing.T) {
	n, _ := withStoredKeys(t)
	keyFor := func(fields string) []string {
		t.Helper()
		k := decode[gateway.Key](t, n.do("POST", "/v1/keys", `{"name":"x"`+fields+`}`, "X-API-Key", apiKey))
		return []string{"X-API-Key", k.Key}
	}
	collector := keyFor(`,"scopes":["metrics"]`)
	if a := n.do("GET", "/metrics", "", collector...); a.status != 200 || !strings.Contains(a.body, "athena_http_requests_total") {
		t.Errorf("what collects the metrics: %d %.300s", a.status, a.body)
	}
	for _, route := range []string{"GET /v1/keys", "GET /v1/cluster", "GET /v1/providers", "GET /v1/streams/" + protocol.NewStreamID(), "POST /v1/analyses"} {
		method, path, _ := strings.Cut(route, " ")
		if a := n.do(method, path, "", collector...); a.status != 403 {
			t.Errorf("%s by what collects the metrics: %d %s", route, a.status, a.body)
		}
	}
	if a := n.do("GET", "/metrics", "", keyFor(`,"scopes":["admin"]`)...); a.status != 200 {
		t.Errorf("an operator whose key is from before the scope: %d %s", a.status, a.body)
	}
	if a := n.do("GET", "/metrics", "", keyFor("")...); a.status != 403 || !strings.Contains(a.body, "scope metrics") {
		t.Errorf("a key for ordinary use: %d %s", a.status, a.body)
	}
}

func TestTheRecordsTellWhichKeyWasChangedAndNoSecret(t *testing.T) {
	var log safeBuffer
	n, _ := withStoredKeys(t, func(o *gateway.Options) { o.Audit = audit.To(&log, audit.Options{}) })
	root := []string{"X-API-Key", apiKey}
	k := decode[gateway.Key](t, n.do("POST", "/v1/keys", `{"name":"ci"}`, root...))
	for _, target := range []string{"/v1/keys/" + k.Key, "/v1/streams/" + k.Key} { // the key for its id, by mistake
		if a := n.do("DELETE", target, "", root...); a.status != 404 {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	n.do("DELETE", "/v1/keys/"+k.ID, "", root...)
	// Written when the exchange is over, which the client may know before.
	for deadline := time.Now().Add(10 * time.Second); strings.Count(log.String(), "\n") < 4 && time.Now().Before(deadline); {
		n.do("GET", "/healthz", "")
	}
	for _, want := range []string{`"route":"POST /v1/keys","key":"` + k.ID + `"`, `"route":"DELETE /v1/keys/{id}","key":"` + k.ID + `"`} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("no %s in\n%s", want, log.String())
		}
	}
	if all := log.String() + n.log.String(); strings.Contains(all, k.Key[20:]) || strings.Contains(all, k.Key[20:40]) {
		t.Errorf("the key is recorded:\n%s", all)
	}
}

func TestSeveralCredentialsInOneRequestAreRefused(t *testing.T) {
	n, _ := withStoredKeys(t)
	for _, header := range [][]string{{"X-API-Key", apiKey, "X-API-Key", "other"}, {"Authorization", "Bearer " + apiKey, "Authorization", "Bearer " + apiKey}} {
		if a := n.do("GET", "/v1/keys", "", header...); a.status != 401 || !strings.Contains(a.body, "several") {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

func FuzzKeyRequests(f *testing.F) {
	f.Add([]byte(`{"name":"ci","tenant":"acme","scopes":["read"],"expires_in":"24h"}`))
	f.Add([]byte(`{"expires_in":{}}x`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var req gateway.KeyRequest
		err := gateway.DecodeFields(b, &req)
		if e := new(protocol.Error); err != nil && (!errors.As(err, &e) || e.Code != protocol.CodeInvalidRequest || len(e.Detail) > 400) {
			t.Errorf("%q: %v", b, err)
		}
		if err == nil && !json.Valid(b) {
			t.Errorf("%q was taken", b)
		}
	})
}
