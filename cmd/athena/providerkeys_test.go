package main

import (
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/secrets"
)

func TestWhereNoProviderTakesKeysItIsSaidWhatWouldMakeThem(t *testing.T) {
	if _, err := (&providerKeys{}).ring("claude"); err == nil || !strings.Contains(err.Error(), "--master-key-file") {
		t.Errorf("without any: %v", err)
	}
	k := &providerKeys{rings: map[string]*secrets.Ring{"openai": nil, "claude": nil}}
	if _, err := k.ring("nobody"); err == nil || !strings.Contains(err.Error(), "claude, openai") {
		t.Errorf("of others: %v", err)
	}
}
