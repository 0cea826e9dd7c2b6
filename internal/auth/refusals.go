package auth

import (
	"context"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// Why callers are refused. None of these texts holds anything that the caller
// sent.
var (
	errMissing     = protocol.Errorf(protocol.CodeUnauthorized, `an API key is needed, as "Authorization: Bearer KEY" or "X-API-Key: KEY"`)
	errKey         = protocol.Errorf(protocol.CodeUnauthorized, "the API key is not known")
	errExpired     = protocol.Errorf(protocol.CodeUnauthorized, "the key or token has expired; get a fresh one")
	errRevoked     = protocol.Errorf(protocol.CodeUnauthorized, "the key has been revoked, or replaced by a new one")
	errTicket      = protocol.Errorf(protocol.CodeUnauthorized, "the ticket has been used or has expired, or another page asked for it; ask for another with POST /v1/negotiate")
	errNoPlace     = protocol.Errorf(protocol.CodeUnauthorized, "a ticket is only for WebSocket and event streams; send the API key in a header")
	errScheme      = protocol.Errorf(protocol.CodeUnauthorized, `the Authorization header must be "Bearer KEY"`)
	errTwice       = protocol.Errorf(protocol.CodeUnauthorized, "there are several credentials; send one")
	errToken       = protocol.Errorf(protocol.CodeUnauthorized, "the token is not one that this server takes: it is malformed, or its signature is not of a key that it knows")
	errClaims      = protocol.Errorf(protocol.CodeUnauthorized, "the token is not for this server: its issuer, audience, times or other claims are not as they must be")
	errOtherCaller = protocol.Errorf(protocol.CodeForbidden, "the token is another caller's; open a new connection for it")
	errNotLoaded   = protocol.Errorf(protocol.CodeServiceUnavailable, "this node has not read the stored keys yet; try again").WithRetryAfter(time.Second)
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
	if a.onFailure == nil {
		return
	}
	f := FailureMalformed
	// Not errors.Is, for which all of a code are one.
	switch err {
	case errMissing:
		f = FailureMissing
	case errKey:
		f = FailureUnknown
	case errExpired:
		f = FailureExpired
	case errRevoked:
		f = FailureRevoked
	case errTicket:
		f = FailureTicket
	case errToken:
		f = FailureToken
	case errClaims:
		f = FailureClaims
	case errNotLoaded:
		f = FailureStore
	}
	a.onFailure(ctx, f)
}
