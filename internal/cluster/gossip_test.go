package cluster_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/cluster"
)

func TestNodesKnowEachOthersFactsAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.startAll("a", "b", "c")
		time.Sleep(lease / 20)
		want := cluster.Facts{Version: "v1", Address: "10.0.0.1:8080", Degraded: true, Detail: "history", Connections: 3, Analyses: 2,
			Breakers: []cluster.Breaker{{Provider: "claude", Model: "m", Why: "timeout", Open: true, UntilMS: 1200}}}
		for _, p := range all {
			if n := p.Others(); n != 2 {
				t.Errorf("%s knows %d others right after the start", p.name, n)
			}
			p.set(func() { p.facts = want })
		}
		time.Sleep(2 * lease)
		for _, p := range all {
			members := p.Members()
			if len(members) != 3 {
				t.Fatalf("%s knows %+v", p.name, members)
			}
			for i, m := range members {
				if m.Node != all[i].name || m.Epoch != all[i].epoch || m.State != cluster.StateUp || m.Self != (p == all[i]) ||
					m.Since.IsZero() || time.Since(m.Heard) > lease/4 || fmt.Sprint(m.Facts) != fmt.Sprint(want) {
					t.Errorf("%s knows %+v", p.name, m)
				}
			}
			w.mu.Lock()
			if p.heard[p.name] > 0 || len(p.heard) != 2 {
				t.Errorf("%s was told facts of %v", p.name, p.heard)
			}
			w.mu.Unlock()
			if up := p.Up(); len(up) != 2 {
				t.Errorf("%s would give work to %v", p.name, up)
			}
		}
	})
}

func TestANodeThatIsHeardEitherWayIsUp(t *testing.T) {
	for name, cut := range map[string]func(w *world, a, b *process){
		"no gossip": func(w *world, a, b *process) { w.part(true, []*process{a}, []*process{b}) },
		"no store":  func(w *world, _, _ *process) { w.setDown(true) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				all := w.startAll("a", "b")
				time.Sleep(lease)
				cut(w, all[0], all[1])
				time.Sleep(5 * lease)
				if n := all[0].Others(); n != 1 {
					t.Errorf("%d others", n)
				}
				all[1].kill()
				time.Sleep(lease * 3 / 2)
				if n := all[0].Others(); n != 0 {
					t.Errorf("%d others after its death", n)
				}
				if m := all[0].Members(); len(m) != 2 || m[1].State != cluster.StateGone {
					t.Errorf("members: %+v", m)
				}
			})
		})
	}
}

// message is a valid message of gossip.
const message = `{"node":"x","epoch":5,"started":"2026-01-02T03:04:05Z","state":"up","facts":{"version":"v1","breakers":[{"provider":"p"}]}}`

func TestGossipThatCannotBeReadIsIgnored(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for name, data := range map[string]string{
		"nothing":           "",
		"no JSON":           "hello",
		"cut off":           message[:40],
		"no name":           strings.Replace(message, `"x"`, `""`, 1),
		"a wild name":       strings.Replace(message, `"x"`, `"x.>"`, 1),
		"a long name":       strings.Replace(message, `"x"`, `"`+long+`"`, 1),
		"no epoch":          strings.Replace(message, `5`, `0`, 1),
		"an unknown state":  strings.Replace(message, `"up"`, `"gone"`, 1),
		"a long text":       strings.Replace(message, `v1`, long, 1),
		"a negative number": strings.Replace(message, `"version"`, `"analyses":-1,"version"`, 1),
		"too many breakers": strings.Replace(message, `[`, `[`+strings.Repeat(`{"provider":"p"},`, 300), 1),
		"too large":         strings.Replace(message, `{"node"`, `{"pad":"`+strings.Repeat("x", 300<<10)+`","node"`, 1),
	} {
		if _, err := cluster.Recode([]byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		time.Sleep(lease)
		if err := b.Publish("node", []byte(strings.Replace(message, `"up"`, `"?"`, 1))); err != nil {
			t.Fatal(err)
		}
		if err := b.Publish("node", []byte(message)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if a.heard["x"] != 1 {
			t.Errorf("heard %d messages of x", a.heard["x"])
		}
		if n := len(a.logs.lines); n != 1 || !strings.Contains(a.logs.lines[0], `"level":"debug"`) {
			t.Errorf("logged %q", a.logs.lines)
		}
	})
}

func TestALastWordOfAnOlderProcessChangesNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		time.Sleep(lease)
		old := strings.NewReplacer(`"x"`, `"b"`, `"up"`, `"leaving"`).Replace(message)
		if err := b.Publish("node", []byte(old)); err != nil {
			t.Fatal(err)
		}
		before := a.heard["b"]
		synctest.Wait()
		if n := a.Others(); n != 1 {
			t.Errorf("%d others", n)
		}
		if m := a.Members()[1]; m.Facts.Version != "" || a.heard["b"] != before {
			t.Errorf("the last word was heard: %+v", m)
		}
	})
}

func TestFactsThatAreTooLongAreCutAndStillHeard(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		facts := cluster.Facts{Detail: strings.Repeat("é", 1000), Version: "\xff"}
		for range 1000 {
			facts.Breakers = append(facts.Breakers, cluster.Breaker{Provider: strings.Repeat("p", 5000), Why: strings.Repeat("w", 5000)})
		}
		a.set(func() { a.facts = facts })
		time.Sleep(lease)
		got := b.Members()[0].Facts
		if got.Detail != strings.Repeat("é", 512) || got.Version != "�" || len(got.Breakers) != 0 {
			t.Errorf("heard %d bytes of detail, version %q, %d breakers", len(got.Detail), got.Version, len(got.Breakers))
		}
		a.set(func() { a.facts.Breakers = facts.Breakers[:20] })
		time.Sleep(lease)
		if got := b.Members()[0].Facts; len(got.Breakers) != 20 || len(got.Breakers[0].Why) != 1024 {
			t.Errorf("heard %d breakers", len(got.Breakers))
		}
	})
}

func FuzzGossip(f *testing.F) {
	f.Add([]byte(message))
	f.Add([]byte(strings.Replace(message, "up", "leaving", 1)))
	f.Add([]byte(`{"node":"x","epoch":18446744073709551615,"state":"up","started":"9999-12-31T23:59:59.999999999Z"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		once, err := cluster.Recode(data)
		if err != nil {
			return
		}
		if !json.Valid(once) {
			t.Fatalf("made of %q: %q", data, once)
		}
		twice, err := cluster.Recode(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("made of %q: %q and %q, %v", data, once, twice, err)
		}
	})
}
