package secrets

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/rs/zerolog"
)

// deniedPause is how long no new token is got for what a fresh one was refused
// for: each is a lease that Vault keeps, and a key that may not be read is asked
// for every few seconds. A role that gets a policy more gives it to new tokens.
const deniedPause = 5 * time.Minute

// maxVaultAnswer bounds an answer of Vault.
const maxVaultAnswer = 1 << 20

// serviceAccountToken is where Kubernetes puts the pod's token.
const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path, of Kubernetes

// A VaultKey is a key that is kept in Vault's KV engine, version 2.
type VaultKey struct {
	Ring   *Ring
	ID     string
	Weight int
	// Path is MOUNT/PATH#FIELD.
	Path string
}

// VaultOptions configure a Vault. One way to log in is required: a token, a file
// with one, an AppRole or a role of Kubernetes.
type VaultOptions struct {
	Address   string
	Namespace string
	// Client makes the calls; it must follow no redirect.
	Client *http.Client
	// Token, or TokenFile, which is read for each login.
	Token, TokenFile string
	// RoleID with SecretID, or SecretIDFile, are an AppRole.
	RoleID, SecretID, SecretIDFile string
	// KubernetesRole logs in with the pod's service account, whose token is in
	// KubernetesToken; where Kubernetes puts it by default.
	KubernetesRole, KubernetesToken string
	// AuthMount is where the login is mounted; "approle" or "kubernetes" by
	// default.
	AuthMount string
	// Timeout bounds one call, and Interval is the time from one reading to the
	// next. Defaults 5 s and 30 s.
	Timeout, Interval time.Duration
	Logger            zerolog.Logger
}

// A Vault is HashiCorp Vault as a source of keys, and as a master key. Its
// methods may be called concurrently.
type Vault struct {
	o VaultOptions

	mu     sync.Mutex
	client *api.Client // its token is guarded by mu
	// until is when the token is to be replaced; zero for one that doesn't end.
	until time.Time // guarded by mu
	in    bool      // guarded by mu: there is a token
	// denied is what even a fresh token was refused for, and when. There are as
	// many as there are keys.
	denied map[string]time.Time // guarded by mu
}

// NewVault returns a Vault that has not been called yet.
func NewVault(o VaultOptions) (*Vault, error) {
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.Interval = cmp.Or(o.Interval, 30*time.Second)
	o.KubernetesToken = cmp.Or(o.KubernetesToken, serviceAccountToken)
	hc := *o.Client
	hc.Transport = bounded{cmp.Or[http.RoundTripper](hc.Transport, http.DefaultTransport)}
	// Vault's client would follow a redirect to any host, with the token.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client, err := api.NewClient(&api.Config{Address: o.Address, HttpClient: &hc, DisableRedirects: true})
	if err != nil {
		return nil, errors.New("vault: its address or the VAULT_ variables of the environment can't be used")
	}
	client.SetMaxRetries(0) // the next reading is soon enough
	client.ClearToken()     // of the environment
	client.ClearNamespace()
	if o.Namespace != "" {
		client.SetNamespace(o.Namespace)
	}
	return &Vault{o: o, client: client, denied: make(map[string]time.Time)}, nil
}

// Close ends the connections. Nothing may be asked after.
func (v *Vault) Close() { v.o.Client.CloseIdleConnections() }

// errRedirect is instead of a redirect.
var errRedirect = errors.New("it answered with a redirect, which is not followed; give the address behind it")

// bounded cuts answers that are longer than any of Vault's, and refuses those
// that lead elsewhere.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode < 400 {
		_ = resp.Body.Close() // it says nothing of interest
		return nil, errRedirect
	}
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxVaultAnswer), resp.Body}
	}
	return resp, err
}

// vaultError is err in few words: Vault's, but no body that isn't, and no URL.
func vaultError(what string, err error) error {
	if e, ok := errors.AsType[*api.ResponseError](err); ok {
		words := ""
		if !e.RawError && len(e.Errors) > 0 {
			words = fmt.Sprintf(": %.200q", strings.Join(e.Errors, "; "))
		}
		if e.StatusCode == http.StatusServiceUnavailable {
			words += " (it is sealed, or has no active node)"
		}
		return &statusError{fmt.Sprintf("vault: %s: it answered %d%s", what, e.StatusCode, words), e.StatusCode}
	}
	return fmt.Errorf("vault: %s: %w", what, err)
}

// statusError is an answer of Vault's that is an error.
type statusError struct {
	text   string
	status int
}

func (e *statusError) Error() string { return e.text }

// statusOf is the status of an answer in err's tree; 0 for none.
func statusOf(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return 0
}

// call makes a call with a token that is good, logging in before where that is
// needed; once more where Vault says that it isn't good.
func (v *Vault) call(ctx context.Context, what string, do func(context.Context, *api.Client) error) error {
	for again := false; ; again = true {
		client, err := v.loggedIn(ctx, again)
		if err != nil {
			return err
		}
		err = func() error {
			ctx, cancel := context.WithTimeout(ctx, v.o.Timeout)
			defer cancel()
			return do(ctx, client)
		}()
		if err == nil {
			v.mu.Lock()
			delete(v.denied, what)
			v.mu.Unlock()
			return nil
		}
		err = vaultError(what, err)
		if statusOf(err) != http.StatusForbidden || v.deny(what, again) {
			return err
		}
	}
}

// deny reports whether another token is no use for what was just forbidden,
// with a fresh one or not.
func (v *Vault) deny(what string, fresh bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if fresh {
		v.denied[what] = time.Now()
		return true
	}
	at, ok := v.denied[what]
	return ok && time.Since(at) < deniedPause
}

// loggedIn returns a client with a token: the one that is there, unless it is
// about to end or fresh is set.
func (v *Vault) loggedIn(ctx context.Context, fresh bool) (*api.Client, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.in || fresh || !v.until.IsZero() && time.Now().After(v.until) {
		if err := v.login(ctx); err != nil {
			return nil, err
		}
	}
	return v.client.WithNamespace(v.o.Namespace), nil // a copy, whose token doesn't change during the call
}

// login gets a token. The caller holds mu.
func (v *Vault) login(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.o.Timeout)
	defer cancel()
	var mount string
	question := make(map[string]any)
	var err error
	switch o := &v.o; {
	case o.Token != "":
		v.client.SetToken(o.Token)
		v.in = true
		return nil
	case o.TokenFile != "":
		token, err := readSecret(o.TokenFile)
		if err != nil {
			return fmt.Errorf("vault: %w", err)
		}
		v.client.SetToken(token)
		v.in, v.until = true, time.Now().Add(o.Interval) // an agent replaces it
		return nil
	case o.RoleID != "":
		mount = cmp.Or(o.AuthMount, "approle")
		question["role_id"], question["secret_id"] = o.RoleID, o.SecretID
		if o.SecretIDFile != "" {
			question["secret_id"], err = readSecret(o.SecretIDFile)
		}
	default:
		mount = cmp.Or(o.AuthMount, "kubernetes")
		question["role"] = o.KubernetesRole
		question["jwt"], err = readSecret(o.KubernetesToken)
	}
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	v.client.ClearToken()
	answer, err := v.client.Logical().WriteWithContext(ctx, "auth/"+mount+"/login", question)
	if err != nil {
		return vaultError("log in by "+mount, err)
	}
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return fmt.Errorf("vault: log in by %s: its answer has no token", mount)
	}
	v.client.SetToken(answer.Auth.ClientToken)
	v.in, v.until = true, time.Time{}
	if lease := time.Duration(answer.Auth.LeaseDuration) * time.Second; lease > 0 {
		v.until = time.Now().Add(lease * 2 / 3)
	}
	return nil
}

// readSecret reads a file that holds one secret.
func readSecret(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // the operator's own setting
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return "", err
	}
	defer clear(b)
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

// errGone says that Vault has no such key any more.
var errGone = errors.New("there is no such secret, or it was deleted")

// read returns the newest version of a key.
func (v *Vault) read(ctx context.Context, path string) (*Key, error) {
	path, field, _ := strings.Cut(path, "#")
	mount, name, _ := strings.Cut(path, "/")
	what := "read " + path
	var secret *api.KVSecret
	err := v.call(ctx, what, func(ctx context.Context, c *api.Client) (err error) {
		secret, err = c.KVv2(mount).Get(ctx, name)
		return err
	})
	switch {
	case errors.Is(err, api.ErrSecretNotFound), statusOf(err) == http.StatusNotFound, err == nil && secret.Data == nil:
		return nil, fmt.Errorf("vault: %s: %w", what, errGone)
	case err != nil:
		return nil, err
	}
	text, ok := secret.Data[field].(string)
	if !ok {
		return nil, fmt.Errorf("vault: %s: it has no text in the field %q", what, field)
	}
	k, err := NewKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("vault: %s, field %q: %w", what, field, err)
	}
	return k, nil
}

// Load reads keys and gives them to their rings. A key that Vault says is gone
// is taken away; on any other error the rings keep what they have.
func (v *Vault) Load(ctx context.Context, keys []VaultKey) error {
	var errs []error
	for _, k := range keys {
		key, err := v.read(ctx, k.Path)
		switch {
		case err == nil:
			err = k.Ring.Set(k.ID, []Entry{{ID: k.ID, Weight: k.Weight, Key: key}})
		case errors.Is(err, errGone):
			err = errors.Join(err, k.Ring.Set(k.ID, nil))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("provider %s, key %s: %w", k.Ring.Provider(), k.ID, err))
		}
	}
	return errors.Join(errs...)
}

// Run keeps the rings as Vault is until ctx ends.
func (v *Vault) Run(ctx context.Context, keys []VaultKey) {
	if len(keys) == 0 {
		return
	}
	last := ""
	next := min(retryAfter, v.o.Interval)
	for {
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		err := v.Load(ctx, keys)
		said := ""
		next = v.o.Interval
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			next = min(retryAfter, v.o.Interval)
			if said = err.Error(); said != last {
				v.o.Logger.Warn().Err(err).Msg("keys of providers can't be read from Vault; those that are known are used on")
			}
		case last != "":
			v.o.Logger.Info().Msg("keys of providers can be read from Vault again")
		}
		last = said
	}
}

// transit is a key of Vault's transit engine as a master key: it never leaves
// Vault.
type transit struct {
	v           *Vault
	mount, name string
}

// Transit returns the master key at MOUNT/NAME of a transit engine.
func (v *Vault) Transit(path string) Master {
	mount, name, _ := strings.Cut(path, "/")
	return &transit{v, mount, name}
}

func (t *transit) ID() string { return "vault:" + t.mount + "/" + t.name }

func (t *transit) ask(ctx context.Context, verb, in, out string, value string, bound []byte) (string, error) {
	question := map[string]any{in: value, "associated_data": base64.StdEncoding.EncodeToString(bound)}
	var answer *api.Secret
	err := t.v.call(ctx, verb+" by "+t.name, func(ctx context.Context, c *api.Client) (err error) {
		answer, err = c.Logical().WriteWithContext(ctx, t.mount+"/"+verb+"/"+t.name, question)
		return err
	})
	if err != nil {
		return "", err
	}
	if answer != nil {
		if text, ok := answer.Data[out].(string); ok {
			return text, nil
		}
	}
	return "", fmt.Errorf("vault: %s by %s: its answer has no %s", verb, t.name, out)
}

func (t *transit) Wrap(ctx context.Context, dataKey, bound []byte) ([]byte, error) {
	text, err := t.ask(ctx, "encrypt", "plaintext", "ciphertext", base64.StdEncoding.EncodeToString(dataKey), bound)
	return []byte(text), err
}

func (t *transit) Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error) {
	text, err := t.ask(ctx, "decrypt", "ciphertext", "plaintext", string(wrapped), bound)
	if statusOf(err) == http.StatusBadRequest {
		return nil, errOpen // its words are of ciphers
	}
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errOpen
	}
	return key, nil
}
