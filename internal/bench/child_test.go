//go:build linux

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	childEnv   = "ATHENA_BENCH_CHILD"
	profileEnv = "ATHENA_BENCH_PROFILE"
	// callLimit bounds one order to a child.
	callLimit = 2 * time.Minute
	// stopLimit is how long a child may take to end.
	stopLimit = 20 * time.Second
)

// A spec says what a child process is to be.
type spec struct {
	Role string // "floor", "athena", "proxy" or "upstream"
	// Athena's.
	Dir string // of the stored log
	// Proxy's.
	Upstream string
	// Upstream's.
	Chunks int // of a paced answer
	// Profile is the file for a CPU profile, none where empty.
	Profile string
}

// A child is a server in a process of its own. It takes one order at a time.
type child struct {
	tb   testing.TB
	cmd  *exec.Cmd
	addr string
	enc  *json.Encoder
	dec  *json.Decoder
	out  *os.File
	stop func() error // ends the process in order, at most once
}

var profiles atomic.Int64 // numbers the files

// profilePath is the file for the CPU profile of one server of tb, none where
// none is wanted.
func profilePath(tb testing.TB, role string) string {
	dir := os.Getenv(profileEnv)
	if dir == "" {
		return ""
	}
	name := strings.NewReplacer("/", "-", " ", "_").Replace(tb.Name())
	return filepath.Join(dir, fmt.Sprintf("%s-%s-%d.pprof", name, role, profiles.Add(1)))
}

// startChild starts a server. It ends with the test, or by end.
func startChild(tb testing.TB, s spec) *child {
	tb.Helper()
	s.Profile = profilePath(tb, s.Role)
	text, err := json.Marshal(s)
	if err != nil {
		tb.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	// The child ends when its standard input does, so not by a context.
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, outChild, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stdout = outChild
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	_ = outChild.Close() // the child has its own
	c := &child{tb: tb, cmd: cmd, enc: json.NewEncoder(in), dec: json.NewDecoder(out), out: out}
	stopped := false
	c.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		_ = in.Close() // the process may have died
		kill := time.AfterFunc(stopLimit, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		err := cmd.Wait()
		_ = out.Close() // only read
		return err
	}
	tb.Cleanup(c.end)
	c.addr = c.receive().Addr
	return c
}

// end ends the process in order.
func (c *child) end() {
	if err := c.stop(); err != nil {
		c.tb.Errorf("%s ended: %v", c.cmd.Path, err)
	}
}

func (c *child) receive() answer {
	c.tb.Helper()
	if err := c.out.SetReadDeadline(time.Now().Add(callLimit)); err != nil {
		c.tb.Fatal(err)
	}
	var a answer
	if err := c.dec.Decode(&a); err != nil {
		c.tb.Fatalf("read the server's answer: %v", err)
	}
	if a.Error != "" {
		c.tb.Fatalf("the server says: %s", a.Error)
	}
	return a
}

// do gives an order and waits until it is done.
func (c *child) do(o order) answer {
	c.tb.Helper()
	if err := c.enc.Encode(o); err != nil {
		c.tb.Fatalf("order %s: %v", o.Do, err)
	}
	return c.receive()
}

func (c *child) create(n int) []string { c.tb.Helper(); return c.do(order{Do: "create", Count: n}).IDs }
func (c *child) cpu() time.Duration    { c.tb.Helper(); return c.do(order{Do: "cpu"}).CPU }

// memory returns what is resident once garbage has been given back.
func (c *child) memory() memory { c.tb.Helper(); return c.do(order{Do: "memory"}).Memory }

// clockTicks is the unit of the times in /proc/PID/stat, USER_HZ, a second of
// which has 100 on every architecture that Go runs on.
const clockTicks = 100

// processCPU returns the CPU time of another process, in steps of 10 ms.
func processCPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold spaces. utime and stime are the 14th
	// and 15th of all fields, see proc(5).
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// exactCPU is processCPU in nanoseconds, of a process that ends no thread, as
// Go's don't. It is for processes that do next to nothing.
func exactCPU(pid int) (time.Duration, error) {
	threads, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		on, _, _ := bytes.Cut(text, []byte(" "))
		n, err := strconv.ParseInt(string(on), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		sum += time.Duration(n)
	}
	return sum, nil
}
