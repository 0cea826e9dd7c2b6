package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/athena-hub/athena/protocol"
)

type status struct {
	Status string `json:"status"`
}

// healthz says that the process answers.
func (g *Gateway) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, status{"ok"})
}

// A readiness is the answer of GET /readyz where the node is ready. Anybody may
// ask, so it says no more than a welcome does, and how the cluster is.
type readiness struct {
	Status string `json:"status"`
	// Nodes are the names of those that are up, this one among them.
	Nodes []string `json:"nodes"`
	// History is "ok", or "degraded" where the store has no majority: streams
	// go on, and what they say is stored when it is back.
	History string `json:"history"`
	// Degraded is what doesn't work as it should, in words.
	Degraded []string `json:"degraded,omitempty"`
}

// readyz says whether new requests should come here.
func (g *Gateway) readyz(w http.ResponseWriter, r *http.Request) {
	if g.draining.Load() {
		g.fail(w, r, protocol.Errorf(protocol.CodeDraining, "this node is shutting down"))
		return
	}
	if err := g.ready(r.Context()); err != nil {
		g.opts.Logger.Warn().Err(err).Msg("not ready")
		e := protocol.Errorf(protocol.CodeOverloaded, "this node is not ready; its log says why")
		g.fail(w, r, withStatus(e, http.StatusServiceUnavailable))
		return
	}
	c := g.opts.Cluster(r.Context())
	answer := readiness{Status: "ready", Nodes: []string{}, History: "ok", Degraded: c.Degraded}
	for _, n := range c.Nodes {
		if n.State == NodeUp {
			answer.Nodes = append(answer.Nodes, n.Name)
		}
	}
	if !c.History.Quorum {
		answer.History = "degraded"
	}
	writeJSON(w, http.StatusOK, answer)
}

// readyAge is how long an answer of Ready is good. Anybody may ask for
// readiness, which makes work.
const readyAge = time.Second

func (g *Gateway) ready(ctx context.Context) error {
	g.readyMu.Lock()
	defer g.readyMu.Unlock()
	if !g.readyAt.IsZero() && time.Since(g.readyAt) < readyAge {
		return g.readyLast
	}
	// Not ended by the caller's leaving, which says nothing about the node.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.opts.ReadyTimeout)
	defer cancel()
	g.readyLast = g.opts.Ready(ctx)
	g.readyAt = time.Now()
	return g.readyLast
}
