//go:build linux

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/athena-hub/athena/providers/providertest"
)

const (
	upstreamEvery = 20 * time.Millisecond // from chunk to chunk of one answer
	chunkBytes    = 24                    // bytes of text, about what models send
)

// question makes Athena call the upstream.
const question = `{"code":"package main\n\nfunc main() {}\n","language":"go","analysis":"explain","provider":"openai","cache":"bypass"}`

// answerText returns how many bytes of the answer an event has, whether Athena
// made it or the upstream, and where it has a stamp, when it was made.
func answerText(raw []byte) (n int, made time.Time) {
	text := chunkText(raw)
	if text == nil {
		_, rest, ok := bytes.Cut(raw, []byte(`"delta":{"content":"`))
		if !ok {
			return 0, made
		}
		text, _, _ = bytes.Cut(rest, []byte(`"`))
	}
	if len(text) >= providertest.StampBytes {
		made, _ = providertest.StampTime(string(text[:providertest.StampBytes]))
	}
	return len(text), made
}

func answerSize(raw []byte) int { n, _ := answerText(raw); return n }

// steady is an upstream's answer that begins after wait and goes on for d.
func steady(wait, d time.Duration) providertest.Script {
	return providertest.Script{HeaderDelay: wait, Steady: providertest.Steady{
		Chunks: int(d / upstreamEvery), Interval: upstreamEvery, Bytes: chunkBytes, Stamp: true}}
}

// An answers is one turn: n answers that come at the same time.
type answers struct {
	up *providertest.Upstream
	n  int
	// wait is how long the upstream thinks. It gives all clients the time to
	// connect first.
	wait, lasts time.Duration
}

// start asks for all answers.
func (a answers) start(tb testing.TB, b backend, proxied bool) *crowd {
	tb.Helper()
	a.up.SetScript(steady(a.wait, a.lasts))
	return gather(tb, slices.Repeat([]target{{addr: b.addr, post: question, foreign: proxied}}, a.n), answerSize)
}

// finish waits until all have come to their end, and checks that they are whole.
func (a answers) finish(tb testing.TB, c *crowd) {
	tb.Helper()
	// What was expected on the way was a part of it.
	c.want.Store(int64(a.n) * int64(a.lasts/upstreamEvery) * chunkBytes)
	c.wait(tb)
	c.wg.Wait()
	select {
	case err := <-c.failed:
		tb.Fatal(errors.Join(errors.New("a client"), err))
	default:
	}
}

// cost returns the server's CPU time in microseconds per chunk of the upstream,
// over a part of the answers' time.
func (a answers) cost(tb testing.TB, b backend, proxied bool, window time.Duration) float64 {
	tb.Helper()
	crowd := a.start(tb, b, proxied)
	bytes := func(d time.Duration) int { return a.n * int(d/upstreamEvery) * chunkBytes }
	crowd.expect(bytes(a.lasts / 5)) // all are on their way
	crowd.reach(tb)
	cpu, err := processCPU(b.pid)
	if err != nil {
		tb.Fatal(err)
	}
	from := crowd.covered.Load()
	crowd.want.Store(from + int64(bytes(window)))
	if crowd.want.Load() > int64(bytes(a.lasts)) {
		tb.Fatal("the answers were over before they could be measured: connecting took too long")
	}
	crowd.reach(tb)
	after, err := processCPU(b.pid)
	if err != nil {
		tb.Fatal(err)
	}
	chunks := float64(crowd.covered.Load()-from) / chunkBytes
	a.finish(tb, crowd)
	return (after - cpu).Seconds() * 1e6 / chunks
}

// runThrough compares the proxy with Athena at the same upstream.
func runThrough(tb testing.TB, n int, window time.Duration, rounds int, flags ...string) (c comparison) {
	tb.Helper()
	up := providertest.NewUpstream(tb, providertest.Script{})
	a := answers{up: up, n: n, wait: window / 2, lasts: window * 5 / 3}
	proxy, athena := startProxy(tb, up.URL), startBinary(tb, up.URL, flags...)
	for range rounds {
		c.floor = append(c.floor, a.cost(tb, proxy, true, window))
		c.athena = append(c.athena, a.cost(tb, athena, false, window))
	}
	return c
}

func TestAnswersComeWholeThroughTheProxyAndTheBinary(t *testing.T) {
	c := runThrough(t, 20, time.Second, 1)
	c.check(t)
}

func BenchmarkThrough(b *testing.B) {
	for _, s := range []struct{ name, flag string }{{"default", "25ms"}, {"window=0", "0s"}} {
		b.Run(s.name, func(b *testing.B) {
			for range b.N {
				c := runThrough(b, 500, 3*time.Second, max(*rounds/2, 1), "--coalesce-window", s.flag)
				c.report(b, fmt.Sprintf("500 upstream answers, one SSE client each, window %s", s.flag), "µs/chunk", 1, 0)
			}
		})
	}
}

// firstChunk asks for one answer and returns how long its first chunk took from
// the upstream to the client.
func firstChunk(tb testing.TB, b backend, proxied bool) (took time.Duration) {
	tb.Helper()
	t := target{addr: b.addr, post: question, foreign: proxied}
	c, err := connect(tb.Context(), t)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.conn.Close() }() // only read from
	c.onEvent = func(raw []byte) error {
		now := time.Now()
		if _, made := answerText(raw); took == 0 && !made.IsZero() {
			took = now.Sub(made)
		}
		return nil
	}
	for took == 0 {
		if err := c.step(); err != nil {
			tb.Fatal(err)
		}
	}
	return took
}

// runFirst measures the first chunks of some answers, one after the other,
// while others run.
func runFirst(tb testing.TB, running, probes, rounds int) (floor, athena []time.Duration) {
	tb.Helper()
	up := providertest.NewUpstream(tb, providertest.Script{})
	proxy, binary := startProxy(tb, up.URL), startBinary(tb, up.URL, "--orphan-timeout", "1s")
	turn := func(b backend, proxied bool) (took []time.Duration) {
		a := answers{up: up, n: running, lasts: 2 * time.Second}
		crowd := a.start(tb, b, proxied)
		crowd.expect(running * chunkBytes)
		crowd.reach(tb)
		for range probes {
			took = append(took, firstChunk(tb, b, proxied))
		}
		a.finish(tb, crowd)
		return took
	}
	for range rounds {
		floor = append(floor, turn(proxy, true)...)
		athena = append(athena, turn(binary, false)...)
	}
	return floor, athena
}

func TestTheFirstChunkIsTimedThroughTheProxyAndTheBinary(t *testing.T) {
	floor, athena := runFirst(t, 10, 5, 1)
	for _, d := range append(floor, athena...) {
		if d <= 0 || d > time.Minute {
			t.Errorf("a first chunk took %v", d)
		}
	}
}

func BenchmarkFirstChunk(b *testing.B) {
	for range b.N {
		floor, athena := runFirst(b, 100, 40, max(*rounds/2, 1))
		reportTime(b, "first chunk, upstream to client, 100 others running, median", "first", floor, athena, time.Millisecond)
		b.ReportMetric(0, "ns/op")
	}
}
