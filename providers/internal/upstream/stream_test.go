package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// marks is a Decoder whose events say what mark they have.
type marks struct{}

func (marks) Literal() string            { return "LAST" }
func (marks) Outcome() providers.Outcome { return providers.Outcome{FinishReason: "stop"} }

func (marks) Decode(ev Event, out []providers.Chunk) ([]providers.Chunk, Mark, *protocol.Error) {
	switch string(ev.Data) {
	case "LAST":
		return out, Last, nil
	case `{"whole":1}`:
		return out, Whole, nil
	case `{"bad":1}`:
		return out, More, protocol.Errorf(protocol.CodeServiceUnavailable, "bad")
	}
	return append(out, providers.Chunk{Type: providers.ChunkText, Text: string(ev.Data)}), More, nil
}

// open returns a stream and the writing end of its body, which the stream's
// context closes as a connection would.
func open(ctx context.Context) (*Stream, *io.PipeWriter) {
	r, w := io.Pipe()
	inner, cancel := context.WithCancel(ctx)
	context.AfterFunc(inner, func() { _ = r.CloseWithError(inner.Err()) })
	return NewStream(ctx, cancel, "x", "id", r, marks{}), w
}

func TestAWholeAnswerWaitsForItsTailOnlySoLong(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"data: {\"whole\":1}\n\n":                         TailWait,
		"data: {\"whole\":1}\n\ndata: LAST\n\n":           DrainWait,
		"data: LAST\n\n":                                  DrainWait,
		"data: {\"whole\":1}\n\ndata: nonsense\n\n":       0,
		"data: {\"whole\":1}\n\ndata: {\"bad\":1}\n\n":    0,
		"data: {\"whole\":1}\n\ndata: {\"whole\":1}\n\n:": TailWait,
	} {
		synctest.Test(t, func(t *testing.T) {
			s, w := open(t.Context())
			begin := time.Now()
			go func() { _, _ = io.WriteString(w, in) }()
			_, err := s.Next()
			if o := s.Outcome(); err != io.EOF || o.State != providers.StateComplete || o.Err != nil {
				t.Errorf("%q: %v, %+v; want it complete", in, err, o)
			}
			if d := time.Since(begin); d != want {
				t.Errorf("%q: the end was seen after %v, want %v", in, d, want)
			}
			synctest.Wait()
		})
	}
}

func TestTheEndOfTheContextIsSaidAsSuch(t *testing.T) {
	why := errors.New("no content in time")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		s, w := open(ctx)
		time.AfterFunc(time.Second, func() { cancel(why) })
		go func() { _, _ = io.WriteString(w, "data: {}\n\n") }()
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		_, err := s.Next()
		if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || s.Outcome().State != providers.StateTruncated {
			t.Errorf("%v, %+v; want context.Canceled and its cause", err, s.Outcome())
		}
	})
}

func TestRetryAfterIsReadInEachForm(t *testing.T) {
	now := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		after, ms string
		want      time.Duration
	}{
		{"", "", 0}, {"7", "", 7 * time.Second}, {"0.5", "", 500 * time.Millisecond}, {"7", "20.5", 20500 * time.Microsecond},
		{now.Add(90 * time.Second).Format(http.TimeFormat), "", 90 * time.Second}, {now.Add(-time.Hour).Format(http.TimeFormat), "", 0},
		{"-3", "-1", 0}, {"soon", "x", 0}, {"1e30", "", maxRetryAfter}, {"NaN", "", 0}, {"Inf", "", maxRetryAfter},
	} {
		h := http.Header{"Retry-After": {tc.after}, "Retry-After-Ms": {tc.ms}}
		if got := retryAfter(h, now); got != tc.want {
			t.Errorf("%q, %q: %v, want %v", tc.after, tc.ms, got, tc.want)
		}
	}
}

func TestWordsOfAProviderAreClippedAndScrubbed(t *testing.T) {
	for in, want := range map[string]string{
		"line\nnext\x00\x1b[31m":                   "line next  [31m",
		" key my-secret in sk-ant-api03-abc**yz ":  "key [hidden] in [hidden]",
		"key gsk_ab****wxyz, or ****1234 or **b**": "key [hidden], or [hidden] or **b**",
		"see https://h/p?token=1&b=2, then":        "see https://h/p then",
		"Authorization: bearer abc.def":            "Authorization: Bearer [hidden]",
		"http://me:pw@h/":                          "http://h/",
		strings.Repeat("é", 400):                   strings.Repeat("é", 250) + "…",
	} {
		if got := scrub(clip(in), []string{"my-secret"}); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzParseFailure(f *testing.F) {
	for _, s := range []string{`{"error":{"message":"m","type":"t","code":429}}`, `{"error":"x"}`, `{"detail":[{}]}`, `<html>`, `[1]`, `{"error":{"message":{}}}`} {
		f.Add(400, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		e := ParseFailure(status, body).Error("m")
		if e.Code == "" || e.Detail == "" || len(e.Detail) > maxMessageBytes+300 {
			t.Errorf("%d %q gave %s", status, body, fmt.Sprintf("%+v", e))
		}
	})
}
