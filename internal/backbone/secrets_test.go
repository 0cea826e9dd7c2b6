package backbone_test

import (
	"errors"
	"testing"

	"github.com/athena-hub/athena/internal/backbone"
)

func TestASealedKeyIsReplacedOnlyByWhoeverKnowsItsRevisionAndNeverForgotten(t *testing.T) {
	b, ctx := open(t, backbone.Options{}), t.Context()
	if r, err := b.Secret(ctx, "k"); r.Revision != 0 || err != nil {
		t.Errorf("before: %+v, %v", r, err)
	}
	if swapped, err := b.SwapSecret(ctx, "k", []byte("one"), 0); !swapped || err != nil {
		t.Fatalf("create: %v, %v", swapped, err)
	}
	if swapped, err := b.SwapSecret(ctx, "k", []byte("two"), 0); swapped || err != nil {
		t.Errorf("create again: %v, %v", swapped, err)
	}
	r, err := b.Secret(ctx, "k")
	if err != nil || string(r.Value) != "one" {
		t.Fatalf("%+v, %v", r, err)
	}
	if swapped, err := b.SwapSecret(ctx, "k", []byte("three"), r.Revision); !swapped || err != nil {
		t.Errorf("update: %v, %v", swapped, err)
	}
	if err := b.DeleteSecret(ctx, "k", r.Revision); err != nil {
		t.Errorf("delete of what was replaced: %v", err)
	}
	all, err := b.Secrets(ctx)
	if err != nil || len(all) != 1 || string(all["k"].Value) != "three" {
		t.Fatalf("all are %v, %v", all, err)
	}
	if err := b.DeleteSecret(ctx, "k", all["k"].Revision); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Secrets(ctx); err != nil || len(all) != 0 {
		t.Errorf("after its end: %v, %v", all, err)
	}
	if r, err := b.Secret(ctx, "k"); r.Revision != 0 || err != nil {
		t.Errorf("after its end: %+v, %v", r, err)
	}
	if swapped, err := b.SwapSecret(ctx, "k", []byte("again"), 0); !swapped || err != nil {
		t.Errorf("create after its end: %v, %v", swapped, err)
	}
	if _, err := b.SwapSecret(ctx, "big", make([]byte, backbone.MaxSecretBytes+1), 0); !errors.Is(err, backbone.ErrTooLarge) {
		t.Errorf("a record too large: %v", err)
	}
	if _, err := b.Secret(ctx, "k.>"); !errors.Is(err, backbone.ErrInvalid) {
		t.Errorf("a name that is no token: %v", err)
	}
}
