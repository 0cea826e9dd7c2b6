package providertest

import (
	"net/http"
	"strings"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A Dialect is a wire format.
type Dialect string

// The dialects that an Upstream speaks.
const (
	OpenAI Dialect = "openai"
	Claude Dialect = "claude"
	// Responses is OpenAI's other dialect, over server-sent events, WebSocket
	// and, with background, as a stored answer that is read as often as wanted.
	Responses Dialect = "responses"
)

// A Script says how an Upstream answers one call. The zero value is an empty
// answer that ends as it should. Scripts are values: an Upstream doesn't change
// them, and nobody may change what a Script in use refers to.
type Script struct {
	// Model is what the answer says it is from; what was asked for where empty.
	Model string
	// Pieces are the answer, one chunk of the wire each.
	Pieces []Piece
	// Steady, where it has Chunks, comes instead of Pieces.
	Steady Steady
	// Finish is the wire's word for why the answer ended: "stop" or
	// "end_turn" where empty.
	Finish string
	// Usage is what the answer says of its cost; nothing where nil.
	Usage *protocol.Usage
	// RequestID is the call's name in the answer's headers.
	RequestID string
	// Header is sent with the answer, whatever its status.
	Header http.Header
	// HeaderDelay is waited for before the headers.
	HeaderDelay time.Duration
	// NoPrefill refuses a conversation whose last message is the assistant's, as
	// Claude 4.6 and later do. Without it a prefill is taken, in Anthropic's
	// dialect only one that doesn't end in white space, as there.
	NoPrefill bool
	Fault     Fault
	Framing   Framing
	// Resume are the faults of the connections over which a background answer is
	// read again, in their order; those behind have none.
	Resume []Fault
	// Polls is how often a background answer that is asked for as a whole is not
	// there yet.
	Polls int
}

// A PieceKind says what a Piece is a piece of.
type PieceKind uint8

// The kinds of pieces.
const (
	PieceText PieceKind = iota
	PieceReasoning
	// PieceTool is a piece of a tool call's JSON.
	PieceTool
)

// A Piece is one chunk of an answer.
type Piece struct {
	Kind PieceKind
	Text string
	// After is waited for before the piece.
	After time.Duration
}

// Texts returns a piece of text for each of texts.
func Texts(texts ...string) []Piece {
	pieces := make([]Piece, len(texts))
	for i, t := range texts {
		pieces[i].Text = t
	}
	return pieces
}

// Joined returns the concatenated text of the pieces of one kind: what a
// client must have received.
func Joined(pieces []Piece, kind PieceKind) string {
	var b strings.Builder
	for _, p := range pieces {
		if p.Kind == kind {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}

// Steady is an answer for measurements: many small chunks of text at an even
// pace. It costs the Upstream one write per chunk, and no allocation.
type Steady struct {
	// Chunks is how many there are.
	Chunks int
	// Interval is the time from one to the next; with 0 they come as fast as
	// they are taken. The pace is kept against the clock: a late chunk is made
	// up for.
	Interval time.Duration
	// Bytes is the length of each chunk's text, at least StampBytes where
	// Stamp is set; 24 where it is 0.
	Bytes int
	// Stamp begins each chunk's text with the time of its writing. See
	// StampTime.
	Stamp bool
}

// StampBytes is the length of the time stamp at the head of a stamped chunk:
// nanoseconds since 1970, and a space.
const StampBytes = 20

// A FaultKind is a way to misbehave.
type FaultKind uint8

// The faults. "After" is Fault.After; those without it strike before the
// answer.
const (
	FaultNone FaultKind = iota
	// FaultStatus answers with Status, Header and Body.
	FaultStatus
	// FaultReset resets the connection before any answer.
	FaultReset
	// FaultSilence takes the call and says nothing, not even headers.
	FaultSilence
	// FaultMute sends headers, and then nothing.
	FaultMute
	// FaultCut breaks the connection off after After pieces.
	FaultCut
	// FaultEnd ends the response properly after After pieces, without an end
	// marker.
	FaultEnd
	// FaultStall sends nothing more after After pieces.
	FaultStall
	// FaultCrawl waits for Interval before each piece from After on.
	FaultCrawl
	// FaultMalformed sends a chunk with Body as its data (or a JSON text that
	// breaks off) after After pieces, and then goes on as if nothing were.
	FaultMalformed
	// FaultNoEnd leaves out the wire's last word: "[DONE]", or message_stop.
	FaultNoEnd
	// FaultNoFinish leaves out why the answer ended, too.
	FaultNoFinish
	// FaultError reports an error inside the 200, in the dialect's way, after
	// After pieces, and ends the response. Body is the error's message, Code its
	// type.
	FaultError
)

// A Fault is a way to misbehave, and when.
type Fault struct {
	Kind FaultKind
	// After is how many pieces (or chunks of Steady) come before.
	After int
	// Bytes, where it is not 0, is how many bytes of the body come before
	// FaultCut, in the place of After.
	Bytes int
	// Interval is FaultCrawl's.
	Interval time.Duration
	// Status, Header and Body are FaultStatus's. An empty Body becomes the
	// dialect's error for that status.
	Status int
	Header http.Header
	Body   string
	// Code is the dialect's word for the error: "overloaded_error".
	Code string
}

// Framing says how the answer's bytes are put on the wire.
type Framing struct {
	// CRLF and CR end lines with these instead of a line feed.
	CRLF, CR bool
	// Comments is how many comments come before the first event.
	Comments int
	// KeepAlive is the interval of comments while nothing else is sent; none
	// where it is 0.
	KeepAlive time.Duration
	// Comment is their text: "keep-alive" where empty.
	Comment string
	// Pings sends a ping event before each piece, where the dialect has one.
	Pings bool
	// Split writes at most so many bytes at once, each flushed by itself, so
	// that reads end inside lines and characters; 0 writes whole events.
	Split int
	// HoldOpen keeps the response open after the answer's end until the client
	// leaves or the Upstream closes.
	HoldOpen bool
}
