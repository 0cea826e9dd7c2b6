package main

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/overload"
	"github.com/athena-hub/athena/internal/ratelimit"
)

// callerLimits are how much callers may ask for.
type callerLimits struct {
	gateway   *gateway.Limits
	places    *ratelimit.Places
	addresses *ratelimit.Addresses
	redis     *ratelimit.Redis // nil for none
	load      *overload.Shedder
}

// openLimits makes what counts.
func (n *node) openLimits() error {
	cfg, log := n.cfg, n.log.With().Str("part", "limits").Logger()
	l := &callerLimits{places: new(ratelimit.Places), addresses: ratelimit.NewAddresses(ratelimit.AddressOptions{
		RequestsPerMinute: cfg.LimitAddressRequests, FailuresPerMinute: cfg.LimitAddressFailures,
		Block: cfg.LimitAddressBlock, BlockMax: cfg.LimitAddressBlockMax,
	})}
	if cfg.RedisURL != "" {
		password, err := cfg.RedisPassword()
		if err != nil {
			return err
		}
		l.redis, err = ratelimit.OpenRedis(ratelimit.RedisOptions{
			URL: cfg.RedisURL.Reveal(), Password: password.Reveal(), Timeout: cfg.RedisTimeout,
			Changed: func(err error) {
				if err != nil {
					log.Warn().Err(err).Str("until_then", cfg.RedisFailure).Msg("Redis does not answer: the limits of all nodes together don't hold until it is back")
					return
				}
				log.Info().Msg("Redis is back, and with it the limits of all nodes together")
			},
		})
		if err != nil {
			return err
		}
	}
	if l.redis != nil && cfg.LimitKeyStreams+cfg.LimitTenantStreams+cfg.LimitKeyConnections+cfg.LimitTenantConnections+int64(len(cfg.LimitTenant)) > 0 {
		l.places.Share(l.redis, ratelimit.CredentialStreams, ratelimit.TenantStreams, ratelimit.CredentialConnections, ratelimit.TenantConnections)
	}
	l.load = overload.New(overload.Options{From: cfg.ShedFrom, Late: cfg.ShedLate,
		Analyses:    func() float64 { return float64(n.analyses.Running()) / float64(cfg.MaxAnalyses) },
		Connections: func() float64 { return float64(n.hub.Connections()) / float64(cfg.MaxConnections) },
	})
	l.gateway = gateway.NewLimits(gateway.LimitOptions{
		Key: gateway.Caps{RequestsPerMinute: cfg.LimitKeyRequests, BytesPerMinute: int64(cfg.LimitKeyBytes),
			Connections: cfg.LimitKeyConnections, Streams: cfg.LimitKeyStreams},
		Tenant: gateway.Caps{RequestsPerMinute: cfg.LimitTenantRequests, BytesPerMinute: int64(cfg.LimitTenantBytes),
			Connections: cfg.LimitTenantConnections, Streams: cfg.LimitTenantStreams},
		Tenants:            tenantCaps(cfg),
		AddressConnections: cfg.LimitAddressConnections,
		Limiter:            ratelimit.NewLimiter(ratelimit.NewBuckets(0), l.redis, ratelimit.Failure(cfg.RedisFailure)),
		Places:             l.places, Addresses: l.addresses, Load: l.load, Metrics: n.metrics,
		Blocked: func(a netip.Addr, d time.Duration) {
			log.Warn().Stringer("address", a).Dur("for_ms", d).Msg("an address is blocked, since too many of its credentials were not known")
		},
	})
	if l.redis == nil {
		n.metrics.ObserveLimits(l.addresses.Len, nil, nil)
	} else {
		n.metrics.ObserveLimits(l.addresses.Len, l.redis.Up, l.redis.Failures)
	}
	n.limits = l
	return nil
}

// tenantCaps are the limits of tenants that aren't the others'.
func tenantCaps(cfg *config.Serve) map[string]gateway.Caps {
	caps := make(map[string]gateway.Caps, len(cfg.LimitTenant))
	for _, t := range cfg.LimitTenant {
		either := func(own, others int64) int64 {
			if own < 0 {
				return others
			}
			return own
		}
		caps[t.Tenant] = gateway.Caps{RequestsPerMinute: either(t.Requests, cfg.LimitTenantRequests), BytesPerMinute: either(int64(t.Bytes), int64(cfg.LimitTenantBytes)),
			Connections: either(t.Connections, cfg.LimitTenantConnections), Streams: either(t.Streams, cfg.LimitTenantStreams)}
	}
	return caps
}

// guard keeps floods from blocked addresses from being read. A trusted proxy is
// never shut out: others come through it. It can be blocked all the same, where a
// client sends a header that is none (RFC 7239), so that its own address isn't
// known.
func (n *node) guard(ln net.Listener) net.Listener {
	shut := func(a netip.Addr) bool { return !n.edge.proxies.Trusts(a.WithZone("")) && n.limits.addresses.Shut(a) }
	return gateway.Guard(ln, shut, func() { n.metrics.Limited("address-flood") })
}

// close ends what asks Redis.
func (l *callerLimits) close() error {
	if l == nil {
		return nil
	}
	l.load.Close()
	if l.redis == nil {
		return nil
	}
	return l.redis.Close()
}

// describeAll is the answer of GET /v1/cluster.
func (n *node) describeAll(ctx context.Context) gateway.Cluster {
	c := n.describeCluster(ctx)
	if l := n.limits; l.redis != nil && !l.redis.Up() {
		c.Degraded = append(c.Degraded, "Redis does not answer: "+map[ratelimit.Failure]string{
			ratelimit.FailLocal: "limits hold for each node by itself",
			ratelimit.FailAllow: "limits don't hold",
			ratelimit.FailDeny:  "what has a limit is refused",
		}[ratelimit.Failure(n.cfg.RedisFailure)])
	}
	return c
}

// ownerOf is, as far as limits go, the caller whose analysis another node has
// begun.
func ownerOf(owner, credential string) auth.Identity {
	if owner == "" {
		id := auth.Anonymous
		id.Credential = credential // its address, which is not known here
		return id
	}
	tenant, name := auth.SplitOwner(owner)
	return auth.Identity{Name: name, Tenant: tenant, Credential: credential}
}
