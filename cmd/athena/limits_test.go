package main

import (
	"testing"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/gateway"
)

// What a node tells another of an analysis's owner must be enough for its limits.
func TestWhoeverHasBegunAnAnalysisElsewhereHasTheSameLimitsHere(t *testing.T) {
	for _, id := range []auth.Identity{
		auth.Anonymous,
		{Name: "ada", Credential: "static:ada"},
		{Name: "ci", Tenant: "acme", Credential: "key:abc"},
		{Name: "ada", Tenant: "acme", Credential: "jwt:acme/ada"},
	} {
		there := auth.NewContext(t.Context(), id)
		credential := gateway.LimitKey(there)
		owner := ownerOf(id.Owner(), credential)
		here := auth.NewContext(t.Context(), owner)
		if got, want := owner.CountsFor(), id.CountsFor(); got != want || gateway.LimitKey(here) != credential || owner.Owner() != id.Owner() {
			t.Errorf("%+v counts for %q and %q, as the owner %q; want %q, %q and %q", id, got, gateway.LimitKey(here), owner.Owner(), want, credential, id.Owner())
		}
	}
}
