//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

func TestKeysAreMadeListedRotatedAndRevokedByTheCommandLine(t *testing.T) {
	t.Parallel()
	const adminKey = "canary-admin-key-0123456789"
	s := serve(t, []string{"ATHENA_API_KEY=root=" + adminKey}, "--require-auth")
	admin := []string{"ATHENA_TOKEN=" + adminKey}
	if r := s.do("GET", "/v1/providers", ""); r.status != http.StatusUnauthorized {
		t.Fatalf("without a credential: %d %s", r.status, r.body)
	}
	out, said, err := s.athena(admin, "keys", "create", "ci", "--tenant", "acme", "--scopes", "analyze,read", "--expires-in", "24h")
	key := strings.TrimSpace(out)
	if err != nil || !strings.HasPrefix(key, "athena_") || strings.ContainsAny(key, " \n") || strings.Contains(said, key) || !strings.Contains(said, "analyze, read") {
		t.Fatalf("create: %v\n%s\n%s", err, out, said)
	}
	id := s.begin(authorization(key)...)
	if !protocol.StreamOf(id, "acme") {
		t.Errorf("the stream %s is not the tenant's", id)
	}
	wantProblem(t, s.do("GET", "/v1/providers", "", authorization(key)...), http.StatusForbidden, protocol.CodeForbidden)
	wantProblem(t, s.do("GET", "/v1/keys", "", authorization(key)...), http.StatusForbidden, protocol.CodeForbidden)

	out, _, err = s.athena(admin, "keys", "list")
	if err != nil || !strings.Contains(out, "ci") || !strings.Contains(out, "acme") || !strings.Contains(out, "active") || strings.Contains(out, key) {
		t.Errorf("list: %v\n%s", err, out)
	}
	out, said, err = s.athena(admin, "keys", "rotate", key[:19], "--grace", "1h")
	fresh := strings.TrimSpace(out)
	if err != nil || fresh == key || fresh[:19] != key[:19] {
		t.Fatalf("rotate: %v\n%s\n%s", err, out, said)
	}
	for _, k := range []string{key, fresh} {
		if r := s.do("GET", "/v1/streams/"+id, "", authorization(k)...); r.status != http.StatusOK {
			t.Errorf("after the rotation: %d %s", r.status, r.body)
		}
	}
	// Keys outlive the process.
	s.stop()
	s.start()
	if r := s.do("GET", "/v1/streams/"+id, "", authorization(fresh)...); r.status != http.StatusOK {
		t.Errorf("after a restart: %d %s", r.status, r.body)
	}
	if _, said, err := s.athena(admin, "keys", "revoke", key[7:19]); err != nil || !strings.Contains(said, "revoked") {
		t.Fatalf("revoke: %v\n%s", err, said)
	}
	for _, k := range []string{key, fresh} {
		wantProblem(t, s.do("GET", "/v1/streams/"+id, "", authorization(k)...), http.StatusUnauthorized, protocol.CodeUnauthorized)
	}
	if _, said, err := s.athena(admin, "keys", "revoke", "nosuchkey"); err == nil || !strings.Contains(said, "there is no key") {
		t.Errorf("revoke nothing: %v\n%s", err, said)
	}
	if _, said, err := s.athena([]string{"ATHENA_TOKEN=" + fresh}, "keys", "list"); err == nil || !strings.Contains(said, "revoked") || strings.Contains(said, fresh) {
		t.Errorf("list with a revoked key: %v\n%s", err, said)
	}
	log := s.process.log()
	for name, secret := range map[string]string{"the admin's key": adminKey, "the key": key[20:], "the fresh key": fresh[20:]} {
		if strings.Contains(log, secret) {
			t.Errorf("the log shows %s", name)
		}
	}
}

func TestEachDoorIsForItsTenantAndItsScopeOnEveryNode(t *testing.T) {
	t.Parallel()
	g := together(t, []string{"a", "b"})
	a, b := g.nodes[0], g.nodes[1]
	g.up.SetReply(nil)
	g.up.SetScript(answer(0, "secret ", "words"))
	full := []string{"analyze", "read", "cancel"}
	acme, other := a.createKey(only("acme", full...)), a.createKey(only("globex", full...))
	none := a.createKey(`{"name":"none"}`)

	ofAcme := a.begin(authorization(acme.Key)...)
	ofNone := a.begin(authorization(none.Key)...)
	for _, id := range []string{ofAcme, ofNone} {
		a.until(id, ended) // as anybody on loopback, who sees all
	}

	t.Run("its tenant is let in, on another node too", func(t *testing.T) {
		b.wantDoors(t, ofAcme, acme.Key, 0, "")
		b.wantDoors(t, ofNone, none.Key, 0, "")
	})
	t.Run("other tenants are told that there is no such stream", func(t *testing.T) {
		b.wantDoors(t, ofAcme, other.Key, http.StatusNotFound, protocol.CodeStreamNotFound)
		a.wantDoors(t, ofAcme, none.Key, http.StatusNotFound, protocol.CodeStreamNotFound)
		b.wantDoors(t, ofNone, acme.Key, http.StatusNotFound, protocol.CodeStreamNotFound)
	})
	t.Run("in the same words as of one that doesn't exist", func(t *testing.T) {
		unknown := protocol.NewStreamIDFor("globex")
		for end := time.Now().Add(patience); ; { // while nodes come, a new stream may be one that isn't known yet
			if r := b.do("GET", "/v1/streams/"+unknown, "", authorization(other.Key)...); r.status == http.StatusNotFound {
				break
			} else if time.Now().After(end) {
				t.Fatalf("an unknown stream: %d %s", r.status, r.body)
			}
		}
		for _, d := range doors() {
			_, _, foreign := d.knock(b, ofAcme, other.Key)
			_, _, missing := d.knock(b, unknown, other.Key)
			if strings.ReplaceAll(foreign, ofAcme, "ID") != strings.ReplaceAll(missing, unknown, "ID") {
				t.Errorf("%s: %q, and %q where there is none", d.name, foreign, missing)
			}
		}
	})
	t.Run("a scope that is missing is named", func(t *testing.T) {
		for _, scope := range full {
			var rest []string
			for _, other := range full {
				if other != scope {
					rest = append(rest, other)
				}
			}
			k := a.createKey(only("acme", rest...))
			for _, d := range doors() {
				status, code, detail := d.knock(b, ofAcme, k.Key)
				if d.scope == scope && (status != http.StatusForbidden || code != protocol.CodeForbidden || !strings.Contains(detail, scope)) {
					t.Errorf("%s without %s: %d %s %q", d.name, scope, status, code, detail)
				} else if d.scope != scope && status != d.status {
					t.Errorf("%s without %s: %d %s %q", d.name, scope, status, code, detail)
				}
			}
			if r := b.do("POST", "/v1/analyses", aRequest, authorization(k.Key)...); (r.status == http.StatusForbidden) != (scope == "analyze") {
				t.Errorf("an analysis without %s: %d %s", scope, r.status, r.body)
			}
		}
	})
	t.Run("who may only analyse sees its own answer", func(t *testing.T) {
		k := a.createKey(only("acme", "analyze"))
		r := b.do("POST", "/v1/analyses?wait=20s", aRequest, authorization(k.Key)...)
		if r.status != http.StatusCreated || !strings.Contains(r.body, "secret words") {
			t.Errorf("%d %s", r.status, r.body)
		}
	})
	t.Run("an Idempotency-Key is its tenant's", func(t *testing.T) {
		mine := b.begin(append(authorization(acme.Key), "Idempotency-Key", "k1")...)
		yours := a.begin(append(authorization(other.Key), "Idempotency-Key", "k1")...)
		if mine == yours || !protocol.StreamOf(yours, "globex") {
			t.Errorf("the streams %s and %s", mine, yours)
		}
	})
	t.Run("an equal request of another tenant has an analysis of its own", func(t *testing.T) {
		g.up.SetScript(held("so far"))
		const request = `{"code":"the same"}`
		first := decode[protocol.Metadata](t, a.do("POST", "/v1/analyses", request, authorization(acme.Key)...))
		again := decode[protocol.Metadata](t, b.do("POST", "/v1/analyses", request, authorization(acme.Key)...))
		second := decode[protocol.Metadata](t, b.do("POST", "/v1/analyses", request, authorization(other.Key)...))
		if first.ID != again.ID || first.ID == second.ID || !protocol.StreamOf(second.ID, "globex") {
			t.Errorf("the streams %s, %s and %s", first.ID, again.ID, second.ID)
		}
		for _, id := range []string{first.ID, first.ID, second.ID} {
			a.do("DELETE", "/v1/streams/"+id, "")
		}
		g.up.SetScript(answer(0, "secret ", "words"))
	})
	t.Run("a share token is for one stream", func(t *testing.T) {
		r := b.do("POST", "/v1/streams/"+ofAcme+"/share", `{"expires_in":"10m"}`, authorization(acme.Key)...)
		share := decode[gateway.Share](t, r)
		if r.status != http.StatusCreated || share.Stream != ofAcme {
			t.Fatalf("%d %s", r.status, r.body)
		}
		another := a.begin(authorization(acme.Key)...)
		for _, d := range doors() {
			status, _, detail := d.knock(a, ofAcme, share.Token)
			want := d.status
			if d.scope != "read" || d.name == "share" {
				want = http.StatusForbidden
			}
			if status != want {
				t.Errorf("%s: %d %q; want %d", d.name, status, detail, want)
			}
			if status, code, _ := d.knock(a, another, share.Token); status < 400 || d.scope == "read" && d.name != "share" && code != protocol.CodeStreamNotFound {
				t.Errorf("%s of another stream: %d %s", d.name, status, code)
			}
		}
		for _, path := range []string{"/v1/providers", "/v1/keys", "/v1/cluster", "/metrics"} {
			wantProblem(t, a.do("GET", path, "", authorization(share.Token)...), http.StatusForbidden, protocol.CodeForbidden)
		}
		wantProblem(t, a.do("POST", "/v1/analyses", aRequest, authorization(share.Token)...), http.StatusForbidden, protocol.CodeForbidden)
		// Nor is more got by a ticket that is asked for with it.
		ticket := func() string {
			return "?ticket=" + url.QueryEscape(decode[protocol.Negotiation](t, a.do("POST", "/v1/negotiate", "", authorization(share.Token)...)).Ticket)
		}
		if r := b.do("GET", "/v1/streams/"+ofAcme+"/events"+ticket(), ""); r.status != http.StatusOK {
			t.Errorf("by a ticket: %d %s", r.status, r.body)
		}
		wantProblem(t, b.do("GET", "/v1/streams/"+another+"/events"+ticket(), ""), http.StatusNotFound, protocol.CodeStreamNotFound)
	})
	t.Run("a ticket opens no other door", func(t *testing.T) {
		for _, path := range []string{"/v1/streams/" + ofAcme, "/v1/providers", "/v1/keys", "/v1/cluster", "/metrics"} {
			n := decode[protocol.Negotiation](t, a.do("POST", "/v1/negotiate", "", authorization(acme.Key)...))
			wantProblem(t, b.do("GET", path+"?ticket="+url.QueryEscape(n.Ticket), ""), http.StatusUnauthorized, protocol.CodeUnauthorized)
		}
	})
	t.Run("an operator is let in by all", func(t *testing.T) {
		b.wantDoors(t, ofAcme, a.createKey(only("globex", "read", "cancel", "admin")).Key, 0, "")
	})
}

// endsWithin bounds how long a connection may outlive a revoked key in the tests:
// two seconds are promised, and the machine is slow and noisy.
const endsWithin = 10 * time.Second

func TestARevokedKeyEndsItsConnectionsOnEveryNode(t *testing.T) {
	g := together(t, []string{"a", "b"})
	a, b := g.nodes[0], g.nodes[1]
	g.up.SetReply(nil)
	g.up.SetScript(held("so far"))
	k := a.createKey(only("acme", "analyze", "read"))
	kept := a.createKey(only("acme", "read"))
	id := a.begin(authorization(k.Key)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	caller := target{url: b.url, header: bearer(k.Key)}
	soFar := func(l link) {
		t.Helper()
		for {
			d, err := l.next()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range d.events {
				if e.Type == protocol.TypeChunk {
					return
				}
			}
		}
	}
	cursors := []protocol.Cursor{{Stream: id}}
	var links []link
	for _, transport := range []string{protocol.TransportWebSocket, protocol.TransportSSE} {
		for _, to := range []target{caller, {url: b.url, header: bearer(kept.Key)}} {
			l, err := open(ctx, transport, to, cursors)
			if err != nil {
				t.Fatal(err)
			}
			defer l.close(true)
			soFar(l)
			links = append(links, l)
		}
	}
	share := decode[gateway.Share](t, a.do("POST", "/v1/streams/"+id+"/share", "", authorization(k.Key)...))
	shared, err := open(ctx, protocol.TransportSSE, target{url: a.url, header: bearer(share.Token)}, cursors)
	if err != nil {
		t.Fatal(err)
	}
	defer shared.close(true)
	soFar(shared)
	polled := make(chan reply, 2)
	for _, path := range []string{"/v1/streams/" + id + "/events?after=2&wait=60s", "/v1/streams/" + id + "/events?after=2&wait=60s"} {
		go func() { polled <- b.do("GET", path, "", authorization(k.Key)...) }()
	}
	for began := time.Now(); ; { // polls that wait are viewers
		m := decode[protocol.Metadata](t, b.do("GET", "/v1/streams/"+id, ""))
		if m.Viewers == len(links)+3 {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("%d viewers", m.Viewers)
		}
	}

	began := time.Now()
	if r := a.do("DELETE", "/v1/keys/"+k.ID, ""); r.status != http.StatusOK {
		t.Fatalf("revoke: %d %s", r.status, r.body)
	}
	_, err = links[0].next()
	if code := websocket.CloseStatus(err); code != protocol.CloseRevoked {
		t.Errorf("the WebSocket ended with %v, want %d", err, protocol.CloseRevoked)
	}
	for name, l := range map[string]link{"the event stream": links[2], "the shared one": shared} {
		if d, err := l.next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s goes on with %+v, %v", name, d, err)
		}
	}
	for range 2 {
		wantProblem(t, <-polled, http.StatusUnauthorized, protocol.CodeUnauthorized)
	}
	if took := time.Since(began); took > endsWithin {
		t.Errorf("it took %v", took)
	} else {
		t.Logf("all connections on the other node ended within %v", took)
	}
	// Those of another key go on.
	if r := a.do("DELETE", "/v1/streams/"+id, ""); r.status != http.StatusAccepted {
		t.Fatalf("cancel: %d %s", r.status, r.body)
	}
	for _, l := range []link{links[1], links[3]} {
		for over := false; !over; {
			d, err := l.next()
			if err != nil {
				t.Fatalf("another key's connection: %v", err)
			}
			for _, e := range d.events {
				over = over || e.Type == protocol.TypeCancelled
			}
		}
	}
}

func TestATicketIsGoodOnceOnAllNodesAndForItsPage(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.com"
	g := together(t, []string{"a", "b"}, "--allowed-origin", app, "--allowed-origin", "https://other.example.com")
	a, b := g.nodes[0], g.nodes[1]
	k := a.createKey(only("acme", "analyze", "read"))
	id := a.begin(authorization(k.Key)...)
	a.until(id, ended)
	ticket := func(header ...string) string {
		n := decode[protocol.Negotiation](t, a.do("POST", "/v1/negotiate", "", append(header, authorization(k.Key)...)...))
		if n.Ticket == "" {
			t.Fatal("no ticket")
		}
		return "?ticket=" + url.QueryEscape(n.Ticket)
	}
	events := "/v1/streams/" + id + "/events"
	once := ticket()
	if r := b.do("GET", events+once, ""); r.status != http.StatusOK {
		t.Errorf("on the other node: %d %s", r.status, r.body)
	}
	for _, s := range g.nodes {
		wantProblem(t, s.do("GET", events+once, ""), http.StatusUnauthorized, protocol.CodeUnauthorized)
	}
	// It is its owner's tenant, not anybody's.
	foreign := b.begin()
	wantProblem(t, b.do("GET", "/v1/streams/"+foreign+"/events"+ticket(), ""), http.StatusNotFound, protocol.CodeStreamNotFound)

	bound := ticket("Origin", app)
	wantProblem(t, b.do("GET", events+bound, "", "Origin", "https://other.example.com"), http.StatusUnauthorized, protocol.CodeUnauthorized)
	wantProblem(t, b.do("GET", events+bound, "", "Origin", app), http.StatusUnauthorized, protocol.CodeUnauthorized) // it is used up
	if r := b.do("GET", events+ticket("Origin", app), "", "Origin", app); r.status != http.StatusOK {
		t.Errorf("the page's own ticket: %d %s", r.status, r.body)
	}
	// Cross-site WebSocket hijacking: neither the browser's place on loopback nor a
	// ticket lets another site's page in.
	for _, with := range []string{"", ticket()} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, res, err := websocket.Dial(ctx, b.url+"/v1/ws"+with, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://evil.example"}}})
		cancel()
		if err == nil || res == nil || res.StatusCode != http.StatusForbidden {
			t.Errorf("a WebSocket of another site: %v", err)
		}
		if conn != nil {
			_ = conn.CloseNow()
		}
	}
}

func TestKnownKeysGoOnWorkingWithoutAMajorityAndNoneCanBeMade(t *testing.T) {
	t.Parallel()
	g := together(t, []string{"a", "b", "c"})
	a, b := g.nodes[0], g.nodes[1]
	k := b.createKey(only("acme", "analyze", "read"))
	if r := a.do("POST", "/v1/negotiate", "", authorization(k.Key)...); r.status != http.StatusOK {
		t.Fatalf("on the other node: %d %s", r.status, r.body)
	}
	b.kill()
	g.nodes[2].kill()
	if r := a.do("POST", "/v1/analyses?wait=20s", aRequest, authorization(k.Key)...); r.status != http.StatusCreated || !protocol.StreamOf(decode[protocol.Metadata](t, r).ID, "acme") {
		t.Errorf("a known key: %d %s", r.status, r.body)
	}
	before := a.generation()
	for _, r := range []reply{a.do("POST", "/v1/keys", `{"name":"late"}`), a.do("DELETE", "/v1/keys/"+k.ID, ""), a.do("DELETE", "/v1/cache", "")} {
		wantProblem(t, r, http.StatusServiceUnavailable, protocol.CodeServiceUnavailable)
	}
	if got := a.generation(); got != before {
		t.Errorf("the generation of cached answers is %q, want %q as before", got, before)
	}
}
