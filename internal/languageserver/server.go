// Package languageserver is a language server that has code analysed by Athena
// while it is written: findings become diagnostics as they stream, suggestions
// code actions, explanations hovers. It speaks the Language Server Protocol
// 3.17 with one editor, and needs a client of an Athena server.
//
// What is analysed is what the editor has open, when it is opened, saved or has
// not been typed in for a while, and only where it has changed since. A text
// that changes ends its analysis, at the server, too. Diagnostics belong to the
// version of the text that was analysed, and are not published for another.
package languageserver

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sourcegraph/jsonrpc2"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
)

// DefaultDebounce is how long a text must not have changed before it is
// analysed.
const DefaultDebounce = 1500 * time.Millisecond

// progressTimeout is how long an editor may take to agree to show progress.
const progressTimeout = 5 * time.Second

// Options configure a server. The editor may change those with a name in JSON,
// as initializationOptions.
type Options struct {
	// Client is asked for analyses.
	Client *client.Client `json:"-"`
	// Version of the program, "" for none.
	Version string `json:"-"`

	// Analysis is what to look for; protocol.AnalysisReview where empty.
	Analysis protocol.AnalysisKind `json:"analysis"`
	// Provider and Model are asked; the server chooses where they are empty.
	Provider string `json:"provider"`
	Model    string `json:"model"`
	// DebounceMS is DefaultDebounce where zero; below zero, changes are not
	// analysed before they are saved.
	DebounceMS int `json:"debounce_ms"`
}

// A server serves one editor.
type server struct {
	conn  *jsonrpc2.Conn
	ctx   context.Context // until the editor has gone
	end   context.CancelFunc
	tasks sync.WaitGroup

	mu        sync.Mutex
	options   Options                      // guarded by mu
	root      string                       // guarded by mu: the workspace's folder, "" for none
	progress  bool                         // guarded by mu: the editor shows it
	versioned bool                         // guarded by mu: edits may name the version they are for
	documents map[string]*document         // guarded by mu: by URI
	files     map[string][sha256.Size]byte // guarded by mu: what the workspace's files were when they were analysed
	complains bool                         // guarded by mu: the last analysis failed, which the editor was told
	tokens    uint64                       // guarded by mu
}

// Serve serves the editor at the other end of rw until it has gone, says exit,
// or ctx ends.
func Serve(ctx context.Context, rw io.ReadWriteCloser, options Options) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	s := &server{ctx: ctx, end: end, options: options, documents: make(map[string]*document), files: make(map[string][sha256.Size]byte)}
	started := make(chan struct{})
	s.conn = jsonrpc2.NewConn(ctx, jsonrpc2.NewBufferedStream(rw, jsonrpc2.VSCodeObjectCodec{}), handler{s, started}, jsonrpc2.SetLogger(silent{}))
	close(started)
	select {
	case <-s.conn.DisconnectNotify():
	case <-ctx.Done():
	}
	end()
	s.tasks.Wait()
	_ = s.conn.Close()
}

// silent is for what the connection would log: how it ended, which DisconnectNotify
// has told.
type silent struct{}

func (silent) Printf(string, ...any) {}

// A handler takes messages one after the other: what takes long goes on beside.
type handler struct {
	s       *server
	started chan struct{} // closed once s.conn is set
}

// Handle takes one message.
func (h handler) Handle(ctx context.Context, conn *jsonrpc2.Conn, req *jsonrpc2.Request) {
	<-h.started
	result, err := h.s.handle(req)
	if err == errLater || req.Notif { //nolint:errorlint // itself
		return
	}
	if err != nil {
		rpc, ok := err.(*jsonrpc2.Error) //nolint:errorlint // itself
		if !ok {
			rpc = &jsonrpc2.Error{Code: jsonrpc2.CodeInvalidParams, Message: err.Error()}
		}
		_ = conn.ReplyWithError(ctx, req.ID, rpc)
		return
	}
	_ = conn.Reply(ctx, req.ID, result)
}

// errLater says that the answer comes from somebody else.
var errLater = &jsonrpc2.Error{Message: "later"}

func (s *server) handle(req *jsonrpc2.Request) (result any, err error) {
	switch req.Method {
	case "initialize":
		return with(req, s.initialize)
	case "shutdown":
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range s.documents {
			d.halt()
		}
		return nil, nil
	case "exit":
		s.end()
		return nil, nil
	case "textDocument/didOpen":
		return with(req, s.opened)
	case "textDocument/didChange":
		return with(req, s.changed)
	case "textDocument/didSave":
		return with(req, s.saved)
	case "textDocument/didClose":
		return with(req, s.closed)
	case "textDocument/hover":
		return with(req, s.hover)
	case "textDocument/codeAction":
		return with(req, s.codeActions)
	case "workspace/executeCommand":
		return with(req, func(p *executeParams) (any, error) { return s.execute(req.ID, p) })
	}
	return nil, &jsonrpc2.Error{Code: jsonrpc2.CodeMethodNotFound, Message: "method not found: " + req.Method}
}

// with decodes the parameters for f.
func with[T any](req *jsonrpc2.Request, f func(*T) (any, error)) (any, error) {
	p := new(T)
	if req.Params != nil {
		if err := json.Unmarshal(*req.Params, p); err != nil {
			return nil, fmt.Errorf("%s: %w", req.Method, err)
		}
	}
	return f(p)
}

func (s *server) initialize(p *initializeParams) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p.Options) > 0 {
		o := s.options
		if err := json.Unmarshal(p.Options, &o); err != nil {
			return nil, fmt.Errorf("initializationOptions: %w", err)
		}
		if o.Analysis != "" && !slices.Contains(protocol.AnalysisKinds, o.Analysis) || o.Analysis == protocol.AnalysisCustom {
			return nil, fmt.Errorf("initializationOptions: there is no analysis %.60q", o.Analysis)
		}
		s.options = o
	}
	folder := p.RootURI
	if len(p.WorkspaceFolders) > 0 {
		folder = p.WorkspaceFolders[0].URI
	}
	s.root = filePath(folder)
	s.progress = p.Capabilities.Window.WorkDoneProgress
	s.versioned = p.Capabilities.Workspace.WorkspaceEdit.DocumentChanges
	return initializeResult{
		Capabilities: serverCapabilities{
			PositionEncoding: "utf-16",
			TextDocumentSync: syncOptions{OpenClose: true, Change: syncIncremental, Save: true},
			HoverProvider:    true,
			CodeAction:       codeActionKinds{[]string{"quickfix"}},
			ExecuteCommand:   commandNames{commands, true},
		},
		ServerInfo: serverInfo{"athena", s.options.Version},
	}, nil
}

func (s *server) opened(p *didOpenParams) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := p.TextDocument
	if d := s.documents[t.URI]; d != nil {
		d.halt()
	}
	d := &document{uri: t.URI, language: t.LanguageID, version: t.Version, text: t.Text}
	s.documents[t.URI] = d
	s.schedule(d, 0)
	return nil, nil
}

func (s *server) changed(p *didChangeParams) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.documents[p.TextDocument.URI]
	if d == nil || len(p.ContentChanges) == 0 {
		return nil, nil
	}
	d.version = p.TextDocument.Version
	for _, c := range p.ContentChanges { // each is of what the one before has made
		d.text = c.apply(d.text)
	}
	d.halt()
	debounce := time.Duration(s.options.DebounceMS) * time.Millisecond
	if debounce == 0 {
		debounce = DefaultDebounce
	}
	if debounce > 0 {
		s.schedule(d, debounce)
	}
	return nil, nil
}

func (s *server) saved(p *documentParams) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.documents[p.TextDocument.URI]; d != nil && !d.running {
		s.schedule(d, 0)
	}
	return nil, nil
}

func (s *server) closed(p *documentParams) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.documents[p.TextDocument.URI]; d != nil {
		d.halt()
		delete(s.documents, d.uri)
		s.publish(publishParams{URI: d.uri, Diagnostics: []diagnostic{}})
	}
	return nil, nil
}

// halt ends what is analysed of d. Guarded by the server's mu.
func (d *document) halt() {
	if d.stop != nil {
		d.stop()
		d.stop, d.running = nil, false
	}
}

// notify tells the editor something. One that has gone needs no telling.
func (s *server) notify(method string, params any) { _ = s.conn.Notify(s.ctx, method, params) }

func (s *server) publish(p publishParams) { s.notify("textDocument/publishDiagnostics", p) }

func (s *server) show(typ int, format string, args ...any) {
	s.notify("window/showMessage", messageParams{typ, fmt.Sprintf(format, args...)})
}

// A report shows the editor how far something is.
type report struct {
	s     *server
	token string // "" where the editor doesn't show it
}

// begin begins a report. It waits for the editor, so it is not for what takes
// messages.
func (s *server) begin(ctx context.Context, title string) *report {
	s.mu.Lock()
	shown := s.progress
	s.tokens++
	token := "athena-" + strconv.FormatUint(s.tokens, 10)
	s.mu.Unlock()
	r := &report{s: s}
	ctx, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	if !shown || s.conn.Call(ctx, "window/workDoneProgress/create", progressCreate{token}, nil) != nil {
		return r
	}
	r.token = token
	r.say(progressValue{Kind: "begin", Title: title})
	return r
}

func (r *report) say(v progressValue) {
	if r.token != "" {
		r.s.notify("$/progress", progressParams{r.token, v})
	}
}

func (r *report) end(message string) { r.say(progressValue{Kind: "end", Message: message}) }
