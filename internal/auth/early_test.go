package auth_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/auth/authtest"
	"github.com/athena-hub/athena/protocol"
)

// A torn store goes away in the middle of its changes, until it is whole.
type torn struct {
	*authtest.Store
	whole atomic.Bool
	n     int // how many changes it tells before
}

func (s *torn) Changes(ctx context.Context, after uint64, f func(id string, record []byte, revision uint64)) error {
	told := 0
	err := s.Store.Changes(ctx, after, func(id string, record []byte, revision uint64) {
		if told++; s.whole.Load() || told <= s.n {
			f(id, record, revision)
		}
	})
	if err == nil && !s.whole.Load() {
		err = authtest.ErrDown
	}
	return err
}

func TestAShareTokenWhoseMakerIsNotKnownYetLetsNobodyIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		k := ring(t, store, auth.KeyringOptions{})
		text, id := make1(t, k, auth.NewKey{Name: "ci", Tenant: "acme", Scopes: auth.ScopeRead})
		by, err := withKeys(t, k).Token(text)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := k.Share(t.Context(), by, protocol.NewStreamIDFor("acme"), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Revoke(t.Context(), id); err != nil { // which is written behind the token
			t.Fatal(err)
		}
		s := &torn{Store: store, n: 1}
		late, err := auth.OpenKeyring(t.Context(), auth.KeyringOptions{Store: s})
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		a := withKeys(t, late)
		if _, err := a.Token(token); protocol.AsError(err).Code != protocol.CodeServiceUnavailable {
			t.Errorf("before its maker was read: %v", err)
		}
		s.whole.Store(true)
		time.Sleep(6 * time.Second)
		if got := refused(a, token); !strings.Contains(got, "revoked") {
			t.Errorf("then: %q", got)
		}
	})
}

// byTicket is a connection by another node's ticket.
func byTicket(t *testing.T, a *auth.Authenticator) (ended *atomic.Int32, status int) {
	t.Helper()
	ended = new(atomic.Int32)
	h := a.Middleware(func(*http.Request) bool { return true }, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Cleanup(auth.HoldOf(r.Context()).Watch(func(code int, _ string) { ended.Store(int32(code)) }))
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/?ticket=there.x", nil))
	return ended, w.Code
}

func TestAConnectionByATicketEndsWithItsKeyAlsoWhereTheKeysWereReadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		there := ring(t, store, auth.KeyringOptions{})
		var id auth.Identity
		late := func() *auth.Authenticator {
			store.SetDown(true)
			a, err := auth.New(nil, auth.Options{Stored: ring(t, store, auth.KeyringOptions{}), Node: "here",
				Elsewhere: func(context.Context, string, string, auth.Place) (auth.Identity, bool) { return id, true }})
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		text, revoked := make1(t, there, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
		expiring, _ := make1(t, there, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead, ExpiresIn: time.Minute})
		token := func(text string) auth.Identity {
			id, err := withKeys(t, there).Token(text)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		id = token(text)
		other := token(expiring)
		if _, err := there.Revoke(t.Context(), revoked); err != nil {
			t.Fatal(err)
		}
		a := late()
		byRevoked, status := byTicket(t, a)
		id = other
		byExpiring, too := byTicket(t, a)
		if status != 200 || too != 200 {
			t.Fatalf("%d, %d", status, too)
		}
		time.Sleep(2 * time.Minute) // the store is still away
		synctest.Wait()
		if byRevoked.Load() != 0 || byExpiring.Load() != protocol.CloseExpired {
			t.Errorf("while the store is away they ended with %d and %d", byRevoked.Load(), byExpiring.Load())
		}
		store.SetDown(false)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if byRevoked.Load() != protocol.CloseRevoked {
			t.Errorf("when the keys were read it ended with %d", byRevoked.Load())
		}
	})
}

func TestATicketOfAKeyWhoseNewsHasNotComeYetIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		here, there := ring(t, store, auth.KeyringOptions{}), ring(t, store, auth.KeyringOptions{})
		store.SetDeaf(true)
		text, _ := make1(t, there, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
		id, err := withKeys(t, there).Token(text)
		if err != nil {
			t.Fatal(err)
		}
		a, err := auth.New(nil, auth.Options{Stored: here, Node: "here", Elsewhere: func(context.Context, string, string, auth.Place) (auth.Identity, bool) { return id, true }})
		if err != nil {
			t.Fatal(err)
		}
		if ended, status := byTicket(t, a); status != 200 || ended.Load() != 0 {
			t.Errorf("%d, ended with %d", status, ended.Load())
		}
	})
}

func TestARevokedShareTokenIsForgottenInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore() // it forgets nothing by itself, as the store doesn't what was replaced
		k := ring(t, store, auth.KeyringOptions{MaxShares: 1})
		by := auth.Identity{Name: "ada", Tenant: "acme", Scopes: auth.ScopeRead}
		token, info, err := k.Share(t.Context(), by, protocol.NewStreamIDFor("acme"), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := k.Rotate(t.Context(), info.ID, 0); !errors.Is(err, protocol.ErrValidation) {
			t.Errorf("it was given another secret: %v", err)
		}
		if _, err := k.Revoke(t.Context(), info.ID); err != nil {
			t.Fatal(err)
		}
		if got := refused(withKeys(t, k), token); !strings.Contains(got, "revoked") {
			t.Errorf("after its revocation: %q", got)
		}
		time.Sleep(2 * time.Hour)
		if strings.Contains(store.Records(), info.ID) {
			t.Error("it is still stored")
		}
		if _, _, err := k.Share(t.Context(), by, protocol.NewStreamIDFor("acme"), time.Hour); err != nil {
			t.Errorf("another one: %v", err)
		}
	})
}

func TestAKeyByMistakeInThePlaceOfItsIDIsNotRepeated(t *testing.T) {
	k := ring(t, authtest.NewStore(), auth.KeyringOptions{})
	text, _ := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	for _, err := range []error{last(k.Revoke(t.Context(), text)), second(k.Rotate(t.Context(), text, 0))} {
		if err == nil || strings.Contains(err.Error(), text[20:25]) {
			t.Errorf("%v", err)
		}
	}
}

func TestASecretIsTakenOutOfTextWhereItStandsByMistake(t *testing.T) {
	k := ring(t, authtest.NewStore(), auth.KeyringOptions{})
	a, _ := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	b, _ := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	for in, want := range map[string]string{
		"/v1/keys/" + a + "/rotate": "/v1/keys/" + a[:20] + "…/rotate", a + b: a[:20] + "…" + b[:20] + "…", a + "/" + b: a[:20] + "…/" + b[:20] + "…",
		a[:19]: a[:19], a[:25]: a[:20] + "…", "/athena_/x": "/athena_/x", "athena_ABCDEFGHIJKL_x": "athena_ABCDEFGHIJKL_x", "": "",
	} {
		if got := auth.HideKeys(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestAKeyOfTheConfigurationIsTakenBeforeTheStoredOnesAreRead(t *testing.T) {
	store := authtest.NewStore()
	k := ring(t, store, auth.KeyringOptions{})
	looksStored, _ := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	stored, _ := make1(t, k, auth.NewKey{Name: "ci", Scopes: auth.ScopeRead})
	store.SetDown(true)
	a, err := auth.New([]auth.Key{{Name: "root", Secret: looksStored}}, auth.Options{Stored: ring(t, store, auth.KeyringOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := a.Token(looksStored); err != nil || id.Name != "root" {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := a.Token(stored); protocol.AsError(err).Code != protocol.CodeServiceUnavailable {
		t.Errorf("a stored key: %v", err)
	}
}
