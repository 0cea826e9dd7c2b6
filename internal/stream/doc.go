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
// the writer announces after each batch it stores. A hole is filled by asking
// again, the owner first and then the log.
//
// The package knows neither transports nor clients, nor what the events say
// beyond their type.
package stream
