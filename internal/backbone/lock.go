package backbone

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

const lockName = "athena.lock"

// A dirLock keeps other processes out of a data directory. The file stays
// when it is released: removing it would let a third process lock a new file
// while a second still holds the old one.
type dirLock struct{ f *os.File }

func lockDir(dir string) (*dirLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	ok, err := tryLock(f)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s is used by another Athena%s; stop that one, or give this one another --data-dir", ErrLocked, dir, holder(f))
	} else if err != nil {
		err = fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	if err != nil {
		_ = f.Close() // nothing was written to it
		return nil, err
	}
	// Who holds it is for the other's error message only.
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(pid), 0)
	}
	return &dirLock{f}, nil
}

func holder(f *os.File) string {
	b, _ := io.ReadAll(io.LimitReader(f, 20))
	if pid, err := strconv.Atoi(string(bytes.TrimSpace(b))); err == nil {
		return fmt.Sprintf(" (process %d)", pid)
	}
	return ""
}

func (l *dirLock) release() error { return l.f.Close() }
