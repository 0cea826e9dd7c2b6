package languageserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sourcegraph/jsonrpc2"

	"github.com/athena-hub/athena/protocol"
)

// What an editor can have executed. The arguments are a document's URI and,
// for a selection and an explanation, a range.
const (
	commandFile      = "athena.analyzeFile"
	commandSelection = "athena.analyzeSelection"
	commandWorkspace = "athena.analyzeWorkspace"
	commandExplain   = "athena.explain"
)

var commands = []string{commandFile, commandSelection, commandWorkspace, commandExplain}

const (
	// maxFiles bounds the files that one command has analysed.
	maxFiles = 200
	// maxFileBytes bounds one of them.
	maxFileBytes = 256 << 10
	// filesAtOnce is how many are analysed at the same time.
	filesAtOnce = 4
)

// execute begins a command, whose answer comes when it has ended.
func (s *server) execute(id jsonrpc2.ID, p *executeParams) (any, error) {
	if p.Command == commandWorkspace {
		s.answer(id, func() (any, error) { return s.workspace() })
		return nil, errLater
	}
	if !slices.Contains(commands, p.Command) {
		return nil, fmt.Errorf("there is no command %.60q", p.Command)
	}
	var uri string
	var where lspRange
	if len(p.Arguments) == 0 || json.Unmarshal(p.Arguments[0], &uri) != nil {
		return nil, fmt.Errorf("%s: the first argument must be a document's URI", p.Command)
	}
	if p.Command != commandFile && (len(p.Arguments) < 2 || json.Unmarshal(p.Arguments[1], &where) != nil) {
		return nil, fmt.Errorf("%s: the second argument must be a range", p.Command)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.documents[uri]
	if d == nil {
		return nil, fmt.Errorf("%s: %.200q is not open", p.Command, uri)
	}
	j := &job{doc: d, version: d.version, text: d.text}
	if p.Command != commandFile {
		n := len(lines(d.text))
		j.from = min(max(where.Start.Line, 0), n-1)
		j.to = min(max(where.End.Line, j.from)+1, n)
		if where.End.Character == 0 && where.End.Line > where.Start.Line { // whole lines
			j.to = max(j.to-1, j.from+1)
		}
	}
	if p.Command == commandExplain {
		s.answer(id, func() (any, error) { return s.explain(s.ctx, j) })
		return nil, errLater
	}
	for _, f := range d.findings {
		if line := f.Range.Start.Line - 1; j.to > 0 && d.foundIn == d.version && (line < j.from || line >= j.to) {
			j.others = append(j.others, f)
		}
	}
	d.halt()
	ctx, cancel := context.WithCancel(s.ctx)
	d.stop, d.running = cancel, true
	s.answer(id, func() (any, error) {
		defer cancel()
		return nil, s.analyse(ctx, j)
	})
	return nil, errLater
}

// answer answers a request with what f returns.
func (s *server) answer(id jsonrpc2.ID, f func() (any, error)) {
	s.tasks.Go(func() {
		result, err := f()
		if err != nil {
			_ = s.conn.ReplyWithError(s.ctx, id, &jsonrpc2.Error{Code: jsonrpc2.CodeInternalError, Message: err.Error()})
			return
		}
		_ = s.conn.Reply(s.ctx, id, result)
	})
}

// explain has some lines explained, which is the answer, and what a hover over
// them says from then on.
func (s *server) explain(ctx context.Context, j *job) (string, error) {
	all := lines(j.text)
	code := strings.Join(all[j.from:j.to], "\n")
	if strings.TrimSpace(code) == "" {
		return "", errors.New("there is nothing to explain")
	}
	report := s.begin(ctx, "Athena: explaining")
	t, err := s.follow(ctx, report, s.request(j.doc, code, protocol.AnalysisExplain), func(*protocol.Transcript) {})
	if err != nil {
		report.end("not explained")
		return "", err
	}
	report.end("explained")
	where := lspRange{position{Line: j.from}, position{j.to - 1, units(all[j.to-1])}}
	s.mu.Lock()
	d := j.doc
	current := d.version == j.version
	if current {
		d.explanations = append(slices.DeleteFunc(d.explanations, func(e explanation) bool {
			return e.version != d.version || e.where == where
		}), explanation{d.version, where, t.Text()})
	}
	s.mu.Unlock()
	if current {
		s.show(messageInfo, "Athena has explained lines %d to %d: hover over them", j.from+1, j.to)
	}
	return t.Text(), nil
}

// workspaceResult is what a workspace's analysis comes to.
type workspaceResult struct {
	Files     int64 `json:"files"`
	Unchanged int64 `json:"unchanged"`
	Failed    int64 `json:"failed"`
	// Skipped are files beyond the limit.
	Skipped int `json:"skipped"`
}

// workspace analyses the files of the workspace that have changed since.
func (s *server) workspace() (any, error) {
	s.mu.Lock()
	root := s.root
	s.mu.Unlock()
	if root == "" {
		return nil, errors.New("the editor has named no folder")
	}
	found, err := sources(root)
	if err != nil {
		return nil, err
	}
	result := workspaceResult{Skipped: max(0, len(found)-maxFiles)}
	found = found[:min(len(found), maxFiles)]
	report := s.begin(s.ctx, "Athena: workspace")
	defer func() { report.end(fmt.Sprintf("%d files", result.Files)) }()
	var done, files, unchanged, failed atomic.Int64
	var workers sync.WaitGroup
	next := make(chan string)
	for range filesAtOnce {
		workers.Go(func() {
			for file := range next {
				again, err := s.file(file)
				switch {
				case err != nil:
					failed.Add(1)
					s.tell(err)
				case again:
					files.Add(1)
				default:
					unchanged.Add(1)
				}
				n := done.Add(1)
				report.say(progressValue{Kind: "report", Message: fmt.Sprintf("%d of %d files", n, len(found)), Percentage: new(int(n) * 100 / len(found))})
			}
		})
	}
	for _, file := range found {
		if s.ctx.Err() != nil {
			break
		}
		next <- file
	}
	close(next)
	workers.Wait()
	result.Files, result.Unchanged, result.Failed = files.Load(), unchanged.Load(), failed.Load()
	return result, s.ctx.Err()
}

// file analyses one file, if it has changed: the editor's text where it has it
// open.
func (s *server) file(file string) (analysed bool, err error) {
	j := &job{doc: &document{uri: fileURI(file)}, unopened: true}
	s.mu.Lock()
	if d := s.documents[j.doc.uri]; d != nil {
		j = &job{doc: d, version: d.version, text: d.text}
	}
	s.mu.Unlock()
	if j.unopened {
		b, err := os.ReadFile(file) //nolint:gosec // the editor's own workspace
		if err != nil {
			return false, err
		}
		if bytes.IndexByte(b, 0) >= 0 || len(bytes.TrimSpace(b)) == 0 {
			return false, nil
		}
		j.text = strings.ToValidUTF8(string(b), "\uFFFD")
	}
	sum := sha256.Sum256([]byte(j.text))
	s.mu.Lock()
	same := s.files[file] == sum || j.doc.analysed == sum
	s.mu.Unlock()
	if same {
		return false, nil
	}
	if err := s.analyse(s.ctx, j); err != nil {
		return false, fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	s.mu.Lock()
	s.files[file] = sum
	s.mu.Unlock()
	return true, nil
}

// sources are the files below root that are code, without what is hidden,
// installed or built.
func sources(root string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch base := entry.Name(); {
		case err != nil && name == root:
			return err
		case err != nil, name == root:
			return nil //nolint:nilerr // what can't be read is left out
		case entry.IsDir():
			if strings.HasPrefix(base, ".") || slices.Contains([]string{"node_modules", "vendor", "dist", "build", "target", "__pycache__"}, base) {
				return fs.SkipDir
			}
			return nil
		case !entry.Type().IsRegular() || !extensions[strings.ToLower(filepath.Ext(base))]:
			return nil
		}
		if info, err := entry.Info(); err == nil && info.Size() <= maxFileBytes {
			found = append(found, name)
		}
		return nil
	})
	return found, err
}
