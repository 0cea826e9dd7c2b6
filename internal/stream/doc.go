// Package stream makes and finds the event logs of jobs. On the node that runs
// a job, a Writer numbers its events, encodes each once, and gives it to three
// places: the node's own feed, which is the authority while the job runs; the
// live subject, for feeds on other nodes; and, in batches, the stored log. On
// every node the package is the hub's Source: it follows a stream that runs
// elsewhere, and reads back what memory no longer holds.
//
// A node that begins to follow subscribes to the live subject first and asks
// for the past second, so that nothing falls in between, and merges both by
// seq. Whatever it missed, a hole shows: in the numbers, or by the head that
// the writer announces after each batch it stores, or by asking from time to
// time. A hole is filled by asking again, the owner first and then the log.
//
// # Whose a job is
//
// A record in the store says which node runs a job (record.go), and the log's
// positions who may append: of two that append at the same place one fails.
// Both together let a node take a job over from one that is gone, or is taken
// for gone, or has given it away (takeover.go), and let the other one notice
// (owner.go). The event that a takeover begins with covers whatever the old
// owner may have told and not stored (cover), so that every client, whatever it
// has seen, and through whichever node, finds the same stream behind that
// event. Those who follow the stream need not know who owns it, and bear that
// for a while nobody does, or two do (follow.go).
//
// Without the store streams begin, run and are seen on all nodes, from memory.
// What waits to be stored is, when the store is back.
//
// The package knows neither transports nor clients, nor what the events say
// beyond their type; and not which nodes there are and which is gone.
package stream
