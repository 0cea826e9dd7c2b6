package analysis_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

func model(name string, models ...string) *fake {
	return &fake{name: name, features: providers.Features{Models: models}, end: whole()}
}

// hanging is a provider that answers nothing until its context ends.
func hanging() *fake {
	p := model("p", "m1")
	p.steps = []step{wait(time.Hour)}
	return p
}

func isCode(err error, code protocol.Code) bool { return errors.Is(err, &protocol.Error{Code: code}) }

func TestTheRequestChoosesWhoAnswers(t *testing.T) {
	claude, openai := model("claude", "opus", "haiku"), model("openai", "gpt", "haiku")
	local := &fake{name: "local", features: providers.Features{Findings: true}, end: whole()}
	all := []analysis.Entry{{Provider: local}, {Provider: openai, Priority: 2}, {Provider: claude, Priority: 1}}
	for _, c := range []struct {
		name            string
		entries         []analysis.Entry
		provider, model string
		want            string // provider/model, or
		code            protocol.Code
		detail          string
	}{
		{name: "auto takes the first by priority that is not local", entries: all, want: "claude/opus"},
		{name: "auto takes local where there is nothing else", entries: all[:1], want: "local/"},
		{name: "auto with a model takes the first that has it", entries: all, model: "haiku", want: "claude/haiku"},
		{name: "auto with another's model goes there", entries: all, model: "gpt", want: "openai/gpt"},
		{name: "a name is taken at its word", entries: all, provider: "local", want: "local/"},
		{name: "a name and a model", entries: all, provider: "openai", model: "haiku", want: "openai/haiku"},
		{name: "an unknown name", entries: all, provider: "nope", code: protocol.CodeInvalidRequest,
			detail: `field "provider" is "nope"; it must be auto or one of local, claude, openai`},
		{name: "a model that the provider lacks", entries: all, provider: "claude", model: "gpt", code: protocol.CodeInvalidRequest,
			detail: `field "model" is "gpt"; the provider "claude" has opus, haiku`},
		{name: "a model that nobody has", entries: all, model: "eliza", code: protocol.CodeInvalidRequest,
			detail: `field "model" is "eliza"; no provider has it: local has no models; claude has opus, haiku; openai has gpt, haiku`},
		{name: "a model of a provider without any", entries: all, provider: "local", model: "gpt", code: protocol.CodeInvalidRequest,
			detail: `field "model" is "gpt"; the provider "local" has no models, so leave it out`},
		{name: "no provider at all", code: protocol.CodeServiceUnavailable, detail: "no provider is configured"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ss := &streams{}
			s := analysis.New(analysis.Options{Providers: c.entries, Streams: ss})
			r := request
			r.Provider, r.Model = c.provider, c.model
			id, created, err := s.Start(t.Context(), &r, analysis.StartOptions{})
			if c.want != "" {
				if err != nil || !created {
					t.Fatal(created, err)
				}
				<-ss.get(id).ended
				st := ss.get(id).transcript.Started()
				if got := st.Provider + "/" + st.Model; got != c.want {
					t.Errorf("started %s, want %s", got, c.want)
				}
			} else if e := protocol.AsError(err); id != "" || created || e.Code != c.code || e.Detail != c.detail {
				t.Errorf("got %q, %v, %v", id, created, err)
			}
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRequestsThatAreNotAllowedStartNothing(t *testing.T) {
	ss := &streams{}
	s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: model("p", "m1")}}, Streams: ss, MaxCodeBytes: 100})
	for _, c := range []struct {
		name   string
		change func(*protocol.Request, *analysis.StartOptions)
		code   protocol.Code
	}{
		{"too much code", func(r *protocol.Request, _ *analysis.StartOptions) { r.Code = strings.Repeat("x", 101) }, protocol.CodePayloadTooLarge},
		{"no code", func(r *protocol.Request, _ *analysis.StartOptions) { r.Code = " " }, protocol.CodeInvalidRequest},
		{"an unknown analysis", func(r *protocol.Request, _ *analysis.StartOptions) { r.Analysis = "x" }, protocol.CodeInvalidRequest},
		{"too long a key", func(_ *protocol.Request, o *analysis.StartOptions) { o.IdempotencyKey = strings.Repeat("k", 257) }, protocol.CodeInvalidRequest},
	} {
		r, o := request, analysis.StartOptions{}
		c.change(&r, &o)
		if id, created, err := s.Start(t.Context(), &r, o); id != "" || created || !isCode(err, c.code) {
			t.Errorf("%s: %q, %v, %v", c.name, id, created, err)
		}
	}
	if len(ss.all) != 0 {
		t.Errorf("%d streams were made", len(ss.all))
	}
}

func TestAStreamThatCannotBeMadeGivesItsPlaceBack(t *testing.T) {
	boom := errors.New("boom")
	ss := &streams{fail: func(string) error { return boom }}
	s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: model("p", "m1")}}, Streams: ss, MaxJobs: 1})
	for range 3 {
		if _, _, err := s.Start(t.Context(), &request, analysis.StartOptions{IdempotencyKey: "k"}); !errors.Is(err, boom) {
			t.Fatal(err)
		}
	}
	ss.fail = nil
	if _, created, err := s.Start(t.Context(), &request, analysis.StartOptions{IdempotencyKey: "k"}); err != nil || !created {
		t.Fatal(created, err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMoreJobsThanAllowedAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: hanging()}}, Streams: ss, MaxJobs: 2})
		var ids []string
		for range 2 {
			id, _, err := s.Start(t.Context(), &request, analysis.StartOptions{Owner: "me", RequestID: "r"})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
			time.Sleep(time.Millisecond) // ids sort by milliseconds
		}
		_, _, err := s.Start(t.Context(), &request, analysis.StartOptions{})
		if e := protocol.AsError(err); e.Code != protocol.CodeOverloaded || e.Status != 503 || e.RetryAfterMS != 2000 {
			t.Errorf("third: %+v", e)
		}
		jobs := s.Jobs()
		want := analysis.Info{ID: ids[0], Provider: "p", Model: "m1", Analysis: "review", Language: "go", Owner: "me", RequestID: "r",
			Started: jobs[0].Started}
		if len(jobs) != 2 || jobs[0] != want || jobs[1].ID != ids[1] {
			t.Errorf("jobs %+v", jobs)
		}
		if err := s.Cancel(t.Context(), ids[0], protocol.CancelClient); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if left := s.Jobs(); len(left) != 1 || left[0].ID != ids[1] {
			t.Errorf("jobs left: %+v", left)
		}
		if _, _, err := s.Start(t.Context(), &request, analysis.StartOptions{}); err != nil {
			t.Errorf("after one has ended: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Drain(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestAJobOutlivesTheRequestThatStartedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := model("p", "m1")
		p.steps = []step{wait(time.Second), say("hello")}
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: p}}, Streams: ss})
		ctx, cancel := context.WithCancel(t.Context())
		id, _, err := s.Start(ctx, &request, analysis.StartOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		ss.get(id).check(t)
		if e := ss.get(id).transcript.Terminal(); e == nil || e.Type != protocol.TypeCompleted {
			t.Errorf("ended %+v", e)
		}
	})
}

func TestAnIdempotencyKeyStartsOneJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: model("p", "m1")}}, Streams: ss,
			MaxIdempotencyKeys: 3, IdempotencyTTL: time.Hour})
		start := func(owner, key string, r protocol.Request) (string, bool) {
			t.Helper()
			id, created, err := s.Start(t.Context(), &r, analysis.StartOptions{Owner: owner, IdempotencyKey: key})
			if err != nil {
				t.Fatal(err)
			}
			return id, created
		}
		first, created := start("a", "k", request)
		if !created {
			t.Fatal("the first was not created")
		}
		<-ss.get(first).ended // it counts after the job has ended too
		if id, created := start("a", "k", request); id != first || created {
			t.Errorf("same again: %s, %v", id, created)
		}
		explicit := request
		explicit.Provider, explicit.Analysis = protocol.ProviderAuto, protocol.AnalysisReview
		if id, created := start("a", "k", explicit); id != first || created {
			t.Errorf("same with its defaults written out: %s, %v", id, created)
		}
		if id, created := start("b", "k", request); id == first || !created {
			t.Errorf("another owner: %s, %v", id, created)
		}
		if id, created := start("a", "", request); id == first || !created {
			t.Errorf("no key: %s, %v", id, created)
		}
		other := request
		other.Code += "// more"
		_, _, err := s.Start(t.Context(), &other, analysis.StartOptions{Owner: "a", IdempotencyKey: "k"})
		if !isCode(err, protocol.CodeInvalidRequest) || !strings.Contains(err.Error(), "another request") {
			t.Errorf("another request: %v", err)
		}

		time.Sleep(59 * time.Minute)
		if id, created := start("a", "k", request); id != first || created {
			t.Errorf("after 59 minutes: %s, %v", id, created)
		}
		time.Sleep(time.Minute)
		second, created := start("a", "k", request)
		if second == first || !created {
			t.Errorf("after an hour: %s, %v", second, created)
		}
		for i := range 3 {
			start("a", fmt.Sprint(i), request)
		}
		if id, created := start("a", "k", request); id == second || !created {
			t.Errorf("pushed out by newer ones: %s, %v", id, created)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if id, created := start("a", "2", request); id == "" || created {
			t.Errorf("while draining: %s, %v", id, created)
		}
	})
}

func TestStartsWithOneKeyAtOnceGiveOneJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn, fails := make(chan struct{}), true
		ss := &streams{fail: func(string) error {
			<-goOn
			if fails {
				fails = false
				return errors.New("the first one fails")
			}
			return nil
		}}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: model("p", "m1")}}, Streams: ss})
		var mu sync.Mutex
		ids, news, errs := map[string]int{}, 0, 0
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				id, created, err := s.Start(t.Context(), &request, analysis.StartOptions{IdempotencyKey: "k"})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs++
					return
				}
				ids[id]++
				if created {
					news++
				}
			})
		}
		// One that gives up waiting gets its own error.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		synctest.Wait()
		if _, _, err := s.Start(ctx, &request, analysis.StartOptions{IdempotencyKey: "k"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("impatient: %v", err)
		}
		close(goOn)
		wg.Wait()
		if len(ids) != 1 || news != 1 || errs != 1 || len(ss.all) != 1 {
			t.Errorf("%d ids, %d created, %d errors, %d streams", len(ids), news, errs, len(ss.all))
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestDrainWaitsAndThenCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick := model("quick", "q")
		quick.steps = []step{wait(5 * time.Second), say("hello")}
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: hanging()}, {Provider: quick}}, Streams: ss})
		start := func(provider string) *writer {
			r := request
			r.Provider = provider
			id, _, err := s.Start(t.Context(), &r, analysis.StartOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return ss.get(id)
		}
		slow, fast := start("p"), start("quick")
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(ctx) }()
		synctest.Wait()
		_, _, err := s.Start(t.Context(), &request, analysis.StartOptions{})
		if e := protocol.AsError(err); e.Code != protocol.CodeDraining || e.RetryAfterMS != 2000 {
			t.Errorf("start while draining: %v", err)
		}
		if err := <-drained; !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cancelled 1 jobs") {
			t.Errorf("drain: %v", err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("drain took %v", took)
		}
		for w, want := range map[*writer]protocol.Type{slow: protocol.TypeCancelled, fast: protocol.TypeCompleted} {
			w.check(t)
			if e := w.transcript.Terminal(); e == nil || e.Type != want {
				t.Errorf("ended %+v, want %s", e, want)
			}
		}
		if got, want := slow.lines()[1:], []string{`cancelled {"by":"drain"}`}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

func TestAJobThatStartsWhileADrainCancelsIsCancelledToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		ss := &streams{fail: func(string) error { <-goOn; return nil }}
		p := hanging()
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: p}}, Streams: ss})
		started := make(chan string, 1)
		go func() {
			id, _, err := s.Start(t.Context(), &request, analysis.StartOptions{})
			if err != nil {
				t.Error(err)
			}
			started <- id
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(ctx) }()
		synctest.Wait()
		close(goOn)
		w := ss.get(<-started)
		if err := <-drained; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		w.check(t)
		if got, want := w.lines(), []string{`cancelled {"by":"drain"}`}; !reflect.DeepEqual(got, want) || len(p.requests) != 0 {
			t.Errorf("got %q and %d calls", got, len(p.requests))
		}
	})
}

// TestStartCancelAndDrainAtOnce throws all of them at a service at the same
// time, with viewers, keys and short deadlines: every stream that was made must
// end once, and nothing may be left.
func TestStartCancelAndDrainAtOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		p := model("p", "m1")
		for range 20 {
			p.steps = append(p.steps, say("some text\n@fin"), wait(7*time.Millisecond),
				say(`ding {"rule":"r","severity":"low","message":"m","line":1}`+"\n"))
		}
		ss := &streams{}
		s := analysis.New(analysis.Options{Providers: []analysis.Entry{{Provider: p}}, Streams: ss, MaxJobs: 20, OrphanTimeout: 90 * time.Millisecond})
		var wg sync.WaitGroup
		for i := range 8 {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for range 60 {
					o := analysis.StartOptions{Owner: fmt.Sprint(i)}
					if r.IntN(2) == 0 {
						o = analysis.StartOptions{IdempotencyKey: fmt.Sprint(r.IntN(10))}
					}
					id, _, err := s.Start(t.Context(), &request, o)
					if err != nil && !isCode(err, protocol.CodeOverloaded) && !isCode(err, protocol.CodeDraining) {
						t.Error(err)
					}
					if err == nil && r.IntN(2) == 0 {
						ss.get(id).watch(r.IntN(2))
					}
					time.Sleep(time.Duration(r.IntN(40)) * time.Millisecond)
					if err == nil && r.IntN(2) == 0 {
						if err := s.Cancel(t.Context(), id, protocol.CancelClient); err != nil && err != analysis.ErrNotRunning {
							t.Error(err)
						}
					}
				}
			})
		}
		time.Sleep(900 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		for range 2 {
			wg.Go(func() {
				if err := s.Drain(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		ends := map[protocol.Type]int{}
		for _, w := range ss.all {
			w.check(t)
			ends[w.transcript.Terminal().Type]++
		}
		t.Logf("%d streams ended: %v", len(ss.all), ends)
		if p.open != 0 || len(s.Jobs()) != 0 || ends[protocol.TypeFailed] != 0 || len(ss.all) < 20 {
			t.Errorf("%d connections, %d jobs left; ends %v", p.open, len(s.Jobs()), ends)
		}
	})
}
