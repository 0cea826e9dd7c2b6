package proxies

import (
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// Listener returns ln, whose connections from trusted proxies begin with the
// PROXY protocol's header, version 1 or 2: their remote address is then the
// client's. A trusted proxy that sends none is refused, since one must not guess
// (section 5 of the protocol); a header of anybody else is taken for what it
// carries, which is no HTTP. timeout bounds how long the header may take.
func (p *Proxies) Listener(ln net.Listener, timeout time.Duration) net.Listener {
	return &proxyproto.Listener{
		Listener: ln, ReadHeaderTimeout: timeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if tcp, ok := o.Upstream.(*net.TCPAddr); ok && p.Trusts(address(tcp)) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
	}
}

func address(a *net.TCPAddr) netip.Addr { return a.AddrPort().Addr().Unmap().WithZone("") }
