package backbone

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
)

// startServer starts a NATS server in this process that can be reached by
// nats.InProcessServer only and keeps its data in dir.
func startServer(ctx context.Context, dir string, o Options) (*server.Server, error) {
	logger := &serverLog{log: o.Logger.With().Str("component", "nats").Logger()}
	s, err := server.NewServer(&server.Options{
		ServerName: o.Node,
		DontListen: true,
		NoSigs:     true, // signals belong to the program
		NoLog:      true, // no logger of its own; ours is set below

		JetStream:              true,
		StoreDir:               dir,
		SyncInterval:           o.SyncInterval,
		JetStreamMaxStore:      serverMaxStore,
		JetStreamMaxMemory:     serverMaxMemory,
		DisableJetStreamBanner: true,

		MaxPayload: MaxMessageBytes,
		MaxPending: serverMaxPending,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the NATS server: %w", err)
	}
	s.SetLoggerV2(logger, false, false, false)
	s.Start()
	if err := awaitServer(ctx, s, logger); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("start the NATS server in %s: %w", dir, err)
	}
	return s, nil
}

func awaitServer(ctx context.Context, s *server.Server, logger *serverLog) error {
	// What is fatal ends Start early, and nothing else would tell.
	if err := logger.fatal(); err != nil {
		return err
	}
	wait := startTimeout
	if t, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(t))
	}
	// Start has returned, so the store is recovered; this waits for the last
	// few goroutines only.
	if !s.ReadyForConnections(wait) {
		if err := ctx.Err(); err != nil {
			return err
		}
		return errors.New("it is not ready")
	}
	if !s.JetStreamEnabled() {
		return errors.New("it runs without its store")
	}
	return nil
}

// A serverLog gives the server's words to zerolog. Notices are what the server
// tells its own operator at every start, so here they are for debugging.
type serverLog struct {
	log zerolog.Logger

	mu  sync.Mutex
	err error // the first fatal error, guarded by mu
}

var _ server.Logger = (*serverLog)(nil)

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug().Msg(text(format, v)) }
func (l *serverLog) Debugf(format string, v ...any)  { l.log.Debug().Msg(text(format, v)) }
func (l *serverLog) Tracef(format string, v ...any)  { l.log.Trace().Msg(text(format, v)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.log.Warn().Msg(text(format, v)) }
func (l *serverLog) Errorf(format string, v ...any)  { l.log.Error().Msg(text(format, v)) }

// Fatalf does not end the process, as the server's own logger would: Open
// returns what it says.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = errors.New(text(format, v))
	}
}

func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func text(format string, v []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, v...))
}
