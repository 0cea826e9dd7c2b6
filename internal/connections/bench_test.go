package connections

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/athena-hub/athena/providers/providertest"
)

// BenchmarkConnections counts the connections that calls open, one after the
// other and twenty at once, with a Pool and with net/http's own defaults,
// which keep two to a host. A connection to a far provider costs three round
// trips more than the loopback shows.
func BenchmarkConnections(b *testing.B) {
	const atOnce = 20
	for _, load := range []struct {
		name  string
		calls int
	}{{"sequential", 1}, {"concurrent", atOnce}} {
		run := func(b *testing.B, client *http.Client, opened func() uint64) {
			b.Helper()
			script := answered
			script.HeaderDelay = 2 * time.Millisecond
			up := providertest.NewUpstream(b, script)
			for b.Loop() {
				together(b, client, up, load.calls)
			}
			if calls := up.Count(); calls < load.calls*b.N {
				b.Fatalf("%d calls, want %d", calls, load.calls*b.N)
			}
			b.ReportMetric(float64(opened())/float64(load.calls*b.N), "opened/call")
			b.ReportMetric(float64(opened()), "opened")
		}
		b.Run(load.name+"/pool", func(b *testing.B) {
			p := start(b, Options{Max: 2 * atOnce, Idle: atOnce})
			run(b, p.Client(), func() uint64 { return p.State().Opened })
			if n := p.State().Opened; n > uint64(load.calls) {
				b.Errorf("%d connections were opened for %d calls at once", n, load.calls)
			}
		})
		b.Run(load.name+"/default", func(b *testing.B) {
			var opened atomic.Uint64
			t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // documented
			t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				opened.Add(1)
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			defer t.CloseIdleConnections()
			run(b, &http.Client{Transport: t}, opened.Load)
		})
	}
}
