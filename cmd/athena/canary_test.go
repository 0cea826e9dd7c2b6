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
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/athena-hub/athena/internal/gateway"
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
	"password of Redis":             "canaryREDISOx5Ej1Zc7Mp3Ya9Kd",
	"secret that signs tokens":      "canary+SIGNER/Ge7Vx2Nc9Tj4Oh6Ys1Pw8=",
}

// made are secrets that a server makes itself, once they are known; by what they
// are, as canaries.
type made map[string]string

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

// tells fails the test if text has one of the canaries in it, or of what was
// made.
func tells(t *testing.T, where string, text []byte, too made) {
	t.Helper()
	all := maps.Clone(canaries)
	maps.Copy(all, too)
	for source, secret := range all {
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
	logs, data, secrets := t.TempDir(), t.TempDir(), make(made)
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
		"ATHENA_MASTER_KEY=" + testMaster + "," + otherMaster, "ATHENA_JWT_SECRET=" + canaries["secret that signs tokens"], "ATHENA_VAULT_TOKEN=" + canaries["token of Vault"],
	}, "--config", file, "--log-level", "trace", "--vault-addr", vaultOf(t, map[string]string{"claude": canaries["provider key of Vault"]}),
		"--data-dir", data, "--audit-log", filepath.Join(logs, "audit.log"), "--audit-code", "--limit-address-failures", "1000",
		"--limit-key-requests", "100000", "--redis-url", "redis://athena:"+canaries["password of Redis"]+"@127.0.0.1:1/0", "--max-attempts", "3", "--vault-interval", "1s",
		"--retry-backoff", "1ms", "--retry-backoff-max", "2ms", "--rate-limit-wait", "10ms")
	do := func(method, path, body string, header ...string) reply {
		t.Helper()
		if len(header) == 0 {
			header = []string{"Authorization", "Bearer " + client}
		}
		r := s.do(method, path, body, header...)
		said := []byte(fmt.Sprint(r.status, r.header, r.body))
		tells(t, method+" "+path, said, secrets)
		return r
	}
	stored := canaries["provider key that is stored"]
	if r := do("PUT", "/v1/providers/claude/keys/team-a", `{"key":"`+stored+`"}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if r := do("PUT", "/v1/providers/openai/keys/team-a", `{"key":"`+canaries["provider key that is refused"]+`"}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	s.useCallers(secrets, do)
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
	if !bytes.Contains(text, []byte("Redis does not answer")) {
		t.Errorf("Redis was not missed: %.300s", text)
	}
	if !bytes.Contains(text, []byte(`"event":"denied"`)) || !bytes.Contains(text, []byte(`"event":"command"`)) || !bytes.Contains(text, []byte(`"event":"analysis"`)) {
		t.Errorf("the audit log is not what it is meant to be: %.300s", text)
	}
	tells(t, "the log", text, secrets)
	tells(t, "the data", readAll(t, data), secrets)
}

// useCallers makes each kind of credential that a client can have, and uses it
// well and badly, by all that reads credentials. do makes a request, of the
// operator where no header says otherwise.
func (s *server) useCallers(secrets made, do func(method, path, body string, header ...string) reply) {
	t := s.t
	t.Helper()
	want := func(r reply, status int) reply {
		t.Helper()
		if r.status != status {
			t.Fatalf("%d %s; want %d", r.status, r.body, status)
		}
		return r
	}
	key := decode[gateway.Key](t, want(do("POST", "/v1/keys", `{"name":"ci","tenant":"acme","scopes":["analyze","read","cancel","providers"]}`), http.StatusCreated))
	secrets["stored API key"] = key.Key
	id := decode[protocol.Metadata](t, want(do("POST", "/v1/analyses", `{"code":"package p","provider":"claude"}`, authorization(key.Key)...), http.StatusCreated)).ID
	shared := decode[gateway.Share](t, want(do("POST", "/v1/streams/"+id+"/share", "", authorization(key.Key)...), http.StatusCreated))
	secrets["share token"] = shared.Token
	rotated := decode[gateway.Key](t, want(do("POST", "/v1/keys/"+key.ID+"/rotate", `{"grace":"1h"}`), http.StatusOK))
	secrets["rotated API key"] = rotated.Key

	claims := jwt.MapClaims{"sub": "grace", "tenant": "acme", "scope": "read analyze cancel", "exp": jwt.NewNumericDate(time.Now().Add(time.Hour))}
	signed := func(secret string) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	// What is searched for is the signature; the rest is no secret.
	token, forged := signed(canaries["secret that signs tokens"]), signed("another secret, which is as long")
	secrets["signature of a token"], secrets["signature of a forged token"] = strings.Split(token, ".")[2], strings.Split(forged, ".")[2]
	claims["exp"] = jwt.NewNumericDate(time.Now().Add(-time.Hour))
	expired := signed(canaries["secret that signs tokens"])
	secrets["signature of an expired token"] = strings.Split(expired, ".")[2]

	events := "/v1/streams/" + id + "/events"
	good := []string{key.Key, rotated.Key, shared.Token, token}
	bad := []string{forged, expired, token[:len(token)-4], key.Key[:len(key.Key)-2], shared.Token + "x", "Bearer " + token}
	for _, c := range good {
		want(do("GET", events, "", authorization(c)...), http.StatusOK)
		want(do("GET", events, "", "X-API-Key", c, "Accept", "text/event-stream"), http.StatusOK)
		ticket := decode[protocol.Negotiation](t, want(do("POST", "/v1/negotiate", "", authorization(c)...), http.StatusOK)).Ticket
		secrets["ticket of "+c[:12]] = ticket
		for _, status := range []int{http.StatusOK, http.StatusUnauthorized} { // it is good once
			want(do("GET", events+"?ticket="+url.QueryEscape(ticket), "", "User-Agent", "x"), status)
		}
	}
	for _, c := range bad {
		want(do("GET", events, "", authorization(c)...), http.StatusUnauthorized)
		want(do("GET", events+"?ticket="+url.QueryEscape(c), "", "User-Agent", "x"), http.StatusUnauthorized)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, c := range []string{key.Key, token} {
		l, err := openWebSocket(ctx, target{url: s.url, header: bearer(c)})
		if err != nil {
			t.Fatal(err)
		}
		for _, fresh := range append([]string{c}, bad...) {
			if err := l.send(&protocol.Command{Type: protocol.CommandAuthenticate, ID: "a", Token: fresh}); err != nil {
				t.Fatal(err)
			}
			d, err := l.next()
			if err != nil || d.message == nil || (fresh == c) != (d.message.Error == nil) {
				t.Fatalf("authenticate: %+v, %v", d, err)
			}
			tells(t, "authenticate", fmt.Appendf(nil, "%+v %+v", d.message, d.message.Error), secrets)
		}
		l.close(true)
	}
	want(do("GET", "/v1/keys", ""), http.StatusOK)
	want(do("DELETE", "/v1/keys/"+shared.ID, ""), http.StatusOK)
	want(do("DELETE", "/v1/keys/"+key.ID, ""), http.StatusOK)
	want(do("GET", events, "", authorization(rotated.Key)...), http.StatusUnauthorized)
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
	logs, secrets := t.TempDir(), make(made)
	t.Setenv(logsVariable, logs)
	stored := canaries["provider key that is stored"]
	g := together(t, []string{"one", "two"}, "--log-level", "trace", "--master-key", testMaster)
	if r := g.nodes[0].do("PUT", "/v1/providers/openai/keys/team-a", `{"key":"`+stored+`","weight":100}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	// Keys and tickets that one node makes, and the other is asked with.
	key := g.nodes[0].createKey(only("acme", "analyze", "read", "providers"))
	secrets["stored API key"] = key.Key
	for i, s := range g.nodes {
		n := decode[protocol.Negotiation](t, g.nodes[1-i].do("POST", "/v1/negotiate", "", authorization(key.Key)...))
		secrets[fmt.Sprintf("ticket of node %d", 1-i)] = n.Ticket
		if r := s.do("GET", "/v1/events?ticket="+url.QueryEscape(n.Ticket), "", "User-Agent", "x"); r.status != http.StatusBadRequest {
			t.Errorf("a ticket of the other node, for no stream: %d %s", r.status, r.body)
		}
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
			tells(t, path, []byte(s.do("GET", path, "").body), secrets)
		}
	}
	for _, s := range g.nodes {
		s.crash()
		tells(t, "the data of a node", readAll(t, s.flag("--data-dir")), secrets)
	}
	text := readAll(t, logs)
	if !bytes.Contains(text, []byte("goroutine ")) {
		t.Error("the log is not what it is meant to be")
	}
	tells(t, "the log", text, secrets)
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
		"a password in Redis's address":           {args: []string{"--redis-url", "redis://u:" + canaries["password of Redis"] + "@h:port/x"}},
		"a secret of tokens twice":                {args: []string{"--jwt-secret", canaries["secret that signs tokens"], "--jwt-secret-file", "/nothing"}},
		"a secret of tokens that is short":        {args: []string{"--jwt-secret", canaries["secret that signs tokens"][:20]}},
		"a password in the address of keys":       {args: []string{"--jwt-jwks-url", "https://u:" + password + "@h", "--jwt-audience", "x"}},
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
			tells(t, "its output", out, nil)
		})
	}
}
