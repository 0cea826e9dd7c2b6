package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

type event struct{ name, data string }

func readAll(r io.Reader) (events []event, err error) {
	er := NewEventReader(r)
	for {
		ev, err := er.Next()
		if err != nil {
			return events, err
		}
		events = append(events, event{string(ev.Name), string(ev.Data)})
	}
}

func TestEventsAreReadAsTheStandardSays(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []event
	}{
		{"line feeds", "data: a\n\ndata: b\n\n", []event{{"", "a"}, {"", "b"}}},
		{"carriage returns and line feeds", "event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", []event{{"x", "a"}, {"", "b"}}},
		{"carriage returns", "event: x\rdata: a\r\rdata: b\r\r", []event{{"x", "a"}, {"", "b"}}},
		{"line ends mixed", "data: a\n\rdata: b\r\n\ndata: c\r\r\ndata: d\n\r\n", []event{{"", "a"}, {"", "b"}, {"", "c"}, {"", "d"}}},
		{"a byte order mark", "\xef\xbb\xbfdata: a\n\n", []event{{"", "a"}}},
		{"comments", ": hello\n\n:\n:x\n\ndata: a\n: in between\ndata: b\n\n", []event{{"", "a\nb"}}},
		{"no space, one space, two spaces", "data:a\ndata: b\ndata:  c\n\n", []event{{"", "a\nb\n c"}}},
		{"a field without a colon", "data\ndata: a\n\n", []event{{"", "\na"}}},
		{"other fields", "id: 7\nretry: 10\nfoo: bar\ndatax: y\ndata: a\n\n", []event{{"", "a"}}},
		{"events without data", "event: x\n\ndata:\n\nid: 1\n\ndata: a\n\n", []event{{"", "a"}}},
		{"empty lines", "\n\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", []event{{"", "a"}, {"", "b"}}},
		{"what is left over at the end", "data: a\n\ndata: b\n", []event{{"", "a"}}},
		{"a line that is cut", "data: a\n\ndata: {\"b", []event{{"", "a"}}},
		{"nothing", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"whole":         strings.NewReader(tc.in),
				"byte by byte":  iotest.OneByteReader(strings.NewReader(tc.in)),
				"end with data": iotest.DataErrReader(strings.NewReader(tc.in)),
			} {
				got, err := readAll(r)
				if err != io.EOF || !reflect.DeepEqual(got, tc.want) {
					t.Errorf("%s: the events are %q, %v; want %q", name, got, err, tc.want)
				}
			}
		})
	}
}

func TestAFailedReadIsToldAsItIs(t *testing.T) {
	for _, want := range []error{context.Canceled, io.ErrUnexpectedEOF, errors.New("reset")} {
		got, err := readAll(io.MultiReader(strings.NewReader("data: a\n\ndata: b"), iotest.ErrReader(want)))
		if err != want || len(got) != 1 {
			t.Errorf("the events are %q, %v; want one, and %v", got, err, want)
		}
	}
}

func TestAnEventHasALimit(t *testing.T) {
	fits := "data: " + strings.Repeat("x", MaxEventBytes-64) + "\n\n"
	if got, err := readAll(strings.NewReader(fits)); err != io.EOF || len(got) != 1 {
		t.Errorf("an event within the limit: %d events, %v", len(got), err)
	}
	if _, err := readAll(io.MultiReader(strings.NewReader("data: "), endless{})); err != ErrEventTooLong {
		t.Errorf("an endless event gave %v, want %v", err, ErrEventTooLong)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func FuzzEventReader(f *testing.F) {
	for _, s := range []string{"data: a\n\n", "\xef\xbb\xbfevent: x\r\ndata: a\r\n\r\n", ":c\rdata\rdata:b\r\r", "data: a\n\r\n\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, err := readAll(bytes.NewReader(in))
		if err != io.EOF {
			t.Fatalf("reading from memory failed: %v", err)
		}
		split, err := readAll(iotest.OneByteReader(bytes.NewReader(in)))
		if err != io.EOF || !reflect.DeepEqual(whole, split) {
			t.Fatalf("read whole: %q; byte by byte: %q, %v", whole, split, err)
		}
	})
}
