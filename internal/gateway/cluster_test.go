package gateway_test

import (
	"context"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// limping is a cluster of three whose third node has gone.
func limping(context.Context) gateway.Cluster {
	return gateway.Cluster{Name: "prod", Mode: gateway.ModeEmbedded, Node: "n1",
		Nodes: []gateway.ClusterNode{
			{Name: "n1", State: gateway.NodeUp, Started: gateway.Instant{Time: time.Unix(1, 0)}, Version: "v1", Connections: 3, Analyses: 2},
			{Name: "n2", State: gateway.NodeLeaving, HeardMS: 100},
			{Name: "n3", State: gateway.NodeGone, HeardMS: 9000},
		},
		History: gateway.ClusterHistory{Replicas: 3, Current: 1, Detail: "1 of 3 servers is online",
			Servers: []gateway.ClusterServer{{Name: "n1", Online: true}, {Name: "n3"}}},
		Degraded: []string{"the store has no majority"}}
}

func TestTheClusterIsShownToThoseWhoMayAsk(t *testing.T) {
	n := start(t, true, func(o *gateway.Options) { o.Cluster = limping })
	if a := n.do("GET", "/v1/cluster", ""); a.status != 401 {
		t.Errorf("without a key: %d", a.status)
	}
	a := n.do("GET", "/v1/cluster", "", "X-API-Key", apiKey)
	const want = `{"name":"prod","mode":"embedded","node":"n1","nodes":[` +
		`{"name":"n1","state":"up","started":"1970-01-01T00:00:01.000Z","heard_ms":0,"version":"v1","connections":3,"analyses":2},` +
		`{"name":"n2","state":"leaving","heard_ms":100,"connections":0,"analyses":0},` +
		`{"name":"n3","state":"gone","heard_ms":9000,"connections":0,"analyses":0}],` +
		`"history":{"quorum":false,"replicas":3,"current":1,"servers":[{"name":"n1","online":true},{"name":"n3","online":false}],"detail":"1 of 3 servers is online"},` +
		`"degraded":["the store has no majority"]}` + "\n"
	if a.status != 200 || a.body != want {
		t.Errorf("%d %s\nwant %s", a.status, a.body, want)
	}
}

func TestANodeWhoseStoreHasNoMajorityIsReadyAndSaysSo(t *testing.T) {
	n := start(t, true, func(o *gateway.Options) { o.Cluster = limping })
	const want = `{"status":"ready","nodes":["n1"],"history":"degraded","degraded":["the store has no majority"]}` + "\n"
	if a := n.do("GET", "/readyz", ""); a.status != 200 || a.body != want {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestANodeThatIsGoneForGoodIsForgottenOnRequest(t *testing.T) {
	var forgotten string
	n := start(t, true, func(o *gateway.Options) {
		o.Forget = func(_ context.Context, node string) error {
			if forgotten = node; node == "n1" {
				return protocol.Errorf(protocol.CodeInvalidRequest, "node n1 is there")
			}
			return nil
		}
	})
	if a := n.do("DELETE", "/v1/cluster/nodes/n3", ""); a.status != 401 || forgotten != "" {
		t.Errorf("without a key: %d", a.status)
	}
	if a := n.do("DELETE", "/v1/cluster/nodes/n3", "", "X-API-Key", apiKey); a.status != 204 || forgotten != "n3" {
		t.Errorf("%d %s, forgot %q", a.status, a.body, forgotten)
	}
	if a := n.do("DELETE", "/v1/cluster/nodes/n1", "", "X-API-Key", apiKey); a.status != 400 {
		t.Errorf("one that is there: %d %s", a.status, a.body)
	}
	alone := start(t, true)
	if a := alone.do("DELETE", "/v1/cluster/nodes/n3", "", "X-API-Key", apiKey); a.status != 400 {
		t.Errorf("without a cluster: %d %s", a.status, a.body)
	}
}
