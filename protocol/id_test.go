package protocol_test

import (
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

func TestAStreamsIDTellsWhenItBegan(t *testing.T) {
	for _, tenant := range []string{"", "acme"} {
		if age := time.Since(protocol.StreamTime(protocol.NewStreamIDFor(tenant))); age < -time.Millisecond || age > time.Minute {
			t.Errorf("a new id of %q is %v old", tenant, age)
		}
	}
	if got := protocol.StreamTime("01ARZ3NDEKTSV4RRFFQ69G5FAV0123456789"); !got.Equal(time.UnixMilli(1469922850259)) { // the example of ULID's specification
		t.Errorf("%v", got)
	}
	for _, id := range []string{"", "x", "ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ"} {
		if got := protocol.StreamTime(id); !got.IsZero() {
			t.Errorf("%q: %v", id, got)
		}
	}
}
