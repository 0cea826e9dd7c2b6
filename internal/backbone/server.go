package backbone

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// An embeddedServer is a NATS server in this process.
type embeddedServer struct {
	*server.Server
	// clients are those whom it lets in, nil where it listens for none.
	clients *clients
	routes  []*url.URL // to other nodes' servers
}

// options are those of a client in this process.
func (e *embeddedServer) options() []nats.Option { return e.optionsOf(clientUser) }

func (e *embeddedServer) optionsOf(user string) []nats.Option {
	opts := []nats.Option{nats.InProcessServer(e.Server)}
	if e.clients != nil {
		opts = append(opts, nats.UserInfo(user, e.clients.password))
	}
	return opts
}

func (e *embeddedServer) stop() {
	e.Shutdown()
	e.WaitForShutdown()
}

// startServer starts a NATS server. Where the node is alone it can be reached
// from this process only.
func startServer(ctx context.Context, o Options) (*embeddedServer, error) {
	logger := &serverLog{log: o.Logger.With().Str("component", "nats").Logger()}
	so := &server.Options{
		ServerName: o.Node,
		NoSigs:     true, // signals belong to the program
		NoLog:      true, // no logger of its own; ours is set below

		JetStream:              true,
		SyncInterval:           o.SyncInterval,
		JetStreamMaxStore:      serverMaxStore,
		JetStreamMaxMemory:     serverMaxMemory,
		DisableJetStreamBanner: true,

		MaxPayload: MaxMessageBytes,
		MaxPending: serverMaxPending,
	}
	e := &embeddedServer{}
	if o.Cluster == nil {
		so.StoreDir, so.DontListen = filepath.Join(o.DataDir, "nats"), true
	} else if err := e.join(so, o); err != nil {
		return nil, err
	}
	s, err := server.NewServer(so)
	if err != nil {
		return nil, fmt.Errorf("set up the NATS server: %w", err)
	}
	e.Server = s
	s.SetLoggerV2(logger, false, false, false)
	s.Start()
	if err := awaitServer(ctx, s, logger); err != nil {
		e.stop()
		return nil, fmt.Errorf("start the NATS server in %s: %w", so.StoreDir, err)
	}
	if err := e.tellRoutes(so); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
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
	if err := logger.fatal(); err != nil {
		return err
	}
	if !s.JetStreamEnabled() {
		return errors.New("it runs without its store")
	}
	return nil
}

// A serverLog gives the server's words to zerolog. Notices are what the server
// tells its own operator at every start, so here they are for debugging. So is
// what it says again and again: while a node is down, the others fail to connect
// to it several times a second.
type serverLog struct {
	log zerolog.Logger

	mu   sync.Mutex
	err  error                // the first fatal error, guarded by mu
	said map[string]time.Time // when a warning or error was told last, by its format; guarded by mu
}

// sayAgain is how often the server's warnings and errors of one kind are told.
const sayAgain = 10 * time.Second

var _ server.Logger = (*serverLog)(nil)

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug().Msg(text(format, v)) }
func (l *serverLog) Debugf(format string, v ...any)  { l.log.Debug().Msg(text(format, v)) }
func (l *serverLog) Tracef(format string, v ...any)  { l.log.Trace().Msg(text(format, v)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.tell(zerolog.WarnLevel, format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.tell(zerolog.ErrorLevel, format, v) }

func (l *serverLog) tell(level zerolog.Level, format string, v []any) {
	msg := text(format, v)
	if ordinary(msg) || l.repeats(format) {
		level = zerolog.DebugLevel
	}
	l.log.WithLevel(level).Msg(msg)
}

// repeats reports whether something of this kind was told a short time ago. The
// formats are the server's own, so there are not many.
func (l *serverLog) repeats(format string) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.said[format]; ok && now.Sub(last) < sayAgain {
		return true
	}
	if l.said == nil {
		l.said = make(map[string]time.Time)
	}
	l.said[format] = now
	return false
}

// ordinary reports whether a warning of the server's is about what happens at
// every start of a node in a cluster, or when it grows.
func ordinary(msg string) bool {
	for _, part := range []string{
		"Waiting for routing to be established",
		"JetStream has not established contact with a meta leader",
		"Metalayer blocking snapshot",
		"detected stream remapping",
		"resetting first sequence",
		"Error flushing",                         // to a server that has just stopped
		"trying to connect to route (attempt 1)", // the other one may start yet
		// ClusterTLSFiles verifies the chain, if not the name.
		"hostname of solicited routes will not be verified",
	} {
		if strings.Contains(msg, part) {
			return true
		}
	}
	return false
}

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
