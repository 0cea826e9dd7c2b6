//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// A member is one node of a cluster.
type member struct {
	backend

	dir string
}

// startNodes runs the nodes of a cluster, each a process of the binary, until
// the test ends. It returns once they see each other and the store is whole.
func startNodes(tb testing.TB, upstream string, n int, flags ...string) []member {
	tb.Helper()
	var routes []string
	for range n {
		// It is free for a moment, which is enough on a machine of one's own.
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		routes = append(routes, ln.Addr().String())
		_ = ln.Close() // nothing came
	}
	all := make([]*launched, n)
	for i := range all {
		all[i] = launch(tb, upstream, append([]string{"--cluster-name", "bench", "--node-name", "n" + strconv.Itoa(i+1),
			"--cluster-listen", routes[i], "--cluster-routes", strings.Join(routes, ",")}, flags...)...)
	}
	tb.Cleanup(func() { // before each waits for its own end
		for _, l := range all {
			l.end()
		}
	})
	nodes := make([]member, n)
	for i, l := range all {
		nodes[i] = member{l.ready(tb, callLimit), l.dir}
	}
	ctx, cancel := context.WithTimeout(tb.Context(), callLimit)
	defer cancel()
	for _, m := range nodes {
		if err := m.awaitWhole(ctx, n); err != nil {
			tb.Fatal(err)
		}
	}
	return nodes
}

// awaitWhole waits until the node sees n nodes and a store with all its copies.
func (m member) awaitWhole(ctx context.Context, n int) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := m.cluster(ctx)
		if err == nil {
			up := 0
			for _, node := range c.Nodes {
				if node.State == gateway.NodeUp {
					up++
				}
			}
			if up == n && c.History.Quorum && c.History.Current == c.History.Replicas && (n < 3 || c.History.Replicas == 3) && len(c.Degraded) == 0 {
				return nil
			}
			err = fmt.Errorf("%d of %d nodes are up, %d of %d copies of the history there; %v", up, n, c.History.Current, c.History.Replicas, c.Degraded)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the cluster does not come up: %w", err)
		}
	}
}

func (m member) cluster(ctx context.Context) (*gateway.Cluster, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr+"/v1/cluster", nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // only read
	c := new(gateway.Cluster)
	return c, json.NewDecoder(res.Body).Decode(c)
}

// holdsLog reports whether the node has a copy of the history.
func (m member) holdsLog(tb testing.TB) bool {
	tb.Helper()
	found, err := filepath.Glob(filepath.Join(m.dir, "cluster-bench", "jetstream", "*", "streams", "athena_log"))
	if err != nil {
		tb.Fatal(err)
	}
	return len(found) > 0
}

// begin starts n analyses that nobody watches yet, and returns their streams.
func (b backend) begin(tb testing.TB, n int, body string) []string {
	tb.Helper()
	const starters = 8
	connections := &http.Transport{MaxIdleConnsPerHost: starters}
	defer connections.CloseIdleConnections()
	ids, errs := make([]string, n), make([]error, starters)
	places := make(chan int, n)
	for i := range n {
		places <- i
	}
	close(places)
	var wg sync.WaitGroup
	for k := range starters {
		wg.Go(func() {
			for i := range places {
				if ids[i], errs[k] = b.post(tb.Context(), &http.Client{Transport: connections}, body); errs[k] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
	return ids
}

// post starts one analysis.
func (b backend) post(ctx context.Context, c *http.Client, body string) (id string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+b.addr+"/v1/analyses", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	var answer bytes.Buffer
	_, err = answer.ReadFrom(res.Body)
	_ = res.Body.Close() // it has been read
	id = strings.TrimPrefix(res.Header.Get("Location"), "/v1/streams/")
	if err == nil && (res.StatusCode != http.StatusCreated || !protocol.ValidStreamID(id)) {
		err = fmt.Errorf("start an analysis: %s %.300s", res.Status, &answer)
	}
	return id, err
}
