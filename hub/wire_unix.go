//go:build unix

package hub

import (
	"errors"
	"os"
	"syscall"
)

const canTryWrite = true

// tryWrite is called with the socket, which doesn't block. It always says that
// it is done: waiting is done elsewhere.
func (w *connWire) tryWrite(fd uintptr) (done bool) {
	for w.now.n < len(w.now.b) {
		n, err := syscall.Write(int(fd), w.now.b[w.now.n:])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return true
		case err != nil:
			w.now.err = os.NewSyscallError("write", err)
			return true
		}
		w.now.n += n
	}
	return true
}
