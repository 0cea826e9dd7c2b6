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

func TestAStreamsIDTellsItsTenantAndNobodyElse(t *testing.T) {
	acme, again, none := protocol.NewStreamIDFor("acme"), protocol.NewStreamIDFor("acme"), protocol.NewStreamIDFor("")
	if len(none) != 36 || len(acme) != 52 || !protocol.ValidStreamID(acme) || acme[36:] == again[36:] {
		t.Fatalf("ids %q, %q and %q", acme, again, none)
	}
	changed := []byte(acme)
	changed[20] ^= 1 // another character of the alphabet, or none of it
	for _, c := range []struct {
		name, id, tenant string
		want             bool
	}{
		{"its tenant's", acme, "acme", true},
		{"another one of its tenant's", again, "acme", true},
		{"another tenant's", acme, "acm", false},
		{"no tenant's, of a tenant's stream", acme, "", false},
		{"a tenant's, of no tenant's stream", none, "acme", false},
		{"no tenant's", none, "", true},
		{"one without its tag", acme[:36], "acme", false},
		{"one with the tag of another", acme[:36] + again[36:], "acme", false},
		{"a changed one", string(changed), "acme", false},
		{"no id", "x", "", false},
		{"half an id", acme[:44], "acme", false},
	} {
		if got := protocol.StreamOf(c.id, c.tenant); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	// Any implementation makes this tag.
	const vector = "01JD3Z6E9Q0000000000000000ABCDEFGHJK"
	if !protocol.StreamOf(vector+"7EPSARW08XSY4MQE", "acme") {
		t.Error("the tag of the vector is another one")
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
		cs = append(cs, protocol.Cursor{Stream: protocol.NewStreamIDFor("acme"), After: protocol.MaxSeq})
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
