package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/auth"
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
