package stream

import "context"

// AwaitStored waits until the stream's end is stored, which it reports. It
// reports false once another node writes the stream, and when ctx or the node
// ends before.
func (w *Writer) AwaitStored(ctx context.Context) bool {
	select {
	case <-w.stored:
	case <-ctx.Done():
		return false
	case <-w.node.ctx.Done():
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended != ErrFenced //nolint:errorlint // as it was set
}

// A fencedError is ErrFenced, which says so to those who don't know this
// package.
type fencedError struct{}

func (fencedError) Error() string { return "another node writes the stream now" }

// TakenOver reports that another node writes the stream.
func (fencedError) TakenOver() bool { return true }
