package backbone

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A store is the store once it is open: seven JetStream streams, six of which
// are laid out as buckets of keys.
type store struct {
	log         *part // athena_log, by stream
	running     *part // records of running jobs, by stream
	nodes       *part // epochs and leases
	keys        *part // Idempotency-Keys
	requests    *part // requests of running jobs, by stream
	credentials *part // API keys, by id
	secrets     *part // sealed keys of providers
}

func (s *store) parts() []*part {
	return []*part{s.log, s.running, s.nodes, s.keys, s.requests, s.credentials, s.secrets}
}

// A part is one of the store's streams.
type part struct {
	// Set by openPart, then read-only.
	name   string
	stream jetstream.Stream
	kv     jetstream.KeyValue // nil for the log

	// down says that the newest call that could tell found no leader or no
	// quorum.
	down atomic.Bool
	// suspect says that a call took too long to tell.
	suspect atomic.Bool
}

// The names of the store's streams. NATS's ADR-8 gives those of buckets.
const (
	logStream         = "athena_log"
	runningBucket     = "athena_running"
	nodesBucket       = "athena_nodes"
	keysBucket        = "athena_keys"
	requestsBucket    = "athena_requests"
	credentialsBucket = "athena_credentials"
	secretsBucket     = "athena_secrets"

	bucketPrefix  = "KV_"
	subjectPrefix = "$KV."
)

// bucketConfig is a bucket of records, of which each key has one. full says
// what happens when it is full: an ordinary bucket refuses new keys, while
// some of these are to forget the oldest instead.
func bucketConfig(name, description string, full jetstream.DiscardPolicy) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              bucketPrefix + name,
		Description:       description,
		Subjects:          []string{subjectPrefix + name + ".>"},
		Storage:           jetstream.FileStorage,
		Discard:           full,
		MaxMsgsPerSubject: 1,
		MaxMsgs:           -1,
		MaxConsumers:      -1,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
		AllowMsgTTL:       true,
		Duplicates:        2 * time.Minute,
	}
}

// openStore makes or opens the store's streams and raises the epoch.
func (b *Backbone) openStore(ctx context.Context) (err error) {
	s := &store{}
	for _, p := range []struct {
		at     **part
		config jetstream.StreamConfig
	}{
		{&s.log, b.logConfig()},
		{&s.running, runningConfig()},
		{&s.nodes, nodesConfig()},
		{&s.keys, keysConfig()},
		{&s.requests, requestsConfig()},
		{&s.credentials, credentialsConfig()},
		{&s.secrets, secretsConfig()},
	} {
		if *p.at, err = b.openPart(ctx, p.config); err != nil {
			return fmt.Errorf("open %s: %w", p.config.Name, known(err))
		}
	}
	if err := b.raiseEpoch(ctx, s.nodes); err != nil {
		return fmt.Errorf("raise the epoch: %w", known(err))
	}
	b.opened.Store(s)
	return nil
}

// openPart makes the stream or, where it exists, gives it this node's limits.
// The number of its replicas never becomes less: what the servers of nodes
// need the janitor sees to, and servers elsewhere are asked for more.
func (b *Backbone) openPart(ctx context.Context, want jetstream.StreamConfig) (*part, error) {
	stream, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = b.makeStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = b.js.Stream(ctx, want.Name) // another node was quicker
		}
	}
	if err != nil {
		return nil, err
	}
	have := stream.CachedInfo().Config
	want.Replicas = max(have.Replicas, 1)
	if b.server == nil && want.Replicas < fullReplicas {
		// The servers may have become more. If not, they refuse.
		want.Replicas = fullReplicas
		more, err := b.js.UpdateStream(ctx, want)
		if err == nil {
			stream, have = more, want
		} else if !tooFewServers(err) {
			return nil, err
		}
		want.Replicas = max(have.Replicas, 1)
	}
	if !sameLimits(have, want) {
		if stream, err = b.js.UpdateStream(ctx, want); err != nil {
			return nil, err
		}
	}
	p := &part{name: want.Name, stream: stream}
	if bucket, ok := cutBucket(want.Name); ok {
		if p.kv, err = b.js.KeyValue(ctx, bucket); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// makeStream makes a stream with as many replicas as there are servers for.
func (b *Backbone) makeStream(ctx context.Context, config jetstream.StreamConfig) (jetstream.Stream, error) {
	config.Replicas = 1
	if b.alone || b.server != nil && len(b.server.reached()) < fullReplicas {
		return b.js.CreateStream(ctx, config)
	}
	// Whether servers elsewhere are enough only they know.
	config.Replicas = fullReplicas
	stream, err := b.js.CreateStream(ctx, config)
	if tooFewServers(err) {
		config.Replicas = 1
		stream, err = b.js.CreateStream(ctx, config)
	}
	return stream, err
}

// tooFewServers reports whether err says that there are fewer servers than
// replicas.
func tooFewServers(err error) bool {
	const (
		codeNoPeers               = 10005
		codeInsufficientResources = 10023
		codeReplicasNotSupported  = 10074
	)
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeNoPeers, codeInsufficientResources, codeReplicasNotSupported:
		return true
	}
	return false
}

func cutBucket(stream string) (bucket string, ok bool) {
	if len(stream) <= len(bucketPrefix) || stream[:len(bucketPrefix)] != bucketPrefix {
		return "", false
	}
	return stream[len(bucketPrefix):], true
}

// sameLimits reports whether a stream has what this node would give it. Only
// what this package has ever changed, or a user can, is looked at.
func sameLimits(have, want jetstream.StreamConfig) bool {
	return have.MaxAge == want.MaxAge && have.MaxBytes == want.MaxBytes && have.MaxMsgsPerSubject == want.MaxMsgsPerSubject &&
		have.MaxMsgSize == want.MaxMsgSize && have.Discard == want.Discard && have.Duplicates == want.Duplicates &&
		have.AllowMsgTTL == want.AllowMsgTTL && have.SubjectDeleteMarkerTTL == want.SubjectDeleteMarkerTTL &&
		have.Description == want.Description
}

// openedStore returns the store, or ErrNoStore while it is being opened.
func (b *Backbone) openedStore() (*store, error) {
	if b.closing.Load() {
		return nil, ErrClosed
	}
	s := b.opened.Load()
	if s == nil {
		return nil, fmt.Errorf("%w: it is not open yet", ErrNoStore)
	}
	return s, nil
}

// wrote is failed for the result of a write, which where it succeeded shows
// that p has its quorum. Reads don't show that: any replica answers them.
func (p *part) wrote(err error) error {
	if err == nil {
		p.down.Store(false)
	}
	return p.failed(err)
}

// failed notes what an error says about p, and returns it in this package's
// terms.
func (p *part) failed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoStore):
		return err
	case noStore(err):
		p.down.Store(true)
		return fmt.Errorf("%w: %w", ErrNoStore, err)
	case errors.Is(err, context.DeadlineExceeded):
		p.suspect.Store(true) // slow or gone: the keeper finds out
		return fmt.Errorf("%w: no answer in time: %w", ErrNoStore, err)
	}
	return known(err)
}

// The numbers of JetStream's errors that say that there is no leader, or no
// quorum. Not every 503 does: a full bucket's is one too.
const (
	codeClusterNotAvailable = 10008
	codeClusterNotLeader    = 10009
	codeStreamOffline       = 10118
)

// noStore reports whether err says that nobody is there to answer for a part
// of the store.
func noStore(err error) bool {
	for _, gone := range []error{
		nats.ErrNoResponders, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded,
		jetstream.ErrNoStreamResponse, jetstream.ErrAsyncPublishTimeout, jetstream.ErrJetStreamNotEnabled,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeClusterNotAvailable, codeClusterNotLeader, codeStreamOffline:
		return true
	}
	return false
}
