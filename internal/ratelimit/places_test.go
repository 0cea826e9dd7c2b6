package ratelimit_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/athena-hub/athena/internal/ratelimit"
)

func TestPlacesAreTakenTogetherOrNotAtAllAndGivenBackOnce(t *testing.T) {
	var p ratelimit.Places
	key := ratelimit.Claim{Key: ratelimit.Key{Kind: ratelimit.CredentialStreams, Name: "a"}, Max: 3}
	tenant := ratelimit.Claim{Key: ratelimit.Key{Kind: ratelimit.TenantStreams, Name: "t"}, Max: 2}
	first, full := p.Enter(key, tenant)
	if full >= 0 {
		t.Fatal("refused")
	}
	if _, full := p.Enter(key, tenant); full >= 0 {
		t.Fatal("the second was refused")
	}
	if _, full := p.Enter(key, tenant); full != 1 || p.Held(key.Key) != 2 {
		t.Errorf("the third: full %d, and the key has %d", full, p.Held(key.Key))
	}
	first()
	first()
	if p.Held(tenant.Key) != 1 || p.Held(key.Key) != 1 {
		t.Errorf("%d and %d are held after one has left", p.Held(tenant.Key), p.Held(key.Key))
	}
	if leave, full := p.Enter(); full >= 0 || leave == nil {
		t.Error("who claims nothing has no place")
	}
}

func TestWhatIsThereAlreadyHasItsPlaceThoughThereIsNone(t *testing.T) {
	var p ratelimit.Places
	c := ratelimit.Claim{Key: ratelimit.Key{Kind: ratelimit.CredentialStreams, Name: "a"}, Max: 1}
	leaves := []func(){p.Hold(c), p.Hold(c)}
	if _, full := p.Enter(c); full != 0 || p.Held(c.Key) != 2 {
		t.Errorf("full %d, and %d are held, want 2", full, p.Held(c.Key))
	}
	for _, leave := range leaves {
		leave()
		leave()
	}
	if _, full := p.Enter(c); full >= 0 || p.Held(c.Key) != 1 {
		t.Errorf("once both have left: full %d, and %d are held", full, p.Held(c.Key))
	}
}

func TestManyAtOnceDoNotTakeMorePlacesThanThereAre(t *testing.T) {
	var p ratelimit.Places
	c := ratelimit.Claim{Key: ratelimit.Key{Kind: ratelimit.AddressConnections, Name: "a"}, Max: 5}
	var now, most atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 200 {
				leave, full := p.Enter(c)
				if full >= 0 {
					continue
				}
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				now.Add(-1)
				leave()
			}
		})
	}
	wg.Wait()
	if most.Load() > 5 || p.Held(c.Key) != 0 {
		t.Errorf("at most %d at once, want 5; %d are left", most.Load(), p.Held(c.Key))
	}
}
