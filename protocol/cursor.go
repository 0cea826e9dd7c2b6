package protocol

import (
	"strconv"
	"strings"
)

// MaxCursorBytes bounds a cursor as text: 64 streams of 52 characters with
// numbers of 16 digits.
const MaxCursorBytes = 64 * (streamIDLen + 18)

// A Cursor is a place in one stream: After is the last seq that the client
// has applied, 0 before the first.
type Cursor struct {
	Stream string
	After  uint64
}

// ParseSeq parses a cursor of a single stream, such as "17".
func ParseSeq(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > MaxSeq || (len(s) > 1 && s[0] == '0') {
		return 0, Errorf(CodeInvalidCursor, "cursor %.40q is not a whole number from 0 on, such as 17", s)
	}
	return n, nil
}

// ParseCursors parses a cursor of several streams, such as "A:17,B:3". A
// stream may stand in it once.
func ParseCursors(s string) ([]Cursor, error) {
	if len(s) > MaxCursorBytes {
		return nil, Errorf(CodeInvalidCursor, "cursor has %d bytes, more than the limit of %d", len(s), MaxCursorBytes)
	}
	var cs []Cursor
	for part := range strings.SplitSeq(s, ",") {
		id, seq, ok := strings.Cut(part, ":")
		if !ok || !ValidStreamID(id) {
			return nil, Errorf(CodeInvalidCursor, "%.60q in the cursor is not STREAM:SEQ", part)
		}
		for _, c := range cs {
			if c.Stream == id {
				return nil, Errorf(CodeInvalidCursor, "stream %s stands in the cursor twice", id)
			}
		}
		after, err := ParseSeq(seq)
		if err != nil {
			return nil, err
		}
		cs = append(cs, Cursor{id, after})
	}
	return cs, nil
}

// AppendCursors appends cs in the form that ParseCursors reads.
func AppendCursors(b []byte, cs []Cursor) []byte {
	for i, c := range cs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, c.Stream...)
		b = append(b, ':')
		b = strconv.AppendUint(b, c.After, 10)
	}
	return b
}
