package gateway

import (
	"context"
	"net/http"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/problem"
	"github.com/athena-hub/athena/protocol"
)

// Every request is authorised by who makes it, whatever it says of streams and
// cursors: scopes at the resource, and tenants by the stream's id. The transports
// behind that know nothing of callers.

// caller is who makes the request; nobody, who may do nothing, where that isn't
// known.
func caller(ctx context.Context) auth.Identity {
	id, _ := auth.FromContext(ctx)
	return id
}

// needs refuses callers without these scopes.
func needs(scopes auth.Scopes, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := caller(r.Context()).Allow(scopes); err != nil {
			problem.Write(w, err)
			return
		}
		h(w, r)
	}
}

// mayKnow returns what an unknown stream is answered with, unless the caller may
// know of this one. A stream that isn't the caller's is told from the id alone,
// before anybody is asked whether there is one: the answer and the work are the
// same for those that exist and those that don't.
func mayKnow(ctx context.Context, stream string) error {
	if caller(ctx).Sees(stream) {
		return nil
	}
	return protocol.Errorf(protocol.CodeStreamNotFound, "stream %s is unknown or has expired", stream)
}
