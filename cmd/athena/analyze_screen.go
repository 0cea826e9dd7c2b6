package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/athena-hub/athena/protocol"
)

// A screen is where an analysis is shown: text on stdout, and what is not part
// of it on stderr. Where both are a terminal it has colours and a status line,
// which stands on stderr below the text while the text is at a line's start.
// Elsewhere it writes no control characters at all.
type screen struct {
	out, err io.Writer
	live     bool // both are a terminal
	colour   bool
	file     string   // what findings are in
	code     []string // its lines

	mu     sync.Mutex
	start  bool     // guarded by mu: stdout (the cursor, where live) is at a line's start
	status string   // guarded by mu: what stands below the text
	md     headings // guarded by mu
	failed error    // guarded by mu: the first error of stdout
}

func newScreen(env *environment, file, code string) *screen {
	s := &screen{out: env.stdout, err: env.stderr, file: oneLine(file), code: codeLines(code), start: true}
	_, out := terminalWidth(env.stdout)
	_, err := terminalWidth(env.stderr)
	s.live = out && err && variable(env, "TERM") != "dumb"
	s.colour = s.live && variable(env, "NO_COLOR") == "" // https://no-color.org
	return s
}

// terminalWidth is how many columns w has, if it is a terminal.
func terminalWidth(w any) (columns int, ok bool) {
	switch w := w.(type) {
	case *os.File:
		if !term.IsTerminal(int(w.Fd())) {
			return 0, false
		}
		if columns, _, err := term.GetSize(int(w.Fd())); err == nil && columns > 0 {
			return columns, true
		}
		return 80, true
	case interface{ TerminalWidth() int }:
		return w.TerminalWidth(), true
	}
	return 0, false
}

// Write is for the log of this process. It never fails, since nobody could be
// told.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.toStderr(printable(string(p)))
	return len(p), nil
}

// note tells the user something that is no part of the analysis.
func (s *screen) note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.toStderr("athena: " + oneLine(text) + "\n")
}

// toStderr writes whole lines. Called with mu held.
func (s *screen) toStderr(lines string) {
	s.clear()
	if s.live && !s.start {
		lines = "\n" + lines
		s.start = true
	}
	_, _ = io.WriteString(s.err, lines)
}

// show puts text below what is on the screen, if there is a place for it.
func (s *screen) show(status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live || !s.start {
		return
	}
	width, _ := terminalWidth(s.err)
	status = clip(oneLine(status), width-1)
	if status == s.status {
		return
	}
	s.status = status
	if s.colour {
		status = styleDim + status + styleReset
	}
	_, _ = io.WriteString(s.err, clearLine+status)
}

// clear takes the status line away. Called with mu held.
func (s *screen) clear() {
	if s.status != "" {
		_, _ = io.WriteString(s.err, clearLine)
		s.status = ""
	}
}

// text shows a piece of the answer.
func (s *screen) text(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text = printable(text)
	if text == "" {
		return s.failed
	}
	starts := strings.HasSuffix(text, "\n")
	if s.colour {
		text = s.md.style(text)
	}
	s.toStdout(text)
	s.start = starts
	return s.failed
}

// line shows a line between the pieces of the answer.
func (s *screen) line(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLine()
	s.toStdout(fmt.Sprintf(format, args...) + "\n")
	return s.failed
}

// end ends the answer's last line.
func (s *screen) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	s.endLine()
	return s.failed
}

// endLine ends a line that is not complete. Called with mu held.
func (s *screen) endLine() {
	rest := ""
	if s.colour {
		rest = s.md.end()
	}
	if !s.start || rest != "" {
		s.toStdout(rest + "\n")
		s.start = true
	}
}

// json shows an event as it came.
func (s *screen) json(event []byte) error {
	if _, ok := terminalWidth(s.out); ok {
		event = printableJSON(event)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.toStdout(string(event) + "\n")
	return s.failed
}

// toStdout is called with mu held.
func (s *screen) toStdout(text string) {
	s.clear()
	if s.failed == nil {
		if _, err := io.WriteString(s.out, text); err != nil {
			s.failed = fmt.Errorf("write the analysis: %w", err)
		}
	}
}

var severityStyles = map[protocol.Severity]string{
	protocol.SeverityCritical: "\x1b[1;31m", protocol.SeverityHigh: "\x1b[31m", protocol.SeverityMedium: "\x1b[33m",
	protocol.SeverityLow: "\x1b[36m", protocol.SeverityInfo: "\x1b[34m",
}

// styled is text in a style, where there are colours.
func (s *screen) styled(style, text string) string {
	if !s.colour || style == "" {
		return text
	}
	return style + text + styleReset
}

// finding shows a finding in the form that editors and CI know from compilers:
//
//	main.go:12:3: high: a message [a-rule]
//	    what to do about it
//	    - a line that goes
//	    + one that comes in its place
func (s *screen) finding(f *protocol.Finding) error {
	place := fmt.Sprintf("%s:%d:%d:", s.file, f.Range.Start.Line, f.Range.Start.Column)
	suggestion := ""
	if f.Suggestion != "" {
		suggestion = "\n    " + oneLine(f.Suggestion)
	}
	return s.line("%s %s %s %s%s%s", s.styled(styleBold, place), s.styled(severityStyles[f.Severity], oneLine(string(f.Severity))+":"),
		oneLine(f.Message), s.styled(styleDim, "["+oneLine(f.Rule)+"]"), suggestion, s.change(f))
}
