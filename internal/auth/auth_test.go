package auth_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/auth"
)

const key = "canary-key-0123456789"

// here is a request for a ticket that is no page's.
var here = httptest.NewRequest("POST", "/v1/negotiate", nil)

func authenticator(t *testing.T, o auth.Options, keys ...auth.Key) *auth.Authenticator {
	t.Helper()
	a, err := auth.New(keys, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serve answers with the caller's name and the query that the handler saw.
func serve(a *auth.Authenticator, target string, header ...string) (int, string) {
	h := a.Middleware(func(r *http.Request) bool { return r.URL.Path == "/stream" }, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := auth.FromContext(r.Context())
		if !ok || strings.Contains(r.RequestURI+r.URL.String(), "ticket") {
			w.WriteHeader(500)
		}
		_, _ = w.Write([]byte(id.Name + " " + r.URL.RawQuery)) // a recorder takes all
	}))
	r := httptest.NewRequest("GET", target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	if rec.Code == 401 && (rec.Header().Get("WWW-Authenticate") == "" || rec.Header().Get("Content-Type") != "application/problem+json") {
		return 0, "a 401 without its headers"
	}
	return rec.Code, rec.Body.String()
}

func TestCallersAreKnownByTheirKey(t *testing.T) {
	a := authenticator(t, auth.Options{AllowAnonymous: true}, auth.Key{Name: "ada", Secret: key}, auth.Key{Name: "bob", Secret: "another"})
	for _, c := range []struct {
		name   string
		header []string
		status int
		body   string
	}{
		{"bearer", []string{"Authorization", "Bearer " + key}, 200, "ada "},
		{"bearer in another case", []string{"Authorization", "bearer  another"}, 200, "bob "},
		{"X-API-Key", []string{"X-API-Key", "another"}, 200, "bob "},
		{"none", nil, 401, "an API key is needed"},
		{"unknown", []string{"Authorization", "Bearer " + key + "x"}, 401, "the API key is not known"},
		{"part of one", []string{"X-API-Key", key[:10]}, 401, "the API key is not known"},
		{"empty", []string{"Authorization", "Bearer "}, 401, "the API key is not known"},
		{"without scheme", []string{"Authorization", key}, 401, "must be \\\"Bearer KEY\\\""},
		{"basic", []string{"Authorization", "Basic " + key}, 401, "must be \\\"Bearer KEY\\\""},
		{"huge", []string{"X-API-Key", strings.Repeat("x", 1<<20)}, 401, "the API key is not known"},
		{"a wrong bearer beside a right key", []string{"Authorization", "Bearer x", "X-API-Key", key}, 401, "the API key is not known"},
	} {
		status, body := serve(a, "/x", c.header...)
		if status != c.status || !strings.Contains(body, c.body) || strings.Contains(body, "canary") {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
}

func TestWithoutKeysEverybodyIsAnonymousOrNobodyGetsIn(t *testing.T) {
	a := authenticator(t, auth.Options{AllowAnonymous: true})
	if status, body := serve(a, "/x?a=1"); status != 200 || body != "anonymous a=1" {
		t.Errorf("%d %s", status, body)
	}
	if a.Required() || a.Ticket(auth.Anonymous, here) != "" {
		t.Error("tickets are made although nobody needs them")
	}
	// Who brings a credential wants to be who it says.
	for _, header := range [][]string{{"Authorization", "Bearer anything"}, {"X-API-Key", "anything"}} {
		if status, _ := serve(a, "/x", header...); status != 401 {
			t.Errorf("an unknown credential, %v: %d", header, status)
		}
	}
	if status, _ := serve(a, "/stream?ticket=t"); status != 401 {
		t.Errorf("an unknown ticket: %d", status)
	}
	if _, err := auth.New(nil, auth.Options{}); err == nil {
		t.Error("no keys and no anonymous callers were accepted")
	}
	if _, err := auth.New([]auth.Key{{Name: "empty"}}, auth.Options{}); err == nil {
		t.Error("an empty key was accepted")
	}
}

func TestATicketIsGoodOnceAndForItsIdentity(t *testing.T) {
	a := authenticator(t, auth.Options{}, auth.Key{Name: "ada", Secret: key})
	ticket := a.Ticket(auth.Identity{Name: "ada"}, here)
	if other := a.Ticket(auth.Identity{Name: "ada"}, here); len(ticket) < 43 || other == ticket {
		t.Errorf("tickets %q and %q", ticket, other)
	}
	for _, c := range []struct {
		name, target string
		status       int
		body         string
	}{
		{"where none may stand", "/x?ticket=" + ticket, 401, "only for WebSocket"},
		{"first use", "/stream?after=3&ticket=" + ticket + "&stream=a", 200, "ada after=3&stream=a"},
		{"second use", "/stream?ticket=" + ticket, 401, "has been used or has expired"},
		{"guessed", "/stream?ticket=AAAA", 401, "has been used or has expired"},
		{"the key in its place", "/stream?ticket=" + key, 401, "has been used or has expired"},
		{"escaped", "/stream?%74icket=" + a.Ticket(auth.Identity{Name: "ada"}, here), 200, "ada "},
	} {
		status, body := serve(a, c.target)
		if status != c.status || !strings.Contains(body, c.body) || strings.Contains(body, ticket) || strings.Contains(body, "canary") {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
}

func TestATicketExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authenticator(t, auth.Options{}, auth.Key{Name: "ada", Secret: key})
		early, late := a.Ticket(auth.Identity{Name: "ada"}, here), a.Ticket(auth.Identity{Name: "ada"}, here)
		time.Sleep(30*time.Second - 1)
		if status, _ := serve(a, "/stream?ticket="+early); status != 200 {
			t.Errorf("before its end: %d", status)
		}
		time.Sleep(time.Nanosecond)
		if status, _ := serve(a, "/stream?ticket="+late); status != 401 {
			t.Errorf("after its end: %d", status)
		}
	})
}

func TestTheOldestTicketsGiveWay(t *testing.T) {
	a := authenticator(t, auth.Options{MaxTickets: 2}, auth.Key{Name: "ada", Secret: key})
	id := auth.Identity{Name: "ada"}
	first, second, third := a.Ticket(id, here), a.Ticket(id, here), a.Ticket(id, here)
	for i, c := range []struct {
		ticket string
		status int
	}{{first, 401}, {second, 200}, {third, 200}} {
		if status, _ := serve(a, "/stream?ticket="+c.ticket); status != c.status {
			t.Errorf("ticket %d: %d", i, status)
		}
	}
}

func TestWhoAsksForManyTicketsTakesNoneOfOthers(t *testing.T) {
	a := authenticator(t, auth.Options{AllowAnonymous: true, MaxTickets: 8})
	ada, bob := auth.Identity{Name: "ada", Tenant: "acme"}, auth.Identity{Name: "bob", Tenant: "globex"}
	before := []string{a.Ticket(bob, here), a.Ticket(bob, here)}
	var last string
	for range 100 {
		last = a.Ticket(ada, here)
	}
	after := a.Ticket(bob, here)
	for _, ticket := range append(before, last, after) {
		if status, body := serve(a, "/stream?ticket="+ticket); status != 200 {
			t.Errorf("%d %s", status, body)
		}
	}
}

func TestOneOfManyGetsATicketThatAllTry(t *testing.T) {
	a := authenticator(t, auth.Options{}, auth.Key{Name: "ada", Secret: key})
	ticket := a.Ticket(auth.Identity{Name: "ada"}, here)
	var in atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if status, _ := serve(a, "/stream?ticket="+ticket); status == 200 {
				in.Add(1)
			}
		})
	}
	wg.Wait()
	if in.Load() != 1 {
		t.Errorf("%d callers used one ticket", in.Load())
	}
}

func TestAnOwnerIsATenantOrACaller(t *testing.T) {
	for _, c := range []struct {
		id             auth.Identity
		tenant, caller string
	}{
		{auth.Identity{Name: "ada", Tenant: "acme"}, "acme", ""},
		{auth.Identity{Name: "ada"}, "", "ada"},
		{auth.Anonymous, "", ""},
	} {
		if tenant, caller := auth.SplitOwner(c.id.Owner()); tenant != c.tenant || caller != c.caller {
			t.Errorf("the owner of %+v is %q, %q; want %q, %q", c.id, tenant, caller, c.tenant, c.caller)
		}
	}
}
