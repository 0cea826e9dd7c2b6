package telemetry

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"
)

// The formats of the log.
const (
	// FormatAuto is FormatConsole on a terminal, and FormatJSON elsewhere.
	FormatAuto    = "auto"
	FormatJSON    = "json"
	FormatConsole = "console"
)

// NewLogger returns a logger that writes lines to w, each with its time. The
// level is trace, debug, info, warn, error or off. w may be used by several
// goroutines at once only if it is a file or locks by itself.
func NewLogger(w io.Writer, level, format string) (zerolog.Logger, error) {
	var l zerolog.Level
	switch level {
	case "off":
		l = zerolog.Disabled
	case "trace", "debug", "info", "warn", "error":
		l, _ = zerolog.ParseLevel(level) // these are its own names
	default:
		return zerolog.Nop(), fmt.Errorf("log level %.40q is none of trace, debug, info, warn, error, off", level)
	}
	console := false
	switch format {
	case FormatJSON:
	case FormatConsole:
		console = true
	case FormatAuto, "":
		console = isTerminal(w)
	default:
		return zerolog.Nop(), fmt.Errorf("log format %.40q is none of auto, json, console", format)
	}
	if console {
		// NO_COLOR (https://no-color.org) is honoured by zerolog itself.
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w)}
	}
	w = safeWriter{w, console}
	return zerolog.New(w).Level(l).Hook(timeHook{}), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// timeHook adds the time in milliseconds. zerolog's own Timestamp takes its
// format from a global, which has whole seconds.
type timeHook struct{}

func (timeHook) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str(zerolog.TimestampFieldName, time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}
