package local_test

import (
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/local"
)

func analyse(t *testing.T, partial string) string {
	t.Helper()
	p, err := local.New(providers.Config{})
	if err != nil {
		t.Fatal(err)
	}
	req := &providers.Request{Partial: partial, Analysis: &protocol.Request{Language: "go", Analysis: protocol.AnalysisReview,
		Code: "package main\n\nfunc main() {\n\tpassword := \"hunter2-hunter2\"\n\tprintln(password)\n}\n"}}
	a, err := providers.Analyze(t.Context(), p, req)
	if err != nil {
		t.Fatal(err)
	}
	return a.Text
}

func TestACutReportGoesOnBehindItsLastCharacter(t *testing.T) {
	whole := analyse(t, "")
	for n := range len(whole) + 1 {
		if got := whole[:n] + analyse(t, whole[:n]); got != whole {
			t.Fatalf("cut after %d bytes the report is\n%s\nwant\n%s", n, got, whole)
		}
	}
}

func TestTheReportStandsAloneBehindTheAnswerOfAModel(t *testing.T) {
	whole := analyse(t, "")
	for partial, gap := range map[string]string{
		"The function":                    "\n\n",
		"The function\n":                  "\n",
		"The function\n\n":                "",
		"So:\n\n```go\nfunc a() {":        "\n```\n\n",
		"So:\n\n````\n```\nx\n":           "````\n\n",
		"So:\n\n```go\na()\n```\nThen `b": "\n\n",
		whole[:20] + "other":              "\n\n",
	} {
		if got := analyse(t, partial); got != gap+whole {
			t.Errorf("behind %q there is\n%q\nwant %q and the whole report", partial, got[:min(len(got), 60)], gap)
		}
	}
	if got := analyse(t, whole+strings.Repeat("x", 9)); got != "" {
		t.Errorf("behind the whole report and more there is %q", got)
	}
}
