package main

import (
	"bytes"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/gateway"
)

// closing is what a node may need beyond its drain timeout: each of its parts
// has closeTimeout to end.
const closing = 4 * closeTimeout

// deployFile returns one of the files.
func deployFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deployFolder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// inFile returns what the pattern's group matches, everywhere in the file, which
// must be the same.
func inFile(t *testing.T, name, pattern string) string {
	t.Helper()
	found := regexp.MustCompile("(?m)"+pattern).FindAllStringSubmatch(deployFile(t, name), -1)
	if len(found) == 0 {
		t.Fatalf("%s has nothing like %s", name, pattern)
	}
	for _, f := range found {
		if f[1] != found[0][1] {
			t.Fatalf("%s has both %q and %q for %s", name, found[0][1], f[1], pattern)
		}
	}
	return found[0][1]
}

func durationIn(t *testing.T, name, pattern string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(inFile(t, name, pattern))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

// settings returns the configuration of a server that has these variables.
func settings(t *testing.T, variables ...string) *config.Serve {
	t.Helper()
	cfg, err := config.Load(nil, append([]string{"HOME=" + t.TempDir()}, variables...))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// otherFlags are those that are no settings: of other programs, and --help.
var otherFlags = []string{"--build-arg", "--chown", "--env-file", "--from", "--from-literal", "--help", "--network", "--now", "--stop-timeout"}

func TestTheDeploymentFilesNameOnlySettingsThatAreThere(t *testing.T) {
	table := config.Table()
	names, err := filepath.Glob(filepath.Join(deployFolder, "*"))
	if err != nil || len(names) < 7 {
		t.Fatalf("there are only %q, %v", names, err)
	}
	for _, name := range names {
		text := deployFile(t, filepath.Base(name))
		for _, v := range regexp.MustCompile(`ATHENA_[A-Z0-9_]+`).FindAllString(text, -1) {
			if config.UnknownVariables([]string{v + "=1"}) != nil {
				t.Errorf("%s: there is no variable %s", name, v)
			}
		}
		// What stands in brackets behind a flag is its default.
		for _, f := range regexp.MustCompile(`(?:^|[\s"(=])(--[a-z][a-z-]*[a-z])(?:\s+#?\s*\((\w+)\))?`).FindAllStringSubmatch(text, -1) {
			if slices.Contains(otherFlags, f[1]) {
				continue
			}
			_, row, ok := strings.Cut(table, "| `"+f[1]+"` |")
			if !ok {
				t.Errorf("%s: there is no flag %s", name, f[1])
				continue
			}
			row, _, _ = strings.Cut(row, "\n")
			if f[2] != "" && !strings.Contains(row, "| `"+f[2]+"` |") {
				t.Errorf("%s says that %s is %s; it is:%s", name, f[1], f[2], row)
			}
		}
	}
}

func TestTheProxiesWaitLongerAndTakeMoreThanAthena(t *testing.T) {
	cfg := settings(t)
	for name, pattern := range map[string][]string{
		"nginx.conf":  {`proxy_read_timeout\s+(\w+);`},
		"haproxy.cfg": {`timeout client\s+(\w+)$`, `timeout server\s+(\w+)$`, `timeout tunnel\s+(\w+)$`},
	} {
		for _, p := range pattern {
			if d := durationIn(t, name, p); d <= max(cfg.ResultMaxWait, cfg.PollMaxWait, 3*cfg.Heartbeat) {
				t.Errorf("%s waits for %v only (%s)", name, d, p)
			}
		}
	}
	for name, pattern := range map[string]string{"nginx.conf": `client_max_body_size\s+(\d+)m;`, "Caddyfile": `max_size (\d+)MiB$`} {
		mib, err := strconv.ParseInt(inFile(t, name, pattern), 10, 64)
		if limit := gateway.MaxRequestBytes(int64(cfg.MaxCodeBytes)); err != nil || mib<<20 <= limit {
			t.Errorf("%s lets bodies of %d MiB pass, and Athena takes %d bytes", name, mib, limit)
		}
	}
	// Who keeps a connection longer than the other finds it closed at times,
	// with a request on its way.
	for name, pattern := range map[string]string{"nginx.conf": `keepalive_timeout (\w+);`, "Caddyfile": `keepalive (\w+)`} {
		if d := durationIn(t, name, pattern); d >= cfg.KeepAlive {
			t.Errorf("%s keeps connections for %v, Athena for %v", name, d, cfg.KeepAlive)
		}
	}
	// A node that shuts down must be found out before it sends clients away.
	fall, err := strconv.Atoi(inFile(t, "haproxy.cfg", `check inter \w+ fall (\d+)`))
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]time.Duration{
		"haproxy.cfg": time.Duration(fall) * durationIn(t, "haproxy.cfg", `check inter (\w+)`),
		"Caddyfile":   durationIn(t, "Caddyfile", `health_interval (\w+)$`),
	} {
		if d >= cfg.DrainDelay {
			t.Errorf("%s may take %v to see that a node shuts down, which takes clients for %v", name, d, cfg.DrainDelay)
		}
	}
	// They are found out by the same answer.
	for _, name := range []string{"haproxy.cfg", "Caddyfile"} {
		inFile(t, name, `( /readyz)$`)
	}
}

func TestTheServiceOfSystemdIsRight(t *testing.T) {
	cfg := settings(t)
	if d := durationIn(t, "athena.service", `^TimeoutStopSec=(\w+)$`); d <= cfg.DrainTimeout+closing {
		t.Errorf("systemd kills after %v; a node may take %v", d, cfg.DrainTimeout+closing)
	}
	files, err := strconv.Atoi(inFile(t, "athena.service", `^LimitNOFILE=(\d+)$`))
	if err != nil || files < 2*cfg.MaxConnections {
		t.Errorf("%d files may be open, %v; there may be %d clients", files, err, cfg.MaxConnections)
	}

	// The settings are those of a node that starts.
	dir := t.TempDir()
	for name, text := range map[string]string{"cluster-secret": strings.Repeat("5e", 32), "api-keys": "web=" + strings.Repeat("4e", 32)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		inFile(t, "athena.service", `^(LoadCredential)=`+name+":")
	}
	unit := strings.NewReplacer("%S", dir, "%d", dir).Replace(deployFile(t, "athena.service"))
	variables := slices.DeleteFunc(strings.Split(deployFile(t, "athena.env"), "\n"), func(line string) bool {
		return line == "" || strings.HasPrefix(line, "#")
	})
	for _, v := range regexp.MustCompile(`(?m)^Environment=(.*)$`).FindAllStringSubmatch(unit, -1) {
		variables = append(variables, v[1])
	}
	node := settings(t, variables...)
	if !node.Clustered() || node.Loopback() || len(node.ClusterRoutes) != fleetNodes || !slices.Contains(node.ClusterRoutes, node.ClusterListen) {
		t.Errorf("the node listens on %s, and as one of %v on %s", node.Listen, node.ClusterRoutes, node.ClusterListen)
	}
	if secret, err := node.ClusterPassword(); err != nil || len(secret) < config.MinSecretLength {
		t.Errorf("the secret has %d characters, %v", len(secret), err)
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here, so that only what is Athena's was checked")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "athena.service")
	unit = strings.Replace(unit, "ExecStart=/usr/local/bin/athena", "ExecStart="+self, 1) // it looks for the program
	if err := os.WriteFile(file, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"verify", "--man=no", file},
		{"security", "--offline=yes", "--threshold=20", "--no-pager", file}, // 2.0 of 10
	} {
		out, err := exec.Command(analyze, args...).CombinedOutput()
		if err != nil || args[0] == "verify" && bytes.Contains(out, []byte(file)) {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}

func TestTheContainerfileBuildsWhatIsThere(t *testing.T) {
	const root = "../.."
	var copied []string
	steps := strings.Split(strings.ReplaceAll(deployFile(t, "Containerfile"), "\\\n", " "), "\n")
	for _, step := range steps {
		words := strings.Fields(step)
		if len(words) < 3 || words[0] != "COPY" || strings.HasPrefix(words[1], "--from=") {
			continue
		}
		for _, source := range words[1 : len(words)-1] {
			if _, err := os.Stat(filepath.Join(root, source)); err != nil {
				t.Errorf("%s: %v", step, err)
			}
			// go build finds a source where it was.
			to := path.Clean(words[len(words)-1])
			if to != source && path.Join(to, path.Base(source)) != source {
				t.Errorf("%s: it would be elsewhere", step)
			}
			copied = append(copied, source)
		}
	}
	// All that the binary is made of, and what is embedded, is there.
	const format = `{{if and .Module .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}
{{end}}{{end}}`
	list := exec.Command("go", "list", "-deps", "-f", format, "./cmd/athena")
	list.Dir = root
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	needed := 0
	for source := range strings.FieldsSeq(string(out)) {
		needed++
		rel, err := filepath.Rel(here, source)
		if err != nil || !slices.ContainsFunc(copied, func(c string) bool { return rel == c || strings.HasPrefix(rel, c+"/") }) {
			t.Errorf("%s is needed, and not copied: %v", rel, err)
		}
	}
	if needed < 100 {
		t.Errorf("only %d files are needed", needed)
	}

	text := strings.Join(steps, "\n")
	for _, part := range []string{"CGO_ENABLED=0 go build", "-X main.version=", "\nUSER 65532", "\nSTOPSIGNAL SIGTERM\n", "\nFROM scratch\n"} {
		if !strings.Contains(text, part) {
			t.Errorf("it has no %q", part)
		}
	}
	if strings.Contains(text, "\nHEALTHCHECK") {
		t.Error("it has a HEALTHCHECK, and nothing in the image that could do it")
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	goVersion := inFile(t, "Containerfile", `^FROM docker.io/library/golang:(\S+) AS build$`)
	if !regexp.MustCompile(`(?m)^go ` + regexp.QuoteMeta(goVersion) + `(\.|$)`).Match(mod) {
		t.Errorf("it builds with Go %s, which is not what go.mod says", goVersion)
	}
	variables := regexp.MustCompile(`ATHENA_[A-Z_]+=\S+`).FindAllString(text[strings.Index(text, "\nENV "):], -1)
	if cfg := settings(t, append(variables, "ATHENA_API_KEY="+fleetKey)...); cfg.Loopback() || cfg.DataDir != "/var/lib/athena" {
		t.Errorf("it would listen on %s and keep its data in %s", cfg.Listen, cfg.DataDir)
	}
}
