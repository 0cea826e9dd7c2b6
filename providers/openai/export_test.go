package openai

import (
	"time"

	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/internal/upstream"
)

// Hasten makes p wait only briefly between the calls of a background answer.
func Hasten(p providers.Provider) providers.Provider {
	p.(*Provider).responses.times = backgroundWaits{Retry: time.Millisecond, Tries: 5, Poll: time.Millisecond, MaxPoll: 2 * time.Millisecond, Cancel: 20 * time.Second}
	return p
}

// SocketWaits bounds how long p waits for a WebSocket and its first message.
func SocketWaits(p providers.Provider, open, first time.Duration) providers.Provider {
	p.(*Provider).responses.waits = upstream.SocketWaits{Open: open, First: first}
	return p
}
