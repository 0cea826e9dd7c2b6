package analysis_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

const (
	started = `started {"provider":"p","model":"m1","analysis":"review","language":"go","attempt":1}`
	helloC  = `chunk {"kind":"text","attempt":1,"text":"hello"}`
	noText  = `"bytes":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`
	hello   = `"bytes":5,"sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"`
)

func whole() providers.Outcome {
	return providers.Outcome{State: providers.StateComplete, FinishReason: "stop", Model: "m1-2026"}
}

func failedWith(code, detail, more string) string {
	e := protocol.Errorf(protocol.Code(code), "x")
	retry := "false"
	if e.Retryable {
		retry = "true"
	}
	return `failed {"error":{"code":"` + code + `","title":"` + e.Title + `","detail":"` + detail + `","status":` +
		map[int]string{500: "500", 502: "502", 503: "503", 504: "504", 422: "422"}[e.Status] + `,"retryable":` + retry + more + `}}`
}

func usage(in, out int64) *protocol.Usage {
	return &protocol.Usage{InputTokens: in, OutputTokens: out}
}

// refuse makes a writer's writes of type t fail.
func refuse(t protocol.Type) func(*writer) {
	return func(w *writer) {
		w.refuse = func(is protocol.Type) error {
			if is == t {
				return errors.New("disk full")
			}
			return nil
		}
	}
}

// refuseOnce makes the first write of type t fail.
func refuseOnce(t protocol.Type) func(*writer) {
	return func(w *writer) {
		w.refuse = func(is protocol.Type) error {
			if is == t {
				w.refuse = nil
				return errors.New("disk full")
			}
			return nil
		}
	}
}

// request is what the tests ask for. It joins no equal one that runs.
var request = protocol.Request{Code: "package main\n\nfunc main() {}\n", Filename: "main.go", Cache: protocol.CacheBypass}

// estimated is usage that no provider has told. How much it is depends on the
// prompts.
var estimated = regexp.MustCompile(`"usage":{"input_tokens":[1-9][0-9]*,"output_tokens":[0-9]+,"estimated":true},`)

// unestimated returns l without estimated usage.
func unestimated(l []string) []string {
	for i := range l {
		l[i] = estimated.ReplaceAllString(l[i], "")
	}
	return l
}

// TestEveryStreamEndsOnce runs a job through every way to end: the events are
// compared whole, the time is exact, and the upstream must be closed.
func TestEveryStreamEndsOnce(t *testing.T) {
	never := time.Hour
	internal := failedWith("internal", "the server could not do this; its log says why", "")
	for _, c := range []struct {
		name  string
		p     *fake
		opts  analysis.Options
		after func(ctx context.Context, s *analysis.Service, w *writer) // beside the job
		make  func(*writer)
		want  []string
		at    time.Duration
		log   string // is in the log
	}{
		{
			name: "a whole answer is completed",
			p:    &fake{steps: []step{say("hel"), wait(time.Second), say("lo")}, end: whole()},
			want: []string{started, `chunk {"kind":"text","attempt":1,"text":"hel"}`, `chunk {"kind":"text","attempt":1,"text":"lo"}`,
				`completed {"finish_reason":"stop","provider":"p","model":"m1-2026","cached":false,"degraded":false,"events":4,` + hello + `}`},
			at: time.Second,
		},
		{
			name: "an empty whole answer is completed",
			p:    &fake{end: whole()},
			want: []string{started, `completed {"finish_reason":"stop","provider":"p","model":"m1-2026","cached":false,"degraded":false,"events":2,` + noText + `}`},
		},
		{
			name: "all kinds of chunks are passed on, usage only when it changes",
			p: &fake{steps: []step{
				chunk(providers.Chunk{Type: providers.ChunkStarted, Text: "m1-real"}),
				chunk(providers.Chunk{Type: providers.ChunkUsage, Usage: usage(10, 0)}),
				chunk(providers.Chunk{Type: providers.ChunkUsage, Usage: usage(10, 0)}),
				chunk(providers.Chunk{Type: providers.ChunkReasoning, Text: "@finding hm"}),
				chunk(providers.Chunk{Type: providers.ChunkTool, Text: "{"}),
				chunk(providers.Chunk{Type: providers.ChunkProgress, Progress: &protocol.Progress{Stage: "parse"}}),
				say("hello"),
				chunk(providers.Chunk{Type: providers.ChunkUsage, Usage: usage(10, 2)}),
			}, end: providers.Outcome{State: providers.StateComplete, FinishReason: "length", Usage: usage(10, 3)}},
			want: []string{started,
				`usage {"input_tokens":10,"output_tokens":0}`,
				`chunk {"kind":"reasoning","attempt":1,"text":"@finding hm"}`,
				`chunk {"kind":"tool","attempt":1,"text":"{"}`,
				`progress {"stage":"parse"}`,
				helloC,
				`usage {"input_tokens":10,"output_tokens":2}`,
				`completed {"finish_reason":"length","provider":"p","model":"m1-real","cached":false,"degraded":false,` +
					`"usage":{"input_tokens":10,"output_tokens":3},"events":8,` + hello + `}`},
		},
		{
			name: "a refused call is failed with the provider's error",
			p:    &fake{connect: breaks(protocol.Errorf(protocol.CodeContextTooLong, "too long").WithProvider("p"))},
			want: []string{started, failedWith("context_too_long", "too long", `,"provider":"p"`)},
		},
		{
			name: "an error that is not the wire's stays in the log",
			p:    &fake{connect: breaks(errors.New("secret"))},
			want: []string{started, internal}, log: "secret",
		},
		{
			name: "a broken connection is failed, and the provider's name is added",
			p: &fake{steps: []step{say("hello"), breaks(protocol.Errorf(protocol.CodeConnectionFailed, "reset"))},
				end: providers.Outcome{Usage: usage(7, 1)}},
			want: []string{started, helloC, `usage {"input_tokens":7,"output_tokens":1}`, failedWith("connection_failed", "reset", `,"provider":"p"`)},
		},
		{
			name: "a truncated answer is never completed",
			p:    &fake{steps: []step{say("hello")}},
			want: []string{started, helloC, failedWith("stream_interrupted", "the answer ended before it was whole", `,"provider":"p"`)},
		},
		{
			name: "an error inside the stream is the provider's",
			p: &fake{steps: []step{say("hello")}, end: providers.Outcome{State: providers.StateError,
				Err: protocol.Errorf(protocol.CodeServiceUnavailable, "overloaded").WithProvider("p")}},
			want: []string{started, helloC, failedWith("service_unavailable", "overloaded", `,"provider":"p"`)},
		},
		{
			name: "an error without a name is an invalid response",
			p:    &fake{end: providers.Outcome{State: providers.StateError}},
			want: []string{started, failedWith("invalid_response", "the provider ended the answer with an error that it did not name", `,"provider":"p"`)},
		},
		{
			name: "a panic is internal",
			p:    &fake{steps: []step{say("hello"), panics}},
			want: []string{started, helloC, internal}, log: "provider bug",
		},
		{
			name: "a panic in the call is internal",
			p:    &fake{connect: panics},
			want: []string{started, internal}, log: "provider bug",
		},
		{
			name: "no first content in time",
			p: &fake{steps: []step{chunk(providers.Chunk{Type: providers.ChunkUsage, Usage: usage(1, 0)}), wait(9 * time.Second),
				chunk(providers.Chunk{Type: providers.ChunkProgress, Progress: &protocol.Progress{Stage: "still"}}), wait(never)}},
			opts: analysis.Options{FirstContentTimeout: 10 * time.Second},
			want: []string{started, `usage {"input_tokens":1,"output_tokens":0}`, `progress {"stage":"still"}`,
				failedWith("timeout", "nothing of the answer came within 10s", `,"provider":"p"`)},
			at: 10 * time.Second,
		},
		{
			name: "the deadline for the first content covers the connection",
			p:    &fake{connect: wait(never)},
			opts: analysis.Options{FirstContentTimeout: 10 * time.Second},
			want: []string{started, failedWith("timeout", "nothing of the answer came within 10s", `,"provider":"p"`)},
			at:   10 * time.Second,
		},
		{
			name: "an answer that stalls",
			p:    &fake{steps: []step{wait(8 * time.Second), say("hello"), wait(4 * time.Second), say("hello"), wait(never)}},
			opts: analysis.Options{FirstContentTimeout: 10 * time.Second, IdleTimeout: 5 * time.Second},
			want: []string{started, helloC, helloC, failedWith("timeout", "the answer stalled: nothing more of it came for 5s", `,"provider":"p"`)},
			at:   17 * time.Second,
		},
		{
			name: "an answer that takes too long",
			p:    &fake{steps: []step{wait(8 * time.Second), say("hello"), wait(8 * time.Second), say("hello")}},
			opts: analysis.Options{TotalTimeout: 15 * time.Second},
			want: []string{started, helloC, failedWith("timeout", "the analysis did not end within 15s", `,"provider":"p"`)},
			at:   15 * time.Second,
		},
		{
			name: "deadlines that are off don't end an answer",
			p:    &fake{steps: []step{wait(never), say("hello"), wait(never)}, end: whole()},
			opts: analysis.Options{FirstContentTimeout: -1, IdleTimeout: -1, TotalTimeout: -1, OrphanTimeout: -1},
			want: []string{started, helloC,
				`completed {"finish_reason":"stop","provider":"p","model":"m1-2026","cached":false,"degraded":false,"events":3,` + hello + `}`},
			at: 2 * never,
		},
		{
			name: "a client cancels, and what was held back is written",
			p:    &fake{steps: []step{say("hello"), say("\n@find"), wait(never)}},
			after: func(ctx context.Context, s *analysis.Service, w *writer) {
				time.Sleep(3 * time.Second)
				_ = s.Cancel(ctx, w.id, protocol.CancelClient)
				_ = s.Cancel(ctx, w.id, protocol.CancelOrphaned) // comes second, and counts for nothing
			},
			want: []string{started, helloC, `chunk {"kind":"text","attempt":1,"text":"\n"}`, `chunk {"kind":"text","attempt":1,"text":"@find"}`, `cancelled {"by":"client"}`},
			at:   3 * time.Second,
		},
		{
			name: "a provider that only closing wakes",
			p:    &fake{steps: []step{say("hello"), untilClosed}},
			after: func(ctx context.Context, s *analysis.Service, w *writer) {
				time.Sleep(time.Second)
				_ = s.Cancel(ctx, w.id, protocol.CancelClient)
			},
			want: []string{started, helloC, `cancelled {"by":"client"}`},
			at:   time.Second,
		},
		{
			name: "nobody watches",
			p:    &fake{steps: []step{say("hello"), wait(never)}},
			opts: analysis.Options{OrphanTimeout: 20 * time.Second},
			want: []string{started, helloC, `cancelled {"by":"orphaned"}`},
			at:   20 * time.Second,
		},
		{
			name: "too much output",
			p:    &fake{steps: []step{say("hello"), chunk(providers.Chunk{Type: providers.ChunkReasoning, Text: "123456"}), wait(never)}},
			opts: analysis.Options{MaxOutputBytes: 10},
			want: []string{started, helloC, `cancelled {"by":"limit"}`},
		},
		{
			name: "too many findings of a provider",
			p: &fake{features: providers.Features{Findings: true, Models: []string{"m1"}}, steps: []step{say("hello"),
				chunk(providers.Chunk{Type: providers.ChunkFinding, Finding: &protocol.Finding{Rule: "r", Message: "12345"}})}},
			opts: analysis.Options{MaxOutputBytes: 10},
			want: []string{started, helloC, `cancelled {"by":"limit"}`},
		},
		{
			name: "the stream can't be written for a while",
			p:    &fake{steps: []step{say("hello"), wait(never)}},
			make: refuse(protocol.TypeChunk),
			want: []string{started, internal}, log: "disk full",
		},
		{
			name: "the writer's own error is told",
			p:    &fake{steps: []step{say("hello"), wait(never)}},
			make: func(w *writer) {
				w.refuse = func(t protocol.Type) error {
					if t == protocol.TypeChunk {
						return protocol.Errorf(protocol.CodeOwnerLost, "lease lost")
					}
					return nil
				}
			},
			want: []string{started, failedWith("owner_lost", "lease lost", "")},
		},
		{
			name: "what was held back can't be written",
			p:    &fake{steps: []step{say("@fin")}, end: whole()},
			make: refuse(protocol.TypeChunk),
			want: []string{started, internal}, log: "disk full",
		},
		{
			name: "started can't be written",
			p:    &fake{steps: []step{say("hello")}, end: whole()},
			make: refuse(protocol.TypeStarted),
			want: []string{internal}, log: "disk full",
		},
		{
			name: "the terminal event is tried again",
			p:    &fake{steps: []step{say("hello")}},
			make: refuseOnce(protocol.TypeFailed),
			want: []string{started, helloC, failedWith("stream_interrupted", "the answer ended before it was whole", `,"provider":"p"`)},
			at:   100 * time.Millisecond,
		},
		{
			name: "completed is not, since text may have been lost",
			p:    &fake{steps: []step{say("hello")}, end: whole()},
			make: refuseOnce(protocol.TypeCompleted),
			want: []string{started, helloC, internal}, log: "disk full",
			at: 100 * time.Millisecond,
		},
		{
			name: "cancelled that can't be written becomes failed",
			p:    &fake{steps: []step{say("hello"), say("hello")}},
			opts: analysis.Options{MaxOutputBytes: 5},
			make: refuse(protocol.TypeCancelled),
			want: []string{started, helloC, internal}, log: "disk full",
			at: 200 * time.Millisecond,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := c.p
				p.name = "p"
				if p.features.Models == nil {
					p.features.Models = []string{"m1"}
				}
				ss := &streams{make: c.make}
				var log bytes.Buffer
				o := c.opts
				o.Providers = []analysis.Entry{{Provider: p}}
				o.Streams = ss
				o.MaxRetries = -1
				o.Logger = zerolog.New(&log)
				s := analysis.New(o)
				began := time.Now()
				id, created, err := s.Start(t.Context(), &request, analysis.StartOptions{})
				if err != nil || !created {
					t.Fatal(created, err)
				}
				w := ss.get(id)
				if c.after != nil {
					c.after(t.Context(), s, w)
				}
				<-w.ended
				if took := time.Since(began); took != c.at {
					t.Errorf("ended after %v, want %v", took, c.at)
				}
				synctest.Wait()
				w.check(t)
				if got := unestimated(w.lines()); !reflect.DeepEqual(got, c.want) {
					t.Errorf("events:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
				}
				if p.open != 0 {
					t.Errorf("%d upstream connections left open", p.open)
				}
				if jobs := s.Jobs(); len(jobs) != 0 {
					t.Errorf("jobs left: %v", jobs)
				}
				if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), c.log) {
					t.Errorf("the log has %d lines, and should have one with %q in it: %s", n, c.log, log.String())
				}
				if err := s.Cancel(t.Context(), id, protocol.CancelClient); err != analysis.ErrNotRunning {
					t.Errorf("cancelling an ended job: %v", err)
				}
				if err := s.Drain(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAProviderThatDoesNotReturnCannotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		p := &fake{name: "p", features: providers.Features{Models: []string{"m1"}},
			steps: []step{say("hello"), until(hang), say("late"), chunk(providers.Chunk{Type: providers.ChunkUsage, Usage: usage(1, 1)})}, end: whole()}
		ss, obs := &streams{}, &observer{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: p}}, Streams: ss, Observer: obs, MaxJobs: 1,
			IdleTimeout: 10 * time.Second, AbortGrace: 5 * time.Second})
		id, _, err := s.Start(t.Context(), &request, analysis.StartOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w := ss.get(id)
		<-w.ended
		synctest.Wait()
		want := []string{started, helloC, failedWith("timeout", "the answer stalled: nothing more of it came for 10s", `,"provider":"p"`)}
		if got := unestimated(w.lines()); !reflect.DeepEqual(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		said := []string{"call p/m1", "first content p/m1 0s",
			`call ended p/m1 15s error=timeout (p): the answer stalled: nothing more of it came for 10s cancelled="" stuck=true`,
			`job ended p/m1 15s failed error=timeout (p): the answer stalled: nothing more of it came for 10s cancelled=""`}
		if !reflect.DeepEqual(obs.said, said) {
			t.Errorf("observed %q, want %q", obs.said, said)
		}
		// It still holds its place, and a drain says who is at fault.
		if _, _, err := s.Start(t.Context(), &request, analysis.StartOptions{}); !errors.Is(err, &protocol.Error{Code: protocol.CodeOverloaded}) {
			t.Errorf("start beside a stuck call: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Drain(ctx); err == nil || !strings.Contains(err.Error(), "map[p:1]") {
			t.Errorf("drain: %v", err)
		}
		close(hang)
		if err := s.Drain(t.Context()); err != nil {
			t.Errorf("drain after it returned: %v", err)
		}
		w.check(t)
		if got := unestimated(w.lines()); !reflect.DeepEqual(got, want) {
			t.Errorf("it wrote afterwards: %q", got)
		}
	})
}

func TestFindingsArriveWhileTheAnswerStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		p := &fake{name: "p", features: providers.Features{Models: []string{"m1"}}, end: whole(), steps: []step{
			say("Bad:\n@find"), say(`ing {"rule":"empty-main","severity":"low",`), say(`"message":"Does nothing.","line":3}` + "\nMo"),
			until(goOn), say("re.\n")}}
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: p}}, Streams: ss})
		id, _, err := s.Start(t.Context(), &request, analysis.StartOptions{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want := []string{started, `chunk {"kind":"text","attempt":1,"text":"Bad:\n"}`,
			`finding {"rule":"empty-main","severity":"low","message":"Does nothing.","range":{"start":{"line":3,"column":1},"end":{"line":3,"column":15}}}`,
			`chunk {"kind":"text","attempt":1,"text":"Mo"}`}
		if got := ss.get(id).lines(); !reflect.DeepEqual(got, want) {
			t.Errorf("while it streams: got %q, want %q", got, want)
		}
		close(goOn)
		<-ss.get(id).ended
		ss.get(id).check(t)
		if got := ss.get(id).transcript.Text(); got != "Bad:\nMore.\n" {
			t.Errorf("text %q", got)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAProviderThatMakesFindingsIsNotParsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := `@finding {"rule":"r","severity":"low","message":"m","line":1}` + "\n"
		p := &fake{name: "local", features: providers.Features{Findings: true}, end: whole(), steps: []step{say(line),
			chunk(providers.Chunk{Type: providers.ChunkFinding, Finding: &protocol.Finding{Rule: "own"}})}}
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: p}}, Streams: ss})
		id, _, err := s.Start(t.Context(), &request, analysis.StartOptions{})
		if err != nil {
			t.Fatal(err)
		}
		<-ss.get(id).ended
		ss.get(id).check(t)
		tr := &ss.get(id).transcript
		if tr.Text() != line || len(tr.Findings()) != 1 || tr.Findings()[0].Rule != "own" {
			t.Errorf("text %q, findings %v", tr.Text(), tr.Findings())
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestOrphans lets viewers come and go: the job ends exactly the timeout after
// the last one left, and is asked about seldom.
func TestAJobGoesOnForTheOrphanTimeoutAfterItsLastViewer(t *testing.T) {
	for _, c := range []struct {
		name         string
		server, asks time.Duration
		watch        []struct {
			at time.Duration
			n  int
		}
		want string
		at   time.Duration
	}{
		{name: "nobody ever", server: 10 * time.Second, want: `cancelled {"by":"orphaned"}`, at: 10 * time.Second},
		{name: "a request may ask for less", server: 10 * time.Second, asks: 4 * time.Second, want: `cancelled {"by":"orphaned"}`, at: 4 * time.Second},
		{name: "a request may not ask for more", server: 10 * time.Second, asks: time.Hour, want: `cancelled {"by":"orphaned"}`, at: 10 * time.Second},
		{name: "a request may ask where the server does not", server: -1, asks: 4 * time.Second, want: `cancelled {"by":"orphaned"}`, at: 4 * time.Second},
		{name: "viewers come and go", server: 10 * time.Second, watch: []struct {
			at time.Duration
			n  int
		}{{2 * time.Second, 1}, {5 * time.Second, 0}, {14 * time.Second, 2}, {33 * time.Second, 1}, {37 * time.Second, 0}},
			want: `cancelled {"by":"orphaned"}`, at: 47 * time.Second},
		{name: "someone stays", server: 10 * time.Second, watch: []struct {
			at time.Duration
			n  int
		}{{9 * time.Second, 1}},
			want: `completed {"finish_reason":"stop","provider":"p","model":"m1-2026","cached":false,"degraded":false,"events":3,` + hello + `}`, at: time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &fake{name: "p", features: providers.Features{Models: []string{"m1"}}, steps: []step{say("hello"), wait(time.Minute)}, end: whole()}
				ss := &streams{}
				s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: p}}, Streams: ss, OrphanTimeout: c.server,
					IdleTimeout: time.Hour})
				began := time.Now()
				r := request
				r.OrphanTimeout = protocol.Duration(c.asks)
				id, _, err := s.Start(t.Context(), &r, analysis.StartOptions{})
				if err != nil {
					t.Fatal(err)
				}
				w := ss.get(id)
				for _, x := range c.watch {
					time.Sleep(time.Until(began.Add(x.at)))
					w.watch(x.n)
				}
				<-w.ended
				if took := time.Since(began); took != c.at {
					t.Errorf("ended after %v, want %v", took, c.at)
				}
				synctest.Wait()
				w.check(t)
				if got, want := unestimated(w.lines()), []string{started, helloC, c.want}; !reflect.DeepEqual(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
				if w.asked > 7 {
					t.Errorf("asked for viewers %d times", w.asked)
				}
			})
		})
	}
}

func TestTheProviderGetsTheRequestAndItsPrompts(t *testing.T) {
	p := &fake{name: "p", features: providers.Features{Models: []string{"m1", "m2"}}, end: whole()}
	ss := &streams{}
	s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: p}}, Streams: ss, Logger: zerolog.New(io.Discard)})
	r := request
	r.Model, r.Options.MaxTokens = "m2", 77
	id, _, err := s.Start(t.Context(), &r, analysis.StartOptions{RequestID: "req-1"})
	if err != nil {
		t.Fatal(err)
	}
	<-ss.get(id).ended
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.requests) != 1 {
		t.Fatalf("%d calls", len(p.requests))
	}
	got := p.requests[0]
	if got.Model != "m2" || got.MaxTokens != 77 || got.RequestID != "req-1" || got.Analysis.Code != r.Code ||
		got.Analysis.Analysis != protocol.AnalysisReview || !strings.Contains(got.System, "@finding") || !strings.Contains(got.Prompt, "3 | func main() {}\n") {
		t.Errorf("asked %+v", got)
	}
	if r.Analysis != "" {
		t.Error("the caller's request was changed")
	}
}
