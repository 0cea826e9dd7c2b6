package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// The proxies of this file are the real ones, and their configurations are the
// files of deploy/, which users copy. Of these only what users change is
// changed: the addresses of the nodes and how to listen; and where they write,
// since the tests may not be root.

// deployFolder is where these files are.
const deployFolder = "deploy"

// A proxyKind is a proxy that Athena has a configuration for.
type proxyKind struct {
	name string // of the program and of Debian's package
	file string // in deployFolder
	// listens matches what says how to listen, and on is what the tests have
	// there, with the address for %s.
	listens *regexp.Regexp
	on      string
	// elsewhere changes what is written where only root may; dir is the test's.
	elsewhere func(config, dir string) string
	// args runs the program in the foreground.
	args func(config, dir string) []string
}

var proxyKinds = []proxyKind{
	{
		name: "nginx", file: "nginx.conf", listens: regexp.MustCompile(`\blisten 80;`), on: "listen %s;",
		elsewhere: func(config, dir string) string {
			config = strings.ReplaceAll(config, "/var/log/nginx/", dir+"/")
			var temp strings.Builder
			for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				fmt.Fprintf(&temp, "\n    %s_temp_path %s;", kind, filepath.Join(dir, kind))
			}
			return strings.Replace(config, "http {", "http {"+temp.String(), 1)
		},
		args: func(config, dir string) []string {
			return []string{"-c", config, "-g", "daemon off; pid " + filepath.Join(dir, "nginx.pid") + ";"}
		},
	},
	{
		name: "haproxy", file: "haproxy.cfg", listens: regexp.MustCompile(`\bbind :80\n`), on: "bind %s\n",
		elsewhere: func(config, _ string) string {
			if os.Geteuid() == 0 {
				return config
			}
			return regexp.MustCompile(`(?m)^ +(user|group|chroot) .*\n`).ReplaceAllString(config, "")
		},
		args: func(config, _ string) []string { return []string{"-db", "-f", config} },
	},
	{
		name: "caddy", file: "Caddyfile", listens: regexp.MustCompile(`(?m)^:80 \{\n`), on: "http://%s {\n\tbind 127.0.0.1\n",
		elsewhere: func(config, _ string) string {
			return strings.Replace(config, "\n{\n", "\n{\n\tadmin off\n", 1) // its port is one for the machine
		},
		args: func(config, _ string) []string { return []string{"run", "--config", config, "--adapter", "caddyfile"} },
	},
}

// exampleNode matches a node's address in the configurations.
var exampleNode = regexp.MustCompile(`\b10\.0\.0\.1[1-9]:8080\b`)

// configure returns the configuration with these addresses. Where it names more
// nodes than there are, they come again.
func (k *proxyKind) configure(listen string, nodes []string, dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(deployFolder, k.file))
	if err != nil {
		return "", err
	}
	config := string(text)
	if n := len(k.listens.FindAllString(config, -1)); n != 1 {
		return "", fmt.Errorf("%s says %d times how to listen, want once", k.file, n)
	}
	config = k.listens.ReplaceAllLiteralString(config, fmt.Sprintf(k.on, listen))
	given := make(map[string]string)
	config = exampleNode.ReplaceAllStringFunc(config, func(example string) string {
		if given[example] == "" {
			given[example] = nodes[len(given)%len(nodes)]
		}
		return given[example]
	})
	if len(given) < len(nodes) {
		return "", fmt.Errorf("%s names %d nodes, fewer than the %d of the test", k.file, len(given), len(nodes))
	}
	return k.elsewhere(config, dir), nil
}

// find returns the program's path.
func (k *proxyKind) find() (path string, err error) {
	// Those who are not root may not have sbin in their path.
	for _, name := range []string{k.name, "/usr/sbin/" + k.name, "/usr/local/sbin/" + k.name} {
		if path, err = exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not here", k.name)
}

// need fails the test in CI where the program isn't there, and skips it
// elsewhere.
func (k *proxyKind) need(t *testing.T) string {
	t.Helper()
	path, err := k.find()
	if err != nil && os.Getenv("CI") == "" {
		t.Skipf("%v; install it, or run `make test`, which does", err)
	}
	if err != nil {
		t.Fatalf("%v; install it (.ci/prepare does)", err)
	}
	return path
}

// A proxy is a running one.
type proxy struct {
	name string
	url  string
	dir  string // holds its configuration and logs

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu: what it wrote to standard output and error
}

// Write takes what the proxy says.
func (p *proxy) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// said is all that the proxy wrote anywhere.
func (p *proxy) said() string {
	p.mu.Lock()
	said := p.log.String()
	p.mu.Unlock()
	logs, _ := filepath.Glob(filepath.Join(p.dir, "*.log")) // the pattern is good
	for _, name := range logs {
		if b, err := os.ReadFile(name); err == nil {
			said += "\n" + string(b)
		}
	}
	return said
}

// untilGone is a script that runs a program and ends it when the script's own
// input ends, so that nothing is left running when the test dies.
const untilGone = `exec 3<&0
"$@" </dev/null 3<&- & child=$!
(read -r gone; kill -TERM $child) <&3 & guard=$!
wait $child; code=$?
kill $guard 2>/dev/null
exit $code`

// start starts the program in front of these nodes, until the test ends.
func (k *proxyKind) start(t *testing.T, nodes ...string) *proxy {
	t.Helper()
	program := k.need(t)
	listen, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{name: k.name, url: "http://" + listen, dir: t.TempDir()}
	config, err := k.configure(listen, nodes, p.dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(p.dir, k.file)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{"-c", untilGone, "sh", program}, k.args(file, p.dir)...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir}
	cmd.Stdout, cmd.Stderr = p, p
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var how error // once it has ended
	ended := make(chan struct{})
	go func() { how = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = hold.Close() // it may have ended already
		select {
		case <-ended: // by a signal, which some tell and some don't
		case <-time.After(goneWithin):
			t.Errorf("%s did not end within %v of SIGTERM", p.name, goneWithin)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, lastLines(p.said()))
		}
	})
	deadline := time.Now().Add(readyWithin)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		if status := readiness(p.url); status == http.StatusOK {
			tick.Stop()
			return p
		} else if time.Now().After(deadline) {
			t.Fatalf("behind %s no node is ready; the status is %d\n%s", p.name, status, p.said())
		}
		select {
		case <-ended:
			t.Fatalf("%s has ended: %v\n%s", p.name, how, p.said())
		default:
		}
	}
}

// readiness is the status of /readyz, 0 where there was no answer.
func readiness(url string) int {
	t := newTap(0)
	defer t.transport.CloseIdleConnections()
	res, err := t.client.Get(url + "/readyz")
	if err != nil {
		return 0
	}
	_ = res.Body.Close() // the status says it
	return res.StatusCode
}

func lastLines(s string) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(len(lines)-keptLines, 0):], "\n")
}
