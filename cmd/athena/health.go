package main

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// checkTimeout bounds one check of one provider.
const checkTimeout = 15 * time.Second

// checkups ask the providers now and then, by a call that costs nothing,
// whether they answer and take the key, so that a wrong key is known before the
// first analysis needs it. What calls for answers find out is the breakers'
// matter.
type checkups struct {
	// Set by newCheckups, then read-only.
	every    time.Duration
	checkers map[string]providers.HealthChecker
	log      zerolog.Logger

	mu   sync.Mutex
	last map[string]gateway.ProviderHealth // guarded by mu

	stop context.CancelFunc
	done sync.WaitGroup
}

// newCheckups returns those of the entries that can be asked. They begin with
// start; never, where every is 0.
func newCheckups(entries []analysis.Entry, every time.Duration, log zerolog.Logger) *checkups {
	c := &checkups{every: every, checkers: make(map[string]providers.HealthChecker), log: log,
		last: make(map[string]gateway.ProviderHealth), stop: func() {}}
	for _, e := range entries {
		checker, ok := e.Provider.(providers.HealthChecker)
		if ok && every > 0 && len(e.Provider.Features().Models) > 0 { // one that has none runs here
			c.checkers[e.Provider.Name()] = checker
		}
	}
	return c
}

// start begins to check, until close.
func (c *checkups) start() {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	for name, checker := range c.checkers {
		c.done.Go(func() {
			again := time.NewTicker(c.every)
			defer again.Stop()
			for {
				c.check(ctx, name, checker)
				select {
				case <-again.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

// close ends the checks and waits for those that run.
func (c *checkups) close() {
	c.stop()
	c.done.Wait()
}

// check asks one provider, and tells the log when the answer is another one.
func (c *checkups) check(ctx context.Context, name string, checker providers.HealthChecker) {
	if k, ok := checker.(providers.KeyHolder); ok && !k.HasKey() {
		c.mu.Lock()
		delete(c.last, name) // nobody has asked for it to work
		c.mu.Unlock()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := checker.Health(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the node stops, which says nothing about the provider
	}
	health := gateway.ProviderHealth{OK: err == nil, Checked: time.Now().UTC().Truncate(time.Millisecond)}
	if err != nil {
		health.Error = protocol.AsError(err)
	}
	c.mu.Lock()
	before, known := c.last[name]
	c.last[name] = health
	c.mu.Unlock()
	switch {
	case err != nil && (before.Error == nil || before.Error.Code != health.Error.Code):
		c.log.Warn().Err(err).Str("provider", name).Msg("a provider does not work")
	case err == nil && known && !before.OK:
		c.log.Info().Str("provider", name).Msg("a provider works again")
	}
}

// results are the newest, by provider.
func (c *checkups) results() map[string]gateway.ProviderHealth {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.last)
}
