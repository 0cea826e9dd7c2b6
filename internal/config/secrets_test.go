package config_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/config"
)

func TestAnEntrysKeysComeFromEachSourceAndTakeThePlaceOfTheVendorsVariable(t *testing.T) {
	s, err := load(t, `
providers:
  claude:
    keys:
      - {id: own, key: sk-one, weight: 3}
      - {env: MY_KEY}
      - {file: /run/secrets/claude}
      - {id: team, vault: "secret/team/athena#claude"}
  openai:
    api_key_file: /run/secrets/openai
  deepseek:
    api_key: sk-d
    keys: [{key: sk-e}]
`, []string{"ANTHROPIC_API_KEY=sk-not-used", "MY_KEY=sk-two"}, "--vault-addr", "https://vault.example.com", "--vault-token", "hvs.x")
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string][]config.ProviderKey)
	for _, p := range s.Providers {
		got[p.Name] = p.Keys
		if want := map[string]config.Secret{"deepseek": "sk-d"}[p.Name]; p.APIKey != want {
			t.Errorf("%s: the key is another", p.Name)
		}
	}
	want := map[string][]config.ProviderKey{
		"local": nil,
		"claude": {{ID: "config:own", Weight: 3, Text: "sk-one"}, {ID: "env:MY_KEY", Weight: 1, Text: "sk-two"}, {ID: "file:3", Weight: 1, File: "/run/secrets/claude"},
			{ID: "vault:team", Weight: 1, Vault: "secret/team/athena#claude"}},
		"openai":   {{ID: "file:api_key_file", Weight: 1, File: "/run/secrets/openai"}},
		"deepseek": {{ID: "config:1", Weight: 1, Text: "sk-e"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestWithAMasterKeyTheVendorsAreThereWithoutAKey(t *testing.T) {
	s, err := load(t, "", nil, "--master-key", "x")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range s.Providers {
		names = append(names, p.Name)
		if p.StoredKeys == (p.Name == "local") {
			t.Errorf("%s: keys can be set: %v", p.Name, p.StoredKeys)
		}
	}
	if !slices.Equal(names, []string{"claude", "openai", "deepseek", "local"}) {
		t.Errorf("providers are %v", names)
	}
}

func TestWhatIsWrongWithKeysAndVaultIsSaidWithWhatWouldBeRight(t *testing.T) {
	entry := func(keys string) string { return "providers: {claude: {keys: " + keys + "}}" }
	for _, c := range []struct {
		file string
		args []string
		want string
	}{
		{entry("sk-x"), nil, "must be a list"},
		{entry("[sk-x]"), nil, "one of key, env, file and vault"},
		{entry("[{key: a, env: B}]"), nil, "one of key, env, file and vault"},
		{entry("[{key: a, weight: 0}]"), nil, "from 1 to 1000"},
		{entry("[{key: a, id: 'A B'}]"), nil, "its id must be"},
		{entry("[{key: a, id: x}, {key: b, id: x}]"), nil, "the id of another"},
		{entry("[{key: 'a b'}]"), nil, "has a space"},
		{entry("[{env: NOWHERE}]"), nil, "is not set"},
		{entry("[{vault: x}]"), nil, "MOUNT/PATH#FIELD"},
		{entry("[{vault: 'secret/a#b'}]"), nil, "--vault-addr"},
		{"providers: {claude: {api_key: a, api_key_file: b}}", nil, "one of them is enough"},
		{"providers: {local: {keys: [{key: a}]}}", nil, "runs in the server"},
		{"providers: {x: {dialect: openai, base_url: 'http://169.254.169.254/v1'}}", nil, "--allow-metadata-addresses"},
		{"providers: {x: {dialect: openai, base_url: 'http://[fe80::1]/v1'}}", nil, "--allow-metadata-addresses"},
		{"", []string{"--vault-addr", "vault.example.com"}, "https://vault.example.com:8200"},
		{"", []string{"--vault-addr", "http://vault.example.com:8200", "--vault-token", "x"}, "https://"},
		{"", []string{"--vault-addr", "https://169.254.169.254", "--vault-token", "x"}, "--allow-metadata-addresses"},
		{"", []string{"--vault-addr", "https://vault.example.com"}, "one way to log in"},
		{"", []string{"--vault-addr", "https://vault.example.com", "--vault-token", "x", "--vault-role-id", "y"}, "one way to log in"},
		{"", []string{"--master-key-transit", "transit/athena"}, "--vault-addr"},
		{"", []string{"--master-key-transit", "athena", "--vault-addr", "https://v", "--vault-token", "x"}, "transit/athena"},
		{"", []string{"--master-key", "x", "--master-key-file", "y"}, "give one"},
		{"", []string{"--vault-interval", "1ms"}, "from 1s"},
	} {
		if _, err := load(t, c.file, nil, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v; want one with %q", c.file, c.args, err, c.want)
		}
	}
	for _, args := range [][]string{{"--vault-addr", "http://127.0.0.1:8200", "--vault-token", "x"}, {"--vault-addr", "http://localhost:8200", "--vault-token-file", "x"},
		{"--vault-addr", "https://v", "--vault-kubernetes-role", "x", "--master-key-transit", "transit/athena"}} {
		if _, err := load(t, "", nil, args...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
	if _, err := load(t, "providers: {x: {dialect: openai, base_url: 'http://169.254.169.254/v1'}}", nil, "--allow-metadata-addresses"); err != nil {
		t.Error(err)
	}
}
