package backbone

import (
	"time"
	_ "unsafe" // for go:linkname

	_ "github.com/nats-io/nats-server/v2/server" // whose variables these are
)

// After a server has died without a word, everything that it led stands still
// until the others have noticed and elected another. NATS waits 4 to 9 s before
// that, and has no setting for it. Measured here, on three nodes of which the
// one that led everything was killed, the store took writes again after 4.1 to
// 8.5 s, and only then can anybody see that a lease has run out. A stream whose
// node has died is to go on within 10 s, so these variables of the server's,
// which its own tests set in the same way, are set here: with a heartbeat twice
// as often, four of them have to be missed, as before. Should they be named
// otherwise one day, this has no effect, and a test says so.
const (
	heartbeat        = 500 * time.Millisecond
	minElectionDelay = 2500 * time.Millisecond
	maxElectionDelay = 5 * time.Second
)

//go:linkname hbInterval github.com/nats-io/nats-server/v2/server.hbInterval
var hbInterval time.Duration

//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
var minElectionTimeout time.Duration

//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
var maxElectionTimeout time.Duration

// electionsHurried says that the variables were found. They are set before any
// server can run.
var electionsHurried = hurryElections()

func hurryElections() bool {
	if hbInterval == 0 || minElectionTimeout == 0 || maxElectionTimeout == 0 {
		return false
	}
	hbInterval, minElectionTimeout, maxElectionTimeout = heartbeat, minElectionDelay, maxElectionDelay
	return true
}
