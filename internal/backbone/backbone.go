package backbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// A Backbone is this node's way to the bus and the store. All methods may be
// called by several goroutines at once.
type Backbone struct {
	// Set by Open, then read-only.
	opts   Options
	log    zerolog.Logger
	lock   *dirLock        // nil with NatsURL
	server *embeddedServer // nil with NatsURL
	// conn carries everything but live publishing, which has a connection of
	// its own: a publisher that the server slows down must not hold up the
	// store, nor the other way round.
	conn     *nats.Conn
	liveConn *nats.Conn
	js       jetstream.JetStream
	ping     string // the subject on which this backbone answers itself
	// alone says that nobody else can be on the bus: the server is in this
	// process and listens nowhere.
	alone bool

	epoch  atomic.Uint64         // set once, by the time Open returns
	opened atomic.Pointer[store] // nil until the store is open

	queue     liveQueue
	gathers   gathers
	interest  interest
	positions positions
	barrier   barrier
	dropped   atomic.Uint64
	dropMu    sync.Mutex // held while OnDrop is called

	closeOnce sync.Once
	closeErr  error
	closed    chan struct{} // closed when Close begins

	keeper    keeper
	sightings sightings
	stirred   atomic.Int64 // when something happened to the cluster last, by the clock

	mu      sync.Mutex
	closing atomic.Bool    // set under mu, so that no subscription begins after
	subs    sync.WaitGroup // the subscriptions' goroutines; Add under mu
	onOpen  []func()       // to be called when the store is open; guarded by mu
}

// Open starts the backbone. ctx bounds the start only.
//
// Where the node is alone, everything is ready for use when it returns: the
// server runs, the streams exist and the epoch has risen. Where the store
// depends on other nodes, or on servers elsewhere, Open waits for it for
// StoreWait at most; if it is not there by then, it opens in the background,
// and the methods that need it return ErrNoStore until then. What can't mend
// itself (a data directory in use, a server that refuses the credentials) is
// an error of Open either way.
func Open(ctx context.Context, o Options) (_ *Backbone, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open backbone: %w", err)
	}
	b := &Backbone{opts: o, log: o.Logger, alone: o.NatsURL == "" && o.Cluster == nil, closed: make(chan struct{})}
	b.barrier.turn = make(chan struct{}, 1)
	b.queue.init(o.LiveQueueBytes)
	b.sightings.from = time.Now()
	b.stir()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open backbone: %w", err), b.Close())
		}
	}()
	if err := b.openBus(ctx); err != nil {
		return nil, err
	}
	if !b.alone {
		return b, b.keepStore(ctx)
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	if err := b.openStore(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// openBus starts the server, if it is to be in this process, and connects.
func (b *Backbone) openBus(ctx context.Context) (err error) {
	o := b.opts
	if o.NatsURL == "" {
		if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
			return err
		}
		if b.lock, err = lockDir(o.DataDir); err != nil {
			return err
		}
		if b.server, err = startServer(ctx, o); err != nil {
			return err
		}
	}
	if b.conn, err = b.connect(ctx, "athena "+o.Node, true); err != nil {
		return err
	}
	if b.liveConn, err = b.connect(ctx, "athena live "+o.Node, false); err != nil {
		return err
	}
	b.queue.start(b.publishQueued)
	if b.js, err = jetstream.New(b.conn, jetstream.WithPublishAsyncMaxPending(maxAppends),
		jetstream.WithPublishAsyncTimeout(appendTimeout)); err != nil {
		return err
	}
	if err := b.servePing(); err != nil {
		return err
	}
	return b.serveGathers()
}

// replicated reports whether a part of the store may have several replicas, of
// which the one that answers may lag behind.
func (b *Backbone) replicated() bool { return !b.alone }

func (b *Backbone) connect(ctx context.Context, name string, subscribes bool) (*nats.Conn, error) {
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
		opts = append(opts, b.server.options()...)
	}
	if b.opts.NatsCredentials != "" {
		opts = append(opts, nats.UserCredentials(b.opts.NatsCredentials))
	}
	if b.opts.NatsTLS != nil {
		opts = append(opts, nats.Secure(b.opts.NatsTLS.Clone()))
	}
	wait := time.NewTimer(b.opts.StoreWait)
	defer wait.Stop()
	for told := false; ; told = true {
		conn, err := nats.Connect(b.opts.NatsURL, opts...)
		if err == nil {
			return conn, nil
		}
		err = fmt.Errorf("connect to NATS: %w", err)
		// Servers that start together with this node may not listen yet.
		if b.server != nil || !unreachable(err) {
			return nil, err
		}
		if !told {
			b.log.Warn().Err(err).Msg("waiting for NATS")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-wait.C:
			return nil, err
		case <-time.After(connectPause):
		}
	}
}

// connectPause is the time between two attempts at a first connection.
const connectPause = 250 * time.Millisecond

// unreachable reports whether err says that no server was there, rather than
// that one refused.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) || errors.As(err, &op)
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
	close(b.closed)
	var errs []error
	if !b.keeper.stop(closeTimeout) {
		errs = append(errs, errors.New("a function given to OnStoreOpen has not returned"))
	}
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
		down.Go(b.server.stop)
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
