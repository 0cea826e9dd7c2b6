package auth_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/auth/authtest"
	"github.com/athena-hub/athena/protocol"
)

// ring opens a key ring, as one node's of several that have the store.
func ring(t testing.TB, store *authtest.Store, o auth.KeyringOptions) *auth.Keyring {
	t.Helper()
	o.Store = store
	k, err := auth.OpenKeyring(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func withKeys(t testing.TB, k *auth.Keyring) *auth.Authenticator {
	t.Helper()
	a, err := auth.New(nil, auth.Options{Stored: k})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func make1(t testing.TB, k *auth.Keyring, n auth.NewKey) (text, id string) {
	t.Helper()
	text, info, err := k.Create(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return text, info.ID
}

// refused is what the token is refused with, "" where it is taken.
func refused(a *auth.Authenticator, token string) string {
	_, err := a.Token(token)
	if err == nil {
		return ""
	}
	return protocol.AsError(err).Detail
}

func TestAStoredKeyLetsItsOwnerInOnEveryNodeAndIsStoredAsAHash(t *testing.T) {
	store := authtest.NewStore()
	here, there := ring(t, store, auth.KeyringOptions{}), ring(t, store, auth.KeyringOptions{})
	text, id := make1(t, here, auth.NewKey{Name: "ci", Tenant: "acme", Scopes: auth.ScopeAnalyze | auth.ScopeRead, ExpiresIn: time.Hour})
	late := ring(t, store, auth.KeyringOptions{}) // started when the key was there
	for name, k := range map[string]*auth.Keyring{"this": here, "another": there, "a later": late} {
		got, err := withKeys(t, k).Token(text)
		if err != nil || got.Name != "ci" || got.Tenant != "acme" || got.Scopes != auth.ScopeAnalyze|auth.ScopeRead || got.Credential != "key:"+id || time.Until(got.Expires) < time.Minute {
			t.Errorf("on %s node: %+v, %v", name, got, err)
		}
	}
	secret := text[len("athena_")+13:]
	for _, s := range []string{text, secret, base64.StdEncoding.EncodeToString([]byte(text)), secret[:20]} {
		if strings.Contains(store.Records(), s) {
			t.Error("the store has the secret")
		}
	}
	list := there.List()
	if len(list) != 1 || list[0].ID != id || list[0].Prefix != text[:len(list[0].Prefix)] || list[0].State(time.Now()) != auth.KeyActive {
		t.Errorf("listed as %+v", list)
	}
}

func TestWhatIsNotQuiteAKeyIsRefused(t *testing.T) {
	k := ring(t, authtest.NewStore(), auth.KeyringOptions{})
	a := withKeys(t, k)
	text, _ := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	other, _ := make1(t, k, auth.NewKey{Name: "other", Scopes: auth.ScopeRead})
	flip := func(i int) string {
		b := []byte(text)
		b[i] = "ab"[b[i]&1]
		if string(b) == text {
			b[i] = 'c'
		}
		return string(b)
	}
	for name, token := range map[string]string{
		"nothing": "", "its beginning": text[:20], "all but the end": text[:len(text)-1], "one character more": text + "a",
		"another id": text[:7] + other[7:19] + text[19:], "another secret": flip(30), "another checksum": flip(len(text) - 1),
		"upper case": strings.ToUpper(text), "huge": strings.Repeat(text, 1000), "a NUL": strings.Replace(text, "_", "\x00", 1),
	} {
		if got := refused(a, token); !strings.Contains(got, "not known") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestARevokedKeyIsRefusedOnEveryNodeAtOnce(t *testing.T) {
	store := authtest.NewStore()
	here, there := ring(t, store, auth.KeyringOptions{}), ring(t, store, auth.KeyringOptions{})
	text, id := make1(t, here, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	a := withKeys(t, there)
	if got := refused(a, text); got != "" {
		t.Fatal(got)
	}
	for range 2 { // the second time changes nothing
		if _, err := here.Revoke(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []*auth.Keyring{here, there, ring(t, store, auth.KeyringOptions{})} {
		if got := refused(withKeys(t, k), text); !strings.Contains(got, "revoked") {
			t.Errorf("after its revocation: %q", got)
		}
	}
	if _, _, err := here.Rotate(t.Context(), id, 0); !errors.Is(err, protocol.ErrValidation) {
		t.Errorf("a revoked key was rotated: %v", err)
	}
	if _, err := here.Revoke(t.Context(), "aaaaaaaaaaaa"); protocol.AsError(err).Status != 404 {
		t.Errorf("an unknown key was revoked: %v", err)
	}
}

func TestARotatedKeysOldSecretIsGoodForTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := ring(t, authtest.NewStore(), auth.KeyringOptions{})
		a := withKeys(t, k)
		first, id := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
		second, info, err := k.Rotate(t.Context(), id, time.Minute)
		if err != nil || info.State(time.Now()) != auth.KeyRotating {
			t.Fatal(info, err)
		}
		time.Sleep(time.Minute - time.Second)
		if refused(a, first) != "" || refused(a, second) != "" {
			t.Error("within the grace one of the two is refused")
		}
		time.Sleep(time.Second)
		if refused(a, first) == "" || refused(a, second) != "" {
			t.Error("after the grace the old one is taken, or the new one refused")
		}
		third, _, err := k.Rotate(t.Context(), id, 0)
		if err != nil || refused(a, second) == "" || refused(a, third) != "" {
			t.Errorf("without a grace: %v", err)
		}
	})
}

func TestAKeyExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := ring(t, authtest.NewStore(), auth.KeyringOptions{})
		a := withKeys(t, k)
		text, _ := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead, ExpiresIn: time.Hour})
		time.Sleep(time.Hour - time.Second)
		if got := refused(a, text); got != "" {
			t.Error(got)
		}
		time.Sleep(time.Second)
		if got := refused(a, text); !strings.Contains(got, "expired") {
			t.Errorf("after its end: %q", got)
		}
	})
}

func TestKnownKeysGoOnWorkingWhileTheStoreIsAwayAndLostNewsIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		here, there := ring(t, store, auth.KeyringOptions{}), ring(t, store, auth.KeyringOptions{})
		a := withKeys(t, there)
		text, id := make1(t, here, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
		store.SetDown(true)
		time.Sleep(time.Minute)
		if got := refused(a, text); got != "" {
			t.Error(got)
		}
		for name, err := range map[string]error{
			"create": second(here.Create(t.Context(), auth.NewKey{Name: "x", Scopes: auth.ScopeRead})),
			"revoke": last(here.Revoke(t.Context(), id)), "rotate": second(here.Rotate(t.Context(), id, 0)),
		} {
			if e := protocol.AsError(err); e.Code != protocol.CodeServiceUnavailable || e.RetryAfterMS == 0 {
				t.Errorf("%s while the store is away: %v", name, err)
			}
		}
		unread := ring(t, store, auth.KeyringOptions{})
		late := withKeys(t, unread)
		if _, err := late.Token(text); protocol.AsError(err).Code != protocol.CodeServiceUnavailable {
			t.Errorf("a node that has not read the keys: %v", err)
		}
		store.SetDown(false)
		store.SetDeaf(true) // what is announced gets lost
		if _, err := here.Revoke(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		for _, a := range []*auth.Authenticator{a, late} {
			if got := refused(a, text); !strings.Contains(got, "revoked") {
				t.Errorf("a revocation that was not announced: %q", got)
			}
		}
	})
}

func TestAKeyWhoseNewsHasNotComeYetIsLookedForButNotForEachThatIsMadeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		here, there := ring(t, store, auth.KeyringOptions{}), ring(t, store, auth.KeyringOptions{})
		a := withKeys(t, there)
		store.SetDeaf(true) // what is announced gets lost
		text, _ := make1(t, here, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
		if got := refused(a, text); got != "" {
			t.Errorf("a key that another node has just made: %s", got)
		}
		elsewhere := ring(t, authtest.NewStore(), auth.KeyringOptions{})
		before := store.Reads()
		for range 200 {
			unknown, _ := make1(t, elsewhere, auth.NewKey{Name: "x", Scopes: auth.ScopeRead})
			if got := refused(a, unknown); !strings.Contains(got, "not known") {
				t.Fatalf("a key that was made up: %q", got)
			}
		}
		if n := store.Reads() - before; n < 10 || n > 20 {
			t.Errorf("200 keys that were made up had the store read %d times", n)
		}
	})
}

func second[A, B any](_ A, _ B, err error) error { return err }
func last[A any](_ A, err error) error           { return err }

func TestKeysAreBounded(t *testing.T) {
	store := authtest.NewStore()
	k := ring(t, store, auth.KeyringOptions{MaxKeys: 3, MaxShares: 2})
	by := auth.Identity{Name: "ada", Tenant: "acme", Scopes: auth.ScopeRead}
	stream := protocol.NewStreamIDFor("acme")
	for range 2 {
		if _, _, err := k.Share(t.Context(), by, stream, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := k.Share(t.Context(), by, stream, time.Hour); protocol.AsError(err).Code != protocol.CodeRateLimited {
		t.Errorf("a share token too many: %v", err)
	}
	make1(t, k, auth.NewKey{Name: "x", Scopes: auth.ScopeRead})
	if _, _, err := k.Create(t.Context(), auth.NewKey{Name: "x", Scopes: auth.ScopeRead}); protocol.AsError(err).Code != protocol.CodeForbidden {
		t.Errorf("a key too many: %v", err)
	}
	for _, n := range []auth.NewKey{
		{Scopes: auth.ScopeRead}, {Name: "x"}, {Name: "x\n", Scopes: 1}, {Name: "tenant:acme", Scopes: 1}, {Name: "x", Tenant: "~ada", Scopes: 1}, {Name: "x", Tenant: strings.Repeat("t", 129), Scopes: 1},
		{Name: "x", Scopes: 1, ExpiresIn: -1}, {Name: "x", Scopes: 1, ExpiresIn: 20 * 365 * 24 * time.Hour},
	} {
		if _, _, err := k.Create(t.Context(), n); !errors.Is(err, protocol.ErrValidation) {
			t.Errorf("%+v: %v", n, err)
		}
	}
}

func TestSharedStreamsLeaveRoomForKeys(t *testing.T) {
	k := ring(t, authtest.NewStore(), auth.KeyringOptions{MaxKeys: 20})
	var err error
	shared := 0
	for ; err == nil; shared++ {
		tenant := string(rune('a' + shared))
		_, _, err = k.Share(t.Context(), auth.Identity{Name: "ada", Tenant: tenant, Scopes: auth.ScopeRead}, protocol.NewStreamIDFor(tenant), time.Hour)
	}
	if e := protocol.AsError(err); shared-1 != 18 || e.Code != protocol.CodeOverloaded || e.RetryAfterMS == 0 {
		t.Errorf("%d streams were shared, then %v", shared-1, err)
	}
	make1(t, k, auth.NewKey{Name: "x", Scopes: auth.ScopeRead})
}

func TestAShareTokenReadsOneStreamAndEndsWithTheKeyThatMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		k := ring(t, store, auth.KeyringOptions{})
		a := withKeys(t, k)
		text, id := make1(t, k, auth.NewKey{Name: "ci", Tenant: "acme", Scopes: auth.ScopeRead})
		by, err := a.Token(text)
		if err != nil {
			t.Fatal(err)
		}
		stream, other := protocol.NewStreamIDFor("acme"), protocol.NewStreamIDFor("acme")
		token, info, err := k.Share(t.Context(), by, stream, time.Hour)
		if err != nil || info.Scopes != auth.ScopeRead {
			t.Fatal(info, err)
		}
		shared, err := a.Token(token)
		if err != nil || !shared.Sees(stream) || shared.Sees(other) || shared.Scopes != auth.ScopeRead || shared.Tenant != "acme" {
			t.Errorf("%+v, %v", shared, err)
		}
		if slices.ContainsFunc(k.List(), func(i auth.KeyInfo) bool { return i.ID == info.ID }) {
			t.Error("a share token is listed as a key")
		}
		if _, _, err := k.Share(t.Context(), by, stream, auth.MaxShareAge+1); !errors.Is(err, protocol.ErrValidation) {
			t.Errorf("a token that is good for too long: %v", err)
		}
		_, ended := connect(t, a, token)
		if _, _, err := k.Rotate(t.Context(), id, 0); err != nil {
			t.Fatal(err)
		}
		if got := ended.Load(); got != 0 || refused(a, text) == "" || refused(a, token) != "" {
			t.Errorf("whom a stream was shared with watches on when the key that did has another secret: its connection ended with %d; %q", got, refused(a, token))
		}
		if _, err := k.Revoke(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if ended.Load() != protocol.CloseRevoked {
			t.Errorf("its connection ended with %d", ended.Load())
		}
		if got := refused(a, token); !strings.Contains(got, "revoked") {
			t.Errorf("after its maker's end: %q", got)
		}
		// Expired ones make room again.
		by.Credential = ""
		if token, _, err = k.Share(t.Context(), by, stream, time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := refused(a, token); !strings.Contains(got, "expired") {
			t.Errorf("after its end: %q", got)
		}
	})
}

// connect is a connection by a token; it tells how it ended.
func connect(t *testing.T, a *auth.Authenticator, token string) (ctx context.Context, ended *atomic.Int32) {
	t.Helper()
	served := make(chan context.Context, 1)
	h := a.Middleware(func(*http.Request) bool { return false }, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { served <- r.Context() }))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-API-Key", token)
	h.ServeHTTP(httptest.NewRecorder(), r)
	select {
	case ctx = <-served:
	default:
		t.Fatal("the key was refused")
	}
	ended = new(atomic.Int32)
	t.Cleanup(auth.HoldOf(ctx).Watch(func(code int, _ string) { ended.Store(int32(code)) }))
	return ctx, ended
}

func TestConnectionsEndWithTheirCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		here, there := ring(t, store, auth.KeyringOptions{}), ring(t, store, auth.KeyringOptions{})
		a := withKeys(t, there)
		create := func(life time.Duration) (text, id string) {
			return make1(t, here, auth.NewKey{Name: "ci", Tenant: "acme", Scopes: auth.ScopeRead, ExpiresIn: life})
		}
		revoked, revokedID := create(0)
		rotated, rotatedID := create(0)
		expiring, _ := create(time.Minute)
		renewed, _ := create(time.Minute)
		fresh, _ := create(time.Hour)

		_, byRevoked := connect(t, a, revoked)
		_, byRotated := connect(t, a, rotated)
		_, byExpiring := connect(t, a, expiring)
		ctx, byRenewed := connect(t, a, renewed)
		if _, err := here.Revoke(t.Context(), revokedID); err != nil {
			t.Fatal(err)
		}
		if _, _, err := here.Rotate(t.Context(), rotatedID, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if byRevoked.Load() != protocol.CloseRevoked || byRotated.Load() != 0 || byExpiring.Load() != 0 {
			t.Errorf("after the revocation: %d, %d, %d", byRevoked.Load(), byRotated.Load(), byExpiring.Load())
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if byRotated.Load() != protocol.CloseRevoked {
			t.Errorf("after the rotation's grace: %d", byRotated.Load())
		}
		time.Sleep(time.Minute) // 71 s: expired, and within the grace of 30 s
		synctest.Wait()
		if byExpiring.Load() != 0 {
			t.Errorf("before the grace is over: %d", byExpiring.Load())
		}
		if err := a.Renew(ctx, fresh); err != nil {
			t.Errorf("a fresh key within the grace: %v", err)
		}
		if err := a.Renew(ctx, renewed); err == nil {
			t.Error("an expired key renewed a connection")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if byExpiring.Load() != protocol.CloseExpired || byRenewed.Load() != 0 {
			t.Errorf("after the grace: %d, and %d where it was renewed", byExpiring.Load(), byRenewed.Load())
		}
		other, _ := make1(t, here, auth.NewKey{Name: "ci", Tenant: "globex", Scopes: auth.ScopeRead})
		if err := a.Renew(ctx, other); !errors.Is(err, protocol.Errorf(protocol.CodeForbidden, "")) {
			t.Errorf("another tenant's key: %v", err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if byRenewed.Load() != protocol.CloseExpired {
			t.Errorf("after the fresh key's end: %d", byRenewed.Load())
		}
	})
}

func TestATicketEndsWithItsKeyAndIsForThePageThatAskedForIt(t *testing.T) {
	k := ring(t, authtest.NewStore(), auth.KeyringOptions{})
	a := withKeys(t, k)
	text, id := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	who, err := a.Token(text)
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewRequest("POST", "http://athena.example/v1/negotiate", nil)
	page.Header.Set("Origin", "https://app.example")
	own := httptest.NewRequest("POST", "http://athena.example/v1/negotiate", nil)
	own.Header.Set("Origin", "http://athena.example")
	for _, c := range []struct {
		name, ticket, target string
		origin               string // or Sec-Fetch-Site, where it is none
		status               int
	}{
		{"the server's own page, behind a proxy that changes the host", a.Ticket(who, own), "http://10.0.0.1/stream", "same-origin", 200},
		{"another page's image", a.Ticket(who, own), "http://athena.example/stream", "cross-site", 401},
		{"the same page", a.Ticket(who, page), "http://athena.example/stream", "https://app.example", 200},
		{"another page", a.Ticket(who, page), "http://athena.example/stream", "https://evil.example", 401},
		{"no page", a.Ticket(who, page), "http://athena.example/stream", "", 401},
		{"the server's own page, which says so", a.Ticket(who, own), "http://athena.example/stream", "http://athena.example", 200},
		{"the server's own page, whose browser doesn't", a.Ticket(who, own), "http://athena.example/stream", "", 200},
		{"another page, with the server's own's", a.Ticket(who, own), "http://athena.example/stream", "https://evil.example", 401},
		{"a program's, from anywhere", a.Ticket(who, here), "http://athena.example/stream", "https://app.example", 200},
	} {
		header := []string{}
		switch {
		case strings.Contains(c.origin, ":"):
			header = []string{"Origin", c.origin}
		case c.origin != "":
			header = []string{"Sec-Fetch-Site", c.origin}
		}
		if status, body := serve(a, c.target+"?ticket="+c.ticket, header...); status != c.status {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
		if status, _ := serve(a, c.target+"?ticket="+c.ticket, "Origin", "https://app.example"); status != 401 {
			t.Errorf("%s: it could be used again", c.name)
		}
	}
	ticket := a.Ticket(who, here)
	if _, err := k.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if status, body := serve(a, "/stream?ticket="+ticket); status != 401 || !strings.Contains(body, "revoked") {
		t.Errorf("after its key's end: %d %s", status, body)
	}
}

func TestWhatAnIdentityStartsBelongsToItsTenant(t *testing.T) {
	for _, c := range []struct {
		id   auth.Identity
		want string
	}{
		{auth.Anonymous, ""}, {auth.Identity{Name: "ada"}, "ada"}, {auth.Identity{Name: "ada", Tenant: "acme"}, "tenant:acme"},
		{auth.Identity{Name: "bob", Tenant: "acme"}, "tenant:acme"}, {auth.Identity{Name: "acme"}, "acme"},
	} {
		if got := c.id.Owner(); got != c.want {
			t.Errorf("%+v owns as %q", c.id, got)
		}
	}
	acme := auth.Identity{Scopes: auth.DefaultScopes, Tenant: "acme"}
	if !acme.Sees(protocol.NewStreamIDFor("acme")) || acme.Sees(protocol.NewStreamIDFor("globex")) || acme.Sees(protocol.NewStreamID()) {
		t.Error("a tenant sees its own streams and no others")
	}
	admin := auth.Identity{Scopes: auth.AllScopes, Tenant: "acme"}
	if !admin.Sees(protocol.NewStreamIDFor("globex")) || admin.Sees("x") {
		t.Error("an operator sees all streams, and only streams")
	}
}

func FuzzStoredKeyRecords(f *testing.F) {
	f.Add("abcdefghijkl", []byte(`{"v":1,"name":"ci","scopes":["read"],"hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","generation":1,"created":"2026-11-22T21:00:00Z"}`))
	f.Add("abcdefghijkl", []byte(`{"v":1,"old":{"hash":""}}`))
	f.Add("", []byte(`{}`))
	f.Fuzz(func(t *testing.T, id string, record []byte) {
		store := authtest.NewStore()
		if _, _, err := store.Create(t.Context(), id, record, 0); err != nil {
			t.Fatal(err)
		}
		k, err := auth.OpenKeyring(t.Context(), auth.KeyringOptions{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		for _, i := range k.List() {
			if i.Scopes&^auth.AllScopes != 0 || len(i.Name) > 128 || strings.ContainsAny(i.Name+i.Tenant, "\n\x1b") {
				t.Errorf("a key was taken in as %+v", i)
			}
		}
	})
}

func FuzzTokens(f *testing.F) {
	k := ring(f, authtest.NewStore(), auth.KeyringOptions{})
	a := withKeys(f, k)
	text, _ := make1(f, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	f.Add(text)
	f.Add(text[:40])
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		if id, err := a.Token(token); (err == nil) != (token == text) {
			t.Errorf("%q is %+v, %v", token, id, err)
		}
	})
}

func TestWhatIsSharedByACallerWithoutAStoredKeyCanBeRead(t *testing.T) {
	k := ring(t, authtest.NewStore(), auth.KeyringOptions{})
	a := withKeys(t, k)
	for _, credential := range []string{"static:root", "jwt:ada", ""} {
		stream := protocol.NewStreamID()
		text, _, err := k.Share(t.Context(), auth.Identity{Name: "ada", Scopes: auth.AllScopes, Credential: credential}, stream, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := a.Token(text); err != nil || !id.Sees(stream) {
			t.Errorf("shared by %q: %+v, %v", credential, id, err)
		}
	}
}
