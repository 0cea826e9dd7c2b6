package config

import "time"

// A Provider is one provider as the configuration gives it. What its entry
// leaves out has the value of the global setting or default.
type Provider struct {
	// Name is unique, and what requests call it.
	Name string
	// Dialect is one of Dialects.
	Dialect string
	// BaseURL is empty for the dialect's own.
	BaseURL string
	// APIKey is empty for servers that need none.
	APIKey Secret
	// Keys are further keys, which calls take turns with.
	Keys []ProviderKey
	// StoredKeys says that there can be keys beside those of the configuration:
	// those that are set while the server runs.
	StoredKeys bool
	// Headers are sent with each call. They may hold credentials.
	Headers map[string]Secret
	// Models are the models to offer, the default first; empty for the
	// dialect's own.
	Models []Model
	// Priority orders providers for "auto": lower numbers first.
	Priority int
	// Weight is the share among providers of the same priority; at least 1.
	Weight int

	// Protocol is how answers should come: "websocket", "sse" or "polling"; ""
	// for the best that works.
	Protocol string
	// Background has the vendor make answers in the background and store them,
	// so that one whose connection breaks can be read on.
	Background bool
	// Features override what the dialect says of itself.
	Features Features

	// RequestsPerMinute and TokensPerMinute are what may be asked of it; 0 for
	// no limit.
	RequestsPerMinute, TokensPerMinute int64
	// Concurrency is how many calls may run at once; Queue is how many analyses
	// may wait for one of them to end, none where it is 0.
	Concurrency, Queue int

	// HedgeAfter is how long it may be silent before another provider is asked
	// beside it; 0 for never.
	HedgeAfter time.Duration
	// ConnectTimeout bounds connecting, HeaderTimeout the time from the call to
	// the answer's headers, FirstContentTimeout that to its first piece, and
	// IdleTimeout silence within it.
	ConnectTimeout, HeaderTimeout, FirstContentTimeout, IdleTimeout time.Duration
	// MinRate is how many bytes of the answer must come per second; 0 for no
	// bound.
	MinRate Bytes
	// Connections are what is kept open to it.
	Connections Connections
}

// A Model is what is known of a model. Zero stands for what is not.
type Model struct {
	ID string
	// ContextTokens bounds the prompt and the answer together, MaxOutputTokens
	// the answer.
	ContextTokens, MaxOutputTokens int
	Price                          Price
}

// A Price is in US dollars per million tokens.
type Price struct {
	// CachedInput is that of input which the vendor had cached; 0 for Input.
	Input, Output, CachedInput float64
}

// Features are what a server can do; nil is what its dialect says.
type Features struct {
	Streaming, Batching, FunctionCalling, Prefill *bool
}

// Connections are the connections to one provider.
type Connections struct {
	// Max bounds those that are open at once.
	Max int
	// Idle bounds those that are kept open while nothing is asked.
	Idle int
	// IdleTimeout is how long they are kept.
	IdleTimeout time.Duration
	// HTTP2 says that HTTP/2 is spoken where the server does. Many calls share
	// one connection then.
	HTTP2 bool
}

// DefaultIdleTimeout is how long a connection to a provider is kept open while
// nothing is asked.
const DefaultIdleTimeout = time.Minute
