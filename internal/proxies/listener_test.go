package proxies_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask sends what was written first and a request over a fresh connection to a
// server that answers with the address that it sees.
func ask(t *testing.T, trusted, first string) string {
	t.Helper()
	p := trust(t, "", trusted)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, p.Client(r).Address.String())
	}))
	s.Listener = p.Listener(s.Listener, 5*time.Second)
	s.Config.SetKeepAlivesEnabled(false)
	s.Start()
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, first+"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "refused"
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(res.Status[:3] + " " + string(b))
}

func TestThePROXYProtocolIsSpokenWithTrustedProxiesOnly(t *testing.T) {
	v2 := func(from string) string {
		a, err := net.ResolveTCPAddr("tcp", from)
		if err != nil {
			t.Fatal(err)
		}
		h := proxyproto.HeaderProxyFromAddrs(2, a, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443})
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const v1 = "PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\r\n"
	for _, c := range []struct{ name, trusted, first, want string }{
		{"version 1", "loopback", v1, "200 198.51.100.7"},
		{"version 2", "loopback", v2("198.51.100.8:77"), "200 198.51.100.8"},
		{"IPv6", "loopback", "PROXY TCP6 2001:db8::9 2001:db8::1 5555 443\r\n", "200 2001:db8::9"},
		{"a proxy's own connection", "loopback", "PROXY UNKNOWN\r\n", "200 127.0.0.1"},
		{"a trusted proxy that sends none", "loopback", "", "refused"},
		{"one that sends nonsense", "loopback", "PROXY TCP4 lies\r\n", "refused"},
		{"somebody else", "10.0.0.0/8", v1, "400 400 Bad Request"},
		{"somebody else without it", "10.0.0.0/8", "", "200 127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ask(t, c.trusted, c.first); !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
