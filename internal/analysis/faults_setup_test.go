package analysis_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/claude"
	"github.com/athena-hub/athena/providers/openai"
	"github.com/athena-hub/athena/providers/providertest"
)

// A speaker is a dialect as the tests of faults use it: a real provider that
// asks an Upstream on the loopback.
type speaker struct {
	name     string
	wire     providertest.Dialect
	make     providers.Factory
	protocol providers.Protocol
}

var (
	claudeSpeaker    = speaker{"claude", providertest.Claude, claude.New, ""}
	chatSpeaker      = speaker{"openai", providertest.OpenAI, openai.NewChat, ""}
	deepSeekSpeaker  = speaker{"deepseek", providertest.OpenAI, openai.NewDeepSeek, ""}
	responsesSpeaker = speaker{"responses", providertest.Responses, openai.NewResponses, providers.ProtocolSSE}
	socketSpeaker    = speaker{"responses over WebSocket", providertest.Responses, openai.NewResponses, providers.ProtocolWebSocket}

	speakers = []speaker{claudeSpeaker, chatSpeaker, deepSeekSpeaker, responsesSpeaker, socketSpeaker}
)

// other returns a dialect that is not s.
func (s speaker) other() speaker {
	if s.wire == providertest.Claude {
		return chatSpeaker
	}
	return claudeSpeaker
}

// provider returns a provider of the name that asks up, over connections of
// its own.
func (s speaker) provider(tb testing.TB, name string, up *providertest.Upstream, change ...func(*providers.Config)) providers.Provider {
	tb.Helper()
	connections := &http.Transport{MaxIdleConnsPerHost: 32}
	tb.Cleanup(connections.CloseIdleConnections)
	cfg := providers.Config{Name: name, Dialect: s.name, BaseURL: up.URL, APIKey: "key-of-" + name, Models: []string{"model-" + name},
		Protocol: s.protocol, Client: &http.Client{Transport: connections}}
	for _, c := range change {
		c(&cfg)
	}
	p, err := s.make(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// patient are options under which only what a test sets ends a call: the
// machine may be busy.
func patient(entries ...analysis.Entry) analysis.Options {
	for i := range entries {
		entries[i].Priority = i
	}
	return analysis.Options{Providers: entries, OrphanTimeout: -1, HedgeAfter: -1, TotalTimeout: 30 * time.Second, RateWindow: soon,
		HeaderTimeout: 20 * time.Second, FirstContentTimeout: 20 * time.Second, IdleTimeout: 20 * time.Second,
		RetryBackoff: resilience.Backoff{Growth: resilience.Exponential, Base: 20 * time.Millisecond, Max: 100 * time.Millisecond, Jitter: 0.2}}
}

// tell is an event in the words of the tests of faults.
func tell(e *protocol.Event) string {
	data := protocol.DataFor(e.Type)
	if err := e.Decode(data); err != nil {
		return err.Error()
	}
	switch d := data.(type) {
	case *protocol.Started:
		return fmt.Sprintf("started %d %s/%s", d.Attempt, d.Provider, d.Model)
	case *protocol.Failover:
		s := fmt.Sprintf("failover %d %s>%s %s", d.Attempt, d.From, d.To, d.Reason)
		if d.Discard {
			s += " discard"
		}
		return s
	case *protocol.Retrying:
		return fmt.Sprintf("retrying %d %s %s", d.Attempt, d.Provider, d.Error.Code)
	case *protocol.Queued:
		return "queued " + d.Reason
	case *protocol.Progress:
		return "progress " + d.Stage
	case *protocol.Completed:
		return "completed " + d.Provider
	case *protocol.Failed:
		return fmt.Sprintf("failed %s %s", d.Error.Code, d.Error.Provider)
	case *protocol.Cancelled:
		return "cancelled " + string(d.By)
	}
	return string(e.Type)
}

// tale returns the events: neighbouring chunks of an attempt as one, and usage
// left out, since dialects tell it at different times.
func (w *writer) tale() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var tale []string
	var text strings.Builder
	attempt := 0
	flush := func() {
		if text.Len() > 0 {
			tale = append(tale, fmt.Sprintf("text %d %q", attempt, text.String()))
		}
		text.Reset()
	}
	for _, e := range w.events {
		switch e.Type {
		case protocol.TypeUsage:
		case protocol.TypeChunk:
			var c protocol.Chunk
			if err := e.Decode(&c); err != nil {
				return append(tale, err.Error())
			}
			if c.Attempt != attempt {
				flush()
			}
			attempt = c.Attempt
			text.WriteString(c.Text)
		default:
			flush()
			tale = append(tale, tell(&e))
		}
	}
	flush()
	return tale
}

// text returns the answer, as a client has it.
func (w *writer) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.transcript.Text()
}

// last decodes the terminal event's data.
func (w *writer) last(tb testing.TB, data any) {
	tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.transcript.Terminal()
	if e == nil {
		tb.Fatal("the stream has no terminal event")
	}
	if err := e.Decode(data); err != nil {
		tb.Fatal(err)
	}
}

// A rig is a service with real providers.
type rig struct {
	tb      testing.TB
	s       *analysis.Service
	streams *streams
}

func newRig(tb testing.TB, o analysis.Options) *rig {
	tb.Helper()
	r := &rig{tb: tb, streams: &streams{}}
	o.Streams = r.streams
	r.s = analysis.New(o)
	tb.Cleanup(r.drain)
	return r
}

// drain waits until nothing runs any more, and checks that nothing is held.
func (r *rig) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.s.Drain(ctx); err != nil {
		r.tb.Error(err)
	}
	r.free()
}

// free checks that no place is taken.
func (r *rig) free() {
	r.tb.Helper()
	for _, p := range r.s.Providers() {
		if p.Bulkhead.Busy != 0 || p.Bulkhead.Queued != 0 || p.Stuck != 0 {
			r.tb.Errorf("provider %s holds places: %+v, %d stuck", p.Name, p.Bulkhead, p.Stuck)
		}
	}
	for _, c := range r.s.Pool() {
		if c.Busy != 0 || c.Waiting != 0 {
			r.tb.Errorf("the pool's class %s holds places: %+v", c.Class, c)
		}
	}
}

// start starts a job.
func (r *rig) start(req protocol.Request) *writer {
	r.tb.Helper()
	id, _, err := r.s.Start(r.tb.Context(), &req, analysis.StartOptions{})
	if err != nil {
		r.tb.Fatal(err)
	}
	return r.streams.get(id)
}

// end waits for a stream's terminal event, no longer than limit, and checks
// the stream.
func (r *rig) end(w *writer, limit time.Duration) {
	r.tb.Helper()
	select {
	case <-w.ended:
	case <-time.After(limit):
		r.tb.Fatalf("no end within %v:\n%s", limit, strings.Join(w.tale(), "\n"))
	}
	w.check(r.tb)
}

// wantTale fails the test unless w tells want.
func wantTale(tb testing.TB, w *writer, want []string) {
	tb.Helper()
	if got := w.tale(); !slices.Equal(got, want) {
		tb.Errorf("events:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// released fails the test unless the upstream is done with all its calls, which
// means that no connection of theirs is held.
func released(tb testing.TB, ups ...*providertest.Upstream) {
	tb.Helper()
	limit := time.After(5 * time.Second)
	for i, up := range ups {
		for n, c := range up.Calls() {
			select {
			case <-c.Done():
			case <-limit:
				tb.Fatalf("upstream %d still serves call %d", i, n+1)
			}
		}
	}
}

// roles returns who speaks in the conversation of a call.
func roles(c *providertest.Call) string {
	var list []string
	for _, turn := range c.Turns() {
		list = append(list, turn.Role)
	}
	return strings.Join(list, " ")
}
