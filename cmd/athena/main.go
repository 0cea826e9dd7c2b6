// Command athena is the whole of Athena in one binary: the server, and what
// goes with it on a command line.
//
//	athena serve     runs a node
//	athena analyze   analyses a file and shows the answer as it comes
//	athena keys      makes, shows and ends API keys
//	athena cluster   shows and tends several nodes
//	athena version   tells the version
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/athena-hub/athena/internal/config"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the analysis or the server failed
	exitUsage  = 2 // the command line or the configuration is wrong
)

// version is set by the linker; see the Makefile.
var version string

// commands is the command line.
type commands struct {
	Serve   serveCommand   `cmd:"" help:"Run a node: the API, the page and the three transports."`
	Analyze analyzeCommand `cmd:"" help:"Analyse a file and show the answer as it comes."`
	LSP     lspCommand     `cmd:"" name:"lsp" help:"Be a language server: findings in an editor while it is typed in."`
	Keys    keysCommand    `cmd:"" help:"Make, show and end API keys."`
	Cache   cacheCommand   `cmd:"" help:"Forget the answers that are kept."`
	Cluster clusterCommand `cmd:"" help:"Show and tend a cluster of nodes."`
	Version versionCommand `cmd:"" help:"Tell the version."`
}

// An environment is what a command needs of the process, so that tests can give
// it something else.
type environment struct {
	args           []string // without the program's name
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer
	// interrupts are the signals that ask the program to end.
	interrupts <-chan os.Signal
}

// complain says what went wrong. Nobody is left to be told if that fails.
func (env *environment) complain(format string, args ...any) {
	_, _ = fmt.Fprintf(env.stderr, format+"\n", args...)
}

func main() {
	interrupts, stop := notifyInterrupts()
	code := run(context.Background(), &environment{
		args: os.Args[1:], environ: os.Environ(),
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, interrupts: interrupts,
	})
	stop()
	os.Exit(code)
}

// An exitError ends the program with a code. Its message has been shown where
// err is nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// run is the program.
func run(ctx context.Context, env *environment) int {
	exited := -1
	options := append(config.Options(env.environ),
		kong.Name("athena"),
		kong.Description("Live AI analysis of code, streamed to everybody who watches."),
		kong.Writers(env.stdout, env.stderr),
		kong.Exit(func(code int) { exited = code }), // after --help
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Bind(env),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	k, err := kong.New(new(commands), options...)
	if err != nil {
		env.complain("athena: %v", err)
		return exitFailed
	}
	parsed, err := k.Parse(env.args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		if p, ok := errors.AsType[*kong.ParseError](err); ok {
			err = p.Unwrap()
		}
		env.complain("athena: %v\n(athena --help shows the commands and flags)", err)
		return exitUsage
	}
	err = parsed.Run()
	if err == nil {
		return exitOK
	}
	code := exitFailed
	if e, ok := errors.AsType[*exitError](err); ok {
		if code, err = e.code, e.err; err == nil {
			return code
		}
	}
	env.complain("athena: %v", err)
	return code
}
