package backbone

import (
	"context"
	"fmt"
)

// ForgetPositions makes b a process that has neither written nor read stream
// id.
func ForgetPositions(b *Backbone, id string) { b.positions.forget(id) }

// Lead makes a node the leader of each part of the store.
func Lead(ctx context.Context, b *Backbone, node string) error {
	for _, p := range b.opened.Load().parts() {
		for {
			info, err := p.stream.Info(ctx)
			if err != nil {
				return err
			}
			if info.Cluster.Leader == node {
				break
			}
			m, err := b.conn.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+p.name, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, node))
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			fmt.Println(p.name, info.Cluster.Leader, string(m.Data))
			pause(ctx, leaderPause)
		}
	}
	return nil
}
