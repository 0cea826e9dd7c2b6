package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/athena-hub/athena/internal/telemetry"
	"github.com/athena-hub/athena/protocol"
)

// The exit codes of analyze beside those of every command.
const (
	exitFindings    = 3   // there are findings as grave as --fail-on says
	exitInterrupted = 130 // interrupted twice: 128 and SIGINT, as shells count
)

const (
	// maxFileBytes bounds what is read; the server's own limit is lower.
	maxFileBytes = 64 << 20
	// cancelTimeout is how long the end of a cancelled analysis is waited for.
	cancelTimeout = 15 * time.Second
	// nodeStopTimeout is how long this process's own node may take to stop.
	nodeStopTimeout = 5 * time.Second
	// statusInterval is the time from one status to the next.
	statusInterval = 100 * time.Millisecond
)

type analyzeCommand struct {
	File string `arg:"" optional:"" help:"File to analyse. What is piped in, where there is none or it is -."`

	Analysis  string `group:"Analysis" short:"a" placeholder:"KIND" help:"What to look for: security, bugs, performance, review, explain, deobfuscate or custom. Default: review; custom with --prompt."`
	Prompt    string `group:"Analysis" short:"p" placeholder:"TEXT" help:"The question of a custom analysis."`
	Language  string `group:"Analysis" short:"l" placeholder:"NAME" help:"The code's language. Default: what the file's name tells."`
	Provider  string `group:"Analysis" placeholder:"NAME" help:"The provider to ask, such as local. Default: the server chooses."`
	Model     string `group:"Analysis" placeholder:"NAME" help:"The model to ask. Default: the provider's."`
	MaxTokens *int   `group:"Analysis" placeholder:"N" help:"Longest answer, in tokens."`
	Degrade   bool   `group:"Analysis" help:"If no provider answers, show what the offline analyser finds."`

	Server string `group:"Where" placeholder:"URL" help:"Athena server to ask; none for this process. Default: one on this machine (where ATHENA_LISTEN says, else 127.0.0.1:8080), or else this process. ($$ATHENA_SERVER)"`
	Token  string `group:"Where" placeholder:"KEY" help:"API key for the server. Other users of the machine can see flags: prefer the variable. ($$ATHENA_TOKEN)"`
	Config string `group:"Where" placeholder:"FILE" help:"Analyse in this process, with the providers of this YAML file, which athena serve takes too."`

	JSON   bool   `group:"Output" name:"json" help:"Write the events as they come, one a line, and nothing else."`
	FailOn string `group:"Output" placeholder:"SEVERITY" help:"Exit with 3 if there is a finding at least so grave: critical, high, medium, low or info."`
}

// Help is what --help shows before the flags.
func (*analyzeCommand) Help() string {
	return `On a terminal, the answer comes with colours (unless NO_COLOR is set) and progress. Piped, it is plain text, with

    FILE:LINE:COLUMN: SEVERITY: MESSAGE [RULE]

for each finding, and below it, indented, what to do about it, and the lines of code that should go (-) and come (+), where these are known. Where no server runs, the analysis runs in this process, with the providers that athena serve would have (from OPENAI_API_KEY and so on, and from --config or ATHENA_CONFIG); without any, fixed rules look through the code, offline.

An interrupt (Ctrl-C) cancels the analysis and shows its end; a second one leaves at once.

Exit codes:

    0    the analysis is complete
    1    it failed or was cancelled, or the connection to the server did
    2    the command line, the file or the configuration is wrong, or the server refuses the request
    3    it is complete, and has findings that --fail-on asks for
    130  interrupted twice`
}

var severities = []protocol.Severity{protocol.SeverityCritical, protocol.SeverityHigh, protocol.SeverityMedium,
	protocol.SeverityLow, protocol.SeverityInfo}

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// Run analyses one file.
func (c *analyzeCommand) Run(ctx context.Context, env *environment) error {
	req, name, err := c.request(ctx, env)
	if err != nil {
		return presentable(err)
	}
	if _, ok := env.stdout.(*os.File); ok {
		// Otherwise the end of "| head" would be the end of this process, and
		// the analysis would run on, or its files stay.
		signal.Ignore(syscall.SIGPIPE)
	}
	s := newScreen(env, name, req.Code)
	log, err := telemetry.NewLogger(s, "error", telemetry.FormatConsole)
	if err != nil {
		return err
	}
	where := backendPlace{c.Server, c.Token, c.Config, analyzeTransports}
	b, err := where.find(ctx, env, log, s.note)
	if err != nil {
		return presentable(err)
	}
	a := &analysisRun{backend: b, screen: s, request: req, began: time.Now(), interrupts: env.interrupts, json: c.JSON, failOn: protocol.Severity(c.FailOn)}
	err = a.run(ctx)

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), nodeStopTimeout)
	defer cancel()
	if e, ok := errors.AsType[*exitError](err); ok && e.code == exitInterrupted {
		cancel()
	}
	if stopErr := b.stop(ctx); err == nil {
		err = stopErr
	}
	return presentable(err)
}

// presentable is err with a text that a terminal can be given: parts of it may
// be a server's.
func presentable(err error) error {
	if err == nil {
		return nil
	}
	code := exitFailed
	if e, ok := errors.AsType[*exitError](err); ok {
		if code, err = e.code, e.err; err == nil {
			return e
		}
	}
	return &exitError{code, errors.New(printable(err.Error()))}
}

// request makes the request from the flags and the file, whose name for the
// user is name.
func (c *analyzeCommand) request(ctx context.Context, env *environment) (req *protocol.Request, name string, err error) {
	kind := protocol.AnalysisKind(c.Analysis)
	if kind == "" {
		if kind = protocol.AnalysisReview; c.Prompt != "" {
			kind = protocol.AnalysisCustom
		}
	}
	switch {
	case !slices.Contains(protocol.AnalysisKinds, kind):
		return nil, "", usageError("--analysis is %.60q; it must be one of %s", kind, listed(protocol.AnalysisKinds))
	case kind == protocol.AnalysisCustom && strings.TrimSpace(c.Prompt) == "":
		return nil, "", usageError("--analysis custom needs a question: --prompt TEXT")
	case kind != protocol.AnalysisCustom && c.Prompt != "":
		return nil, "", usageError("--prompt is for --analysis custom only, not for %s", kind)
	case c.FailOn != "" && !protocol.Severity(c.FailOn).Valid():
		return nil, "", usageError("--fail-on is %.60q; it must be one of %s", c.FailOn, listed(severities))
	case c.MaxTokens != nil && (*c.MaxTokens < 1 || *c.MaxTokens > protocol.MaxOutputTokens):
		return nil, "", usageError("--max-tokens is %d; it must be from 1 to %d", *c.MaxTokens, protocol.MaxOutputTokens)
	}
	code, name, err := c.read(ctx, env)
	if err != nil {
		return nil, "", err
	}
	req = &protocol.Request{Code: code, Filename: filename(c.File), Language: c.Language, Analysis: kind, Prompt: c.Prompt,
		Provider: c.Provider, Model: c.Model}
	if c.MaxTokens != nil {
		req.Options.MaxTokens = *c.MaxTokens
	}
	if c.Degrade {
		req.Options.Degrade = new(true)
	}
	if err := req.Validate(); err != nil {
		return nil, "", &exitError{exitUsage, err}
	}
	return req, name, nil
}

func listed[S ~string](names []S) string {
	s := make([]string, len(names))
	for i, n := range names {
		s[i] = string(n)
	}
	return strings.Join(s, ", ")
}

// filename is what the server is told of a file's name: where it is in this
// directory, and nothing of what lies above.
func filename(path string) string {
	if path == "" || path == "-" {
		return ""
	}
	if name := filepath.Clean(path); filepath.IsLocal(name) && len(name) <= protocol.MaxFilenameBytes {
		return printable(filepath.ToSlash(name))
	}
	return printable(filepath.Base(path))
}

// read reads the code. A pipe may never end, so it can be interrupted; what
// waits in the read then ends with the process.
func (c *analyzeCommand) read(ctx context.Context, env *environment) (code, name string, err error) {
	type result struct {
		code []byte
		err  error
	}
	name = cmp.Or(c.File, "-")
	stdin := name == "-"
	if stdin {
		if _, terminal := terminalWidth(env.stdin); terminal && c.File == "" {
			return "", "", usageError("there is nothing to analyse: name a file, or pipe code in")
		}
		name = "<stdin>"
	}
	done := make(chan result, 1)
	go func() {
		if stdin {
			b, err := io.ReadAll(io.LimitReader(env.stdin, maxFileBytes+1))
			done <- result{b, err}
			return
		}
		f, err := os.Open(c.File)
		if err != nil {
			done <- result{err: err}
			return
		}
		b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
		done <- result{b, errors.Join(err, f.Close())}
	}()
	var r result
	select {
	case r = <-done:
	case <-env.interrupts:
		return "", "", &exitError{exitInterrupted, nil}
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	}
	switch {
	case r.err != nil:
		return "", "", &exitError{exitUsage, r.err}
	case len(r.code) > maxFileBytes:
		return "", "", usageError("%s has more than %d bytes", name, maxFileBytes)
	case len(bytes.TrimSpace(r.code)) == 0:
		return "", "", usageError("%s is empty", name)
	case bytes.IndexByte(r.code[:min(len(r.code), 8000)], 0) >= 0: // as git decides it
		return "", "", usageError("%s is not text", name)
	}
	return strings.ToValidUTF8(string(r.code), "\uFFFD"), name, nil
}
