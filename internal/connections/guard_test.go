package connections_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/athena-hub/athena/internal/connections"
)

func TestTheAddressesOfCloudsCredentialsAreNeverConnectedTo(t *testing.T) {
	for _, address := range []string{"169.254.169.254:80", "169.254.170.2:80", "[fe80::a9fe:a9fe%eth0]:80", "[fd00:ec2::254]:80", "[::ffff:169.254.169.254]:443", "100.100.100.200:80", "[fd20:ce::254]:80", "168.63.129.16:80", "192.0.0.192:80",
		"[64:ff9b::a9fe:a9fe]:80"} {
		if err := connections.Guard("tcp", address, nil); !errors.Is(err, connections.ErrMetadata) {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:80", "[::1]:443", "10.0.0.1:443", "192.0.2.1:1", "[2001:db8::1]:443", "100.100.100.201:80", "[64:ff9b::c000:201]:443"} {
		if err := connections.Guard("tcp", address, nil); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	p := connections.New(connections.Options{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://169.254.169.254/latest/meta-data/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Client().Do(req); !errors.Is(err, connections.ErrMetadata) {
		t.Errorf("a pool: %v", err)
	}
}
