package upstream

import (
	"net/http"
	"testing"
	"time"
)

func TestAResetIsNeverFurtherAwayThanADay(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	names := LimitHeaders{RequestsRemaining: "Remaining", RequestsReset: "Reset"}
	day := now.Add(24 * time.Hour)
	for reset, want := range map[string]time.Time{
		"2026-11-25T12:01:00Z": now.Add(time.Minute),
		"2026-11-25T11:00:00Z": now.Add(-time.Hour),
		"9999-12-31T23:59:59Z": day,
		"6m0s":                 now.Add(6 * time.Minute),
		"2562047h":             day,
		"1.5":                  now.Add(1500 * time.Millisecond),
		"1e300":                day,
		"-5":                   {},
		"NaN":                  {},
		"tomorrow":             {},
		"":                     {},
	} {
		l, ok := names.Read(http.Header{"Remaining": {"0"}, "Reset": {reset}}, now)
		if !ok || l.RequestsRemaining != 0 || !l.RequestsReset.Equal(want) {
			t.Errorf("a reset of %q is %v, want %v", reset, l.RequestsReset, want)
		}
	}
}
