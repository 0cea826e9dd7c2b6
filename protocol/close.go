package protocol

// The WebSocket close codes. Which range a code is in says what the client
// should do: see CloseActionOf.
const (
	CloseDone      = 1000
	CloseGoingAway = 1001
	ClosePolicy    = 1008
	CloseTooBig    = 1009

	// 4000 to 4099: reconnect, after the hint.
	CloseDrain           = 4000
	CloseTooSlow         = 4001
	CloseHeartbeatMissed = 4002
	// 4100 to 4199: get new credentials, then reconnect.
	CloseExpired = 4100
	CloseRevoked = 4101
	// 4200 to 4299: don't reconnect.
	CloseProtocolError = 4200
	CloseForbidden     = 4201
	CloseLimit         = 4202
)

// A CloseAction is what a client should do once its WebSocket is closed.
type CloseAction string

// The actions.
const (
	// ActionReconnect: reconnect with the cursors, after the hint of the
	// reconnect message or else with backoff.
	ActionReconnect CloseAction = "reconnect"
	// ActionAuthenticate: get new credentials, then reconnect.
	ActionAuthenticate CloseAction = "authenticate"
	// ActionStop: don't reconnect; it would end in the same way.
	ActionStop CloseAction = "stop"
)

// CloseActionOf returns what a client should do after a close with code. A code
// that nobody has given a meaning, 1005 and 1006 (no close frame came)
// included, is a lost connection: reconnect.
func CloseActionOf(code int) CloseAction {
	switch {
	case code >= 4100 && code < 4200:
		return ActionAuthenticate
	case code >= 4200 && code < 4300:
		return ActionStop
	}
	switch code {
	case CloseDone, ClosePolicy, CloseTooBig,
		1002, 1003, 1007, 1010: // what was sent or asked for can't be taken (RFC 6455, 7.4.1)
		return ActionStop
	}
	return ActionReconnect
}
