// Package redistest runs a real Redis for tests, which can be killed and come
// back at the same address.
package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// patience bounds the start of a server.
const patience = 30 * time.Second

// A Server is a Redis under test.
type Server struct {
	t   testing.TB
	cmd *exec.Cmd // nil while it is stopped

	// Addr is HOST:PORT, on loopback.
	Addr string
}

// Start starts a Redis that ends with the test. Where there is no redis-server the
// test is skipped, but in CI it fails.
func Start(t testing.TB) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("there is no redis-server, which .ci/prepare installs")
		}
		t.Skip("there is no redis-server; .ci/prepare installs it")
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, Addr: ln.Addr().String()}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	t.Cleanup(func() {
		if s.cmd != nil {
			s.Kill()
		}
	})
	return s
}

// URL is what clients are told.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Kill ends Redis as a crash does, and with it all that it held.
func (s *Server) Kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	_ = s.cmd.Wait() // it was killed
	s.cmd = nil
}

// Restart starts a Redis that was killed, at the same address, and returns once it
// answers.
func (s *Server) Restart() {
	s.t.Helper()
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.CommandContext(context.Background(), "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", s.t.TempDir()) //nolint:gosec // a test's server
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.Client()
	defer func() { _ = c.Close() }() // it has answered, or the test has failed
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.Ping(ctx).Err()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("redis-server does not answer: %v", err)
		}
	}
}

// Client returns a client that the caller closes.
func (s *Server) Client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DialerRetries: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
}

// Commands returns how many commands of this name, such as "evalsha", the server
// has done.
func (s *Server) Commands(name string) int {
	s.t.Helper()
	c := s.Client()
	defer func() { _ = c.Close() }() // it was only asked
	info, err := c.InfoMap(context.Background(), "commandstats").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, section := range info {
		var calls int
		if _, err := fmt.Sscanf(section["cmdstat_"+name], "calls=%d", &calls); err == nil {
			return calls
		}
	}
	return 0
}
