//go:build linux

package bench

import (
	"context"
	"net"
	"syscall"
)

// dial connects to t, with the receive buffer that it wants.
func dial(ctx context.Context, t target) (net.Conn, error) {
	var d net.Dialer
	if t.receive > 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, t.receive)
			}); e != nil {
				return e
			}
			return err
		}
	}
	return d.DialContext(ctx, "tcp", t.addr)
}
