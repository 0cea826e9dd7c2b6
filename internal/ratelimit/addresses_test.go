package ratelimit_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/ratelimit"
)

var bad = netip.MustParseAddr("192.0.2.1")

// fail brings n credentials that nobody knows, and returns the last block.
func fail(s *ratelimit.Addresses, a netip.Addr, n int) (block time.Duration) {
	for range n {
		block = s.Failed(a)
	}
	return block
}

func wantVerdict(t *testing.T, s *ratelimit.Addresses, a netip.Addr, secret string, want ratelimit.Verdict, wait time.Duration) {
	t.Helper()
	if v, w := s.Arrive(a, secret); v != want || w != wait {
		t.Errorf("%s with %q: %d for %v, want %d for %v", a, secret, v, w, want, wait)
	}
}

func TestAnAddressThatTriesCredentialsIsBlockedForLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ratelimit.NewAddresses(ratelimit.AddressOptions{FailuresPerMinute: 5, Block: 10 * time.Second, BlockMax: time.Minute})
		if d := fail(s, bad, 5); d != 0 {
			t.Fatalf("five failures: blocked for %v", d)
		}
		wantVerdict(t, s, bad, "x", ratelimit.Welcome, 0)
		for _, want := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
			var d time.Duration
			for range 6 { // some of the five come back meanwhile
				if d = s.Failed(bad); d > 0 {
					break
				}
			}
			if d != want {
				t.Fatalf("blocked for %v, want %v", d, want)
			}
			if d := fail(s, bad, 1); d != 0 {
				t.Errorf("a failure that came at the same time blocks for another %v", d)
			}
			wantVerdict(t, s, bad, "x", ratelimit.Blocked, want)
			wantVerdict(t, s, netip.MustParseAddr("192.0.2.2"), "x", ratelimit.Welcome, 0)
			wantVerdict(t, s, bad, "", ratelimit.Welcome, 0) // who brings nothing guesses nothing
			time.Sleep(want)
			wantVerdict(t, s, bad, "x", ratelimit.Welcome, 0)
		}
	})
}

func TestABlockHoldsForWhatComesOverOpenConnectionsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ratelimit.NewAddresses(ratelimit.AddressOptions{FailuresPerMinute: 1, Block: 10 * time.Second})
		s.Good(bad, "good")
		if d := s.Blocked(bad, "x"); d != 0 {
			t.Errorf("before any failure: %v", d)
		}
		fail(s, bad, 2)
		for secret, want := range map[string]time.Duration{"x": 10 * time.Second, "good": 0, "": 0} {
			if d := s.Blocked(bad, secret); d != want {
				t.Errorf("%q: %v, want %v", secret, d, want)
			}
		}
	})
}

func TestABlockIsForgottenAfterAnHourWithoutFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ratelimit.NewAddresses(ratelimit.AddressOptions{FailuresPerMinute: 1})
		for range 4 {
			fail(s, bad, 2)
			time.Sleep(10 * time.Minute)
		}
		time.Sleep(time.Hour)
		fail(s, bad, 1)
		if d := fail(s, bad, 1); d != 10*time.Second {
			t.Errorf("blocked for %v, want 10s as the first time", d)
		}
	})
}

func TestACredentialThatWasGoodPassesTheBlockOfItsAddressAndOfNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ratelimit.NewAddresses(ratelimit.AddressOptions{FailuresPerMinute: 1, Block: 3 * time.Hour, BlockMax: 3 * time.Hour})
		s.Good(bad, "good")
		s.Good(netip.MustParseAddr("192.0.2.9"), "elsewhere")
		fail(s, bad, 2)
		wantVerdict(t, s, bad, "good", ratelimit.Welcome, 0)
		wantVerdict(t, s, bad, "elsewhere", ratelimit.Blocked, 3*time.Hour)
		time.Sleep(time.Hour)
		wantVerdict(t, s, bad, "good", ratelimit.Blocked, 2*time.Hour)
	})
}

func TestOnlyAFloodFromABlockedAddressIsNotEvenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, known := range []bool{false, true} {
			s := ratelimit.NewAddresses(ratelimit.AddressOptions{FailuresPerMinute: 1, Block: time.Minute})
			if known {
				s.Good(bad, "good")
			}
			fail(s, bad, 2)
			for range 50 {
				s.Arrive(bad, "x")
			}
			if s.Shut(bad) {
				t.Error("a blocked address is not read though it is slow")
			}
			for range 100 {
				s.Arrive(bad, "x")
			}
			if s.Shut(bad) == known {
				t.Errorf("somebody there is known: %v, and shut: %v", known, s.Shut(bad))
			}
			time.Sleep(time.Second)
			if s.Shut(bad) {
				t.Error("it is shut for longer than a second")
			}
		}
	})
}

func TestRequestsOfAnAddressAreLimitedWhoeverSendsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ratelimit.NewAddresses(ratelimit.AddressOptions{RequestsPerMinute: 3})
		for range 3 {
			wantVerdict(t, s, bad, "x", ratelimit.Welcome, 0)
		}
		wantVerdict(t, s, bad, "", ratelimit.TooMany, 20*time.Second)
		time.Sleep(20 * time.Second)
		wantVerdict(t, s, bad, "", ratelimit.Welcome, 0)
		wantVerdict(t, s, bad, "y", ratelimit.TooMany, 20*time.Second)
	})
}

func TestAddressesOfIPv6CountByTheirNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := ratelimit.NewAddresses(ratelimit.AddressOptions{FailuresPerMinute: 3, Block: time.Minute})
		for i := range 4 {
			s.Failed(netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1::%d", i+1)))
		}
		wantVerdict(t, s, netip.MustParseAddr("2001:db8:0:1:ffff::1%eth0"), "x", ratelimit.Blocked, time.Minute)
		wantVerdict(t, s, netip.MustParseAddr("2001:db8:0:2::1"), "x", ratelimit.Welcome, 0)
		fail(s, netip.MustParseAddr("::ffff:192.0.2.1"), 4)
		wantVerdict(t, s, bad, "x", ratelimit.Blocked, time.Minute)
		wantVerdict(t, s, netip.Addr{}, "x", ratelimit.Welcome, 0)
	})
}

func TestWhateverAddressesComeNoMoreAreRememberedThanAllowed(t *testing.T) {
	s := ratelimit.NewAddresses(ratelimit.AddressOptions{RequestsPerMinute: 10, FailuresPerMinute: 1, Max: 100})
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		s.Arrive(a, "x")
		fail(s, a, 2)
		s.Good(a, fmt.Sprint(i))
	}
	if n := s.Len(); n != 100 {
		t.Errorf("%d addresses are remembered, want 100", n)
	}
	none := ratelimit.NewAddresses(ratelimit.AddressOptions{})
	none.Arrive(bad, "x")
	fail(none, bad, 1000)
	if none.Len() != 0 {
		t.Error("without limits something is remembered")
	}
	wantVerdict(t, none, bad, "x", ratelimit.Welcome, 0)
}
