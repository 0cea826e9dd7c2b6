package interop_test

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/athena-hub/athena/providers/providertest"
)

// tortureRuns is how many analyses the TypeScript client is tortured with in
// CI; ATHENA_SDK_RUNS is another number, ATHENA_TORTURE_SEED repeats a run.
const tortureRuns = 200

// TestTortureOfTheTypeScriptClient has the client that pages and Node use,
// as it is in web/dist, watch many short analyses on two nodes, behind a network
// that sends it to either, cuts it at any time, and lets not every transport
// through. foreign/torture.mjs compares each text with what the model said.
func TestTortureOfTheTypeScriptClient(t *testing.T) {
	t.Parallel()
	within(t) // the server is built
	runs, err := strconv.Atoi(cmp.Or(os.Getenv("ATHENA_SDK_RUNS"), strconv.Itoa(tortureRuns)))
	if err != nil || runs < 1 {
		t.Fatalf("ATHENA_SDK_RUNS is %q; it must be a number of runs", os.Getenv("ATHENA_SDK_RUNS"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*testTimeout*time.Duration(max(1, runs/tortureRuns)))
	defer cancel()
	node := need(t, "Node 20 or later with npm", "node")
	need(t, "Node 20 or later with npm", "npm")
	if err := npmPackages(); err != nil {
		t.Fatal(err)
	}
	var listeners, routes []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, ln.Addr().String())
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
	}
	routes = append(routes, "--cluster-routes", strings.Join(listeners, ","))
	var nodes []*hub
	for i, ln := range listeners {
		flags := append([]string{"--cluster-name", "torture", "--cluster-secret", "a secret of the tests, of no use elsewhere",
			"--node-name", fmt.Sprintf("n%d", i), "--cluster-listen", ln}, routes...)
		h := launchHub(t, flags...)
		h.upstream.answerWith(nil).goOn(stages)
		h.upstream.script.SetReply(tortureReply)
		nodes = append(nodes, h)
	}
	for _, h := range nodes {
		h.wait(t)
	}
	t.Cleanup(func() { // both at once: the last of two waits long for the other
		for _, h := range nodes {
			_ = h.process.Signal(syscall.SIGTERM)
		}
	})
	seed := cmp.Or(os.Getenv("ATHENA_TORTURE_SEED"), strconv.FormatInt(time.Now().UnixNano()%1e9, 10))
	out, err := exec.CommandContext(ctx, node, filepath.Join("foreign", "torture.mjs"), strconv.Itoa(runs), seed, nodes[0].url, nodes[1].url).CombinedOutput()
	t.Logf("ATHENA_TORTURE_SEED=%s\n%s", seed, out)
	if err != nil {
		t.Fatalf("%v, %v", err, ctx.Err())
	}
}

var tortureCode = regexp.MustCompile(`torture run (\d+) of (\d+) pieces`)

// tortureReply answers the analysis of "torture run N of P pieces" with what
// foreign/torture.mjs expects.
func tortureReply(c *providertest.Call) providertest.Script {
	m := tortureCode.FindSubmatch(c.Body)
	if m == nil {
		return providertest.Script{Pieces: providertest.Texts("not of the torture")}
	}
	n, _ := strconv.Atoi(string(m[1]))
	pieces, _ := strconv.Atoi(string(m[2]))
	var s providertest.Script
	for i := range pieces {
		s.Pieces = append(s.Pieces, providertest.Piece{Text: fmt.Sprintf("run %d, piece %d: ä世😀\n", n, i), After: 4 * time.Millisecond})
	}
	return s
}
