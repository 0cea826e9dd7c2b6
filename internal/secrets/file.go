package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/rs/zerolog"
)

// maxFileBytes bounds a file of keys.
const maxFileBytes = 256 << 10

// A File is a source of keys: a file with one on each line, of which empty ones
// and those that begin with # are left out. It is for one goroutine.
type File struct {
	// Ring gets the keys, ID is the first one's and the source's, and Weight
	// that of each.
	Ring   *Ring
	ID     string
	Path   string
	Weight int

	seen stamp // when it was read last
	last string
}

// A stamp tells whether a file may have changed. A link that is turned to
// another file, as Kubernetes does, changes it too.
type stamp struct {
	size int64
	time time.Time
	info os.FileInfo
}

func (s stamp) same(o stamp) bool {
	return s.info != nil && o.info != nil && s.size == o.size && s.time.Equal(o.time) && os.SameFile(s.info, o.info)
}

// Load reads the file if it has changed, and gives its keys to the ring. A file
// that can't be read, or has no key in it, leaves the keys as they were: whoever
// writes it may not be done yet.
func (f *File) Load() error {
	info, err := os.Stat(f.Path)
	if err != nil {
		return err
	}
	now := stamp{info.Size(), info.ModTime(), info}
	if now.same(f.seen) {
		return nil
	}
	entries, err := f.read()
	if err != nil {
		return err
	}
	if err := f.Ring.Set(f.ID, entries); err != nil {
		return err
	}
	// A write within the clock's resolution of the last would go unseen.
	if time.Since(now.time) > 2*time.Second {
		f.seen = now
	}
	return nil
}

func (f *File) read() (entries []Entry, err error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	text := make([]byte, maxFileBytes+1)
	defer clear(text)
	n, err := io.ReadFull(file, text)
	switch {
	case err == nil:
		return nil, fmt.Errorf("%s has more than %d bytes", f.Path, maxFileBytes)
	case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF):
		return nil, err
	}
	number := 0
	defer func() {
		if err != nil {
			for _, e := range entries {
				e.Key.Wipe()
			}
			entries = nil
		}
	}()
	for line := range bytes.Lines(text[:n]) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := NewKey(line)
		if err != nil {
			return entries, fmt.Errorf("%s, line %d: %w", f.Path, number, err)
		}
		id := f.ID
		if len(entries) > 0 {
			id += "." + strconv.Itoa(len(entries)+1)
		}
		entries = append(entries, Entry{ID: id, Weight: f.Weight, Key: k})
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s has no key in it; write one a line", f.Path)
	}
	return entries, nil
}

// Watch looks at files until ctx ends, every interval, and gives the rings what
// has changed.
func Watch(ctx context.Context, files []*File, interval time.Duration, log zerolog.Logger) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, f := range files {
			said := ""
			if err := f.Load(); err != nil {
				if said = err.Error(); said != f.last {
					log.Warn().Err(err).Str("provider", f.Ring.Provider()).Str("key", f.ID).
						Msg("a file of provider keys can't be read; the keys that it had are used on")
				}
			} else if f.last != "" {
				log.Info().Str("provider", f.Ring.Provider()).Str("key", f.ID).Msg("the file of provider keys can be read again")
			}
			f.last = said
		}
	}
}
