package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// Parse returns the event whose JSON is b, which it keeps. It accepts any
// order of fields and fields that it doesn't know, since a newer node may have
// written them. Names are matched exactly, and the last of two equal ones
// counts, as in JavaScript. The JSON must be one line, so that SSE can carry it
// as it is.
func Parse(b []byte) (Encoded, error) {
	if len(b) > MaxEventBytes {
		return Encoded{}, fmt.Errorf("event of %d bytes is larger than the limit of %d", len(b), MaxEventBytes)
	}
	if bytes.IndexByte(b, '\n') >= 0 || bytes.IndexByte(b, '\r') >= 0 {
		return Encoded{}, fmt.Errorf("event is not one line: %.60q", b)
	}
	s, err := scan(b)
	return s.Encoded, err
}

// scanned is an event and those of its parts that an Encoded doesn't keep.
type scanned struct {
	Encoded
	stream string
	time   time.Time
	data   string
}

func scan(b []byte) (scanned, error) {
	fail := func(what string) (scanned, error) {
		return scanned{}, fmt.Errorf("event %s: %.60q", what, b)
	}
	// Invalid UTF-8 is refused, since two chunks could each hold half of a
	// character, which merging would join (P3).
	if !utf8.Valid(b) {
		return fail("is not UTF-8")
	}
	if !ValidJSON(b) {
		return fail("is not valid JSON")
	}
	s := scanned{Encoded: Encoded{JSON: b}}
	text := string(b)
	if !isObject(strings.TrimLeft(text, " \t\r\n")) {
		return fail("is not a JSON object")
	}
	var at, data member
	hasFirst := false
	for m := range members(text) {
		switch m.name {
		case "stream":
			s.stream = stringOf(m.value)
		case "seq":
			s.Seq = seqOf(m.value)
		case "first":
			s.First, hasFirst = seqOf(m.value), true
		case "type":
			s.Type = typeOf(stringOf(m.value))
		case "time":
			at = m
		case "data":
			data = m
		default:
			s.opaque = true
		}
	}
	var timeErr error
	s.time, timeErr = time.Parse(time.RFC3339, stringOf(at.value))
	switch {
	case s.stream == "":
		return fail(`lacks a valid "stream"`)
	case s.Seq == 0:
		return fail(`lacks a valid "seq"`)
	case hasFirst && (s.First == 0 || s.First > s.Seq):
		return fail(`has an invalid "first"`)
	case s.Type == "":
		return fail(`lacks a valid "type"`)
	case timeErr != nil:
		return fail(`lacks a valid "time"`)
	case !isObject(data.value):
		return fail(`lacks a valid "data"`)
	}
	if !hasFirst {
		s.First = s.Seq
	}
	s.data = data.value
	if s.Type != TypeChunk {
		s.opaque = false // for chunks only
		return s, nil
	}
	var chunk member
	validAttempt := true
	for m := range members(data.value) {
		switch m.name {
		case "kind":
			s.kind = kindOf(stringOf(m.value))
		case "attempt":
			n, err := strconv.ParseInt(m.value, 10, 32)
			s.attempt, validAttempt = int(n), err == nil
		case "text":
			chunk = m
		default:
			s.opaque = true
		}
	}
	switch {
	case s.kind == "":
		return fail(`is a chunk that lacks a valid "kind"`)
	case !validAttempt:
		return fail(`is a chunk with an invalid "attempt"`)
	case !isString(chunk.value):
		return fail(`is a chunk that lacks a valid "text"`)
	case splitsCharacter(chunk.value[1 : len(chunk.value)-1]):
		return fail("is a chunk whose text splits a character")
	}
	s.textFrom = uint32(data.at + chunk.at + 1)
	s.textTo = s.textFrom + uint32(len(chunk.value)-2)
	s.timeFrom = uint32(at.at)
	s.timeTo = s.timeFrom + uint32(len(at.value))
	return s, nil
}

// UnmarshalJSON decodes an event as Parse does, but over several lines too.
func (e *Event) UnmarshalJSON(b []byte) error {
	s, err := scan(b)
	if err != nil {
		return err
	}
	*e = Event{Stream: strings.Clone(s.stream), Seq: s.Seq, Type: s.Type, Time: s.time, Data: json.RawMessage(s.data)}
	if s.First != s.Seq {
		e.First = s.First
	}
	return nil
}

// maxNesting is how deep encoding/json goes, which stops there with an error.
const maxNesting = 10000

// ValidJSON is json.Valid in a fifth of its time. It is gjson.ValidBytes, except
// for input that could be too deep: that recurses as deep as its input says, and
// eight megabytes of "[" overflow the stack, which ends the process.
func ValidJSON(b []byte) bool {
	if bytes.Count(b, []byte("{"))+bytes.Count(b, []byte("[")) > maxNesting {
		return json.Valid(b)
	}
	return gjson.ValidBytes(b)
}

// seqOf returns the whole number from 1 to MaxSeq that the JSON value v is, and
// 0 for every other.
func seqOf(v string) uint64 {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n > MaxSeq {
		return 0
	}
	return n
}

// typeOf returns s as a Type that doesn't keep the event's JSON in memory.
func typeOf(s string) Type {
	switch t := Type(s); t {
	case TypeChunk:
		return TypeChunk
	case TypeFinding:
		return TypeFinding
	}
	return Type(strings.Clone(s))
}

// kindOf returns s as a ChunkKind that doesn't keep the event's JSON in memory.
func kindOf(s string) ChunkKind {
	switch k := ChunkKind(s); k {
	case KindText:
		return KindText
	case KindReasoning:
		return KindReasoning
	case KindTool:
		return KindTool
	}
	return ChunkKind(strings.Clone(s))
}

// splitsCharacter reports whether the inside of a JSON string begins with the
// second or ends with the first half of a surrogate pair. Each half alone is
// U+FFFD; merging would join them to another character (P3). This package
// never writes such text.
func splitsCharacter(s string) bool {
	if len(s) < 6 {
		return false
	}
	if u := unicodeEscape(s[:6]); u >= 0xdc00 && u <= 0xdfff {
		return true
	}
	if u := unicodeEscape(s[len(s)-6:]); u < 0xd800 || u > 0xdbff {
		return false
	}
	// The backslash may itself be escaped.
	before := s[:len(s)-6]
	return (len(before)-len(strings.TrimRight(before, `\`)))%2 == 0
}

// unicodeEscape returns the code unit that the six bytes of s stand for, and
// -1 where they are no \u escape.
func unicodeEscape(s string) int64 {
	if s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(s[2:], 16, 16)
	if err != nil {
		return -1
	}
	return int64(n)
}
