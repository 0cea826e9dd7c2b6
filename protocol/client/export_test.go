package client

// What tests compare with.
const (
	MaxBlockBytes = maxBlockBytes
	MaxPause      = maxPause
)

// ErrSilent is the error of a connection without heartbeats.
var ErrSilent = errSilent
