package main

import (
	"context"
	"io"
	"slices"

	"github.com/athena-hub/athena/internal/languageserver"
	"github.com/athena-hub/athena/internal/telemetry"
	"github.com/athena-hub/athena/protocol"
)

type lspCommand struct {
	Analysis string `group:"Analysis" short:"a" placeholder:"KIND" help:"What to look for: security, bugs, performance, review, explain or deobfuscate. Default: review."`
	Provider string `group:"Analysis" placeholder:"NAME" help:"The provider to ask, such as local. Default: the server chooses."`
	Model    string `group:"Analysis" placeholder:"NAME" help:"The model to ask. Default: the provider's."`
	Debounce int    `group:"Analysis" placeholder:"MS" help:"How long a text must not have changed before it is analysed, in milliseconds; below 0: only when it is saved. Default: 1500."`

	Server string `group:"Where" placeholder:"URL" help:"Athena server to ask; none for this process. Default: one on this machine (where ATHENA_LISTEN says, else 127.0.0.1:8080), or else this process. ($$ATHENA_SERVER)"`
	Token  string `group:"Where" placeholder:"KEY" help:"API key for the server. Other users of the machine can see flags: prefer the variable. ($$ATHENA_TOKEN)"`
	Config string `group:"Where" placeholder:"FILE" help:"Analyse in this process, with the providers of this YAML file, which athena serve takes too."`

	// What editors add whose libraries want it; stdio is all there is.
	Stdio bool `hidden:"" help:"Speak over the standard input and output, which it does anyway."`
}

// Help is what --help shows before the flags.
func (*lspCommand) Help() string {
	return `A language server (LSP 3.17) on the standard input and output, for an editor to start. Findings become diagnostics while they stream, suggestions code actions; hovers explain. Commands: athena.analyzeFile, athena.analyzeSelection, athena.analyzeWorkspace, athena.explain.

The editor may set analysis, provider, model and debounce_ms as initializationOptions.

Where no server runs, analyses run in this process, as those of athena analyze do.`
}

// Run serves an editor until it has gone.
func (c *lspCommand) Run(ctx context.Context, env *environment) error {
	kind := protocol.AnalysisKind(c.Analysis)
	if kind != "" && (kind == protocol.AnalysisCustom || !slices.Contains(protocol.AnalysisKinds, kind)) {
		return usageError("--analysis is %.60q; it must be one of %s, and not custom", kind, listed(protocol.AnalysisKinds))
	}
	log, err := telemetry.NewLogger(env.stderr, "error", telemetry.FormatConsole)
	if err != nil {
		return err
	}
	where := backendPlace{Server: c.Server, Token: c.Token, Config: c.Config} // the transports: what the server offers
	b, err := where.find(ctx, env, log, func(note string) { env.complain("athena: %s", printable(note)) })
	if err != nil {
		return presentable(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan struct{})
	go func() {
		defer close(served)
		languageserver.Serve(ctx, editor{env.stdin, env.stdout}, languageserver.Options{Client: b.Client, Version: buildVersion(),
			Analysis: kind, Provider: c.Provider, Model: c.Model, DebounceMS: c.Debounce})
	}()
	select {
	case <-served:
	case <-env.interrupts:
		cancel()
		<-served
	}
	stop, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), nodeStopTimeout)
	defer cancelStop()
	return presentable(b.stop(stop))
}

// An editor is at the other end of the standard input and output.
type editor struct {
	io.Reader
	io.Writer
}

// Close closes what can be closed, so that nothing waits in a read.
func (e editor) Close() error {
	if c, ok := e.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
