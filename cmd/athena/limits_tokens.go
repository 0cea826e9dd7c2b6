package main

import (
	"context"
	"time"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/ratelimit"
)

// sharedTokens hold tenants and keys to the tokens of a minute on all nodes
// together, in Redis. While that is away each node's ledger goes on by itself.
type sharedTokens struct {
	redis *ratelimit.Redis
	deny  bool // while it is away
	// What a minute allows; 0 for no limit.
	tenantCalls, tenantTokens, keyTokens int64
}

var _ accounting.Shared = (*sharedTokens)(nil)

// newSharedTokens returns nil where there is nothing to share.
func newSharedTokens(cfg *config.Serve, redis *ratelimit.Redis) accounting.Shared {
	if redis == nil || cfg.TenantRequestsPerMinute+cfg.TenantTokensPerMinute+cfg.LimitKeyTokens == 0 {
		return nil
	}
	return &sharedTokens{redis: redis, deny: ratelimit.Failure(cfg.RedisFailure) == ratelimit.FailDeny,
		tenantCalls: cfg.TenantRequestsPerMinute, tenantTokens: cfg.TenantTokensPerMinute, keyTokens: cfg.LimitKeyTokens}
}

// awayWait is how long a call waits, again and again, for a Redis without which
// nothing may be done.
const awayWait = time.Second

// Reserve implements accounting.Shared.
func (s *sharedTokens) Reserve(tenant, credential string, tokens int64) (taken bool, wait time.Duration) {
	d := s.demands(tenant, credential, 1, tokens)
	if len(d) == 0 {
		return false, 0
	}
	levels := make([]ratelimit.Level, len(d))
	taken, err := s.redis.Take(context.Background(), d, levels) // it has a deadline of its own
	switch {
	case err != nil && s.deny:
		return false, awayWait
	case err != nil || taken:
		return taken, 0
	}
	for _, l := range levels {
		wait = max(wait, l.Wait)
	}
	return false, wait
}

// Settle implements accounting.Shared.
func (s *sharedTokens) Settle(tenant, credential string, requests, tokens int64) {
	d := s.demands(tenant, credential, requests, tokens)
	for i := range d {
		d[i].Spent = true
	}
	_, _ = s.redis.Take(context.Background(), d, make([]ratelimit.Level, len(d))) // what can't be counted is given
}

func (s *sharedTokens) demands(tenant, credential string, requests, tokens int64) []ratelimit.Demand {
	var d []ratelimit.Demand
	add := func(kind ratelimit.Kind, name string, limit, n int64) {
		if limit > 0 {
			d = append(d, ratelimit.Demand{Key: ratelimit.Key{Kind: kind, Name: name}, PerMinute: limit, N: n})
		}
	}
	add(ratelimit.TenantCalls, tenant, s.tenantCalls, requests)
	add(ratelimit.TenantTokens, tenant, s.tenantTokens, tokens)
	if credential != "" {
		add(ratelimit.CredentialTokens, credential, s.keyTokens, tokens)
	}
	return d
}
