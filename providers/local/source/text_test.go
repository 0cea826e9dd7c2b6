package source_test

import (
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/local/source"
)

func TestPositionsCountLinesFromOneAndUTF16Columns(t *testing.T) {
	code := "a\r\n\tb😀c\n\n\r é\xffz"
	text := source.New(code)
	for offset, want := range map[int]protocol.Position{
		0:         {Line: 1, Column: 1},
		1:         {Line: 1, Column: 2},
		3:         {Line: 2, Column: 1},
		4:         {Line: 2, Column: 2},
		5:         {Line: 2, Column: 3},
		7:         {Line: 2, Column: 3}, // inside the character
		9:         {Line: 2, Column: 5},
		11:        {Line: 3, Column: 1},
		13:        {Line: 5, Column: 1},
		16:        {Line: 5, Column: 3},
		17:        {Line: 5, Column: 4},
		18:        {Line: 5, Column: 5},
		999:       {Line: 5, Column: 5},
		-1:        {Line: 1, Column: 1},
		len(code): {Line: 5, Column: 5},
	} {
		if got := text.Position(offset); got != want {
			t.Errorf("offset %d is %+v, want %+v", offset, got, want)
		}
	}
	if text.Lines() != 5 || text.Line(2) != "\tb😀c" || text.Line(99) != "" {
		t.Errorf("%d lines, the second %q", text.Lines(), text.Line(2))
	}
	if n := source.New("a\nb\n").Lines(); n != 2 {
		t.Errorf("two lines are %d", n)
	}
}

func TestARangeEndsAfterItsLastCharacter(t *testing.T) {
	got := source.New("x😀\r\ny").Range(1, 5)
	want := protocol.Range{Start: protocol.Position{Line: 1, Column: 2}, End: protocol.Position{Line: 1, Column: 4}}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
