package ratelimit_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/ratelimit"
)

func take(t *testing.T, b *ratelimit.Buckets, demands ...ratelimit.Demand) (bool, []ratelimit.Level) {
	t.Helper()
	levels := make([]ratelimit.Level, len(demands))
	return b.Take(demands, levels), levels
}

func TestAMinutesWorthMayBeTakenAtOnceAndComesBackOverTheMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ratelimit.NewBuckets(0)
		d := of(ratelimit.CredentialRequests, "a", 60, 1)
		for i := range 60 {
			ok, l := take(t, b, d)
			if want := (ratelimit.Level{Left: 59 - int64(i), Full: time.Duration(i+1) * time.Second}); !ok || l[0] != want {
				t.Fatalf("request %d: %v %+v, want %+v", i, ok, l[0], want)
			}
		}
		for range 3 { // what is refused takes nothing
			if ok, l := take(t, b, d); ok || l[0].Wait != time.Second || l[0].Left != 0 || l[0].Full != time.Minute {
				t.Fatalf("one too many: %v %+v", ok, l[0])
			}
		}
		time.Sleep(time.Second)
		if ok, _ := take(t, b, d); !ok {
			t.Error("after its wait it is refused")
		}
		if ok, _ := take(t, b, d); ok {
			t.Error("two came after one wait")
		}
		if ok, _ := take(t, b, of(ratelimit.CredentialRequests, "b", 60, 1), of(ratelimit.TenantRequests, "a", 60, 1)); !ok {
			t.Error("others have their own buckets")
		}
		time.Sleep(time.Hour)
		if ok, l := take(t, b, d); !ok || l[0].Left != 59 {
			t.Errorf("after an hour %v %+v", ok, l)
		}
	})
}

func TestDemandsAreMetTogetherOrNotAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ratelimit.NewBuckets(0)
		tenant := of(ratelimit.TenantRequests, "t", 2, 1)
		for range 2 {
			if ok, _ := take(t, b, of(ratelimit.CredentialRequests, "a", 10, 1), tenant); !ok {
				t.Fatal("refused")
			}
		}
		for range 5 {
			if ok, l := take(t, b, of(ratelimit.CredentialRequests, "a", 10, 1), tenant); ok || l[0].Left != 8 || l[0].Wait != 0 || l[1].Wait != 30*time.Second {
				t.Fatalf("%v %+v: the key has paid for what its tenant could not", ok, l)
			}
		}
	})
}

func TestMoreThanAMinutesWorthIsGivenOnceAndOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ratelimit.NewBuckets(0)
		if ok, l := take(t, b, of(ratelimit.TenantBytes, "t", 100, 250)); !ok || l[0].Left != 0 || l[0].Full != 150*time.Second {
			t.Fatalf("%v %+v", ok, l)
		}
		if ok, l := take(t, b, of(ratelimit.TenantBytes, "t", 100, 0)); ok || l[0].Wait != 90*time.Second {
			t.Errorf("in debt, nothing is demanded: %v %+v", ok, l)
		}
		time.Sleep(90 * time.Second)
		if ok, _ := take(t, b, of(ratelimit.TenantBytes, "t", 100, 0)); !ok {
			t.Error("the debt is paid, and it is refused")
		}
		if ok, l := take(t, b, of(ratelimit.TenantBytes, "u", 100, 1<<50)); !ok || l[0].Full > 61*time.Minute {
			t.Errorf("an absurd demand is owed for longer than an hour: %v %+v", ok, l)
		}
		spent := of(ratelimit.TenantBytes, "v", 100, 1000)
		spent.Spent = true
		for range 100 { // bodies that came at the same time
			take(t, b, spent)
		}
		if _, l := take(t, b, of(ratelimit.TenantBytes, "v", 100, 0)); l[0].Full > 61*time.Minute {
			t.Errorf("many debts are owed for longer than an hour: %+v", l)
		}
	})
}

func TestWhatHasBeenSpentIsTakenWhateverIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ratelimit.NewBuckets(0)
		take(t, b, of(ratelimit.TenantBytes, "t", 60, 50))
		spent := of(ratelimit.TenantBytes, "t", 60, 40)
		spent.Spent = true
		if ok, l := take(t, b, spent); !ok || l[0].Full != 90*time.Second {
			t.Errorf("%v %+v", ok, l)
		}
	})
}

func TestALimitThatChangesHoldsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ratelimit.NewBuckets(0)
		for range 10 {
			take(t, b, of(ratelimit.TenantRequests, "t", 10, 1))
		}
		time.Sleep(time.Minute)
		if ok, l := take(t, b, of(ratelimit.TenantRequests, "t", 4, 1)); !ok || l[0].Left != 3 {
			t.Errorf("%v %+v", ok, l)
		}
	})
}

func TestManyAtOnceDoNotPassALimitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ratelimit.NewBuckets(0)
		var passed atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 100 {
					if ok, _ := take(t, b, of(ratelimit.CredentialRequests, "a", 300, 1), of(ratelimit.TenantRequests, "t", 200, 1)); ok {
						passed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if passed.Load() != 200 {
			t.Errorf("%d passed, want 200", passed.Load())
		}
	})
}

func TestWhateverNamesComeThereAreNoMoreBucketsThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := ratelimit.NewBuckets(100)
		mine := of(ratelimit.CredentialRequests, "mine", 1000, 1)
		for i := range 1000 {
			take(t, b, mine)
			take(t, b, of(ratelimit.CredentialRequests, fmt.Sprint(i), 10, 1))
		}
		if ok, _ := take(t, b, mine); ok {
			t.Error("who is seen often was forgotten for others")
		}
		if n := b.Len(); n != 100 {
			t.Errorf("%d buckets, want 100", n)
		}
	})
}

func TestWithoutRedisALimiterAsksNobodyElse(t *testing.T) {
	l := ratelimit.NewLimiter(ratelimit.NewBuckets(0), nil, ratelimit.FailDeny)
	levels := make([]ratelimit.Level, 1)
	for i := range 3 {
		ok, err := l.Take(context.Background(), []ratelimit.Demand{of(ratelimit.TenantRequests, "t", 2, 1)}, levels)
		if err != nil || ok != (i < 2) {
			t.Errorf("%d: %v, %v", i, ok, err)
		}
	}
	if ok, err := l.Take(context.Background(), nil, nil); !ok || err != nil {
		t.Errorf("nothing demanded: %v, %v", ok, err)
	}
}

func BenchmarkTakeInMemory(b *testing.B) {
	k := ratelimit.NewBuckets(0)
	demands := []ratelimit.Demand{of(ratelimit.CredentialRequests, "a", 1e9, 1), of(ratelimit.TenantRequests, "t", 1e9, 1)}
	levels := make([]ratelimit.Level, 2)
	b.ReportAllocs()
	for b.Loop() {
		if !k.Take(demands, levels) {
			b.Fatal("refused")
		}
	}
}
