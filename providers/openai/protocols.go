package openai

import (
	"sync"
	"time"

	"github.com/athena-hub/athena/providers"
)

// reprobe is how long a way that works is kept to before a better one, which
// failed, is tried again. One call in it pays for the trial.
const reprobe = 5 * time.Minute

// A way is one way to ask for an answer and to get it.
type way uint8

const (
	// waySocket: over a WebSocket.
	waySocket way = iota
	// wayEvents: as server-sent events.
	wayEvents
	// wayBackground: made and stored by the vendor, read as server-sent events
	// over as many connections as it takes.
	wayBackground
	// wayPolls: made and stored by the vendor, asked for until it is there.
	wayPolls
	// wayWhole: as one JSON object.
	wayWhole
)

func (w way) protocol() providers.Protocol {
	switch w {
	case waySocket:
		return providers.ProtocolWebSocket
	case wayEvents:
		return providers.ProtocolSSE
	}
	return providers.ProtocolPolling
}

// ways are a provider's ways, the best first, and which of them works. Only
// what worked is learned: a server that is down says nothing about its ways.
type ways struct {
	// Set when they are made, then read-only.
	list []way

	mu    sync.Mutex
	at    int       // guarded by mu: the one that works
	known bool      // guarded by mu: it is known to, and not only hoped
	again time.Time // guarded by mu: when to try the first again
}

// first returns the place in the list of the way to try first.
func (w *ways) first() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); w.at > 0 && !now.Before(w.again) {
		w.again = now.Add(reprobe) // the others don't wait for the outcome
		return 0
	}
	return w.at
}

// worked notes that the way at i does, and those before it, which were tried,
// don't.
func (w *ways) worked(i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i > w.at {
		w.again = time.Now().Add(reprobe)
	}
	w.at, w.known = i, true
}

// proven reports whether one is the way that worked last.
func (w *ways) proven(one way) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known && w.list[w.at] == one
}

// protocols lists the ways as protocols.
func (w *ways) protocols() []providers.Protocol {
	var list []providers.Protocol
	for _, one := range w.list {
		if p := one.protocol(); len(list) == 0 || list[len(list)-1] != p {
			list = append(list, p)
		}
	}
	return list
}
