// Package problem answers HTTP requests with an error of the protocol, as
// application/problem+json (RFC 9457).
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// Write answers with err, which is shown in full if it has a *protocol.Error in
// its tree, and otherwise as an internal error without details. Where the error
// says when to come back, so does Retry-After.
func Write(w http.ResponseWriter, err error) {
	e := protocol.AsError(err)
	body, encErr := json.Marshal(e)
	if encErr != nil {
		panic(encErr) // strings and numbers only
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Length")
	if e.RetryAfterMS > 0 {
		wait := time.Duration(e.RetryAfterMS) * time.Millisecond
		h.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	if e.Code == protocol.CodeUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="athena"`)
	}
	note(w, e.Code)
	w.WriteHeader(e.Status)
	// Nobody is left to be told of an error here.
	_, _ = w.Write(append(body, '\n'))
}

// A Noter is a http.ResponseWriter that is to know which error it answers with,
// also where others are wrapped around it that have an Unwrap.
type Noter interface {
	// Problem is called before the header is written.
	Problem(code protocol.Code)
}

func note(w http.ResponseWriter, code protocol.Code) {
	for {
		if n, ok := w.(Noter); ok {
			n.Problem(code)
			return
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = u.Unwrap()
	}
}
