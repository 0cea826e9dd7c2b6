package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/connections"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/internal/telemetry"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// providerKeys fill the rings of the providers' keys from where they come from,
// and keep them as they are there. It is the gateway.ProviderKeys.
type providerKeys struct {
	// Set by openProviderKeys, then read-only.
	cfg   *config.Serve
	log   zerolog.Logger
	rings map[string]*secrets.Ring
	// entries are asked for each time: the providers may be made again until the
	// node is ready.
	entries func() []analysis.Entry
	store   *secrets.Store // nil without a master key
	vault   *secrets.Vault // nil without Vault

	stop context.CancelFunc
	done sync.WaitGroup
}

var _ gateway.ProviderKeys = (*providerKeys)(nil)

// storeOff says how keys can be set.
const storeOff = "no keys can be set, since there is no master key to seal them with; make one with: openssl rand -base64 32, and give it as ATHENA_MASTER_KEY or --master-key-file"

// openProviderKeys reads all keys once, as far as that can be done now, and
// again whenever they change, until close.
func openProviderKeys(ctx context.Context, cfg *config.Serve, u *upstreams, bus *backbone.Backbone, log zerolog.Logger) (_ *providerKeys, err error) {
	running, stop := context.WithCancel(context.Background())
	k := &providerKeys{cfg: cfg, log: log, rings: u.rings, entries: func() []analysis.Entry { return u.entries }, stop: stop}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	var files []*secrets.File
	var vaulted []secrets.VaultKey
	for _, p := range cfg.Providers {
		for _, s := range p.Keys {
			switch {
			case s.File != "":
				f := &secrets.File{Ring: u.rings[p.Name], ID: s.ID, Path: s.File, Weight: s.Weight}
				if err := f.Load(); err != nil {
					return nil, &exitError{exitUsage, fmt.Errorf("provider %s, key %s: %w", p.Name, s.ID, err)}
				}
				files = append(files, f)
			case s.Vault != "":
				vaulted = append(vaulted, secrets.VaultKey{Ring: u.rings[p.Name], ID: s.ID, Path: s.Vault, Weight: s.Weight})
			}
		}
	}
	if len(files) > 0 {
		k.done.Go(func() { secrets.Watch(running, files, cfg.KeyFileInterval, log) })
	}
	if cfg.VaultAddr != "" {
		if k.vault, err = newVault(cfg, log); err != nil {
			return nil, &exitError{exitUsage, err}
		}
		// All together: a Vault that doesn't answer is no reason to start late.
		first, cancel := context.WithTimeout(ctx, 2*cfg.VaultTimeout)
		err := k.vault.Load(first, vaulted)
		cancel()
		if err != nil {
			log.Warn().Err(err).Msg("not every key of Vault could be read; this is tried again")
		}
		k.done.Go(func() { k.vault.Run(running, vaulted) })
	}
	return k, k.openStore(ctx, running, bus)
}

// openStore opens the store of keys, where there is a master key.
func (k *providerKeys) openStore(ctx, running context.Context, bus *backbone.Backbone) error {
	if !k.cfg.StoresKeys() {
		return nil
	}
	masters, err := k.masters()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	k.store = secrets.NewStore(secrets.StoreOptions{Bucket: bucket{bus, k.log}, Masters: masters, Rings: k.rings, Logger: k.log})
	stop, err := bus.Subscribe(keyTopic, func(name []byte) { k.store.Changed(string(name)) })
	if err != nil {
		return err
	}
	context.AfterFunc(running, stop)
	if err := k.store.Load(ctx); err != nil {
		k.log.Warn().Err(err).Msg("the keys that were set can't be read now; this is tried again")
	}
	k.done.Go(func() { k.store.Run(running) })
	return nil
}

// masters are the master keys, the one that seals first.
func (k *providerKeys) masters() (all []secrets.Master, err error) {
	if k.cfg.MasterKeyTransit != "" {
		all = append(all, k.vault.Transit(k.cfg.MasterKeyTransit))
	}
	text, where := []byte(k.cfg.MasterKey.Reveal()), "master_key"
	if k.cfg.MasterKeyFile != "" {
		where = "master_key_file"
		if text, err = os.ReadFile(k.cfg.MasterKeyFile); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
	}
	defer clear(text)
	if len(text) == 0 && where == "master_key" {
		return all, nil
	}
	local, err := secrets.ParseMasters(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return append(all, local...), nil
}

// close ends the reading, and wipes the keys once nothing calls any more.
func (k *providerKeys) close() {
	k.stop()
	k.done.Wait()
	if k.vault != nil {
		k.vault.Close()
	}
	for _, r := range k.rings {
		r.Wipe()
	}
}

// keyTopic is where nodes tell each other of changed keys.
const keyTopic = "provider-keys"

// bucket is the bus as the secrets know it.
type bucket struct {
	bus *backbone.Backbone
	log zerolog.Logger
}

var _ secrets.Bucket = bucket{}

// Records implements secrets.Bucket.
func (b bucket) Records(ctx context.Context) (map[string]secrets.Record, error) {
	found, err := b.bus.Secrets(ctx)
	all := make(map[string]secrets.Record, len(found))
	for name, r := range found {
		all[name] = secrets.Record(r)
	}
	return all, err
}

// Record implements secrets.Bucket.
func (b bucket) Record(ctx context.Context, name string) (secrets.Record, error) {
	r, err := b.bus.Secret(ctx, name)
	return secrets.Record(r), err
}

// Swap implements secrets.Bucket.
func (b bucket) Swap(ctx context.Context, name string, value []byte, revision uint64) (bool, error) {
	return b.bus.SwapSecret(ctx, name, value, revision)
}

// Remove implements secrets.Bucket.
func (b bucket) Remove(ctx context.Context, name string, revision uint64) error {
	return b.bus.DeleteSecret(ctx, name, revision)
}

// Announce implements secrets.Bucket.
func (b bucket) Announce(name string) {
	if err := b.bus.Publish(keyTopic, []byte(name)); err != nil {
		b.log.Warn().Err(err).Msg("the other nodes could not be told of a changed key; they find it within seconds")
	}
}

// ring finds a provider's, or says that there is none.
func (k *providerKeys) ring(provider string) (*secrets.Ring, error) {
	if r := k.rings[provider]; r != nil {
		return r, nil
	}
	if len(k.rings) == 0 {
		return nil, protocol.Errorf(protocol.CodeInvalidRequest, "no provider of this server takes keys; with a master key (--master-key-file, or ATHENA_MASTER_KEY) those of the vendors do")
	}
	return nil, protocol.Errorf(protocol.CodeInvalidRequest, "there is no provider %.70q that takes keys; those that do are %s",
		provider, strings.Join(slices.Sorted(maps.Keys(k.rings)), ", "))
}

// List implements gateway.ProviderKeys.
func (k *providerKeys) List(_ context.Context, provider string) (keys []gateway.ProviderKey, readOnly string, err error) {
	if _, err := k.ring(provider); err != nil {
		return nil, "", err
	}
	if k.store == nil {
		readOnly = storeOff
	}
	return k.describe(provider, true), readOnly, nil
}

// describe is what may be told of a provider's keys; for an administrator, a
// little more.
func (k *providerKeys) describe(provider string, admin bool) []gateway.ProviderKey {
	r := k.rings[provider]
	if r == nil {
		return nil
	}
	var stored map[string]secrets.Info
	if k.store != nil {
		stored = k.store.Stored(provider)
	}
	var keys []gateway.ProviderKey
	for _, s := range r.Status() {
		g := gateway.ProviderKey{ID: s.ID, Source: s.Source, Weight: s.Weight, State: string(s.State), Until: gateway.Instant{Time: s.Until},
			Checked: gateway.Instant{Time: s.Checked}, Error: s.Err, Calls: s.Calls, Rests: s.Rests}
		if info, ok := stored[s.ID]; ok && s.Source == secrets.SourceStored {
			g.Set = gateway.Instant{Time: info.Set}
			if admin {
				g.SetBy = info.SetBy
			}
			delete(stored, s.ID)
		}
		if admin {
			g.Last4 = s.Tail
		}
		keys = append(keys, g)
	}
	for _, id := range slices.Sorted(maps.Keys(stored)) {
		if info := stored[id]; info.Err != nil {
			keys = append(keys, gateway.ProviderKey{ID: id, Source: secrets.SourceStored, Weight: info.Weight, State: string(secrets.StateSealed),
				Set: gateway.Instant{Time: info.Set}, Error: protocol.Errorf(protocol.CodeInternal, "%w", info.Err)})
		}
	}
	return keys
}

// lacks reports whether a provider can't be called for want of a key.
func (k *providerKeys) lacks(provider string) bool {
	for _, e := range k.entries() {
		if h, ok := e.Provider.(providers.KeyHolder); ok && e.Provider.Name() == provider {
			return !h.HasKey()
		}
	}
	return false
}

// keyCheckTimeout bounds the check of a key that has just been set.
const keyCheckTimeout = 10 * time.Second

// Set implements gateway.ProviderKeys.
func (k *providerKeys) Set(ctx context.Context, provider, id string, weight int, key *secrets.Key, by string) error {
	defer key.Wipe()
	if _, err := k.ring(provider); err != nil {
		return err
	}
	if k.store == nil {
		return protocol.Errorf(protocol.CodeInvalidRequest, storeOff)
	}
	if err := k.store.Set(ctx, provider, id, weight, key, by); err != nil {
		return stored(err)
	}
	k.log.Info().Str("provider", provider).Str("key", id).Str("by", by).Msg("a key of a provider was set")
	ctx, cancel := context.WithTimeout(ctx, keyCheckTimeout)
	defer cancel()
	return shown(k.check(ctx, provider, id))
}

// Delete implements gateway.ProviderKeys.
func (k *providerKeys) Delete(ctx context.Context, provider, id string) error {
	if _, err := k.ring(provider); err != nil {
		return err
	}
	if k.store == nil {
		return protocol.Errorf(protocol.CodeInvalidRequest, storeOff)
	}
	err := k.store.Delete(ctx, provider, id)
	if errors.Is(err, secrets.ErrNoKey) {
		return protocol.Errorf(protocol.CodeInvalidRequest, "no key %.70q was set for %s; those of the configuration are removed there", id, provider)
	}
	if err == nil {
		k.log.Info().Str("provider", provider).Str("key", id).Msg("a key of a provider was removed")
	}
	return stored(err)
}

// Check implements gateway.ProviderKeys.
func (k *providerKeys) Check(ctx context.Context, provider, id string) error {
	r, err := k.ring(provider)
	if err != nil {
		return err
	}
	if _, ok := r.Find(id); !ok {
		return protocol.Errorf(protocol.CodeInvalidRequest, "the provider has no key %.70q", id)
	}
	return shown(k.check(ctx, provider, id))
}

// check asks the provider about one key.
func (k *providerKeys) check(ctx context.Context, provider, id string) error {
	for _, e := range k.entries() {
		if c, ok := e.Provider.(providers.KeyChecker); ok && e.Provider.Name() == provider {
			return c.CheckKey(ctx, id)
		}
	}
	return nil
}

// shown drops what a check found, since the list of keys says it.
func shown(err error) error {
	if e, ok := errors.AsType[*protocol.Error](err); ok && e.Provider != "" {
		return nil
	}
	return err
}

// stored says to a client what a store, or a master key, that is away means.
func stored(err error) error {
	switch {
	case errors.Is(err, backbone.ErrNoStore):
		return protocol.Errorf(protocol.CodeServiceUnavailable, "the store can't be used now: %w", err).WithRetryAfter(time.Second)
	case errors.Is(err, secrets.ErrMaster):
		return protocol.Errorf(protocol.CodeServiceUnavailable, "the key can't be sealed now: %w", err).WithRetryAfter(time.Second)
	}
	return err
}

// keyChanged tells the log that a key rests, or works again.
func keyChanged(log zerolog.Logger) func(secrets.Change) {
	return func(c secrets.Change) {
		if c.State == secrets.StateOK {
			log.Info().Str("provider", c.Provider).Str("key", c.ID).Msg("a key of a provider works again")
			return
		}
		e := log.Warn()
		if c.State == secrets.StateLimited { // which is everyday life
			e = log.Info()
		}
		e.Str("provider", c.Provider).Str("key", c.ID).Str("state", string(c.State)).Str("code", string(c.Code)).Time("until", c.Until).
			Msg("a key of a provider rests")
	}
}

// keyGauges are what is asked for at each scrape.
func (k *providerKeys) keyGauges() []telemetry.KeyGauges {
	var all []telemetry.KeyGauges
	for provider := range k.rings {
		for _, key := range k.describe(provider, false) {
			all = append(all, telemetry.KeyGauges{Provider: provider, ID: key.ID, State: key.State, Calls: key.Calls, Rests: key.Rests})
		}
	}
	return all
}

// newVault makes the client of Vault that the configuration describes.
func newVault(cfg *config.Serve, log zerolog.Logger) (*secrets.Vault, error) {
	dialer := &net.Dialer{Timeout: cfg.VaultTimeout}
	if !cfg.AllowMetadataAddresses {
		dialer.Control = connections.Guard
	}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: cfg.VaultTimeout, IdleConnTimeout: cfg.VaultInterval,
		MaxIdleConns: 2, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if cfg.VaultCA != "" {
		pem, err := os.ReadFile(cfg.VaultCA)
		if err != nil {
			return nil, fmt.Errorf("vault_ca: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("vault_ca: %s has no certificate in PEM", cfg.VaultCA)
		}
	}
	return secrets.NewVault(secrets.VaultOptions{
		Address: cfg.VaultAddr, Namespace: cfg.VaultNamespace, Client: &http.Client{Transport: transport},
		Token: cfg.VaultToken.Reveal(), TokenFile: cfg.VaultTokenFile,
		RoleID: cfg.VaultRoleID, SecretID: cfg.VaultSecretID.Reveal(), SecretIDFile: cfg.VaultSecretIDFile,
		KubernetesRole: cfg.VaultKubernetesRole, AuthMount: cfg.VaultAuthMount, Timeout: cfg.VaultTimeout, Interval: cfg.VaultInterval, Logger: log,
	})
}
