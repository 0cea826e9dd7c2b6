package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/athena-hub/athena/providers/providertest"
)

// emacs is what a user's configuration of Eglot does, and then what a user
// does. It writes down what it sees.
const emacs = `
(require 'eglot)
(defvar seen '())
(defun note (what) (setq seen (cons what seen)))
(defun shown () (mapconcat (lambda (d) (car (last (split-string (flymake-diagnostic-text d))))) (sort (flymake-diagnostics) (lambda (a b) (string< (flymake-diagnostic-text a) (flymake-diagnostic-text b)))) " "))
(defun await (what condition)
  (let ((until (time-add nil 30)))
    (while (not (funcall condition))
      (when (time-less-p until nil) (error "waited for %s; shown is %s" what (shown)))
      (accept-process-output nil 0.05))))
(defun finish (err)
  (write-region (json-encode (list :seen (vconcat (reverse seen)) :err err :text (buffer-substring-no-properties (point-min) (point-max))))
                nil (getenv "SEEN")))
(advice-add 'eglot-handle-notification :after
            (lambda (_ method &rest args)
              (when (eq method 'textDocument/publishDiagnostics)
                (note (mapconcat (lambda (d) (plist-get d :code)) (plist-get args :diagnostics) " ")))))
(setq eglot-server-programs (list (cons 'text-mode (list (getenv "ATHENA") "lsp" :initializationOptions '(:debounce_ms 50))))
      eglot-sync-connect 60 eglot-send-changes-idle-time 0 eglot-confirm-server-initiated-edits nil
      flymake-no-changes-timeout 0.1)
(find-file (getenv "FILE"))
(text-mode)
(condition-case err
    (progn
      (apply #'eglot (eglot--guess-contact))
      (flymake-start)
      (await "diagnostics" (lambda () (equal (shown) "slow. sql.")))
      (let ((d (car (flymake-diagnostics))))
        (note (buffer-substring-no-properties (flymake-diagnostic-beg d) (flymake-diagnostic-end d))))
      (note "edits")
      (goto-char (point-min)) (search-forward "bad") (replace-match "meh")
      (eglot--signal-textDocument/didChange)
      (await "others" (lambda () (equal (shown) "style.")))
      (goto-char (point-min)) (search-forward "meh")
      (let ((action (seq-find (lambda (a) (plist-get a :edit))
                              (jsonrpc-request (eglot--current-server-or-lose) :textDocument/codeAction
                                (list :textDocument (eglot--TextDocumentIdentifier) :context (list :diagnostics [])
                                      :range (list :start (eglot--pos-to-lsp-position) :end (eglot--pos-to-lsp-position)))))))
        (note (plist-get action :title))
        (eglot--apply-workspace-edit (plist-get action :edit)))
      (eglot--signal-textDocument/didChange)
      (await "none" (lambda () (equal (shown) "")))
      (eglot-shutdown (eglot--current-server-or-lose))
      (finish ""))
  (error (finish (error-message-string err))))
(set-buffer-modified-p nil)
(kill-emacs)
`

func TestEmacsShowsFindingsAndAppliesSuggestions(t *testing.T) {
	program := findEditor(t, "emacs", "emacs-nox and elpa-eglot")
	athena, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	up := upstream(t, providertest.Script{})
	up.SetReply(reviews)
	dir := t.TempDir()
	file, script, result := filepath.Join(dir, "main.go"), filepath.Join(dir, "test.el"), filepath.Join(dir, "seen.json")
	for path, text := range map[string]string{file: lspFile, script: emacs} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--batch", "--load", script)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "FILE=" + file, "SEEN=" + result, "ATHENA=" + athena,
		lspVariable + "=1", serveVariable + "=1", "ATHENA_SERVER=" + noServer}, anthropicAt(up)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got struct {
		Seen      []string `json:"seen"`
		Err, Text string
	}
	b, err := os.ReadFile(result)
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	if err != nil || got.Err != "" {
		t.Fatalf("%v %s\nit saw %q\n%s", err, got.Err, got.Seen, out)
	}
	if i := slices.Index(got.Seen, "edits"); i < 0 || !inOrder(got.Seen[:i], "sql", "sql slow", `("🦉" + bad)`) {
		t.Errorf("first it saw %q", got.Seen)
	} else if !inOrder(got.Seen[i:], "style", "Athena: put the suggested code here (style)", "") || slices.Contains(got.Seen[i:], "sql slow") {
		t.Errorf("then it saw %q", got.Seen[i:])
	}
	if want := "package main\n\nfunc main() {\n\tquery(fixed)\n}\n"; got.Text != want {
		t.Errorf("the text is %q", got.Text)
	}
}
