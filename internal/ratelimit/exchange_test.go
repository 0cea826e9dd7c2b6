package ratelimit_test

import (
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/ratelimit"
	"github.com/athena-hub/athena/internal/redistest"
)

func TestPlacesAreCountedOnAllNodesTogetherWhileRedisIsThere(t *testing.T) {
	srv := redistest.Start(t)
	claim := ratelimit.Claim{Key: ratelimit.Key{Kind: ratelimit.TenantConnections, Name: "t"}, Max: 3}
	own := ratelimit.Claim{Key: ratelimit.Key{Kind: ratelimit.AddressConnections, Name: "a"}, Max: 1}
	var here, there ratelimit.Places
	r1, _ := open(t, srv.URL(), ratelimit.RedisOptions{Probe: 20 * time.Millisecond})
	here.Share(r1, ratelimit.TenantConnections)
	r2, _ := open(t, srv.URL(), ratelimit.RedisOptions{Probe: 20 * time.Millisecond})
	there.Share(r2, ratelimit.TenantConnections)
	full := func(p *ratelimit.Places) bool {
		leave, full := p.Enter(claim)
		if full < 0 {
			leave()
		}
		return full >= 0
	}
	var leave [3]func()
	for i, p := range []*ratelimit.Places{&here, &here, &there} {
		l, full := p.Enter(claim)
		if full >= 0 {
			t.Fatalf("place %d of 3 is refused", i)
		}
		leave[i] = l
	}
	if _, full := here.Enter(own); full >= 0 {
		t.Fatal("refused")
	}
	eventually(t, func() bool { return full(&here) && full(&there) })
	if l, full := there.Enter(own); full >= 0 {
		t.Error("what is each node's own is counted for all")
	} else {
		l()
	}
	leave[0]()
	eventually(t, func() bool { return !full(&there) })
	if l, full := here.Enter(claim); full >= 0 {
		t.Error("the place is not free here")
	} else {
		leave[0] = l
	}
	eventually(t, func() bool { return full(&there) })

	srv.Kill()
	eventually(t, func() bool { return !full(&here) && !full(&there) })
	srv.Restart()
	eventually(t, func() bool { return full(&here) && full(&there) })
	for _, l := range leave {
		l()
	}
}

func TestThePlacesOfANodeThatHasEndedAreFree(t *testing.T) {
	srv := redistest.Start(t)
	claim := ratelimit.Claim{Key: ratelimit.Key{Kind: ratelimit.TenantConnections, Name: "t"}, Max: 1}
	var here, there ratelimit.Places
	r, _ := open(t, srv.URL(), ratelimit.RedisOptions{})
	here.Share(r, ratelimit.TenantConnections)
	gone, err := ratelimit.OpenRedis(ratelimit.RedisOptions{URL: srv.URL(), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	there.Share(gone, ratelimit.TenantConnections)
	if _, full := there.Enter(claim); full >= 0 {
		t.Fatal("refused")
	}
	full := func() bool {
		leave, full := here.Enter(claim)
		if full < 0 {
			leave()
		}
		return full >= 0
	}
	eventually(t, full)
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return !full() })
}
