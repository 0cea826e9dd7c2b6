package main

import (
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/config"
)

func TestCachedAnswersAreMadeOfPromptsToo(t *testing.T) {
	made, err := answersAreMadeOf(&config.Serve{})
	if err != nil || !strings.Contains(made, analysis.PromptsDigest()) {
		t.Errorf("they are made of %s, %v", made, err)
	}
}
