//go:build unix

package main

import (
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// generation is what the server tells who negotiates.
func (s *server) generation() string {
	s.t.Helper()
	return decode[protocol.Negotiation](s.t, s.do("POST", "/v1/negotiate", "")).Cache
}

func TestClearedAnswersAreForgottenOnAllNodesAndAtTheirClients(t *testing.T) {
	t.Parallel()
	g := together(t, []string{"a", "b"})
	a, b := g.nodes[0], g.nodes[1]
	first := a.generation()
	if first == "" || b.generation() != first {
		t.Fatalf("the nodes have the generations %q and %q", first, b.generation())
	}
	g.answers("code-cleared", held("first"))
	w := b.watch(protocol.TransportWebSocket, b.beginCode("code-cleared"), 0)

	r := a.do("DELETE", "/v1/cache", "")
	second := decode[gateway.CacheAnswer](t, r).Cache
	if r.status != 200 || second == "" || second == first || a.generation() != second {
		t.Fatalf("cleared with %d %s after %s", r.status, r.body, first)
	}
	for { // the client of the other node hears of it
		d, err := w.link.next()
		if err != nil {
			t.Fatal(err)
		}
		if m := d.message; m != nil && m.Type == protocol.MessageCache {
			if m.Cache != second {
				t.Errorf("the other node's client is told of %q, want %q", m.Cache, second)
			}
			break
		}
	}
	if got := b.generation(); got != second {
		t.Errorf("the other node has %q, want %q", got, second)
	}
}

func TestTheOperatorClearsTheCacheAndARestartKeepsThat(t *testing.T) {
	t.Parallel()
	up := upstream(t, answer(0, "one"))
	s := serve(t, openAIAt(up), "--hedge-after", "off")
	const request = `{"code":"cleared","options":{"degrade":false}}`
	ask := func(body string) string {
		t.Helper()
		return s.do("POST", "/v1/analyses?wait=20s", body).body
	}
	if got := ask(request); !strings.Contains(got, `"text":"one"`) {
		t.Fatal(got)
	}
	first := s.generation()
	if _, stderr, err := s.athena(nil, "cache", "clear"); err != nil || !strings.Contains(stderr, s.generation()) {
		t.Fatalf("%v: %s", err, stderr)
	}
	second := s.generation()
	if second == first {
		t.Errorf("the generation is still %q", first)
	}
	up.Close() // nobody can be reached: the answer of before would be given, were it kept
	if got := ask(request); strings.Contains(got, `"text":"one"`) {
		t.Errorf("the forgotten answer is given: %s", got)
	}
	key := s.createKey(only("", "analyze", "read", "cancel", "providers"))
	wantProblem(t, s.do("DELETE", "/v1/cache", "", authorization(key.Key)...), 403, protocol.CodeForbidden)
	s.stop()
	s.start()
	if got := s.generation(); got != second {
		t.Errorf("after the restart it is %q, want %q", got, second)
	}
}
