package backbone

import (
	"context"
	"sync"
	"time"
)

// fullReplicas is the number of replicas from three nodes on: one may be lost.
const fullReplicas = 3

// sightings remember when each server of the cluster was reached last.
type sightings struct {
	from time.Time // when this process began to look; set by Open, then read-only

	mu   sync.Mutex
	last map[string]time.Time // guarded by mu; of servers that are there: the zero time
}

// look notes which servers are reached now.
func (s *sightings) look(reached []string) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[string]time.Time)
	}
	for name, last := range s.last {
		if last.IsZero() {
			s.last[name] = now // unless it is reached
		}
	}
	for _, name := range reached {
		s.last[name] = time.Time{}
	}
}

// since returns how long a server has not been reached, 0 if it is.
func (s *sightings) since(name string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.last[name]
	switch {
	case !ok:
		last = s.from
	case last.IsZero():
		return 0
	}
	return max(time.Since(last), 1)
}

// A janitor keeps the store of a cluster with embedded servers such that one
// node may be lost, as far as there are nodes for it. Each node has one, and
// that of the node whose server leads the quorum acts.
//
// It gives the store's streams three replicas as soon as three nodes are
// there, and never takes one away: two of three that are left hold everything
// and are a majority. And it does what NATS leaves to an operator: a server
// that has gone counts for the quorum for ever, and its replicas stay where
// they were. So a deployment that replaces each node by one of another name
// would lose the quorum at the second. A node that has been gone for
// ForgetAfter is taken out of the quorum if the next loss would cost that, and
// a replica on it moves to a node that is there if the next loss could cost its
// stream's. Otherwise it is expected back, as after a restart.
type janitor struct{ b *Backbone }

// tidy does one round, of which each step is bounded by ctx.
func (j *janitor) tidy(ctx context.Context, s *store, infos map[*part]*streamInfo) {
	b := j.b
	if !b.server.JetStreamIsLeader() {
		return
	}
	q := b.quorum()
	if q.online < fullReplicas || q.online < q.need {
		return
	}
	if q.online == q.need && j.forget(ctx, q) {
		return // which moves its replicas too
	}
	for _, p := range s.parts() {
		info := infos[p]
		if info == nil {
			continue
		}
		if info.Config.Replicas < fullReplicas {
			j.raise(ctx, p, info)
		} else {
			j.move(ctx, p, info, q)
		}
	}
}

// raise gives a part its three replicas.
func (j *janitor) raise(ctx context.Context, p *part, info *streamInfo) {
	config := info.Config
	config.Replicas = fullReplicas
	if _, err := j.b.js.UpdateStream(ctx, config); err != nil {
		j.b.log.Debug().Err(err).Str("stream", p.name).Msg("more replicas can't be made yet")
		return
	}
	j.b.log.Info().Str("stream", p.name).Int("replicas", fullReplicas).Msg("the store gets more replicas")
}

// move has a replica made on a node that is there instead of one that is gone.
func (j *janitor) move(ctx context.Context, p *part, info *streamInfo, q *quorum) {
	if info.Cluster == nil || info.Cluster.Leader == "" || info.Cluster.Desired != nil {
		return // alone, without anybody to ask, or moving already
	}
	gone, here := "", 1
	for _, r := range info.Cluster.Replicas {
		switch since := j.b.sightings.since(r.Name); {
		case since == 0:
			here++
		case since >= j.b.opts.Cluster.ForgetAfter && q.ids[r.Name] != "":
			gone = r.Name
		}
	}
	members := len(info.Cluster.Replicas) + 1
	if gone == "" || here != members/2+1 || q.online <= here {
		return // nothing to mend, nothing that can be, or no node for it
	}
	err := j.b.askServers(ctx, j.b.conn, "$JS.API.STREAM.PEER.REMOVE."+p.name, map[string]string{"peer": gone})
	if err != nil {
		j.b.log.Debug().Err(err).Str("stream", p.name).Str("peer", gone).Msg("a replica can't be moved yet")
		return
	}
	j.b.log.Info().Str("stream", p.name).Str("peer", gone).Msg("a replica of the store moves, since its node is gone")
}

// forget takes the node that is gone for longest out of the quorum, and reports
// whether it did.
func (j *janitor) forget(ctx context.Context, q *quorum) bool {
	var gone Peer
	for _, p := range q.peers {
		if p.Seen > gone.Seen {
			gone = p
		}
	}
	if gone.Seen < j.b.opts.Cluster.ForgetAfter {
		return false
	}
	if err := j.b.ForgetPeer(ctx, gone.Name); err != nil {
		j.b.log.Debug().Err(err).Str("peer", gone.Name).Msg("a node can't be taken out of the quorum yet")
		return false
	}
	j.b.log.Warn().Str("peer", gone.Name).Dur("gone", gone.Seen).
		Msg("took a node that is gone out of the store's quorum, since the loss of another would have cost that")
	return true
}
