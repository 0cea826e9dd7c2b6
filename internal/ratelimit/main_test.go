package ratelimit_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/internal/ratelimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// of is a demand on somebody's bucket.
func of(kind ratelimit.Kind, name string, perMinute, n int64) ratelimit.Demand {
	return ratelimit.Demand{Key: ratelimit.Key{Kind: kind, Name: name}, PerMinute: perMinute, N: n}
}
