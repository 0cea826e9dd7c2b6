package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/ratelimit"
)

// everyLimit has all limits, none of which is reached.
func everyLimit(change ...func(*gateway.LimitOptions)) *gateway.Limits {
	const much = 1e12
	caps := gateway.Caps{RequestsPerMinute: much, BytesPerMinute: much, Connections: much, Streams: much}
	o := gateway.LimitOptions{Key: caps, Tenant: caps, AddressConnections: much,
		Limiter: ratelimit.NewLimiter(ratelimit.NewBuckets(0), nil, ratelimit.FailLocal), Places: new(ratelimit.Places),
		Addresses: ratelimit.NewAddresses(ratelimit.AddressOptions{RequestsPerMinute: much, FailuresPerMinute: 30})}
	for _, c := range change {
		c(&o)
	}
	return gateway.NewLimits(o)
}

// A discarded is a ResponseWriter whose answer nobody wants.
type discarded struct {
	header http.Header
	status int
}

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d *discarded) WriteHeader(status int)      { d.status = status }

// BenchmarkAuthenticateAndLimit shows what a request costs that is asked for its
// key and goes through every limit in memory, beside the floor: the same request
// where neither is. The difference of the medians may be 20 µs at most; on two
// busy cores it is about 2.
func BenchmarkAuthenticateAndLimit(b *testing.B) {
	floor := start(b, false)
	full := start(b, true, func(o *gateway.Options) { o.Limits = everyLimit() })
	ask := func(n *node, key string) time.Duration {
		w := &discarded{header: make(http.Header)}
		r := httptest.NewRequest("GET", "http://127.0.0.1/v1/providers", nil)
		if key != "" { // which is looked at, and refused, where none is needed, too
			r.Header.Set("Authorization", "Bearer "+key)
		}
		began := time.Now()
		n.gateway.ServeHTTP(w, r)
		took := time.Since(began)
		if w.status != http.StatusOK {
			b.Fatal(w.status)
		}
		return took
	}
	var took [2][]time.Duration
	for b.Loop() {
		for i, n := range []*node{floor, full} {
			took[i] = append(took[i], ask(n, []string{"", apiKey}[i]))
		}
	}
	median := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2] }
	low, high := median(took[0]), median(took[1])
	b.ReportMetric(float64(low.Nanoseconds()), "floor-ns")
	b.ReportMetric(float64(high.Nanoseconds()), "limited-ns")
	b.ReportMetric(float64((high - low).Nanoseconds()), "cost-ns")
	if len(took[0]) > 1000 && high-low > 20*time.Microsecond {
		b.Errorf("authentication and limits cost %v at the median, more than 20µs", high-low)
	}
}

func TestLimitsNeedLittleMemoryForARequest(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	allocs := func(n *node) float64 {
		return testing.AllocsPerRun(200, func() {
			r := httptest.NewRequest("GET", "http://127.0.0.1/v1/providers", nil)
			r.Header.Set("Authorization", "Bearer "+apiKey)
			n.gateway.ServeHTTP(&discarded{header: make(http.Header)}, r)
		})
	}
	floor := allocs(start(t, true))
	full := allocs(start(t, true, func(o *gateway.Options) { o.Limits = everyLimit() }))
	// The demands, what is left, the text that says so, and two headers.
	if full-floor > 8 {
		t.Errorf("a request with limits allocates %v times, %v more than without", full, full-floor)
	}
}
