package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client/clienttest"
	"github.com/athena-hub/athena/providers/providertest"
)

func TestPipedOutputIsTheTextAndALineForEachFinding(t *testing.T) {
	_, variables := withModel(t, modelScript())
	path := writeCode(t, smallFile)
	i := invoke(t, false, variables, nil, "analyze", path)
	if code := i.wait(); code != exitOK || i.err.String() != "" {
		t.Errorf("exit code %d, stderr %q", code, i.err)
	}
	want := "# Review\n\nLooks *fine*, but:\n" +
		path + ":4:1: low: println writes to stderr [print]\n    Use fmt.Println.\n" +
		"That is all\n"
	if got := i.out.String(); got != want {
		t.Errorf("stdout is %q, want %q", got, want)
	}
}

func TestATerminalGetsColoursProgressAndASummary(t *testing.T) {
	script := modelScript()
	script.Pieces[0].After = 3 * statusInterval // time for a status
	_, variables := withModel(t, script)
	path := writeCode(t, smallFile)
	for _, noColour := range []bool{false, true} {
		if noColour {
			variables = append(variables, "NO_COLOR=1")
		}
		i := invoke(t, true, variables, nil, "analyze", path)
		if code := i.wait(); code != exitOK {
			t.Errorf("exit code %d", code)
		}
		got := regexp.MustCompile(`· [0-9.]+m?s\n$`).ReplaceAllString(tty{i.out}.shows(t), "· TIME\n")
		want := "# Review\n\nLooks *fine*, but:\n" +
			path + ":4:1: low: println writes to stderr [print]\n    Use fmt.Println.\n" +
			"That is all\n" +
			"1 finding: 1 low · claude model-a · 120 tokens in, 34 out · TIME\n"
		if got != want {
			t.Errorf("the terminal shows %q, want %q", got, want)
		}
		raw := i.out.String()
		status := clearLine + clip(path, 59) // as much as there is place for
		if !noColour {
			status = clearLine + styleDim + clip(path, 59)
		}
		if !strings.Contains(raw, clip(status, 40)) {
			t.Errorf("there was no status in %q", raw)
		}
		coloured := strings.Contains(raw, styleBold+"# Review"+styleReset) && strings.Contains(raw, "\x1b[36mlow:"+styleReset)
		if coloured == noColour || noColour && strings.Contains(raw, "m# ") {
			t.Errorf("NO_COLOR is %v, and the output %q", noColour, raw)
		}
	}
}

func TestADumbTerminalGetsPlainText(t *testing.T) {
	i := invoke(t, true, []string{"TERM=dumb"}, nil, "analyze", writeCode(t, smallFile))
	if code := i.wait(); code != exitOK || strings.ContainsAny(i.out.String(), "\x1b\r") || i.out.String() == "" {
		t.Errorf("exit code %d, output %q", code, i.out)
	}
}

func TestJSONIsTheEventsAsTheyCame(t *testing.T) {
	s := clienttest.StreamOf(t, "one\x1b[31m ", "two\u009b")
	server := clienttest.NewServer(s, clienttest.CutsAfter(s.Frames(0, 2)), clienttest.Sends(s.Frames(2, 4)))
	i := invoke(t, false, nil, strings.NewReader(smallFile), "analyze", "--json", "--server", scripted(t, server))
	if code := i.wait(); code != exitOK || i.out.String() != s.Lines() {
		t.Errorf("exit code %d, stdout %q, want %q", code, i.out, s.Lines())
	}
	if want := "athena: lost the connection (unexpected EOF); resuming\n"; i.err.String() != want {
		t.Errorf("stderr is %q, want %q", i.err, want)
	}
}

func TestJSONOfThisProcessIsAWholeStream(t *testing.T) {
	i := invoke(t, false, nil, strings.NewReader("password = 'hunter2hunter2'\n"), "analyze", "--json", "-l", "python", "-a", "security", "-")
	if code := i.wait(); code != exitOK || i.err.String() != "" {
		t.Fatalf("exit code %d, stderr %q", code, i.err)
	}
	var seen protocol.Transcript
	for line := range strings.Lines(i.out.String()) {
		var ev protocol.Event
		if err := ev.UnmarshalJSON([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if err := seen.Apply(&ev); err != nil {
			t.Fatal(err)
		}
	}
	if seen.Terminal() == nil || seen.Terminal().Type != protocol.TypeCompleted || len(seen.Findings()) == 0 ||
		seen.Started().Language != "python" || seen.Started().Analysis != "security" {
		t.Errorf("the stream was %s", i.out)
	}
}

func TestAnalyzeLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	i := invoke(t, false, []string{"ATHENA_API_KEY=short", "ATHENA_LISTEN=0.0.0.0:8080"}, nil, "analyze", writeCode(t, smallFile))
	if code := i.wait(); code != exitOK {
		t.Errorf("exit code %d, stderr %q", code, i.err)
	}
	left, err := os.ReadDir(dir)
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "athena-analyze-") {
			t.Errorf("%s is left", e.Name())
		}
	}
	if err != nil {
		t.Error(err)
	}
}

func TestAServerOnThisMachineIsFoundAndUsed(t *testing.T) {
	_, variables := withModel(t, modelScript())
	address := listen(t, variables)
	path := writeCode(t, smallFile)
	for name, c := range map[string][]string{
		"where it listens by its setting": {"ATHENA_SERVER=", "ATHENA_LISTEN=" + address},
		"named by a variable":             {"ATHENA_SERVER=http://" + address},
		"named by a flag":                 {"ATHENA_SERVER=http://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"analyze", path}
			if strings.HasSuffix(name, "flag") {
				args = append(args, "--server", "http://"+address)
			}
			i := invoke(t, false, c, nil, args...)
			// Only that server has the model.
			if code := i.wait(); code != exitOK || !strings.Contains(i.out.String(), "println writes to stderr") || i.err.String() != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, i.out, i.err)
			}
		})
	}
}

func TestAServerThatWantsATokenGetsIt(t *testing.T) {
	_, variables := withModel(t, modelScript())
	const key = "0123456789abcdef0123"
	address := listen(t, variables, "--api-key", key)
	path := writeCode(t, smallFile)

	local := []string{"ATHENA_SERVER=", "ATHENA_LISTEN=" + address}
	i := invoke(t, false, append(local, "ATHENA_TOKEN="+key), nil, "analyze", path)
	if code := i.wait(); code != exitOK || !strings.Contains(i.out.String(), "Looks *fine*") || i.err.String() != "" {
		t.Errorf("with the token: exit code %d, stdout %q, stderr %q", code, i.out, i.err)
	}
	i = invoke(t, false, local, nil, "analyze", path)
	if code := i.wait(); code != exitOK || !strings.HasPrefix(i.out.String(), "Fixed rules") || !strings.Contains(i.err.String(), "takes a token") {
		t.Errorf("without, and not named: exit code %d, stdout %q, stderr %q", code, i.out, i.err)
	}
	i = invoke(t, false, nil, nil, "analyze", path, "--server", "http://"+address)
	if code := i.wait(); code != exitUsage || i.out.String() != "" || !strings.Contains(i.err.String(), "unauthorized") {
		t.Errorf("without, and named: exit code %d, stdout %q, stderr %q", code, i.out, i.err)
	}
}

func TestWhatIsNoAthenaIsNotUsed(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"another server": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
		"another protocol": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"protocol":"athena.v9"}`)
		},
		"one that does not answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(h)
			defer server.Close()
			i := invoke(t, false, []string{"ATHENA_SERVER=", "ATHENA_LISTEN=" + strings.TrimPrefix(server.URL, "http://")}, nil, "analyze", writeCode(t, smallFile))
			if code := i.wait(); code != exitOK || !strings.HasPrefix(i.out.String(), "Fixed rules") || i.err.String() != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, i.out, i.err)
			}
		})
	}
}

func TestTheServersPlaceOnThisMachine(t *testing.T) {
	for listen, want := range map[string]string{
		"": "127.0.0.1:8080", ":9000": "127.0.0.1:9000", "0.0.0.0:9000": "127.0.0.1:9000", "[::]:9000": "127.0.0.1:9000",
		"localhost:9000": "localhost:9000", "[::1]:9000": "[::1]:9000", "192.0.2.1:9000": "", "127.0.0.1:0": "", "nonsense": "",
	} {
		if got := localServer(listen); got != want {
			t.Errorf("localServer(%q) is %q, want %q", listen, got, want)
		}
	}
}

func TestAnInterruptCancelsTheAnalysis(t *testing.T) {
	for _, remote := range []bool{false, true} {
		up, variables := withModel(t, providertest.Script{Pieces: providertest.Texts("It begins "), Fault: providertest.Fault{Kind: providertest.FaultStall, After: 1}})
		args := []string{"analyze", writeCode(t, smallFile)}
		if remote {
			args = append(args, "--server", "http://"+listen(t, variables))
		}
		i := invoke(t, false, variables, nil, args...)
		i.out.waitFor(t, "It begins")
		i.interrupts <- os.Interrupt
		if code := i.wait(); code != exitFailed || i.out.String() != "It begins \n" {
			t.Errorf("exit code %d, stdout %q", code, i.out)
		}
		if want := "athena: cancelling the analysis; interrupt again to leave at once\nathena: the analysis was cancelled\n"; i.err.String() != want {
			t.Errorf("stderr is %q, want %q", i.err, want)
		}
		call, err := up.WaitCall(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-call.HungUp():
		case <-time.After(cliPatience):
			t.Error("the model's answer is still being read")
		}
	}
}

func TestAnInterruptBeforeTheStartCancelsAsSoonAsThereIsSomethingToCancel(t *testing.T) {
	s := &clienttest.Stream{ID: protocol.NewStreamID()}
	s.Add(t, protocol.TypeStarted, protocol.Started{Provider: "scripted", Attempt: 1})
	s.Add(t, protocol.TypeCancelled, protocol.Cancelled{By: protocol.CancelClient})
	reached, release := make(chan struct{}), make(chan struct{})
	server := clienttest.NewServer(s)
	server.Start = func(w http.ResponseWriter, _ *http.Request) {
		close(reached)
		<-release
		server.Created(w)
	}
	server.Connections = append(server.Connections, func(w http.ResponseWriter, r *http.Request, after int) {
		clienttest.Sends(s.Frames(0, 1))(w, r, after)
		<-server.Asked
		_, _ = w.Write(s.Frames(1, 2))
	})
	i := invoke(t, false, nil, nil, "analyze", writeCode(t, smallFile), "--server", scripted(t, server))
	<-reached
	i.interrupts <- os.Interrupt
	i.err.waitFor(t, "cancelling")
	close(release)
	if code := i.wait(); code != exitFailed || i.out.String() != "" || !strings.HasSuffix(i.err.String(), "\nathena: the analysis was cancelled\n") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, i.out, i.err)
	}
}

func TestFindingsOfADiscardedAttemptDoNotCount(t *testing.T) {
	s := &clienttest.Stream{ID: protocol.NewStreamID()}
	s.Add(t, protocol.TypeStarted, protocol.Started{Provider: "one", Attempt: 1})
	s.Add(t, protocol.TypeChunk, protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: "wrong"})
	s.Add(t, protocol.TypeFinding, protocol.Finding{Rule: "r", Severity: protocol.SeverityCritical, Message: "m", Range: protocol.Range{Start: protocol.Position{Line: 1, Column: 2}}})
	s.Add(t, protocol.TypeFailover, protocol.Failover{From: "one", To: "two", Attempt: 2, Reason: "timeout", Discard: true})
	s.Add(t, protocol.TypeStarted, protocol.Started{Provider: "two", Attempt: 2})
	s.Add(t, protocol.TypeChunk, protocol.Chunk{Kind: protocol.KindText, Attempt: 2, Text: "right"})
	var d protocol.Digest
	d.Add("right")
	n, sum := d.Sum()
	s.Add(t, protocol.TypeCompleted, protocol.Completed{FinishReason: "stop", Provider: "two", Events: 7, Bytes: n, SHA256: sum})
	path := writeCode(t, smallFile)
	i := invoke(t, true, nil, nil, "analyze", path, "--fail-on", "info", "--server", scripted(t, clienttest.NewServer(s, clienttest.Sends(s.Frames(0, 7)))))
	want := "wrong\n" + path + ":1:2: critical: m [r]\n--- one failed (timeout); two starts again: disregard what is above ---\nright\n0 findings · two · "
	if code := i.wait(); code != exitOK || !strings.HasPrefix((tty{i.out}).shows(t), want) {
		t.Errorf("exit code %d, the terminal shows %q, want %q", code, (tty{i.out}).shows(t), want)
	}
}

func TestASecondInterruptLeavesAtOnce(t *testing.T) {
	s := clienttest.StreamOf(t, "It begins ")
	server := clienttest.NewServer(s, clienttest.HangsAfter(s.Frames(0, 2)))
	i := invoke(t, false, nil, nil, "analyze", writeCode(t, smallFile), "--server", scripted(t, server))
	i.out.waitFor(t, "It begins")
	i.interrupts <- os.Interrupt
	select {
	case <-server.Asked:
	case <-time.After(cliPatience):
		t.Fatal("the server was not asked to cancel")
	}
	i.interrupts <- os.Interrupt
	began := time.Now()
	if code := i.wait(); code != exitInterrupted || time.Since(began) > 5*time.Second {
		t.Errorf("exit code %d after %s", code, time.Since(began))
	}
	if want := "athena: cancelling the analysis; interrupt again to leave at once\n"; i.out.String() != "It begins \n" || i.err.String() != want {
		t.Errorf("stdout %q, stderr %q, want %q", i.out, i.err, want)
	}
}

func TestTwoInterruptsEndAnAnalysisInThisProcessToo(t *testing.T) {
	up, variables := withModel(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultSilence}})
	i := invoke(t, false, variables, nil, "analyze", writeCode(t, smallFile))
	if _, err := up.WaitCall(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	i.interrupts <- os.Interrupt
	i.interrupts <- os.Interrupt
	// The first may have ended it before the second came.
	if code := i.wait(); (code != exitInterrupted && code != exitFailed) || time.Since(began) > nodeStopTimeout {
		t.Errorf("exit code %d after %s, stderr %q", code, time.Since(began), i.err)
	}
}

func TestAnInterruptEndsTheWaitForInput(t *testing.T) {
	r, w := io.Pipe()
	i := invoke(t, false, nil, r, "analyze")
	i.interrupts <- os.Interrupt
	if code := i.wait(); code != exitInterrupted || i.out.String() != "" {
		t.Errorf("exit code %d, stdout %q", code, i.out)
	}
	_ = w.Close() // ends what still reads
}

// broken is an output whose reader has gone.
type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

func TestAReaderThatHasEnoughEndsTheAnalysisQuietly(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{{syscall.EPIPE, ""}, {syscall.ENOSPC, "athena: write the analysis: no space left on device\n"}} {
		s := clienttest.StreamOf(t, "one", "two")
		server := clienttest.NewServer(s, clienttest.HangsAfter(s.Frames(0, 2)))
		stderr := newSink()
		code := run(t.Context(), &environment{args: []string{"analyze", writeCode(t, smallFile), "--server", scripted(t, server)},
			stdout: broken{c.err}, stderr: stderr})
		if code != exitFailed || stderr.String() != c.want {
			t.Errorf("exit code %d, stderr %q, want %q", code, stderr, c.want)
		}
		select {
		case <-server.Asked:
		case <-time.After(cliPatience):
			t.Error("the analysis was not cancelled")
		}
	}
}

func TestExitCodesTellWhatHappened(t *testing.T) {
	path := writeCode(t, "package main\n\nconst password = \"hunter2hunter2\"\n")
	empty, binary := writeCode(t, " \n"), writeCode(t, "\x7fELF\x00\x00")
	_, refused := withModel(t, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 401}})
	bad := filepath.Join(t.TempDir(), "athena.yaml")
	if err := os.WriteFile(bad, []byte("nonsense: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		variables []string
		args      []string
		code      int
		stderr    string
	}{
		"completed":              {nil, []string{path}, exitOK, ""},
		"no grave findings":      {nil, []string{path, "--fail-on", "critical"}, exitOK, ""},
		"grave findings":         {nil, []string{path, "--fail-on", "low"}, exitFindings, ""},
		"a provider that fails":  {refused, []string{path}, exitFailed, "the analysis failed: unauthorized (claude)"},
		"no server there":        {nil, []string{path, "--server", "http://127.0.0.1:1"}, exitFailed, "http://127.0.0.1:1: dial tcp"},
		"no such file":           {nil, []string{path + "x"}, exitUsage, "no such file"},
		"a directory":            {nil, []string{filepath.Dir(path)}, exitUsage, "is a directory"},
		"an empty file":          {nil, []string{empty}, exitUsage, "is empty"},
		"nothing piped in":       {nil, nil, exitUsage, "<stdin> is empty"},
		"a binary":               {nil, []string{binary}, exitUsage, "is not text"},
		"an unknown flag":        {nil, []string{path, "--nonsense"}, exitUsage, "unknown flag --nonsense"},
		"an unknown analysis":    {nil, []string{path, "-a", "magic"}, exitUsage, "--analysis is \"magic\"; it must be one of security"},
		"custom without prompt":  {nil, []string{path, "-a", "custom"}, exitUsage, "needs a question"},
		"prompt without custom":  {nil, []string{path, "-a", "bugs", "-p", "why?"}, exitUsage, "--prompt is for --analysis custom only"},
		"an unknown severity":    {nil, []string{path, "--fail-on", "bad"}, exitUsage, "--fail-on is \"bad\""},
		"too many tokens":        {nil, []string{path, "--max-tokens=1000000000"}, exitUsage, "--max-tokens is 1000000000; it must be from 1 to "},
		"no tokens":              {nil, []string{path, "--max-tokens=0"}, exitUsage, "--max-tokens is 0; it must be from 1 to "},
		"fewer than no tokens":   {nil, []string{path, "--max-tokens=-1"}, exitUsage, "--max-tokens is -1"},
		"an unknown provider":    {nil, []string{path, "--provider", "nobody"}, exitUsage, "it must be auto or one of local"},
		"a name with controls":   {nil, []string{path, "--model", "a\x1bb"}, exitUsage, "control character"},
		"an address without one": {nil, []string{path, "--server", "localhost"}, exitUsage, "such as http://127.0.0.1:8080"},
		"an address with a key":  {nil, []string{path, "--server", "http://me:secret@localhost"}, exitUsage, "must not hold credentials"},
		"a bad configuration":    {nil, []string{path, "--config", bad}, exitUsage, "nonsense"},
		"a file and a server":    {nil, []string{path, "--config", bad, "--server", "http://127.0.0.1:1"}, exitUsage, "--config is for analysing in this process"},
	} {
		t.Run(name, func(t *testing.T) {
			i := invoke(t, false, c.variables, strings.NewReader(""), append([]string{"analyze"}, c.args...)...)
			code := i.wait()
			if code != c.code || !strings.Contains(i.err.String(), c.stderr) || (c.stderr == "") != (i.err.String() == "") {
				t.Errorf("exit code %d, stderr %q; want %d, %q", code, i.err, c.code, c.stderr)
			}
			if strings.Contains(i.err.String(), "secret") {
				t.Errorf("stderr %q repeats a credential", i.err)
			}
		})
	}
}

func TestAQuestionAloneMakesACustomAnalysis(t *testing.T) {
	s := clienttest.StreamOf(t, "yes")
	server := clienttest.NewServer(s, clienttest.Sends(s.Frames(0, 3)))
	path := writeCode(t, smallFile)
	i := invoke(t, false, nil, nil, "analyze", path, "-p", "Is it safe?", "--provider", "claude", "--model", "m", "--max-tokens", "99", "-l", "go",
		"--server", scripted(t, server)+"/")
	if code := i.wait(); code != exitOK || i.out.String() != "yes\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, i.out, i.err)
	}
	want := `{"code":"package main\n\nfunc main() {\n\tprintln(\"hi\")\n}\n","language":"go","filename":"main.go","analysis":"custom",` +
		`"prompt":"Is it safe?","provider":"claude","model":"m","options":{"max_tokens":99},"cache":"use"}` + "\n"
	if len(server.Bodies()) != 1 || server.Bodies()[0] != want {
		t.Errorf("the server was asked %q, want %q", server.Bodies(), want)
	}
}

func TestTheServerLearnsNothingAboveTheDirectory(t *testing.T) {
	for path, want := range map[string]string{"-": "", "": "", "a.go": "a.go", "./b/../c/d.go": "c/d.go", "/home/me/x.go": "x.go", "../y.go": "y.go",
		strings.Repeat("d/", 600) + "z.go": "z.go", "e\x1b[2J.go": "e^[[2J.go"} {
		if got := filename(path); got != want {
			t.Errorf("filename(%.40q) is %q, want %q", path, got, want)
		}
	}
}

func TestWhatAServerSaysCanNotReachTheTerminal(t *testing.T) {
	const evil = "\x1b]0;owned\a\u009b2J\u202e"
	const shown = "^[]0;owned^G<U+009B>2J<U+202E>"
	s := &clienttest.Stream{ID: protocol.NewStreamID()}
	s.Add(t, protocol.TypeStarted, protocol.Started{Provider: evil, Attempt: 1})
	s.Add(t, protocol.TypeProgress, protocol.Progress{Stage: evil})
	s.Add(t, protocol.TypeChunk, protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: "T" + evil})
	s.Add(t, protocol.TypeFinding, protocol.Finding{Rule: "R" + evil, Severity: "S" + evil, Message: "M\n" + evil, Suggestion: "G" + evil})
	s.Add(t, protocol.TypeFailover, protocol.Failover{From: "F" + evil, To: "N" + evil, Reason: "W" + evil, Discard: true})
	s.Add(t, protocol.TypeFailed, protocol.Failed{Error: &protocol.Error{Code: "internal", Title: "T", Detail: "D" + evil, Status: 500}})
	url := scripted(t, clienttest.NewServer(s, clienttest.Sends(s.Frames(0, 6))))
	path := writeCode(t, smallFile)

	i := invoke(t, false, nil, nil, "analyze", path, "--server", url)
	code := i.wait()
	wantOut := "T" + shown + "\n" + path + ":0:0: S" + shown + ": M " + shown + " [R" + shown + "]\n    G" + shown + "\n" +
		"--- F" + shown + " failed (W" + shown + "); N" + shown + " starts again: disregard what is above ---\n"
	if code != exitFailed || i.out.String() != wantOut || i.err.String() != "athena: the analysis failed: internal: D"+shown+"\n" {
		t.Errorf("exit code %d, stdout %q, want %q, stderr %q", code, i.out, wantOut, i.err)
	}

	for _, args := range [][]string{{}, {"--json"}} {
		i = invoke(t, true, nil, nil, append([]string{"analyze", path, "--server", url}, args...)...)
		i.wait()
		if got := (tty{i.out}).shows(t); strings.ContainsFunc(got, unprintable) || !strings.Contains(got, "owned") {
			t.Errorf("with %q the terminal was told %q", args, got)
		}
	}
}

func TestHelpDocumentsEveryFlagAndExitCode(t *testing.T) {
	i := invoke(t, false, nil, nil, "analyze", "--help")
	if code := i.wait(); code != exitOK || i.err.String() != "" {
		t.Errorf("exit code %d, stderr %q", code, i.err)
	}
	help := i.out.String()
	for _, want := range []string{"[<file>]", "--analysis", "--prompt", "--language", "--provider", "--model", "--max-tokens", "--server", "--token",
		"--config", "--json", "--fail-on", "$ATHENA_SERVER", "$ATHENA_TOKEN", "NO_COLOR", "Exit codes:",
		"    0    ", "    1    ", "    2    ", "    3    ", "    130  "} {
		if !strings.Contains(help, want) {
			t.Errorf("help lacks %q:\n%s", want, help)
		}
	}
	for _, kind := range protocol.AnalysisKinds {
		if !strings.Contains(help, string(kind)) {
			t.Errorf("help lacks the analysis %q", kind)
		}
	}
	if strings.Contains(help, "${") || strings.Contains(help, "$$") {
		t.Errorf("help has a variable in it that was not replaced:\n%s", help)
	}
}
