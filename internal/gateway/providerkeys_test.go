package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/audit"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/auth/authtest"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/protocol"
)

// keyStore is a gateway.ProviderKeys in memory, of one provider.
type keyStore struct {
	mu   sync.Mutex
	keys map[string]string // guarded by mu
	last []gateway.ProviderKey
	fail error
	// panics is what Delete does instead, with the newest key.
	panics func(*secrets.Key)
	newest *secrets.Key
}

var _ gateway.ProviderKeys = (*keyStore)(nil)

func (s *keyStore) List(_ context.Context, provider string) ([]gateway.ProviderKey, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if provider != "claude" {
		return nil, "", protocol.Errorf(protocol.CodeInvalidRequest, "there is no provider %q", provider)
	}
	return s.last, "", s.fail
}

func (s *keyStore) Set(_ context.Context, _, id string, weight int, key *secrets.Key, by string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.keys[id], s.newest = key.Reveal(), key
	s.last = []gateway.ProviderKey{{ID: id, Source: "stored", Weight: weight, State: "ok", Last4: key.Tail(), SetBy: by}}
	return nil
}

func (s *keyStore) Delete(context.Context, string, string) error {
	if s.panics != nil {
		s.panics(s.newest)
	}
	return s.fail
}
func (s *keyStore) Check(context.Context, string, string) error { return s.fail }

// send makes a request with the key of a client.
func (n *node) send(t *testing.T, method, path, body, key string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var said json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil && resp.StatusCode != http.StatusNoContent {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(said)
}

func TestKeysOfProvidersAreSetByWhoHasCredentialsAndNeverToldAgain(t *testing.T) {
	store := &keyStore{keys: make(map[string]string)}
	n := start(t, true, func(o *gateway.Options) { o.ProviderKeys = store })
	const path = "/v1/providers/claude/keys"
	for _, c := range [][3]string{{"GET", path, ""}, {"PUT", path + "/a", `{"key":"sk-canary-0123456789"}`}, {"DELETE", path + "/a", ""}, {"POST", path + "/a/check", ""}} {
		if status, said := n.send(t, c[0], c[1], c[2], ""); status != http.StatusUnauthorized || len(store.keys) > 0 {
			t.Errorf("%s without credentials: %d %s", c[0], status, said)
		}
	}
	if status, said := n.send(t, "PUT", path+"/a", `{"key":" sk-c\u0061nary-0123456789\n","weight":4}`, apiKey); status != http.StatusOK ||
		!strings.Contains(said, `"weight":4`) || !strings.Contains(said, `"set_by":"ada"`) || strings.Contains(said, "canary") {
		t.Errorf("%d %s", status, said)
	}
	if store.keys["a"] != "sk-canary-0123456789" {
		t.Errorf("set was %q", store.keys["a"])
	}
	if status, said := n.send(t, "GET", path, "", apiKey); status != http.StatusOK || strings.Contains(said, "canary") {
		t.Errorf("%d %s", status, said)
	}
	for _, c := range [][2]string{{"DELETE", path + "/a"}, {"POST", path + "/a/check"}} {
		if status, said := n.send(t, c[0], c[1], "", apiKey); status >= 300 {
			t.Errorf("%s: %d %s", c[0], status, said)
		}
	}
	for _, body := range []string{"", "x", "[]", `{"key":"sk-canary-0123456789"`, `{"key":"sk canary"}`, `{"key":["sk-canary"]}`, `{"key":"sk-canary","weight":"1"}`, `{"key":"sk-canary\u0000"}`,
		`{"key":"` + strings.Repeat("x", 100<<10) + `"}`} {
		if status, said := n.send(t, "PUT", path+"/a", body, apiKey); status != http.StatusBadRequest || strings.Contains(said, "canary") {
			t.Errorf("%.40s: %d %s", body, status, said)
		}
	}
	store.fail = errors.New("canary of the inside")
	if status, said := n.send(t, "PUT", path+"/a", `{"key":"sk-canary-0123456789"}`, apiKey); status != http.StatusInternalServerError || strings.Contains(said, "canary") {
		t.Errorf("%d %s", status, said)
	}
	if log := n.log.String(); strings.Contains(log, "sk-canary") {
		t.Error("the log tells a key")
	}
}

func TestAHandlerThatPanicsSaysWhyWithoutTheKey(t *testing.T) {
	store := &keyStore{keys: make(map[string]string)}
	n := start(t, true, func(o *gateway.Options) { o.ProviderKeys = store })
	const path = "/v1/providers/claude/keys/a"
	if status, said := n.send(t, "PUT", path, `{"key":"sk-canary-0123456789"}`, apiKey); status != http.StatusOK {
		t.Fatalf("%d %s", status, said)
	}
	for want, panics := range map[string]func(*secrets.Key){
		"redacted":           func(k *secrets.Key) { panic(k) },
		"with [redacted]":    func(k *secrets.Key) { panic(fmt.Errorf("with %s", k)) },
		"index out of range": func(k *secrets.Key) { _ = []byte(k.Reveal())[len(k.Tail())*100] },
	} {
		store.panics = panics
		if status, said := n.send(t, "DELETE", path, "", apiKey); status != http.StatusInternalServerError || strings.Contains(said, "canary") {
			t.Errorf("%s: %d %s", want, status, said)
		}
		if log := n.log.String(); !strings.Contains(log, want) || strings.Contains(log, "sk-canary") {
			t.Errorf("%s: the log has %s", want, log)
		}
	}
}

func TestTheRecordTellsWhichKeyOfWhichProviderWasChangedAndByWhom(t *testing.T) {
	var log safeBuffer
	store := &keyStore{keys: make(map[string]string)}
	ring, err := auth.OpenKeyring(t.Context(), auth.KeyringOptions{Store: authtest.NewStore()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ring.Close)
	n := start(t, true, func(o *gateway.Options) {
		o.Audit, o.ProviderKeys, o.Keys = audit.To(&log, audit.Options{}), store, ring
	})
	const path = "/v1/providers/claude/keys/team-a"
	n.send(t, "PUT", path, `{"key":"sk-canary-0123456789"}`, apiKey)
	n.send(t, "POST", path+"/check", "", apiKey)
	n.send(t, "DELETE", path, "", apiKey)
	_, said := n.send(t, "POST", "/v1/keys", `{"name":"ci"}`, apiKey)
	var made gateway.Key
	if err := json.Unmarshal([]byte(said), &made); err != nil || made.ID == "" {
		t.Fatalf("%s: %v", said, err)
	}
	n.send(t, "DELETE", "/v1/keys/"+made.ID, "", apiKey)
	n.send(t, "DELETE", "/v1/cluster/nodes/gone", "", apiKey)
	wants := []string{
		`"route":"PUT /v1/providers/{name}/keys/{id}","key":"team-a"`, `"route":"POST /v1/providers/{name}/keys/{id}/check","key":"team-a"`,
		`"route":"DELETE /v1/providers/{name}/keys/{id}","key":"team-a"`, `"route":"POST /v1/keys","key":"` + made.ID + `"`,
		`"route":"DELETE /v1/keys/{id}","key":"` + made.ID + `"`, `"route":"DELETE /v1/cluster/nodes/{name}","peer":"gone"`,
	}
	// Written when the exchange is over, which the client may know before.
	for deadline := time.Now().Add(10 * time.Second); strings.Count(log.String(), "\n") < len(wants) && time.Now().Before(deadline); {
		n.do("GET", "/healthz", "")
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != len(wants) || strings.Contains(log.String(), "canary") || strings.Contains(log.String(), made.Key) || strings.Contains(log.String(), `"stream"`) {
		t.Fatalf("%d lines:\n%s", len(lines), log.String())
	}
	for i, want := range wants {
		line := lines[max(slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, want) }), 0)]
		if !strings.Contains(line, want) || !strings.Contains(line, `"caller":"ada"`) || i < 3 != strings.Contains(line, `"provider":"claude"`) {
			t.Errorf("%s\nwant %s", line, want)
		}
	}
}

func TestKeysOfProvidersAreForOperators(t *testing.T) {
	store := &keyStore{keys: make(map[string]string)}
	ring, err := auth.OpenKeyring(t.Context(), auth.KeyringOptions{Store: authtest.NewStore()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ring.Close)
	a, err := auth.New([]auth.Key{{Name: "root", Secret: apiKey}}, auth.Options{Stored: ring})
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, true, func(o *gateway.Options) { o.Auth, o.Keys, o.ProviderKeys = a, ring, store })
	all, _, err := ring.Create(t.Context(), auth.NewKey{Name: "all but admin", Scopes: auth.DefaultScopes})
	if err != nil {
		t.Fatal(err)
	}
	shared, _, err := ring.Share(t.Context(), auth.Identity{Name: "root", Scopes: auth.AllScopes, Credential: "static:root"}, protocol.NewStreamID(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	const path = "/v1/providers/claude/keys"
	for _, key := range []string{all, shared} {
		for _, c := range [][3]string{{"GET", path, ""}, {"PUT", path + "/a", `{"key":"sk-canary-0123456789"}`}, {"DELETE", path + "/a", ""}, {"POST", path + "/a/check", ""}} {
			if status, said := n.send(t, c[0], c[1], c[2], key); status != http.StatusForbidden || !strings.Contains(said, "scope admin") || len(store.keys) > 0 {
				t.Errorf("%s %s: %d %s", c[0], c[1], status, said)
			}
		}
	}
}
