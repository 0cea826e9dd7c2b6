//go:build unix

package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// abc are the nodes of most tests.
var abc = []string{"a", "b", "c"}

func TestSeveralNodesBehaveAsOne(t *testing.T) {
	t.Parallel()
	g := together(t, abc)
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	text := strings.Join(greetings, "")

	t.Run("a stream is read on every node over every transport, while it runs and after", func(t *testing.T) {
		g.answers("code-read", answer(20*time.Millisecond, greetings...))
		id := a.beginCode("code-read")
		var watches []*watch
		for _, s := range g.nodes {
			for _, transport := range transports {
				watches = append(watches, s.watch(transport, id, 0))
			}
		}
		// The bytes of an event are the same everywhere, but for merged chunks.
		said := make(map[uint64]string)
		for _, w := range watches {
			w.until(ended)
			if got := w.transcript.Text(); got != text {
				t.Errorf("text %q, want %q", got, text)
			}
			for _, e := range w.events {
				if e.Type == protocol.TypeChunk {
					continue
				}
				if other, ok := said[e.Seq]; ok && other != string(e.JSON) {
					t.Errorf("event %d is %s for one client and %s for another", e.Seq, other, e.JSON)
				}
				said[e.Seq] = string(e.JSON)
			}
		}
		for _, s := range g.nodes {
			for _, transport := range transports {
				tr := s.read(transport, id)
				if tr.Text() != text || tr.Cursor() != watches[0].cursor {
					t.Errorf("%s, late, on %s: text %q up to %d", transport, s.flag("--node-name"), tr.Text(), tr.Cursor())
				}
			}
			// From a cursor in the middle what follows has the same text.
			middle := watches[0].events[len(watches[0].events)/2].Seq
			var rest []received
			for i, e := range watches[0].events {
				if e.Seq == middle {
					rest = watches[0].events[i+1:]
				}
			}
			if got, want := textOf(t, s.readFrom(protocol.TransportSSE, id, middle)), textOf(t, rest); got != want {
				t.Errorf("on %s after %d: %q, want %q", s.flag("--node-name"), middle, got, want)
			}
			m := decode[protocol.Metadata](t, s.do("GET", "/v1/streams/"+id, ""))
			if m.State != protocol.StateCompleted || m.Head != watches[0].cursor {
				t.Errorf("metadata on %s: %+v", s.flag("--node-name"), m)
			}
			wantProblem(t, s.do("GET", fmt.Sprintf("/v1/streams/%s/events?after=%d", id, watches[0].cursor+1), ""), 400, protocol.CodeInvalidCursor)
			wantProblem(t, s.do("GET", "/v1/streams/"+"01J"+protocol.NewStreamID()[3:], ""), 404, protocol.CodeStreamNotFound)
		}
		if calls := g.callers("code-read"); !slices.Equal(calls, []string{"a"}) {
			t.Errorf("the upstream was asked by %v, want a once", calls)
		}
	})

	t.Run("any node cancels", func(t *testing.T) {
		for name, cancel := range map[string]func(id string){
			"DELETE": func(id string) {
				if r := b.do("DELETE", "/v1/streams/"+id, ""); r.status != http.StatusAccepted {
					t.Fatalf("DELETE: %d %s", r.status, r.body)
				}
			},
			"WebSocket": func(id string) {
				l, err := openWebSocket(t.Context(), target{url: c.url})
				if err != nil {
					t.Fatal(err)
				}
				defer l.close(false)
				if err := l.send(&protocol.Command{Type: protocol.CommandCancel, ID: "c", Stream: id}); err != nil {
					t.Fatal(err)
				}
				if d, err := l.next(); err != nil || d.message == nil || d.message.Type != protocol.MessageAccepted {
					t.Fatalf("%+v, %v; want accepted", d, err)
				}
			},
		} {
			code := "code-cancel-" + name
			g.answers(code, held("so far"))
			id := a.beginCode(code)
			var watches []*watch
			for _, s := range g.nodes {
				watches = append(watches, s.watch(protocol.TransportSSE, id, 0).until(func(w *watch) bool { return w.transcript.Text() == "so far" }))
			}
			cancel(id)
			for _, w := range watches {
				wantEnd(t, w.until(ended).transcript, protocol.TypeCancelled, `{"by":"client"}`)
			}
		}
	})

	t.Run("a key leads to one stream", func(t *testing.T) {
		g.answers("code-key", answer(0, "once"))
		ids := make([]string, 6)
		var posts sync.WaitGroup
		for i := range ids {
			posts.Go(func() {
				r := g.nodes[i%3].do("POST", "/v1/analyses", request("code-key"), "Idempotency-Key", "one")
				if r.status == http.StatusCreated || r.status == http.StatusOK {
					ids[i] = r.header.Get("Location")
				}
			})
		}
		posts.Wait()
		if slices.Sort(ids); ids[0] == "" || ids[0] != ids[len(ids)-1] {
			t.Errorf("the key leads to %q", ids)
		}
		wantProblem(t, b.do("POST", "/v1/analyses", request("code-other"), "Idempotency-Key", "one"), http.StatusBadRequest, protocol.CodeInvalidRequest)
		c.read(protocol.TransportLongPoll, strings.TrimPrefix(ids[0], "/v1/streams/"))
		if calls := g.callers("code-key"); len(calls) != 1 {
			t.Errorf("the upstream was asked by %v, want one call", calls)
		}
	})

	t.Run("an equal request joins what runs on another node", func(t *testing.T) {
		const equal = `{"code":"code-equal"}`
		g.answers("code-equal", held("so far"))
		first := a.do("POST", "/v1/analyses", equal)
		id := strings.TrimPrefix(first.header.Get("Location"), "/v1/streams/")
		a.until(id, func(w *watch) bool { return w.transcript.Text() == "so far" })
		for _, s := range []*server{b, c} {
			if r := s.do("POST", "/v1/analyses", equal); r.header.Get("Location") != first.header.Get("Location") {
				t.Errorf("on %s: %d %s, want %s", s.flag("--node-name"), r.status, r.header.Get("Location"), id)
			}
		}
		if calls := g.callers("code-equal"); !slices.Equal(calls, []string{"a"}) {
			t.Errorf("the upstream was asked by %v, want a once", calls)
		}
		b.do("DELETE", "/v1/streams/"+id, "")
	})

	t.Run("viewers are counted on all nodes", func(t *testing.T) {
		g.answers("code-viewers", held("so far"))
		id := a.beginCode("code-viewers")
		for i, s := range []*server{a, b, b, c} {
			s.watch(transports[i%2], id, 0).until(func(w *watch) bool { return w.transcript.Text() == "so far" })
		}
		for _, s := range g.nodes {
			if m := decode[protocol.Metadata](t, s.do("GET", "/v1/streams/"+id, "")); m.Viewers != 4 || m.State != protocol.StateRunning {
				t.Errorf("on %s: %+v, want 4 viewers", s.flag("--node-name"), m)
			}
		}
		c.do("DELETE", "/v1/streams/"+id, "")
	})

	t.Run("every node says who is there", func(t *testing.T) {
		g.wait(g.nodes...) // a copy may lag behind for a moment
		for _, s := range g.nodes {
			r := s.do("GET", "/v1/cluster", "")
			seen := decode[gateway.Cluster](t, r)
			if lacks := whole(&seen, abc); lacks != "" || seen.Mode != gateway.ModeEmbedded || seen.Name != "tests" || seen.Node != s.flag("--node-name") {
				t.Errorf("%s; %s", lacks, r.body)
			}
			if r := s.do("GET", "/readyz", ""); r.status != http.StatusOK || !strings.Contains(r.body, `"history":"ok"`) {
				t.Errorf("readyz: %d %s", r.status, r.body)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd, err := command(ctx, nil, "cluster", "status", "--server", b.url)
		if err != nil {
			t.Fatal(err)
		}
		stdin, err := cmd.StdinPipe() // a pipe that stays open, as its end would end the program
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = stdin.Close() }() // the program has ended
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("athena cluster status: %v", err)
		}
		for _, want := range []string{"Cluster tests, seen from b", "leader", "3 of 3 copies"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("athena cluster status does not say %q:\n%s", want, out)
			}
		}
	})
}
