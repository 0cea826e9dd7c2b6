package protocol_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
)

func TestStreamIDsAreNewValidAndInOrderOfTime(t *testing.T) {
	seen := make(map[string]bool)
	last := ""
	for range 1000 {
		id := protocol.NewStreamID()
		if !protocol.ValidStreamID(id) || seen[id] || id[:10] < last {
			t.Fatalf("id %q after %q", id, last)
		}
		seen[id], last = true, id[:10]
	}
	for _, id := range []string{"", stream[1:], stream + "0", strings.ToLower(stream), stream[:35] + "U", stream[:35] + ":", stream[:34] + "é"} {
		if protocol.ValidStreamID(id) {
			t.Errorf("%q is taken for an id", id)
		}
	}
}

func TestSeveritiesAreFive(t *testing.T) {
	for s, want := range map[protocol.Severity]bool{"critical": true, "high": true, "medium": true, "low": true, "info": true, "": false, "High": false} {
		if s.Valid() != want {
			t.Errorf("%q is valid: %v", s, s.Valid())
		}
	}
}

func TestACursorHoldsAsManyStreamsAsAConnection(t *testing.T) {
	var cs []protocol.Cursor
	for range 64 {
		cs = append(cs, protocol.Cursor{Stream: protocol.NewStreamID(), After: protocol.MaxSeq})
	}
	s := protocol.AppendCursors(nil, cs)
	back, err := protocol.ParseCursors(string(s))
	if err != nil || len(back) != 64 || len(s) > protocol.MaxCursorBytes {
		t.Errorf("%d bytes came back as %d cursors, %v", len(s), len(back), err)
	}
	_, err = protocol.ParseCursors(string(s) + strings.Repeat(",", 2))
	if e, ok := errors.AsType[*protocol.Error](err); !ok || e.Code != protocol.CodeInvalidCursor || !strings.Contains(e.Detail, "limit") {
		t.Errorf("a cursor beyond the limit: %v", err)
	}
}
