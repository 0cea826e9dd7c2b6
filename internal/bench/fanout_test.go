//go:build linux

package bench

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// eventBytes is the length of an event's JSON in all loads.
const eventBytes = 256

// A load is what floor and Athena have to deliver, in turns.
type load struct {
	sse              bool
	streams, viewers int           // viewers of each stream
	every            time.Duration // from one event of a stream to its next; 0 means without a pause
	events           int           // on each stream, in each turn
	perMessage       bool          // a server that lags and merges gets no credit for it
	floorEvents      int           // the floor's, where it is not events
	rounds           int
}

// A side is a server and its clients.
type side struct {
	child *child
	crowd *crowd
	ids   []string
}

func (l load) side(tb testing.TB, s spec) *side {
	tb.Helper()
	c := startChild(tb, s)
	sd := &side{child: c, ids: c.create(l.streams)}
	var targets []target
	for _, id := range sd.ids {
		for range l.viewers {
			targets = append(targets, target{addr: c.addr, stream: id, sse: l.sse, ask: s.Role == "athena"})
		}
	}
	sd.crowd = connectAll(tb, targets)
	return sd
}

// turn publishes and waits until all clients have everything. It returns the
// server's CPU time per published event and viewer in microseconds, and how
// many messages came for each.
func (l load) turn(tb testing.TB, sd *side, events int) (micros, messages float64) {
	tb.Helper()
	deliveries := events * l.streams * l.viewers
	sd.crowd.expect(deliveries)
	count, cpu := sd.crowd.messages.Load(), sd.child.cpu()
	sd.child.do(order{Do: "publish", IDs: sd.ids, Events: events, Every: l.every, Bytes: eventBytes})
	sd.crowd.wait(tb)
	cpu = sd.child.cpu() - cpu
	return cpu.Seconds() * 1e6 / float64(deliveries), float64(sd.crowd.messages.Load()-count) / float64(deliveries)
}

// run returns the CPU time per delivery (or message) in microseconds, and how many messages
// Athena made of each.
func (l load) run(tb testing.TB) (c comparison, messages float64) {
	tb.Helper()
	if l.floorEvents == 0 {
		l.floorEvents = l.events
	}
	low := l.side(tb, spec{Role: "floor"})
	high := l.side(tb, spec{Role: "athena", Dir: tb.TempDir()})
	// What a process does only once is no part of what a delivery costs.
	l.turn(tb, low, l.floorEvents/4+1)
	l.turn(tb, high, l.events/4+1)
	for range l.rounds {
		micros, each := l.turn(tb, low, l.floorEvents)
		if each != 1 {
			tb.Fatalf("the floor made %v messages of each event", each)
		}
		c.floor = append(c.floor, micros)
		micros, each = l.turn(tb, high, l.events)
		if l.perMessage {
			micros /= each
		}
		c.athena = append(c.athena, micros)
		messages += each / float64(l.rounds)
	}
	return c, messages
}

func transportName(sse bool) string {
	if sse {
		return "SSE"
	}
	return "WebSocket"
}

// check fails the test if a figure can't be true.
func (c comparison) check(tb testing.TB) {
	tb.Helper()
	for _, v := range append(append([]float64(nil), c.floor...), c.athena...) {
		if math.IsNaN(v) || math.IsInf(v, 0) || v <= 0 {
			tb.Errorf("a figure is %v", v)
		}
	}
}

func TestEveryDeliveryOfAFanOutArrives(t *testing.T) {
	for _, sse := range []bool{false, true} {
		t.Run(transportName(sse), func(t *testing.T) {
			c, _ := load{sse: sse, streams: 1, viewers: 10, every: 10 * time.Millisecond, events: 10, rounds: 1}.run(t)
			c.check(t)
		})
	}
}

func TestEveryStreamReachesItsViewer(t *testing.T) {
	for _, sse := range []bool{false, true} {
		t.Run(transportName(sse), func(t *testing.T) {
			c, _ := load{sse: sse, streams: 10, viewers: 1, every: 20 * time.Millisecond, events: 10, rounds: 1}.run(t)
			c.check(t)
		})
	}
}

func TestAStreamThatIsPublishedWithoutAPauseArrivesWhole(t *testing.T) {
	c, _ := load{streams: 1, viewers: 5, events: 2000, floorEvents: 500, rounds: 1}.run(t)
	c.check(t)
}

func BenchmarkFanOut(b *testing.B) {
	const perSecond, turn = 20_000, 1500 * time.Millisecond
	for _, sse := range []bool{false, true} {
		for _, viewers := range []int{100, 1000} {
			b.Run(fmt.Sprintf("%s/clients=%d", transportName(sse), viewers), func(b *testing.B) {
				every := time.Second * time.Duration(viewers) / perSecond
				for range b.N {
					c, messages := load{sse: sse, streams: 1, viewers: viewers, every: every, events: int(turn / every), perMessage: true, rounds: *rounds}.run(b)
					c.report(b, fmt.Sprintf("fan-out of 1 stream to %d, %s", viewers, transportName(sse)), "µs/message", 0.95, messages)
				}
			})
		}
	}
}

func BenchmarkManyStreams(b *testing.B) {
	for _, sse := range []bool{false, true} {
		b.Run(transportName(sse), func(b *testing.B) {
			for range b.N {
				c, messages := load{sse: sse, streams: 1000, viewers: 1, every: 20 * time.Millisecond, events: 75, rounds: *rounds}.run(b)
				c.report(b, fmt.Sprintf("1,000 streams, one viewer each, stored, %s", transportName(sse)), "µs/chunk", 1.1, messages)
			}
		})
	}
}

func BenchmarkBurst(b *testing.B) {
	for _, sse := range []bool{false, true} {
		b.Run(transportName(sse), func(b *testing.B) {
			for range b.N {
				c, messages := load{sse: sse, streams: 1, viewers: 100, events: 30_000, floorEvents: 2000, rounds: *rounds}.run(b)
				c.report(b, fmt.Sprintf("1 stream without a pause to 100, %s", transportName(sse)), "µs/delivery", 0.3, messages)
			}
		})
	}
}
