package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/config"
)

func TestLimitsComeFromFlagsVariablesAndTheFileAndAreChecked(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("athena.yaml", "limit_key_requests: 60\nlimit_tenant_bytes: 10MiB\nredis_failure: deny\n")
	s, err := config.Load([]string{"--config", file, "--limit-address-failures", "5", "--redis-password-file", write("password", "canary\n")},
		[]string{"ATHENA_REDIS_URL=rediss://user@redis.example:6380/2", "HOME=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	if s.LimitKeyRequests != 60 || s.LimitTenantBytes != 10<<20 || s.RedisFailure != "deny" || s.LimitAddressFailures != 5 || s.ShedFrom != 0.8 || s.RedisTimeout != 100*time.Millisecond {
		t.Errorf("%+v", s.Limits)
	}
	if p, err := s.RedisPassword(); err != nil || p.Reveal() != "canary" {
		t.Errorf("the password is %q, %v", p.Reveal(), err)
	}
	for _, c := range []struct{ args, says string }{
		{"--limit-key-requests -1", "limit_key_requests"},
		{"--limit-address-block 0s", "limit_address_block"},
		{"--limit-address-block 1h --limit-address-block-max 1m", "limit_address_block_max: is 1m0s; it must be from 1h0m0s"},
		{"--redis-url http://user:canary@h", "redis://"},
		{"--redis-url redis://user:canary@h:port", "redis://"},
		{"--redis-failure panic", "local"},
		{"--redis-timeout 0s", "redis_timeout"},
		{"--redis-password-file " + write("p", "canary"), "there is no redis_url"},
		{"--redis-url redis://h --redis-password-file " + write("empty", ""), "is empty"},
		{"--shed-from 0", "shed_from"},
		{"--shed-from NaN", "shed_from"},
		{"--shed-late 0s", "shed_late"},
		{"--limit-tenant acme=requests:x", "limit_tenant"},
		{"--limit-tenant acme=speed:9", "requests, bytes, connections, streams"},
		{"--limit-tenant acme", "limit_tenant"},
	} {
		_, err := config.Load(strings.Fields(c.args), []string{"HOME=" + dir})
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "-", "_"), strings.ReplaceAll(c.says, "-", "_")) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v; want %q", c.args, err, c.says)
		}
	}
}

func TestATenantMayHaveLimitsOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "athena.yaml")
	if err := os.WriteFile(path, []byte("limit_tenant:\n  acme: requests:600 bytes:5MiB\n  \"~ada\": streams:3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--config", path}, {"--limit-tenant", "acme=requests:600 bytes:5MiB", "--limit-tenant", "~ada=streams:3"}} {
		s, err := config.Load(args, []string{"HOME=" + dir})
		if err != nil {
			t.Fatal(err)
		}
		want := []config.TenantLimits{{Tenant: "acme", Requests: 600, Bytes: 5 << 20, Connections: -1, Streams: -1}, {Tenant: "~ada", Requests: -1, Bytes: -1, Connections: -1, Streams: 3}}
		if len(s.LimitTenant) != 2 || s.LimitTenant[0] != want[0] || s.LimitTenant[1] != want[1] {
			t.Errorf("%v: %+v", args, s.LimitTenant)
		}
	}
}
