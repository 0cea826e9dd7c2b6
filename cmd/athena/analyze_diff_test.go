package main

import (
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client/clienttest"
)

func TestSuggestedCodeIsShownAsAChange(t *testing.T) {
	replacing := func(first, last int, code string) *protocol.Finding {
		return &protocol.Finding{Rule: "r", Severity: protocol.SeverityLow, Message: "m", Replacement: &code,
			Range: protocol.Range{Start: protocol.Position{Line: first, Column: 1}, End: protocol.Position{Line: last, Column: 1}}}
	}
	code := codeLines("one\r\ntwo\nthree\n")
	for _, c := range []struct {
		finding *protocol.Finding
		want    string
	}{
		{&protocol.Finding{}, ""},
		{replacing(2, 2, "2"), "-two +2"},
		{replacing(1, 2, ""), "-one -two"},
		{replacing(1, 3, "one\nmore\nthree"), "-two +more"},
		{replacing(1, 2, "one\none\ntwo"), "+one"},
		{replacing(1, 2, "one\ntwo"), ""},
		{replacing(2, 0, "2"), "-two +2"},
		{replacing(2, 9, "2"), "+2"}, // other code
		{replacing(0, 0, ""), ""},
	} {
		var got []string
		for _, l := range changed(code, c.finding) {
			got = append(got, string(l.sign)+l.text)
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%+v changes %q, want %q", c.finding, got, c.want)
		}
	}
}

func TestATerminalAndAPipeShowSuggestedCode(t *testing.T) {
	code := "\tfmt.Println(\"hi\")\n\t// \x1b[2J" + strings.Repeat(" long", 12)
	f := protocol.Finding{Rule: "print", Severity: protocol.SeverityLow, Message: "To stderr.", Suggestion: "Use fmt.", Replacement: &code,
		Range: protocol.Range{Start: protocol.Position{Line: 4, Column: 2}, End: protocol.Position{Line: 4, Column: 15}}}
	s := &clienttest.Stream{ID: protocol.NewStreamID()}
	s.Add(t, protocol.TypeStarted, protocol.Started{Provider: "one", Attempt: 1})
	s.Add(t, protocol.TypeFinding, f)
	n, sum := new(protocol.Digest).Sum()
	s.Add(t, protocol.TypeCompleted, protocol.Completed{FinishReason: "stop", Provider: "one", Events: 3, Bytes: n, SHA256: sum})
	url := scripted(t, clienttest.NewServer(s, clienttest.Sends(s.Frames(0, 3))))
	path := writeCode(t, smallFile)

	run := func(terminal bool, variables []string, args ...string) *invocation {
		t.Helper()
		i := invoke(t, terminal, variables, nil, append([]string{"analyze", path, "--server", url}, args...)...)
		if code := i.wait(); code != exitOK {
			t.Fatalf("exit code %d, %s", code, i.err)
		}
		return i
	}
	head := path + ":4:2: low: To stderr. [print]\n    Use fmt.\n"
	want := head + "    - \tprintln(\"hi\")\n    + \tfmt.Println(\"hi\")\n    + \t// ^[[2J" + strings.Repeat(" long", 12) + "\n"
	if got := run(false, nil).out.String(); got != want {
		t.Errorf("a pipe gets %q, want %q", got, want)
	}
	// In 60 columns, of which 6 go to the indentation and the sign.
	want = head + "    -     println(\"hi\")\n    +     fmt.Println(\"hi\")\n    +     // ^[[2J" + strings.Repeat(" long", 8) + " l\n      ong long long long\n"
	for _, variables := range [][]string{nil, {"NO_COLOR=1"}} {
		i := run(true, variables)
		if got := (tty{i.out}).shows(t); !strings.HasPrefix(got, want) {
			t.Errorf("a terminal shows %q, want %q", got, want)
		}
		colours := strings.Contains(i.out.String(), styleRemoved+"-     println(\"hi\")"+styleReset) && strings.Contains(i.out.String(), styleAdded+"+     fmt")
		if colours != (variables == nil) || !colours && strings.Contains(i.out.String(), "\x1b[3") {
			t.Errorf("with %q a terminal gets %q", variables, i.out)
		}
	}
	if got, want := run(false, nil, "--json").out.String(), `"replacement":"\tfmt.Println(\"hi\")\n\t// \u001b[2J long`; !strings.Contains(got, want) {
		t.Errorf("as JSON it is %q, without %q", got, want)
	}
}
