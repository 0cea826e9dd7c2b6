package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sourcegraph/jsonrpc2"

	"github.com/athena-hub/athena/providers/providertest"
)

// lspVariable makes the test binary be athena with its own standard input.
const lspVariable = "ATHENA_TEST_LSP"

const lspFile = "package main\n\nfunc main() {\n\tquery(\"🦉\" + bad)\n}\n"

// findingOf is what a model says of line 4, from the first parenthesis on.
func findingOf(rule, severity, name, suggestion string) string {
	b, err := json.Marshal(map[string]any{"rule": rule, "severity": severity, "message": "It is " + rule + ".", "line": 4,
		"column": 7, "end_line": 4, "end_column": 19, name: suggestion})
	if err != nil {
		panic(err) // of strings and numbers
	}
	return "@finding " + string(b) + "\n"
}

// reviews answers what the file says: slowly while it is bad, with code to put
// in once it isn't, and with nothing to find where that was put in.
func reviews(c *providertest.Call) providertest.Script {
	switch body := string(c.Body); {
	case strings.Contains(body, "+ bad"):
		p := providertest.Texts(findingOf("sql", "high", "suggestion", "Use placeholders."), findingOf("slow", "low", "suggestion", ""), "That is all.")
		p[1].After, p[2].After = 300*time.Millisecond, 300*time.Millisecond
		return providertest.Script{Pieces: p}
	case strings.Contains(body, "+ meh"):
		return providertest.Script{Pieces: providertest.Texts(findingOf("style", "medium", "replacement", "\tquery(fixed)"))}
	}
	return providertest.Script{Pieces: providertest.Texts("Nothing to say.")}
}

// neovim is what a user's configuration does, and then what a user does. It
// writes down what it sees.
const neovim = `
local seen = {}
local function note(what) table.insert(seen, what) end
local publish = vim.lsp.handlers['textDocument/publishDiagnostics']
vim.lsp.handlers['textDocument/publishDiagnostics'] = function(err, result, ctx, config)
  local names = {}
  for _, d in ipairs(result.diagnostics) do table.insert(names, d.code) end
  note('diagnostics ' .. table.concat(names, ' '))
  return publish(err, result, ctx, config)
end
vim.lsp.handlers['$/progress'] = function(_, result) note('progress ' .. result.value.kind) end

local function finish(err)
  local f = io.open(os.getenv('SEEN'), 'w')
  f:write(vim.json.encode({ seen = seen, err = err or '', lines = vim.api.nvim_buf_get_lines(0, 0, -1, false) }))
  f:close()
  vim.cmd('qa!')
end
local function await(what, condition)
  if not vim.wait(30000, condition, 20) then error('waited for ' .. what) end
end
local function shown()
  local names = {}
  for _, d in ipairs(vim.diagnostic.get(0)) do table.insert(names, d.code) end
  return table.concat(names, ' ')
end

local ok, err = pcall(function()
  vim.cmd('edit ' .. os.getenv('FILE'))
  vim.bo.filetype = 'go'
  local client = vim.lsp.start_client({ name = 'athena', cmd = { os.getenv('ATHENA'), 'lsp' }, root_dir = vim.fn.getcwd(),
    init_options = { debounce_ms = 50 } })
  vim.lsp.buf_attach_client(0, client)
  await('diagnostics', function() return shown() == 'sql slow' end)
  local d = vim.diagnostic.get(0)[1]
  note(string.format('at %d:%d-%d:%d %s', d.lnum, d.col, d.end_lnum, d.end_col, d.message))
  await('the end', function() return seen[#seen] == 'progress end' or seen[#seen - 1] == 'progress end' end)

  note('edits')
  vim.api.nvim_buf_set_lines(0, 3, 4, true, { '\tquery("🦉" + meh)' })
  await('others', function() return shown() == 'style' end)

  local params = { textDocument = vim.lsp.util.make_text_document_params(), context = { diagnostics = {} },
    range = { start = { line = 3, character = 8 }, ['end'] = { line = 3, character = 8 } } }
  local answers = vim.lsp.buf_request_sync(0, 'textDocument/codeAction', params, 30000)
  local action = answers[client].result[1]
  note('action ' .. action.title)
  vim.lsp.util.apply_workspace_edit(action.edit, 'utf-16')
  await('none', function() return shown() == '' end)

  local hover = vim.lsp.buf_request_sync(0, 'workspace/executeCommand', { command = 'athena.explain',
    arguments = { vim.uri_from_bufnr(0), { start = { line = 3, character = 0 }, ['end'] = { line = 3, character = 1 } } } }, 30000)
  note('explained ' .. hover[client].result)
  vim.lsp.stop_client(client)
end)
finish(not ok and tostring(err) or nil)
`

// findEditor says where an editor is. A test without one is skipped, though
// not in continuous integration.
func findEditor(t *testing.T, program, packages string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("%s is not here; install %s", program, packages)
		}
		t.Fatalf("%s is not here; install %s (.ci/prepare does)", program, packages)
	}
	return path
}

func TestNeovimShowsFindingsWhileTheyStreamAndAppliesSuggestions(t *testing.T) {
	nvim := findEditor(t, "nvim", "neovim")
	athena, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, remote := range map[string]bool{"with a server": true, "by itself": false} {
		t.Run(name, func(t *testing.T) {
			up := upstream(t, providertest.Script{})
			up.SetReply(reviews)
			variables := anthropicAt(up)
			if remote {
				variables = []string{"ATHENA_SERVER=" + serve(t, variables).url}
			} else {
				variables = append(variables, "ATHENA_SERVER="+noServer)
			}
			dir := t.TempDir()
			file, script, result := filepath.Join(dir, "main.go"), filepath.Join(dir, "test.lua"), filepath.Join(dir, "seen.json")
			for path, text := range map[string]string{file: lspFile, script: neovim} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, nvim, "--headless", "-u", "NONE", "-i", "NONE", "-n", "-c", "luafile "+script)
			cmd.Dir = dir
			cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_STATE_HOME=" + dir, "XDG_CACHE_HOME=" + dir, "LC_ALL=C.UTF-8",
				"FILE=" + file, "SEEN=" + result, "ATHENA=" + athena, lspVariable + "=1", serveVariable + "=1"}, variables...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var got struct {
				Seen  []string `json:"seen"`
				Err   string   `json:"err"`
				Lines []string `json:"lines"`
			}
			b, err := os.ReadFile(result)
			if err == nil {
				err = json.Unmarshal(b, &got)
			}
			if err != nil || got.Err != "" {
				t.Fatalf("%v %s\nit saw %q\n%s", err, got.Err, got.Seen, out)
			}
			if i := slices.Index(got.Seen, "edits"); i < 0 || !inOrder(got.Seen[:i], "progress begin", "diagnostics sql", "diagnostics sql slow", "progress end") ||
				!slices.Contains(got.Seen, "at 3:6-3:20 It is sql.") { // Neovim counts bytes
				t.Errorf("first it saw %q", got.Seen)
			} else if !inOrder(got.Seen[i:], "diagnostics style", "action Athena: put the suggested code here (style)", "diagnostics ", "explained Nothing to say.") ||
				inOrder(got.Seen[i:], "diagnostics sql slow") {
				t.Errorf("then it saw %q", got.Seen[i:])
			}
			if got.Lines[3] != "\tquery(fixed)" {
				t.Errorf("the text is %q", got.Lines)
			}
		})
	}
}

// inOrder reports whether all has these, in this order, whatever is between
// them.
func inOrder(all []string, these ...string) bool {
	for _, s := range all {
		if len(these) > 0 && s == these[0] {
			these = these[1:]
		}
	}
	return len(these) == 0
}

func TestALanguageServerEndsWithItsEditorAndWithAnInterrupt(t *testing.T) {
	for name, end := range map[string]func(i *invocation, conn *jsonrpc2.Conn){
		"the editor says exit": func(_ *invocation, conn *jsonrpc2.Conn) { _ = conn.Notify(context.Background(), "exit", nil) },
		"the editor is gone":   func(_ *invocation, conn *jsonrpc2.Conn) { _ = conn.Close() },
		"an interrupt":         func(i *invocation, _ *jsonrpc2.Conn) { i.interrupts <- os.Interrupt },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			i := &invocation{err: newSink(), interrupts: make(chan os.Signal, 2), code: make(chan int, 1)}
			go func() {
				i.code <- run(t.Context(), &environment{args: []string{"lsp"}, environ: []string{"ATHENA_SERVER=" + noServer},
					stdin: far, stdout: far, stderr: i.err, interrupts: i.interrupts})
			}()
			conn := jsonrpc2.NewConn(t.Context(), jsonrpc2.NewBufferedStream(near, jsonrpc2.VSCodeObjectCodec{}),
				jsonrpc2.HandlerWithError(func(context.Context, *jsonrpc2.Conn, *jsonrpc2.Request) (any, error) { return nil, nil }))
			defer func() { _ = conn.Close() }()
			ctx, cancel := context.WithTimeout(t.Context(), cliPatience)
			defer cancel()
			var answer struct {
				Capabilities map[string]any `json:"capabilities"`
			}
			if err := conn.Call(ctx, "initialize", map[string]any{"capabilities": map[string]any{}}, &answer); err != nil || answer.Capabilities["hoverProvider"] != true {
				t.Fatalf("%v, %v, %s", answer, err, i.err)
			}
			end(i, conn)
			select {
			case code := <-i.code:
				if code != exitOK || i.err.String() != "" {
					t.Errorf("exit code %d, stderr %q", code, i.err)
				}
			case <-ctx.Done():
				t.Error("it goes on")
			}
		})
	}
	i := invoke(t, false, nil, strings.NewReader(""), "lsp", "-a", "custom")
	if code := i.wait(); code != exitUsage || !strings.Contains(i.err.String(), "and not custom") {
		t.Errorf("exit code %d, stderr %q", code, i.err)
	}
}
