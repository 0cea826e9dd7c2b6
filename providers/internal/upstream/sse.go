package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/r3labs/sse/v2"
)

const (
	// MaxEventBytes bounds one event of an upstream. The largest that providers
	// send in practice, a tool call in one piece, has some 100 KiB.
	MaxEventBytes = 1 << 20
	// MaxWholeBytes bounds an event, or a body, that holds a whole answer: 128,000
	// tokens are some 600 KiB, and OpenAI's last event repeats the instructions, too.
	MaxWholeBytes = 8 << 20
)

// ErrEventTooLong is what a Source returns for an event that is larger than its
// limit.
var ErrEventTooLong = errors.New("an event of the answer is larger than the limit")

// An Event is one event of a stream. Its bytes are valid until the next call
// of EventReader.Next.
type Event struct {
	// Name is the event's type, empty where the stream names none.
	Name []byte
	// Data is never empty: events without data are not dispatched.
	Data []byte
}

// An EventReader reads an event stream as the standard says
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). r3labs'
// reader finds the blank lines; what it leaves open is settled here:
//
//   - It looks for pairs of equal line ends only, so a stream that mixes them
//     would run together. It is given line feeds only.
//   - At the end of the input, or when reading fails, it returns what is left
//     over as if it were an event. The standard, and the vendors' SDKs, drop
//     it: it may be cut anywhere.
//   - It hides context.Canceled behind io.EOF, which would make a cancelled
//     answer look like one that ended.
type EventReader struct {
	src    lineFeeds
	blocks *sse.EventStreamReader
	// taken is how many bytes of src the blocks so far, with their ends, are.
	taken int64
	// joined holds the data of an event that has several lines of it.
	joined []byte
}

// NewEventReader returns a reader of r's events, of MaxEventBytes each at most.
func NewEventReader(r io.Reader) *EventReader { return newEventReader(r, MaxEventBytes) }

func newEventReader(r io.Reader, limit int) *EventReader {
	er := &EventReader{src: lineFeeds{r: r}}
	er.blocks = sse.NewEventStreamReader(&er.src, limit)
	return er
}

// Next returns the next event that has data. The error is io.EOF where the
// input ended, ErrEventTooLong, or the input's own.
func (r *EventReader) Next() (Event, error) {
	for {
		block, err := r.blocks.ReadEvent()
		switch {
		case errors.Is(err, bufio.ErrTooLong):
			return Event{}, ErrEventTooLong
		case err != nil:
			return Event{}, r.end(err)
		}
		r.taken += int64(len(block)) + 2
		if r.taken > r.src.given {
			return Event{}, r.end(io.EOF) // left over, without a blank line behind it
		}
		if ev := r.parse(block); len(ev.Data) > 0 {
			return ev, nil
		}
	}
}

// end returns the input's error where it has one, and err otherwise.
func (r *EventReader) end(err error) error {
	if r.src.err != nil {
		return r.src.err
	}
	return err
}

func (r *EventReader) parse(block []byte) (ev Event) {
	lines := 0
	for len(block) > 0 {
		line, rest, _ := bytes.Cut(block, newline)
		block = rest
		name, value, _ := bytes.Cut(line, colon)
		if len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
		switch string(name) { // a comment has the name ""
		case "data":
			if lines++; lines == 1 {
				ev.Data = value // the usual case: nothing is copied
				continue
			}
			if lines == 2 {
				r.joined = append(r.joined[:0], ev.Data...)
			}
			r.joined = append(append(r.joined, '\n'), value...)
			ev.Data = r.joined
		case "event":
			ev.Name = value
		}
	}
	return ev
}

var (
	newline = []byte{'\n'}
	colon   = []byte{':'}
	bom     = []byte("\xef\xbb\xbf")
)

// lineFeeds is a reader that turns every line end (CRLF, CR, LF) into one line
// feed and drops a leading byte order mark. A CR becomes a line feed at once:
// waiting for the LF that may follow would hold an event back.
type lineFeeds struct {
	r io.Reader
	// given counts the bytes that came out.
	given int64
	// err is the error of r, once it had one.
	err error

	afterCR bool // drop an LF that comes next
	marks   int  // how much of the byte order mark was dropped
	started bool
}

func (l *lineFeeds) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	n = l.convert(p[:n])
	l.given += int64(n)
	if err != nil {
		l.err = err
	}
	return n, err
}

// convert rewrites p in place and returns its new length.
func (l *lineFeeds) convert(p []byte) int {
	drop := 0
	for !l.started && drop < len(p) {
		if l.marks == len(bom) || p[drop] != bom[l.marks] {
			l.started = true
			break
		}
		l.marks++
		drop++
	}
	in := p[drop:]
	if drop == 0 && !l.afterCR && bytes.IndexByte(in, '\r') < 0 {
		return len(p)
	}
	out := p[:0]
	for _, c := range in {
		switch {
		case c == '\r':
			out = append(out, '\n')
		case c == '\n' && l.afterCR:
		default:
			out = append(out, c)
		}
		l.afterCR = c == '\r'
	}
	return len(out)
}
