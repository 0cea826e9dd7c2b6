package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

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
	s.keys[id] = key.Reveal()
	s.last = []gateway.ProviderKey{{ID: id, Source: "stored", Weight: weight, State: "ok", Last4: key.Tail(), SetBy: by}}
	return nil
}

func (s *keyStore) Delete(context.Context, string, string) error { return s.fail }
func (s *keyStore) Check(context.Context, string, string) error  { return s.fail }

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
