package backbone

import (
	"context"
	"errors"
	"fmt"
	"time"
	_ "unsafe" // for go:linkname
)

// ForgetPositions makes b a process that has neither written nor read stream
// id.
func ForgetPositions(b *Backbone, id string) { b.positions.forget(id) }

// Lead makes a node the leader of each part of the store. A part that has just
// changed its leader is given time: stepping down again and again, it would
// never have one. Nobody answers for a part that has none, so each question is
// bounded by itself.
func Lead(ctx context.Context, b *Backbone, node string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, p := range b.opened.Load().parts() {
		for turn := 0; ; turn++ {
			leader, err := leaderOf(ctx, p)
			if leader == node {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("make %s lead %s, which %q does: %w", node, p.name, leader, errors.Join(err, ctx.Err()))
			}
			if turn%20 == 0 {
				stepDown(ctx, b, p, node)
			}
			pause(ctx, leaderPause)
		}
	}
	return nil
}

func leaderOf(ctx context.Context, p *part) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	info, err := p.stream.Info(ctx)
	if err != nil {
		return "", err
	}
	return info.Cluster.Leader, nil
}

// stepDown asks p's leader to give way to node. It is asked again if that fails.
func stepDown(ctx context.Context, b *Backbone, p *part, node string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = b.conn.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+p.name, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, node))
}

// ElectionsHurried says that the server's variables were found.
var ElectionsHurried = electionsHurried

//go:linkname peerRemoveTimeout github.com/nats-io/nats-server/v2/server.peerRemoveTimeout
var peerRemoveTimeout time.Duration

// ForgetFor sets how long a server that was taken out of the quorum is kept
// out.
func ForgetFor(d time.Duration) { peerRemoveTimeout = d }

// ClientURL is where b's server listens for clients.
func ClientURL(b *Backbone) string { return b.server.ClientURL() }

// Subscriptions is how many b has.
func Subscriptions(b *Backbone) int { return b.conn.NumSubscriptions() }

// ReadFromLeader is what ReadLog does where a replica lags behind.
func ReadFromLeader(ctx context.Context, b *Backbone, id string, after, start uint64) ([]Batch, error) {
	return b.readFromLeader(ctx, b.opened.Load().log, id, after, start)
}

// LogMessages is how many messages the log has, of all streams and barriers.
func LogMessages(ctx context.Context, b *Backbone) (int, error) {
	info, err := b.opened.Load().log.stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	return int(info.State.Msgs), nil
}
