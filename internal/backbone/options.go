package backbone

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/rs/zerolog"
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
	DefaultStoreWait            = 30 * time.Second
	DefaultForgetAfter          = 10 * time.Second
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
	// Each stream has its own limit on disk: the log LogMaxBytes, the buckets
	// those beside them. The server's limit for all is out of their way: a
	// lower one would keep it from starting when LogMaxBytes is lowered, since
	// it counts what the streams' old limits reserve.
	serverMaxStore = 1 << 60
	// The whole limit of JetStream's memory storage, which nothing here uses.
	serverMaxMemory = 16 << 20

	// maxAppends bounds the batches that are on their way to the store at once,
	// more than a node has analyses. Beyond it appends fail, and are tried again.
	maxAppends = 32 << 10

	connectTimeout = 5 * time.Second
	startTimeout   = 30 * time.Second // recovery of a large log after a crash
	// callTimeout bounds a call whose context has no deadline.
	callTimeout = 10 * time.Second
	// appendTimeout bounds an append to a store that does not answer, say because
	// the server that was to answer has died. Nothing is lost by asking again.
	appendTimeout = 3 * time.Second
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

	// Cluster makes this node one of several, whose embedded servers are joined
	// by routes. nil: the node is alone, and its server listens nowhere.
	Cluster *ClusterOptions

	// NatsURL connects to these servers (one or more URLs, with commas between
	// them) instead of embedding one.
	NatsURL string
	// NatsCredentials is a file with the credentials for NatsURL, as nsc writes
	// them. "" for none but what the URL says.
	NatsCredentials string
	// NatsTLS is for the connections to NatsURL. nil: as the URL says, with the
	// system's authorities.
	NatsTLS *tls.Config

	// StoreWait is how long Open waits for the store where that depends on
	// others, in a cluster and with NatsURL; 30 s. After that it returns, and
	// the store opens in the background.
	StoreWait time.Duration
}

// ClusterOptions say how this node's server joins those of others.
type ClusterOptions struct {
	// Name is the cluster's, the same on all its nodes.
	Name string
	// Listen is the HOST:PORT on which routes from other nodes arrive.
	Listen string
	// Advertise is the HOST:PORT at which the others reach this node; "" for
	// what they see.
	Advertise string
	// Routes are the HOST:PORTs of some others. This node's own may be among
	// them. One that is reached tells of the rest.
	Routes []string
	// Secret, which all nodes know, keeps others out. Anything that has it is
	// a member, with everything that a node may do, so it should be long and
	// random.
	Secret string
	// TLS is for routes, on both sides, as ClusterTLSFiles makes it. nil: made
	// from the Secret by ClusterTLS; without a Secret routes are open, and
	// Listen must be a loopback address.
	TLS *tls.Config
	// ForgetAfter is how long a node that is gone counts for the store's quorum
	// when one more loss would lose that; 10 s.
	ForgetAfter time.Duration
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
	o.StoreWait = cmp.Or(o.StoreWait, DefaultStoreWait)
	if o.Cluster != nil {
		if o.NatsURL != "" {
			return o, fmt.Errorf("%w: a cluster of embedded servers and servers elsewhere exclude each other", ErrInvalid)
		}
		var err error
		if o.Cluster, err = o.Cluster.withDefaults(); err != nil {
			return o, err
		}
	}
	if o.LogMaxAge < 0 || o.LogMaxBytes < 0 || o.LogMaxBytesPerStream < 0 || o.SyncInterval < 0 ||
		o.LiveQueueBytes < 0 || o.PendingBytes < 0 || o.PendingMessages < 0 || o.StoreWait < 0 {
		return o, fmt.Errorf("%w: a limit is negative", ErrInvalid)
	}
	if o.LogMaxAge < time.Second {
		return o, fmt.Errorf("%w: the log's greatest age is %v, less than a second", ErrInvalid, o.LogMaxAge)
	}
	return o, nil
}
