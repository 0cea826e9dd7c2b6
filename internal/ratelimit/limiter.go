package ratelimit

import "context"

// A Failure is what holds while Redis is away.
type Failure string

// The failures.
const (
	// FailLocal: each node goes by buckets of its own, which begin full.
	FailLocal Failure = "local"
	// FailAllow: everything is allowed.
	FailAllow Failure = "allow"
	// FailDeny: nothing is that has a limit.
	FailDeny Failure = "deny"
)

// A Limiter takes from the buckets of this node or of all.
type Limiter struct {
	local   *Buckets
	redis   *Redis // nil for none
	failure Failure
}

// NewLimiter returns a Limiter. redis may be nil.
func NewLimiter(local *Buckets, redis *Redis, failure Failure) *Limiter {
	return &Limiter{local, redis, failure}
}

// Take meets all of the demands or none. levels, as long as demands, is filled in.
// An error, of the family ErrAway, comes only from a Redis that is away, with
// FailDeny.
func (l *Limiter) Take(ctx context.Context, demands []Demand, levels []Level) (ok bool, err error) {
	if len(demands) == 0 {
		return true, nil
	}
	if l.redis == nil {
		return l.local.Take(demands, levels), nil
	}
	ok, err = l.redis.Take(ctx, demands, levels)
	if err == nil {
		return ok, nil
	}
	switch l.failure {
	case FailAllow:
		for i := range levels {
			levels[i] = Level{Left: demands[i].PerMinute}
		}
		return true, nil
	case FailDeny:
		return false, err
	}
	return l.local.Take(demands, levels), nil
}
