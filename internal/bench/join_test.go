//go:build linux

package bench

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

const joinAt = 1000

// joinTime is how long a client takes from asking for a stream until it has
// the text so far: joinAt events. A WebSocket is open before, and a TCP
// connection for SSE.
func joinTime(tb testing.TB, t target) time.Duration {
	tb.Helper()
	c, err := prepare(tb.Context(), t)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.conn.Close() }() // only read from
	began := time.Now()
	err = c.join(t)
	for err == nil && c.cursor < joinAt {
		err = c.step()
	}
	took := time.Since(began)
	if err != nil {
		tb.Fatal(errors.Join(errors.New("join"), err))
	}
	return took
}

// runJoins measures n joins at event joinAt, from feeds and, after a restart of
// the node, from the log. Each is of a stream of its own.
func runJoins(tb testing.TB, n int, sse bool) (feed, log []time.Duration) {
	tb.Helper()
	s := spec{Role: "athena", Dir: tb.TempDir()}
	srv := startChild(tb, s)
	ids := srv.create(n)
	srv.do(order{Do: "publish", IDs: ids, Events: joinAt, Bytes: eventBytes})
	for _, id := range ids {
		feed = append(feed, joinTime(tb, target{addr: srv.addr, stream: id, sse: sse, ask: true}))
	}
	srv.do(order{Do: "end", IDs: ids})
	srv.end()
	srv = startChild(tb, s)
	for _, id := range ids {
		log = append(log, joinTime(tb, target{addr: srv.addr, stream: id, sse: sse, ask: true}))
	}
	srv.end()
	return feed, log
}

func TestALateClientJoinsFromTheFeedAndFromTheLog(t *testing.T) {
	for _, sse := range []bool{false, true} {
		t.Run(transportName(sse), func(t *testing.T) {
			feed, log := runJoins(t, 3, sse)
			for _, d := range append(feed, log...) {
				if d <= 0 {
					t.Errorf("a join took %v", d)
				}
			}
		})
	}
}

func BenchmarkJoin(b *testing.B) {
	const joins = 100
	for _, sse := range []bool{false, true} {
		b.Run(transportName(sse), func(b *testing.B) {
			for range b.N {
				feed, log := runJoins(b, joins, sse)
				reportTime(b, fmt.Sprintf("join at event %d from a feed, %s, median", joinAt, transportName(sse)), "feed", nil, feed, 2*time.Millisecond)
				reportTime(b, fmt.Sprintf("join at event %d from the log, %s, median", joinAt, transportName(sse)), "log", nil, log, 10*time.Millisecond)
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// reportTime puts a median with a target into the table and the benchmark's
// result. Of the floor there may be none.
func reportTime(b *testing.B, measure, name string, floor, athena []time.Duration, target time.Duration) {
	median := quantile(athena, 0.5)
	low, ratio := "-", "-"
	if len(floor) > 0 {
		m := quantile(floor, 0.5)
		low = m.Round(time.Microsecond).String()
		ratio = fmt.Sprintf("%.2f", float64(median)/float64(m))
		b.ReportMetric(float64(m.Nanoseconds())/1e6, "floor-"+name+"-ms")
	}
	table.add(row{measure: measure, floor: low, athena: fmt.Sprintf("%v (p99 %v)", median.Round(time.Microsecond), quantile(athena, 0.99).Round(time.Microsecond)),
		ratio: ratio, target: fmt.Sprintf("≤ %v", target), reached: median <= target})
	b.ReportMetric(float64(median.Nanoseconds())/1e6, "athena-"+name+"-ms")
}
