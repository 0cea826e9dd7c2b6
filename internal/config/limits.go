package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Limits are how much callers may ask of a node, or of all nodes together.
type Limits struct {
	LimitKeyRequests        int64          `group:"Limits" default:"0" placeholder:"N" help:"Requests, and commands over a WebSocket, that each key may make in a minute; where none are needed, each address. 0 sets no limit, here and below."`
	LimitTenantRequests     int64          `group:"Limits" default:"0" placeholder:"N" help:"Requests that each tenant may make in a minute. A key without a tenant is one of its own."`
	LimitKeyTokens          int64          `group:"Limits" default:"0" placeholder:"N" help:"Tokens that each key may use in a minute. For tenants it is --tenant-tokens-per-minute."`
	LimitKeyBytes           Bytes          `group:"Limits" default:"0" placeholder:"SIZE" help:"Bytes that each key may send in a minute."`
	LimitTenantBytes        Bytes          `group:"Limits" default:"0" placeholder:"SIZE" help:"Bytes that each tenant may send in a minute."`
	LimitKeyStreams         int64          `group:"Limits" default:"0" placeholder:"N" help:"Analyses of each key that may run at once."`
	LimitTenantStreams      int64          `group:"Limits" default:"0" placeholder:"N" help:"Analyses of each tenant that may run at once."`
	LimitKeyConnections     int64          `group:"Limits" default:"0" placeholder:"N" help:"Connections that each key may have at once: WebSockets, event streams, and long-polls that wait."`
	LimitTenantConnections  int64          `group:"Limits" default:"0" placeholder:"N" help:"Connections that each tenant may have at once."`
	LimitTenant             []TenantLimits `group:"Limits" placeholder:"TENANT=LIMIT:N…" help:"Limits of one tenant, in the place of the others', such as 'acme=requests:600 bytes:10MiB connections:50 streams:5'; ~NAME is the key NAME, which has no tenant. Repeatable; a map in the file."`
	LimitAddressConnections int64          `group:"Limits" default:"0" placeholder:"N" help:"Connections that one address may have at once; of IPv6 a /64, here and below. Behind a proxy that is not trusted, all clients have the proxy's address."`
	LimitAddressRequests    int64          `group:"Limits" default:"0" placeholder:"N" help:"Requests that may come from one address in a minute, whoever sends them."`
	LimitAddressFailures    int64          `group:"Limits" default:"30" placeholder:"N" help:"Credentials that are not known, from one address in a minute. One more and the address is blocked for all but the credentials that were good there within the last hour."`
	LimitAddressBlock       time.Duration  `group:"Limits" default:"10s" help:"How long that lasts the first time. It doubles each time until there was no failure for an hour."`
	LimitAddressBlockMax    time.Duration  `group:"Limits" default:"15m" help:"How long it lasts at most."`

	ShedFrom float64       `group:"Limits" default:"0.8" placeholder:"PART" help:"Part of what this node can do at once, in analyses, connections or CPU, from which it refuses what can wait, with 503: first explanations, then analyses of those who have more than their share, then lists, other analyses, and new watchers; never clients that come back. 1 turns this off."`
	ShedLate time.Duration `group:"Limits" default:"1s" help:"How late the node may be with what is due until it counts as having no CPU left."`

	RedisURL          Secret        `name:"redis-url" group:"Limits" placeholder:"URL" help:"Redis that holds the limits for all nodes together: redis://[USER:PASSWORD@]HOST:PORT[/NUMBER], or rediss:// for TLS. Without it each node has its own. An address's limits always are the node's own: before anybody is known nothing leaves it."`
	RedisPasswordFile string        `group:"Limits" placeholder:"FILE" help:"File with Redis's password."`
	RedisTimeout      time.Duration `group:"Limits" default:"100ms" help:"How long a request waits for Redis, once; then none asks it until it answers again."`
	RedisFailure      string        `group:"Limits" default:"local" enum:"local,allow,deny" help:"What holds while Redis is away: local, where each node goes by its own counts, allow, without limits, or deny, where nothing that has a limit is served."`
}

// RedisPassword returns what the file holds; "" where there is none.
func (l *Limits) RedisPassword() (Secret, error) {
	if l.RedisPasswordFile == "" {
		return "", nil
	}
	b, err := readBounded(l.RedisPasswordFile)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", fmt.Errorf("%s is empty", l.RedisPasswordFile)
	}
	return Secret(text), nil
}

// problems is what Serve.Check tells of the limits.
func (l *Limits) problems() []problem {
	var found []problem
	fail := func(key, format string, args ...any) {
		found = append(found, problem{key: key, text: fmt.Sprintf(format, args...)})
	}
	for _, n := range []struct {
		key   string
		value int64
	}{
		{"limit_key_requests", l.LimitKeyRequests}, {"limit_tenant_requests", l.LimitTenantRequests},
		{"limit_key_tokens", l.LimitKeyTokens}, {"limit_key_bytes", int64(l.LimitKeyBytes)}, {"limit_tenant_bytes", int64(l.LimitTenantBytes)},
		{"limit_key_streams", l.LimitKeyStreams}, {"limit_tenant_streams", l.LimitTenantStreams},
		{"limit_key_connections", l.LimitKeyConnections}, {"limit_tenant_connections", l.LimitTenantConnections},
		{"limit_address_connections", l.LimitAddressConnections},
		{"limit_address_requests", l.LimitAddressRequests}, {"limit_address_failures", l.LimitAddressFailures},
	} {
		if n.value < 0 || n.value > maxPerMinute {
			fail(n.key, "is %d; it must be from 0, which sets no limit, to %d", n.value, maxPerMinute)
		}
	}
	for i, t := range l.LimitTenant {
		if slices.ContainsFunc(l.LimitTenant[:i], func(o TenantLimits) bool { return o.Tenant == t.Tenant }) {
			fail("limit_tenant", "%.60q is named twice", t.Tenant)
		}
	}
	for _, n := range []struct {
		key        string
		value      time.Duration
		least, max time.Duration
	}{
		{"limit_address_block", l.LimitAddressBlock, time.Second, 24 * time.Hour},
		{"limit_address_block_max", l.LimitAddressBlockMax, l.LimitAddressBlock, 24 * time.Hour},
		{"shed_late", l.ShedLate, 10 * time.Millisecond, time.Minute},
		{"redis_timeout", l.RedisTimeout, time.Millisecond, 10 * time.Second},
	} {
		if n.value < n.least || n.value > n.max {
			fail(n.key, "is %s; it must be from %s to %s", n.value, n.least, n.max)
		}
	}
	if !(l.ShedFrom > 0 && l.ShedFrom <= 1) { // NaN is neither
		fail("shed_from", "is %g; it must be more than 0, and at most 1, which turns shedding off", l.ShedFrom)
	}
	if u := l.RedisURL.Reveal(); u != "" {
		if p, err := url.Parse(u); err != nil || (p.Scheme != "redis" && p.Scheme != "rediss") || p.Host == "" {
			fail("redis_url", "is not redis://[USER:PASSWORD@]HOST:PORT[/NUMBER], or rediss:// for TLS")
		}
	}
	switch _, err := l.RedisPassword(); {
	case err != nil:
		fail("redis_password_file", "%s", err)
	case l.RedisPasswordFile != "" && l.RedisURL == "":
		fail("redis_password_file", "is for Redis, and there is no redis_url")
	}
	return found
}
