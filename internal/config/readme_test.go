package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/config"
)

func TestTheREADMEShowsTheSettingsAsTheyAre(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "<!-- settings: written by config.Table, checked by its test -->\n")
	got, _, ok2 := strings.Cut(rest, "<!-- end of settings -->")
	if !ok || !ok2 {
		t.Fatal("README.md has no part between the two comments about settings")
	}
	if want := strings.TrimSpace(config.Table()); strings.TrimSpace(got) != want {
		t.Errorf("README.md's table of settings is not what config.Table writes; put this there:\n%s", want)
	}
}
