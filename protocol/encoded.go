package protocol

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// MaxEventBytes bounds the JSON of one event. Writers split text long before.
const MaxEventBytes = 1 << 20

// An Encoded is an event as it travels: its JSON, made once by the node that
// runs the job and forwarded as it is by every other, and beside it what a
// forwarder has to know without parsing it again.
//
// An Encoded is immutable: JSON may be shared by many readers.
type Encoded struct {
	// First and Seq are the first and last place that the event covers.
	First, Seq uint64
	Type       Type
	JSON       []byte

	// Set for chunks only.
	kind    ChunkKind
	attempt int
	// Where the still escaped text and the time (with its quotes) stand in
	// JSON.
	textFrom, textTo uint32
	timeFrom, timeTo uint32
	// opaque says that the chunk has fields that this version doesn't know.
	opaque bool
}

// MaxSeq is the greatest seq, the last whole number that every JSON
// implementation keeps exactly.
const MaxSeq = 1 << 53

// Encode returns the event whose data is v (see DataFor), covering first to
// seq; first may be 0 where it equals seq. It fails if v can't be encoded or
// is no JSON object, if first and seq are no range from 1 to MaxSeq, and if
// the event is larger than MaxEventBytes.
func Encode(stream string, first, seq uint64, t Type, at time.Time, v any) (Encoded, error) {
	if first == 0 {
		first = seq
	}
	if seq == 0 || seq > MaxSeq || first > seq {
		return Encoded{}, fmt.Errorf("encode %s event: %d..%d is no range of places in a stream", t, first, seq)
	}
	e, err := encode(stream, first, seq, t, at, v)
	if err != nil {
		return Encoded{}, fmt.Errorf("encode %s event: %w", t, err)
	}
	if len(e.JSON) > MaxEventBytes {
		return Encoded{}, fmt.Errorf("encode %s event: %d bytes, more than the limit of %d", t, len(e.JSON), MaxEventBytes)
	}
	return e, nil
}

func encode(stream string, first, seq uint64, t Type, at time.Time, v any) (Encoded, error) {
	if t == TypeChunk {
		switch c := v.(type) {
		case *Chunk:
			return EncodeChunk(stream, first, seq, at, c.Kind, c.Attempt, c.Text), nil
		case Chunk:
			return EncodeChunk(stream, first, seq, at, c.Kind, c.Attempt, c.Text), nil
		}
	}
	data, err := marshal(v)
	if err != nil {
		return Encoded{}, err
	}
	if data[0] != '{' {
		return Encoded{}, fmt.Errorf("data is %.20s, which is no JSON object", data)
	}
	b := make([]byte, 0, len(data)+160)
	b = appendHead(b, stream, first, seq, t, at)
	b = append(b, data...)
	b = append(b, '}')
	if t == TypeChunk { // data of another type, whose text has to be found
		return Parse(b)
	}
	return Encoded{First: first, Seq: seq, Type: t, JSON: b}, nil
}

// EncodeChunk returns a chunk event. It is Encode for the one type that is
// made thousands of times a second: one allocation, and no reflection. The
// caller keeps text well below MaxEventBytes (see SplitText); first and seq are
// as Encode wants them.
func EncodeChunk(stream string, first, seq uint64, at time.Time, kind ChunkKind, attempt int, text string) Encoded {
	if first == 0 {
		first = seq
	}
	b := make([]byte, 0, len(text)+len(text)/8+200)
	b = appendHead(b, stream, first, seq, TypeChunk, at)
	timeTo := len(b) - len(`,"data":`)
	timeFrom := bytes.LastIndexByte(b[:timeTo-1], '"')
	b = appendChunkHead(b, kind, attempt)
	from := len(b)
	b = appendEscaped(b, text)
	to := len(b)
	b = append(b, chunkTail...)
	return Encoded{First: first, Seq: seq, Type: TypeChunk, JSON: b, kind: kind, attempt: attempt,
		textFrom: uint32(from), textTo: uint32(to),
		timeFrom: uint32(timeFrom), timeTo: uint32(timeTo)}
}

const chunkTail = `"}}`

func appendHead(b []byte, stream string, first, seq uint64, t Type, at time.Time) []byte {
	b = append(b, `{"stream":"`...)
	b = appendEscaped(b, stream)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	if first != seq {
		b = append(b, `,"first":`...)
		b = strconv.AppendUint(b, first, 10)
	}
	b = append(b, `,"type":"`...)
	b = appendEscaped(b, string(t))
	b = append(b, `","time":"`...)
	b = at.UTC().AppendFormat(b, timeLayout)
	return append(b, `","data":`...)
}

func appendChunkHead(b []byte, kind ChunkKind, attempt int) []byte {
	b = append(b, `{"kind":"`...)
	b = appendEscaped(b, string(kind))
	b = append(b, `","attempt":`...)
	b = strconv.AppendInt(b, int64(attempt), 10)
	return append(b, `,"text":"`...)
}

// Kind returns a chunk's kind, and "" for every other type.
func (e *Encoded) Kind() ChunkKind { return e.kind }

// TextLen returns the length of a chunk's text as it stands in JSON.
func (e *Encoded) TextLen() int { return int(e.textTo - e.textFrom) }

// Terminal reports whether e ends its stream.
func (e *Encoded) Terminal() bool { return e.Type.Terminal() }

// Event decodes e.
func (e *Encoded) Event() (Event, error) {
	var ev Event
	if err := ev.UnmarshalJSON(e.JSON); err != nil {
		return Event{}, fmt.Errorf("decode event %d: %w", e.Seq, err)
	}
	return ev, nil
}

// Mergeable reports whether next, which follows e in the stream, may be merged
// with it (P3). Chunks that hold fields that this version doesn't know are
// not, since they would be lost.
func (e *Encoded) Mergeable(next *Encoded) bool {
	return e.Type == TypeChunk && next.Type == TypeChunk &&
		e.kind == next.kind && e.attempt == next.attempt && e.Seq+1 == next.First &&
		!e.opaque && !next.opaque
}

// Merge returns one chunk that covers all of run, which must be neighbours
// that are Mergeable, and together small enough for MaxEventBytes. The
// concatenated text is the same (P3); the time is that of the last. A run of
// one is returned as it is.
func Merge(stream string, run []Encoded) Encoded {
	if len(run) == 1 {
		return run[0]
	}
	first, last := &run[0], &run[len(run)-1]
	size := 200
	for i := range run {
		size += run[i].TextLen()
	}
	b := make([]byte, 0, size)
	b = append(b, `{"stream":"`...)
	b = appendEscaped(b, stream)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, last.Seq, 10)
	b = append(b, `,"first":`...)
	b = strconv.AppendUint(b, first.First, 10)
	b = append(b, `,"type":"chunk","time":`...)
	timeFrom := len(b)
	b = append(b, last.JSON[last.timeFrom:last.timeTo]...)
	timeTo := len(b)
	b = append(b, `,"data":`...)
	b = appendChunkHead(b, first.kind, first.attempt)
	from := len(b)
	for i := range run {
		b = append(b, run[i].JSON[run[i].textFrom:run[i].textTo]...)
	}
	to := len(b)
	b = append(b, chunkTail...)
	return Encoded{First: first.First, Seq: last.Seq, Type: TypeChunk, JSON: b,
		kind: first.kind, attempt: first.attempt,
		textFrom: uint32(from), textTo: uint32(to), timeFrom: uint32(timeFrom), timeTo: uint32(timeTo)}
}
