package interop_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// built is where this run of the tests puts what it builds.
var built string

func TestMain(m *testing.M) {
	var err error
	if built, err = os.MkdirTemp("", "athena-interop-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Pebble waits at random before it looks at a challenge. That it is to do so at
	// once is for the whole process, since tests run in parallel.
	if err := os.Setenv("PEBBLE_VA_NOSLEEP", "1"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Pebble validates until the process ends.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"), goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(built); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}))
}

const (
	buildTimeout = 5 * time.Minute // with the race detector and an empty cache
	npmTimeout   = 2 * time.Minute
)

// athenaBinary builds the server, once and only for tests that need it.
var athenaBinary = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	binary := filepath.Join(built, "athena")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.CommandContext(ctx, "go", append(args, "./cmd/athena")...)
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return binary, nil
})

// npmPackages installs what foreign/ imports, unless it is there.
var npmPackages = sync.OnceValue(func() error {
	if _, err := os.Stat(filepath.Join("node_modules", ".package-lock.json")); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), npmTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund").CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
})

// need returns the path of the first of these programs that is there. Where
// none is, the test fails in CI, and is skipped elsewhere.
func need(t *testing.T, install string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "" {
		t.Skipf("none of %q is here; install %s, or run `make test`, which does", names, install)
	}
	t.Fatalf("none of %q is here; install %s (.ci/prepare does)", names, install)
	return ""
}
