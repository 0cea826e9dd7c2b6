package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var nodeName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Check returns everything that is wrong with s, one problem a line, each with
// what would be right. It reads the file of keys.
func (s *Serve) Check() error {
	var errs []error
	for _, p := range s.problems() {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// problems is what Check tells.
func (s *Serve) problems() []problem {
	keys, found := s.keys()
	keysFailed := len(found) > 0
	fail := func(key, format string, args ...any) {
		found = append(found, problem{key: key, text: fmt.Sprintf(format, args...)})
	}
	if err := checkListen(s.Listen); err != nil {
		fail("listen", "%s", err)
	} else if !s.Loopback() && len(keys) == 0 && !s.Insecure && !s.RequireAuth && !s.TakesJWT() && !keysFailed {
		found = append(found, problem{key: "listen", others: []string{"api_key", "api_key_file", "require_auth", "insecure"}, text: s.Listen +
			" can be reached from other machines, and there is no API key; give one with --api-key or --api-key-file, or say --insecure if anyone may use this server"})
	}
	if s.DataDir == "" {
		fail("data_dir", "neither XDG_DATA_HOME nor HOME says where it could be; give it with --data-dir")
	}
	if !nodeName.MatchString(s.Node) {
		fail("node", "%.80q is not 1 to 64 letters, digits, - and _", s.Node)
	}
	found = append(found, s.checkCluster()...)
	found = append(found, s.checkSecrets()...)
	found = append(found, s.checkEdge()...)
	found = append(found, s.checkJWT()...)
	for _, o := range s.AllowedOrigin {
		if err := CheckOrigin(o); err != nil {
			fail("allowed_origin", "%s", err)
		}
	}
	all := []string{"websocket", "sse", "long-poll"}
	if len(s.Transports) == 0 {
		fail("transports", "is empty; name at least one of %s", strings.Join(all, ", "))
	}
	for i, t := range s.Transports {
		if !slices.Contains(all, t) {
			fail("transports", "%.40q is none of %s", t, strings.Join(all, ", "))
		} else if slices.Contains(s.Transports[:i], t) {
			fail("transports", "%s is named twice", t)
		}
	}
	for i, r := range s.Recovery {
		if slices.ContainsFunc(s.Recovery[:i], func(o Recovery) bool { return o.Code == r.Code }) {
			fail("recovery", "%s is named twice", r.Code)
		}
	}
	found = append(found, s.Limits.problems()...)
	return append(found, s.checkNumbers()...)
}

// checkNumbers compares each number with its least and greatest value. The
// bounds are what the parts that use them can work with at all.
func (s *Serve) checkNumbers() []problem {
	const hour, year = time.Hour, 365 * 24 * time.Hour
	var found []problem
	fail := func(key, format string, args ...any) {
		found = append(found, problem{key: key, text: fmt.Sprintf(format, args...)})
	}
	for _, n := range []struct {
		key        string
		value      time.Duration
		least, max time.Duration
	}{
		{"heartbeat", s.Heartbeat, time.Second, hour},
		{"write_timeout", s.WriteTimeout, time.Second, hour},
		{"probe_timeout", s.ProbeTimeout, 100 * time.Millisecond, time.Minute},
		{"cluster_lease", s.ClusterLease, time.Second, hour},
		{"cluster_forget_after", s.ClusterForgetAfter, time.Second, 365 * 24 * hour},
		{"drain_delay", s.DrainDelay, 0, hour},
		{"auth_grace", s.AuthGrace, time.Second, hour},
		{"jwt_leeway", s.JWTLeeway, 0, 10 * time.Minute},
		{"jwt_jwks_refresh", s.JWTJWKSRefresh, 10 * time.Second, 24 * hour},
		{"reconnect_delay", s.ReconnectDelay, time.Millisecond, hour},
		{"coalesce_window", s.CoalesceWindow, 0, 10 * time.Second},
		{"poll_max_wait", s.PollMaxWait, time.Second, hour},
		{"result_max_wait", s.ResultMaxWait, time.Second, 24 * hour},
		{"history_age", s.HistoryAge, time.Minute, 10 * year},
		{"cache_age", s.CacheAge, time.Second, year},
		{"batch_interval", s.BatchInterval, time.Millisecond, time.Minute},
		{"orphan_timeout", s.OrphanTimeout, time.Second, 24 * hour},
		{"connect_timeout", s.ConnectTimeout, 100 * time.Millisecond, hour},
		{"header_timeout", s.HeaderTimeout, 100 * time.Millisecond, hour},
		{"first_content_timeout", s.FirstContentTimeout, 100 * time.Millisecond, hour},
		{"idle_timeout", s.IdleTimeout, 100 * time.Millisecond, hour},
		{"total_timeout", s.TotalTimeout, time.Second, 24 * hour},
		{"read_header_timeout", s.ReadHeaderTimeout, 100 * time.Millisecond, hour},
		{"body_timeout", s.BodyTimeout, 100 * time.Millisecond, hour},
		{"keep_alive", s.KeepAlive, time.Second, 24 * hour},
		{"drain_timeout", s.DrainTimeout, 0, 24 * hour},
		{"vault_timeout", s.VaultTimeout, 100 * time.Millisecond, time.Minute},
		{"vault_interval", s.VaultInterval, time.Second, 24 * hour},
		{"key_file_interval", s.KeyFileInterval, 100 * time.Millisecond, hour},
		{"hedge_after", s.HedgeAfter, 0, hour},
		{"health_interval", s.HealthInterval, 0, 24 * hour},
		{"retry_backoff", s.RetryBackoff, time.Millisecond, hour},
		{"retry_backoff_max", s.RetryBackoffMax, time.Millisecond, hour},
		{"rate_limit_wait", s.RateLimitWait, 0, hour},
		{"min_rate_window", s.MinRateWindow, time.Second, hour},
		{"breaker_window", s.BreakerWindow, time.Second, hour},
		{"breaker_slow_after", s.BreakerSlowAfter, 0, hour},
		{"breaker_base", s.BreakerBase, 10 * time.Millisecond, hour},
		{"breaker_max", s.BreakerMax, 10 * time.Millisecond, hour},
	} {
		if n.value < n.least || n.value > n.max {
			fail(n.key, "is %s; it must be from %s to %s", n.value, n.least, n.max)
		}
	}
	const maxMessage, big = 1 << 20, 1 << 50
	for _, n := range []struct {
		key        string
		value      Bytes
		least, max Bytes
	}{
		{"message_bytes", s.MessageBytes, 1 << 10, maxMessage},
		{"poll_bytes", s.PollBytes, 1 << 10, 64 << 20},
		{"feed_bytes", s.FeedBytes, 64 << 10, 1 << 30},
		{"feeds_bytes", s.FeedsBytes, 1 << 20, big},
		{"history_bytes", s.HistoryBytes, 1 << 20, big},
		{"history_stream_bytes", s.HistoryStreamBytes, 64 << 10, big},
		{"batch_bytes", s.BatchBytes, 1 << 10, maxMessage},
		{"cache_bytes", s.CacheBytes, 0, big},
		{"max_code_bytes", s.MaxCodeBytes, 1 << 10, 64 << 20},
		{"max_output_bytes", s.MaxOutputBytes, 1 << 10, 1 << 30},
		{"max_header_bytes", s.MaxHeaderBytes, 4 << 10, maxMessage},
		{"max_streams", Bytes(s.MaxStreams), 1, MaxStreamsLimit},
		{"max_connections", Bytes(s.MaxConnections), 1, 1e7},
		{"max_analyses", Bytes(s.MaxAnalyses), 1, 1e6},
		{"min_rate", s.MinRate, 0, maxMinRate},
	} {
		if n.value < n.least || n.value > n.max {
			fail(n.key, "is %s; it must be from %s to %s", n.value, n.least, n.max)
		}
	}
	for _, n := range []struct {
		key        string
		value      int64
		least, max int64
	}{
		{"max_attempts", int64(s.MaxAttempts), 1, 100},
		{"max_retries", int64(s.MaxRetries), 0, 100},
		{"breaker_failures", int64(s.BreakerFailures), 1, 1e6},
		{"breaker_probes", int64(s.BreakerProbes), 1, 1000},
		{"provider_concurrency", int64(s.ProviderConcurrency), 1, maxConcurrency},
		{"provider_queue", int64(s.ProviderQueue), 0, maxQueue},
		{"network_limit", int64(s.NetworkLimit), 1, maxConcurrency},
		{"cpu_limit", int64(s.CPULimit), 1, maxConcurrency},
		{"memory_limit", int64(s.MemoryLimit), 1, maxConcurrency},
		{"tenant_requests_per_minute", s.TenantRequestsPerMinute, 0, maxPerMinute},
		{"tenant_tokens_per_minute", s.TenantTokensPerMinute, 0, maxPerMinute},
	} {
		if n.value < n.least || n.value > n.max {
			fail(n.key, "is %d; it must be from %d to %d", n.value, n.least, n.max)
		}
	}
	if !(s.RetryBudget >= 0 && s.RetryBudget <= 1) { // NaN is neither
		fail("retry_budget", "is %g; it must be from 0 to 1", s.RetryBudget)
	}
	for _, n := range []struct {
		less, more string
		value, max fmt.Stringer
		wrong      bool
		why        string
	}{
		{"retry_backoff", "retry_backoff_max", s.RetryBackoff, s.RetryBackoffMax, s.RetryBackoff > s.RetryBackoffMax, ""},
		{"breaker_base", "breaker_max", s.BreakerBase, s.BreakerMax, s.BreakerBase > s.BreakerMax, ""},
		{"feed_bytes", "feeds_bytes", s.FeedBytes, s.FeedsBytes, s.FeedBytes > s.FeedsBytes, "; one stream must fit into the memory for all"},
		{"history_stream_bytes", "history_bytes", s.HistoryStreamBytes, s.HistoryBytes, s.HistoryStreamBytes > s.HistoryBytes, ""},
	} {
		if n.wrong {
			found = append(found, problem{key: n.less, others: []string{n.more}, text: fmt.Sprintf("is %s, more than %s (%s)%s", n.value, n.more, n.max, n.why)})
		}
	}
	return found
}

func checkListen(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%.80q is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080", addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %.40q is not a number from 0 to 65535", port)
	}
	return nil
}

// Loopback reports whether only this machine can reach the listen address.
func (s *Serve) Loopback() bool { return loopback(s.Listen) }

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// CheckOrigin says what is wrong with an allowed origin. It is scheme and
// host, with a port where it isn't the scheme's own; the host may begin with
// "*.", which stands for any name below it.
func CheckOrigin(o string) error {
	u, err := url.Parse(o)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Scheme+"://"+u.Host != strings.ToLower(o) {
		return fmt.Errorf("%.100q is not an origin, such as https://example.com or https://*.example.com:8443", o)
	}
	if host := strings.TrimPrefix(u.Hostname(), "*."); strings.Contains(host, "*") || host == "" || (host != u.Hostname() && !strings.Contains(host, ".")) {
		return fmt.Errorf(`%.100q: "*." may only stand before a name with a dot in it`, o)
	}
	return nil
}

// MinKeyLength is the least length of an API key that clients use, in bytes.
const MinKeyLength = 16

// A Key is an API key that clients use.
type Key struct {
	// Name is for logs: the one given, or "key-1" for the first, and so on.
	Name   string
	Secret Secret
}

var keyName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Keys returns the API keys of clients, those of the file last. It reads the
// file.
func (s *Serve) Keys() ([]Key, error) {
	keys, found := s.keys()
	var errs []error
	for _, p := range found {
		errs = append(errs, p)
	}
	return keys, errors.Join(errs...)
}

func (s *Serve) keys() (keys []Key, found []problem) {
	type line struct{ key, where, text string }
	var lines []line
	for i, k := range s.APIKey {
		lines = append(lines, line{"api_key", fmt.Sprintf("number %d", i+1), k.Reveal()})
	}
	if s.APIKeyFile != "" {
		b, err := readBounded(s.APIKeyFile)
		if err != nil {
			return nil, []problem{{key: "api_key_file", text: err.Error()}}
		}
		before := len(lines)
		n := 0
		for text := range strings.Lines(string(b)) {
			n++
			if text = strings.TrimSpace(text); text != "" && !strings.HasPrefix(text, "#") {
				lines = append(lines, line{"api_key_file", fmt.Sprintf("%s, line %d", s.APIKeyFile, n), text})
			}
		}
		if len(lines) == before {
			return nil, []problem{{key: "api_key_file", text: s.APIKeyFile + " has no key in it; write one a line"}}
		}
	}
	for i, l := range lines {
		fail := func(format string, args ...any) {
			found = append(found, problem{key: l.key, text: l.where + ": " + fmt.Sprintf(format, args...)})
		}
		k := Key{Name: fmt.Sprintf("key-%d", i+1), Secret: Secret(l.text)}
		// A key may end with "=" itself, as base64 does.
		if name, rest, ok := strings.Cut(l.text, "="); ok && keyName.MatchString(name) && strings.Trim(rest, "=") != "" {
			k = Key{Name: name, Secret: Secret(rest)}
		}
		text := k.Secret.Reveal()
		switch {
		case len(text) < MinKeyLength:
			fail("is shorter than %d characters; make one with: openssl rand -hex 24", MinKeyLength)
		case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
			fail("has a space or another character that can't stand in a header")
		case slices.ContainsFunc(keys, func(o Key) bool { return o.Name == k.Name || o.Secret == k.Secret }):
			fail("has the name or the key of another")
		}
		keys = append(keys, k)
	}
	return keys, found
}
