// Package ratelimit says how much is too much: how much callers may take in a
// minute (Limiter), how much they may have at once (Places), and which addresses
// have failed to say who they are too often (Addresses).
//
// What a minute allows is a token bucket that holds a minute's worth and refills
// continuously. A Limiter keeps its buckets in the memory of this node, or, for
// all nodes together, in Redis: then one round trip takes from all the buckets
// that a request needs, or from none. A Redis that doesn't answer is noticed by
// the first request that waits for it, no longer than a deadline; the others
// don't ask it until it is back, and what holds meanwhile is configured.
//
// Whatever names and addresses come, memory is bounded: those that were not seen
// for longest are forgotten first. The package knows neither HTTP nor who the
// callers are.
package ratelimit
