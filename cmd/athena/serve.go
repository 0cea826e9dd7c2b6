package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/telemetry"
)

type serveCommand struct {
	config.Serve `embed:""`
}

// otherVariables are those beside the settings: what analyze reads, and what
// the project's own tests and benchmarks do.
var otherVariables = []string{serverVariable, tokenVariable, "ATHENA_TEST_", "ATHENA_BENCH_", "ATHENA_TORTURE_", "ATHENA_FAULT_"}

// warnOfVariables tells of variables that change nothing though they look as if
// they did.
func warnOfVariables(log zerolog.Logger, environ []string) {
	for _, v := range config.UnknownVariables(environ, otherVariables...) {
		said := "the variable " + v.Name + " is not known, and changes nothing"
		if v.Nearest != "" {
			said += "; was " + v.Nearest + " meant?"
		}
		log.Warn().Msg(said)
	}
}

// Run serves until the process is asked to end, and then until everything is
// stored. A second signal ends it at once.
func (c *serveCommand) Run(ctx context.Context, env *environment) error {
	cfg := &c.Serve
	log, err := telemetry.NewLogger(env.stderr, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	warnOfVariables(log, env.environ)
	// Before the node: an address in use should not cost the recovery of a log.
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w; another --listen would do", cfg.Listen, err)
	}
	n, err := newNode(ctx, cfg, log)
	if err != nil {
		return errors.Join(err, ln.Close())
	}

	served := make(chan error, 1)
	go func() { served <- n.serve(ln) }()
	names := make([]string, 0, len(cfg.Providers))
	for _, p := range cfg.Providers {
		names = append(names, p.Name)
	}
	log.Info().Str("version", buildVersion()).Str("data_dir", cfg.DataDir).Strs("providers", names).
		Msgf("Athena is ready at %s://%s", n.edge.scheme(), ln.Addr())

	select {
	case err := <-served: // the listener broke
		return errors.Join(err, n.close(ctx))
	case <-ctx.Done():
	case s := <-env.interrupts:
		log.Info().Stringer("signal", s).Dur("at_most_ms", cfg.DrainTimeout).
			Msg("shutting down: analyses that run may finish; signal again to end now")
	}

	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.DrainTimeout)
	defer cancel()
	go func() {
		select {
		case <-env.interrupts:
			cancel()
		case <-drain.Done():
		}
	}()
	err = n.shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		log.Warn().Err(err).Msg("something was cut off at shutdown")
		err = nil
	}
	log.Info().Msg("stopped")
	return errors.Join(err, <-served)
}
