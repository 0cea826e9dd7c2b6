//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/protocol"
)

// A publishing is live messages of many streams that go out evenly over time.
type publishing struct {
	streams int
	every   time.Duration // from message to message, of all streams
	lasts   time.Duration
}

// openBus opens the bus of a node that is alone, or those of n in a cluster, all
// in this process.
func openBus(tb testing.TB, n int) []*backbone.Backbone {
	tb.Helper()
	var routes []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		routes = append(routes, ln.Addr().String())
		_ = ln.Close() // nothing came
	}
	nodes, errs := make([]*backbone.Backbone, n), make(chan error, n)
	for i := range nodes {
		o := backbone.Options{DataDir: tb.TempDir(), Node: "n" + strconv.Itoa(i+1), StoreWait: callLimit}
		if n > 1 {
			o.Cluster = &backbone.ClusterOptions{Name: "bench", Listen: routes[i], Routes: routes}
		}
		go func() {
			var err error
			nodes[i], err = backbone.Open(context.Background(), o)
			errs <- err
		}()
	}
	var err error
	for range n {
		err = errors.Join(err, <-errs)
	}
	tb.Cleanup(func() {
		for _, b := range slices.Backward(nodes) {
			if b == nil {
				continue // it did not open
			}
			if err := b.Close(); err != nil {
				tb.Error(err)
			}
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	return nodes
}

// run publishes on one node, and returns the CPU time of this process for each
// message in microseconds, beyond what it takes at rest and for keeping the
// pace. Where another node is to be interested, each message must arrive there.
func (p publishing) run(tb testing.TB, from, interested *backbone.Backbone) float64 {
	tb.Helper()
	message := bytes.Repeat([]byte("x"), eventBytes)
	ids := make([]string, p.streams)
	for i := range ids {
		ids[i] = protocol.NewStreamID()
	}
	n := int(p.lasts / p.every)
	got := make(chan struct{}, n)
	if interested != nil {
		for _, id := range ids {
			stop, err := interested.SubscribeLive(id, func([]byte) { got <- struct{}{} })
			if err != nil {
				tb.Fatal(err)
			}
			defer stop()
		}
		// In force here it may still be on its way to the other node.
		for first := true; first; {
			if err := from.PublishLive(ids[p.streams-1], message); err != nil {
				tb.Fatal(err)
			}
			select {
			case <-got:
				first = false
			case <-time.After(50 * time.Millisecond):
			}
		}
		<-time.After(100 * time.Millisecond) // further ones, of the tries before
		for len(got) > 0 {
			<-got
		}
	}
	atPace := func(publish bool) time.Duration {
		before, err := ownCPU()
		if err != nil {
			tb.Fatal(err)
		}
		start := time.Now()
		for i := range n {
			if ahead := time.Until(start.Add(time.Duration(i) * p.every)); ahead > 0 {
				time.Sleep(max(ahead, minPause)) // to keep the pace; nothing is waited for
			}
			if !publish {
				continue
			}
			if err := from.PublishLive(ids[i%len(ids)], message); err != nil {
				tb.Fatal(err)
			}
		}
		if interested != nil && publish {
			limit := time.After(callLimit)
			for i := range n {
				select {
				case <-got:
				case <-limit:
					tb.Fatalf("%d of %d messages came", i, n)
				}
			}
		}
		after, err := ownCPU()
		if err != nil {
			tb.Fatal(err)
		}
		return after - before
	}
	rest := atPace(false)
	busy := atPace(true)
	rest = (rest + atPace(false)) / 2
	return (busy - rest).Seconds() * 1e6 / float64(n)
}

func TestWhatIsPublishedReachesWhoIsInterested(t *testing.T) {
	p := publishing{streams: 5, every: time.Millisecond, lasts: 200 * time.Millisecond}
	alone, nodes := openBus(t, 1)[0], openBus(t, 2)
	p.run(t, alone, nil)
	p.run(t, nodes[0], nil)
	p.run(t, nodes[0], nodes[1])
	if alone.Dropped()+nodes[0].Dropped()+nodes[1].Dropped() != 0 {
		t.Error("messages were dropped")
	}
}

// Publishing at the pace of 100 streams of 50 chunks a second.
func BenchmarkPublish(b *testing.B) {
	p := publishing{streams: 100, every: time.Second / 5000, lasts: 2 * time.Second}
	alone, nodes := openBus(b, 1)[0], openBus(b, 2)
	for range b.N {
		var nobody, cluster, other []float64
		for range *rounds {
			nobody = append(nobody, p.run(b, alone, nil))
			cluster = append(cluster, p.run(b, nodes[0], nil))
			other = append(other, p.run(b, nodes[0], nodes[1]))
		}
		for _, k := range []struct {
			measure, name string
			costs         []float64
		}{
			{"live message that nobody on another node wants, published, 5,000 a second", "unwanted", cluster},
			{"live message to another node, published and received, 5,000 a second", "wanted", other},
		} {
			more := added(nobody, k.costs)
			table.add(row{measure: k.measure, floor: fmt.Sprintf("%.2f µs alone", quantile(nobody, 0.5)), athena: fmt.Sprintf("%.2f µs", quantile(k.costs, 0.5)),
				ratio: fmt.Sprintf("%+.2f µs (%+.2f to %+.2f)", quantile(more, 0.5), slices.Min(more), slices.Max(more)), target: "reported", reached: true})
			b.ReportMetric(quantile(k.costs, 0.5), k.name+"-µs")
		}
		b.ReportMetric(quantile(nobody, 0.5), "alone-µs")
	}
	b.ReportMetric(0, "ns/op") // how long the harness took says nothing
}
