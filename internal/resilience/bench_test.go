package resilience_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/resilience"
)

// BenchmarkBreaker is what a call through a closed breaker costs, beside the
// floor: what it must at least do, a lock for each of its two halves and a look
// at the clock.
func BenchmarkBreaker(b *testing.B) {
	b.Run("floor", func(b *testing.B) {
		var mu sync.Mutex
		began, n := time.Now(), 0
		for b.Loop() {
			mu.Lock()
			n++
			mu.Unlock()
			mu.Lock()
			if time.Since(began) < 0 {
				b.Fatal("time goes back")
			}
			mu.Unlock()
		}
		if n != b.N {
			b.Fatalf("%d of %d", n, b.N)
		}
	})
	b.Run("allow and success", func(b *testing.B) {
		breaker := resilience.NewBreaker(resilience.BreakerOptions{Window: time.Hour})
		b.ReportAllocs()
		for b.Loop() {
			p, err := breaker.Allow()
			if err != nil {
				b.Fatal(err)
			}
			p.Success(time.Millisecond)
		}
		if s := breaker.State(); s.Calls != b.N {
			b.Fatalf("%d calls counted of %d", s.Calls, b.N)
		}
	})
	b.Run("ready", func(b *testing.B) {
		breaker := resilience.NewBreaker(resilience.BreakerOptions{})
		for b.Loop() {
			if !breaker.Ready() {
				b.Fatal("it isn't")
			}
		}
	})
}

// BenchmarkQueue is what it costs when one comes, one is granted and one goes,
// with so many waiting.
func BenchmarkQueue(b *testing.B) {
	for _, waiting := range []int{0, 10, 100, 1000} {
		b.Run(fmt.Sprint(waiting), func(b *testing.B) {
			head := resilience.NewPool(resilience.PoolLimits{}).Bulkhead(resilience.BulkheadOptions{Workers: 1, Queue: waiting + 1})
			tenants := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
			var line []*resilience.Place // one tenant after the other, so in the order of the grants
			add := func(i int) {
				p, err := head.Enter(tenants[i%len(tenants)])
				if err != nil {
					b.Fatal(err)
				}
				line = append(line, p)
			}
			for i := range waiting + 1 {
				add(i)
			}
			i := waiting + 1
			b.ReportAllocs()
			for b.Loop() {
				if waiting > 0 {
					add(i)
				}
				line[0].Leave()
				line = line[1:]
				if waiting == 0 {
					add(i)
				}
				i++
			}
			if s := head.State(); s.Busy != 1 || s.Queued != waiting || s.Granted != uint64(b.N)+1 {
				b.Fatalf("it is %+v after %d", s, b.N)
			}
		})
	}
}
