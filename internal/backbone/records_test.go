package backbone_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
)

func TestRunningJobsAreListedUntilTheyAreCleared(t *testing.T) {
	b := open(t, backbone.Options{})
	if got, err := b.Running(t.Context()); len(got) != 0 || err != nil {
		t.Errorf("at first: %v, %v", got, err)
	}
	for i := range 20 {
		if err := b.MarkRunning(t.Context(), fmt.Sprintf("s%02d", i), fmt.Appendf(nil, `{"n":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if i%4 == 0 {
			continue
		}
		if err := b.ClearRunning(t.Context(), fmt.Sprintf("s%02d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.ClearRunning(t.Context(), "never"); err != nil {
		t.Errorf("clearing what isn't there: %v", err)
	}
	if err := b.MarkRunning(t.Context(), "s04", []byte(`{"n":"again"}`)); err != nil {
		t.Fatal(err)
	}
	got, err := b.Running(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ids := slices.Sorted(maps.Keys(got)); !slices.Equal(ids, []string{"s00", "s04", "s08", "s12", "s16"}) {
		t.Errorf("running: %v", ids)
	}
	if string(got["s04"].Value) != `{"n":"again"}` || string(got["s08"].Value) != `{"n":8}` {
		t.Errorf("records: %v", got)
	}
	if err := b.MarkRunning(t.Context(), "s1", make([]byte, backbone.MaxRecordBytes+1)); !errors.Is(err, backbone.ErrTooLarge) {
		t.Errorf("a record too large: %v", err)
	}
}

func TestHistoryComesFromItsOwnerOrFailsAtOnce(t *testing.T) {
	b := open(t, backbone.Options{})
	start := time.Now()
	if _, err := b.AskHistory(t.Context(), "s1", nil); !errors.Is(err, backbone.ErrNoOwner) {
		t.Errorf("nobody serves it: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second { // half of what a question may take
		t.Errorf("it took %v to say so", d)
	}
	stop, err := b.ServeHistory("s1", func(q []byte) []byte {
		if len(q) == 0 {
			return make([]byte, backbone.MaxMessageBytes+1)
		}
		return append(q, '!')
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.AskHistory(t.Context(), "s1", []byte("after 3")); string(got) != "after 3!" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.AskHistory(t.Context(), "s1", nil); err == nil || errors.Is(err, backbone.ErrNoOwner) {
		t.Errorf("a reply too large: %v", err)
	}
	stop()
	if _, err := b.AskHistory(t.Context(), "s1", nil); !errors.Is(err, backbone.ErrNoOwner) {
		t.Errorf("after stop: %v", err)
	}
}

func TestAskingEndsWithItsContextWhileTheOwnerIsSilent(t *testing.T) {
	b := open(t, backbone.Options{})
	asked, release := make(chan struct{}), make(chan struct{})
	stop, err := b.ServeHistory("s1", func([]byte) []byte {
		close(asked)
		<-release
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := b.AskHistory(ctx, "s1", nil)
		failed <- err
	}()
	await(t, asked, "the request")
	cancel()
	if err := await(t, failed, "the end"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(release)
}

// storeCalls are a call of each method that needs the store.
func storeCalls(ctx context.Context, b *backbone.Backbone) map[string]func() error {
	return map[string]func() error{
		"AppendLog":     func() error { _, err := b.AppendLog(ctx, "s1", 0, batch(1, 1)); return err },
		"StartAppend":   func() error { _, err := b.StartAppend(ctx, "s1", 0, batch(1, 1))(); return err },
		"ReadLog":       func() error { _, err := b.ReadLog(ctx, "s1", 0, 0); return err },
		"LogTail":       func() error { _, _, _, err := b.LogTail(ctx, "s1"); return err },
		"LogTailNow":    func() error { _, err := b.LogTailNow(ctx, "s1"); return err },
		"LogFirst":      func() error { _, err := b.LogFirst(ctx, "s1"); return err },
		"MarkRunning":   func() error { return b.MarkRunning(ctx, "s1", nil) },
		"RunningRecord": func() error { _, err := b.RunningRecord(ctx, "s1"); return err },
		"TakeRunning":   func() error { _, _, err := b.TakeRunning(ctx, "s1", nil, 1); return err },
		"ClearRunning":  func() error { return b.ClearRunning(ctx, "s1") },
		"Running":       func() error { _, err := b.Running(ctx); return err },
		"WriteLease":    func() error { _, err := b.WriteLease(ctx, nil, 0); return err },
		"Leases":        func() error { _, err := b.Leases(ctx); return err },
		"RemoveLease":   func() error { _, err := b.RemoveLease(ctx, "n2", 1); return err },
		"KeepRequest":   func() error { return b.KeepRequest(ctx, "s1", nil) },
		"KeptRequest":   func() error { _, err := b.KeptRequest(ctx, "s1"); return err },
		"DropRequest":   func() error { return b.DropRequest(ctx, "s1") },
		"CreateKey":     func() error { _, _, err := b.CreateKey(ctx, "k", nil); return err },
		"ReadKey":       func() error { _, _, err := b.ReadKey(ctx, "k"); return err },
		"UpdateKey":     func() error { _, _, err := b.UpdateKey(ctx, "k", nil, 1); return err },
		"DeleteKey":     func() error { return b.DeleteKey(ctx, "k", 1) },
		"Ping":          func() error { return b.Ping(ctx) },
	}
}

func TestAfterCloseEverythingSaysSo(t *testing.T) {
	b := open(t, backbone.Options{})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	calls := storeCalls(ctx, b)
	maps.Copy(calls, map[string]func() error{
		"PublishLive":   func() error { return b.PublishLive("s1", nil) },
		"SubscribeLive": func() error { _, err := b.SubscribeLive("s1", func([]byte) {}); return err },
		"ServeHistory":  func() error { _, err := b.ServeHistory("s1", func([]byte) []byte { return nil }); return err },
		"AskHistory":    func() error { _, err := b.AskHistory(ctx, "s1", nil); return err },
		"Serve":         func() error { _, err := b.Serve("t", "s1", func([]byte) []byte { return nil }); return err },
		"Ask":           func() error { _, err := b.Ask(ctx, "t", "s1", nil); return err },
		"Publish":       func() error { return b.Publish("t", nil) },
		"Subscribe":     func() error { _, err := b.Subscribe("t", func([]byte) {}); return err },
		"Answer":        func() error { _, err := b.Answer("t", func([]byte) []byte { return nil }); return err },
		"Gather":        func() error { _, err := b.Gather(ctx, "t", nil, 1); return err },
		"Close":         func() error { return cmpNil(b.Close()) },
	})
	for name, call := range calls {
		if err := call(); !errors.Is(err, backbone.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// cmpNil makes the success of a second Close look like the others.
func cmpNil(err error) error {
	if err == nil {
		return backbone.ErrClosed
	}
	return err
}
