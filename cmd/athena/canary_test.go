//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// canaries are secrets that must not come up in anything that a server says or
// stores, by where they come from. A further kind of secret is a line here, and
// its use below. Each has characters that URLs and some encodings escape.
var canaries = map[string]string{
	"provider key of a variable":    "sk-canary+VARIABLE/Qx7Zp3Lm9Rt2=",
	"provider key of the file":      "sk-canary+CONFIG/Bw5Kd8Ns1Vh6Jf4=",
	"provider key of a key file":    "sk-canary+KEYFILE/Ty4Gc0Xe7Pq2Wm=",
	"provider key of Vault":         "sk-canary+VAULT/Hn6Lr9Ud3Ia8Ob5=",
	"provider key that is stored":   "sk-canary+STORED/Mk1Fv4Sz7Cj2Ey=",
	"provider key that is refused":  "sk-canary+REFUSED/Dg8Pt5Nw0Xr3=",
	"header of a provider":          "canary+HEADER/Zs2Ql6Jb9Hk4Vn7",
	"API key of a client":           "canary+CLIENT/Wc3Yf8Re5Tm1Gu6",
	"API key that nobody knows":     "canary+UNKNOWN/Lp9Xd4Aq7Ki2Bs",
	"master key":                    testMaster,
	"master key before it":          otherMaster,
	"secret of the cluster":         clusterSecret,
	"token of Vault":                "hvs.canaryTOKENEo5Iu1Kw9Zg3Cp8",
	"password of an address":        "canaryPASSWORDJr7Xn3Lt6Qv1Ms",
	"query of a provider's address": "canaryQUERYUa4Wz8Bh2Dk5Yf9",
}

// forms are how a secret may stand in a text, each with a name.
func forms(secret string) map[string]string {
	quoted, _ := json.Marshal(secret)
	all := map[string]string{
		"plain": secret, "a part of it": secret[len(secret)/2 : len(secret)-4], "hexadecimal": hex.EncodeToString([]byte(secret)), "HEXADECIMAL": strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"URL": url.QueryEscape(secret), "path of a URL": url.PathEscape(secret), "JSON": strings.Trim(string(quoted), `"`), "bytes": strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"),
	}
	for shift := range 3 { // what stands before it moves the base64 of it
		for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := encoding.EncodeToString([]byte(strings.Repeat("x", shift) + secret))
			all[fmt.Sprintf("%s, moved by %d", name, shift)] = text[4 : len(text)-4]
		}
	}
	return all
}

// tells fails the test if text has one of the canaries in it.
func tells(t *testing.T, where string, text []byte) {
	t.Helper()
	for source, secret := range canaries {
		for form, s := range forms(secret) {
			if i := bytes.Index(text, []byte(s)); i >= 0 {
				t.Errorf("%s: the %s is told (%s): …%q…", where, source, form, text[max(i-120, 0):min(i+20, len(text))])
				break
			}
		}
	}
}

func TestTheFormsOfACanaryAreFound(t *testing.T) {
	secret := canaries["provider key of a variable"]
	for form, text := range map[string]string{
		"in a header": "Authorization: Bearer " + secret, "basic": base64.StdEncoding.EncodeToString([]byte("user:" + secret)),
		"hex": fmt.Sprintf("%x", "key="+secret), "URL": "?key=" + url.QueryEscape(secret), "cut": secret[:len(secret)-4] + "…", "half hidden": "[hidden]" + secret[9:],
	} {
		found := false
		for _, s := range forms(secret) {
			found = found || strings.Contains(text, s)
		}
		if !found {
			t.Errorf("%s: %s is not found", form, text)
		}
	}
}

// echo is a model's server that repeats what it was sent in errors of each kind,
// in turn, unless the key is let through.
func echo(t *testing.T, up http.Handler) string {
	t.Helper()
	refused := canaries["provider key that is refused"]
	calls := make(chan int, 1)
	calls <- 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("X-Api-Key") + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		n := <-calls
		calls <- n + 1
		said := fmt.Sprintf("key %s, header %s, address %s", key, r.Header.Get("X-Proxy-Token"), r.URL)
		switch {
		case key == refused:
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprintf(w, `{"error":{"type":"authentication_error","message":%q}}`, said)
		case r.Method != http.MethodPost || !strings.Contains(r.URL.Path, "bad"):
			up.ServeHTTP(w, r)
		case n%5 == 0:
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = fmt.Fprint(w, said)
		case n%5 == 1:
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = fmt.Fprintf(w, `{"error":{"type":"rate_limit_error","message":%q}}`, said)
		case n%5 == 2:
			http.Redirect(w, r, "http://127.0.0.1:1/"+url.PathEscape(key), http.StatusFound)
		case n%5 == 3:
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":%q}}\n\n", said)
		default:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"error":{"type":"invalid_request_error","message":%q}}`, said)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// vaultOf answers for one secret of Vault.
func vaultOf(t *testing.T, fields map[string]string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != canaries["token of Vault"] || r.URL.Path != "/v1/secret/data/athena" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprintf(w, `{"errors":["permission denied for %s"]}`, r.Header.Get("X-Vault-Token"))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"data": fields, "metadata": map[string]any{
			"created_time": "2026-11-27T00:00:00Z", "deletion_time": "", "destroyed": false, "version": 1}}})
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestNothingThatAServerSaysOrStoresTellsASecret(t *testing.T) {
	logs, data := t.TempDir(), t.TempDir()
	t.Setenv(logsVariable, logs)
	at := echo(t, upstream(t, answer(0, "fine")))
	keyFile := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keyFile, []byte(canaries["provider key of a key file"]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := write(t, fmt.Sprintf(`
providers:
  claude:
    base_url: %[1]s
    models: m
    headers: {X-Proxy-Token: %[2]q}
    keys:
      - {id: refused, key: %[3]q, weight: 9}
      - {id: own, key: %[4]q}
      - {id: file, file: %[5]q}
      - {vault: "secret/athena#claude"}
  bad:
    dialect: claude
    base_url: %[1]s/bad
    models: m
    headers: {X-Proxy-Token: %[2]q}
    keys: [{key: %[4]q}, {id: two, file: %[5]q}]
`, at, canaries["header of a provider"], canaries["provider key that is refused"], canaries["provider key of the file"], keyFile))
	client := canaries["API key of a client"]
	s := serve(t, []string{
		"OPENAI_API_KEY=" + canaries["provider key of a variable"], "OPENAI_BASE_URL=" + at, "ATHENA_API_KEY=ada=" + client,
		"ATHENA_MASTER_KEY=" + testMaster + "," + otherMaster, "ATHENA_VAULT_TOKEN=" + canaries["token of Vault"],
	}, "--config", file, "--log-level", "trace", "--vault-addr", vaultOf(t, map[string]string{"claude": canaries["provider key of Vault"]}),
		"--data-dir", data, "--max-attempts", "3", "--vault-interval", "1s",
		"--retry-backoff", "1ms", "--retry-backoff-max", "2ms", "--rate-limit-wait", "10ms")
	do := func(method, path, body string, header ...string) reply {
		t.Helper()
		if len(header) == 0 {
			header = []string{"Authorization", "Bearer " + client}
		}
		r := s.do(method, path, body, header...)
		said := []byte(fmt.Sprint(r.status, r.header, r.body))
		tells(t, method+" "+path, said)
		return r
	}
	stored := canaries["provider key that is stored"]
	if r := do("PUT", "/v1/providers/claude/keys/team-a", `{"key":"`+stored+`"}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if r := do("PUT", "/v1/providers/openai/keys/team-a", `{"key":"`+canaries["provider key that is refused"]+`"}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	// Analyses that succeed, with each key, and that fail in each way.
	for _, provider := range []string{"claude", "claude", "claude", "claude", "claude", "openai", "openai", "bad", "bad", "bad", "bad", "bad", "bad", "bad", "auto"} {
		r := do("POST", "/v1/analyses", `{"code":"package p","provider":"`+provider+`","cache":"bypass"}`)
		id := decode[protocol.Metadata](t, r).ID
		do("GET", "/v1/streams/"+id+"/events", "", "Authorization", "Bearer "+client, "Accept", "text/event-stream")
		do("GET", "/v1/streams/"+id, "")
	}
	// Requests that put a secret where it doesn't belong, or that nobody may make.
	for _, body := range []string{`{"key":"` + stored, `{"key":"` + stored + ` "x}`, `{"kee":"` + stored + `"}`, `{"key":"` + stored + ` and more"}`, stored, `{"key":"` + stored + `","weight":"` + stored + `"}`} {
		if r := do("PUT", "/v1/providers/claude/keys/bad", body); r.status != http.StatusBadRequest {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	for _, header := range [][]string{{"Authorization", "Bearer " + canaries["API key that nobody knows"]}, {"X-API-Key", canaries["API key that nobody knows"]},
		{"Authorization", canaries["API key that nobody knows"]}} {
		if r := do("GET", "/v1/providers", "", header...); r.status != http.StatusUnauthorized {
			t.Errorf("%v: %d", header[:1], r.status)
		}
	}
	do("GET", "/v1/providers?api_key="+url.QueryEscape(client), "", "User-Agent", "x")
	do("GET", "/v1/events?ticket="+url.QueryEscape(client), "", "User-Agent", "x")
	for _, key := range []string{"config:refused", "config:own", "file:file", "vault:4", "team-a", "nobody"} {
		do("POST", "/v1/providers/claude/keys/"+key+"/check", "")
	}
	for _, path := range []string{"/v1/providers", "/v1/providers/claude/keys", "/v1/providers/openai/keys", "/v1/providers/bad/keys", "/v1/cluster", "/metrics", "/healthz", "/readyz", "/", "/nothing"} {
		do("GET", path, "")
	}
	// A check may have found the refused one out before any call.
	if keys := do("GET", "/v1/providers/claude/keys", "").body; strings.Count(keys, `"calls":0`) > 1 || strings.Count(keys, `"id":`) != 5 {
		t.Errorf("not every key was used: %s", keys)
	}
	do("DELETE", "/v1/providers/openai/keys/team-a", "")

	s.crash()
	text := readAll(t, logs)
	if !bytes.Contains(text, []byte("goroutine ")) || !bytes.Contains(text, []byte(`"level":"debug"`)) {
		t.Errorf("the log is not what it is meant to be: %.300s", text)
	}
	tells(t, "the log", text)
	tells(t, "the data", readAll(t, data))
}

// crash has the process say what a crash would: all goroutines, with their
// arguments.
func (s *server) crash() {
	s.t.Helper()
	p := s.process
	s.process = nil
	if err := p.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		s.t.Fatal(err)
	}
	_ = p.end() // it ends badly, as it was told to
}

func TestNoNodeOfAClusterTellsASecret(t *testing.T) {
	logs := t.TempDir()
	t.Setenv(logsVariable, logs)
	stored := canaries["provider key that is stored"]
	g := together(t, []string{"one", "two"}, "--log-level", "trace", "--master-key", testMaster)
	if r := g.nodes[0].do("PUT", "/v1/providers/openai/keys/team-a", `{"key":"`+stored+`","weight":100}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for i, s := range g.nodes {
		for begin := time.Now(); s.listKeys("openai")["team-a"].State != "ok"; {
			if time.Since(begin) > patience {
				t.Fatal("the key doesn't come to the other node")
			}
		}
		code := fmt.Sprintf("code of %d", i)
		g.answers(code, answer(0, "fine"))
		id := s.beginCode(code)
		for _, other := range g.nodes {
			other.read(protocol.TransportWebSocket, id)
		}
		for _, path := range []string{"/v1/cluster", "/metrics", "/v1/providers", "/v1/providers/openai/keys"} {
			tells(t, path, []byte(s.do("GET", path, "").body))
		}
	}
	for _, s := range g.nodes {
		s.crash()
		tells(t, "the data of a node", readAll(t, s.flag("--data-dir")))
	}
	text := readAll(t, logs)
	if !bytes.Contains(text, []byte("goroutine ")) {
		t.Error("the log is not what it is meant to be")
	}
	tells(t, "the log", text)
}

// readAll joins the files below dir.
func readAll(t *testing.T, dir string) []byte {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.Bytes()
}

func TestNoMistakeInTheConfigurationTellsASecret(t *testing.T) {
	key, password := canaries["provider key of the file"], canaries["password of an address"]
	for name, c := range map[string]struct {
		file      string
		variables []string
		args      []string
	}{
		"a key in the place of a variable's name": {file: "providers: {claude: {api_key_env: " + key + "}}"},
		"a key in the place of keys":              {file: "providers: {claude: {keys: " + key + "}}"},
		"a key as an item":                        {file: "providers: {claude: {keys: [" + key + "]}}"},
		"a key as an id":                          {file: "providers: {claude: {keys: [{id: " + key + ", key: x}]}}"},
		"a key in the place of Vault's path":      {file: "providers: {claude: {keys: [{vault: " + key + "}]}}"},
		"a key in the place of a variable":        {file: "providers: {claude: {keys: [{env: " + key + "}]}}"},
		"a key with a space":                      {file: "providers: {claude: {keys: [{key: \"" + key + " x\"}]}}"},
		"a key with a line":                       {variables: []string{"ANTHROPIC_API_KEY=" + key + "\nx"}},
		"a password in an address":                {file: "providers: {x: {dialect: claude, base_url: \"https://u:" + password + "@h\"}}"},
		"a query in an address":                   {file: "providers: {x: {dialect: claude, base_url: \"https://h/?k=" + canaries["query of a provider's address"] + "\"}}"},
		"an address that is none":                 {file: "providers: {x: {dialect: claude, base_url: \"ftp://u:" + password + "@h\"}}"},
		"a password in Vault's address":           {args: []string{"--vault-addr", "https://u:" + password + "@h"}},
		"a header with a line":                    {file: "providers: {x: {dialect: claude, base_url: \"http://h\", headers: {A: \"" + canaries["header of a provider"] + "\\n\"}}}"},
		"a master key that is cut":                {variables: []string{"ATHENA_MASTER_KEY=" + testMaster[:40]}},
		"a master key twice":                      {variables: []string{"ATHENA_MASTER_KEY=" + testMaster + "," + testMaster}},
		"a short key of a client":                 {variables: []string{"ATHENA_API_KEY=" + "canary+CLIENT/Wc"}, args: []string{"--api-key", canaries["API key of a client"] + " x"}},
		"a secret of the cluster without one":     {variables: []string{"ATHENA_CLUSTER_SECRET=" + canaries["secret of the cluster"]}},
		"two tokens of Vault":                     {variables: []string{"ATHENA_VAULT_TOKEN=" + canaries["token of Vault"]}, args: []string{"--vault-addr", "http://127.0.0.1:1", "--vault-role-id", "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			args := append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--log-level", "trace"}, c.args...)
			if c.file != "" {
				args = append(args, "--config", write(t, c.file))
			}
			cmd, err := command(ctx, c.variables, args...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cmd.StdinPipe(); err != nil { // held open, so that it isn't for this that it ends
				t.Fatal(err)
			}
			out, err := cmd.CombinedOutput()
			if err == nil || ctx.Err() != nil {
				t.Errorf("it was taken: %s", out)
			}
			tells(t, "its output", out)
		})
	}
}
