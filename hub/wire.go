package hub

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// A wire carries a session's messages to its client. A message is written
// whole before the next begins.
type wire interface {
	// write writes all of b, waiting for the client if it must, but not longer
	// than the write timeout.
	write(b []byte) error
	// writeNow writes the beginning of b as far as that needs no waiting, and
	// returns its length. The caller writes the rest.
	writeNow(b []byte) (n int, err error)
	// close is called when everything is written, and nothing will be.
	close()
	// abort makes writes that wait return, and breaks the connection. It may be
	// called at any time.
	abort()
}

// A connWire is a connection taken over from net/http. Writing to it directly
// is one system call per message, in a buffer that belongs to whoever writes;
// the socket takes nearly all messages without waiting, and then no deadline
// is needed and no goroutine is parked.
//
// A WebSocket's library writes its control frames to the same connection, each
// with one call of Write; mu keeps them and the session's messages apart.
type connWire struct {
	net.Conn
	timeout time.Duration
	raw     syscall.RawConn // nil where writes can't be tried, as with TLS

	mu     sync.Mutex
	begun  bool   // guarded by mu: a message is out in part, and its rest is yet to come
	behind []byte // guarded by mu: control frames that wait for that

	// What try works on; fields, so that it needs no closure for each message.
	now struct {
		b   []byte
		n   int
		err error
	}
	try func(fd uintptr) (done bool)
}

func newConnWire(c net.Conn, timeout time.Duration) *connWire {
	w := &connWire{Conn: c, timeout: timeout}
	if sc, ok := c.(syscall.Conn); ok && canTryWrite {
		if raw, err := sc.SyscallConn(); err == nil {
			w.raw = raw
			w.try = w.tryWrite
		}
	}
	return w
}

// Write is for the library's control frames.
func (w *connWire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begun {
		w.behind = append(w.behind, b...)
		return len(b), nil
	}
	return len(b), w.writeLocked(b)
}

func (w *connWire) write(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.writeLocked(b)
	w.begun = false
	if behind := w.behind; err == nil && len(behind) > 0 {
		w.behind = nil
		err = w.writeLocked(behind)
	}
	return err
}

func (w *connWire) writeLocked(b []byte) error {
	n, err := w.nowLocked(b)
	if err != nil || n == len(b) {
		return err
	}
	if err := w.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return err
	}
	if _, err := w.Conn.Write(b[n:]); err != nil {
		return err
	}
	// An old deadline would fail writes that don't wait.
	return w.SetWriteDeadline(time.Time{})
}

func (w *connWire) writeNow(b []byte) (n int, err error) {
	if !w.mu.TryLock() {
		return 0, nil // somebody else waits for the client
	}
	defer w.mu.Unlock()
	n, err = w.nowLocked(b)
	w.begun = err == nil && n > 0 && n < len(b)
	return n, err
}

func (w *connWire) nowLocked(b []byte) (n int, err error) {
	if w.raw == nil {
		return 0, nil
	}
	w.now.b, w.now.n, w.now.err = b, 0, nil
	err = w.raw.Write(w.try)
	w.now.b = nil
	if err == nil {
		err = w.now.err
	}
	return w.now.n, err
}

func (w *connWire) close() { _ = w.Close() } // it may be closed already
func (w *connWire) abort() { w.close() }

// A responseWire is an HTTP response whose connection can't be taken over, as
// with HTTP/2.
type responseWire struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration

	mu      sync.Mutex // held while a deadline is set
	aborted bool       // guarded by mu
	over    bool       // guarded by mu: the handler may have returned
}

func (w *responseWire) write(b []byte) error {
	if err := w.deadline(time.Now().Add(w.timeout)); err != nil {
		return err
	}
	if _, err := w.w.Write(b); err != nil {
		return err
	}
	if err := w.rc.Flush(); err != nil {
		return err
	}
	// HTTP/2 ends a stream when its deadline passes, even when nothing is
	// being written.
	return w.deadline(time.Time{})
}

// past is a deadline that makes writes that wait return.
var past = time.Unix(1, 0)

// deadline sets a deadline that doesn't undo an abort.
func (w *responseWire) deadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.aborted {
		t = past
	}
	return w.rc.SetWriteDeadline(t)
}

func (w *responseWire) writeNow([]byte) (int, error) { return 0, nil }

// close is followed by the handler's return, after which nobody may touch the
// response.
func (w *responseWire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

func (w *responseWire) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.aborted = true
	_ = w.rc.SetWriteDeadline(past) // fails only where the connection is gone
}

// Buffers of a connection that was taken over. net/http's have 4 KiB each, but
// what clients send is short, and of a WebSocket's frames only control frames
// (127 bytes at most) go through the library's buffer.
const (
	readBuffer    = 512
	controlBuffer = 128
)

// A takeover is a ResponseWriter whose Hijack gives small buffers.
type takeover struct {
	http.ResponseWriter
	timeout time.Duration
	wire    *connWire // set by Hijack
}

// Unwrap is for http.ResponseController.
func (t *takeover) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Hijack takes over the connection. What the client sent right behind its
// request is in the reader's buffer.
func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	t.wire = newConnWire(nc, t.timeout)
	early, err := brw.Reader.Peek(brw.Reader.Buffered())
	if err != nil {
		return nil, nil, errors.Join(err, nc.Close())
	}
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(early)), nc), max(readBuffer, len(early)))
	if len(early) > 0 {
		// The WebSocket library takes over what is buffered.
		if _, err := r.Peek(len(early)); err != nil {
			return nil, nil, errors.Join(err, nc.Close())
		}
	}
	return t.wire, bufio.NewReadWriter(r, bufio.NewWriterSize(t.wire, controlBuffer)), nil
}
