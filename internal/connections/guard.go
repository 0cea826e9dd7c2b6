package connections

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// ErrMetadata is in the tree of the error for a connection that Guard refused.
var ErrMetadata = errors.New("the address is one at which clouds serve the credentials of their machines")

// metadata are the addresses of such services beside the link-local ones, which
// are AWS's, Azure's, Google's and most others': AWS's and Google's over IPv6,
// Alibaba's, Azure's second one, and Oracle's old one.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254"), netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("192.0.0.192")}

// nat64 has IPv4 addresses in it, as their last 32 bits (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Guard is a net.Dialer's Control that refuses such addresses (CWE-918). It sees
// what a name was resolved to, so that neither a name nor a change of what it
// resolves to gets around it; what a proxy connects to is the proxy's affair.
func Guard(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, err)
	}
	ip := at.Addr().Unmap().WithZone("")
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	if ip.IsLinkLocalUnicast() || slices.Contains(metadata, ip) {
		return ErrMetadata
	}
	return nil
}
