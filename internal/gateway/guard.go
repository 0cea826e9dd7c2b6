package gateway

import (
	"net"
	"net/netip"
)

// Guard returns a listener that ends connections from the addresses for which
// shut holds, before anything is read of them or written to them: in a flood
// that is all that they should cost. refused, which may be nil, is told of each.
//
// The addresses are those of the connections. So ln must be the listener itself,
// below what reads another address from the connection, and shut must not hold for
// proxies, through which others come.
func Guard(ln net.Listener, shut func(netip.Addr) bool, refused func()) net.Listener {
	return &guard{ln, shut, refused}
}

type guard struct {
	net.Listener
	shut    func(netip.Addr) bool
	refused func()
}

func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.RemoteAddr().(*net.TCPAddr)
		if !ok || !g.shut(tcp.AddrPort().Addr().Unmap()) {
			return c, nil
		}
		if c, ok := c.(*net.TCPConn); ok {
			// By a reset: a connection that is closed in peace is kept by the
			// system for a minute.
			_ = c.SetLinger(0) // it is being closed
		}
		_ = c.Close() // nothing was written
		if g.refused != nil {
			g.refused()
		}
	}
}
