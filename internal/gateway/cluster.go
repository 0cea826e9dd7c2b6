package gateway

import (
	"context"
	"net/http"

	"github.com/athena-hub/athena/protocol"
)

// A Cluster is the answer of GET /v1/cluster: the nodes, as the one that was
// asked sees them, and the store that they share.
type Cluster struct {
	// Name is the cluster's; "" for a node that is alone, and for nodes that
	// share servers of NATS's own.
	Name string `json:"name,omitempty"`
	// Mode says what the nodes are joined by.
	Mode ClusterMode `json:"mode"`
	// Node is the one that answers.
	Node  string        `json:"node"`
	Nodes []ClusterNode `json:"nodes"`
	// History is the store.
	History ClusterHistory `json:"history"`
	// Degraded is what doesn't work as it should, in words; empty where
	// everything does.
	Degraded []string `json:"degraded"`
}

// A ClusterMode says what nodes are joined by.
type ClusterMode string

// The modes.
const (
	ModeAlone    ClusterMode = "alone"
	ModeEmbedded ClusterMode = "embedded" // servers in the nodes, joined by routes
	ModeNATS     ClusterMode = "nats"     // servers of NATS's own
)

// A ClusterNode is one node.
type ClusterNode struct {
	Name    string    `json:"name"`
	State   NodeState `json:"state"`
	Started Instant   `json:"started,omitzero"`
	// HeardMS is how long ago the node was heard, in milliseconds; 0 for the
	// one that answers.
	HeardMS int64  `json:"heard_ms"`
	Version string `json:"version,omitempty"`
	Address string `json:"address,omitempty"`
	// Connections and Analyses are those of the node.
	Connections int `json:"connections"`
	Analyses    int `json:"analyses"`
	// Degraded says in words what doesn't work there; "" where everything does.
	Degraded string `json:"degraded,omitempty"`
}

// A NodeState is how a node is.
type NodeState string

// The states of nodes.
const (
	NodeUp      NodeState = "up"
	NodeLeaving NodeState = "leaving" // shuts down
	NodeGone    NodeState = "gone"    // is not heard of, and has not left
)

// A ClusterHistory is how the store is.
type ClusterHistory struct {
	// Quorum says that a majority of the store's servers is there, so that it
	// can be written to.
	Quorum bool `json:"quorum"`
	// Replicas is how many copies there are to be of everything, Current how
	// many of them are up to date.
	Replicas int `json:"replicas"`
	Current  int `json:"current"`
	// Servers are those that count for the majority; left out where they
	// aren't known.
	Servers []ClusterServer `json:"servers,omitempty"`
	// Detail says in words what is wrong; "" where nothing is.
	Detail string `json:"detail,omitempty"`
}

// A ClusterServer is one of the store's servers, named as its node is.
type ClusterServer struct {
	Name   string `json:"name"`
	Online bool   `json:"online"`
	Leader bool   `json:"leader,omitempty"`
}

// cluster answers GET /v1/cluster.
func (g *Gateway) cluster(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), g.opts.ReadyTimeout)
	defer cancel()
	c := g.opts.Cluster(ctx)
	if c.Nodes == nil {
		c.Nodes = []ClusterNode{}
	}
	if c.Degraded == nil {
		c.Degraded = []string{}
	}
	writeJSON(w, http.StatusOK, c)
}

// forget answers DELETE /v1/cluster/nodes/{name}: the node is gone for good,
// and must not count for the store's majority any more.
func (g *Gateway) forget(w http.ResponseWriter, r *http.Request) {
	if g.opts.Forget == nil {
		g.fail(w, r, protocol.Errorf(protocol.CodeInvalidRequest, "this node has no servers of a cluster to count"))
		return
	}
	if err := g.opts.Forget(r.Context(), r.PathValue("name")); err != nil {
		g.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
