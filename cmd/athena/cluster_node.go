package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/cluster"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/internal/telemetry"
	"github.com/athena-hub/athena/protocol"
)

// backboneOptions are the bus and the store that cfg asks for.
func backboneOptions(cfg *config.Serve) (o backbone.Options, err error) {
	o = backbone.Options{
		DataDir: filepath.Clean(cfg.DataDir), Node: cfg.Node,
		LogMaxAge: cfg.HistoryAge, LogMaxBytes: int64(cfg.HistoryBytes), LogMaxBytesPerStream: int64(cfg.HistoryStreamBytes),
		NatsURL: cfg.NatsURL, NatsCredentials: cfg.NatsCreds,
	}
	if cfg.NatsCA != "" || cfg.NatsCert != "" {
		if o.NatsTLS, err = natsTLS(cfg); err != nil {
			return o, err
		}
	}
	if cfg.ClusterName == "" {
		return o, nil
	}
	secret, err := cfg.ClusterPassword()
	if err != nil {
		return o, err
	}
	c := &backbone.ClusterOptions{Name: cfg.ClusterName, Listen: cfg.ClusterListen, Advertise: cfg.ClusterAdvertise,
		Routes: cfg.ClusterRoutes, Secret: secret.Reveal(), ForgetAfter: cfg.ClusterForgetAfter}
	if cfg.ClusterCert != "" {
		if c.TLS, err = backbone.ClusterTLSFiles(cfg.ClusterCert, cfg.ClusterKey, cfg.ClusterCA); err != nil {
			return o, fmt.Errorf("certificates of the cluster: %w", err)
		}
	}
	o.Cluster = c
	return o, nil
}

func natsTLS(cfg *config.Serve) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.NatsCA != "" {
		pem, err := os.ReadFile(cfg.NatsCA)
		if err != nil {
			return nil, fmt.Errorf("certificate authority of the NATS servers: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificate authority of the NATS servers: %s has no certificate in PEM", cfg.NatsCA)
		}
	}
	if cfg.NatsCert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.NatsCert, cfg.NatsKey)
		if err != nil {
			return nil, fmt.Errorf("certificate for the NATS servers: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// topics of messages between nodes that this package reads and writes; each
// floor below has its own.
const (
	topicShare  = "share"
	topicStart  = "start"
	topicTicket = "ticket"
)

// sharing lets equal requests on several nodes have one analysis.
type sharing struct{ bus *backbone.Backbone }

var _ analysis.Sharing = sharing{}

// A shareQuestion asks to join the analysis of a key, and how long who asks may
// take until somebody watches it; a shareAnswer names its stream, "" for none.
type (
	shareQuestion struct {
		OrphanMS int64 `json:"orphan_ms"`
	}
	shareAnswer struct {
		Stream string `json:"stream"`
	}
)

func (s sharing) Offer(key string, join func(orphan time.Duration) (id string, ok bool)) (stop func(), err error) {
	return s.bus.Serve(topicShare, key, func(request []byte) []byte {
		var q shareQuestion
		var a shareAnswer
		if json.Unmarshal(request, &q) == nil {
			if id, ok := join(time.Duration(q.OrphanMS) * time.Millisecond); ok {
				a.Stream = id
			}
		}
		return encode(a)
	})
}

func (s sharing) Join(ctx context.Context, key string, orphan time.Duration) (id string, ok bool) {
	reply, err := s.bus.Ask(ctx, topicShare, key, encode(shareQuestion{orphan.Milliseconds()}))
	var a shareAnswer
	if err != nil || json.Unmarshal(reply, &a) != nil || !protocol.ValidStreamID(a.Stream) {
		return "", false // nobody has it, or not soon enough
	}
	return a.Stream, true
}

// encode is for types of this package that always encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// A startQuestion asks another node to start an analysis, and a startAnswer
// says what became of it.
type (
	startQuestion struct {
		Request        *protocol.Request `json:"request"`
		IdempotencyKey string            `json:"idempotency_key,omitempty"`
		RequestID      string            `json:"request_id,omitempty"`
		Owner          string            `json:"owner,omitempty"`
		Tenant         string            `json:"tenant,omitempty"`
		Credential     string            `json:"credential,omitempty"`
	}
	startAnswer struct {
		Stream  string          `json:"stream,omitempty"`
		Created bool            `json:"created,omitempty"`
		Error   *protocol.Error `json:"error,omitempty"`
	}
)

const (
	// forwardTimeout bounds one node's start of an analysis for another.
	forwardTimeout = 3 * time.Second
	// forwardTries is how many nodes are asked.
	forwardTries = 2
)

// askStart is the question that passes a caller's request on.
func askStart(req *protocol.Request, o analysis.StartOptions) startQuestion {
	return startQuestion{Request: req, IdempotencyKey: o.IdempotencyKey, RequestID: o.RequestID, Owner: o.Owner, Tenant: o.Tenant, Credential: o.Credential}
}

// options are those of the request here, and a context with its caller, who is held
// to the same limits as if it had come to this node.
func (q *startQuestion) options(ctx context.Context) (context.Context, analysis.StartOptions) {
	return auth.NewContext(ctx, ownerOf(q.Owner, q.Credential)), analysis.StartOptions{IdempotencyKey: q.IdempotencyKey, RequestID: q.RequestID,
		Owner: q.Owner, Tenant: q.Tenant, Credential: q.Credential}
}

// serveStarts starts analyses for nodes that shut down.
func (n *node) serveStarts() (stop func(), err error) {
	return n.bus.Serve(topicStart, n.cfg.Node, func(request []byte) []byte {
		var q startQuestion
		if err := json.Unmarshal(request, &q); err != nil || q.Request == nil {
			return encode(startAnswer{Error: protocol.Errorf(protocol.CodeInternal, "the other node's request can't be read")})
		}
		ctx, cancel := context.WithTimeout(context.Background(), forwardTimeout)
		defer cancel()
		ctx, options := q.options(ctx)
		id, created, err := n.jobs.startHere(ctx, q.Request, options)
		if err != nil {
			return encode(startAnswer{Error: protocol.AsError(err)})
		}
		return encode(startAnswer{Stream: id, Created: created})
	})
}

// startElsewhere has another node start an analysis, since this one takes none
// any more; ok is false where none does.
func (n *node) startElsewhere(ctx context.Context, req *protocol.Request, o analysis.StartOptions) (id string, created, ok bool) {
	if n.cluster == nil {
		return "", false, false
	}
	question := encode(askStart(req, o))
	others := n.cluster.Up()
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	for _, other := range others[:min(len(others), forwardTries)] {
		ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
		reply, err := n.bus.Ask(ctx, topicStart, other, question)
		cancel()
		if err != nil && !errors.Is(err, backbone.ErrNoOwner) {
			return "", false, false // it may have started it; the client's own retry has the key for that
		}
		var a startAnswer
		if err == nil && json.Unmarshal(reply, &a) == nil && protocol.ValidStreamID(a.Stream) {
			n.metrics.Forwarded()
			return a.Stream, a.Created, true
		}
	}
	return "", false, false
}

// takeOver makes an analysis whose node is gone, or that was handed over, this
// node's own: it goes on here, or, where it can't, ends.
func (n *node) takeOver(ctx context.Context, id string, r backbone.Record, reason string) error {
	lost, err := stream.ParseRecord(id, r)
	if err != nil {
		return err
	}
	taken, err := n.streams.TakeOver(ctx, lost)
	if errors.Is(err, stream.ErrTaken) {
		return nil
	}
	if err != nil {
		return err
	}
	if taken.Ended() {
		return n.bus.DropRequest(ctx, id)
	}
	log := n.log.Warn().Str("part", "cluster").Str("stream", id).Str("from", lost.Node).Str("reason", reason)
	cause := errors.New("--no-takeover")
	if n.cfg.Takeover {
		if cause = n.resume(ctx, taken, lost, reason); cause == nil {
			n.crowded.forget(id)
			n.metrics.TakenOver(reason, telemetry.TakeoverResumed)
			log.Msg("took over an analysis, which goes on here")
			return nil
		}
	}
	refused := protocol.AsError(cause)
	switch {
	case errors.Is(cause, stream.ErrTaken), errors.Is(cause, stream.ErrEnded):
		return nil
	case refused.Code == protocol.CodeDraining, refused.Code == protocol.CodeOverloaded && n.crowded.again(id):
		taken.Release()
		return cause // for another node, or for a time when there is room here
	case refused.Code != protocol.CodeTimeout: // which says all there is to say
		refused = protocol.Errorf(protocol.CodeOwnerLost, "the node that ran the analysis stopped before it was done, and it could not be taken over; start it again")
	}
	n.crowded.forget(id)
	if err := taken.Fail(ctx, refused); err != nil {
		return err
	}
	n.metrics.TakenOver(reason, telemetry.TakeoverFailed)
	log.AnErr("why", cause).Msg("ended an analysis whose node is gone, since it could not go on")
	return n.bus.DropRequest(ctx, id)
}

// resume lets the analysis go on here. Clients have seen nothing where it fails.
func (n *node) resume(ctx context.Context, t *stream.Takeover, lost stream.Lost, reason string) error {
	kept, err := n.bus.KeptRequest(ctx, lost.ID)
	if err != nil {
		return err
	}
	if kept == nil {
		return errors.New("its request was not kept")
	}
	return n.analyses.Resume(ctx, analysis.Resumption{
		ID: lost.ID, Kept: kept, Past: t.Past(), From: lost.Node, Reason: reason,
		Hold: func(i analysis.Info) (leave func()) { return n.limits.gateway.Hold(ownerOf(i.Owner, i.Credential)) },
		Writer: func(ctx context.Context, f *protocol.Failover) (analysis.Writer, error) {
			w, err := t.Resume(ctx, f)
			if err != nil {
				return nil, err
			}
			return jobWriter{w, n}, nil
		},
	})
}

// maxCrowded is how often a node that has no room for an analysis leaves it to
// the others, or to a later time.
const maxCrowded = 5

// crowded counts how often each analysis found no room here.
type crowded struct {
	mu    sync.Mutex
	times map[string]int // guarded by mu
}

// again reports whether to try it another time.
func (c *crowded) again(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == nil {
		c.times = make(map[string]int)
	}
	c.times[id]++
	return c.times[id] < maxCrowded
}

func (c *crowded) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.times, id)
}

// A jobWriter writes the stream of a job of this node.
type jobWriter struct {
	*stream.Writer
	n *node
}

// HandOver leaves the job to another node. There must be one, or nobody would
// go on with it.
func (w jobWriter) HandOver(ctx context.Context) error {
	if w.n.cluster == nil || len(w.n.cluster.Up()) == 0 {
		return errors.New("there is no other node")
	}
	if err := w.Writer.HandOver(ctx); err != nil {
		return err
	}
	w.n.cluster.Look()
	return nil
}

// requests keeps the requests of running analyses in the store.
type requests struct{ bus *backbone.Backbone }

var _ analysis.RequestStore = requests{}

func (r requests) Keep(ctx context.Context, id string, data []byte) error {
	err := r.bus.KeepRequest(ctx, id, data)
	if errors.Is(err, backbone.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", analysis.ErrRequestTooLarge, err)
	}
	return err
}

func (r requests) Drop(ctx context.Context, id string) error { return r.bus.DropRequest(ctx, id) }

// joinOthers makes this node one of several: it tells the others that it is
// there, and looks after the analyses of those that are not any more.
func (n *node) joinOthers(ctx context.Context) (err error) {
	n.cluster = cluster.New(cluster.Options{
		Node: n.cfg.Node, Epoch: n.bus.Epoch(), Lease: n.cfg.ClusterLease, Bus: n.bus,
		Facts:    n.facts,
		OnFacts:  func(node string, f cluster.Facts) { n.analyses.Hinted(node, hintsOf(f)) },
		TakeOver: n.takeOver,
		Verify: func(ctx context.Context) error {
			n.metrics.Verified()
			return n.streams.Verify(ctx)
		},
		Logger: n.log.With().Str("part", "cluster").Logger(),
	})
	if n.stopStarts, err = n.serveStarts(); err != nil {
		return err
	}
	if n.stopTickets, err = n.serveTickets(); err != nil {
		return err
	}
	return n.cluster.Start(ctx)
}
