package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/athena-hub/athena/providers/providertest"
)

// failing are providers of three dialects: the first is away, the second breaks
// its answer off, the third does as third says.
func failing(t *testing.T, third providertest.Script, settings string) (config string) {
	t.Helper()
	away := providertest.NewUpstream(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: http.StatusServiceUnavailable}})
	breaks := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("It is ", "fi"), Fault: providertest.Fault{Kind: providertest.FaultCut, After: 2}})
	answers := providertest.NewUpstream(t, third)
	path := filepath.Join(t.TempDir(), "athena.yaml")
	text := settings + `
providers:
  away: {dialect: openai, base_url: ` + away.URL + `, models: [m], priority: 1}
  breaks: {dialect: claude, base_url: ` + breaks.URL + `, models: [m], priority: 2, api_key: sk-test}
  third: {dialect: openai-responses, base_url: ` + answers.URL + `, models: [m], priority: 3}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheTerminalTellsWhoAnswers(t *testing.T) {
	const away = "athena: away failed (service_unavailable); breaks answers\n"
	refuses := providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: http.StatusUnauthorized}}
	for name, c := range map[string]struct {
		third          providertest.Script
		settings       string
		args           []string
		stdout, stderr string
		code           int
	}{
		"another provider begins anew": {
			third:  providertest.Script{Pieces: providertest.Texts("It is ", "well.")},
			stdout: "It is fi\n--- breaks failed (stream_interrupted); third starts again: disregard what is above ---\nIt is well.\n",
			stderr: away,
		},
		"or goes on": {
			third:    providertest.Script{Pieces: providertest.Texts("It is fi", "ne.")},
			settings: "after_content: continue",
			stdout:   "It is fi\n--- breaks failed (stream_interrupted); third goes on where it stopped ---\nne.\n",
			stderr:   away,
		},
		"nobody answers": {
			third:  refuses,
			stdout: "It is fi\n--- breaks failed (stream_interrupted); third starts again: disregard what is above ---\n",
			stderr: away + "athena: the analysis failed: service_unavailable (away): the provider answered 503: scripted failure: Service Unavailable" +
				"; nor did others answer (breaks: stream_interrupted, third: unauthorized)\n",
			code: exitFailed,
		},
		"nobody but the offline analyser": {
			third:  refuses,
			args:   []string{"--degrade", "-a", "security"},
			stdout: "It is fi\n--- breaks failed (stream_interrupted); third starts again: disregard what is above ---\n",
			stderr: away + "athena: third failed (unauthorized); local answers\nathena: no provider answered; this is what local found offline\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"analyze", writeCode(t, smallFile), "--config", failing(t, c.third, c.settings)}, c.args...)
			i := invoke(t, false, nil, nil, args...)
			code := i.wait()
			stdout := i.out.String()
			if c.args != nil { // what local says is another test's
				stdout = stdout[:min(len(stdout), len(c.stdout))]
			}
			if code != c.code || stdout != c.stdout || i.err.String() != c.stderr {
				t.Errorf("exit code %d\nstdout %q\nwant   %q\nstderr %q\nwant   %q", code, stdout, c.stdout, i.err, c.stderr)
			}
			if strings.Contains(i.err.String(), "sk-test") {
				t.Error("a key is told")
			}
		})
	}
}

func TestAnEarlierAnswerIsShownWhenNoProviderCanBeReached(t *testing.T) {
	up, variables := withModel(t, providertest.Script{Pieces: providertest.Texts("It is ", "well.")})
	server := "http://" + listen(t, variables, "--max-retries", "0")
	path := writeCode(t, smallFile)
	if i := invoke(t, false, nil, nil, "analyze", path, "--server", server); i.wait() != exitOK || i.out.String() != "It is well.\n" || i.err.String() != "" {
		t.Fatalf("stdout %q, stderr %q", i.out, i.err)
	}
	up.SetScript(providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultReset}})
	i := invoke(t, false, nil, nil, "analyze", path, "--server", server)
	const want = "athena: claude failed (connection_failed); cache answers\nathena: no provider could be reached; this is an earlier answer\n"
	if i.wait() != exitOK || i.out.String() != "It is well.\n" || i.err.String() != want {
		t.Errorf("stdout %q, stderr %q", i.out, i.err)
	}
}
