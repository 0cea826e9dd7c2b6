package providertest

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/providers"
)

// ContractLocal checks what a provider promises that is asked without a
// network: newRequest returns a request that it answers with at least two
// chunks, always the same. It counts goroutines: don't call it from a parallel
// test.
func ContractLocal(t *testing.T, newProvider func() providers.Provider, newRequest func() *providers.Request) {
	whole := func(t *testing.T, p providers.Provider) Answer {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := p.Stream(ctx, newRequest())
		if err != nil {
			t.Fatalf("Stream failed: %v", err)
		}
		a, err := Collect(s)
		if err != nil {
			t.Fatalf("the stream broke its contract: %v", err)
		}
		return a
	}
	t.Run("AWholeAnswerIsComplete", func(t *testing.T) {
		p := newProvider()
		if p.Name() == "" {
			t.Error("the provider has no name")
		}
		a := whole(t, p)
		if a.Err != nil || a.Outcome.State != providers.StateComplete || a.Outcome.Err != nil || a.Outcome.FinishReason == "" {
			t.Errorf("the answer ended with %v, %+v; want it complete with a finish reason", a.Err, a.Outcome)
		}
		if a.Chunks < 2 {
			t.Errorf("the answer has %d chunks, too few for the contract", a.Chunks)
		}
		if len(a.Findings) > 0 && !p.Features().Findings {
			t.Error("the answer has findings, which the features don't say")
		}
		if again := whole(t, p); !reflect.DeepEqual(a, again) {
			t.Errorf("the same request gave\n%+v\nand then\n%+v", a, again)
		}
	})
	t.Run("ACancelledAnswerIsNeverComplete", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := newProvider().Stream(ctx, newRequest())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		cancel()
		a := collectWithin(t, s)
		if !errors.Is(a.Err, context.Canceled) || a.Outcome.State != providers.StateTruncated {
			t.Errorf("the answer ended with %v, %+v; want context.Canceled, truncated", a.Err, a.Outcome)
		}
	})
	t.Run("AnEndedContextIsSaidAtOnceOrByNext", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s, err := newProvider().Stream(ctx, newRequest())
		if err == nil {
			err = collectWithin(t, s).Err
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v, want context.Canceled in its tree", err)
		}
	})
	t.Run("AClosedAnswerIsNeverComplete", func(t *testing.T) {
		s, err := newProvider().Stream(t.Context(), newRequest())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("Close failed: %v", err)
			}
		}
		if a := collectWithin(t, s); a.Outcome.State != providers.StateTruncated {
			t.Errorf("the outcome is %+v, want truncated", a.Outcome)
		}
	})
	t.Run("NoGoroutineIsLeftBehind", func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		whole(t, newProvider())
		s, err := newProvider().Stream(t.Context(), newRequest())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
	})
}

// collectWithin is Collect for a stream that must end soon.
func collectWithin(t *testing.T, s providers.Stream) Answer {
	t.Helper()
	type result struct {
		a   Answer
		err error
	}
	done := make(chan result, 1)
	go func() {
		a, err := Collect(s)
		done <- result{a, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			t.Fatalf("the stream broke its contract: %v", r.err)
		}
		return r.a
	case <-time.After(patience):
		t.Fatal("the stream does not end")
		panic("unreachable")
	}
}
