package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A tortureStream is what all clients together know of one stream.
type tortureStream struct {
	id      string
	number  int // of the job that was asked for
	started time.Time
	world   *torture

	mu   sync.Mutex
	job  *tortureJob       // guarded by mu: which one it is, once its text has said so
	ends []streamEnd       // guarded by mu: the different terminal events that were seen
	said map[uint64][]byte // guarded by mu: events but chunks, by seq
}

// A streamEnd is a terminal event, and what of it must be the same for all.
type streamEnd struct {
	event *protocol.Event
	json  []byte
	calm  bool // somebody was told after the calm had come
}

// A promiseBrokenError says that a promise was broken.
type promiseBrokenError struct{ detail string }

func (e *promiseBrokenError) Error() string { return e.detail }

func promiseBroken(format string, args ...any) error {
	return &promiseBrokenError{fmt.Sprintf(format, args...)}
}

// saw checks an event against what others saw. An event is encoded once, so
// only chunks, which are merged, may look different to two clients.
func (s *tortureStream) saw(e *received) error {
	if e.Type == protocol.TypeChunk {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, ok := s.said[e.Seq]; ok {
		if !bytes.Equal(other, e.JSON) {
			return promiseBroken("event %d was %s for another client and is %s for this one", e.Seq, other, e.JSON)
		}
		return nil
	}
	s.said[e.Seq] = slices.Clone(e.JSON)
	return nil
}

// check compares what a client knows with what the upstream says.
func (s *tortureStream) check(t *protocol.Transcript) error {
	j, err := s.jobOf(t.Text())
	if err != nil {
		return err
	}
	end := t.Terminal()
	if j == nil {
		// Too little text to say which job it is, so there was no completed.
		if end != nil && end.Type == protocol.TypeCompleted {
			return promiseBroken("the stream is completed, but its text is %q", t.Text())
		}
		return nil
	}
	if end != nil && end.Type == protocol.TypeCompleted {
		switch {
		case t.Text() != j.text:
			return promiseBroken("P2: the text of job %d is not what the upstream said: %s", j.number, difference(t.Text(), j.text))
		case t.Reasoning() != j.reasoning:
			return promiseBroken("P2: the reasoning of job %d is not what the upstream said: %s", j.number, difference(t.Reasoning(), j.reasoning))
		case len(t.Findings()) != j.findings:
			return promiseBroken("P2: %d findings came of job %d, which has %d", len(t.Findings()), j.number, j.findings)
		}
		return nil
	}
	text := t.Text()
	// A line that might have become a finding is given up as text just before a
	// job is cancelled. The client may not have seen the end yet.
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		text = text[:i]
	}
	if !strings.HasPrefix(j.text, text) {
		return promiseBroken("P2: the text of job %d is not the beginning of what the upstream said: %s", j.number, difference(text, j.text))
	}
	if !strings.HasPrefix(j.reasoning, t.Reasoning()) {
		return promiseBroken("P2: the reasoning of job %d is not the beginning of what the upstream said: %s", j.number, difference(t.Reasoning(), j.reasoning))
	}
	if len(t.Findings()) > j.findings {
		return promiseBroken("P2: %d findings came of job %d, which has %d", len(t.Findings()), j.number, j.findings)
	}
	return nil
}

// jobOf returns the stream's job, nil while nobody can know it.
func (s *tortureStream) jobOf(text string) (*tortureJob, error) {
	number, ok := "", false
	if rest, is := strings.CutPrefix(text, "job "); is {
		number, _, ok = strings.Cut(rest, ":")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok {
		if s.job != nil && !strings.HasPrefix(s.job.text, text) {
			return nil, promiseBroken("the text begins with %.40q, which job %d does not", text, s.job.number)
		}
		return s.job, nil
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		return nil, promiseBroken("the text begins with %.40q", text)
	}
	if s.job == nil {
		if s.job = s.world.jobOf(n); s.job == nil {
			return nil, promiseBroken("the text is that of job %d, which was never asked for", n)
		}
	}
	if s.job.number != n {
		return nil, promiseBroken("the text is that of job %d for this client, that of job %d for another", n, s.job.number)
	}
	return s.job, nil
}

// ended checks a client's terminal event against what others saw, and against
// what may have happened.
func (s *tortureStream) ended(t *protocol.Transcript) error {
	e := t.Terminal()
	raw := slices.Concat([]byte(e.Type), []byte{' '}, e.Data, fmt.Appendf(nil, " %d..%d", e.First, e.Seq))
	switch e.Type {
	case protocol.TypeFailed:
		var f protocol.Failed
		if err := e.Decode(&f); err != nil {
			return err
		}
		if f.Error.Code != protocol.CodeOwnerLost {
			return promiseBroken("the stream failed with %v; only owner_lost can happen here", f.Error)
		}
	case protocol.TypeCancelled:
		var c protocol.Cancelled
		if err := e.Decode(&c); err != nil {
			return err
		}
		if c.By != protocol.CancelClient && c.By != protocol.CancelDrain {
			return promiseBroken("the stream was cancelled by %q, which can't happen here", c.By)
		}
	}
	calm := s.world.isCalm()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.ends {
		if known := &s.ends[i]; bytes.Equal(known.json, raw) {
			known.calm = known.calm || calm
			return nil
		}
	}
	s.ends = append(s.ends, streamEnd{e, raw, calm})
	s.world.count(func(c *counts) {
		c.seenEnded++
		if e.Type == protocol.TypeFailed {
			c.seenLost++
		}
	})
	for _, known := range s.ends[:len(s.ends)-1] {
		if !s.world.victim.mayDiffer(s, known.event, e) {
			return promiseBroken("P4: the stream ends with %s for this client and with %s for another", raw, known.json)
		}
	}
	if len(s.ends) > 1 {
		s.world.count(func(c *counts) { c.lostEnds++ })
	}
	return nil
}

// lasts checks that no client was told another end than the one of the log,
// which e is, after the calm had come.
func (s *tortureStream) lasts(e *protocol.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.ends {
		if known := &s.ends[i]; known.calm && (known.event.Seq != e.Seq || known.event.Type != e.Type) {
			return promiseBroken("P4: the stream ends with %s %d..%d in the log, and with %s for a client after the calm", e.Type, e.First, e.Seq, known.json)
		}
	}
	return nil
}

// difference says where got leaves want.
func difference(got, want string) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	around := func(s string) string { return s[max(0, min(i-20, len(s))):min(i+40, len(s))] }
	return fmt.Sprintf("%d bytes, want %d; from byte %d on %q, want %q", len(got), len(want), i, around(got), around(want))
}
