package secrets_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/secrets"
)

// The credentials of the stand-in.
const (
	vaultToken  = "hvs.canary-token-0123456789"
	vaultSecret = "canary-secret-id-0123456789"
)

// A vault speaks the part of Vault's API that is used here.
type vault struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	data    map[string]map[string]any // guarded by mu: by MOUNT/PATH
	status  int                       // guarded by mu: of all answers, unless 0
	slow    chan struct{}             // guarded by mu: what answers wait for, unless nil
	logins  int                       // guarded by mu
	valid   map[string]bool           // guarded by mu: tokens
	denied  string                    // MOUNT/PATH that no token may read
	lease   int                       // guarded by mu: seconds
	sealing cipher.AEAD
}

func newVault(t *testing.T) *vault {
	sum := sha256.Sum256([]byte("transit"))
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		t.Fatal(err)
	}
	v := &vault{t: t, data: make(map[string]map[string]any), valid: map[string]bool{vaultToken: true}}
	if v.sealing, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		t.Fatal(err)
	}
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)
	return v
}

func (v *vault) do(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	slow := v.slow
	v.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-r.Context().Done():
			return
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	say := func(status int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	refuse := func(status int, why string) { say(status, map[string]any{"errors": []string{why}}) }
	var question map[string]string
	_ = json.NewDecoder(r.Body).Decode(&question)
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	switch {
	case !ok || r.Header.Get("X-Vault-Request") != "true":
		refuse(http.StatusBadRequest, "no request of a client")
	case v.status == http.StatusTemporaryRedirect:
		http.Redirect(w, r, "http://localhost:1/stolen", v.status)
	case v.status == http.StatusServiceUnavailable:
		refuse(v.status, "Vault is sealed")
	case v.status != 0:
		refuse(v.status, "permission denied")
	case path == "auth/approle/login" && question["role_id"] == "athena" && question["secret_id"] == vaultSecret,
		path == "auth/kubernetes/login" && question["role"] == "athena" && question["jwt"] == "canary.jwt.0123456789":
		v.logins++
		token := fmt.Sprintf("%s-%d", vaultToken, v.logins)
		v.valid[token] = true
		say(http.StatusOK, map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": v.lease, "renewable": true}})
	case !v.valid[r.Header.Get("X-Vault-Token")]:
		refuse(http.StatusForbidden, "permission denied")
	case strings.HasPrefix(path, "transit/encrypt/athena"):
		text, _ := base64.StdEncoding.DecodeString(question["plaintext"])
		bound, _ := base64.StdEncoding.DecodeString(question["associated_data"])
		sealed := v.sealing.Seal(nil, nil, text, bound) //nolint:gosec // G407: it makes the nonce itself
		say(http.StatusOK, map[string]any{"data": map[string]any{"ciphertext": "vault:v1:" + base64.StdEncoding.EncodeToString(sealed)}})
	case strings.HasPrefix(path, "transit/decrypt/athena"):
		sealed, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(question["ciphertext"], "vault:v1:"))
		bound, _ := base64.StdEncoding.DecodeString(question["associated_data"])
		text, err := v.sealing.Open(nil, nil, sealed, bound)
		if err != nil {
			refuse(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		say(http.StatusOK, map[string]any{"data": map[string]any{"plaintext": base64.StdEncoding.EncodeToString(text)}})
	default:
		mount, name, _ := strings.Cut(path, "/data/")
		if v.denied != "" && mount+"/"+name == v.denied {
			refuse(http.StatusForbidden, "permission denied")
			return
		}
		data, ok := v.data[mount+"/"+name]
		if !ok {
			refuse(http.StatusNotFound, "")
			return
		}
		say(http.StatusOK, map[string]any{"data": map[string]any{"data": data,
			"metadata": map[string]any{"created_time": "2026-11-27T00:00:00Z", "deletion_time": "", "destroyed": false, "version": 1}}})
	}
}

// client makes a client of v with a token, unless change says otherwise.
func (v *vault) client(change ...func(*secrets.VaultOptions)) *secrets.Vault {
	v.t.Helper()
	transport := &http.Transport{}
	v.t.Cleanup(transport.CloseIdleConnections)
	o := secrets.VaultOptions{Address: v.URL, Client: &http.Client{Transport: transport}, Token: vaultToken, Interval: 10 * time.Millisecond, Logger: zerolog.Nop()}
	for _, c := range change {
		c(&o)
	}
	c, err := secrets.NewVault(o)
	if err != nil {
		v.t.Fatal(err)
	}
	return c
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKeysOfVaultAreReadByEachWayToLogIn(t *testing.T) {
	v := newVault(t)
	v.data["secret/team/athena"] = map[string]any{"claude": "sk-canary-0123456789", "number": 7}
	for name, change := range map[string]func(*secrets.VaultOptions){
		"token":      func(*secrets.VaultOptions) {},
		"token file": func(o *secrets.VaultOptions) { o.Token, o.TokenFile = "", file(t, vaultToken+"\n") },
		"AppRole":    func(o *secrets.VaultOptions) { o.Token, o.RoleID, o.SecretID = "", "athena", vaultSecret },
		"AppRole by file": func(o *secrets.VaultOptions) {
			o.Token, o.RoleID, o.SecretIDFile = "", "athena", file(t, vaultSecret)
		},
		"Kubernetes": func(o *secrets.VaultOptions) {
			o.Token, o.KubernetesRole, o.KubernetesToken = "", "athena", file(t, "canary.jwt.0123456789")
		},
	} {
		r := secrets.NewRing("claude", nil)
		if err := v.client(change).Load(t.Context(), []secrets.VaultKey{{Ring: r, ID: "vault:1", Path: "secret/team/athena#claude"}}); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if texts(r) != "vault:1=sk-canary-0123456789" {
			t.Errorf("%s: %q", name, texts(r))
		}
	}
	for path, want := range map[string]string{"secret/team/athena#openai": `no text in the field "openai"`, "secret/team/athena#number": "no text", "secret/other#x": "no such secret"} {
		r := secrets.NewRing("claude", nil)
		if err := v.client().Load(t.Context(), []secrets.VaultKey{{Ring: r, ID: "vault:1", Path: path}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestATokenThatVaultRefusesIsReplacedOnce(t *testing.T) {
	v := newVault(t)
	v.data["secret/athena"] = map[string]any{"claude": "sk-canary-0123456789"}
	c := v.client(func(o *secrets.VaultOptions) { o.Token, o.RoleID, o.SecretID = "", "athena", vaultSecret })
	keys := []secrets.VaultKey{{Ring: secrets.NewRing("claude", nil), ID: "vault:1", Path: "secret/athena#claude"}}
	for range 3 {
		if err := c.Load(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
	}
	v.do(func() { clear(v.valid) }) // it was revoked
	if err := c.Load(t.Context(), keys); err != nil || v.logins != 2 {
		t.Errorf("%v after %d logins, want 2", err, v.logins)
	}
}

func TestAKeyThatMayNotBeReadCostsNoTokenEachTime(t *testing.T) {
	v := newVault(t)
	v.data["secret/athena"] = map[string]any{"claude": "sk-canary-0123456789"}
	v.denied = "secret/others"
	c := v.client(func(o *secrets.VaultOptions) { o.Token, o.RoleID, o.SecretID = "", "athena", vaultSecret })
	r := secrets.NewRing("claude", nil)
	keys := []secrets.VaultKey{{Ring: r, ID: "vault:1", Path: "secret/athena#claude"}, {Ring: r, ID: "vault:2", Path: "secret/others#claude"}}
	for range 20 {
		if err := c.Load(t.Context(), keys); err == nil || !strings.Contains(err.Error(), "permission denied") || r.Len() != 1 {
			t.Fatalf("%v, and %d keys", err, r.Len())
		}
	}
	if v.logins != 2 {
		t.Errorf("%d logins, want the first and one to try again", v.logins)
	}
	v.do(func() { clear(v.valid) }) // the token was revoked, which the other key shows
	if err := c.Load(t.Context(), keys[:1]); err != nil || v.logins != 3 {
		t.Errorf("%v after %d logins, want 3", err, v.logins)
	}
}

func TestKeysGoOnWhileVaultIsAwayAndTellNothing(t *testing.T) {
	v := newVault(t)
	v.data["secret/athena"] = map[string]any{"claude": "sk-canary-0123456789"}
	c := v.client(func(o *secrets.VaultOptions) { o.Timeout = 200 * time.Millisecond })
	r := secrets.NewRing("claude", nil)
	keys := []secrets.VaultKey{{Ring: r, ID: "vault:1", Path: "secret/athena#claude"}}
	if err := c.Load(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	for name, away := range map[string]struct {
		do   func()
		want string
	}{
		"forbidden": {func() { v.status = http.StatusForbidden }, "permission denied"},
		"sealed":    {func() { v.status = http.StatusServiceUnavailable }, "sealed"},
		"redirect":  {func() { v.status = http.StatusTemporaryRedirect }, "not followed"},
		"slow":      {func() { v.slow = make(chan struct{}) }, "deadline"},
	} {
		v.do(away.do)
		err := c.Load(t.Context(), keys)
		if err == nil || !strings.Contains(err.Error(), away.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
		if texts(r) != "vault:1=sk-canary-0123456789" {
			t.Errorf("%s: the key is gone: %q", name, texts(r))
		}
		v.do(func() { v.status, v.slow = 0, nil })
	}
	v.do(func() { delete(v.data, "secret/athena") })
	if err := c.Load(t.Context(), keys); err == nil || r.Len() != 0 {
		t.Errorf("a key that was deleted in Vault is used on: %v", err)
	}
}

func TestAKeyThatChangesInVaultIsTakenOver(t *testing.T) {
	v := newVault(t)
	v.data["secret/athena"] = map[string]any{"claude": "sk-canary-one-0123456789"}
	r := secrets.NewRing("claude", nil)
	keys := []secrets.VaultKey{{Ring: r, ID: "vault:1", Path: "secret/athena#claude"}}
	c := v.client()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx, keys) }()
	defer func() { cancel(); <-done }()
	for _, want := range []string{"sk-canary-one-0123456789", "sk-canary-two-0123456789"} {
		v.do(func() { v.data["secret/athena"] = map[string]any{"claude": want} })
		for deadline := time.Now().Add(30 * time.Second); texts(r) != "vault:1="+want; {
			if time.Now().After(deadline) {
				t.Fatalf("still %q", texts(r))
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func TestVaultsTransitEngineIsAMasterKeyThatStaysThere(t *testing.T) {
	v := newVault(t)
	m := v.client().Transit("transit/athena")
	b := sealed(t, "claude", "team-a", m)
	if text, err := open(t, b, []secrets.Master{m}); err != nil || text != "sk-canary-0123456789abcdef" {
		t.Fatalf("%q, %v", text, err)
	}
	moved := strings.Replace(string(b), `"id":"team-a"`, `"id":"team-b"`, 1)
	if _, err := open(t, []byte(moved), []secrets.Master{m}); !errors.Is(err, secrets.ErrSealed) {
		t.Errorf("moved: %v", err)
	}
	v.do(func() { v.status = http.StatusServiceUnavailable })
	if _, err := open(t, b, []secrets.Master{m}); !errors.Is(err, secrets.ErrMaster) || errors.Is(err, secrets.ErrSealed) {
		t.Errorf("while Vault is sealed: %v; want an error that passes", err)
	}
}
