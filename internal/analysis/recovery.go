package analysis

import (
	"errors"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// A Strategy is what follows a failure. Each one that is used up, or has
// nowhere to go, gives way to the next: a retry to failing over, that to
// degrading, where the request allows it, and that to the failure itself.
type Strategy string

// The strategies.
const (
	// StrategyRetry asks the same provider again after a backoff, unless it was
	// silent: then another one is asked.
	StrategyRetry Strategy = "retry"
	// StrategyFailover asks the next provider.
	StrategyFailover Strategy = "failover"
	// StrategyQueue waits until the time that the provider named, if that is
	// near enough, and asks it again; where it named none, it is StrategyRetry.
	StrategyQueue Strategy = "queue"
	// StrategyDegrade gives the answer to the offline analyser at once.
	StrategyDegrade Strategy = "degrade"
	// StrategyFail ends the analysis with the error.
	StrategyFail Strategy = "fail"
)

// Strategies lists the strategies in the order in which help should show them.
var Strategies = []Strategy{StrategyRetry, StrategyFailover, StrategyQueue, StrategyDegrade, StrategyFail}

// DefaultRecovery is what follows a failure, by its code. A provider's own
// internal error (status 500) is service_unavailable, too, but is retried once
// before failing over, since it is most often gone then.
var DefaultRecovery = map[protocol.Code]Strategy{
	protocol.CodeTimeout:            StrategyRetry,
	protocol.CodeConnectionFailed:   StrategyRetry,
	protocol.CodeServiceUnavailable: StrategyFailover,
	protocol.CodeRateLimited:        StrategyQueue,
	protocol.CodeStreamInterrupted:  StrategyFailover,
	protocol.CodeInvalidResponse:    StrategyFailover,
	protocol.CodeContextTooLong:     StrategyFailover,
	protocol.CodeQuotaExceeded:      StrategyFailover,
	protocol.CodeUnauthorized:       StrategyFailover,
	protocol.CodeForbidden:          StrategyFailover,
	protocol.CodeInvalidRequest:     StrategyFailover,
	protocol.CodeOverloaded:         StrategyFailover,
	protocol.CodeInternal:           StrategyFailover,
	protocol.CodeContentFiltered:    StrategyFail,
}

// recovery returns the strategy for a provider's failure.
func (o *Options) recovery(err error) Strategy {
	code := protocol.AsError(err).Code
	if s, ok := o.Recovery[code]; ok {
		return s
	}
	if errors.Is(err, providers.ErrInternal) {
		return StrategyRetry
	}
	if s, ok := DefaultRecovery[code]; ok {
		return s
	}
	return StrategyFail
}

// A blame says whose fault a failure is, for breakers and for who is asked
// again.
type blame struct {
	// counts says that the breaker and the provider's error rate should know.
	counts bool
	// target says that the same model should not be asked again for this job,
	// provider that none of the provider's should.
	target, provider bool
	// longer says that only a model that takes longer prompts would do better.
	longer bool
}

// blameFor judges a failure. silent says that a deadline of ours ended the
// call: who was silent once is not asked again, since that costs a deadline.
func blameFor(e *protocol.Error, silent bool) blame {
	switch e.Code {
	case protocol.CodeContentFiltered:
		return blame{target: true, provider: true}
	case protocol.CodeInvalidRequest:
		return blame{target: true, provider: true}
	case protocol.CodeContextTooLong:
		return blame{target: true, longer: true}
	case protocol.CodeUnauthorized, protocol.CodeForbidden, protocol.CodeQuotaExceeded:
		// The key's fault, and so of everything that uses it.
		return blame{counts: true, target: true, provider: true}
	case protocol.CodeRateLimited:
		// A named time is kept by the pause; without one there is only the
		// breaker to keep callers away.
		return blame{counts: e.RetryAfterMS == 0, target: refusesRetry(e)}
	}
	return blame{counts: true, target: silent || refusesRetry(e)}
}

// refusesRetry reports whether the provider said that asking it again is of no
// use, where the kind of error alone would allow it.
func refusesRetry(e *protocol.Error) bool {
	return !e.Retryable && protocol.Errorf(e.Code, "").Retryable
}

// mayDegrade reports whether the offline analyser is a help after e: not where
// the request itself was at fault.
func mayDegrade(e *protocol.Error) bool {
	switch e.Code {
	case protocol.CodeContentFiltered, protocol.CodeContextTooLong, protocol.CodeInvalidRequest:
		return false
	}
	return true
}
