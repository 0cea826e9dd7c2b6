package backbone_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/athena-hub/athena/internal/backbone"
)

// nodeVariable is set where this program is to be a node of a cluster instead
// of the tests, so that they can kill it.
const nodeVariable = "ATHENA_BACKBONE_TEST_NODE"

func runNode(options string) int {
	var o processOptions
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	b, err := backbone.Open(context.Background(), backbone.Options{Node: o.Node, DataDir: o.DataDir,
		Cluster: &backbone.ClusterOptions{Name: o.Cluster, Listen: o.Listen, Routes: o.Routes, Secret: o.Secret}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the tests close it
	if err := b.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A process is a node that runs in a process of its own.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ready chan struct{} // closed when the node is open, or has failed
}

// processOptions are what such a node is told.
type processOptions struct {
	Node, DataDir, Cluster, Listen, Secret string
	Routes                                 []string
}

// startProcess starts a node, which is killed when the test ends.
func startProcess(t testing.TB, o backbone.Options) *process {
	t.Helper()
	options, err := json.Marshal(processOptions{o.Node, o.DataDir, o.Cluster.Name, o.Cluster.Listen, o.Cluster.Secret, o.Cluster.Routes})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeVariable+"="+string(options))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, stdin: stdin, ready: make(chan struct{})}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(stdout)
		lines.Scan()
		close(p.ready)
		for lines.Scan() {
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-read
		_ = cmd.Wait() // says that it was killed
	})
	return p
}

// kill ends the process as a power cut would.
func (p *process) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}
