package backbone_test

import (
	"testing"

	"github.com/athena-hub/athena/internal/backbone"
)

func TestTheMarkOfCachedAnswersIsTheOneThatWasStoredLast(t *testing.T) {
	dir := t.TempDir()
	b, ctx := open(t, backbone.Options{DataDir: dir}), t.Context()
	if mark, err := b.CacheMark(ctx); mark != nil || err != nil {
		t.Errorf("before: %q, %v", mark, err)
	}
	for _, want := range []string{"one", "two"} {
		if err := b.SetCacheMark(ctx, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if mark, err := b.CacheMark(ctx); string(mark) != want || err != nil {
			t.Errorf("%q, %v; want %q", mark, err, want)
		}
	}
	if leases, err := b.Leases(ctx); err != nil || len(leases) != 0 {
		t.Errorf("it is taken for a node's: %v, %v", leases, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, backbone.Options{DataDir: dir})
	if mark, err := again.CacheMark(ctx); string(mark) != "two" || err != nil {
		t.Errorf("after a restart: %q, %v", mark, err)
	}
}
