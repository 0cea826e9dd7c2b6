package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/ratelimit"
	"github.com/athena-hub/athena/internal/redistest"
)

// patience bounds each wait of a test.
const patience = 30 * time.Second

// open opens a Redis whose changes, "" for back, are told.
func open(t *testing.T, url string, o ratelimit.RedisOptions) (*ratelimit.Redis, <-chan error) {
	t.Helper()
	changes := make(chan error, 100)
	o.URL, o.Changed = url, func(err error) { changes <- err }
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second // the machine may be slow
	}
	r, err := ratelimit.OpenRedis(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, changes
}

func change(t *testing.T, changes <-chan error) error {
	t.Helper()
	select {
	case err := <-changes:
		return err
	case <-time.After(patience):
		t.Fatal("nothing was told")
		return nil
	}
}

func TestALimitInRedisHoldsForAllNodesTogether(t *testing.T) {
	srv := redistest.Start(t)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		r, _ := open(t, srv.URL(), ratelimit.RedisOptions{})
		for range 4 {
			wg.Go(func() {
				levels := make([]ratelimit.Level, 2)
				for range 50 {
					ok, err := r.Take(t.Context(), []ratelimit.Demand{of(ratelimit.CredentialRequests, "a", 1e6, 1), of(ratelimit.TenantRequests, "t", 100, 0)}, levels)
					if err != nil || !ok {
						t.Errorf("asking only: %v, %v", ok, err)
					}
					if ok, err = r.Take(t.Context(), []ratelimit.Demand{of(ratelimit.TenantBytes, "t", 1000, 10), of(ratelimit.TenantRequests, "t", 1e6, 1)}, levels); err != nil {
						t.Error(err)
					} else if ok {
						passed.Add(1)
					} else if levels[0].Wait <= 0 || levels[1].Wait != 0 {
						t.Errorf("refused with %+v", levels)
					}
				}
			})
		}
	}
	began := time.Now()
	wg.Wait()
	came := int64(time.Since(began)/(600*time.Millisecond)) + 1 // one each 600 ms
	if n := passed.Load(); n < 100 || n > 100+came {
		t.Errorf("%d passed, want 100 and at most %d that came back", n, came)
	}
}

func TestARequestCostsOneRoundTripHoweverManyLimitsItHas(t *testing.T) {
	srv := redistest.Start(t)
	r, _ := open(t, srv.URL(), ratelimit.RedisOptions{})
	levels := make([]ratelimit.Level, 4)
	demands := []ratelimit.Demand{of(ratelimit.CredentialRequests, "a", 1000, 1), of(ratelimit.CredentialBytes, "a", 1000, 1),
		of(ratelimit.TenantRequests, "a", 1000, 1), of(ratelimit.TenantBytes, "a", 1000, 1)}
	for range 10 {
		if ok, err := r.Take(t.Context(), demands, levels); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	// The first time the server didn't know the script yet.
	if sha, eval := srv.Commands("evalsha"), srv.Commands("eval"); sha != 10 || eval != 1 {
		t.Errorf("%d and %d scripts were run for 10 requests", sha, eval)
	}
}

// What is demanded of buckets in memory and in Redis at the same times must have
// the same answers, but for the time that passes between the two.
func TestBucketsInMemoryAndInRedisAgree(t *testing.T) {
	srv := redistest.Start(t)
	r, _ := open(t, srv.URL(), ratelimit.RedisOptions{})
	b := ratelimit.NewBuckets(0)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		name := fmt.Sprint(rng.IntN(4))
		// So slow that what comes back while the test runs is less than one.
		demands := []ratelimit.Demand{of(ratelimit.CredentialBytes, name, 10, rng.Int64N(4)), of(ratelimit.TenantBytes, name, 7, rng.Int64N(12))}
		here, there := make([]ratelimit.Level, 2), make([]ratelimit.Level, 2)
		okThere, err := r.Take(t.Context(), demands, there)
		okHere := b.Take(demands, here)
		if err != nil {
			t.Fatal(err)
		}
		const apart = 5 * time.Second
		for j := range here {
			if d := here[j].Full - there[j].Full; okHere == okThere && (d > apart || d < -apart) {
				t.Fatalf("demand %d, %+v: here %v %+v, in Redis %v %+v", i, demands, okHere, here, okThere, there)
			}
		}
		if okHere != okThere {
			wait := max(here[0].Wait, here[1].Wait, there[0].Wait, there[1].Wait)
			if wait > apart {
				t.Fatalf("demand %d, %+v: here %v %+v, in Redis %v %+v", i, demands, okHere, here, okThere, there)
			}
			t.Skip("they met at the very moment at which a token came back; what follows says nothing")
		}
	}
}

func TestWhatIsGivenBackMayBeTakenAgain(t *testing.T) {
	srv := redistest.Start(t)
	r, _ := open(t, srv.URL(), ratelimit.RedisOptions{})
	levels := make([]ratelimit.Level, 1)
	step := func(n int64, want bool, left int64) {
		t.Helper()
		ok, err := r.Take(t.Context(), []ratelimit.Demand{of(ratelimit.TenantTokens, "t", 1000, n)}, levels)
		if err != nil || ok != want || levels[0].Left < left || levels[0].Left > left+100 {
			t.Fatalf("%d: %v, %v, %+v; want %v and %d left", n, ok, err, levels[0], want, left)
		}
	}
	step(900, true, 100)
	step(500, false, 100)
	step(-600, true, 700)
	step(500, true, 200)
	step(-5000, true, 1000) // no more than a minute's worth
	step(1, true, 999)
	// What has been used already is taken whatever is there.
	ok, err := r.Take(t.Context(), []ratelimit.Demand{{Key: ratelimit.Key{Kind: ratelimit.TenantTokens, Name: "t"}, PerMinute: 1000, N: 3000, Spent: true}}, levels)
	if err != nil || !ok || levels[0].Full < 2*time.Minute {
		t.Errorf("spent already: %v, %v, %+v", ok, err, levels[0])
	}
	step(1, false, 0)
}

func TestARedisThatGoesAwayIsAskedByNobodyUntilItIsBack(t *testing.T) {
	srv := redistest.Start(t)
	r, changes := open(t, srv.URL(), ratelimit.RedisOptions{Probe: 20 * time.Millisecond})
	demands := []ratelimit.Demand{of(ratelimit.TenantRequests, "t", 2, 1)}
	levels := make([]ratelimit.Level, 1)
	limiters := map[ratelimit.Failure]*ratelimit.Limiter{}
	for _, f := range []ratelimit.Failure{ratelimit.FailLocal, ratelimit.FailAllow, ratelimit.FailDeny} {
		limiters[f] = ratelimit.NewLimiter(ratelimit.NewBuckets(0), r, f)
	}
	passes := func(f ratelimit.Failure) (n int) {
		t.Helper()
		for range 5 {
			ok, err := limiters[f].Take(t.Context(), demands, levels)
			if (err != nil) != (f == ratelimit.FailDeny) || err != nil && !errors.Is(err, ratelimit.ErrAway) {
				t.Errorf("%s: %v", f, err)
			}
			if ok {
				n++
			}
		}
		return n
	}
	for i := range 3 {
		if ok, err := limiters[ratelimit.FailDeny].Take(t.Context(), demands, levels); err != nil || ok != (i < 2) {
			t.Fatalf("while it is there: %v, %v", ok, err)
		}
	}

	srv.Kill()
	if _, err := r.Take(t.Context(), demands, levels); !errors.Is(err, ratelimit.ErrAway) {
		t.Fatalf("after it was killed: %v", err)
	}
	if err := change(t, changes); err == nil || r.Up() {
		t.Fatalf("its loss was told as %v, up %v", err, r.Up())
	}
	failures := r.Failures()
	for f, want := range map[ratelimit.Failure]int{ratelimit.FailLocal: 2, ratelimit.FailAllow: 5, ratelimit.FailDeny: 0} {
		if n := passes(f); n != want {
			t.Errorf("%s: %d of 5 passed, want %d", f, n, want)
		}
	}
	if r.Failures() != failures {
		t.Errorf("it was asked %d times though it was known to be away", r.Failures()-failures)
	}

	srv.Restart()
	if err := change(t, changes); err != nil {
		t.Fatalf("its return was told as %v", err)
	}
	eventually(t, r.Up)
	if ok, err := limiters[ratelimit.FailDeny].Take(t.Context(), demands, levels); err != nil || !ok {
		t.Errorf("once it is back: %v, %v", ok, err)
	}
}

func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it never came true")
		}
	}
}

// A server that accepts and never answers is worse than none.
func TestARedisThatDoesNotAnswerCostsNoMoreThanTheDeadlineAndOnlyOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	r, changes := open(t, "redis://user:canary@"+ln.Addr().String(), ratelimit.RedisOptions{Timeout: 50 * time.Millisecond, Probe: time.Hour})
	levels := make([]ratelimit.Level, 1)
	demands := []ratelimit.Demand{of(ratelimit.TenantRequests, "t", 2, 1)}
	for range 1000 {
		if _, err := r.Take(t.Context(), demands, levels); !errors.Is(err, ratelimit.ErrAway) || strings.Contains(err.Error(), "canary") {
			t.Fatal(err)
		}
	}
	if err := change(t, changes); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("told %v", err)
	}
	if n := r.Failures(); n != 1 {
		t.Errorf("%d requests waited for it, want 1", n)
	}
}

func TestAClientThatLeavesDoesNotMakeRedisLookAway(t *testing.T) {
	srv := redistest.Start(t)
	r, _ := open(t, srv.URL(), ratelimit.RedisOptions{})
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := r.Take(gone, []ratelimit.Demand{of(ratelimit.TenantRequests, "t", 2, 1)}, make([]ratelimit.Level, 1)); err != nil || !r.Up() {
		t.Errorf("%v, up %v", err, r.Up())
	}
}

// BenchmarkTakeInRedis is one round trip to a Redis on the same machine.
func BenchmarkTakeInRedis(b *testing.B) {
	srv := redistest.Start(b)
	r, err := ratelimit.OpenRedis(ratelimit.RedisOptions{URL: srv.URL(), Timeout: 10 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	demands := []ratelimit.Demand{of(ratelimit.CredentialRequests, "a", 1e9, 1), of(ratelimit.TenantRequests, "t", 1e9, 1)}
	levels := make([]ratelimit.Level, 2)
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := r.Take(b.Context(), demands, levels); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func TestAPasswordIsGivenToRedis(t *testing.T) {
	srv := redistest.Start(t)
	c := srv.Client()
	defer func() { _ = c.Close() }()
	if err := c.ConfigSet(t.Context(), "requirepass", "canary").Err(); err != nil {
		t.Fatal(err)
	}
	levels := make([]ratelimit.Level, 1)
	demands := []ratelimit.Demand{of(ratelimit.TenantRequests, "t", 2, 1)}
	r, _ := open(t, srv.URL(), ratelimit.RedisOptions{Password: "canary"})
	if ok, err := r.Take(t.Context(), demands, levels); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	wrong, _ := open(t, srv.URL(), ratelimit.RedisOptions{Password: "wrong-canary"})
	if _, err := wrong.Take(t.Context(), demands, levels); !errors.Is(err, ratelimit.ErrAway) || strings.Contains(err.Error(), "canary") {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestAURLThatIsNoneIsRefusedWithoutItsPassword(t *testing.T) {
	for _, u := range []string{"http://user:canary@h", "redis://user:canary@h:port", "canary", "redis://user:canary@h/x"} {
		if _, err := ratelimit.OpenRedis(ratelimit.RedisOptions{URL: u}); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", u, err)
		}
	}
}
