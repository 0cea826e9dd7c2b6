package config

import (
	"fmt"
	"slices"
	"strings"
)

// RecoveryCodes are the errors that a Recovery may be for, as the protocol
// names them: those that a call of a provider can end with.
var RecoveryCodes = []string{
	"timeout", "connection_failed", "service_unavailable", "rate_limited", "quota_exceeded", "unauthorized", "forbidden",
	"invalid_request", "invalid_response", "stream_interrupted", "content_filtered", "context_too_long", "internal",
}

// RecoveryStrategies are what may follow an error.
var RecoveryStrategies = []string{"retry", "failover", "queue", "degrade", "fail"}

// A Recovery says what follows an error. As text it is CODE=STRATEGY.
type Recovery struct {
	// Code is one of RecoveryCodes, Strategy one of RecoveryStrategies.
	Code, Strategy string
}

// UnmarshalText reads CODE=STRATEGY.
func (r *Recovery) UnmarshalText(text []byte) error {
	code, strategy, ok := strings.Cut(string(text), "=")
	code, strategy = strings.TrimSpace(code), strings.TrimSpace(strategy)
	switch {
	case !ok:
		return fmt.Errorf("%.60q is not CODE=STRATEGY, such as timeout=failover", text)
	case !slices.Contains(RecoveryCodes, code):
		return fmt.Errorf("%.40q is not an error that a provider's call ends with; they are %s", code, strings.Join(RecoveryCodes, ", "))
	case !slices.Contains(RecoveryStrategies, strategy):
		return fmt.Errorf("%.40q is not what can follow %s; it must be one of %s", strategy, code, strings.Join(RecoveryStrategies, ", "))
	}
	*r = Recovery{code, strategy}
	return nil
}

// String writes CODE=STRATEGY.
func (r Recovery) String() string { return r.Code + "=" + r.Strategy }
