package secrets_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/secrets"
)

func TestAFileOfKeysIsReadAgainWhenItChangesAndABadOneChangesNothing(t *testing.T) {
	path := file(t, "# ours\nsk-canary-one-0123456789\r\n\n  sk-canary-two-0123456789")
	r := secrets.NewRing("claude", nil)
	f := &secrets.File{Ring: r, ID: "file:team", Path: path, Weight: 2}
	if err := f.Load(); err != nil || texts(r) != "file:team=sk-canary-one-0123456789 file:team.2=sk-canary-two-0123456789" {
		t.Fatalf("%q, %v", texts(r), err)
	}
	before := texts(r)
	for _, bad := range []string{"", "# nothing\n", "sk-canary three\n", strings.Repeat("x", 300<<10)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := f.Load(); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.Load(); err == nil || texts(r) != before {
		t.Errorf("without its file: %q, %v", texts(r), err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		secrets.Watch(ctx, []*secrets.File{f}, time.Millisecond, zerolog.Nop())
	}()
	defer func() { cancel(); <-done }()
	// As Kubernetes changes a secret: a link is turned to another file.
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("sk-canary-new-0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, path); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); texts(r) != "file:team=sk-canary-new-0123456789"; {
		if time.Now().After(deadline) {
			t.Fatalf("still %q", texts(r))
		}
		time.Sleep(time.Millisecond)
	}
}
