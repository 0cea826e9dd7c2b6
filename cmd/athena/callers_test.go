package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

func TestTheLogHearsOfRefusedCredentialsNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		r := &refusals{log: zerolog.New(&b)}
		r.note(auth.FailureMissing)
		if b.Len() > 0 {
			t.Errorf("a request without a credential is logged: %s", &b)
		}
		for range 1000 {
			r.note(auth.FailureUnknown)
			r.note(auth.FailureTicket)
		}
		time.Sleep(refusalsEvery)
		r.note(auth.FailureUnknown)
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], `"unknown":1,`) || !strings.Contains(lines[1], `"unknown":1000`) || !strings.Contains(lines[1], `"ticket":1000`) {
			t.Errorf("logged:\n%s", &b)
		}
	})
}

func TestARequestThatIsPassedOnToAnotherNodeIsItsCallers(t *testing.T) {
	ada := auth.Identity{Name: "ada", Tenant: "acme", Scopes: auth.ScopeAnalyze, Credential: "key:abcdefghijkl", Generation: 2, Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	for name, id := range map[string]auth.Identity{"a key's": ada, "anybody's": auth.Anonymous} {
		there := auth.NewContext(t.Context(), id)
		sent := analysis.StartOptions{IdempotencyKey: "k", RequestID: "r", Owner: id.Owner(), Tenant: id.Tenant, Credential: gateway.LimitKey(there)}
		var q startQuestion
		if err := json.Unmarshal(encode(askStart(&protocol.Request{Code: "x"}, sent)), &q); err != nil {
			t.Fatal(err)
		}
		ctx, o := q.options(t.Context())
		if o.IdempotencyKey != sent.IdempotencyKey || o.RequestID != sent.RequestID || o.Owner != sent.Owner || o.Tenant != sent.Tenant || o.Credential != sent.Credential {
			t.Errorf("%s: %+v; want %+v", name, o, sent)
		}
		if got, _ := auth.FromContext(ctx); got.CountsFor() != id.CountsFor() || gateway.LimitKey(ctx) != sent.Credential {
			t.Errorf("%s: the caller is %+v", name, got)
		}
	}
}
