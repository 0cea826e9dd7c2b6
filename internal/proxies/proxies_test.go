package proxies_test

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/proxies"
)

func trust(t testing.TB, header string, trusted ...string) *proxies.Proxies {
	t.Helper()
	p, err := proxies.New(trusted, header)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// request is one from this peer; header has names and values in turn.
func request(peer string, header ...string) *http.Request {
	r := &http.Request{RemoteAddr: peer, Host: "inside:8080", Header: make(http.Header)}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func TestOnlyTrustedProxiesAreBelieved(t *testing.T) {
	const xff, fwd = proxies.HeaderXForwardedFor, proxies.HeaderForwarded
	for _, c := range []struct {
		name   string
		kind   string
		peer   string
		header []string
		want   string // address scheme host
	}{
		{"nobody trusted", xff, "203.0.113.9:1", []string{"X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example"}, "203.0.113.9  inside:8080"},
		{"a proxy", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "a.example"}, "1.2.3.4 https a.example"},
		{"a proxy that tells nothing", xff, "10.0.0.1:1", nil, "10.0.0.1  inside:8080"},
		{"what the client wrote stands on the left", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "6.6.6.6, 1.2.3.4"}, "1.2.3.4  inside:8080"},
		{"in another line", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-For", "1.2.3.4"}, "1.2.3.4  inside:8080"},
		{"several proxies", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "6.6.6.6, 1.2.3.4,10.0.0.3 ,\t10.0.0.2"}, "1.2.3.4  inside:8080"},
		{"only proxies", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "10.0.0.3, 10.0.0.2"}, "10.0.0.3  inside:8080"},
		{"a client that claims to be a proxy", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "10.0.0.9, 1.2.3.4"}, "1.2.3.4  inside:8080"},
		{"no address", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "1.2.3.4, unknown"}, "10.0.0.1  inside:8080"},
		{"an empty last entry", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "1.2.3.4,"}, "10.0.0.1  inside:8080"},
		{"no address behind a proxy", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "<script>, 10.0.0.2"}, "10.0.0.2  inside:8080"},
		{"with a port", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "1.2.3.4:5678"}, "1.2.3.4  inside:8080"},
		{"IPv6", xff, "[fd00::1]:1", []string{"X-Forwarded-For", "2001:db8::7"}, "2001:db8::7  inside:8080"},
		{"IPv6 with a port", xff, "[fd00::1]:1", []string{"X-Forwarded-For", "[2001:db8::7]:80"}, "2001:db8::7  inside:8080"},
		{"IPv4 in IPv6", xff, "[::ffff:10.0.0.1]:1", []string{"X-Forwarded-For", "::ffff:1.2.3.4"}, "1.2.3.4  inside:8080"},
		{"a zone", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "fe80::1%eth0"}, "10.0.0.1  inside:8080"},
		{"the other header is the client's", xff, "10.0.0.1:1", []string{"Forwarded", "for=6.6.6.6;proto=https;host=evil.example"}, "10.0.0.1  inside:8080"},
		{"X-Real-IP is nobody's", xff, "10.0.0.1:1", []string{"X-Real-IP", "6.6.6.6"}, "10.0.0.1  inside:8080"},
		{"the nearest proxy's word", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "http, https", "X-Forwarded-Host", "evil.example,a.example"}, "1.2.3.4 https a.example"},
		{"no scheme, no host", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "gopher", "X-Forwarded-Host", "a.example/x?y"}, "1.2.3.4  inside:8080"},
		{"far too many entries", xff, "10.0.0.1:1", []string{"X-Forwarded-For", "6.6.6.6" + strings.Repeat(",10.0.0.2", 1000)}, "10.0.0.2  inside:8080"},
		{"a Unix socket", xff, "@", []string{"X-Forwarded-For", "1.2.3.4"}, "invalid IP  inside:8080"},

		{"Forwarded", fwd, "10.0.0.1:1", []string{"Forwarded", `for=1.2.3.4;proto=https;host=a.example;by=_x`}, "1.2.3.4 https a.example"},
		{"quoted IPv6", fwd, "10.0.0.1:1", []string{"Forwarded", `For="[2001:db8:cafe::17]:4711" ; Proto=HTTPS`}, "2001:db8:cafe::17 https inside:8080"},
		{"elements over lines", fwd, "10.0.0.1:1", []string{"Forwarded", `for=6.6.6.6, for="1.2.3.4:99";host="a.example:8443"`, "Forwarded", "for=10.0.0.2;host=b.example"}, "1.2.3.4  a.example:8443"},
		{"of a trusted proxy only", fwd, "1.1.1.1:1", []string{"Forwarded", "for=6.6.6.6;proto=https"}, "1.1.1.1  inside:8080"},
		{"a hidden client", fwd, "10.0.0.1:1", []string{"Forwarded", "for=6.6.6.6, for=_hidden;proto=https"}, "10.0.0.1 https inside:8080"},
		{"unknown", fwd, "10.0.0.1:1", []string{"Forwarded", "for=unknown"}, "10.0.0.1  inside:8080"},
		{"a quote that the client left open", fwd, "10.0.0.1:1", []string{"Forwarded", `for="6.6.6.6`, "Forwarded", "for=1.2.3.4"}, "10.0.0.1  inside:8080"},
		{"a quote that swallows the proxy's element", fwd, "10.0.0.1:1", []string{"Forwarded", `for=6.6.6.6;by=", for="[2001:db8::1]"`}, "10.0.0.1  inside:8080"},
		{"a parameter twice", fwd, "10.0.0.1:1", []string{"Forwarded", "for=1.2.3.4;for=6.6.6.6"}, "10.0.0.1  inside:8080"},
		{"the other one", fwd, "10.0.0.1:1", []string{"X-Forwarded-For", "6.6.6.6"}, "10.0.0.1  inside:8080"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := trust(t, c.kind, "10.0.0.0/8", "fd00::/8")
			got := p.Client(request(c.peer, c.header...))
			if s := got.Address.String() + " " + got.Scheme + " " + got.Host; s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

func TestAConnectionWithTLSIsHTTPSUnlessItsProxySaysOtherwise(t *testing.T) {
	p := trust(t, "", "loopback")
	for _, c := range []struct{ peer, proto, want string }{{"192.0.2.1:1", "http", "https"}, {"127.0.0.1:1", "http", "http"}, {"[::1]:1", "", "https"}} {
		r := request(c.peer, "X-Forwarded-Proto", c.proto)
		r.TLS = new(tls.ConnectionState)
		if got := p.Client(r).Scheme; got != c.want {
			t.Errorf("from %s with %q: %q, want %q", c.peer, c.proto, got, c.want)
		}
	}
}

func TestEverybodyIsNoListOfProxies(t *testing.T) {
	for _, s := range []string{"0.0.0.0/0", "::/0", "10.0.0.0/33", "example.com", "", "::ffff:10.0.0.0/104", "fe80::1%eth0"} {
		if _, err := proxies.New([]string{s}, ""); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	if _, err := proxies.New(nil, "x-real-ip"); err == nil {
		t.Error("X-Real-IP was taken")
	}
	var none *proxies.Proxies
	if got := none.Client(request("192.0.2.1:1", "X-Forwarded-For", "6.6.6.6")).Address.String(); got != "192.0.2.1" {
		t.Errorf("without proxies: %s", got)
	}
}

// What a client sends stands to the left of what the trusted proxy adds, and
// must never reach past it.
func FuzzWhatAClientSendsDoesNotChangeWhereItComesFrom(f *testing.F) {
	for _, s := range []string{"", "6.6.6.6", "6.6.6.6, 10.0.0.9", `for="6.6.6.6`, `for=6.6.6.6;by="`, `",for=`, "for=6.6.6.6;host=evil", ",,;", "[::1]:80", "\x00"} {
		f.Add(s)
	}
	x, fwd := trust(f, proxies.HeaderXForwardedFor, "10.0.0.0/8"), trust(f, proxies.HeaderForwarded, "10.0.0.0/8")
	f.Fuzz(func(t *testing.T, sent string) {
		if got := x.Client(request("10.0.0.1:1", "X-Forwarded-For", sent+", 1.2.3.4")).Address.String(); got != "1.2.3.4" {
			t.Errorf("X-Forwarded-For: %q is from %s", sent, got)
		}
		got := fwd.Client(request("10.0.0.1:1", "Forwarded", sent+`, for=1.2.3.4;host="a.example"`))
		// Where the client has made it unreadable, it is nobody else's.
		if a := got.Address.String(); a != "1.2.3.4" && a != "10.0.0.1" || got.Host != "a.example" && got.Host != "inside:8080" {
			t.Errorf("Forwarded: %q is from %s at %s", sent, a, got.Host)
		}
	})
}

func FuzzForwardedIsReadOrRefused(f *testing.F) {
	for _, s := range []string{`for=192.0.2.43, for="[2001:db8:cafe::17]"`, `for=192.0.2.60;proto=http;by=203.0.113.43`, `for="\"x"`, `for=`, `=x`, `;;,`, `a=b;A=c`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		elements, err := proxies.ParseForwarded(s)
		if err != nil {
			return
		}
		n := 0
		for _, e := range elements {
			n += len(e.For) + len(e.By) + len(e.Host) + len(e.Proto)
			if strings.ContainsAny(e.For+e.By+e.Host+e.Proto, "\r\n\x00\x7f") {
				t.Errorf("%q has control characters: %+v", s, e)
			}
		}
		if n > len(s) {
			t.Errorf("%q became longer: %+v", s, elements)
		}
	})
}

func BenchmarkClient(b *testing.B) {
	p := trust(b, "", "10.0.0.0/8")
	for name, r := range map[string]*http.Request{
		"direct": request("203.0.113.9:1234"),
		"behind": request("10.0.0.1:1234", "X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "a.example"),
		"forged": request("10.0.0.1:1234", "X-Forwarded-For", "6.6.6.6"+strings.Repeat(", 10.0.0.2", 1000)),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !p.Client(r).Address.IsValid() {
					b.Fatal("no address")
				}
			}
		})
	}
}
