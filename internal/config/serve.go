package config

import (
	"time"
)

// Serve is the configuration of `athena serve`, and a command of kong's (see
// Options). Load fills it. Its tags are what users read in `athena serve
// --help` and in the README's table; durations have units ("90s", "25ms") and
// so do sizes ("16KiB", "4GiB", or a number of bytes).
type Serve struct {
	Config  string `group:"Server" placeholder:"FILE" help:"YAML file with settings. Variables and flags win over it."`
	Listen  string `group:"Server" default:"127.0.0.1:8080" placeholder:"ADDR" help:"Address to listen on, HOST:PORT. Other than on loopback, an API key or --insecure is needed."`
	DataDir string `group:"Server" placeholder:"DIR" help:"Directory for the stored streams. Default: $$XDG_DATA_HOME/athena, or ~/.local/share/athena."`
	Node    string `group:"Server" aliases:"node-name" default:"athena" help:"This node's name, of letters, digits, - and _. Clients see it; stored streams remember it. Each node of a cluster needs its own. --node-name is the same."`

	LogLevel  string `group:"Server" default:"info" enum:"trace,debug,info,warn,error,off" help:"What to log: trace, debug, info, warn, error or off."`
	LogFormat string `group:"Server" default:"auto" enum:"auto,json,console" help:"How to log: json, console, or auto, which is console on a terminal and json elsewhere."`

	ClusterName        string        `group:"Cluster" placeholder:"NAME" help:"Join the cluster of this name, which all its nodes have, by an embedded NATS server. Without it, and without --nats-url, this node is alone."`
	ClusterListen      string        `group:"Cluster" default:"127.0.0.1:6222" placeholder:"ADDR" help:"Address for the other nodes, HOST:PORT. Other than on loopback, a secret or certificates are needed."`
	ClusterAdvertise   string        `group:"Cluster" placeholder:"ADDR" help:"Address at which the other nodes reach this one, HOST:PORT, where it is not --cluster-listen."`
	ClusterRoutes      []string      `group:"Cluster" placeholder:"ADDR,…" help:"Addresses of other nodes, HOST:PORT; this node's own may be among them. One that can be reached is enough: nodes tell each other of the rest."`
	ClusterSecret      Secret        `group:"Cluster" placeholder:"SECRET" help:"What all nodes of the cluster know, at least 32 characters. Their connections are encrypted by keys that are made of it. Prefer the variable or --cluster-secret-file."`
	ClusterSecretFile  string        `group:"Cluster" placeholder:"FILE" help:"File with the secret."`
	ClusterCert        string        `group:"Cluster" placeholder:"FILE" help:"This node's certificate for the other nodes, in PEM, where they don't share a secret alone. It is for both sides of a connection."`
	ClusterKey         string        `group:"Cluster" placeholder:"FILE" help:"The certificate's key, in PEM."`
	ClusterCA          string        `name:"cluster-ca" group:"Cluster" placeholder:"FILE" help:"The certificate authority that signs the nodes' certificates, and nothing else, in PEM."`
	ClusterLease       time.Duration `group:"Cluster" default:"5s" help:"How long a node may be silent until the others take over what it ran."`
	ClusterForgetAfter time.Duration `group:"Cluster" default:"10s" help:"How long a node must be gone before it no longer counts for the store's majority, where another loss would cost that."`
	DrainDelay         time.Duration `group:"Cluster" default:"3s" help:"How long a node of several that shuts down still takes new clients, so that load balancers that ask /readyz can turn to the others first."`
	Takeover           bool          `group:"Cluster" default:"true" negatable:"" help:"Go on with the analyses of a node that died, by asking a provider again. Requests are kept in the store for that while they run. Without it these analyses fail."`
	NatsURL            string        `name:"nats-url" group:"Cluster" placeholder:"URL,…" help:"NATS servers with JetStream to use in the place of an embedded one, such as nats://10.0.0.1:4222 or tls://…."`
	NatsCreds          string        `group:"Cluster" placeholder:"FILE" help:"Credentials for these servers, a .creds file."`
	NatsCA             string        `name:"nats-ca" group:"Cluster" placeholder:"FILE" help:"Certificate authority of these servers, in PEM, where it is not one of the system's."`
	NatsCert           string        `group:"Cluster" placeholder:"FILE" help:"This node's certificate for these servers, in PEM, where they want one."`
	NatsKey            string        `group:"Cluster" placeholder:"FILE" help:"The certificate's key, in PEM."`

	APIKey        []Secret `name:"api-key" group:"Access" placeholder:"[NAME=]KEY" help:"A key that clients may use, at least 16 characters; NAME is for logs. Repeatable. Other users of the machine can see flags: prefer the variable or --api-key-file."`
	APIKeyFile    string   `name:"api-key-file" group:"Access" placeholder:"FILE" help:"File of such keys, one a line; lines that begin with # are comments."`
	Insecure      bool     `group:"Access" help:"Listen without API keys although the address is not loopback."`
	AllowedOrigin []string `group:"Access" placeholder:"ORIGIN" help:"Origin whose pages may use the API, such as https://example.com or https://*.example.com. Repeatable. Pages of the server itself always may."`

	RequireAuth bool          `group:"Access" help:"Let nobody in without a credential, also on loopback and where no API key is configured: keys that athena keys has made are enough then."`
	AuthGrace   time.Duration `group:"Access" default:"30s" help:"How long a connection may outlive the key or token that it came with when that expires, so that it can bring a fresh one. What is revoked ends at once."`

	JWTSecret        Secret        `name:"jwt-secret" group:"Access" placeholder:"SECRET" help:"Take tokens (JWT) that are signed by this secret, of at least 32 characters, with HS256. Prefer the variable or --jwt-secret-file."`
	JWTSecretFile    string        `name:"jwt-secret-file" group:"Access" placeholder:"FILE" help:"File with the secret."`
	JWTPublicKey     string        `name:"jwt-public-key" group:"Access" placeholder:"FILE" help:"Take tokens that are signed by the private half of this key: RSA, ECDSA or Ed25519, in PEM. The file may have several."`
	JWTJWKSURL       string        `name:"jwt-jwks-url" group:"Access" placeholder:"URL" help:"Take tokens that are signed by the keys that an identity provider publishes here. It needs an audience, since others' tokens are signed by the same keys."`
	JWTJWKSRefresh   time.Duration `name:"jwt-jwks-refresh" group:"Access" default:"15m" help:"How often these keys are fetched. A key that is not known yet is looked for at once, but not more than every 10 s."`
	JWTIssuer        string        `name:"jwt-issuer" group:"Access" placeholder:"ISSUER" help:"The iss that tokens must have. Default: any."`
	JWTAudience      string        `name:"jwt-audience" group:"Access" placeholder:"AUDIENCE" help:"The aud that tokens must have. Default: any, but for --jwt-jwks-url."`
	JWTLeeway        time.Duration `name:"jwt-leeway" group:"Access" default:"30s" help:"By how much the clocks of this server and of who signs tokens may differ."`
	JWTTenantClaim   string        `name:"jwt-tenant-claim" group:"Access" default:"tenant" help:"The claim that names the caller's tenant. Who has no such claim is in the tenant of keys that name none; require the claim where that must not be."`
	JWTRequiredClaim []string      `name:"jwt-required-claim" group:"Access" sep:"none" placeholder:"NAME[=VALUE]" help:"A claim that tokens must have, and its value. Repeatable."`
	JWTDefaultScopes []string      `name:"jwt-default-scopes" group:"Access" default:"analyze,read,cancel,providers" help:"What callers may do whose token has none of the claims scope, scp and scopes."`

	Transports     []string      `group:"Transports" default:"websocket,sse,long-poll" help:"Transports to offer to clients that negotiate, in this order: websocket, sse, long-poll."`
	Heartbeat      time.Duration `group:"Transports" default:"15s" help:"How long a connection may be idle before a heartbeat is sent."`
	WriteTimeout   time.Duration `group:"Transports" default:"30s" help:"How long one write to a client may take. A slower client is closed, and resumes from its cursor."`
	ProbeTimeout   time.Duration `group:"Transports" default:"3s" help:"How long clients wait for a transport's welcome before they try the next."`
	ReconnectDelay time.Duration `group:"Transports" default:"2s" help:"How long clients are told to wait before they reconnect, give or take half."`
	CoalesceWindow time.Duration `group:"Transports" default:"25ms" help:"Chunks of text that come within this time are merged into one event. 0 turns merging off."`
	MessageBytes   Bytes         `group:"Transports" default:"31KiB" help:"About how much one message to a client carries. Some WebSocket clients read no more than 32 KiB."`
	PollBytes      Bytes         `group:"Transports" default:"256KiB" help:"About how much the answer to one long-poll carries."`
	PollMaxWait    time.Duration `group:"Transports" default:"60s" help:"How long a long-poll may wait at most."`
	ResultMaxWait  time.Duration `group:"Transports" default:"10m" help:"How long POST /v1/analyses?wait= may wait at most."`
	MaxStreams     int           `group:"Transports" default:"64" help:"Streams that one connection may watch, at most 64."`
	MaxConnections int           `group:"Transports" default:"15000" help:"Clients that may be connected to this node."`

	FeedBytes          Bytes         `group:"Streams" default:"4MiB" help:"Memory for the events of one stream. Older ones are read from disk."`
	FeedsBytes         Bytes         `group:"Streams" default:"256MiB" help:"Memory for the events of all streams. Streams that have ended are dropped beyond it."`
	HistoryAge         time.Duration `group:"Streams" default:"168h" help:"How long stored events are kept."`
	HistoryBytes       Bytes         `group:"Streams" default:"4GiB" help:"Disk for all stored events. The oldest are dropped beyond it."`
	HistoryStreamBytes Bytes         `group:"Streams" default:"64MiB" help:"Disk for the stored events of one stream."`
	BatchInterval      time.Duration `group:"Streams" default:"250ms" help:"How long an event may wait until it is stored. A crash loses no more than this."`
	BatchBytes         Bytes         `group:"Streams" default:"16KiB" help:"Events are stored at once when they are this large together."`

	OrphanTimeout       time.Duration `group:"Analyses" default:"2m" help:"How long an analysis goes on while nobody watches it."`
	ConnectTimeout      time.Duration `group:"Analyses" default:"10s" help:"How long connecting to a provider may take."`
	HeaderTimeout       time.Duration `group:"Analyses" default:"60s" help:"How long a provider may take until its answer's headers."`
	FirstContentTimeout time.Duration `group:"Analyses" default:"2m" help:"How long a provider may take until the first piece of its answer."`
	IdleTimeout         time.Duration `group:"Analyses" default:"60s" help:"How long a provider may be silent within its answer."`
	TotalTimeout        time.Duration `group:"Analyses" default:"30m" help:"How long an analysis may take as a whole."`
	MaxCodeBytes        Bytes         `group:"Analyses" default:"1MiB" help:"Size of the code in one request."`
	MaxOutputBytes      Bytes         `group:"Analyses" default:"4MiB" help:"Size of one answer. A longer one is cancelled."`
	MaxAnalyses         int           `group:"Analyses" default:"256" help:"Analyses that may run at once."`

	AfterContent    string        `group:"Failover" default:"restart" enum:"restart,continue" help:"When an answer breaks off after a part of it was sent: restart replaces it with a new answer, continue has the next provider go on behind it."`
	HedgeAfter      time.Duration `group:"Failover" type:"or-off" default:"8s" help:"How long a provider may be silent before another one is asked, too; the first to answer is taken. off or 0 turns this off."`
	Degrade         bool          `group:"Failover" negatable:"" help:"Let the local analyser answer, marked as degraded, when no provider does and the request named none. Requests may say otherwise."`
	HealthInterval  time.Duration `group:"Failover" default:"1m" help:"How often providers are asked, by a call that costs nothing, whether they work and take the key. 0 for never."`
	CacheBytes      Bytes         `group:"Failover" default:"64MiB" help:"Memory for whole answers. When no provider can be reached, an equal request gets the earlier answer, marked as stale. 0 keeps none."`
	CacheAge        time.Duration `group:"Failover" default:"24h" help:"How long such an answer is good."`
	Recovery        []Recovery    `group:"Failover" placeholder:"CODE=STRATEGY" help:"What follows an error, instead of the default: retry, failover, queue, degrade or fail. Repeatable; a map in the file. The codes are timeout, connection_failed, service_unavailable, rate_limited, quota_exceeded, unauthorized, forbidden, invalid_request, invalid_response, stream_interrupted, content_filtered, context_too_long and internal."`
	MaxAttempts     int           `group:"Failover" default:"6" help:"Calls of providers that one analysis may make."`
	MaxRetries      int           `group:"Failover" default:"2" help:"How often one analysis may ask the same provider again after an error; once at most while there is another one to ask."`
	RetryBackoff    time.Duration `group:"Failover" default:"250ms" help:"Wait before the first retry. It doubles with each, give or take a fifth."`
	RetryBackoffMax time.Duration `group:"Failover" default:"10s" help:"Longest wait before a retry."`
	RetryBudget     float64       `group:"Failover" default:"0.2" help:"Retries of one provider, as a share of its calls, over all analyses; a few more are allowed after a quiet time."`
	RateLimitWait   time.Duration `group:"Failover" default:"15s" help:"Longest wait until the time that a provider names when it limits its callers. A longer one fails over."`
	MinRate         Bytes         `group:"Failover" default:"0" help:"Bytes per second that an answer must come with; a slower one counts as broken off. 0 sets no bound."`
	MinRateWindow   time.Duration `group:"Failover" default:"10s" help:"How long that is measured over."`

	BreakerFailures  int           `group:"Breakers" default:"5" help:"Failures within the window that open a provider's breaker, if they are at least half of its calls. No analysis waits for a provider whose breaker is open."`
	BreakerWindow    time.Duration `group:"Breakers" default:"30s" help:"How far back calls count."`
	BreakerSlowAfter time.Duration `group:"Breakers" default:"60s" help:"A first piece of an answer that comes later than this counts as a failure. 0 turns this off."`
	BreakerBackoff   string        `group:"Breakers" default:"exponential" enum:"linear,exponential,fibonacci" help:"How the time that a breaker stays open grows with each failed probe: linear, exponential or fibonacci."`
	BreakerBase      time.Duration `group:"Breakers" default:"1s" help:"How long it stays open the first time, give or take a fifth."`
	BreakerMax       time.Duration `group:"Breakers" default:"10s" help:"How long it stays open at most until the next probe."`
	BreakerProbes    int           `group:"Breakers" default:"1" help:"Calls at once that probe whether the provider is back."`

	ProviderConcurrency     int   `group:"Limits" default:"20" help:"Calls of one provider that may run at once."`
	ProviderQueue           int   `group:"Limits" default:"100" help:"Analyses that may wait for one of these to end. Further ones go to another provider, or are refused."`
	NetworkLimit            int   `group:"Limits" default:"50" help:"Calls over the network that may run at once, of all providers together."`
	CPULimit                int   `name:"cpu-limit" group:"Limits" default:"5" help:"Analyses that the local analyser may run at once."`
	MemoryLimit             int   `group:"Limits" default:"3" help:"Work at once that needs much memory."`
	TenantRequestsPerMinute int64 `group:"Limits" default:"0" help:"Calls of providers that each tenant may cause in a minute. 0 sets no limit."`
	TenantTokensPerMinute   int64 `group:"Limits" default:"0" help:"Tokens that each tenant may use in a minute. 0 sets no limit."`
	Limits                  `embed:""`

	MasterKey              Secret        `group:"Provider keys" placeholder:"KEY" help:"Key that seals the provider keys that are set while the server runs: 32 random bytes in base64 or hexadecimal. Several with commas between: the first seals, all open. Without it, and without the next two, no keys can be set. Prefer the variable or --master-key-file."`
	MasterKeyFile          string        `group:"Provider keys" placeholder:"FILE" help:"File of such keys, one a line; lines that begin with # are comments."`
	MasterKeyTransit       string        `group:"Provider keys" placeholder:"MOUNT/NAME" help:"Key of Vault's transit engine that seals instead, such as transit/athena. Keys of the two settings before still open."`
	VaultAddr              string        `group:"Provider keys" placeholder:"URL" help:"HashiCorp Vault, for keys of the configuration file that are kept there, and for --master-key-transit."`
	VaultToken             Secret        `group:"Provider keys" placeholder:"TOKEN" help:"Token for Vault. Prefer the variable or --vault-token-file."`
	VaultTokenFile         string        `group:"Provider keys" placeholder:"FILE" help:"File with the token, such as a Vault agent writes. It is read again for each login."`
	VaultRoleID            string        `name:"vault-role-id" group:"Provider keys" placeholder:"ID" help:"AppRole to log in to Vault with."`
	VaultSecretID          Secret        `name:"vault-secret-id" group:"Provider keys" placeholder:"ID" help:"The AppRole's secret id. Prefer the variable or --vault-secret-id-file."`
	VaultSecretIDFile      string        `name:"vault-secret-id-file" group:"Provider keys" placeholder:"FILE" help:"File with the secret id."`
	VaultKubernetesRole    string        `group:"Provider keys" placeholder:"ROLE" help:"Role to log in to Vault with by the pod's service account."`
	VaultAuthMount         string        `group:"Provider keys" placeholder:"PATH" help:"Where the login is mounted in Vault. Default: approle or kubernetes."`
	VaultNamespace         string        `group:"Provider keys" placeholder:"NAME" help:"Vault's namespace."`
	VaultCA                string        `name:"vault-ca" group:"Provider keys" placeholder:"FILE" help:"Certificate authority of Vault, in PEM, where it is not one of the system's."`
	VaultTimeout           time.Duration `group:"Provider keys" default:"5s" help:"How long one answer of Vault may take."`
	VaultInterval          time.Duration `group:"Provider keys" default:"30s" help:"How often keys are read from Vault again."`
	KeyFileInterval        time.Duration `group:"Provider keys" default:"1s" help:"How often the files of provider keys are looked at for changes."`
	AllowMetadataAddresses bool          `group:"Provider keys" help:"Let providers and Vault have link-local addresses, where clouds serve the credentials of their machines. Without it these are never connected to, whatever a name resolves to."`

	ReadHeaderTimeout time.Duration `group:"HTTP" default:"10s" help:"How long a client may take to send a request's headers."`
	BodyTimeout       time.Duration `group:"HTTP" default:"30s" help:"How long a client may take to send a request's body."`
	KeepAlive         time.Duration `group:"HTTP" default:"2m" help:"How long a connection without a request is kept open."`
	MaxHeaderBytes    Bytes         `group:"HTTP" default:"32KiB" help:"Size of a request's headers."`
	DrainTimeout      time.Duration `group:"HTTP" default:"30s" help:"How long running analyses and connections are given at shutdown."`

	Edge `embed:""`

	// Providers are the providers in use, best first. Not a flag: they come
	// from the file and from the vendors' variables.
	Providers []Provider `kong:"-"`
}

// MaxStreamsLimit bounds MaxStreams, since a cursor of more streams is longer
// than clients may send.
const MaxStreamsLimit = 64

// A Secret is text that must not be shown: it prints as "[redacted]".
type Secret string

const redacted = "[redacted]"

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }
