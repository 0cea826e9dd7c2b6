package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

func TestAFinishedStreamOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*server){"SIGTERM": (*server).stop, "SIGKILL": (*server).kill} {
		t.Run(name, func(t *testing.T) {
			// Pauses above the coalescing window, so that there are many events.
			s := serve(t, openAIAt(upstream(t, answer(5*time.Millisecond, greetings...))))
			id := s.begin()
			before := s.watch(protocol.TransportSSE, id, 0).until(ended)
			waitStored(t, s, before.cursor)
			end(s)
			s.start()
			for _, transport := range transports {
				tr := s.read(transport, id)
				if tr.Text() != before.transcript.Text() || tr.Cursor() != before.cursor || string(tr.Terminal().Data) != string(before.transcript.Terminal().Data) {
					t.Errorf("%s: after the restart the stream says %q and ends with %+v", transport, tr.Text(), tr.Terminal())
				}
				// From every place in the middle, what follows has the same text.
				for i := range before.events[:len(before.events)-1] {
					after := before.events[i].Seq
					events := s.readFrom(transport, id, after)
					if got, want := textOf(t, events), textOf(t, before.events[i+1:]); got != want || events[len(events)-1].Seq != before.cursor {
						t.Errorf("%s, after %d: %q to %d, want %q to %d", transport, after, got, events[len(events)-1].Seq, want, before.cursor)
					}
				}
			}
			m := decode[protocol.Metadata](t, s.do("GET", "/v1/streams/"+id, ""))
			if m.State != protocol.StateCompleted || m.Head != before.cursor {
				t.Errorf("metadata %+v", m)
			}
			wantProblem(t, s.do("GET", fmt.Sprintf("/v1/streams/%s/events?after=%d", id, before.cursor+1), ""), 400, protocol.CodeInvalidCursor)
		})
	}
}

// waitStored waits until the metrics say that so many events were stored.
func waitStored(t *testing.T, s *server, events uint64) {
	t.Helper()
	want := fmt.Sprintf("athena_store_events_total %d\n", events)
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		page := s.do("GET", "/metrics", "").body
		if strings.Contains(page, want) {
			tick.Stop()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the store does not have %d events", events)
		}
	}
}

func textOf(t *testing.T, events []received) string {
	t.Helper()
	var b strings.Builder
	for _, e := range events {
		if e.Type != protocol.TypeChunk {
			continue
		}
		var c protocol.Chunk
		if err := e.event.Decode(&c); err != nil {
			t.Fatal(err)
		}
		b.WriteString(c.Text)
	}
	return b.String()
}

// TestAStreamWhoseNodeWasKilledEndsForEveryCursor kills the node while most of
// what clients have seen is not stored: with a batch interval of a minute
// nothing is but what Create wrote.
func TestAStreamWhoseNodeWasKilledEndsForEveryCursor(t *testing.T) {
	t.Parallel()
	for name, interval := range map[string]string{"nothing stored": "1m", "most stored": "1ms"} {
		t.Run(name, func(t *testing.T) {
			texts := strings.SplitAfter(strings.Repeat("Wörter ", 40), " ")
			script := answer(3*time.Millisecond, texts...)
			script.Fault = held(texts...).Fault
			s := serve(t, openAIAt(upstream(t, script)), "--batch-interval", interval)
			id := s.begin()
			all := strings.Join(texts, "")
			before := s.watch(protocol.TransportWebSocket, id, 0).until(func(w *watch) bool { return w.transcript.Text() == all })
			if len(before.events) < 10 {
				t.Fatalf("only %d events came, too few for the test", len(before.events))
			}
			s.kill()
			s.start()

			var terminal string
			for _, transport := range transports {
				// From the beginning: the stored part of the text, and the end.
				tr := s.read(transport, id)
				wantEnd(t, tr, protocol.TypeFailed, `"code":"owner_lost"`)
				if !strings.HasPrefix(all, tr.Text()) {
					t.Errorf("%s: the text is %q, not a part of %q", transport, tr.Text(), all)
				}
				// From every cursor that a client can have, the newest included,
				// which the store never had.
				for _, e := range before.events {
					events := s.readFrom(transport, id, e.Seq)
					last := events[len(events)-1]
					if last.Type != protocol.TypeFailed || (terminal != "" && string(last.JSON) != terminal) {
						t.Fatalf("%s, after %d: the stream ends with %s, elsewhere with %s", transport, e.Seq, last.JSON, terminal)
					}
					terminal = string(last.JSON)
				}
			}
			// The client that was ahead goes on with its transcript.
			w := s.watch(protocol.TransportSSE, id, before.cursor)
			w.partial, w.transcript = false, before.transcript
			wantEnd(t, w.until(ended).transcript, protocol.TypeFailed, `"code":"owner_lost"`)
			m := decode[protocol.Metadata](t, s.do("GET", "/v1/streams/"+id, ""))
			if m.State != protocol.StateFailed || m.Error == nil || m.Error.Code != protocol.CodeOwnerLost {
				t.Errorf("metadata %+v", m)
			}
		})
	}
}

func TestARunningAnalysisMayFinishAtShutdown(t *testing.T) {
	t.Parallel()
	texts := strings.SplitAfter(strings.Repeat("so weit ", 50), " ")
	up := upstream(t, answer(10*time.Millisecond, texts...))
	s := serve(t, openAIAt(up), "--drain-timeout", "30s")
	id := s.begin()
	var watches []*watch
	// Not long-poll, which may ask for the end after connections are refused.
	for _, transport := range transports[:2] {
		watches = append(watches, s.watch(transport, id, 0).until(func(w *watch) bool { return w.transcript.Text() != "" }))
	}
	stopped := make(chan error, 1)
	p := s.process
	s.process = nil
	go func() { stopped <- p.interrupt() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, w := range watches {
		w.until(ended)
		wantEnd(t, w.transcript, protocol.TypeCompleted, `"finish_reason":"stop"`)
		if got := w.transcript.Text(); got != strings.Join(texts, "") {
			t.Errorf("text %q", got)
		}
		w.close()
	}
	select {
	case err := <-stopped:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("the server does not end")
	}
	s.start()
	if tr := s.read(protocol.TransportLongPoll, id); tr.Text() != strings.Join(texts, "") {
		t.Errorf("after the restart: text %q", tr.Text())
	}
}

func TestWhatDoesNotFinishInTimeIsCancelledAtShutdown(t *testing.T) {
	t.Parallel()
	s := serve(t, openAIAt(upstream(t, held("so far"))), "--drain-timeout", "500ms")
	id := s.begin()
	watches := make(map[string]*watch)
	for _, transport := range transports {
		watches[transport] = s.watch(transport, id, 0).until(func(w *watch) bool { return w.transcript.Text() == "so far" })
	}
	s.stop()
	for transport, w := range watches {
		// A long-poll that isn't waiting just then asks again too late.
		if transport != protocol.TransportLongPoll {
			wantEnd(t, w.until(ended).transcript, protocol.TypeCancelled, `{"by":"drain"}`)
		}
	}
	s.start()
	for _, transport := range transports {
		tr := s.read(transport, id)
		wantEnd(t, tr, protocol.TypeCancelled, `{"by":"drain"}`)
		if tr.Text() != "so far" {
			t.Errorf("%s: text %q", transport, tr.Text())
		}
	}
}
