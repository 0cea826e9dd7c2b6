package gateway

import (
	"net"
	"sync"
	"sync/atomic"
)

// BoundSockets returns ln, which closes connections that come while most are
// open already. Left waiting, they would look like a server that hangs;
// closed, they tell a balancer to turn to another node. refused is told of each;
// nil for nobody.
func BoundSockets(ln net.Listener, most int, refused func()) net.Listener {
	return &boundListener{Listener: ln, most: int64(most), refused: refused}
}

type boundListener struct {
	net.Listener
	most    int64
	open    atomic.Int64
	refused func()
}

// Accept waits for the next connection that there is room for.
func (l *boundListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.most {
			return l.count(c), nil
		}
		l.open.Add(-1)
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // what it sent is not read, and needs no state here
		}
		_ = c.Close() // nobody is left to be told
		if l.refused != nil {
			l.refused()
		}
	}
}

// count returns c, which gives its place back when it is closed. A TCP
// connection stays one that writes can be tried on (hub's wire).
func (l *boundListener) count(c net.Conn) net.Conn {
	leave := sync.OnceFunc(func() { l.open.Add(-1) })
	if tcp, ok := c.(*net.TCPConn); ok {
		return &countedTCP{tcp, leave}
	}
	return &countedConn{c, leave}
}

type countedTCP struct {
	*net.TCPConn
	leave func()
}

// Close closes the connection.
func (c *countedTCP) Close() error {
	defer c.leave()
	return c.TCPConn.Close()
}

type countedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
