package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/cluster"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// facts are what this node tells the others.
func (n *node) facts() cluster.Facts {
	f := cluster.Facts{Version: buildVersion(), Address: n.cfg.Listen, Connections: n.hub.Connections(), Analyses: n.analyses.Running()}
	if !n.bus.StoreUp() {
		f.Degraded, f.Detail = true, "the store does not answer"
	}
	for _, h := range n.analyses.BreakerHints() {
		b := cluster.Breaker{Provider: h.Provider, Model: h.Model, Why: h.Why, Open: h.Open}
		if !h.Until.IsZero() { // as a length of time, since clocks differ
			b.UntilMS = max(time.Until(h.Until).Milliseconds(), 0)
		}
		f.Breakers = append(f.Breakers, b)
	}
	return f
}

// hintsOf are the breakers of another node's facts.
func hintsOf(f cluster.Facts) []analysis.BreakerHint {
	var hints []analysis.BreakerHint
	for _, b := range f.Breakers {
		h := analysis.BreakerHint{Provider: b.Provider, Model: b.Model, Why: b.Why, Open: b.Open}
		if b.UntilMS > 0 {
			h.Until = time.Now().Add(time.Duration(b.UntilMS) * time.Millisecond)
		}
		hints = append(hints, h)
	}
	return hints
}

// viewersElsewhere counts who watches a stream on other nodes; nil for a node
// that is alone.
func (n *node) viewersElsewhere() func(context.Context, string) int {
	if !n.cfg.Clustered() {
		return nil
	}
	return n.streams.ViewersElsewhere
}

// ready reports why this node can't take requests. A store without a majority is
// no reason among several nodes: streams go on, and no other node would be any
// better.
func (n *node) ready(ctx context.Context) error {
	if n.cluster == nil {
		return n.bus.Ping(ctx)
	}
	if err := n.cluster.Err(); err != nil {
		return err
	}
	if err := n.bus.Ping(ctx); !errors.Is(err, backbone.ErrNoStore) {
		return err
	}
	return nil
}

// describeCluster is the answer of GET /v1/cluster.
func (n *node) describeCluster(ctx context.Context) gateway.Cluster {
	c := gateway.Cluster{Name: n.cfg.ClusterName, Mode: gateway.ModeAlone, Node: n.cfg.Node}
	s := n.bus.Store(ctx)
	c.History = gateway.ClusterHistory{Quorum: s.Quorum, Replicas: s.Replicas, Current: s.ReplicasCurrent, Detail: s.Detail}
	if n.cluster == nil {
		c.Nodes = []gateway.ClusterNode{{Name: n.cfg.Node, State: gateway.NodeUp, Started: gateway.Instant{Time: n.started},
			Version: buildVersion(), Address: n.cfg.Listen, Connections: n.hub.Connections(), Analyses: n.analyses.Running()}}
		return c
	}
	c.Mode = gateway.ModeEmbedded
	if n.cfg.NatsURL != "" {
		c.Mode = gateway.ModeNATS
	}
	for _, p := range s.Peers {
		c.History.Servers = append(c.History.Servers, gateway.ClusterServer{Name: p.Name, Online: p.Online, Leader: p.Leader})
	}
	for _, m := range n.cluster.Members() {
		c.Nodes = append(c.Nodes, describeMember(&m))
		switch {
		case m.State == cluster.StateGone:
			c.Degraded = append(c.Degraded, fmt.Sprintf("node %s is gone", m.Node))
		case m.Facts.Degraded && !m.Self:
			c.Degraded = append(c.Degraded, fmt.Sprintf("node %s: %s", m.Node, cmp.Or(m.Facts.Detail, "degraded")))
		}
	}
	if err := n.cluster.Err(); err != nil {
		c.Degraded = append(c.Degraded, err.Error())
	}
	switch {
	case !s.Quorum:
		c.Degraded = append(c.Degraded, cmp.Or(s.Detail, "the store has no majority"))
	case s.ReplicasCurrent < s.Replicas:
		c.Degraded = append(c.Degraded, fmt.Sprintf("%d of %d copies of the store are up to date", s.ReplicasCurrent, s.Replicas))
	}
	slices.Sort(c.Degraded)
	return c
}

func describeMember(m *cluster.Member) gateway.ClusterNode {
	g := gateway.ClusterNode{Name: m.Node, State: gateway.NodeState(m.State), Started: gateway.Instant{Time: m.Since},
		Version: m.Facts.Version, Address: m.Facts.Address, Connections: m.Facts.Connections, Analyses: m.Facts.Analyses, Degraded: m.Facts.Detail}
	if !m.Self && !m.Heard.IsZero() {
		g.HeardMS = max(time.Since(m.Heard).Milliseconds(), 1)
	}
	return g
}

// forgetter takes nodes out of the store's majority; nil where this node's
// server has none to take them out of.
func (n *node) forgetter() func(context.Context, string) error {
	if n.cfg.ClusterName == "" {
		return nil
	}
	return func(ctx context.Context, name string) error {
		err := n.bus.ForgetPeer(ctx, name)
		if errors.Is(err, backbone.ErrInvalid) {
			return protocol.Errorf(protocol.CodeInvalidRequest, "%v", err)
		}
		return err
	}
}
