package backbone

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

func TestWhatTheServerRepeatsIsToldNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := &serverLog{log: zerolog.New(&out).Level(zerolog.WarnLevel)}
		for attempt := range 25 {
			l.Errorf("Error trying to connect to route (attempt %d): %v", attempt+2, "refused")
			l.Warnf("something else")
			time.Sleep(time.Second)
		}
		if n := strings.Count(out.String(), "connect to route"); n != 3 {
			t.Errorf("in 25 s it was told %d times, want 3", n)
		}
		if n := strings.Count(out.String(), "something else"); n != 3 {
			t.Errorf("in 25 s the other was told %d times, want 3", n)
		}
	})
}
