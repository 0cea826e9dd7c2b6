//go:build unix

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// testMaster and otherMaster are master keys of the tests, of no use elsewhere.
const (
	testMaster  = "dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0="
	otherMaster = "P8TM/nRYcOLA2Z9x8w/wZWyN7dQcwdfT03aw2+aF4vM="
)

// A gate stands before a model's server, and answers by the key that a call
// brings.
type gate struct {
	URL string

	mu     sync.Mutex
	status map[string]int // guarded by mu: of keys that are not let through
	only   bool           // guarded by mu: keys that are not in status are refused
	asked  []string       // guarded by mu: the keys of the calls for answers
}

// gated starts one before up.
func gated(t *testing.T, up http.Handler) *gate {
	t.Helper()
	g := &gate{status: make(map[string]int)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("X-Api-Key") + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		g.mu.Lock()
		status, known := g.status[key]
		if g.only && !known {
			status = http.StatusUnauthorized
		}
		if r.Method == http.MethodPost {
			g.asked = append(g.asked, key)
		}
		g.mu.Unlock()
		if status != 0 && status != http.StatusOK && (status == http.StatusUnauthorized || r.Method == http.MethodPost) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			// Providers repeat what they were sent.
			_, _ = w.Write([]byte(`{"error":{"type":"some_error","message":"not with the key ` + key + `"}}`))
			return
		}
		up.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	g.URL = srv.URL
	return g
}

func (g *gate) set(key string, status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status[key] = status
}

// keys are those of the calls for answers since the last time.
func (g *gate) keys() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := strings.Join(g.asked, " ")
	g.asked = nil
	return all
}

// listKeys returns a provider's keys by id.
func (s *server) listKeys(provider string) map[string]gateway.ProviderKey {
	s.t.Helper()
	r := s.do("GET", "/v1/providers/"+provider+"/keys", "")
	all := make(map[string]gateway.ProviderKey)
	for _, k := range decode[struct{ Keys []gateway.ProviderKey }](s.t, r).Keys {
		all[k.ID] = k
	}
	return all
}

// ask runs an analysis to its end, by claude.
func (s *server) ask() *protocol.Transcript {
	s.t.Helper()
	r := s.do("POST", "/v1/analyses", `{"code":"package p","provider":"claude","cache":"bypass","options":{"degrade":false}}`)
	if r.status != http.StatusCreated {
		s.t.Fatalf("%d %s", r.status, r.body)
	}
	return s.read(protocol.TransportSSE, decode[protocol.Metadata](s.t, r).ID)
}

func TestAKeyThatIsSetWhileTheServerRunsIsUsedAtOnceAndOutlivesARestart(t *testing.T) {
	t.Parallel()
	g := gated(t, upstream(t, answer(0, "fine")))
	g.only = true
	g.set("sk-canary-one-0123456789", http.StatusOK)
	s := serve(t, []string{"ANTHROPIC_BASE_URL=" + g.URL, "ATHENA_MASTER_KEY=" + testMaster})
	r := s.do("PUT", "/v1/providers/claude/keys/team-a", `{"key":"sk-canary-one-0123456789","weight":3}`)
	if k := decode[gateway.ProviderKey](t, r); r.status != http.StatusOK || k.ID != "team-a" || k.Source != "stored" || k.Weight != 3 || k.Last4 != "6789" ||
		k.State != "ok" || k.Checked.IsZero() || k.Error != nil || k.SetBy != "anonymous" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	wantEnd(t, s.ask(), protocol.TypeCompleted, `"finish_reason"`)
	s.stop()
	s.start()
	wantEnd(t, s.ask(), protocol.TypeCompleted, `"finish_reason"`)
	if got := g.keys(); got != "sk-canary-one-0123456789 sk-canary-one-0123456789" {
		t.Errorf("the calls were made with %q", got)
	}
	r = s.do("PUT", "/v1/providers/claude/keys/team-b", `{"key":"sk-canary-two-0123456789"}`)
	if k := decode[gateway.ProviderKey](t, r); r.status != http.StatusOK || k.State != "refused" || k.Error == nil || k.Error.Code != protocol.CodeUnauthorized {
		t.Errorf("a key that the provider refuses: %d %s", r.status, r.body)
	}
	g.set("sk-canary-two-0123456789", http.StatusOK)
	r = s.do("POST", "/v1/providers/claude/keys/team-b/check", "")
	if k := decode[gateway.ProviderKey](t, r); r.status != http.StatusOK || k.State != "ok" || k.Error != nil {
		t.Errorf("a key that was mended and checked: %d %s", r.status, r.body)
	}
	if r := s.do("DELETE", "/v1/providers/claude/keys/team-a", ""); r.status != http.StatusNoContent {
		t.Errorf("delete: %d %s", r.status, r.body)
	}
	wantEnd(t, s.ask(), protocol.TypeCompleted, `"finish_reason"`)
	if got := g.keys(); got != "sk-canary-two-0123456789" {
		t.Errorf("the call was made with %q", got)
	}
	wantProblem(t, s.do("DELETE", "/v1/providers/claude/keys/team-a", ""), http.StatusBadRequest, protocol.CodeInvalidRequest)
	wantProblem(t, s.do("PUT", "/v1/providers/nobody/keys/a", `{"key":"sk-canary"}`), http.StatusBadRequest, protocol.CodeInvalidRequest)
	for _, bad := range []string{"", "{}", `{"key":""}`, `{"key":"two words"}`, `{"key":7}`, `{"key":"sk-x","weight":-1}`, `{"key":"sk-\u000ax"}`} {
		wantProblem(t, s.do("PUT", "/v1/providers/claude/keys/a", bad), http.StatusBadRequest, protocol.CodeInvalidRequest)
	}
}

func TestACallGoesOnWithTheNextKeyWhenOneIsRefused(t *testing.T) {
	g := gated(t, upstream(t, answer(0, "fine")))
	g.set("sk-canary-bad-0123456789", http.StatusUnauthorized)
	file := filepath.Join(t.TempDir(), "athena.yaml")
	keyFile := filepath.Join(t.TempDir(), "key")
	for path, text := range map[string]string{keyFile: "# of the team\nsk-canary-file-0123456789\n", file: `
providers:
  claude:
    base_url: ` + g.URL + `
    models: m
    keys:
      - {id: bad, key: sk-canary-bad-0123456789, weight: 5}
      - {env: MY_CLAUDE_KEY}
      - {id: team, file: ` + keyFile + `}
`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, []string{"MY_CLAUDE_KEY=sk-canary-env-0123456789"}, "--config", file, "--health-interval", "0", "--key-file-interval", "100ms")
	for range 4 {
		wantEnd(t, s.ask(), protocol.TypeCompleted, `"finish_reason"`)
	}
	asked := g.keys()
	if strings.Count(asked, "bad") != 1 || strings.Count(asked, "env") != 2 || strings.Count(asked, "file") != 2 {
		t.Errorf("the calls were made with %q", asked)
	}
	g.set("sk-canary-env-0123456789", http.StatusTooManyRequests)
	for range 2 {
		wantEnd(t, s.ask(), protocol.TypeCompleted, `"finish_reason"`)
	}
	keys := s.listKeys("claude")
	if keys["config:bad"].State != "refused" || keys["env:MY_CLAUDE_KEY"].Rests != 1 || keys["file:team"].State != "ok" || keys["file:team"].Source != "file" {
		t.Errorf("keys are %+v", keys)
	}
	metrics := s.do("GET", "/metrics", "").body
	if !strings.Contains(metrics, `athena_provider_key_state{key="config:bad",provider="claude",state="refused"} 1`) {
		t.Error("no metric tells of the refused key")
	}
	wantProblem(t, s.do("PUT", "/v1/providers/claude/keys/a", `{"key":"sk-canary"}`), http.StatusBadRequest, protocol.CodeInvalidRequest)

	if err := os.WriteFile(keyFile, []byte("sk-canary-newer-0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		g.keys()
		s.ask()
		if strings.Contains(g.keys(), "newer") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the file's new key is not used")
		}
	}
}

func TestAKeyThatIsSetOnOneNodeIsUsedOnAllWithinASecond(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three nodes")
	}
	g := gated(t, upstream(t, answer(0, "fine")))
	g.only = true
	nodes := together(t, []string{"one", "two", "three"}, "--master-key", testMaster, "--config", write(t, "providers: {claude: {base_url: "+g.URL+"}}"))
	g.set("sk-canary-one-0123456789", http.StatusOK)
	begin := time.Now()
	r := nodes.nodes[0].do("PUT", "/v1/providers/claude/keys/team-a", `{"key":"sk-canary-one-0123456789"}`)
	if r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for _, s := range nodes.nodes[1:] {
		for s.listKeys("claude")["team-a"].State != "ok" {
			if time.Since(begin) > patience {
				t.Fatal("the key does not come to the other nodes")
			}
		}
		wantEnd(t, s.ask(), protocol.TypeCompleted, `"finish_reason"`)
	}
	if took := time.Since(begin); took > 10*time.Second { // a slow machine; what is meant is a second
		t.Errorf("it took %s until every node used the key", took)
	} else {
		t.Logf("every node had used the key after %s", took)
	}
	if r := nodes.nodes[2].do("DELETE", "/v1/providers/claude/keys/team-a", ""); r.status != http.StatusNoContent {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for begin := time.Now(); len(nodes.nodes[0].listKeys("claude")) > 0; {
		if time.Since(begin) > patience {
			t.Fatal("the key stays on another node")
		}
	}
}

func TestAProviderWithoutAKeyIsLeftOutUntilItHasOne(t *testing.T) {
	claude, openai := gated(t, upstream(t, answer(0, "by claude"))), gated(t, upstream(t, answer(0, "by openai")))
	claude.only = true
	vault := vaultOf(t, nil)
	s := serve(t, []string{"OPENAI_API_KEY=sk-canary-0123456789", "OPENAI_BASE_URL=" + openai.URL, "ATHENA_MASTER_KEY=" + testMaster, "ATHENA_VAULT_TOKEN=" + canaries["token of Vault"]},
		"--vault-addr", vault, "--config", write(t, `providers: {claude: {models: m, base_url: "`+claude.URL+`", keys: [{vault: "secret/athena#claude"}]}}`))
	ask := func() string {
		id := s.begin()
		tr := s.read(protocol.TransportSSE, id)
		wantEnd(t, tr, protocol.TypeCompleted, `"finish_reason"`)
		return tr.Text()
	}
	if said := ask(); said != "by openai" || claude.keys() != "" {
		t.Errorf("%q was said", said)
	}
	list := s.do("GET", "/v1/providers", "").body
	if !strings.Contains(list, `"name":"claude","dialect":"claude","version":"2023-06-01","priority":10,"weight":1,"state":"down"`) || !strings.Contains(list, `"no_key":true`) {
		t.Errorf("providers are %s", list)
	}
	claude.set("sk-canary-one-0123456789", http.StatusOK)
	if r := s.do("PUT", "/v1/providers/claude/keys/a", `{"key":"sk-canary-one-0123456789"}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if said := ask(); said != "by claude" {
		t.Errorf("%q was said, once there was a key", said)
	}
}

func TestTheMasterKeyIsReplacedByRestartsAndALostOneIsSaid(t *testing.T) {
	t.Parallel()
	g := gated(t, upstream(t, answer(0, "fine")))
	g.only = true
	g.set("sk-canary-one-0123456789", http.StatusOK)
	s := serve(t, nil, "--config", write(t, `providers: {claude: {models: m, base_url: "`+g.URL+`"}}`), "--master-key", testMaster)
	if r := s.do("PUT", "/v1/providers/claude/keys/a", `{"key":"sk-canary-one-0123456789"}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	restart := func(masters string) {
		t.Helper()
		s.stop()
		s.args[len(s.args)-1] = masters
		s.start()
	}
	restart(otherMaster + "," + testMaster)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.process.waitLog(ctx, "sealed anew under the first master key"); err != nil {
		t.Fatal(err)
	}
	restart(otherMaster)
	wantEnd(t, s.ask(), protocol.TypeCompleted, `"finish_reason"`)

	restart(testMaster)
	if k := s.listKeys("claude")["a"]; k.State != "sealed" || k.Error == nil || !strings.Contains(k.Error.Detail, "master key") {
		t.Errorf("without its master key: %+v", k)
	}
	if r := s.do("PUT", "/v1/providers/claude/keys/a", `{"key":"sk-canary-one-0123456789"}`); r.status != http.StatusOK {
		t.Errorf("setting it again: %d %s", r.status, r.body)
	}
	wantEnd(t, s.ask(), protocol.TypeCompleted, `"finish_reason"`)
}

// write keeps text in a file of the test.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "athena.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAVaultThatDoesNotAnswerDoesNotHoldUpTheStartForEachKey(t *testing.T) {
	var asked atomic.Int64
	vault := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	}))
	t.Cleanup(vault.Close)
	var keys strings.Builder
	const n = 60
	for i := range n {
		fmt.Fprintf(&keys, "      - {vault: \"secret/athena#%d\"}\n", i)
	}
	file := write(t, "providers:\n  claude:\n    keys:\n"+keys.String())
	serve(t, []string{"ATHENA_VAULT_TOKEN=x"}, "--config", file, "--vault-addr", vault.URL, "--vault-timeout", "500ms")
	if got := asked.Load(); got > n/2 { // two, and some that are asked later on a slow machine
		t.Errorf("it was ready after %d questions", got)
	}
}
