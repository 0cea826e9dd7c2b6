package proxies

import (
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// The headers in which proxies may tell of their client.
const (
	// HeaderXForwardedFor is read with X-Forwarded-Proto and X-Forwarded-Host.
	HeaderXForwardedFor = "x-forwarded-for"
	// HeaderForwarded is RFC 7239's.
	HeaderForwarded = "forwarded"
)

// maxHops bounds how many entries of a header are looked at, from the right.
const maxHops = 32

// named are sets of addresses that have a name.
var named = map[string][]netip.Prefix{
	"loopback": {netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	// RFC 1918, RFC 4193, RFC 6598 and link-local.
	"private": {netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10")},
}

// Proxies are those that are trusted. The zero value and nil trust nobody.
// Methods may be called concurrently.
type Proxies struct {
	trusted []netip.Prefix
	header  string
}

// A Client is where a request comes from.
type Client struct {
	// Address is the zero Addr where the connection has none, as over a Unix
	// socket.
	Address netip.Addr
	// Scheme is "http" or "https" where it is known; "" where it isn't, since
	// the server can't see whether something before it has ended TLS.
	Scheme string
	// Host is what the client asked for, with the port where one was given.
	Host string
}

// New trusts proxies with these addresses: CIDRs, single addresses, "loopback"
// or "private". header is which header they write; "" means X-Forwarded-For.
func New(trusted []string, header string) (*Proxies, error) {
	p := &Proxies{header: header}
	switch header {
	case "":
		p.header = HeaderXForwardedFor
	case HeaderXForwardedFor, HeaderForwarded:
	default:
		return nil, fmt.Errorf("%.40q is neither %s nor %s", header, HeaderXForwardedFor, HeaderForwarded)
	}
	for _, t := range trusted {
		prefixes, err := parseTrusted(t)
		if err != nil {
			return nil, err
		}
		p.trusted = append(p.trusted, prefixes...)
	}
	return p, nil
}

func parseTrusted(s string) ([]netip.Prefix, error) {
	if set := named[strings.ToLower(s)]; set != nil {
		return set, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil || prefix.Addr().Is4In6() {
		return nil, fmt.Errorf("%.60q is no address of proxies, such as 10.0.0.0/8, 192.0.2.7, fd00::/8, loopback or private", s)
	}
	if prefix.Bits() == 0 {
		return nil, fmt.Errorf("%.60q is everybody: then any client could say that it is another", s)
	}
	return []netip.Prefix{prefix.Masked()}, nil
}

// Trusts reports whether a is the address of a trusted proxy.
func (p *Proxies) Trusts(a netip.Addr) bool {
	return p != nil && a.IsValid() && slices.ContainsFunc(p.trusted, func(t netip.Prefix) bool { return t.Contains(a) })
}

// Any reports whether any proxy is trusted.
func (p *Proxies) Any() bool { return p != nil && len(p.trusted) > 0 }

// Peer is the other end of the request's connection, or whom a trusted proxy
// named by the PROXY protocol.
func Peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// Client says where r comes from.
func (p *Proxies) Client(r *http.Request) Client {
	c := Client{Address: Peer(r), Host: r.Host}
	if r.TLS != nil {
		c.Scheme = "https"
	}
	if !p.Trusts(c.Address) {
		return c
	}
	if p.header == HeaderForwarded {
		p.forwarded(&c, r.Header.Values("Forwarded"))
	} else {
		p.xForwarded(&c, r.Header)
	}
	return c
}

func (p *Proxies) xForwarded(c *Client, h http.Header) {
	hops := 0
	for entry := range fromTheRight(h.Values("X-Forwarded-For")) {
		a, ok := parseNode(entry)
		if hops++; !ok || hops > maxHops {
			break
		}
		if c.Address = a; !p.Trusts(a) {
			break
		}
	}
	// One proxy overwrites what another said, or adds to it: the last is the
	// nearest's word.
	c.believe(last(h.Values("X-Forwarded-Proto")), last(h.Values("X-Forwarded-Host")))
}

func (p *Proxies) forwarded(c *Client, lines []string) {
	elements, err := ParseForwarded(strings.Join(lines, ","))
	if err != nil {
		return
	}
	for i, e := range slices.Backward(elements) {
		// What this proxy was asked for: the outermost that is trusted knows best.
		c.believe(e.Proto, e.Host)
		a, ok := parseNode(e.For)
		if !ok || len(elements)-i > maxHops {
			return
		}
		if c.Address = a; !p.Trusts(a) {
			return
		}
	}
}

// believe takes what a proxy says of the scheme and host, where it makes sense.
func (c *Client) believe(proto, host string) {
	if proto = strings.ToLower(proto); proto == "http" || proto == "https" {
		c.Scheme = proto
	}
	if sensibleHost(host) {
		c.Host = host
	}
}

// maxHost is the longest name (RFC 1035, section 2.3.4) with a port.
const maxHost = 255 + len(":65535")

func sensibleHost(host string) bool {
	if host == "" || len(host) > maxHost || strings.ContainsAny(host, " \t,/?#@\\%") {
		return false
	}
	u, err := url.Parse("//" + host)
	return err == nil && u.Host == host && u.Hostname() != ""
}

// fromTheRight gives the items of a list over several lines, the last first.
func fromTheRight(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(lines) {
			for more := true; more; {
				i := strings.LastIndexByte(line, ',') // -1 before the first
				if !yield(strings.Trim(line[i+1:], " \t")) {
					return
				}
				more = i >= 0
				line = line[:max(i, 0)]
			}
		}
	}
}

func last(lines []string) string {
	for item := range fromTheRight(lines) {
		return item
	}
	return ""
}

// parseNode reads an address as proxies write it: with or without a port, IPv6
// with or without brackets. Names that hide an address (RFC 7239, section 6.3),
// "unknown" and zones are none.
func parseNode(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
			a, err = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
			if err == nil && a.Is4() {
				return netip.Addr{}, false
			}
		} else {
			var ap netip.AddrPort
			ap, err = netip.ParseAddrPort(s)
			a = ap.Addr()
		}
	}
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}
