//go:build linux

package bench

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// latencies collects how long stamped events took.
type latencies struct {
	mu    sync.Mutex
	times []time.Duration // guarded by mu
}

// onEvent is for client.onEvent. The first chunk of a merged event counts,
// which waited longest.
func (l *latencies) onEvent(raw []byte) error {
	now := time.Now()
	text := chunkText(raw)
	if len(text) < providertest.StampBytes {
		return nil
	}
	if at, ok := providertest.StampTime(string(text[:providertest.StampBytes])); ok {
		l.mu.Lock()
		l.times = append(l.times, now.Sub(at))
		l.mu.Unlock()
	}
	return nil
}

// take returns what was collected, and begins anew.
func (l *latencies) take() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := l.times
	l.times = nil
	return times
}

// A stuckResult is what happened without the client that reads nothing, and
// with it.
type stuckResult struct {
	append0, append1     []time.Duration // each append of the publisher
	delivery0, delivery1 []time.Duration // each delivery to another client
	grown                int64           // resident bytes, by the end of the time
	published            int64           // bytes of events meanwhile
	reconnects           int             // of the client, once it reads again
}

// runStuck publishes for a while with a client that reads nothing, and before
// and after without. Then that client reads, and must have the exact text.
func runStuck(tb testing.TB, d time.Duration, sse bool) (r stuckResult) {
	tb.Helper()
	const others, perSecond, size = 20, 500, 2 << 10
	srv := startChild(tb, spec{Role: "athena", Dir: tb.TempDir()})
	id := srv.create(1)[0]
	t := target{addr: srv.addr, stream: id, sse: sse, ask: true}
	var late latencies
	crowd := gather(tb, slices.Repeat([]target{t}, others), func(raw []byte) int {
		_ = late.onEvent(raw) // never fails
		first, seq, err := place(raw)
		if err != nil {
			return 0 // the client has found that already
		}
		return int(seq - first + 1)
	})
	publish := func(d time.Duration) (appended, delivered []time.Duration) {
		events := int(d.Seconds() * perSecond)
		crowd.expect(events * others)
		a := srv.do(order{Do: "publish", IDs: []string{id}, Events: events, Every: time.Second / perSecond, Bytes: size, Timed: true})
		crowd.wait(tb)
		return a.Appended, late.take()
	}
	publish(d / 10) // what happens only once in a process is no part of it
	r.append0, r.delivery0 = publish(d / 2)

	t.receive = 4 << 10
	c, err := connect(tb.Context(), t)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.conn.Close() }() // only read from
	before := srv.memory().Resident
	r.append1, r.delivery1 = publish(d)
	r.grown = srv.memory().Resident - before
	r.published = int64(len(r.append1)) * size
	appended, delivered := publish(d / 2)
	r.append0, r.delivery0 = append(r.append0, appended...), append(r.delivery0, delivered...)

	crowd.expect(others)
	srv.do(order{Do: "end", IDs: []string{id}})
	crowd.wait(tb)
	r.reconnects = readToTheEnd(tb, c, t)
	return r
}

// readToTheEnd reads until the stream has ended, over as many connections as
// the server makes of it, and checks all that a client can check.
func readToTheEnd(tb testing.TB, c *client, t target) (reconnects int) {
	tb.Helper()
	var transcript protocol.Transcript
	c.onEvent = applyTo(&transcript)
	for {
		if err := c.conn.SetReadDeadline(time.Now().Add(dialLimit)); err != nil {
			tb.Fatal(err)
		}
		err := c.step()
		if transcript.Terminal() != nil {
			return reconnects
		}
		if err == nil {
			continue
		}
		if reconnects++; reconnects > 3 {
			tb.Fatalf("the client had to reconnect %d times, the last because of: %v", reconnects, err)
		}
		t.after = c.cursor
		next, err := connect(tb.Context(), t)
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = next.conn.Close() }() // only read from
		next.onEvent = c.onEvent
		c = next
	}
}

func TestAClientThatReadsNothingGetsTheExactTextAfterwards(t *testing.T) {
	for _, sse := range []bool{false, true} {
		t.Run(transportName(sse), func(t *testing.T) {
			r := runStuck(t, 500*time.Millisecond, sse)
			if len(r.append0) == 0 || len(r.append1) == 0 || len(r.delivery0) == 0 || len(r.delivery1) == 0 {
				t.Errorf("something was not measured: %d, %d, %d, %d", len(r.append0), len(r.append1), len(r.delivery0), len(r.delivery1))
			}
		})
	}
}

// maxGrowth is what a server may grow by because of one client that reads
// nothing: twice the feed, whose limit is 4 MiB, and what the store holds. What
// is published meanwhile is several times that.
const maxGrowth = 16 << 20

func BenchmarkStuckClient(b *testing.B) {
	for range b.N {
		r := runStuck(b, *stuck, false)
		without, with := quantile(r.append0, 0.99), quantile(r.append1, 0.99)
		table.add(row{
			measure: fmt.Sprintf("append beside a client that reads nothing for %v, p99", *stuck),
			floor:   fmt.Sprintf("%v without it", without.Round(time.Microsecond/10)), athena: with.Round(time.Microsecond / 10).String(),
			ratio:  fmt.Sprintf("%.2f", float64(with)/float64(without)),
			target: "unaffected: ratio ≤ 1.50", reached: float64(with) <= 1.5*float64(without),
		})
		others0, others1 := quantile(r.delivery0, 0.99), quantile(r.delivery1, 0.99)
		table.add(row{
			measure: "delivery to 20 others beside it, p99",
			floor:   fmt.Sprintf("%v without it", others0.Round(time.Microsecond)), athena: others1.Round(time.Microsecond).String(),
			ratio:  fmt.Sprintf("%.2f", float64(others1)/float64(others0)),
			target: "unaffected: ratio ≤ 1.50", reached: float64(others1) <= 1.5*float64(others0),
		})
		table.add(row{
			measure: "memory grown by it",
			floor:   fmt.Sprintf("%.1f MiB published", float64(r.published)/(1<<20)), athena: fmt.Sprintf("%.1f MiB", float64(r.grown)/(1<<20)),
			ratio: "-", target: fmt.Sprintf("bounded: ≤ %d MiB", maxGrowth>>20), reached: r.grown <= maxGrowth,
		})
		table.add(row{
			measure: "the text that it then gets", floor: "-", athena: fmt.Sprintf("exact, after %d reconnects", r.reconnects),
			ratio: "-", target: "exact", reached: true, // or the run had failed
		})
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(without.Nanoseconds())/1e3, "without-append-p99-µs")
		b.ReportMetric(float64(with.Nanoseconds())/1e3, "with-append-p99-µs")
		b.ReportMetric(float64(r.grown)/(1<<20), "grown-MiB")
	}
}
