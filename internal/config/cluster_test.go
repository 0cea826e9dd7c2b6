package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const secret = "0123456789abcdef0123456789abcdef"

func TestWhatIsWrongWithAClusterIsTold(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no name of its own":       {[]string{"--cluster-name", "c"}, "node: is \"athena\", the default"},
		"routes without a cluster": {[]string{"--cluster-routes", "127.0.0.1:1"}, "cluster_routes: is for a cluster, and there is no cluster_name"},
		"a secret without one":     {[]string{"--cluster-secret", secret}, "cluster_secret: is for a cluster"},
		"creds without a server":   {[]string{"--nats-creds", "x"}, "nats_creds: is for NATS servers, and there is no nats_url"},
		"both kinds of servers":    {[]string{"--cluster-name", "c", "--node", "n", "--nats-url", "nats://h:1"}, "exclude each other"},
		"an odd URL":               {[]string{"--nats-url", "http://u:pw@h:1", "--node", "n"}, "begins with none of nats://"},
		"an odd name":              {[]string{"--cluster-name", "a b", "--node", "n"}, `cluster_name: "a b" is not`},
		"a route without a port":   {[]string{"--cluster-name", "c", "--node", "n", "--cluster-routes", "10.0.0.1"}, `cluster_routes: "10.0.0.1" is not HOST:PORT`},
		"open to all":              {[]string{"--cluster-name", "c", "--node", "n", "--cluster-listen", "0.0.0.0:6222"}, "there is neither a secret nor a certificate"},
		"a short secret":           {[]string{"--cluster-name", "c", "--node", "n", "--cluster-secret", "short"}, "shorter than 32"},
		"an empty file":            {[]string{"--cluster-name", "c", "--node", "n", "--cluster-secret-file", empty}, "is empty"},
		"two secrets":              {[]string{"--cluster-name", "c", "--node", "n", "--cluster-secret", secret, "--cluster-secret-file", empty}, "given twice"},
		"a certificate alone":      {[]string{"--cluster-name", "c", "--node", "n", "--cluster-cert", "x"}, "needed together"},
		"a lease of no time":       {[]string{"--cluster-name", "c", "--node", "n", "--cluster-lease", "1ms"}, "cluster_lease: is 1ms; it must be from 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, "", nil, c.args...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "pw@")) {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestAClusterIsJoinedWithASecretOrOnLoopbackWithout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := load(t, "", []string{"ATHENA_CLUSTER_NAME=c", "ATHENA_CLUSTER_ROUTES=a:1,b:2"},
		"--node-name", "n1", "--cluster-listen", "0.0.0.0:6222", "--cluster-secret-file", file)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Clustered() || s.Node != "n1" || len(s.ClusterRoutes) != 2 || !s.Takeover {
		t.Errorf("got %+v", s)
	}
	if got, err := s.ClusterPassword(); err != nil || got.Reveal() != secret {
		t.Errorf("the secret is %q (%v)", got.Reveal(), err)
	}
	if s, err = load(t, "", nil, "--cluster-name", "c", "--node", "n1", "--no-takeover"); err != nil || s.Takeover {
		t.Errorf("on loopback: %v", err)
	}
	if s, err = load(t, "", nil, "--nats-url", "nats://a:4222, tls://b:4222", "--node", "n1"); err != nil || !s.Clustered() {
		t.Errorf("with NATS servers: %v", err)
	}
	if s, err = load(t, "", nil); err != nil || s.Clustered() {
		t.Errorf("alone: %v", err)
	}
}
