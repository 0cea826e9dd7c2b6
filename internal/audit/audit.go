// Package audit writes the record of who did what: a JSON object a line, in a
// file of its own, which is only ever appended to. It is for those who ask
// later, and has what they ask for under fixed names; what went wrong inside the
// server is in the log.
//
// It promises that a line is written whole, that nothing that a client sent can
// make a line look like two, or reach a terminal as a control sequence
// (CWE-117), and that there is no secret in it: an Event has no place for one.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/athena-hub/athena/protocol"
)

// What an Event tells of.
const (
	// KindRequest is an HTTP request of a known caller.
	KindRequest = "request"
	// KindCommand is a WebSocket client's command.
	KindCommand = "command"
	// KindDenied is a request whose credentials were missing or wrong. There may
	// be many, and most of them are counted only.
	KindDenied = "denied"
	// KindLimited is a request of a known caller that has had more than it may, or
	// that the node puts off. Of these, too, most are counted only.
	KindLimited = "limited"
	// KindAnalysis is the end of an analysis, with what it used.
	KindAnalysis = "analysis"
	// KindStart and KindStop bracket a server's run.
	KindStart = "start"
	KindStop  = "stop"
)

// An Event is one line. Empty fields are left out.
type Event struct {
	Time time.Time `json:"time"`
	Node string    `json:"node"`
	Kind string    `json:"event"`

	// Who.
	Caller     string `json:"caller,omitempty"`
	Tenant     string `json:"tenant,omitempty"`
	Credential string `json:"credential,omitempty"` // its id
	Address    string `json:"address,omitempty"`

	// What. Route is a pattern, not what the client wrote.
	Method    string   `json:"method,omitempty"`
	Route     string   `json:"route,omitempty"`
	Command   string   `json:"command,omitempty"`
	Stream    string   `json:"stream,omitempty"`
	Streams   []string `json:"streams,omitempty"` // where there may be several; valid ids
	Key       string   `json:"key,omitempty"`     // the id of the key that it is about: an API key's, or Provider's
	Peer      string   `json:"peer,omitempty"`    // the node that it is about
	RequestID string   `json:"request_id,omitempty"`
	UserAgent string   `json:"user_agent,omitempty"`
	Code      string   `json:"code,omitempty"` // only if asked for

	// How it went: Outcome is "ok", or the protocol's code of the error; where there
	// was none, it says what happened: client_gone, handed_over, taken_over,
	// cancelled_by_….
	Outcome string `json:"outcome,omitempty"`
	Status  int    `json:"status,omitempty"`
	TookMS  int64  `json:"took_ms,omitempty"`

	// Of an analysis; the provider is that of a key, too.
	Provider string          `json:"provider,omitempty"`
	Model    string          `json:"model,omitempty"`
	Attempts int             `json:"attempts,omitempty"`
	Usage    *protocol.Usage `json:"usage,omitempty"`

	// Suppressed is how many events of the kind before this one were not written.
	Suppressed int64  `json:"suppressed,omitempty"`
	Version    string `json:"version,omitempty"`
}

// OK is the Outcome of what went well.
const OK = "ok"

// The bounds of what clients can put into a line, in bytes.
const (
	maxField = 200
	maxCode  = 64 << 10
)

// Events of kinds that anybody can make many of are written this often at most,
// those of each kind; in a flood, the rest is counted.
const (
	sampledPerSecond = 2
	sampledBurst     = 20
)

// A sampler is such a kind's.
type sampler struct {
	rate       *rate.Limiter
	suppressed int64 // guarded by the log's mu
}

// Options tune a Log.
type Options struct {
	// Node is this node's name.
	Node string
	// Code says that the code of requests is recorded.
	Code bool
	// Failed is told when a line could not be written; nil for nobody. It is
	// told of the first one after those that could.
	Failed func(error)
}

// A Log is an audit log. A nil *Log is one that is off. Its methods may be
// called concurrently.
type Log struct {
	// Set by Open and To, then read-only.
	opts    Options
	path    string              // "" where it is no file of ours
	sampled map[string]*sampler // by kind

	mu      sync.Mutex
	w       io.Writer // guarded by mu
	file    *os.File  // guarded by mu; nil where it is no file of ours
	failing bool      // guarded by mu
}

// To returns a Log that writes to w.
func To(w io.Writer, o Options) *Log {
	l := &Log{opts: o, w: w, sampled: make(map[string]*sampler)}
	for _, kind := range []string{KindDenied, KindLimited} {
		l.sampled[kind] = &sampler{rate: rate.NewLimiter(sampledPerSecond, sampledBurst)}
	}
	return l
}

// Open returns a Log that appends to the file, which is made if it isn't
// there, for its owner alone.
func Open(path string, o Options) (*Log, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	l := To(f, o)
	l.path, l.file = path, f
	return l, nil
}

func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return f, nil
}

// Reopen opens the file of that name anew, after it was moved away. If that
// fails, the old one is written on.
func (l *Log) Reopen() error {
	if l == nil || l.path == "" {
		return nil
	}
	f, err := open(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil { // closed in the meantime
		return f.Close()
	}
	old := l.file
	l.w, l.file = f, f
	return old.Close()
}

// Close ends the log. What comes later is dropped.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w = io.Discard
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return errors.Join(f.Sync(), f.Close())
}

// RecordsCode reports whether events should have the code.
func (l *Log) RecordsCode() bool { return l != nil && l.opts.Code }

// Write records e. Time and node are added.
func (l *Log) Write(e Event) {
	if l == nil {
		return
	}
	sampled := l.sampled[e.Kind] // nil for most kinds
	if sampled != nil && !sampled.rate.Allow() {
		l.mu.Lock()
		sampled.suppressed++
		l.mu.Unlock()
		return
	}
	e.Time, e.Node = time.Now().UTC().Truncate(time.Microsecond), l.opts.Node
	for _, s := range []*string{&e.Caller, &e.Tenant, &e.Credential, &e.Address, &e.Method, &e.Route, &e.Command, &e.Stream, &e.Key, &e.Peer,
		&e.RequestID, &e.UserAgent, &e.Outcome, &e.Provider, &e.Model} {
		*s = clean(*s, maxField)
	}
	if !l.opts.Code {
		e.Code = ""
	}
	e.Code = clip(e.Code, maxCode) // JSON escapes its lines
	l.mu.Lock()
	defer l.mu.Unlock()
	if sampled != nil {
		e.Suppressed, sampled.suppressed = sampled.suppressed, 0
	}
	line, err := json.Marshal(e)
	if err == nil {
		// One write: O_APPEND keeps lines of several processes apart.
		_, err = l.w.Write(append(escapeC1(line), '\n'))
	}
	if err != nil && !l.failing && l.opts.Failed != nil {
		l.opts.Failed(err)
	}
	l.failing = err != nil
}

// clean cuts s, and takes out what isn't to be seen.
func clean(s string, most int) string {
	if strings.IndexFunc(s, unprintable) >= 0 {
		s = strings.Map(func(r rune) rune {
			if unprintable(r) {
				return unicode.ReplacementChar
			}
			return r
		}, s)
	}
	return clip(s, most)
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// clip cuts s to at most n bytes, between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// escapeC1 escapes the control characters U+007F to U+009F, which JSON lets
// pass, and of which some terminals take U+009B for ESC [.
func escapeC1(line []byte) []byte {
	if strings.IndexFunc(string(line), isC1) < 0 {
		return line
	}
	var b strings.Builder
	for _, r := range string(line) {
		if isC1(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return []byte(b.String())
}

func isC1(r rune) bool { return r >= 0x7f && r <= 0x9f }
