//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/athena-hub/athena/providers/providertest"
)

// What a viewer on another node than its stream's may wait longer.
const mostAddedByNode = time.Millisecond

// A crossing is many streams that run on one node, each with one viewer on the
// same node, the near one, or on another, the far one.
type crossing struct {
	up      *providertest.Upstream
	streams int
	sse     bool
	wait    time.Duration // the upstream thinks, so that all clients are there first
	window  time.Duration // what is measured
}

// A passage is what happened in one window.
type passage struct {
	late   []time.Duration // upstream's write to client's read, each chunk's
	chunks float64
	cpu    []time.Duration // of each of the nodes that were given
}

// micros returns the CPU time of all nodes together for each chunk.
func (p passage) micros() float64 {
	var sum time.Duration
	for _, d := range p.cpu {
		sum += d
	}
	return sum.Seconds() * 1e6 / p.chunks
}

// terminal counts one for the end of a stream.
func terminal(raw []byte) int {
	if bytes.Contains(raw[:min(len(raw), 120)], []byte(`"type":"completed"`)) {
		return 1
	}
	return 0
}

// run lets streams run on one node and watches them on another, or the same.
// CPU time is counted of nodes. Every answer must arrive whole, with its end.
func (x crossing) run(tb testing.TB, owner, viewers backend, nodes ...member) (p passage) {
	tb.Helper()
	lasts := x.window * 5 / 3
	x.up.SetScript(steady(x.wait, lasts))
	began := time.Now()
	ids := owner.begin(tb, x.streams, question)
	targets := make([]target, len(ids))
	for i, id := range ids {
		targets[i] = target{addr: viewers.addr, stream: id, sse: x.sse, ask: true}
	}
	var late latencies
	crowd := gather(tb, targets, func(raw []byte) int {
		_ = late.onEvent(raw) // never fails
		return answerSize(raw) + terminal(raw)
	})
	defer crowd.close()
	if took := time.Since(began); took > x.wait {
		tb.Fatalf("connecting took %v, and the first answers were on their way", took)
	}
	bytes := func(d time.Duration) int { return x.streams * int(d/upstreamEvery) * chunkBytes }
	crowd.expect(bytes(lasts / 5)) // all are on their way
	crowd.reach(tb)
	cpu := consumed(tb, nodes)
	late.take()
	from := crowd.covered.Load()
	crowd.want.Store(from + int64(bytes(x.window)))
	crowd.reach(tb)
	p.late, p.cpu = late.take(), consumed(tb, nodes)
	for i := range p.cpu {
		p.cpu[i] -= cpu[i]
	}
	p.chunks = float64(crowd.covered.Load()-from) / chunkBytes
	crowd.want.Store(int64(bytes(lasts) + x.streams))
	crowd.wait(tb)
	return p
}

// consumed returns the CPU time of each node so far.
func consumed(tb testing.TB, nodes []member) []time.Duration {
	tb.Helper()
	cpu := make([]time.Duration, len(nodes))
	for i, m := range nodes {
		var err error
		if cpu[i], err = exactCPU(m.pid); err != nil {
			tb.Fatal(err)
		}
	}
	return cpu
}

// A crossed is what several turns came to.
type crossed struct {
	alone, near, far passage // all turns' together: of a node that is alone, and of the nodes of a cluster
	aloneMicros      []float64
	nearMicros       []float64
	farMicros        []float64
	// What a node without viewers takes while streams run and are watched on
	// another, in CPU time per second: at rest, and while they run, by whether it
	// holds a copy of the history.
	rest, withCopy, withoutCopy []float64 // ms/s
	perChunk                    []float64 // µs of a node with a copy, beyond rest
}

// runCrossing measures streams on a node that is alone, and then in a cluster
// of n with the viewers near and far, in turns.
func runCrossing(tb testing.TB, x crossing, n, rounds int) (c crossed) {
	tb.Helper()
	x.up = providertest.NewUpstream(tb, providertest.Script{})
	flags := []string{"--coalesce-window", "0s"}
	alone := member{backend: startBinary(tb, x.up.URL, flags...)}
	nodes := startNodes(tb, x.up.URL, n, flags...)
	for range rounds {
		p := x.run(tb, alone.backend, alone.backend, alone)
		c.alone.late, c.aloneMicros = append(c.alone.late, p.late...), append(c.aloneMicros, p.micros())

		rest := atRest(tb, x.window, nodes)
		c.rest = append(c.rest, rest...)
		// Either direction, since one of two nodes has the history.
		for i := range 2 {
			owner, other := nodes[i], nodes[1-i]
			p = x.run(tb, owner.backend, owner.backend, nodes...)
			c.near.late, c.nearMicros = append(c.near.late, p.late...), append(c.nearMicros, p.micros())
			load := p.cpu[1-i].Seconds() * 1e3 / x.window.Seconds()
			if other.holdsLog(tb) {
				c.withCopy = append(c.withCopy, load)
				c.perChunk = append(c.perChunk, (load-rest[1-i])*1e3*x.window.Seconds()/p.chunks)
			} else {
				c.withoutCopy = append(c.withoutCopy, load)
			}
			p = x.run(tb, owner.backend, other.backend, nodes...)
			c.far.late, c.farMicros = append(c.far.late, p.late...), append(c.farMicros, p.micros())
		}
	}
	return c
}

// atRest returns what each node takes while nothing runs, in milliseconds of
// CPU time per second.
func atRest(tb testing.TB, d time.Duration, nodes []member) []float64 {
	tb.Helper()
	cpu := consumed(tb, nodes)
	<-time.After(d)
	load := make([]float64, len(nodes))
	for i, now := range consumed(tb, nodes) {
		load[i] = (now - cpu[i]).Seconds() * 1e3 / d.Seconds()
	}
	return load
}

func TestEveryStreamReachesItsViewerOnAnotherNode(t *testing.T) {
	c := runCrossing(t, crossing{streams: 5, wait: 3 * time.Second, window: time.Second}, 2, 1)
	comparison{floor: c.nearMicros, athena: c.farMicros}.check(t)
	comparison{floor: c.aloneMicros, athena: c.rest}.check(t)
	for _, p := range []passage{c.alone, c.near, c.far} {
		if len(p.late) == 0 {
			t.Error("nothing was timed")
		}
	}
}

func BenchmarkSecondNode(b *testing.B) {
	for _, s := range []struct {
		name  string
		nodes int
		sse   bool
	}{{"WebSocket/nodes=2", 2, false}, {"SSE/nodes=2", 2, true}, {"WebSocket/nodes=3", 3, false}} {
		b.Run(s.name, func(b *testing.B) {
			for range b.N {
				x := crossing{streams: 100, sse: s.sse, wait: 1500 * time.Millisecond, window: 3 * time.Second}
				runCrossing(b, x, s.nodes, max(*rounds/2, 1)).report(b, s.nodes, transportName(s.sse))
			}
		})
	}
}

func (c crossed) report(b *testing.B, n int, transport string) {
	what := fmt.Sprintf("100 streams of 50 chunks a second, %d nodes, %s: ", n, transport)
	near, far := quantile(c.near.late, 0.5), quantile(c.far.late, 0.5)
	µs := func(d time.Duration) string { return d.Round(time.Microsecond).String() }
	table.add(row{
		measure: what + "upstream to client, on the stream's node / another, median",
		floor:   fmt.Sprintf("%s (p99 %s); alone %s (p99 %s)", µs(near), µs(quantile(c.near.late, 0.99)), µs(quantile(c.alone.late, 0.5)), µs(quantile(c.alone.late, 0.99))),
		athena:  fmt.Sprintf("%s (p99 %s)", µs(far), µs(quantile(c.far.late, 0.99))), ratio: fmt.Sprintf("+%s", µs(far-near)),
		target: fmt.Sprintf("≤ +%v", mostAddedByNode), reached: far-near <= mostAddedByNode,
	})
	alone, own, other := quantile(c.aloneMicros, 0.5), quantile(c.nearMicros, 0.5), quantile(c.farMicros, 0.5)
	table.add(row{
		measure: what + "CPU of all nodes, viewers on the stream's node / another",
		floor:   fmt.Sprintf("%.1f µs/chunk; alone %.1f", own, alone), athena: fmt.Sprintf("%.1f µs/chunk", other), ratio: fmt.Sprintf("+%.1f µs", other-own),
		target: "reported", reached: true,
	})
	r := row{measure: what + "CPU of a node without viewers, at rest / beside them", floor: fmt.Sprintf("%.1f ms/s", quantile(c.rest, 0.5)),
		ratio: "-", target: "as at rest, without a copy of the history", reached: true}
	if len(c.withoutCopy) > 0 {
		with, rest := quantile(c.withoutCopy, 0.5), quantile(c.rest, 0.5)
		r.athena = fmt.Sprintf("%.1f ms/s without a copy; ", with)
		r.reached = with <= 1.25*rest+1
		b.ReportMetric(with, "bystander-ms/s")
	}
	if len(c.withCopy) > 0 {
		r.athena += fmt.Sprintf("%.1f ms/s with, %.1f µs/chunk", quantile(c.withCopy, 0.5), quantile(c.perChunk, 0.5))
		b.ReportMetric(quantile(c.perChunk, 0.5), "copy-µs/chunk")
	}
	table.add(r)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(near.Nanoseconds())/1e6, "near-ms")
	b.ReportMetric(float64(far.Nanoseconds())/1e6, "far-ms")
	b.ReportMetric(float64(quantile(c.near.late, 0.99).Nanoseconds())/1e6, "near-p99-ms")
	b.ReportMetric(float64(quantile(c.far.late, 0.99).Nanoseconds())/1e6, "far-p99-ms")
	b.ReportMetric(alone, "alone-µs/chunk")
	b.ReportMetric(own, "near-µs/chunk")
	b.ReportMetric(other, "far-µs/chunk")
	b.ReportMetric(quantile(c.rest, 0.5), "rest-ms/s")
}
