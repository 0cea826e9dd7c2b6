package resilience_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/eapache/go-resiliency/semaphore"

	"github.com/athena-hub/athena/internal/resilience"
)

// enter asks for a place, and fails the test if the queue is full.
func enter(t *testing.T, b *resilience.Bulkhead, tenant string) *resilience.Place {
	t.Helper()
	p, err := b.Enter(tenant)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ready reports whether a place is granted. Grants happen within the call that
// made room, so there is nothing to wait for.
func ready(p *resilience.Place) bool {
	select {
	case <-p.Ready():
		return true
	default:
		return false
	}
}

// moved takes a place's signal.
func moved(p *resilience.Place) bool {
	select {
	case <-p.Moved():
		return true
	default:
		return false
	}
}

// check fails the test if the pool's invariants don't hold.
func check(t *testing.T, p *resilience.Pool) {
	t.Helper()
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsNotSaidHasItsDefault(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{Memory: 7})
	want := []resilience.ClassState{
		{Class: resilience.ClassCPU, Limit: 5},
		{Class: resilience.ClassMemory, Limit: 7},
		{Class: resilience.ClassNetwork, Limit: 50},
	}
	if got := pool.State(); !slices.Equal(got, want) {
		t.Errorf("the pool is %+v, want %+v", got, want)
	}
	for _, c := range []struct {
		o    resilience.BulkheadOptions
		want resilience.BulkheadState
	}{
		{resilience.BulkheadOptions{}, resilience.BulkheadState{Class: resilience.ClassNetwork, Workers: 20, Queue: 100}},
		{resilience.BulkheadOptions{Name: "claude", Class: resilience.ClassCPU, Workers: 3, Queue: 4}, resilience.BulkheadState{Name: "claude", Class: resilience.ClassCPU, Workers: 3, Queue: 4}},
		{resilience.BulkheadOptions{Class: "disk", Workers: -1, Queue: -1}, resilience.BulkheadState{Class: resilience.ClassNetwork, Workers: 20, Queue: 0}},
	} {
		if got := pool.Bulkhead(c.o).State(); got != c.want {
			t.Errorf("a bulkhead of %+v is %+v, want %+v", c.o, got, c.want)
		}
	}
}

func TestPlacesAreTakenAtOnceThenWaitedForThenRefused(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{})
	b := pool.Bulkhead(resilience.BulkheadOptions{Name: "claude", Workers: 2, Queue: 3})
	first, second := enter(t, b, "a"), enter(t, b, "a")
	waiting := []*resilience.Place{enter(t, b, "a"), enter(t, b, "b"), enter(t, b, "a")}
	if !ready(first) || !ready(second) || first.Position() != 0 || first.Moved() != nil {
		t.Errorf("the first is ready: %v, at %d, the second: %v", ready(first), first.Position(), ready(second))
	}
	for i, p := range waiting {
		if ready(p) || p.Position() != i+1 || moved(p) {
			t.Errorf("the %dth that waits is ready: %v, at %d", i+1, ready(p), p.Position())
		}
	}
	for _, tenant := range []string{"a", "c"} {
		p, err := b.Enter(tenant)
		full, ok := errors.AsType[*resilience.FullError](err)
		if p != nil || !ok || *full != (resilience.FullError{Name: "claude", Queue: 3}) || !errors.Is(err, semaphore.ErrNoTickets) {
			t.Errorf("with a full queue %s gets %v, %v", tenant, p, err)
		}
	}
	if p, ok := b.TryEnter(); p != nil || ok {
		t.Error("TryEnter overtook those who wait")
	}
	want := resilience.BulkheadState{Name: "claude", Class: resilience.ClassNetwork, Workers: 2, Busy: 2, Queue: 3, Queued: 3, Refused: 2, Granted: 2}
	if got := b.State(); got != want {
		t.Errorf("it is %+v, want %+v", got, want)
	}
	if got := pool.State()[2]; got != (resilience.ClassState{Class: resilience.ClassNetwork, Limit: 50, Busy: 2, Waiting: 3}) {
		t.Errorf("the class is %+v", got)
	}
	check(t, pool)
}

func TestWithoutAQueueNobodyWaits(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{})
	b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 1, Queue: -1})
	p := enter(t, b, "a")
	if _, err := b.Enter("b"); err == nil {
		t.Error("somebody waits")
	}
	p.Leave()
	if !ready(enter(t, b, "b")) {
		t.Error("the place wasn't free again")
	}
	check(t, pool)
}

// TestTenantsTakeTurns drives queues by scripts. Waiting places are named by
// tenant and number: "a1" enters as a; "-a1" leaves; "go" gives the only
// worker's place back, which grants the next.
func TestTenantsTakeTurns(t *testing.T) {
	for name, c := range map[string]struct{ script, order string }{
		"one tenant's keep their order":          {"a1 a2 a3 a4", "a1 a2 a3 a4"},
		"two take turns":                         {"a1 a2 a3 b1 b2", "a1 b1 a2 b2 a3"},
		"three, however they came":               {"a1 a2 a3 b1 c1 b2 c2", "a1 b1 c1 a2 b2 c2 a3"},
		"one who comes late waits one round":     {"a1 a2 a3 a4 a5 go b1", "a2 b1 a3 a4 a5"},
		"one who was served goes to the end":     {"a1 b1 c1 go a2", "b1 c1 a2"},
		"so coming one at a time gains nothing":  {"a1 b1 b2 b3 go a2 go a3", "a2 b2 a3 b3"},
		"one who leaves is passed over":          {"a1 a2 b1 b2 -a1 -b2", "a2 b1"},
		"a tenant who leaves has no turn":        {"a1 b1 b2 c1 -b1 -b2", "a1 c1"},
		"who leaves and comes again goes last":   {"a1 b1 c1 -a1 a2", "b1 c1 a2"},
		"turns go on while some come and leave":  {"a1 a2 a3 b1 b2 go go c1 -a2 d1", "a3 b2 c1 d1"},
		"the last of many leaves from the queue": {"a1 a2 a3 a4 -a4 -a3 -a2", "a1"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := resilience.NewPool(resilience.PoolLimits{})
			b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 1})
			running := enter(t, b, "z")
			places := map[string]*resilience.Place{}
			next := func() string {
				t.Helper()
				running.Leave()
				granted := ""
				for name, p := range places {
					if ready(p) {
						if granted != "" {
							t.Fatalf("both %s and %s were granted", granted, name)
						}
						granted, running = name, p
					}
				}
				delete(places, granted)
				return granted
			}
			for word := range strings.FieldsSeq(c.script) {
				switch {
				case word == "go":
					next()
				case word[0] == '-':
					places[word[1:]].Leave()
					delete(places, word[1:])
				default:
					places[word] = enter(t, b, word[:1])
				}
				check(t, pool)
			}
			// What Position says is the order in which they are granted.
			promised := make([]string, len(places))
			for name, p := range places {
				promised[p.Position()-1] = name
			}
			var order []string
			for len(places) > 0 {
				order = append(order, next())
				check(t, pool)
			}
			if got := strings.Join(order, " "); got != c.order || got != strings.Join(promised, " ") {
				t.Errorf("granted %q, want %q; promised %q", got, c.order, promised)
			}
		})
	}
}

func TestPositionsFollowAndSignalOnlyThoseWhoMoved(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{})
	b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 1})
	running := enter(t, b, "z")
	var names []string
	var places []*resilience.Place
	add := func(name string) {
		names, places = append(names, name), append(places, enter(t, b, name[:1]))
	}
	// want checks all positions, and that those named, and no others, were signalled.
	want := func(step, positions, signalled string) {
		t.Helper()
		check(t, pool)
		var at, told []string
		for i, p := range places {
			at = append(at, strconv.Itoa(p.Position()))
			if moved(p) {
				told = append(told, names[i])
			}
			if moved(p) {
				t.Errorf("%s: %s was signalled twice", step, names[i])
			}
		}
		if got := strings.Join(at, " "); got != positions {
			t.Errorf("%s: %v are at %s, want %s", step, names, got, positions)
		}
		if got := strings.Join(told, " "); got != signalled {
			t.Errorf("%s: %q were signalled, want %q", step, got, signalled)
		}
	}
	add("a1")
	add("a2")
	add("a3")
	want("a came", "1 2 3", "")
	add("b1")
	want("b came", "1 3 4 2", "a2 a3")
	places[1].Leave()
	want("a2 left", "1 0 3 2", "a3")
	add("b2")
	want("b came again", "1 0 3 2 4", "")
	running.Leave()
	want("a1 is granted", "0 0 2 1 3", "a3 b1 b2")
	places[4].Leave()
	places[3].Leave()
	want("b left", "0 0 1 0 0", "a3")
	places[0].Leave()
	want("a3 is granted", "0 0 0 0 0", "")
	if !ready(places[0]) || !ready(places[2]) || ready(places[1]) || ready(places[3]) || ready(places[4]) {
		t.Error("granted are not just a1 and a3")
	}
}

func TestSeveralMovesAreOneSignalAndNobodyWaitsForItsReader(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{})
	b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 1})
	enter(t, b, "z")
	var before []*resilience.Place
	for range 5 {
		before = append(before, enter(t, b, "a"))
	}
	last := enter(t, b, "a")
	for _, p := range before {
		p.Leave()
	}
	if last.Position() != 1 || !moved(last) || moved(last) {
		t.Errorf("after five left it is at %d, and not signalled once", last.Position())
	}
}

func TestLeavingTwiceGivesBackOnce(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{})
	b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 2})
	first, second := enter(t, b, "a"), enter(t, b, "a")
	third, fourth := enter(t, b, "a"), enter(t, b, "a")
	third.Leave()
	third.Leave()
	first.Leave()
	first.Leave()
	if ready(third) || !ready(fourth) {
		t.Errorf("the one that left was granted: %v, the one that waits: %v", ready(third), ready(fourth))
	}
	if s := b.State(); s.Busy != 2 || s.Queued != 0 || s.Granted != 3 {
		t.Errorf("it is %+v", s)
	}
	second.Leave()
	fourth.Leave()
	fourth.Leave()
	if s := b.State(); s.Busy != 0 || s.Queued != 0 || pool.State()[2].Busy != 0 || pool.State()[2].Waiting != 0 {
		t.Errorf("it is %+v of %+v", s, pool.State())
	}
	check(t, pool)
}

func TestTryEnterTakesWhatIsFree(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{Network: 2})
	b := pool.Bulkhead(resilience.BulkheadOptions{Workers: 1})
	other := pool.Bulkhead(resilience.BulkheadOptions{Workers: 5})
	p, ok := b.TryEnter()
	if !ok || !ready(p) || p.Position() != 0 {
		t.Fatal("a free place wasn't taken")
	}
	if _, ok := b.TryEnter(); ok {
		t.Error("more were taken than there are workers")
	}
	p2, ok := other.TryEnter()
	if !ok {
		t.Fatal("a free place wasn't taken")
	}
	if _, ok := other.TryEnter(); ok {
		t.Error("more were taken than the class has")
	}
	if s := b.State(); s.Refused != 0 || s.Granted != 1 {
		t.Errorf("trying counted as refused: %+v", s)
	}
	p.Leave()
	p2.Leave()
	if p, ok := b.TryEnter(); !ok || !ready(p) {
		t.Error("a place that was given back wasn't free")
	}
	check(t, pool)
}

func TestAPlaceFreedInOneBulkheadGoesToWhoWaitsInAnother(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{CPU: 2})
	a := pool.Bulkhead(resilience.BulkheadOptions{Name: "a", Class: resilience.ClassCPU, Workers: 2})
	b := pool.Bulkhead(resilience.BulkheadOptions{Name: "b", Class: resilience.ClassCPU, Workers: 1})
	network := pool.Bulkhead(resilience.BulkheadOptions{Name: "n", Workers: 1})
	a1, a2 := enter(t, a, "x"), enter(t, a, "x")
	b1, b2 := enter(t, b, "x"), enter(t, b, "x")
	if ready(b1) || !ready(enter(t, network, "x")) {
		t.Fatal("the class has two places, and another class its own")
	}
	a1.Leave()
	if !ready(b1) || ready(b2) {
		t.Fatalf("a place is free: b1 %v, b2 %v", ready(b1), ready(b2))
	}
	a3, a4 := enter(t, a, "x"), enter(t, a, "x")
	a2.Leave() // b2 may not have it: b's only worker is busy
	if !ready(a3) || ready(b2) || ready(a4) {
		t.Fatalf("a's place is free: a3 %v, b2 %v, a4 %v", ready(a3), ready(b2), ready(a4))
	}
	b1.Leave() // it is a's turn no more
	if !ready(b2) || ready(a4) {
		t.Fatalf("b's place is free: b2 %v, a4 %v", ready(b2), ready(a4))
	}
	check(t, pool)
}

func TestBulkheadsOfAClassTakeTurns(t *testing.T) {
	pool := resilience.NewPool(resilience.PoolLimits{Memory: 1})
	var names []string
	var waiting []*resilience.Place
	running := enter(t, pool.Bulkhead(resilience.BulkheadOptions{Class: resilience.ClassMemory}), "z")
	// One with a long queue, and two with short ones.
	for i, n := range []int{6, 2, 1} {
		b := pool.Bulkhead(resilience.BulkheadOptions{Class: resilience.ClassMemory, Workers: 2})
		for k := range n {
			names, waiting = append(names, fmt.Sprintf("%c%d", 'a'+i, k+1)), append(waiting, enter(t, b, "x"))
		}
	}
	var order []string
	for range waiting {
		running.Leave()
		check(t, pool)
		for i, p := range waiting {
			if ready(p) && !slices.Contains(order, names[i]) {
				order, running = append(order, names[i]), p
			}
		}
	}
	if got, want := strings.Join(order, " "), "a1 b1 c1 a2 b2 a3 a4 a5 a6"; got != want {
		t.Errorf("granted %q, want %q", got, want)
	}
}
