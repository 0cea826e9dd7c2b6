package backbone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// The ways in which this package fails, for errors.Is.
var (
	// ErrLocked: another process uses the data directory.
	ErrLocked = errors.New("data directory is in use")
	// ErrConflict: another writer has appended to the log.
	ErrConflict = errors.New("another writer has appended to the log")
	// ErrNotFound: the log holds nothing of this stream.
	ErrNotFound = errors.New("no such stream in the log")
	// ErrGap: the limits have dropped the part of the log that was asked for.
	ErrGap = errors.New("the log no longer holds this part of the stream")
	// ErrNoOwner: no node answers for the history of this stream.
	ErrNoOwner = errors.New("no node owns this stream")
	// ErrOverloaded: more is being published than the bus takes.
	ErrOverloaded = errors.New("too much waits to be published")
	// ErrTooLarge: a message is larger than the server accepts.
	ErrTooLarge = errors.New("message is larger than the bus accepts")
	// ErrInvalid: an id or a batch can't be what it says.
	ErrInvalid = errors.New("invalid")
	// ErrClosed: the backbone is closed, or is being closed.
	ErrClosed = errors.New("backbone is closed")
)

// The defaults of Options.
const (
	DefaultLogMaxAge            = 7 * 24 * time.Hour
	DefaultLogMaxBytes          = 4 << 30
	DefaultLogMaxBytesPerStream = 64 << 20
	DefaultSyncInterval         = 10 * time.Second
	DefaultLiveQueueBytes       = 64 << 20
	DefaultPendingBytes         = 8 << 20
	DefaultPendingMessages      = 64 << 10
)

// MaxMessageBytes is the largest message that the embedded server takes. The
// largest event is 1 MiB, and a batch is closed at 16 KiB and one event, so
// this leaves room for a page of history too. The server lets 64 MiB wait for
// one connection, eight such messages, before it cuts it.
const MaxMessageBytes = 8 << 20

const (
	serverMaxPending = 64 << 20
	// nominalBatchBytes turns LogMaxBytesPerStream into a number of messages,
	// which is all that NATS can limit per subject. A usual answer of 50 chunks
	// a second makes batches of 2 to 4 KiB.
	nominalBatchBytes = 4 << 10
	// Each stream has its own limit on disk: the log LogMaxBytes, the records
	// of jobs and nodes these, those of keys keysMaxBytes. The server's limit for all is out of their way:
	// a lower one would keep it from starting when LogMaxBytes is lowered, since
	// it counts what the streams' old limits reserve.
	runningMaxBytes = 32 << 20
	nodesMaxBytes   = 8 << 20
	serverMaxStore  = 1 << 60
	// The whole limit of JetStream's memory storage, which nothing here uses.
	serverMaxMemory = 16 << 20

	// maxAppends bounds the batches that are on their way to the store at once,
	// more than a node has analyses. Beyond it appends fail, and are tried again.
	maxAppends = 32 << 10

	connectTimeout = 5 * time.Second
	startTimeout   = 30 * time.Second // recovery of a large log after a crash
	// callTimeout bounds a call whose context has no deadline.
	callTimeout = 10 * time.Second
	// closeTimeout bounds each step of Close, stopTimeout the server's stop.
	closeTimeout = 2 * time.Second
	stopTimeout  = 5 * time.Second
)

// Options say where the backbone lives and how much it may hold. The zero
// value of each field but DataDir and Node means its default.
type Options struct {
	// DataDir is the directory of this node's data. The embedded server
	// writes below DataDir/nats. Not needed with NatsURL.
	DataDir string
	// Node is this node's name; its epoch is kept under it.
	Node string

	// LogMaxAge is how long a batch stays in the log; 7 days.
	LogMaxAge time.Duration
	// LogMaxBytes bounds the whole log on disk; 4 GiB. The oldest batches go
	// first.
	LogMaxBytes int64
	// LogMaxBytesPerStream bounds one stream's part of it; 64 MiB. NATS limits
	// messages per subject, not bytes, so this counts a batch as 4 KiB
	// whatever its size: batches of 16 KiB may take four times as much.
	LogMaxBytesPerStream int64
	// SyncInterval is how often the log is synced to disk; 10 s. See the
	// package's comment for what it means.
	SyncInterval time.Duration

	// LiveQueueBytes bounds what PublishLive has accepted and the bus has not
	// yet taken; 64 MiB.
	LiveQueueBytes int
	// PendingBytes and PendingMessages bound what waits for one live
	// subscription's function; 8 MiB and 65,536. Beyond either, messages are
	// dropped and OnDrop is told.
	PendingBytes    int
	PendingMessages int
	// OnDrop is told that live messages of stream id did not reach their
	// subscription here: n of them, or 0 for an unknown number, after the
	// connection to the server was lost for a while. It is called by one
	// goroutine at a time and must not block.
	OnDrop func(id string, n int)

	// Logger gets what the server and the connection say: notices at debug,
	// warnings and errors as what they are. The zero value says nothing.
	Logger zerolog.Logger

	// NatsURL connects to this server instead of embedding one.
	NatsURL string
}

func (o Options) withDefaults() (Options, error) {
	if o.Node == "" {
		return o, fmt.Errorf("%w: the node has no name", ErrInvalid)
	}
	if err := checkToken("node name", o.Node); err != nil {
		return o, err
	}
	if o.DataDir == "" && o.NatsURL == "" {
		return o, fmt.Errorf("%w: no data directory", ErrInvalid)
	}
	o.LogMaxAge = cmp.Or(o.LogMaxAge, DefaultLogMaxAge)
	o.LogMaxBytes = cmp.Or(o.LogMaxBytes, DefaultLogMaxBytes)
	o.LogMaxBytesPerStream = cmp.Or(o.LogMaxBytesPerStream, DefaultLogMaxBytesPerStream)
	o.SyncInterval = cmp.Or(o.SyncInterval, DefaultSyncInterval)
	o.LiveQueueBytes = cmp.Or(o.LiveQueueBytes, DefaultLiveQueueBytes)
	o.PendingBytes = cmp.Or(o.PendingBytes, DefaultPendingBytes)
	o.PendingMessages = cmp.Or(o.PendingMessages, DefaultPendingMessages)
	if o.LogMaxAge < 0 || o.LogMaxBytes < 0 || o.LogMaxBytesPerStream < 0 || o.SyncInterval < 0 ||
		o.LiveQueueBytes < 0 || o.PendingBytes < 0 || o.PendingMessages < 0 {
		return o, fmt.Errorf("%w: a limit is negative", ErrInvalid)
	}
	if o.LogMaxAge < time.Second {
		return o, fmt.Errorf("%w: the log's greatest age is %v, less than a second", ErrInvalid, o.LogMaxAge)
	}
	return o, nil
}

// A Backbone is this node's way to the bus and the store. All methods may be
// called by several goroutines at once.
type Backbone struct {
	// Set by Open, then read-only.
	opts   Options
	log    zerolog.Logger
	lock   *dirLock       // nil with NatsURL
	server *server.Server // nil with NatsURL
	// conn carries everything but live publishing, which has a connection of
	// its own: a publisher that the server slows down must not hold up the
	// store, nor the other way round.
	conn     *nats.Conn
	liveConn *nats.Conn
	js       jetstream.JetStream
	stream   jetstream.Stream
	running  jetstream.KeyValue
	nodes    jetstream.KeyValue
	keys     jetstream.KeyValue
	epoch    uint64
	ping     string // the subject on which this backbone answers itself
	// alone says that nobody else can be on the bus: the server is in this
	// process and listens nowhere.
	alone bool

	queue     liveQueue
	interest  interest
	positions positions
	dropped   atomic.Uint64
	dropMu    sync.Mutex // held while OnDrop is called

	closeOnce sync.Once
	closeErr  error

	mu      sync.Mutex
	closing atomic.Bool    // set under mu, so that no subscription begins after
	subs    sync.WaitGroup // the subscriptions' goroutines; Add under mu
}

// Open starts the backbone and returns it ready for use: the server runs, the
// streams exist and the epoch has risen. ctx bounds the start only.
func Open(ctx context.Context, o Options) (_ *Backbone, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open backbone: %w", err)
	}
	b := &Backbone{opts: o, log: o.Logger, alone: o.NatsURL == ""}
	b.queue.init(o.LiveQueueBytes)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open backbone: %w", err), b.Close())
		}
	}()
	if o.NatsURL == "" {
		if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
			return nil, err
		}
		if b.lock, err = lockDir(o.DataDir); err != nil {
			return nil, err
		}
		if b.server, err = startServer(ctx, filepath.Join(o.DataDir, "nats"), o); err != nil {
			return nil, err
		}
	}
	if b.conn, err = b.connect("athena "+o.Node, true); err != nil {
		return nil, err
	}
	if b.liveConn, err = b.connect("athena live "+o.Node, false); err != nil {
		return nil, err
	}
	b.queue.start(b.publishQueued)
	if b.js, err = jetstream.New(b.conn, jetstream.WithPublishAsyncMaxPending(maxAppends),
		jetstream.WithPublishAsyncTimeout(callTimeout)); err != nil {
		return nil, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	if err := b.openLog(ctx); err != nil {
		return nil, err
	}
	if err := b.openRecords(ctx); err != nil {
		return nil, err
	}
	if err := b.openKeys(ctx); err != nil {
		return nil, err
	}
	if err := b.servePing(); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Backbone) connect(name string, subscribes bool) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name(name),
		nats.Timeout(connectTimeout),
		nats.FlusherTimeout(connectTimeout), // a write to a server that hangs
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.SkipSubjectValidation(), // checkToken has done it
		nats.ErrorHandler(b.connError),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if !b.closing.Load() {
				b.log.Warn().Err(err).Str("connection", name).Msg("lost the connection to NATS")
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			b.log.Info().Str("connection", name).Msg("connected to NATS again")
			if subscribes {
				b.interest.each(func(id string) { b.drop(id, 0) })
			}
		}),
	}
	if b.server != nil {
		opts = append(opts, nats.InProcessServer(b.server))
	}
	conn, err := nats.Connect(b.opts.NatsURL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return conn, nil
}

// connError is called by the connections, one at a time each.
func (b *Backbone) connError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if b.closing.Load() {
		return
	}
	if sub != nil && errors.Is(err, nats.ErrSlowConsumer) {
		if id, ok := strings.CutPrefix(sub.Subject, livePrefix); ok {
			b.interest.slow(id, sub)
			return
		}
	}
	ev := b.log.Warn().Err(err)
	if sub != nil {
		ev = ev.Str("subject", sub.Subject)
	}
	ev.Msg("NATS connection")
}

func (b *Backbone) drop(id string, n int) {
	b.dropped.Add(uint64(n))
	if b.opts.OnDrop != nil && !b.closing.Load() {
		b.dropMu.Lock()
		defer b.dropMu.Unlock()
		b.opts.OnDrop(id, n)
	}
}

// Dropped returns how many live messages were dropped here, because a
// subscription's function or the bus did not keep up.
func (b *Backbone) Dropped() uint64 { return b.dropped.Load() }

// Close publishes what is queued, ends all subscriptions, stops the server and
// releases the data directory. It takes well under two seconds, and at most a
// few when a part hangs. The functions given to subscriptions have returned
// when it does, unless one of them hangs.
func (b *Backbone) Close() error {
	b.closeOnce.Do(func() { b.closeErr = b.close() })
	return b.closeErr
}

func (b *Backbone) close() error {
	b.mu.Lock()
	b.closing.Store(true)
	b.mu.Unlock()
	var errs []error
	if b.liveConn != nil {
		if !b.queue.stop(closeTimeout) {
			errs = append(errs, errors.New("queued live messages could not be published in time"))
		}
		if b.liveConn.IsConnected() {
			// Live messages are delivered at most once, and a server that has
			// gone away is no reason to call this close a failure.
			if err := b.liveConn.FlushTimeout(closeTimeout); err != nil {
				b.log.Debug().Err(err).Msg("the last live messages may not have been published")
			}
		}
		b.liveConn.Close()
		b.queue.wait() // publishing to a closed connection fails at once
	}
	if b.conn != nil {
		b.conn.Close()
		if !waitTimeout(&b.subs, closeTimeout) {
			errs = append(errs, errors.New("a subscription's function has not returned"))
		}
	}
	var down sync.WaitGroup
	if b.server != nil {
		down.Go(func() {
			b.server.Shutdown()
			b.server.WaitForShutdown()
		})
	}
	if !waitTimeout(&down, stopTimeout) {
		// The server may still write, so the directory stays locked until the
		// process ends.
		errs = append(errs, errors.New("the NATS server did not stop in time"))
	} else if b.lock != nil {
		errs = append(errs, b.lock.release())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close backbone: %w", err)
	}
	return nil
}

// waitTimeout reports whether wg was done within d.
func waitTimeout(wg *sync.WaitGroup, d time.Duration) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// bound returns ctx with a deadline, since a request without one waits for
// ever when the server does.
func bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTimeout)
}

// known puts this package's name on an error of NATS's.
func known(err error) error {
	switch {
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

const maxTokenBytes = 128

// checkToken reports whether s can stand as one token of a subject and as a
// key of a bucket.
func checkToken(what, s string) error {
	if s == "" || len(s) > maxTokenBytes {
		return fmt.Errorf("%w: %s %.40q must have 1 to %d characters", ErrInvalid, what, s, maxTokenBytes)
	}
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_' {
			continue
		}
		return fmt.Errorf("%w: %s %.40q may hold letters, digits, - and _ only", ErrInvalid, what, s)
	}
	return nil
}
