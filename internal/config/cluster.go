package config

import (
	"fmt"
	"net/url"
	"strings"
)

// MinSecretLength is the least length of a cluster's secret, in bytes. Who can
// reach a node could otherwise find it by trying.
const MinSecretLength = 32

// Clustered reports whether this node is one of several.
func (s *Serve) Clustered() bool { return s.ClusterName != "" || s.NatsURL != "" }

// ClusterPassword returns the cluster's secret, "" where it has none. It reads
// the file.
func (s *Serve) ClusterPassword() (Secret, error) {
	if s.ClusterSecretFile == "" {
		return s.ClusterSecret, nil
	}
	b, err := readBounded(s.ClusterSecretFile)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", fmt.Errorf("%s is empty", s.ClusterSecretFile)
	}
	return Secret(text), nil
}

// checkCluster checks what is for nodes that are not alone.
func (s *Serve) checkCluster() []problem {
	var found []problem
	fail := func(key, format string, args ...any) {
		found = append(found, problem{key: key, text: fmt.Sprintf(format, args...)})
	}
	together := func(keys ...string) problem { return problem{key: keys[0], others: keys[1:]} }
	files := []struct{ key, value string }{
		{"cluster_cert", s.ClusterCert}, {"cluster_key", s.ClusterKey}, {"cluster_ca", s.ClusterCA},
	}
	given := 0
	for _, f := range files {
		if f.value != "" {
			given++
		}
	}
	if s.ClusterName == "" {
		for _, f := range append(files, []struct{ key, value string }{
			{"cluster_routes", strings.Join(s.ClusterRoutes, ",")}, {"cluster_advertise", s.ClusterAdvertise},
			{"cluster_secret", string(s.ClusterSecret)}, {"cluster_secret_file", s.ClusterSecretFile},
		}...) {
			if f.value != "" {
				fail(f.key, "is for a cluster, and there is no cluster_name")
			}
		}
	}
	if s.NatsURL == "" {
		for _, f := range []struct{ key, value string }{
			{"nats_creds", s.NatsCreds}, {"nats_ca", s.NatsCA}, {"nats_cert", s.NatsCert}, {"nats_key", s.NatsKey},
		} {
			if f.value != "" {
				fail(f.key, "is for NATS servers, and there is no nats_url")
			}
		}
	} else {
		for u := range strings.SplitSeq(s.NatsURL, ",") {
			if err := checkNatsURL(strings.TrimSpace(u)); err != nil {
				fail("nats_url", "%s", err)
			}
		}
		if (s.NatsCert == "") != (s.NatsKey == "") {
			p := together("nats_cert", "nats_key")
			p.text = "a certificate and its key are needed together: nats_cert and nats_key"
			found = append(found, p)
		}
	}
	if !s.Clustered() {
		return found
	}
	if s.Node == defaultNode {
		fail("node", "is %q, the default; each node of a cluster needs a name of its own, which it keeps: give it with --node-name", s.Node)
	}
	if s.ClusterName == "" {
		return found
	}
	if s.NatsURL != "" {
		p := together("cluster_name", "nats_url")
		p.text = "an embedded server (cluster_name) and servers of NATS's own (nats_url) exclude each other; give one"
		found = append(found, p)
	}
	if !nodeName.MatchString(s.ClusterName) {
		fail("cluster_name", "%.80q is not 1 to 64 letters, digits, - and _", s.ClusterName)
	}
	if err := checkListen(s.ClusterListen); err != nil {
		fail("cluster_listen", "%s", err)
		return found
	}
	if s.ClusterAdvertise != "" {
		if err := checkListen(s.ClusterAdvertise); err != nil {
			fail("cluster_advertise", "%s", err)
		}
	}
	for _, r := range s.ClusterRoutes {
		if err := checkListen(r); err != nil {
			fail("cluster_routes", "%s", err)
		}
	}
	if given != 0 && given != len(files) {
		p := together("cluster_cert", "cluster_key", "cluster_ca")
		p.text = "a certificate, its key and their authority are needed together: cluster_cert, cluster_key and cluster_ca"
		found = append(found, p)
	}
	if s.ClusterSecret != "" && s.ClusterSecretFile != "" {
		p := together("cluster_secret", "cluster_secret_file")
		p.text = "the secret is given twice, by cluster_secret and cluster_secret_file; give one"
		found = append(found, p)
	}
	secret, err := s.ClusterPassword()
	switch {
	case err != nil:
		fail("cluster_secret_file", "%s", err)
	case secret != "" && len(secret) < MinSecretLength:
		key := "cluster_secret"
		if s.ClusterSecretFile != "" {
			key = "cluster_secret_file"
		}
		fail(key, "the secret is shorter than %d characters; make one with: openssl rand -hex 32", MinSecretLength)
	case secret == "" && given == 0 && !loopback(s.ClusterListen):
		p := together("cluster_listen", "cluster_secret", "cluster_secret_file", "cluster_cert")
		p.text = s.ClusterListen + " can be reached from other machines, and there is neither a secret nor a certificate; give --cluster-secret-file (the same for all nodes), or --cluster-cert, --cluster-key and --cluster-ca"
		found = append(found, p)
	}
	return found
}

// defaultNode is the name of a node that has been given none.
const defaultNode = "athena"

func checkNatsURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return fmt.Errorf("%.100q is not the URL of a NATS server, such as nats://127.0.0.1:4222", redactURL(s))
	}
	switch u.Scheme {
	case "nats", "tls", "ws", "wss":
		return nil
	}
	return fmt.Errorf("%.100q begins with none of nats://, tls://, ws:// and wss://", redactURL(s))
}

// redactURL hides what stands before the host: a password may be there.
func redactURL(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	return s
}
