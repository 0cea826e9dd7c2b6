package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/audit"
	"github.com/athena-hub/athena/protocol"
)

// lines are the events of a log.
func lines(t *testing.T, b []byte) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range bytes.Lines(b) {
		var e map[string]any
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

func TestAnEventIsOneLineWithItsFields(t *testing.T) {
	var b bytes.Buffer
	cost := 0.25
	audit.To(&b, audit.Options{Node: "n1"}).Write(audit.Event{Kind: audit.KindAnalysis, Caller: "ada", Tenant: "acme", Outcome: audit.OK,
		Usage: &protocol.Usage{InputTokens: 3, OutputTokens: 4, CostUSD: &cost}, Code: "not asked for"})
	e := lines(t, b.Bytes())[0]
	usage, _ := e["usage"].(map[string]any)
	if e["event"] != "analysis" || e["node"] != "n1" || e["caller"] != "ada" || usage["cost_usd"] != cost || e["code"] != nil || e["method"] != nil {
		t.Errorf("got %v", e)
	}
	if at, err := time.Parse(time.RFC3339Nano, e["time"].(string)); err != nil || time.Since(at) > time.Minute {
		t.Errorf("time %v: %v", e["time"], err)
	}
}

func TestCodeIsRecordedIfAskedForAndThenOnlySoMuch(t *testing.T) {
	var b bytes.Buffer
	l := audit.To(&b, audit.Options{Code: true})
	l.Write(audit.Event{Code: "a\nb"})
	l.Write(audit.Event{Code: strings.Repeat("é", 64<<10)})
	got := lines(t, b.Bytes())
	if got[0]["code"] != "a\nb" || len(got[1]["code"].(string)) != 64<<10 {
		t.Errorf("got %v and %d bytes", got[0]["code"], len(got[1]["code"].(string)))
	}
}

func TestAMovedFileIsOpenedAnewAndOnlyItsOwnerMayReadIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := audit.Open(path, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Write(audit.Event{Kind: "one"})
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Write(audit.Event{Kind: "two"})
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Write(audit.Event{Kind: "three"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Write(audit.Event{Kind: "late"})
	for name, want := range map[string]int{path + ".1": 2, path: 1} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := lines(t, b); len(got) != want {
			t.Errorf("%s has %d lines, want %d", name, len(got), want)
		}
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if l, err := audit.Open(filepath.Join(path, "x"), audit.Options{}); err == nil {
		t.Error("a file below a file was opened", l)
	}
}

func TestAFloodOfDenialsIsCounted(t *testing.T) { floodOf(t, audit.KindDenied, audit.KindLimited) }

func TestAFloodOfWhoHasHadItsShareIsCounted(t *testing.T) {
	floodOf(t, audit.KindLimited, audit.KindDenied)
}

// floodOf writes very many events of a kind, and one of another, which has a rate
// of its own.
func floodOf(t *testing.T, kind, other string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := audit.To(&b, audit.Options{})
		for range 1000 {
			l.Write(audit.Event{Kind: kind})
		}
		l.Write(audit.Event{Kind: other})
		time.Sleep(time.Second)
		l.Write(audit.Event{Kind: kind})
		got := lines(t, b.Bytes())
		if len(got) != 22 || got[21]["suppressed"] != 980.0 || got[20]["event"] != other || got[20]["suppressed"] != nil {
			t.Errorf("%d lines, the last %v", len(got), got[len(got)-1])
		}
	})
}

func TestLinesOfSeveralGoroutinesStayWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := audit.Open(path, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				l.Write(audit.Event{Kind: audit.KindRequest, Route: strings.Repeat("x", 300)})
			}
		})
		all.Go(func() {
			if err := l.Reopen(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := lines(t, b); len(got) != 400 || len(got[0]["route"].(string)) != 200 {
		t.Errorf("%d lines", len(got))
	}
}

type broken struct{ err error }

func (b *broken) Write(p []byte) (int, error) { return len(p), b.err }

func TestAFailureToWriteIsToldOnceUntilItIsOver(t *testing.T) {
	w, told := &broken{fs.ErrPermission}, 0
	l := audit.To(w, audit.Options{Failed: func(err error) {
		if told++; !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
	}})
	for _, err := range []error{fs.ErrPermission, fs.ErrPermission, nil, fs.ErrPermission} {
		w.err = err
		l.Write(audit.Event{})
	}
	if told != 2 {
		t.Errorf("told %d times, want 2", told)
	}
	var off *audit.Log
	off.Write(audit.Event{})
	if err := errors.Join(off.Reopen(), off.Close()); err != nil || off.RecordsCode() {
		t.Error("a log that is off does something", err)
	}
}

func FuzzWhatAClientSendsStaysWithinItsLine(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\x1b[2J", "\u009b31m", "\xff", "\"}\n{\"event\":\"start\"}", "\u2028", strings.Repeat("ü", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var b bytes.Buffer
		audit.To(&b, audit.Options{Code: true}).Write(audit.Event{Kind: audit.KindRequest, Route: s, UserAgent: s, Caller: s, Code: s})
		if n := bytes.Count(b.Bytes(), []byte("\n")); n != 1 {
			t.Fatalf("%d lines: %q", n, b.String())
		}
		for _, r := range strings.TrimSuffix(b.String(), "\n") {
			if r < ' ' || r >= 0x7f && r <= 0x9f {
				t.Fatalf("a control character: %q", b.String())
			}
		}
		e := lines(t, b.Bytes())[0]
		if e["event"] != "request" {
			t.Fatalf("%v", e)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	l, err := audit.Open(filepath.Join(b.TempDir(), "audit.log"), audit.Options{Node: "n1"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.Write(audit.Event{Kind: audit.KindRequest, Caller: "ada", Credential: "static:ada", Address: "203.0.113.9", Method: "GET",
			Route: "GET /v1/streams/{id}", Stream: "01M8DFEACGHFRGN66W9NJNS5WMA5JGZ02HRE", RequestID: "r", Outcome: audit.OK, Status: 200})
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}
