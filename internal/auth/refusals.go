package auth

import (
	"context"
	"errors"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A refusal is why a caller is refused: what it is told, and what is counted.
type refusal struct {
	why  Failure
	told *protocol.Error
}

func (r *refusal) Error() string { return r.told.Error() }
func (r *refusal) Unwrap() error { return r.told }

func refuse(why Failure, detail string) *refusal {
	return &refusal{why, protocol.Errorf(protocol.CodeUnauthorized, "%s", detail)}
}

// Why callers are refused. None of these texts holds anything that the caller
// sent.
var (
	errMissing   = refuse(FailureMissing, `an API key is needed, as "Authorization: Bearer KEY" or "X-API-Key: KEY"`)
	errKey       = refuse(FailureUnknown, "the API key is not known")
	errExpired   = refuse(FailureExpired, "the key or token has expired; get a fresh one")
	errRevoked   = refuse(FailureRevoked, "the key has been revoked, or replaced by a new one")
	errTicket    = refuse(FailureTicket, "the ticket has been used or has expired, or another page asked for it; ask for another with POST /v1/negotiate")
	errNoPlace   = refuse(FailureMalformed, "a ticket is only for WebSocket and event streams; send the API key in a header")
	errScheme    = refuse(FailureMalformed, `the Authorization header must be "Bearer KEY"`)
	errTwice     = refuse(FailureMalformed, "there are several credentials; send one")
	errToken     = refuse(FailureToken, "the token is not one that this server takes: it is malformed, or its signature is not of a key that it knows")
	errClaims    = refuse(FailureClaims, "the token is not for this server: its issuer, audience, times or other claims are not as they must be")
	errNotLoaded = &refusal{FailureStore, protocol.Errorf(protocol.CodeServiceUnavailable, "this node has not read the keys yet; try again").WithRetryAfter(time.Second)}

	errOtherCaller = protocol.Errorf(protocol.CodeForbidden, "the token is another caller's; open a new connection for it")
)

// A Failure says in a word why a credential was refused: it is a metric's label.
type Failure string

// The failures.
const (
	FailureMissing   Failure = "missing"   // there was none
	FailureMalformed Failure = "malformed" // where or how it was sent
	FailureUnknown   Failure = "unknown"   // no such key
	FailureExpired   Failure = "expired"
	FailureRevoked   Failure = "revoked"
	FailureTicket    Failure = "ticket" // used, expired, or of another origin
	FailureToken     Failure = "token"  // a JWT's signature or form
	FailureClaims    Failure = "claims" // a JWT that is for somebody else
	FailureStore     Failure = "store"  // the keys could not be read
)

// Failures are all of them.
var Failures = []Failure{FailureMissing, FailureMalformed, FailureUnknown, FailureExpired, FailureRevoked, FailureTicket, FailureToken, FailureClaims, FailureStore}

// failed tells of a refusal.
func (a *Authenticator) failed(ctx context.Context, err error) {
	if r, ok := errors.AsType[*refusal](err); ok && a.onFailure != nil {
		a.onFailure(ctx, r.why)
	}
}
