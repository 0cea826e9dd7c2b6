package languageserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sourcegraph/jsonrpc2"
	"go.uber.org/goleak"

	"github.com/athena-hub/athena/internal/languageserver"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
	"github.com/athena-hub/athena/protocol/client/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// A hub answers each request with the findings that answer names, one after the
// other as the test lets them through.
type hub struct {
	t      *testing.T
	answer func(*protocol.Request) []protocol.Finding
	gate   chan struct{} // nil: everything comes at once
	asked  chan protocol.Request
	ended  chan string // the streams that were cancelled

	mu      sync.Mutex
	streams map[string]*clienttest.Stream // guarded by mu
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/streams/"), "/")
	h.mu.Lock()
	s := h.streams[id]
	h.mu.Unlock()
	switch r.Method {
	case http.MethodPost:
		var req protocol.Request
		if b, err := io.ReadAll(r.Body); err != nil || json.Unmarshal(b, &req) != nil {
			h.t.Errorf("the request is %s: %v", b, err)
		}
		s := &clienttest.Stream{ID: protocol.NewStreamID()}
		s.Add(h.t, protocol.TypeStarted, protocol.Started{Provider: "scripted", Attempt: 1})
		for _, f := range h.answer(&req) {
			if f.Rule == "fails" {
				s.Add(h.t, protocol.TypeFailed, protocol.Failed{Error: protocol.Errorf(protocol.CodeQuotaExceeded, "no money")})
				continue
			}
			s.Add(h.t, protocol.TypeFinding, f)
		}
		var d protocol.Digest
		text := "About " + strings.Fields(req.Code)[0]
		d.Add(text)
		n, sum := d.Sum()
		s.Add(h.t, protocol.TypeChunk, protocol.Chunk{Kind: protocol.KindText, Attempt: 1, Text: text})
		s.Add(h.t, protocol.TypeCompleted, protocol.Completed{Events: uint64(len(s.Events) + 1), Bytes: n, SHA256: sum})
		h.mu.Lock()
		h.streams[s.ID] = s
		h.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(protocol.Metadata{ID: s.ID})
		h.asked <- req
	case http.MethodDelete:
		w.WriteHeader(http.StatusAccepted)
		h.ended <- id
	default:
		clienttest.Sends()(w, r, 0)
		for i := range s.Events {
			if h.gate != nil {
				select {
				case <-h.gate:
				case <-r.Context().Done():
					return
				}
			}
			_, _ = w.Write(s.Frames(i, i+1))
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// An editor is the other end of a language server.
type editor struct {
	t         *testing.T
	hub       *hub
	conn      *jsonrpc2.Conn
	published chan published
	shown     chan string
	progress  chan string
}

type published struct {
	URI         string
	Version     *int
	Diagnostics []struct {
		Range    json.RawMessage
		Severity int
		Code     string
		Message  string
	}
}

// String is what was published in short.
func (p published) String() string {
	s := filepath.Base(p.URI)
	if p.Version != nil {
		s += fmt.Sprintf(" v%d", *p.Version)
	}
	for _, d := range p.Diagnostics {
		var r struct{ Start, End struct{ Line, Character int } }
		_ = json.Unmarshal(d.Range, &r)
		s += fmt.Sprintf(" %s/%d@%d:%d-%d:%d", d.Code, d.Severity, r.Start.Line, r.Start.Character, r.End.Line, r.End.Character)
	}
	return s
}

func (e *editor) handle(_ context.Context, _ *jsonrpc2.Conn, req *jsonrpc2.Request) (any, error) {
	switch req.Method {
	case "textDocument/publishDiagnostics":
		var p published
		if err := json.Unmarshal(*req.Params, &p); err != nil {
			e.t.Error(err)
		}
		e.published <- p
	case "window/showMessage":
		var m struct{ Message string }
		if err := json.Unmarshal(*req.Params, &m); err != nil {
			e.t.Error(err)
		}
		e.shown <- m.Message
	case "$/progress":
		var p struct {
			Value struct{ Kind, Title, Message string }
		}
		if err := json.Unmarshal(*req.Params, &p); err != nil {
			e.t.Error(err)
		}
		e.progress <- p.Value.Kind + " " + p.Value.Title + p.Value.Message
	}
	return nil, nil
}

const initialize = `{"capabilities":{"window":{"workDoneProgress":true},"workspace":{"workspaceEdit":{"documentChanges":true}}},` +
	`"rootUri":%q,"initializationOptions":{"debounce_ms":%d}}`

// edit starts a language server for an editor in the folder root.
func edit(t *testing.T, h *hub, root string, debounce int) *editor {
	t.Helper()
	h.t, h.streams = t, make(map[string]*clienttest.Stream)
	h.asked, h.ended = make(chan protocol.Request, 100), make(chan string, 100)
	server := httptest.NewServer(h)
	c, err := client.New(client.Config{URL: server.URL, Transports: []string{protocol.TransportSSE}})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		languageserver.Serve(context.Background(), far, languageserver.Options{Client: c})
	}()
	e := &editor{t: t, hub: h, published: make(chan published, 100), shown: make(chan string, 100), progress: make(chan string, 100)}
	e.conn = jsonrpc2.NewConn(context.Background(), jsonrpc2.NewBufferedStream(near, jsonrpc2.VSCodeObjectCodec{}), jsonrpc2.HandlerWithError(e.handle))
	t.Cleanup(func() {
		_ = e.conn.Close()
		<-served
		c.Close()
		server.Close()
	})
	e.call("initialize", fmt.Sprintf(initialize, "file://"+root, debounce), nil)
	return e
}

func (e *editor) call(method, params string, result any) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	if err := e.conn.Call(ctx, method, json.RawMessage(params), result); err != nil {
		e.t.Fatalf("%s: %v", method, err)
	}
}

func (e *editor) notify(method, params string, args ...any) {
	e.t.Helper()
	if err := e.conn.Notify(e.t.Context(), method, json.RawMessage(fmt.Sprintf(params, args...))); err != nil {
		e.t.Fatalf("%s: %v", method, err)
	}
}

func (e *editor) open(uri, text string) {
	e.t.Helper()
	e.notify("textDocument/didOpen", `{"textDocument":{"uri":%q,"languageId":"go","version":1,"text":%q}}`, uri, text)
}

func (e *editor) change(uri string, version int, text string) {
	e.t.Helper()
	e.notify("textDocument/didChange", `{"textDocument":{"uri":%q,"version":%d},"contentChanges":[{"text":%q}]}`, uri, version, text)
}

func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func (e *editor) wantPublished(want string) {
	e.t.Helper()
	if got := next(e.t, e.published).String(); got != want {
		e.t.Errorf("published was %q, want %q", got, want)
	}
}

func finding(rule string, severity protocol.Severity, line, column, endColumn int, suggestion string) protocol.Finding {
	return protocol.Finding{Rule: rule, Severity: severity, Message: "M", Suggestion: suggestion,
		Range: protocol.Range{Start: protocol.Position{Line: line, Column: column}, End: protocol.Position{Line: line, Column: endColumn}}}
}

func TestFindingsArePublishedOneByOneInTheEditorsUnits(t *testing.T) {
	h := &hub{gate: make(chan struct{}), answer: func(*protocol.Request) []protocol.Finding {
		return []protocol.Finding{
			finding("high", protocol.SeverityHigh, 2, 2, 99, ""), // beyond its line
			finding("medium", protocol.SeverityMedium, 0, 0, 0, ""),
			finding("info", protocol.SeverityInfo, 99, 1, 2, ""), // beyond the text
		}
	}}
	e := edit(t, h, "/w", 1)
	e.open("file:///w/a/b.go", "  one\r\n🦉π\nend")
	if req := next(t, h.asked); req.Filename != "a/b.go" || req.Language != "" || req.Analysis != protocol.AnalysisReview {
		t.Errorf("asked was %+v", req)
	}
	h.gate <- struct{}{} // started
	h.gate <- struct{}{}
	e.wantPublished("b.go v1 high/1@1:1-1:3")
	h.gate <- struct{}{}
	e.wantPublished("b.go v1 high/1@1:1-1:3 medium/2@0:2-0:5")
	close(h.gate)
	e.wantPublished("b.go v1 high/1@1:1-1:3 medium/2@0:2-0:5 info/4@2:0-2:3")
	if got := next(t, e.progress); got != "begin Athena: b.go" {
		t.Errorf("progress was %q", got)
	}
	for {
		if got := next(t, e.progress); strings.HasPrefix(got, "end ") {
			if got != "end 3 findings" {
				t.Errorf("progress was %q", got)
			}
			break
		}
	}
	e.notify("textDocument/didClose", `{"textDocument":{"uri":"file:///w/a/b.go"}}`)
	e.wantPublished("b.go")
}

func TestAChangeEndsTheAnalysisAndNothingOfItIsPublishedAfterwards(t *testing.T) {
	h := &hub{gate: make(chan struct{}), answer: func(req *protocol.Request) []protocol.Finding {
		return []protocol.Finding{finding(req.Code, protocol.SeverityLow, 1, 1, 2, "")}
	}}
	e := edit(t, h, "/w", 1)
	e.open("file:///w/x.go", "one")
	next(t, h.asked)
	e.change("file:///w/x.go", 2, "two")
	if id := next(t, h.ended); !protocol.ValidStreamID(id) {
		t.Errorf("cancelled was %q", id)
	}
	if req := next(t, h.asked); req.Code != "two" {
		t.Errorf("asked was %q", req.Code)
	}
	close(h.gate)
	e.wantPublished("x.go v2 two/3@0:0-0:1")
}

func TestChangesMayNameTheRangesTheyReplace(t *testing.T) {
	h := &hub{answer: func(*protocol.Request) []protocol.Finding { return nil }}
	e := edit(t, h, "/w", 1)
	const uri = "file:///w/x.go"
	e.open(uri, "one\n🦉 two")
	next(t, h.asked)
	e.notify("textDocument/didChange", `{"textDocument":{"uri":%q,"version":2},"contentChanges":[`+
		`{"range":{"start":{"line":1,"character":3},"end":{"line":1,"character":6}},"text":"three"},`+
		`{"range":{"start":{"line":0,"character":0},"end":{"line":1,"character":0}},"text":""}]}`, uri)
	if req := next(t, h.asked); req.Code != "🦉 three" {
		t.Errorf("asked was %q", req.Code)
	}
}

func TestOnlyWhatHasChangedIsAnalysedAndOnlySavesWhereThatIsWanted(t *testing.T) {
	h := &hub{answer: func(*protocol.Request) []protocol.Finding { return nil }}
	e := edit(t, h, "/w", -1)
	const uri = "file:///w/x.go"
	save := func() { e.notify("textDocument/didSave", `{"textDocument":{"uri":%q}}`, uri) }
	e.open(uri, "one")
	next(t, h.asked)
	e.wantPublished("x.go v1")
	for !strings.HasPrefix(next(t, e.progress), "end ") {
	}
	var none any
	e.call("textDocument/hover", `{"textDocument":{"uri":"file:///w/x.go"},"position":{"line":0,"character":0}}`, &none)
	save() // the same
	e.change(uri, 2, "two")
	e.change(uri, 3, "three")
	save()
	if req := next(t, h.asked); req.Code != "three" {
		t.Errorf("asked was %q", req.Code)
	}
	e.wantPublished("x.go v3")
}

func TestSuggestionsBecomeEditsAndHoversExplain(t *testing.T) {
	h := &hub{answer: func(req *protocol.Request) []protocol.Finding {
		if req.Analysis == protocol.AnalysisExplain {
			return nil
		}
		code, gone := finding("code", protocol.SeverityLow, 3, 2, 3, ""), finding("gone", protocol.SeverityLow, 2, 2, 4, "")
		code.Replacement, gone.Replacement = new("yes\nno"), new("")
		return []protocol.Finding{finding("words", protocol.SeverityLow, 2, 2, 4, "Do\nit well."), code, gone}
	}}
	e := edit(t, h, "/w", 1)
	const uri = "file:///w/x.go"
	e.open(uri, "one\n\ttwo\nno")
	e.wantPublished("x.go v1 words/3@1:1-1:3")
	e.wantPublished("x.go v1 words/3@1:1-1:3 code/3@2:1-2:2")
	e.wantPublished("x.go v1 words/3@1:1-1:3 code/3@2:1-2:2 gone/3@1:1-1:3")
	type action struct {
		Title       string
		IsPreferred bool
		Edit        any
	}
	var actions []action
	e.call("textDocument/codeAction", `{"textDocument":{"uri":"file:///w/x.go"},"range":{"start":{"line":0,"character":0},"end":{"line":3,"character":0}}}`, &actions)
	change := func(text string, line, from, endLine, to int) any {
		var v any
		if err := json.Unmarshal(fmt.Appendf(nil, `{"documentChanges":[{"textDocument":{"uri":%q,"version":1},"edits":[{"newText":%q,`+
			`"range":{"start":{"line":%d,"character":%d},"end":{"line":%d,"character":%d}}}]}]}`, uri, text, line, from, endLine, to), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	want := []action{
		{"Athena: note the suggestion as a comment (words)", false, change("\t// TODO: Do it well.\n", 1, 0, 1, 0)},
		{"Athena: explain this code (words)", false, nil},
		{"Athena: put the suggested code here (code)", true, change("yes\nno", 2, 0, 2, 2)},
		{"Athena: explain this code (code)", false, nil},
		{"Athena: put the suggested code here (gone)", true, change("", 1, 0, 2, 0)},
		{"Athena: explain this code (gone)", false, nil},
	}
	if !reflect.DeepEqual(actions, want) {
		t.Errorf("the actions are %+v, want %+v", actions, want)
	}
	var text string
	e.call("workspace/executeCommand", `{"command":"athena.explain","arguments":["file:///w/x.go",{"start":{"line":1,"character":2},"end":{"line":2,"character":0}}]}`, &text)
	if text != "About two" || next(t, e.shown) != "Athena has explained lines 2 to 2: hover over them" {
		t.Errorf("explained was %q", text)
	}
	var hover struct{ Contents struct{ Value string } }
	e.call("textDocument/hover", `{"textDocument":{"uri":"file:///w/x.go"},"position":{"line":1,"character":2}}`, &hover)
	if want := "**low** `words`\n\nM\n\n*Suggestion:* Do\nit well.\n\n---\n\n**low** `gone`\n\nM\n\n---\n\nAbout two"; hover.Contents.Value != want {
		t.Errorf("the hover says %q, want %q", hover.Contents.Value, want)
	}
}

func TestASelectionIsAnalysedByItselfAndTheRestIsKept(t *testing.T) {
	h := &hub{answer: func(req *protocol.Request) []protocol.Finding {
		var found []protocol.Finding
		for i, line := range strings.Split(req.Code, "\n") {
			found = append(found, finding(fmt.Sprintf("%s%d", line, strings.Count(req.Code, "\n")), protocol.SeverityLow, i+1, 1, 2, ""))
		}
		return found
	}}
	e := edit(t, h, "/w", 1)
	e.open("file:///w/x.go", "a\nb\nc")
	e.wantPublished("x.go v1 a2/3@0:0-0:1")
	e.wantPublished("x.go v1 a2/3@0:0-0:1 b2/3@1:0-1:1")
	e.wantPublished("x.go v1 a2/3@0:0-0:1 b2/3@1:0-1:1 c2/3@2:0-2:1")
	e.call("workspace/executeCommand", `{"command":"athena.analyzeSelection","arguments":["file:///w/x.go",{"start":{"line":1,"character":0},"end":{"line":2,"character":0}}]}`, nil)
	e.wantPublished("x.go v1 a2/3@0:0-0:1 c2/3@2:0-2:1 b0/3@1:0-1:1")
}

// Else what replaces a line of the server's would replace another of the editor's.
func TestTheServerCountsTheLinesThatTheEditorCounts(t *testing.T) {
	h := &hub{answer: func(req *protocol.Request) []protocol.Finding {
		return []protocol.Finding{finding(fmt.Sprintf("%q", req.Code), protocol.SeverityLow, strings.Count(req.Code, "\n")+1, 1, 2, "")}
	}}
	e := edit(t, h, "/w", 1)
	e.open("file:///w/x.go", "a\rb\r\nc\nd")
	e.wantPublished(`x.go v1 "a\nb\nc\nd"/3@3:0-3:1`)
}

func TestAWorkspaceIsAnalysedWhereItHasChanged(t *testing.T) {
	h := &hub{answer: func(req *protocol.Request) []protocol.Finding {
		return []protocol.Finding{finding(req.Code, protocol.SeverityLow, 1, 1, 2, "")}
	}}
	root := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"a.go": "one", "sub/b c.py": "two", ".git/c.go": "no", "node_modules/d.js": "no", "e.txt": "no", "f.go": "no\x00"} {
		write(name, text)
	}
	e := edit(t, h, root, 1)
	analyse := func(want string) {
		t.Helper()
		var result json.RawMessage
		e.call("workspace/executeCommand", `{"command":"athena.analyzeWorkspace"}`, &result)
		if string(result) != want {
			t.Errorf("the result is %s, want %s", result, want)
		}
	}
	analyse(`{"files":2,"unchanged":1,"failed":0,"skipped":0}`)
	got := map[string]bool{next(t, e.published).String(): true, next(t, e.published).String(): true}
	if !got["a.go one/3@0:0-0:1"] || !got["b%20c.py two/3@0:0-0:1"] {
		t.Errorf("published was %v", got)
	}
	write("a.go", "three")
	analyse(`{"files":1,"unchanged":2,"failed":0,"skipped":0}`)
	e.wantPublished("a.go three/3@0:0-0:1")
}

func TestAFailureIsShownOnce(t *testing.T) {
	h := &hub{answer: func(*protocol.Request) []protocol.Finding {
		return []protocol.Finding{{Rule: "fails"}}
	}}
	e := edit(t, h, "/w", 1)
	for _, uri := range []string{"file:///w/a.go", "file:///w/b.go"} {
		e.open(uri, "x")
		next(t, h.asked)
		for !strings.HasPrefix(next(t, e.progress), "end ") {
		}
	}
	if got := next(t, e.shown); got != "Athena: the analysis failed: quota_exceeded: no money" {
		t.Errorf("shown was %q", got)
	}
	var none any
	e.call("textDocument/hover", `{"textDocument":{"uri":"file:///w/a.go"},"position":{"line":0,"character":0}}`, &none)
	if len(e.shown) > 0 {
		t.Errorf("shown was %q, too", <-e.shown)
	}
}

func TestWhatIsWrongIsAnswered(t *testing.T) {
	e := edit(t, &hub{}, "/w", 1)
	for _, c := range []struct{ method, params, want string }{
		{"textDocument/definition", `{}`, "method not found"},
		{"initialize", `{"initializationOptions":{"analysis":"magic"}}`, `no analysis "magic"`},
		{"workspace/executeCommand", `{"command":"rm"}`, `no command "rm"`},
		{"workspace/executeCommand", `{"command":"athena.analyzeFile"}`, "must be a document's URI"},
		{"workspace/executeCommand", `{"command":"athena.explain","arguments":["file:///w/x"]}`, "must be a range"},
		{"workspace/executeCommand", `{"command":"athena.analyzeFile","arguments":["file:///w/x"]}`, "is not open"},
		{"textDocument/hover", `[]`, "cannot unmarshal"},
	} {
		if err := e.conn.Call(t.Context(), c.method, json.RawMessage(c.params), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.method, c.params, err, c.want)
		}
	}
}
