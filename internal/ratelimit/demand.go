package ratelimit

import "time"

// A Kind is what a bucket measures, and for whom.
type Kind uint8

// The kinds. A credential is a key or a token of a caller's.
const (
	CredentialRequests Kind = iota
	TenantRequests
	CredentialBytes
	TenantBytes
	CredentialTokens
	TenantTokens
	TenantCalls
	CredentialConnections
	TenantConnections
	AddressConnections
	CredentialStreams
	TenantStreams
	kinds
)

// kindNames stand in headers, metrics and Redis's keys.
var kindNames = [kinds]string{"key", "tenant", "key-bytes", "tenant-bytes", "key-tokens", "tenant-tokens", "tenant-calls",
	"key-connections", "tenant-connections", "address-connections", "key-streams", "tenant-streams"}

// String is the kind's name, such as "tenant-bytes".
func (k Kind) String() string { return kindNames[k] }

// A Key names one bucket.
type Key struct {
	Kind Kind
	Name string
}

// A Demand is what somebody wants to take from one bucket.
type Demand struct {
	Key
	// PerMinute is the limit, and what a full bucket holds; more than 0.
	PerMinute int64
	// N is how much. More than PerMinute is given when the bucket is full, and
	// leaves it in debt; 0 only asks whether it is in debt; less gives back, in
	// Redis.
	N int64
	// Spent says that it has been used already: it is taken whatever is there, if
	// need be as a debt.
	Spent bool
}

// A Level is how one bucket is after a demand, or as it refused it.
type Level struct {
	// Left may be taken now; 0 also in debt.
	Left int64
	// Wait is the time until the bucket could give what was demanded, if nobody
	// else took anything; 0 where it could.
	Wait time.Duration
	// Full is the time until it holds a minute's worth again.
	Full time.Duration
}

// maxDebt bounds a bucket's debt, in minutes of its limit, as the accounts of
// tokens do: one absurd demand shuts nobody out for longer.
const maxDebt = 60
