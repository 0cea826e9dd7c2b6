//go:build unix

package backbone

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes an exclusive lock on f and reports whether it could. The
// kernel lets go of it when the process ends, however it does.
func tryLock(f *os.File) (bool, error) {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		}
		return err == nil, err
	}
}
