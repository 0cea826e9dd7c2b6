package main

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/accounting"
	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/cluster"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/internal/resilience"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/internal/telemetry"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/web"
)

// A node is everything that serves clients, wired together: each part is made
// after those it stands on, and stopped before them.
type node struct {
	cfg     *config.Serve
	log     zerolog.Logger
	metrics *telemetry.Metrics
	started time.Time
	callers *auth.Authenticator // knows the tickets that this node has issued
	keyring *auth.Keyring
	// published are the keys of an identity provider; nil where none is used.
	published *auth.JWKS
	bus       *backbone.Backbone
	// stopTickets ends the answers to other nodes about these.
	stopTickets func()
	feeds       *hub.Feeds
	streams     *stream.Node
	upstreams   *upstreams
	answers     *answers
	keys        *providerKeys
	checkups    *checkups
	analyses    *analysis.Service
	jobs        *jobs
	limits      *callerLimits
	hub         *hub.Hub
	server      *gateway.Server
	edge        *edge

	// Of a node among others; nil where it is alone.
	cluster    *cluster.Cluster
	stopStarts func()
	crowded    crowded
}

// newNode makes a node that is ready to serve: what an earlier process left
// unfinished is ended.
func newNode(ctx context.Context, cfg *config.Serve, log zerolog.Logger) (_ *node, err error) {
	n := &node{cfg: cfg, log: log, started: time.Now(), metrics: telemetry.NewMetrics(buildVersion())}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close(ctx))
		}
	}()
	if n.edge, err = newEdge(cfg, log, os.Stderr); err != nil {
		return nil, err
	}
	if err = n.openStreams(ctx); err != nil {
		return nil, err
	}
	if n.upstreams, err = newUpstreams(cfg); err != nil {
		return nil, err
	}
	if n.answers, err = openAnswers(ctx, n); err != nil {
		return nil, err
	}
	keyLog := log.With().Str("part", "keys").Logger()
	n.upstreams.told = keyChanged(keyLog)
	if n.keys, err = openProviderKeys(ctx, cfg, n.upstreams, n.bus, keyLog); err != nil {
		return nil, err
	}
	n.metrics.ObserveKeys(n.keys.keyGauges)
	if err = n.upstreams.learnModels(ctx, log.With().Str("part", "providers").Logger()); err != nil {
		return nil, err
	}
	if err = n.openLimits(); err != nil {
		return nil, err
	}
	n.checkups = newCheckups(n.upstreams.entries, cfg.HealthInterval, log.With().Str("part", "providers").Logger())
	o := analysis.Options{
		Providers: n.upstreams.entries,
		Streams: analysis.StreamsFunc(func(ctx context.Context, id string) (analysis.Writer, error) {
			w, err := n.streams.Create(ctx, id)
			if err != nil {
				return nil, err
			}
			return jobWriter{w, n}, nil
		}),
		MaxJobs: cfg.MaxAnalyses, MaxCodeBytes: int(cfg.MaxCodeBytes), MaxOutputBytes: int64(cfg.MaxOutputBytes),
		HeaderTimeout: cfg.HeaderTimeout, FirstContentTimeout: cfg.FirstContentTimeout, IdleTimeout: cfg.IdleTimeout,
		TotalTimeout: cfg.TotalTimeout, OrphanTimeout: cfg.OrphanTimeout,
		AfterContent: analysis.AfterContent(cfg.AfterContent), Recovery: recovery(cfg), Degrade: cfg.Degrade,
		HedgeAfter: orNever(cfg.HedgeAfter), MaxAttempts: cfg.MaxAttempts, MaxRetries: orNever(cfg.MaxRetries),
		RetryBackoff:  resilience.Backoff{Growth: resilience.Exponential, Base: cfg.RetryBackoff, Max: cfg.RetryBackoffMax, Jitter: jitter},
		RetryBudget:   resilience.BudgetOptions{Ratio: orNever(cfg.RetryBudget)},
		RateLimitWait: orNever(cfg.RateLimitWait), MinRate: int64(cfg.MinRate), RateWindow: cfg.MinRateWindow,
		Breaker: resilience.BreakerOptions{Failures: cfg.BreakerFailures, Window: cfg.BreakerWindow, SlowAfter: cfg.BreakerSlowAfter,
			Backoff: resilience.Backoff{Growth: resilience.Growth(cfg.BreakerBackoff), Base: cfg.BreakerBase, Max: cfg.BreakerMax, Jitter: jitter},
			Probes:  cfg.BreakerProbes},
		Pool:             resilience.PoolLimits{CPU: cfg.CPULimit, Memory: cfg.MemoryLimit, Network: cfg.NetworkLimit},
		TenantLimits:     accounting.Limits{RequestsPerMinute: cfg.TenantRequestsPerMinute, TokensPerMinute: cfg.TenantTokensPerMinute},
		CredentialLimits: accounting.Limits{TokensPerMinute: cfg.LimitKeyTokens}, SharedLimits: newSharedTokens(cfg, n.limits.redis),
		Keys: n.bus, CacheGeneration: n.answers.generation.Name,
		Logger: log.With().Str("part", "analyses").Logger(), Observer: observer{n.metrics, log.With().Str("part", "providers").Logger(), n.edge},
	}
	if n.answers.memory != nil {
		o.Cache = n.answers.memory
	}
	if cfg.Clustered() {
		o.Sharing, o.HandOver = sharing{n.bus}, cfg.Takeover
		if cfg.Takeover {
			o.Requests = requests{n.bus}
		}
	}
	n.analyses = analysis.New(o)
	n.jobs = &jobs{n}
	n.metrics.ObserveProviders(n.providerGauges, n.poolGauges)
	if err = n.serveHTTP(ctx); err != nil {
		return nil, err
	}
	if err = n.edge.start(ctx); err != nil {
		return nil, err
	}
	if cfg.Clustered() {
		err = n.joinOthers(ctx)
	}
	return n, err
}

// openStreams opens the bus, and the streams that it carries. What an earlier
// process of a node that is alone left unfinished is ended; among several the
// cluster sees to that.
func (n *node) openStreams(ctx context.Context) error {
	cfg, log := n.cfg, n.log
	o, err := backboneOptions(cfg)
	if err != nil {
		return err
	}
	o.OnDrop = func(id string, _ int) { n.streams.Dropped(id) }
	o.Logger = log.With().Str("part", "backbone").Logger()
	if n.bus, err = backbone.Open(ctx, o); err != nil {
		return err
	}
	n.feeds = hub.NewFeeds(hub.FeedLimits{FeedBytes: int(cfg.FeedBytes), TotalBytes: int64(cfg.FeedsBytes)})
	n.metrics.ObserveCluster(func() int { return n.others() + 1 }, n.bus.StoreUp, n.bus.Dropped)
	n.metrics.ObserveFeeds(n.feeds.Len, n.feeds.Bytes, n.feeds.Evicted)
	n.streams = stream.New(n.feeds, n.bus, stream.Options{
		Node: cfg.Node, Sole: !cfg.Clustered(), Peers: n.others,
		OnCancel: func(ctx context.Context, id string) error {
			err := n.analyses.Cancel(ctx, id, protocol.CancelClient)
			if errors.Is(err, analysis.ErrNotRunning) {
				err = stream.ErrNoJob
			}
			return err
		},
		OnFenced:       func(id string) { n.analyses.TakenOver(id) },
		CoalesceWindow: cfg.CoalesceWindow, BatchInterval: cfg.BatchInterval, BatchBytes: int(cfg.BatchBytes),
		Metrics: n.metrics, Logger: log.With().Str("part", "streams").Logger(),
	})
	if cfg.Clustered() {
		return nil
	}
	ended, err := n.streams.Recover(ctx)
	if err != nil { // the others can be served
		log.Error().Err(err).Msg("not every stream of the process before this one could be ended")
	}
	if ended > 0 {
		log.Warn().Int("streams", ended).Msg("the process before this one died; the analyses it was running have failed")
	}
	return nil
}

// others is how many other nodes are up.
func (n *node) others() int {
	if n.cluster == nil {
		return 0
	}
	return n.cluster.Others()
}

// jitter is the part of a wait by which it may be longer or shorter, so that
// those who failed together don't come back together.
const jitter = 0.2

// recovery is what follows errors, where the configuration says so.
func recovery(cfg *config.Serve) map[protocol.Code]analysis.Strategy {
	m := make(map[protocol.Code]analysis.Strategy, len(cfg.Recovery))
	for _, r := range cfg.Recovery {
		m[protocol.Code(r.Code)] = analysis.Strategy(r.Strategy)
	}
	return m
}

// serveHTTP makes the floors that clients see.
func (n *node) serveHTTP(ctx context.Context) error {
	cfg, metrics := n.cfg, n.metrics
	callers, err := n.openCallers(ctx)
	if err != nil {
		return err
	}
	origins, err := gateway.NewOrigins(cfg.AllowedOrigin)
	if err != nil {
		return err
	}
	commands := &gateway.Commands{Analyses: n.jobs, Auth: callers, Audit: n.edge.audit, Limits: n.limits.gateway}
	n.hub = hub.New(n.feeds, n.streams, hub.Options{
		Node: cfg.Node, Heartbeat: cfg.Heartbeat, WriteTimeout: cfg.WriteTimeout, ReconnectDelay: cfg.ReconnectDelay,
		MessageBytes: int(cfg.MessageBytes), PollBytes: int(cfg.PollBytes), PollMaxWait: cfg.PollMaxWait,
		MaxStreams: cfg.MaxStreams, MaxConnections: cfg.MaxConnections,
		MaxCommandBytes: gateway.MaxRequestBytes(int64(cfg.MaxCodeBytes)),
		Admit:           n.limits.gateway.Admit, Allow: n.limits.gateway.Allow,
		Commands: commands, Credential: credential, AllowOrigin: origins.Allowed, Viewers: n.viewersElsewhere(), CacheGeneration: n.answers.generation.Name, Metrics: metrics,
		Logger: n.log.With().Str("part", "hub").Logger(),
	})
	commands.Metadata = n.hub.Metadata
	n.answers.tell = n.hub.TellCacheGeneration
	if err := n.answers.run(n.bus); err != nil {
		return err
	}
	g, err := gateway.New(gateway.Options{
		Analyses: n.jobs, Streams: n.hub, Auth: callers, Origins: origins, Limits: n.limits.gateway,
		Providers: n.listProviders, ProviderKeys: n.keys, Ready: n.ready, Cluster: n.describeAll, Cache: n.answers.generation, Forget: n.forgetter(), Keys: n.keyring, MetricsHandler: metrics.Handler(), Page: web.FS(), Metrics: metrics,
		Logger:  n.log.With().Str("part", "http").Logger(),
		Proxies: n.edge.proxies, Audit: n.edge.audit, HSTS: cfg.HSTSMaxAge,
		LoopbackOnly: cfg.Loopback() && !callers.Required(),
		Transports:   cfg.Transports, Heartbeat: cfg.Heartbeat, ProbeTimeout: cfg.ProbeTimeout, MaxStreams: cfg.MaxStreams,
		MaxCodeBytes: int64(cfg.MaxCodeBytes), BodyTimeout: cfg.BodyTimeout, WriteTimeout: cfg.WriteTimeout, ResultMaxWait: cfg.ResultMaxWait,
	})
	if err != nil {
		return err
	}
	n.server = gateway.NewServer(g, gateway.ServerOptions{
		ReadHeaderTimeout: cfg.ReadHeaderTimeout, KeepAlive: cfg.KeepAlive, MaxHeaderBytes: int(cfg.MaxHeaderBytes),
		TLS: n.edge.tls(),
	})
	return nil
}

// serve answers connections until shutdown.
func (n *node) serve(ln net.Listener) error {
	n.checkups.start()
	return n.server.Serve(n.edge.listener(n.guard(ln)))
}

// shutdown ends the node: running analyses and the clients that watch them get
// until ctx ends. What is left then is cut off. Everything is stored and all
// goroutines have ended when it returns.
func (n *node) shutdown(ctx context.Context) error {
	drainAnalyses := func(ctx context.Context) error {
		ctx, cancel := portion(ctx, 0.7)
		defer cancel()
		return n.analyses.Drain(ctx)
	}
	drainHub := func(ctx context.Context) {
		ctx, cancel := portion(ctx, 0.5)
		defer cancel()
		n.hub.Drain(ctx, drainWindow(ctx))
	}
	if n.cluster == nil {
		err := n.server.Shutdown(ctx, drainAnalyses, func(ctx context.Context) error { drainHub(ctx); return nil })
		return errors.Join(err, n.close(ctx))
	}
	err := n.cluster.Leave(ctx)
	err = errors.Join(err, n.server.Shutdown(ctx, func(ctx context.Context) error {
		// Analyses go on, and can be watched from the other nodes, where the
		// clients go once balancers have turned to them.
		drained := make(chan error, 1)
		go func() { drained <- drainAnalyses(ctx) }()
		pause(ctx, n.cfg.DrainDelay)
		drainHub(ctx)
		return <-drained
	}))
	return errors.Join(err, n.close(ctx))
}

// pause waits for d, but no more than a fifth of what is left of ctx.
func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := portion(ctx, 0.2)
	defer cancel()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// close stops the parts that were made, the last first. What is left to do is
// quick, and is done although ctx may have ended.
func (n *node) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	step := func(f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, closeTimeout)
		defer cancel()
		errs = append(errs, f(ctx))
	}
	if n.answers != nil {
		n.answers.close()
	}
	if n.hub != nil {
		n.hub.Close()
	}
	if n.analyses != nil {
		step(n.analyses.Drain)
	}
	errs = append(errs, n.limits.close())
	if n.checkups != nil {
		n.checkups.close()
	}
	if n.upstreams != nil {
		n.upstreams.close()
	}
	if n.keyring != nil {
		n.keyring.Close()
	}
	if n.keys != nil {
		n.keys.close()
	}
	if n.published != nil {
		n.published.Close()
	}
	for _, stop := range []func(){n.stopStarts, n.stopTickets} {
		if stop != nil {
			stop()
		}
	}
	if n.streams != nil {
		step(n.streams.Close)
	}
	if n.cluster != nil { // once nothing is left that others would have to look after
		step(n.cluster.Close)
	}
	if n.feeds != nil {
		n.feeds.Close()
	}
	if n.bus != nil {
		errs = append(errs, n.bus.Close())
	}
	if n.edge != nil {
		errs = append(errs, n.edge.close())
	}
	return errors.Join(errs...)
}

const (
	// closeTimeout bounds each step of the end: cancelling what still runs, and
	// storing what is left.
	closeTimeout = 5 * time.Second
	// maxDrainWindow is the longest time over which clients are asked to move.
	maxDrainWindow = 2 * time.Second
)

// portion returns a context with a part of the time that ctx has left.
func portion(ctx context.Context, part float64) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(float64(time.Until(deadline))*part))
}

func drainWindow(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(maxDrainWindow, max(time.Until(deadline)/2, 0))
	}
	return maxDrainWindow
}

func (n *node) dialect(name string) string {
	for _, p := range n.cfg.Providers {
		if p.Name == name {
			return p.Dialect
		}
	}
	return ""
}

// jobs is the gateway's view of the analyses.
type jobs struct{ n *node }

func (j *jobs) Start(ctx context.Context, req *protocol.Request, o gateway.StartOptions) (id string, created bool, err error) {
	options := analysis.StartOptions{IdempotencyKey: o.IdempotencyKey, RequestID: o.RequestID, Owner: o.Owner, Tenant: o.Tenant, Credential: gateway.LimitKey(ctx)}
	id, created, err = j.startHere(ctx, req, options)
	if err != nil && protocol.AsError(err).Code == protocol.CodeDraining {
		if id, created, ok := j.n.startElsewhere(ctx, req, options); ok {
			return id, created, nil
		}
	}
	return id, created, err
}

func (j *jobs) startHere(ctx context.Context, req *protocol.Request, o analysis.StartOptions) (id string, created bool, err error) {
	o.Admit = func() (func(), error) { return j.n.limits.gateway.Streams(ctx, req.Analysis) }
	id, created, err = j.n.analyses.Start(ctx, req, o)
	if err == nil && created {
		j.n.metrics.AnalysisStarted()
	}
	return id, created, err
}

// Cancel cancels a job, on whichever node it runs. Whether the stream exists at
// all, and runs, has been looked up.
func (j *jobs) Cancel(ctx context.Context, id string) error {
	err := j.n.analyses.Cancel(ctx, id, protocol.CancelClient)
	if !errors.Is(err, analysis.ErrNotRunning) {
		return err
	}
	if j.n.cluster == nil {
		return nil // it has just ended
	}
	err = j.n.streams.Cancel(ctx, id)
	if errors.Is(err, backbone.ErrNoOwner) {
		if f, openErr := j.n.hub.Metadata(ctx, id); openErr == nil && f.State != protocol.StateRunning {
			return nil // meanwhile it has ended
		}
		return protocol.Errorf(protocol.CodeServiceUnavailable, "the analysis is on its way from one node to another; cancel it again").WithRetryAfter(time.Second)
	}
	return err
}
