//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// mostToRead is how long the history of a stream may take on a node that never
// saw it, at the 95th percentile.
const mostToRead = 15 * time.Millisecond

// A reading is how often the past of streams is read, and what goes on besides.
type reading struct {
	events int           // chunks of each stream that is read
	every  time.Duration // from chunk to chunk when it ran, which makes its batches
	reads  int           // of each kind
	pause  time.Duration // before each read

	beside      int           // streams that run meanwhile on all nodes, each with a viewer on another
	besideEvery time.Duration // from chunk to chunk of each
	lasts       time.Duration // how long they run
}

// A haveRead is how long each read of a stream took, from the request until its
// last event was there. Each is of a stream that the node had not seen before.
type haveRead struct {
	// near is over long-poll from the node that ran it, which has it in memory.
	near []time.Duration
	// poll and sse are from another node, of streams that have ended.
	poll, sse []time.Duration
	// going is from another node, of streams that still run, over SSE.
	going []time.Duration
}

// The codes of the questions, by which the upstream knows what to answer.
const (
	askPast   = "package past"   // answered at a pace, to its end
	askGoing  = "package going"  // answered at once, and then the upstream thinks on
	askBeside = "package beside" // answered slowly
)

func asking(code string) string {
	return strings.Replace(question, `package main\n\nfunc main() {}\n`, code, 1)
}

// reply answers according to the question's code.
func (r reading) reply(c *providertest.Call) providertest.Script {
	s := providertest.Script{Steady: providertest.Steady{Chunks: r.events, Interval: r.every, Bytes: chunkBytes}}
	switch {
	case bytes.Contains(c.Body, []byte(askGoing)):
		s.Steady.Chunks, s.Steady.Interval = r.events+1, 0
		s.Fault = providertest.Fault{Kind: providertest.FaultStall, After: r.events}
	case bytes.Contains(c.Body, []byte(askBeside)):
		s.HeaderDelay = time.Second // for their viewers to connect
		s.Steady.Chunks, s.Steady.Interval = int(r.lasts/r.besideEvery), r.besideEvery
	}
	return s
}

// run starts three nodes, lets the first write streams, and reads them from the
// others while streams run on all. What is read is checked, and so is what goes
// on besides.
func (r reading) run(tb testing.TB) (h haveRead) {
	tb.Helper()
	up := providertest.NewUpstream(tb, providertest.Script{})
	up.SetReply(r.reply)
	nodes := startNodes(tb, up.URL, 3, "--coalesce-window", "0s", "--idle-timeout", "10m", "--orphan-timeout", "10m")
	owner, second, third := nodes[0].backend, nodes[1].backend, nodes[2].backend
	connections := &http.Transport{}
	defer connections.CloseIdleConnections()
	web := &http.Client{Transport: connections}
	past := owner.begin(tb, 2*r.reads, asking(askPast))
	going := owner.begin(tb, r.reads, asking(askGoing))
	for _, id := range past {
		owner.poll(tb, web, id, r.events) // waits for its end
	}
	for _, id := range going {
		owner.read(tb, id, r.events, false)
	}

	var targets []target
	for i := range r.beside {
		id := nodes[i%3].begin(tb, 1, asking(askBeside))[0]
		targets = append(targets, target{addr: nodes[(i+1)%3].addr, stream: id, ask: true})
	}
	crowd := gather(tb, targets, func(raw []byte) int { return answerSize(raw) + terminal(raw) })
	defer crowd.close()
	whole := r.beside * (int(r.lasts/r.besideEvery)*chunkBytes + 1)
	crowd.expect(whole / 20) // they are on their way
	crowd.reach(tb)
	for i := range r.reads {
		for _, kind := range []struct {
			times *[]time.Duration
			read  func() time.Duration
		}{
			{&h.near, func() time.Duration { return owner.poll(tb, web, past[i], r.events) }},
			{&h.poll, func() time.Duration { return second.poll(tb, web, past[i], r.events) }},
			{&h.sse, func() time.Duration { return third.read(tb, past[r.reads+i], r.events, true) }},
			{&h.going, func() time.Duration { return second.read(tb, going[i], r.events, false) }},
		} {
			<-time.After(r.pause) // so that the reads are spread over the time
			*kind.times = append(*kind.times, kind.read())
		}
	}
	if crowd.covered.Load() >= int64(whole) {
		tb.Fatal("the streams beside were over before everything was read")
	}
	crowd.want.Store(int64(whole))
	crowd.wait(tb)
	return h
}

// poll reads a stream to its end over long-poll, and checks what came.
func (b backend) poll(tb testing.TB, web *http.Client, id string, events int) (took time.Duration) {
	tb.Helper()
	var got []json.RawMessage
	began := time.Now()
	for p := (protocol.Poll{Cursor: "0"}); !p.Done; {
		var err error
		if p, err = b.pollOnce(tb.Context(), web, id, p.Cursor); err != nil {
			tb.Fatal(err)
		}
		got = append(got, p.Events...)
	}
	took = time.Since(began)
	var t protocol.Transcript
	apply := applyTo(&t)
	for _, raw := range got {
		if err := apply(raw); err != nil {
			tb.Fatal(err)
		}
	}
	wholeText(tb, &t, events, true)
	return took
}

func (b backend) pollOnce(ctx context.Context, web *http.Client, id, cursor string) (p protocol.Poll, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.addr+"/v1/streams/"+id+"/events?wait=25s&after="+cursor, nil)
	if err != nil {
		return p, err
	}
	res, err := web.Do(req)
	if err != nil {
		return p, err
	}
	text, err := io.ReadAll(res.Body)
	_ = res.Body.Close() // it has been read
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("poll %s: %s %.300s", id, res.Status, text)
	}
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(text, &p)
}

// read reads a stream over SSE, up to its end or to the last of its events so
// far, and checks what came. The connection is open before.
func (b backend) read(tb testing.TB, id string, events int, toEnd bool) (took time.Duration) {
	tb.Helper()
	t := target{addr: b.addr, stream: id, sse: true}
	c, err := prepare(tb.Context(), t)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.conn.Close() }() // only read from
	var got [][]byte
	text := 0
	c.onEvent = func(raw []byte) error {
		got, text = append(got, bytes.Clone(raw)), text+answerSize(raw)
		return nil
	}
	began := time.Now()
	err = c.join(t)
	for err == nil && !c.ended && (toEnd || text < events*chunkBytes) {
		err = c.step()
	}
	took = time.Since(began)
	if err != nil {
		tb.Fatal(errors.Join(errors.New("read "+id), err))
	}
	var transcript protocol.Transcript
	apply := applyTo(&transcript)
	for _, raw := range got {
		if err := apply(raw); err != nil {
			tb.Fatal(err)
		}
	}
	wholeText(tb, &transcript, events, toEnd)
	return took
}

// wholeText fails the test unless t has the text of so many chunks, and an end
// where it should. What the end says of the text was checked when it came.
func wholeText(tb testing.TB, t *protocol.Transcript, events int, ended bool) {
	tb.Helper()
	end := t.Terminal()
	if len(t.Text()) != events*chunkBytes || (end != nil) != ended || ended && end.Type != protocol.TypeCompleted {
		tb.Fatalf("%d bytes of text came, not %d, and the end is %+v", len(t.Text()), events*chunkBytes, end)
	}
}

func TestANodeReadsWhatItNeverSawWhileOthersRun(t *testing.T) {
	h := reading{events: 100, every: 2 * time.Millisecond, reads: 2, pause: time.Millisecond,
		beside: 6, besideEvery: 20 * time.Millisecond, lasts: 2 * time.Second}.run(t)
	for _, times := range [][]time.Duration{h.near, h.poll, h.sse, h.going} {
		if len(times) != 2 {
			t.Errorf("%d of 2 reads were timed", len(times))
		}
		for _, d := range times {
			if d <= 0 {
				t.Errorf("a read took %v", d)
			}
		}
	}
}

// The streams that are read ran at 50 chunks a second, so each is about 80
// batches among those of the others. The 200 beside them have 20 chunks a
// second each, which two cores bear with some room to spare.
func BenchmarkHistoryOnAnotherNode(b *testing.B) {
	for range b.N {
		h := reading{events: 1000, every: upstreamEvery, reads: 100, pause: 20 * time.Millisecond,
			beside: 200, besideEvery: 50 * time.Millisecond, lasts: 30 * time.Second}.run(b)
		for _, k := range []struct {
			measure, name string
			times         []time.Duration
		}{
			{"1,000 chunks of a stream that has ended, long-poll", "poll", h.poll},
			{"1,000 chunks of a stream that has ended, SSE", "sse", h.sse},
			{"1,000 chunks of a stream that another node runs, SSE", "going", h.going},
		} {
			near, p50, p95 := quantile(h.near, 0.5), quantile(k.times, 0.5), quantile(k.times, 0.95)
			table.add(row{measure: k.measure + ", on a node that never saw it, 200 others running, p95",
				floor:  fmt.Sprintf("%v (median %v) in memory", quantile(h.near, 0.95).Round(time.Microsecond), near.Round(time.Microsecond)),
				athena: fmt.Sprintf("%v (median %v)", p95.Round(time.Microsecond), p50.Round(time.Microsecond)), ratio: fmt.Sprintf("%.2f", float64(p50)/float64(near)),
				target: fmt.Sprintf("≤ %v", mostToRead), reached: p95 <= mostToRead})
			b.ReportMetric(float64(p50.Nanoseconds())/1e6, k.name+"-ms")
			b.ReportMetric(float64(p95.Nanoseconds())/1e6, k.name+"-p95-ms")
		}
		b.ReportMetric(float64(quantile(h.near, 0.5).Nanoseconds())/1e6, "near-ms")
		b.ReportMetric(float64(quantile(h.near, 0.95).Nanoseconds())/1e6, "near-p95-ms")
		b.ReportMetric(0, "ns/op")
	}
}
