package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A ProviderKey is where one of a provider's keys comes from: exactly one of
// Text, File and Vault is given.
type ProviderKey struct {
	// ID is "config:", "env:", "file:" or "vault:", and the name that the entry
	// gives it, or that of the variable, or its place in the list.
	ID string
	// Weight is its share among the provider's keys.
	Weight int
	Text   Secret
	// File has a key on each line. It is read again when it changes.
	File string
	// Vault is MOUNT/PATH#FIELD of a secret in Vault's KV engine, version 2.
	Vault string
}

// An entryKey is an item of an entry's keys.
type entryKey struct {
	id, key, env, file, vault *string
	weight                    *int64
}

const (
	// maxProviderKeys bounds the keys of one entry.
	maxProviderKeys = 64
	maxKeyWeight    = 1000
)

var (
	keyID     = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	vaultPath = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+#[A-Za-z0-9_.-]+$`)
)

// keys reads a list of keys.
func (p *parser) keys(key string, v *yaml.Node) []entryKey {
	if v.Kind != yaml.SequenceNode {
		p.fail(v, key, "must be a list")
		return nil
	}
	if len(v.Content) > maxProviderKeys {
		p.fail(v, key, "has more than %d keys", maxProviderKeys)
		return nil
	}
	var all []entryKey
	for i, item := range v.Content {
		at := fmt.Sprintf("%s[%d]", key, i)
		var k entryKey
		item = resolve(item)
		if item.Kind == yaml.MappingNode {
			p.fields(at, item, []string{"id", "key", "env", "file", "vault", "weight"}, fields{
				"id": into(p.text, &k.id), "key": into(p.text, &k.key), "env": into(p.text, &k.env), "file": into(p.text, &k.file),
				"vault": into(p.text, &k.vault), "weight": p.whole(&k.weight, 1, maxKeyWeight),
			})
		}
		given := 0
		for _, source := range []*string{k.key, k.env, k.file, k.vault} {
			if source != nil {
				given++
			}
		}
		switch { // nothing is repeated: it may be a key that was put in the wrong place
		case given != 1:
			p.fail(item, at, "must be a map with one of key, env, file and vault in it")
		case k.id != nil && !keyID.MatchString(*k.id):
			p.fail(item, at, `its id must be up to 63 lower-case letters, digits, ".", "_" and "-"`)
		case k.env != nil && !envName.MatchString(*k.env):
			p.fail(item, at, "env must be the name of a variable")
		case k.vault != nil && !vaultPath.MatchString(*k.vault):
			p.fail(item, at, "vault must be MOUNT/PATH#FIELD, such as secret/athena#claude")
		default:
			all = append(all, k)
		}
	}
	return all
}

// overrideKeys puts the keys that e lists into p. They take the place of the
// vendor's variable.
func (e *entry) overrideKeys(p *Provider, env map[string]string) error {
	if e.apiKeyFile == nil && e.keys == nil {
		return nil
	}
	if e.apiKey == nil {
		p.APIKey = ""
	}
	if e.apiKeyFile != nil {
		if e.apiKey != nil || e.apiKeyEnv != nil {
			return errors.New("has api_key_file beside api_key or api_key_env; one of them is enough, and keys may list several")
		}
		p.Keys = append(p.Keys, ProviderKey{ID: "file:api_key_file", Weight: 1, File: *e.apiKeyFile})
	}
	seen := make(map[string]bool)
	for i, k := range e.keys {
		name := fmt.Sprint(i + 1)
		give(&name, k.id)
		n := ProviderKey{Weight: 1}
		giveInt(&n.Weight, k.weight)
		switch {
		case k.key != nil:
			n.ID, n.Text = "config:"+name, Secret(*k.key)
		case k.env != nil:
			v, ok := env[*k.env]
			if !ok {
				return fmt.Errorf("the variable %s that keys[%d] names is not set; set it, or use another", *k.env, i)
			}
			if k.id == nil {
				name = *k.env
			}
			n.ID, n.Text = "env:"+name, Secret(v)
		case k.file != nil:
			n.ID, n.File = "file:"+name, *k.file
		default:
			n.ID, n.Vault = "vault:"+name, *k.vault
		}
		if seen[n.ID] {
			return fmt.Errorf("keys[%d] has the id of another", i)
		}
		seen[n.ID] = true
		p.Keys = append(p.Keys, n)
	}
	return nil
}

// StoresKeys reports whether keys of providers can be set while the server runs:
// whether there is something to seal them with.
func (s *Serve) StoresKeys() bool {
	return s.MasterKey != "" || s.MasterKeyFile != "" || s.MasterKeyTransit != ""
}

// checkKeys returns what is wrong with p's keys and address beside what p alone
// can tell.
func (s *Serve) checkKeys(p *Provider) []error {
	var errs []error
	for _, k := range p.Keys {
		if k.Vault != "" && s.VaultAddr == "" {
			errs = append(errs, fmt.Errorf("the key %s is kept in Vault; say where that is with --vault-addr", k.ID))
		}
		if strings.ContainsFunc(k.Text.Reveal(), func(r rune) bool { return r <= ' ' || r >= 0x7f }) || k.Text == "" && k.File == "" && k.Vault == "" {
			errs = append(errs, fmt.Errorf("the key %s is empty, or has a space or another character that no key has; check how it was copied", k.ID))
		}
	}
	if u, err := url.Parse(p.BaseURL); err == nil && !s.AllowMetadataAddresses && linkLocal(u.Hostname()) {
		errs = append(errs, errors.New("base_url is a link-local address, where clouds serve the credentials of their machines (CWE-918); if it is meant, say --allow-metadata-addresses"))
	}
	return errs
}

func linkLocal(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLinkLocalUnicast()
}

// checkSecrets returns what is wrong with the settings of keys of providers.
// The master keys themselves are read when the server starts.
func (s *Serve) checkSecrets() []problem {
	var found []problem
	fail := func(key, text string) { found = append(found, problem{key: key, text: text}) }
	if s.VaultAddr != "" {
		u, err := url.Parse(s.VaultAddr)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			fail("vault_addr", "must be an address such as https://vault.example.com:8200, without credentials")
		case u.Scheme == "http" && !loopback(u.Host) && !loopback(u.Host+":80"):
			fail("vault_addr", "must begin with https:// where Vault is on another machine: what it sends are keys")
		case !s.AllowMetadataAddresses && linkLocal(u.Hostname()):
			fail("vault_addr", "is a link-local address, where clouds serve the credentials of their machines; if it is meant, say --allow-metadata-addresses")
		}
	} else if s.MasterKeyTransit != "" {
		found = append(found, problem{key: "master_key_transit", others: []string{"vault_addr"}, text: "needs Vault; say where that is with --vault-addr"})
	}
	if s.MasterKeyTransit != "" && !vaultPath.MatchString(s.MasterKeyTransit+"#x") {
		fail("master_key_transit", "must be MOUNT/NAME, such as transit/athena")
	}
	if s.MasterKey != "" && s.MasterKeyFile != "" {
		fail("master_key", "is given beside master_key_file; give one")
	}
	ways := 0
	for _, given := range []bool{s.VaultToken != "", s.VaultTokenFile != "", s.VaultRoleID != "", s.VaultKubernetesRole != ""} {
		if given {
			ways++
		}
	}
	if s.VaultAddr != "" && ways != 1 {
		fail("vault_addr", "needs one way to log in: --vault-token, --vault-token-file, --vault-role-id with a secret id, or --vault-kubernetes-role")
	}
	if s.VaultSecretID != "" && s.VaultSecretIDFile != "" {
		fail("vault_secret_id", "is given beside vault_secret_id_file; give one")
	}
	return found
}
