package protocol_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

var families = []error{protocol.ErrNetwork, protocol.ErrValidation, protocol.ErrAuthentication,
	protocol.ErrRateLimit, protocol.ErrProvider, protocol.ErrServer}

func TestErrorsBelongToOneFamily(t *testing.T) {
	for family, codes := range map[error][]protocol.Code{
		protocol.ErrNetwork: {protocol.CodeTimeout, protocol.CodeConnectionFailed},
		protocol.ErrValidation: {protocol.CodeInvalidRequest, protocol.CodeInvalidCursor, protocol.CodePayloadTooLarge,
			protocol.CodeStreamNotFound, protocol.CodeInvalidResponse},
		protocol.ErrAuthentication: {protocol.CodeUnauthorized, protocol.CodeForbidden},
		protocol.ErrRateLimit:      {protocol.CodeRateLimited},
		protocol.ErrProvider: {protocol.CodeServiceUnavailable, protocol.CodeQuotaExceeded, protocol.CodeContentFiltered,
			protocol.CodeContextTooLong, protocol.CodeStreamInterrupted},
		protocol.ErrServer: {protocol.CodeOverloaded, protocol.CodeDraining, protocol.CodeOwnerLost, protocol.CodeInternal, "from_the_future"},
	} {
		for _, code := range codes {
			err := fmt.Errorf("start analysis: %w", protocol.Errorf(code, "it is %d", 5).WithProvider("claude"))
			for _, f := range families {
				if errors.Is(err, f) != errors.Is(f, family) {
					t.Errorf("errors.Is(%s, %v) = %v", code, f, errors.Is(err, f))
				}
			}
			e, ok := errors.AsType[*protocol.Error](err)
			if !ok || e.Code != code || e.Detail != "it is 5" || !errors.Is(code.Family(), family) {
				t.Errorf("%s: errors.AsType = %+v, %v", code, e, ok)
			}
			if !errors.Is(err, &protocol.Error{Code: code}) || errors.Is(err, &protocol.Error{Code: "other"}) || errors.Is(err, (*protocol.Error)(nil)) {
				t.Errorf("%s: errors.Is does not go by the code", code)
			}
		}
	}
	if codes := protocol.Codes(); len(codes) != 19 || !slices.IsSorted(codes) {
		t.Errorf("Codes() = %v", codes)
	}
}

func TestAnErrorsCausesStayInTheServer(t *testing.T) {
	one := protocol.Errorf(protocol.CodeTimeout, "no answer: %w", context.DeadlineExceeded)
	two := protocol.Errorf(protocol.CodeTimeout, "no answer: %w, %w", context.DeadlineExceeded, io.ErrUnexpectedEOF)
	if !errors.Is(one, context.DeadlineExceeded) || !errors.Is(two, context.DeadlineExceeded) || !errors.Is(two, io.ErrUnexpectedEOF) {
		t.Error("errors.Is does not find the causes")
	}
	if errors.Unwrap(protocol.Errorf(protocol.CodeTimeout, "%s, %s", "no", "cause")) != nil {
		t.Error("a cause came from nowhere")
	}
	secret := errors.New("dial https://user:secret@host")
	e := protocol.AsError(fmt.Errorf("call: %w", secret))
	b, err := json.Marshal(e)
	want := `{"code":"internal","title":"Something went wrong in the server","detail":"the server could not do this; its log says why","status":500,"retryable":false}`
	if err != nil || string(b) != want || !errors.Is(e, secret) {
		t.Errorf("an unexpected error became %s (%v)", b, err)
	}
	if got := protocol.AsError(fmt.Errorf("call: %w", one)); got != one {
		t.Errorf("AsError = %v", got)
	}
}

func TestErrorsAreChangedInACopy(t *testing.T) {
	e := protocol.Errorf(protocol.CodeRateLimited, "slow down: %w", io.EOF)
	for d, want := range map[time.Duration]int64{0: 0, -time.Second: 0, 1: 1, 1200 * time.Millisecond: 1200, 1<<63 - 1: (1<<63-1)/1_000_000 + 1} {
		if got := e.WithRetryAfter(d); got.RetryAfterMS != want || !errors.Is(got, io.EOF) {
			t.Errorf("WithRetryAfter(%d) = %+v", d, got)
		}
	}
	p := e.WithProvider("claude")
	if p.Provider != "claude" || e.Provider != "" || e.RetryAfterMS != 0 {
		t.Errorf("the copy is %+v, the original %+v", p, e)
	}
	if e.Error() != "rate_limited: slow down: EOF" || p.Error() != "rate_limited (claude): slow down: EOF" {
		t.Errorf("Error() = %q and %q", e.Error(), p.Error())
	}
	if got := (&protocol.Error{Code: "timeout", Title: "The title"}).Error(); got != "timeout: The title" {
		t.Errorf("without detail: %q", got)
	}
}
