package accounting_test

import (
	"fmt"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = accounting.Key{Provider: "p", Model: "m", Tenant: "t"}

func limited(requests, tokens int64) accounting.Options {
	return accounting.Options{Providers: map[string]accounting.Limits{"p": {RequestsPerMinute: requests, TokensPerMinute: tokens}}}
}

func used(input, output int64) *protocol.Usage {
	return &protocol.Usage{InputTokens: input, OutputTokens: output}
}

func TestCallsAtOnceDoNotPassALimitTogether(t *testing.T) {
	for name, o := range map[string]accounting.Options{
		"requests of the provider": limited(50, 0),
		"tokens of the provider":   limited(0, 500),
		"requests of the tenant":   {Tenant: accounting.Limits{RequestsPerMinute: 50}},
		"tokens of the tenant":     {Tenant: accounting.Limits{TokensPerMinute: 500}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := accounting.New(o)
				var granted atomic.Int64
				var wg sync.WaitGroup
				for range 200 {
					wg.Go(func() {
						for began := time.Now(); ; {
							r, wait := l.Reserve(key, 10)
							if r != nil {
								granted.Add(1)
								r.Settle(used(7, 3), 0, 0)
								return
							}
							if time.Since(began)+wait > 2*time.Minute {
								return
							}
							time.Sleep(wait)
						}
					})
				}
				synctest.Wait()
				if n := granted.Load(); n != 50 {
					t.Errorf("%d calls at once, want 50", n)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := granted.Load(); n != 100 {
					t.Errorf("%d calls after a minute, want 100", n)
				}
				wg.Wait()
				if n := granted.Load(); n != 150 {
					t.Errorf("%d calls after two minutes, want 150", n)
				}
			})
		})
	}
}

func TestTheWaitIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, limit := range []int64{1, 7, 60, 999_983, 30_000_000, 1 << 40} {
			for _, tokens := range []int64{1, limit / 3, limit, 3 * limit} {
				l := accounting.New(limited(0, limit))
				first, _ := l.Reserve(key, limit)
				first.Settle(used(limit, limit), 0, 0) // into debt
				time.Sleep(12345678901 * time.Nanosecond)
				_, wait := l.Reserve(key, tokens)
				if wait <= 0 {
					t.Fatalf("limit %d, %d tokens: reserved although there is debt", limit, tokens)
				}
				time.Sleep(wait - 1)
				if r, rest := l.Reserve(key, tokens); r != nil || rest != 1 {
					t.Errorf("limit %d, %d tokens: a nanosecond before the end there is %v to wait", limit, tokens, rest)
				}
				time.Sleep(time.Nanosecond)
				if r, rest := l.Reserve(key, tokens); r == nil {
					t.Errorf("limit %d, %d tokens: after %v there is %v more", limit, tokens, wait, rest)
				}
			}
		}
	})
}

func TestAReservationTakesFromProviderAndTenantOrFromNeither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := limited(10, 100)
		o.Tenant = accounting.Limits{TokensPerMinute: 30}
		l := accounting.New(o)
		if r, _ := l.Reserve(key, 30); r == nil {
			t.Fatal("refused")
		}
		if r, wait := l.Reserve(key, 10); r != nil || wait != 20*time.Second {
			t.Errorf("the tenant has nothing left: wait %v, want 20s", wait)
		}
		want := accounting.Left{Requests: 9, Tokens: 70, Limits: o.Providers["p"]}
		if got := l.Left("p"); got != want {
			t.Errorf("left %+v, want %+v", got, want)
		}
		other := accounting.Key{Provider: "p", Tenant: "u"}
		r, _ := l.Reserve(other, 30)
		if r == nil {
			t.Fatal("another tenant was refused")
		}
		r.Release()
		r.Release()
		if got := l.Left("p"); got != want {
			t.Errorf("after release: left %+v, want %+v", got, want)
		}
		r.Settle(used(1, 1), 0, 0)
		if got := l.Totals(); len(got) != 0 {
			t.Errorf("what was released is counted: %+v", got)
		}
		if got := l.Left("q"); got != (accounting.Left{Requests: -1, Tokens: -1}) {
			t.Errorf("without limits: %+v", got)
		}
	})
}

func TestCallsOfFreeProvidersTakeNothingFromTheirTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := limited(2, 100)
		o.Tenant = accounting.Limits{RequestsPerMinute: 1}
		o.Free = map[string]bool{"p": true}
		l := accounting.New(o)
		for range 2 {
			r, _ := l.Reserve(key, 1)
			if r == nil {
				t.Fatal("a free call was refused")
			}
			r.Settle(used(1, 1), 0, 0)
		}
		if r, _ := l.Reserve(key, 1); r != nil {
			t.Error("the provider's own limit does not hold")
		}
		if got := l.Totals(); len(got) != 1 || got[0].Calls != 2 {
			t.Errorf("the totals are %+v, want both calls", got)
		}
		paid := accounting.Key{Provider: "q", Tenant: key.Tenant}
		if r, _ := l.Reserve(paid, 1); r == nil {
			t.Error("the tenant's minute was used up by free calls")
		}
		if r, _ := l.Reserve(paid, 1); r != nil {
			t.Error("the tenant's limit does not hold")
		}
	})
}

func TestSettlingGivesBackOrTakesTheDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := accounting.New(limited(0, 600))
		r, _ := l.Reserve(key, 500)
		r.Settle(used(100, 50), 0, 0)
		if got := l.Left("p").Tokens; got != 450 {
			t.Errorf("%d left, want 450", got)
		}
		r.Settle(used(9999, 9999), 0, 0)
		r.Release()
		if got := l.Left("p").Tokens; got != 450 {
			t.Errorf("settled again: %d left, want 450", got)
		}
		r, _ = l.Reserve(key, 450)
		r.Settle(used(1000, 50), 0, 0) // 600 in debt
		if got := l.Left("p").Tokens; got != 0 {
			t.Errorf("%d left in debt, want 0", got)
		}
		if _, wait := l.Reserve(key, 60); wait != 66*time.Second {
			t.Errorf("wait %v, want 66s", wait)
		}
		// A usage that can't be shuts nobody out for more than an hour.
		r, _ = l.Reserve(accounting.Key{Provider: "q"}, 0)
		r.Settle(used(math.MaxInt64, math.MaxInt64), 0, 0)
		time.Sleep(time.Hour)
		r, _ = l.Reserve(key, 1)
		r.Settle(used(math.MaxInt64, 0), 0, 0)
		if _, wait := l.Reserve(key, 600); wait != 61*time.Minute {
			t.Errorf("wait %v, want 61m", wait)
		}
	})
}

func TestWhatTheProviderDoesNotSayIsEstimated(t *testing.T) {
	estimate := accounting.EstimateTokens
	for name, c := range map[string]struct {
		said    *protocol.Usage
		in, out int64
		want    protocol.Usage
	}{
		"everything said":    {&protocol.Usage{InputTokens: 100, CachedTokens: 80, OutputTokens: 20, ReasoningTokens: 5}, 9000, 70, protocol.Usage{InputTokens: 100, CachedTokens: 80, OutputTokens: 20, ReasoningTokens: 5}},
		"nothing said":       {nil, 3500, 700, protocol.Usage{InputTokens: 1000, OutputTokens: 200, Estimated: true}},
		"no output":          {used(10, 0), 3500, 700, protocol.Usage{InputTokens: 10, OutputTokens: estimate(700), Estimated: true}},
		"only the beginning": {used(10, 1), 3500, 700, protocol.Usage{InputTokens: 10, OutputTokens: estimate(700), Estimated: true}},
		"no input":           {used(0, 7), 35, 20, protocol.Usage{InputTokens: 10, OutputTokens: 7, Estimated: true}},
		"more cached":        {&protocol.Usage{CachedTokens: 50}, 35, 0, protocol.Usage{InputTokens: 50, CachedTokens: 50, Estimated: true}},
		"contradiction":      {&protocol.Usage{InputTokens: 5, CachedTokens: 50, OutputTokens: 2, ReasoningTokens: 3}, 35, 9, protocol.Usage{InputTokens: 5, CachedTokens: 5, OutputTokens: 2, ReasoningTokens: 2}},
		"negative":           {used(-5, -1), 0, 0, protocol.Usage{}},
		"nothing at all":     {nil, 0, 0, protocol.Usage{}},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := accounting.New(accounting.Options{}).Reserve(key, 1)
			if got := r.Settle(c.said, c.in, c.out); *got != c.want {
				t.Errorf("%+v, want %+v", *got, c.want)
			}
		})
	}
	if got := estimate(math.MaxInt64); got <= 0 {
		t.Errorf("an endless text has %d tokens", got)
	}
}

func TestTotalsHaveWhatEachCallUsedAndCost(t *testing.T) {
	l := accounting.New(accounting.Options{Cost: func(provider, _ string, u *protocol.Usage) (float64, bool) {
		switch provider {
		case "free":
			return 0, false
		case "broken":
			return math.NaN(), true
		}
		return float64(u.InputTokens-u.CachedTokens)*0.25 + float64(u.OutputTokens), true
	}})
	settle := func(k accounting.Key, u *protocol.Usage) *protocol.Usage {
		r, _ := l.Reserve(k, 10)
		return r.Settle(u, 35, 35)
	}
	own := 7.5
	first := settle(key, &protocol.Usage{InputTokens: 10, CachedTokens: 6, OutputTokens: 2})
	if first.CostUSD == nil || *first.CostUSD != 3 {
		t.Errorf("cost %v, want 3", first.CostUSD)
	}
	settle(key, &protocol.Usage{InputTokens: 1, OutputTokens: 2, ReasoningTokens: 1, CostUSD: &own})
	settle(key, nil)
	for _, provider := range []string{"free", "broken"} {
		if u := settle(accounting.Key{Provider: provider, Model: "m", Tenant: "t"}, used(1, 2)); u.CostUSD != nil {
			t.Errorf("%s costs %v", provider, *u.CostUSD)
		}
	}
	*first.CostUSD, first.InputTokens = 100, 100 // it's the caller's
	want := []accounting.Total{
		{Key: accounting.Key{Provider: "broken", Model: "m", Tenant: "t"}, Calls: 1, InputTokens: 1, OutputTokens: 2},
		{Key: accounting.Key{Provider: "free", Model: "m", Tenant: "t"}, Calls: 1, InputTokens: 1, OutputTokens: 2},
		{Key: key, Calls: 3, EstimatedCalls: 1, InputTokens: 21, OutputTokens: 14, CachedTokens: 6, ReasoningTokens: 1, CostUSD: 23},
	}
	if got := l.Totals(); !reflect.DeepEqual(got, want) {
		t.Errorf("totals\n%+v, want\n%+v", got, want)
	}
}

func TestMemoryIsBoundedAndSumsStayExact(t *testing.T) {
	l := accounting.New(accounting.Options{MaxTenants: 3, MaxModels: 4, MaxTotals: 6, Tenant: accounting.Limits{RequestsPerMinute: 30}})
	var calls, refused uint64
	for i := range 200 {
		r, _ := l.Reserve(accounting.Key{Provider: "p", Model: fmt.Sprint("m", i%9), Tenant: fmt.Sprint("t", i%20)}, 1)
		if r == nil {
			refused++
			continue
		}
		r.Settle(used(1, 1), 0, 0)
		calls++
	}
	// Three tenants have all of their ten calls, the others together 30.
	if calls != 60 || refused != 140 {
		t.Errorf("%d calls, %d refused; want 60 and 140", calls, refused)
	}
	totals := l.Totals()
	if len(totals) > 7 {
		t.Errorf("%d totals, want 6 and one for the others", len(totals))
	}
	var sum uint64
	for _, total := range totals {
		sum += total.Calls
	}
	if sum != calls {
		t.Errorf("the totals have %d calls, want %d", sum, calls)
	}
}

// FuzzBooksBalance plays any sequence of calls and checks that totals are the
// sums of what was settled, that no level passes its limit, and that waits
// hold.
func FuzzBooksBalance(f *testing.F) {
	f.Add([]byte{0, 10, 1, 5, 2, 200, 3, 9, 0, 255, 1, 255})
	f.Add([]byte("reserve and settle, release and wait"))
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			o := limited(7, 1000)
			o.Tenant = accounting.Limits{RequestsPerMinute: 5, TokensPerMinute: 700}
			l := accounting.New(o)
			var open []*accounting.Reservation
			var input, output int64
			var calls uint64
			for i := 0; i+1 < len(script) && i < 400; i += 2 {
				n := int64(script[i+1])
				switch script[i] % 4 {
				case 0:
					k := accounting.Key{Provider: "p", Model: "m", Tenant: fmt.Sprint(n % 3)}
					r, wait := l.Reserve(k, n*8)
					if r == nil {
						time.Sleep(wait)
						if r, wait = l.Reserve(k, n*8); r == nil {
							t.Fatalf("after its wait there is %v more", wait)
						}
					}
					open = append(open, r)
				case 1, 2:
					if len(open) == 0 {
						continue
					}
					r := open[0]
					open = open[1:]
					if script[i]%4 == 2 {
						r.Release()
						continue
					}
					u := r.Settle(used(n*4, n), n, n)
					input, output, calls = input+u.InputTokens, output+u.OutputTokens, calls+1
				case 3:
					time.Sleep(time.Duration(n) * 123 * time.Millisecond)
				}
				if left := l.Left("p"); left.Requests < 0 || left.Requests > 7 || left.Tokens < 0 || left.Tokens > 1000 {
					t.Fatalf("left %+v", left)
				}
			}
			var sum accounting.Total
			for _, total := range l.Totals() {
				sum.InputTokens += total.InputTokens
				sum.OutputTokens += total.OutputTokens
				sum.Calls += total.Calls
			}
			if sum.InputTokens != input || sum.OutputTokens != output || sum.Calls != calls {
				t.Errorf("totals %+v, want %d calls, %d and %d tokens", sum, calls, input, output)
			}
		})
	})
}

// BenchmarkReserveAndSettle takes 1.3 µs on two busy cores, and must stay far below 10: it is once per
// call of a provider, under one lock.
func BenchmarkReserveAndSettle(b *testing.B) {
	o := limited(1<<40, 1<<40)
	o.Tenant = accounting.Limits{RequestsPerMinute: 1 << 40, TokensPerMinute: 1 << 40}
	l := accounting.New(o)
	said, n := used(100, 10), uint64(0)
	for b.Loop() {
		r, _ := l.Reserve(key, 200)
		r.Settle(said, 350, 35)
		n++
	}
	if got := l.Totals()[0].Calls; got != n {
		b.Fatalf("%d calls are counted, want %d", got, n)
	}
	if each := b.Elapsed() / time.Duration(n); n > 1000 && each > 10*time.Microsecond {
		b.Errorf("%v for each, more than 10µs", each)
	}
}

func TestACallOfALostProcessIsChargedWhateverTheLimitsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := accounting.New(accounting.Options{
			Providers: map[string]accounting.Limits{"p": {RequestsPerMinute: 1, TokensPerMinute: 100}},
			Cost:      func(_, _ string, u *protocol.Usage) (float64, bool) { return float64(u.OutputTokens), true },
		})
		k := accounting.Key{Provider: "p", Model: "m", Tenant: "t"}
		for range 2 {
			if u := l.Charge(k, &protocol.Usage{InputTokens: 90, OutputTokens: 10}, 0, 0); u.InputTokens != 90 || u.OutputTokens != 10 || u.Estimated || *u.CostUSD != 10 {
				t.Errorf("charged %+v", u)
			}
		}
		if u := l.Charge(k, nil, 350, 35); u.InputTokens != 100 || u.OutputTokens != 10 || !u.Estimated {
			t.Errorf("charged %+v", u)
		}
		want := []accounting.Total{{Key: k, Calls: 3, EstimatedCalls: 1, InputTokens: 280, OutputTokens: 30, CostUSD: 30}}
		if got := l.Totals(); !reflect.DeepEqual(got, want) {
			t.Errorf("totals %+v, want %+v", got, want)
		}
		// Two requests and 210 tokens beyond the minute's.
		if r, wait := l.Reserve(k, 0); r != nil || wait != 3*time.Minute {
			t.Errorf("the next call may be made after %v", wait)
		}
		if r, wait := l.Reserve(k, 10); r != nil || wait != 3*time.Minute {
			t.Errorf("the next call may be made after %v", wait)
		}
	})
}

func TestEachCredentialHasTokensOfItsOwnBesideItsTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := accounting.New(accounting.Options{Tenant: accounting.Limits{TokensPerMinute: 100}, Credential: accounting.Limits{TokensPerMinute: 60}, MaxTenants: 3})
		first, _ := l.ReserveFor(key, "a", 50)
		if first == nil {
			t.Fatal("refused")
		}
		if r, wait := l.ReserveFor(key, "a", 20); r != nil || wait != 10*time.Second {
			t.Errorf("the credential has 10 left: wait %v, want 10s", wait)
		}
		if r, wait := l.ReserveFor(key, "b", 60); r != nil || wait != 6*time.Second {
			t.Errorf("the tenant has 50 left: wait %v, want 6s", wait)
		}
		second, _ := l.ReserveFor(key, "b", 50)
		if second == nil {
			t.Fatal("another credential was refused what is left")
		}
		second.Release()
		first.Settle(used(10, 0), 0, 0)
		if r, _ := l.ReserveFor(key, "a", 50); r == nil {
			t.Error("what was not used is not given back to the credential")
		}
		for i := range 100 { // memory is bounded
			if r, _ := l.ReserveFor(accounting.Key{Provider: "p", Tenant: fmt.Sprint(i)}, fmt.Sprint(i), 1); r != nil {
				r.Release()
			}
		}
	})
}

func TestCredentialsThatHaveTakenNothingForLongMakeRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := accounting.New(accounting.Options{Credential: accounting.Limits{TokensPerMinute: 60}, MaxTenants: 3})
		take := func(id string) bool {
			r, _ := l.ReserveFor(key, id, 60)
			return r != nil
		}
		for _, id := range []string{"a", "b", "c"} {
			take(id)
		}
		if !take("d") || take("e") {
			t.Error("those that there is no room for don't share what one has")
		}
		time.Sleep(time.Minute)
		if !take("f") || !take("g") {
			t.Error("there is no room though all others have their whole minute again")
		}
	})
}

// sharedLimit is a tenant's limit elsewhere, which never refills.
type sharedLimit struct {
	requests, tokens, reserved int64
	away                       bool // it can't be asked
}

func (s *sharedLimit) Reserve(_, _ string, tokens int64) (taken bool, wait time.Duration) {
	s.reserved++
	if s.away {
		return false, 0
	}
	if s.requests < 1 || s.tokens < tokens {
		return false, time.Minute
	}
	s.requests--
	s.tokens -= tokens
	return true, 0
}

func (s *sharedLimit) Settle(_, _ string, requests, tokens int64) {
	s.requests -= requests
	s.tokens -= tokens
}

func TestASharedLimitIsTakenGivenBackAndSettledAsTheLedgersOwn(t *testing.T) {
	s := &sharedLimit{requests: 3, tokens: 100}
	o := limited(10, 1000)
	o.Shared, o.Free = s, map[string]bool{"free": true}
	l := accounting.New(o)
	if r, _ := l.Reserve(accounting.Key{Provider: "free", Tenant: "t"}, 50); r == nil || s.reserved != 0 {
		t.Error("a free call asks for it")
	}
	r, _ := l.Reserve(key, 60)
	if refused, wait := l.Reserve(key, 60); refused != nil || wait != time.Minute || l.Left("p").Requests != 9 || l.Left("p").Tokens != 940 {
		t.Errorf("refused elsewhere: wait %v, and of the provider's there are left %+v", wait, l.Left("p"))
	}
	r.Settle(used(80, 10), 0, 0)
	r.Settle(used(80, 10), 0, 0)
	if s.requests != 2 || s.tokens != 10 {
		t.Errorf("settled: %+v, want 2 requests and 10 tokens", s)
	}
	r, _ = l.Reserve(key, 10)
	r.Release()
	r.Release()
	if s.requests != 2 || s.tokens != 10 {
		t.Errorf("released: %+v, want 2 requests and 10 tokens", s)
	}
	for _, end := range []func(*accounting.Reservation){(*accounting.Reservation).Release, func(r *accounting.Reservation) { r.Settle(used(1, 0), 0, 0) }} {
		s.away = true
		r, _ = l.Reserve(key, 50)
		s.away = false
		if end(r); s.requests != 2 || s.tokens != 10 {
			t.Errorf("what could not be taken is given back: %+v", s)
		}
	}
	if l.Charge(key, used(30, 5), 0, 0); s.requests != 1 || s.tokens != -25 {
		t.Errorf("charged: %+v, want 1 request and -25 tokens", s)
	}
}
