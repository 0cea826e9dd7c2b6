package resilience_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/eapache/go-resiliency/breaker"

	"github.com/athena-hub/athena/internal/resilience"
)

var errDown = errors.New("connection refused")

// noJitter makes waits of exactly 1, 2, 4, 8, 10, 10 s.
var noJitter = resilience.Backoff{Jitter: -1}

// play runs a script against a breaker. Steps are separated by semicolons:
//
//	ok | fail | slow | ignore [n]  n calls, one after the other, let through and reported so
//	refused                        Ready says no, and Allow too
//	begin NAME                     a call is let through, and reports later:
//	NAME ok | fail | slow | ignore
//	wait DURATION
//	closed | open | half_open      State says so
//	window F S C                   failures, slow calls and calls in the window
//	opened N                       times
func play(t *testing.T, b *resilience.Breaker, script string) {
	t.Helper()
	begun := map[string]*resilience.Permit{}
	report := func(p *resilience.Permit, how string) bool {
		switch how {
		case "ok":
			p.Success(time.Millisecond)
		case "slow":
			p.Success(3 * time.Second)
		case "fail":
			p.Failure(errDown)
		case "ignore":
			p.Ignore()
		default:
			return false
		}
		return true
	}
	for i, step := range strings.Split(script, ";") {
		at := fmt.Sprintf("step %d, %q", i+1, step)
		words := strings.Fields(step)
		arg := func(i int) int {
			if i >= len(words) {
				return 1
			}
			n, err := strconv.Atoi(words[i])
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			return n
		}
		s := b.State()
		switch words[0] {
		case "ok", "fail", "slow", "ignore":
			for range arg(1) {
				p, err := b.Allow()
				if err != nil {
					t.Fatalf("%s: %v", at, err)
				}
				report(p, words[0])
			}
		case "refused":
			if _, err := b.Allow(); err == nil || b.Ready() {
				t.Fatalf("%s: Allow says %v, Ready %v", at, err, b.Ready())
			}
		case "begin":
			if !b.Ready() {
				t.Fatalf("%s: not ready", at)
			}
			p, err := b.Allow()
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			begun[words[1]] = p
		case "wait":
			d, err := time.ParseDuration(words[1])
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			time.Sleep(d)
		case "closed", "open", "half_open":
			if string(s.State) != words[0] {
				t.Fatalf("%s: it is %+v", at, s)
			}
		case "window":
			if got, want := [3]int{s.Failures, s.Slow, s.Calls}, [3]int{arg(1), arg(2), arg(3)}; got != want {
				t.Fatalf("%s: %v", at, got)
			}
		case "opened":
			if s.Opened != uint64(arg(1)) {
				t.Fatalf("%s: %d times", at, s.Opened)
			}
		default:
			if p := begun[words[0]]; p == nil || len(words) != 2 || !report(p, words[1]) {
				t.Fatalf("%s: no such step", at)
			}
		}
	}
}

// scripts plays each of cases in a bubble of its own, where time is exact.
func scripts(t *testing.T, cases []scripted) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.o.Backoff == (resilience.Backoff{}) {
					c.o.Backoff = noJitter
				}
				play(t, resilience.NewBreaker(c.o), c.script)
			})
		})
	}
}

type scripted struct {
	name   string
	o      resilience.BreakerOptions
	script string
}

func TestABreakerTripsOnEnoughFailuresThatAreHalfOfTheCalls(t *testing.T) {
	slow := resilience.BreakerOptions{SlowAfter: 2 * time.Second}
	scripts(t, []scripted{
		{"new", resilience.BreakerOptions{}, "closed; window 0 0 0; opened 0"},
		{"four failures are too few", resilience.BreakerOptions{}, "fail 4; closed; window 4 0 4"},
		{"five", resilience.BreakerOptions{}, "fail 5; open; window 5 0 5; opened 1; refused"},
		{"as few as is said", resilience.BreakerOptions{Failures: 1}, "ok; fail; open"},
		{"half of the calls", resilience.BreakerOptions{}, "ok 5; fail 4; closed; fail; open; window 5 0 10"},
		{"less than half", resilience.BreakerOptions{}, "ok 6; fail 5; closed; window 5 0 11; fail; open"},
		{"successes between don't hide them", resilience.BreakerOptions{}, "fail; ok; fail; ok; fail; ok; fail; ok; closed; fail; open"},
		{"a success never trips it", resilience.BreakerOptions{}, "ok 6; wait 15s; fail 5; closed; wait 15s; window 5 0 5; ok; closed; fail; open"},
		{"ignored calls are none", resilience.BreakerOptions{}, "ignore 100; fail 4; ignore 100; closed; window 4 0 4; fail; open; window 5 0 5"},
		{"slow calls count as failures", slow, "slow 5; open; window 0 5 5"},
		{"slow and failed together", slow, "slow 2; fail 2; closed; slow; open; window 2 3 5"},
		{"slow calls are forgotten too", slow, "slow 4; wait 30s; window 0 0 0; slow; closed; window 0 1 1"},
		{"slow calls are fine by default", resilience.BreakerOptions{}, "slow 100; closed; window 0 0 100"},
		{"failures of the last 30 s", resilience.BreakerOptions{}, "fail 4; wait 27s; window 4 0 4; wait 3s; window 0 0 0; fail; closed; window 1 0 1"},
		{"of another window", resilience.BreakerOptions{Window: time.Second}, "fail 4; wait 1s; fail 4; closed; wait 900ms; fail; open"},
		{"the window slides", resilience.BreakerOptions{Window: 10 * time.Second},
			"fail; wait 1s; fail; wait 1s; fail 2; wait 8s; window 3 0 3; wait 1s; window 2 0 2; fail 2; closed; fail; open; window 5 0 5"},
		{"after a long silence", resilience.BreakerOptions{}, "fail 4; ok 9; wait 1000h; window 0 0 0; ok; window 0 0 1"},
	})
}

func TestAnOpenBreakerWaitsLongerEachTimeTheProbeFails(t *testing.T) {
	backoff := func(g resilience.Growth) resilience.BreakerOptions {
		return resilience.BreakerOptions{Backoff: resilience.Backoff{Growth: g, Jitter: -1}}
	}
	scripts(t, []scripted{
		{"exponential", backoff(resilience.Exponential),
			"fail 5; wait 999999999ns; refused; open; wait 1ns; half_open; fail; open; opened 2; wait 1999999999ns; refused; wait 1ns; fail; wait 3999999999ns; refused; wait 1ns; fail;" +
				"wait 7999999999ns; refused; wait 1ns; fail; wait 9999999999ns; refused; wait 1ns; fail; wait 9999999999ns; refused; wait 1ns; ok; closed; opened 6"},
		{"linear", backoff(resilience.Linear),
			"fail 5; wait 1s; fail; wait 1999ms; refused; wait 1ms; fail; wait 2999ms; refused; wait 1ms; fail; wait 3999ms; refused; wait 1ms; ok; closed"},
		{"Fibonacci", backoff(resilience.Fibonacci),
			"fail 5; wait 1s; fail; wait 999ms; refused; wait 1ms; fail; wait 1999ms; refused; wait 1ms; fail; wait 2999ms; refused; wait 1ms; fail; wait 4999ms; refused; wait 1ms; ok; closed"},
		{"a slow probe has failed", resilience.BreakerOptions{SlowAfter: time.Second},
			"slow 5; open; wait 1s; slow; open; opened 2; wait 1999ms; refused; wait 1ms; ok; closed"},
		{"time alone closes nothing", resilience.BreakerOptions{},
			"fail 5; wait 1000h; half_open; opened 1; begin p; refused; wait 29s; half_open; refused; p fail; open; wait 1999ms; refused; wait 1ms; begin q"},
		{"trips again just after it closed", resilience.BreakerOptions{},
			"fail 5; wait 1s; ok; closed; fail 5; open; wait 1999ms; refused; wait 1ms; ok; closed; wait 29s; fail 5; wait 3999ms; refused; wait 1ms; ok; closed"},
		{"trips again and again, up to the cap", resilience.BreakerOptions{},
			"fail 5; wait 1s; ok; fail 5; wait 2s; ok; fail 5; wait 4s; ok; fail 5; wait 8s; ok; fail 5; wait 9999ms; refused; wait 1ms; ok; fail 5; wait 9999ms; refused; wait 1ms; ok"},
		{"stayed closed for a while", resilience.BreakerOptions{},
			"fail 5; wait 1s; fail; wait 2s; fail; wait 4s; ok; closed; wait 30s; fail 5; open; wait 999ms; refused; wait 1ms; ok; closed"},
		{"a while is the window", resilience.BreakerOptions{Window: time.Second},
			"fail 5; wait 1s; ok; wait 999ms; fail 5; wait 1999ms; refused; wait 1ms; ok; wait 1s; fail 5; wait 999ms; refused; wait 1ms; ok"},
		{"what tripped it is forgotten when it closes", resilience.BreakerOptions{}, "fail 5; wait 1s; ok; closed; window 0 0 0; fail 4; closed; window 4 0 4"},
	})
}

func TestAHalfOpenBreakerLetsABoundedNumberOfProbesThrough(t *testing.T) {
	o := func(probes, successes int) resilience.BreakerOptions {
		return resilience.BreakerOptions{Probes: probes, Successes: successes}
	}
	scripts(t, []scripted{
		{"one by default", resilience.BreakerOptions{}, "fail 5; wait 1s; begin a; refused; half_open; a ok; closed; ok 3"},
		{"as many as is said", o(3, 1), "fail 5; wait 1s; begin a; begin b; begin c; refused; b ok; closed"},
		{"an ignored one's place is free again", o(1, 1), "fail 5; wait 1s; begin a; refused; a ignore; half_open; begin b; refused; b ok; closed"},
		{"as many successes as is said", o(1, 3), "fail 5; wait 1s; ok; half_open; begin a; refused; a ok; half_open; ok; closed"},
		{"successes side by side", o(2, 3), "fail 5; wait 1s; begin a; begin b; refused; a ok; begin c; refused; b ok; half_open; c ok; closed"},
		{"a failure between begins anew", o(1, 2), "fail 5; wait 1s; ok; fail; open; wait 2s; ok; half_open; ok; closed"},
		{"an ignored one between doesn't", o(1, 2), "fail 5; wait 1s; ok; ignore; ok; closed"},
		{"a failure makes its fellows' reports late", o(3, 1),
			"fail 5; wait 1s; begin a; begin b; begin c; a fail; open; opened 2; b ok; open; c fail; opened 2; wait 1999ms; refused; wait 1ms; begin d; begin e; begin f; refused"},
		{"after it closed its fellows are usual calls", o(3, 1), "fail 5; wait 1s; begin a; begin b; begin c; a ok; closed; b fail; c ok; closed; window 1 0 2"},
		{"one that never reports frees its place", o(1, 1), "fail 5; wait 1s; begin a; wait 29999ms; refused; wait 1ms; begin b; refused; wait 30s; begin c; c ok; closed"},
		{"after as long as is said", resilience.BreakerOptions{ProbeTimeout: time.Second}, "fail 5; wait 1s; begin a; wait 999ms; refused; wait 1ms; begin b; refused"},
		{"each after its own time", o(2, 1), "fail 5; wait 1s; begin a; wait 10s; begin b; wait 20s; begin c; refused; wait 9999ms; refused; wait 1ms; begin d; refused"},
		{"its late failure counts", o(1, 1), "fail 5; wait 1s; begin a; wait 30s; begin b; a fail; open; opened 2; b ok; open"},
		{"its late success counts", o(1, 1), "fail 5; wait 1s; begin a; wait 30s; begin b; a ok; closed; b ok; window 0 0 1"},
		{"its late ignoring takes nobody's place", o(1, 1), "fail 5; wait 1s; begin a; wait 30s; begin b; a ignore; refused; b ignore; begin c; refused"},
	})
}

func TestReportsOfCallsFromBeforeItOpenedChangeNothing(t *testing.T) {
	scripts(t, []scripted{
		{"while open", resilience.BreakerOptions{},
			"begin a; begin b; begin c; fail 5; open; a ok; b fail; c ignore; open; opened 1; window 5 0 5; wait 999ms; refused; wait 1ms; ok; closed"},
		{"while half-open", resilience.BreakerOptions{},
			"begin a; begin b; begin c; fail 5; wait 1s; a ok; half_open; b fail; half_open; opened 1; c ignore; begin p; refused; p ok; closed"},
		{"while a probe is under way", resilience.BreakerOptions{},
			"begin a; begin b; begin c; fail 5; wait 1s; begin p; a ok; b fail; c ignore; half_open; refused; p ok; closed"},
		{"after it has closed", resilience.BreakerOptions{}, "begin a; begin b; fail 5; wait 1s; ok; closed; a fail; b ok; closed; window 0 0 0"},
		{"a probe of an earlier opening", resilience.BreakerOptions{},
			"fail 5; wait 1s; begin a; wait 30s; fail; open; wait 2s; half_open; a ok; half_open; begin p; refused; p ok; closed; opened 2"},
	})
}

func TestOnlyTheFirstReportOfACallCounts(t *testing.T) {
	scripts(t, []scripted{
		{"success", resilience.BreakerOptions{}, "begin a; a ok; a fail; a ignore; a ok; window 0 0 1"},
		{"failure", resilience.BreakerOptions{}, "begin a; a fail; a fail; a ok; a ignore; window 1 0 1"},
		{"ignored", resilience.BreakerOptions{}, "begin a; a ignore; a fail; a ok; window 0 0 0"},
		{"a probe", resilience.BreakerOptions{Successes: 2}, "fail 5; wait 1s; begin a; a ok; a ok; half_open; a fail; half_open; ok; closed"},
		{"a probe that gave its place back", resilience.BreakerOptions{}, "fail 5; wait 1s; begin a; a ignore; begin b; a ok; a ignore; half_open; refused"},
	})
}

func TestAnOpenErrorSaysWhyAndUntilWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBreaker(resilience.BreakerOptions{Backoff: noJitter})
		play(t, b, "ok; fail 5")
		until := time.Now().Add(time.Second)
		check := func(why string) {
			t.Helper()
			_, err := b.Allow()
			open, ok := errors.AsType[*resilience.OpenError](err)
			if !ok || !errors.Is(err, breaker.ErrBreakerOpen) || !open.Until.Equal(until) || open.Why != why {
				t.Errorf("Allow says %#v, want it open until %v because %q", err, until, why)
			}
		}
		check("5 of 6 calls within 30s failed or were slow, the last: connection refused")
		play(t, b, "wait 1s; begin p")
		check("5 of 6 calls within 30s failed or were slow, the last: connection refused") // and in the past
		play(t, b, "wait 30s; fail")
		until = time.Now().Add(2 * time.Second)
		check("a probe failed or was slow: connection refused")
	})
}

func TestAStateSaysWhatThereIsToSee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBreaker(resilience.BreakerOptions{Backoff: noJitter, SlowAfter: time.Second})
		began := time.Now()
		const tripped, probed = "5 of 6 calls within 30s failed or were slow, the last: 3s is slower than 1s", "a probe failed or was slow: connection refused"
		want := func(w resilience.BreakerState) {
			t.Helper()
			if got := b.State(); got != w {
				t.Errorf("it is %+v,\nwant  %+v", got, w)
			}
		}
		want(resilience.BreakerState{State: resilience.Closed, Since: began})
		play(t, b, "wait 1s; ok; fail 4; slow")
		want(resilience.BreakerState{State: resilience.Open, Why: tripped, Since: began.Add(time.Second), NextProbe: began.Add(2 * time.Second), Failures: 4, Slow: 1, Calls: 6, Opened: 1})
		play(t, b, "wait 5s")
		want(resilience.BreakerState{State: resilience.HalfOpen, Why: tripped, Since: began.Add(2 * time.Second), NextProbe: began.Add(2 * time.Second), Failures: 4, Slow: 1, Calls: 6, Opened: 1})
		play(t, b, "fail")
		want(resilience.BreakerState{State: resilience.Open, Why: probed, Since: began.Add(6 * time.Second), NextProbe: began.Add(8 * time.Second), Failures: 4, Slow: 1, Calls: 6, Opened: 2})
		play(t, b, "wait 2s; ok")
		want(resilience.BreakerState{State: resilience.Closed, Since: began.Add(8 * time.Second), Opened: 2})
	})
}

func TestTheReasonIsBoundedAndWholeCharacters(t *testing.T) {
	for name, why := range map[string]error{
		"long":               errors.New(strings.Repeat("x", 1_000_000)),
		"cut in a character": errors.New("x" + strings.Repeat("é", 1_000)),
		"only continuations": errors.New(strings.Repeat("\x80", 1_000)),
		"short, and garbage": errors.New("\x80\xff"),
		"none":               nil,
	} {
		t.Run(name, func(t *testing.T) {
			b := resilience.NewBreaker(resilience.BreakerOptions{Failures: 1})
			p, err := b.Allow()
			if err != nil {
				t.Fatal(err)
			}
			p.Failure(why)
			got := b.State().Why
			if len(got) == 0 || len(got) > 400 || !utf8.ValidString(got) {
				t.Errorf("the reason is %d bytes, %q", len(got), got)
			}
		})
	}
}
